// Section 8: what each lowering takes in memory for a layer chosen by sliders. The numbers are a table of `explain`'s.

const {part, el, slider, scroller, bytes, number, times, herald} = teach;

const LABELS = {kernel: "Kernel:", stride: "Stride:", channels: "Channels:", size: "Size:"};
const START = {kernel: 3, stride: 1, channels: 64, size: 56};

part("lowering", "convolution", ({memory: {axes, lowerings, bytes: found, refusals, reasons}}) => {
  const names = Object.keys(LABELS);
  const chosen = Object.fromEntries(names.map((name) =>
    [name, axes[name].includes(START[name]) ? START[name] : axes[name][Math.floor(axes[name].length / 2)]]));
  const ears = herald();
  const said = el("p", {class: "status"});
  const rows = lowerings.map((name) => {
    const memory = el("td", {"data-lowering": name});
    const against = el("td");
    const bar = el("td", {class: "bar-cell"});
    return {name, memory, against, bar, node: el("tr", {}, el("th", {scope: "row"}, el("code", {}, name)), memory, against, bar)};
  });
  const body = el("tbody");

  function update() {
    const {kernel, stride, channels, size} = chosen;
    const at = (table) => table?.[kernel][stride][channels][size];
    const counts = at(found);
    const image = 4 * channels * size ** 2;
    const most = Math.max(1, ...lowerings.map((name) => counts[name] ?? 0));
    for (const {name, memory, against, bar} of rows) {
      const count = counts[name];
      memory.textContent = count == null ? "refused" : bytes(count);
      memory.dataset.bytes = count ?? "";
      memory.title = count == null ? "" : `${number(count)} bytes`;
      against.textContent = count == null ? "–" : times(count / image);
      bar.replaceChildren(count == null ? reasons?.[at(refusals)?.[name]] ?? ""
        : el("div", {class: "bar", style: `width: ${100 * count / most}%`}));
    }
    body.replaceChildren(...d3.sort(rows, (row) => counts[row.name] ?? Infinity).map(({node}) => node));
    said.textContent = `${channels} channels in and out, ${size} × ${size} pixels, kernel ${kernel} × ${kernel}, padding ` +
      `${Math.floor(kernel / 2)}, stride ${stride}. The image itself has ${bytes(image)}.`;
    const none = lowerings.filter((name) => counts[name] === 0).length;
    ears.say(`${said.textContent} im2col takes ${bytes(counts.im2col)}; ${none} lowerings take nothing.`);
  }
  const sliders = names.map((name) => {
    const square = name === "kernel" || name === "size";
    const control = slider(LABELS[name], axes[name], chosen[name], (value) => { chosen[name] = value; update(); },
      (value) => (square ? `${value} × ${value}` : String(value)));
    control.input.dataset.axis = name;
    return control;
  });
  update();
  return el("figure", {},
    el("figcaption", {}, el("strong", {}, "Memory for what is lowered"),
      el("span", {}, "Make the kernel larger and watch im2col grow with its area; then raise the stride.")),
    el("div", {class: "controls"}, sliders), said, ears.node,
    scroller("Memory of each lowering", el("table", {class: "full"},
      el("caption", {}, "Bytes beyond input, weights and output, the least first"),
      el("thead", {}, el("tr", {}, ["lowering", "memory", "of the image"].map((title) => el("th", {scope: "col"}, title)),
        el("td", {class: "bar-cell"}))),
      body)));
});
