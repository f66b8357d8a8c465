// Section 8: what each lowering takes in memory for a layer chosen by sliders. The numbers are a table of `explain`'s.

const {part, el, slider, scroller, bytes, number, times, herald} = teach;

const LABELS = {kernel: "Kernel:", stride: "Stride:", channels: "Channels:", size: "Size:"};
const START = {kernel: 3, stride: 1, channels: 64, size: 56};

part("lowering", "convolution", ({memory: {axes, lowerings, bytes: found, refusals}}) => {
  const names = Object.keys(LABELS);
  const chosen = Object.fromEntries(names.map((name) =>
    [name, axes[name].includes(START[name]) ? START[name] : axes[name][Math.floor(axes[name].length / 2)]]));
  const ears = herald();
  const said = el("p", {class: "status"});
  const rows = lowerings.map((name) => {
    const memory = el("td", {"data-lowering": name});
    const against = el("td");
    const bar = el("div", {class: "bar"});
    return {name, memory, against, bar, node: el("tr", {}, el("th", {scope: "row"}, el("code", {}, name)), memory, against,
      el("td", {class: "bar-cell", "aria-hidden": "true"}, bar))};
  });
  const body = el("tbody");

  function update() {
    const at = names.map((name) => axes[name].indexOf(chosen[name]));
    const counts = at.reduce((part, place) => part[place], found);
    const reasons = refusals?.[at[0]][at[1]];
    const image = 4 * chosen.channels * chosen.size ** 2;
    const most = Math.max(1, d3.max(counts));
    rows.forEach(({memory, against, bar}, i) => {
      const refused = counts[i] == null;
      memory.textContent = refused ? "refused" : bytes(counts[i]);
      memory.dataset.bytes = counts[i] ?? "";
      against.textContent = refused ? "–" : times(counts[i] / image);
      bar.style.width = refused ? 0 : `${100 * counts[i] / most}%`;
      bar.parentElement.title = refused ? reasons?.[i] ?? "" : `${number(counts[i])} bytes`;
    });
    const order = d3.sort(rows.keys(), (i) => counts[i] ?? Infinity);
    body.replaceChildren(...order.map((i) => rows[i].node));
    const {kernel, stride, channels, size} = chosen;
    said.textContent = `${channels} channels in and out, ${size} × ${size} pixels, kernel ${kernel} × ${kernel}, padding ` +
      `${Math.floor(kernel / 2)}, stride ${stride}. The image itself has ${bytes(image)}.`;
    const none = counts.filter((count) => count === 0).length;
    ears.say(`${said.textContent} im2col takes ${bytes(counts[lowerings.indexOf("im2col")])}; ${none} lowerings take nothing.`);
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
