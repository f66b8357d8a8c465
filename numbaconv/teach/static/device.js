// Section 7: the CUDA ladder: what a warp asks for together, and what that costs.

const {part, el, number, chart, bars, slider, scroller, stepTabs, figures} = teach;

const label = (step) => `${step.number} ${step.name}`;
const notice = (reason) => el("p", {class: "notice"}, el("strong", {}, "Not measured here: "), reason);

part("device-chart", "device", ({m, n, k, steps, reason}) => (reason ? notice(reason) : chart({
  title: `Bytes of global memory for each multiply-add, ${m} × ${k} times ${k} × ${n}`,
  see: "Each step asks memory for less; the multiply-adds are the same in all of them.",
  text: steps.map((step) => `${step.name}: ${number(step.bytes_per_mac)}`).join(", "),
  draw: (width) => bars(steps, {width, x: "bytes_per_mac", y: label, text: (step) => number(step.bytes_per_mac),
    label: "bytes →", fill: "var(--s4)"}),
  numbers: [["step, its first block", "multiply-adds", "loads from global memory", "32-byte sectors they take", "bytes a multiply-add", "loads from shared memory"],
    steps.map((step) => [label(step), step.macs, step.global_loads, step.transactions, step.bytes_per_mac, step.shared_loads])],
})));

const LARGE = 16;

/** A matrix with the lanes that touch its elements; large ones have no room for the lanes' numbers. */
function sheet({name, rows, columns}) {
  const side = Math.max(rows, columns) <= 32 ? LARGE : 5;
  const svg = el("svg:svg", {class: "matrix", viewBox: `-1 -20 ${columns * side + 2} ${rows * side + 22}`, width: columns * side + 2, "aria-hidden": "true"});
  const grid = [
    ...d3.range(rows + 1).map((i) => `M0 ${i * side}H${columns * side}`),
    ...d3.range(columns + 1).map((j) => `M${j * side} 0V${rows * side}`),
  ].join("");
  const touched = el("svg:g");
  svg.append(el("svg:text", {class: "title", x: 0, y: -6}, `${name}, ${rows} × ${columns}`),
    el("svg:rect", {width: columns * side, height: rows * side}), el("svg:path", {class: "grid", d: grid}), touched);
  return {svg, show(accesses) {
    const lanes = d3.rollup(accesses, (all) => all.map((access) => access[3]), (access) => access[1] * columns + access[2]);
    touched.replaceChildren(...Array.from(lanes, ([at, all]) => {
      const [x, y] = [(at % columns) * side, Math.floor(at / columns) * side];
      const box = el("svg:rect", {class: "lit", x, y, width: side, height: side});
      if (side < LARGE) return [box];
      return [box, el("svg:text", {class: "lit", x: x + side / 2, y: y + side / 2}, all.length > 1 ? "∗" : all[0])];
    }).flat());
  }};
}

/** "row 0, columns 4 to 7" of one lane. */
function where(accesses) {
  const [rows, columns] = [1, 2].map((i) => d3.extent(accesses, (access) => access[i]));
  const span = (word, [from, to]) => (from === to ? `${word} ${from}` : `${word}s ${from} to ${to}`);
  return `${span("row", rows)}, ${span("column", columns)}`;
}

/** What one warp touches together, access after access. */
function picture({matrices, warp}, name) {
  const accesses = d3.groups(warp, (access) => access[4]).map(([, all]) => all);
  const sheets = matrices.map(sheet);
  const said = el("p", {class: "status", role: "status"});
  const show = (number) => {
    const now = accesses[number];
    sheets.forEach((one, matrix) => one.show(now.filter((access) => access[0] === matrix)));
    const {name: which} = matrices[now[0][0]];
    const lanes = d3.groups(now, (access) => access[3]).sort((a, b) => a[0] - b[0]);
    const elements = new Set(now.map((access) => `${access[1]},${access[2]}`)).size;
    const rows = new Set(now.map((access) => access[1])).size;
    said.textContent = `The warp ${which === "C" ? "writes" : "reads"} ${elements} element${elements > 1 ? "s" : ""} of ${which} ` +
      `in ${rows} row${rows > 1 ? "s" : ""}. ` +
      [...new Set([lanes[0], lanes[1], lanes.at(-1)])].filter(Boolean).map(([lane, own]) => `Lane ${lane}: ${where(own)}`).join("; ") + ".";
  };
  show(0);
  return el("figure", {},
    el("figcaption", {}, el("strong", {}, "What the first warp touches together"),
      el("span", {}, "Numbers are lanes; ∗ is an element that several lanes ask for. Side by side is cheap, one below the other is dear.")),
    accesses.length > 1 && el("div", {class: "controls"},
      slider("Access:", d3.range(accesses.length), 0, show, (number) => `${number + 1} of ${accesses.length}`)),
    said, scroller(`Accesses of a warp, ${name}`, el("div", {class: "side-by-side"}, sheets.map(({svg}) => svg))));
}

part("device-steps", "device", ({steps}) => stepTabs("cuda", "Steps of the CUDA ladder", steps, (step) => (step.picture ? [
  figures([
    ["global memory", number(step.bytes_per_mac), "bytes for a multiply-add"],
    ["loads from shared memory", number(step.shared_loads / step.macs), "for a multiply-add"],
  ]),
  step.sectors && el("p", {}, "Sectors of 32 bytes that the first warp’s first access takes: ",
    Object.entries(step.sectors).map(([name, count]) => `of ${name.toUpperCase()} ${count}`).join(", "),
    ". Four sectors hold 32 numbers that lie side by side."),
  picture(step.picture, step.name),
] : [])));
