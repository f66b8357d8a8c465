// Section 7: the CUDA ladder: what a warp asks for together, and what that costs.

const {part, el, number, chart, bars, slider, scroller, stepTabs, figures} = teach;

part("device-chart", "device", ({m, n, k, steps}) => chart({
  title: `Bytes of global memory for each multiply-add, ${m} × ${k} times ${k} × ${n}`,
  see: "Each step asks memory for less; the arithmetic is the same in all of them.",
  text: steps.map((step) => `${step.name}: ${number(step.bytes_per_mac)}`).join(", "),
  draw: (width) => bars(steps, {
    width, x: "bytes_per_mac", y: (step) => `${step.number} ${step.name}`, text: (step) => number(step.bytes_per_mac),
    label: "bytes →", fill: "var(--s4)",
  }),
  numbers: [["step", "bytes for a multiply-add", "loads from global memory", "loads from shared memory", "transactions"], steps.map((step) => [
    `${step.number} ${step.name}`, step.bytes_per_mac, step.global_loads, step.shared_loads, step.transactions])],
}));

const SIDE = 15;

/** The matrices, with the number of the lane that reads each element at one load of the warp. */
function picture({matrices, warp}, name) {
  const loads = [...new Set(warp.map((access) => access[4]))].sort(d3.ascending);
  const said = el("p", {class: "status", role: "status"});
  const boxes = matrices.map(({rows, columns}, matrix) => {
    const svg = el("svg:svg", {class: "matrix", viewBox: `-1 -20 ${columns * SIDE + 2} ${rows * SIDE + 22}`, width: columns * SIDE + 2, style: "max-width: none; margin: 0", "aria-hidden": "true"},
      el("svg:text", {class: "title", x: 0, y: -6}, matrices[matrix].name));
    const cells = d3.range(rows * columns).map((at) => {
      const [x, y] = [(at % columns) * SIDE, Math.floor(at / columns) * SIDE];
      const box = el("svg:rect", {x, y, width: SIDE, height: SIDE});
      const word = el("svg:text", {x: x + SIDE / 2, y: y + SIDE / 2, style: "font-size: 9px", class: "lit"});
      svg.append(box, word);
      return {box, word};
    });
    return {svg, cells, columns};
  });
  const show = (load) => {
    for (const {cells} of boxes) for (const {box, word} of cells) { box.removeAttribute("class"); word.textContent = ""; }
    const now = warp.filter((access) => access[4] === load);
    for (const [matrix, row, column, lane] of now) {
      const cell = boxes[matrix].cells[row * boxes[matrix].columns + column];
      if (!cell) continue;
      cell.box.setAttribute("class", "lit");
      cell.word.textContent = cell.word.textContent ? "∗" : lane;
    }
    const touched = d3.groups(now, (access) => access[0]).map(([matrix, all]) => {
      const rows = new Set(all.map((access) => access[1])).size;
      const elements = new Set(all.map((access) => `${access[1]},${access[2]}`)).size;
      return `${elements} element${elements > 1 ? "s" : ""} of ${matrices[matrix].name} in ${rows} row${rows > 1 ? "s" : ""}`;
    });
    const lanes = new Set(now.map((access) => access[3])).size;
    said.textContent = `Load ${load}: ${lanes} lanes ask for ${touched.join(" and ")}.`;
  };
  show(loads[0]);
  return el("figure", {},
    el("figcaption", {}, el("strong", {}, "What one warp loads together"),
      el("span", {}, "The numbers are lanes; ∗ is an element that several lanes ask for. Side by side is cheap, one below the other is dear.")),
    loads.length > 1 && el("div", {class: "controls"}, slider("Load:", loads, loads[0], show)), said,
    scroller(`Loads of a warp, ${name}`, el("div", {class: "side-by-side"}, boxes.map(({svg}) => svg))));
}

part("device-steps", "device", ({steps}) => stepTabs("cuda", "Steps of the CUDA ladder", steps, (step) => [
  figures([
    ["global memory", number(step.bytes_per_mac), "bytes for a multiply-add"],
    ["transactions", number(step.transactions)],
    ["loads from shared memory", number(step.shared_loads)],
  ]),
  step.picture && picture(step.picture, step.name),
]));
