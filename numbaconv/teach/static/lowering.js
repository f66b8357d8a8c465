// Section 8: what each lowering takes in memory for a layer chosen by sliders. The numbers are a table of `explain`'s.

const {part, el, slider, bytes, number, times, herald} = teach;

part("lowering", "convolution", ({memory: {axes, lowerings, bytes: found}}) => {
  const names = Object.keys(axes);
  const middle = {kernel: 3, stride: 1};
  const chosen = Object.fromEntries(names.map((name) => [name, axes[name].includes(middle[name]) ? middle[name] : axes[name][Math.floor(axes[name].length / 2)]]));
  const ears = herald();
  const said = el("p", {class: "status"});
  const rows = lowerings.map((name) => {
    const cell = el("td", {"data-lowering": name});
    const against = el("td");
    const bar = el("div", {style: "height: .8rem; background: var(--accent); border-radius: 2px"});
    return {name, cell, against, bar, node: el("tr", {}, el("th", {scope: "row"}, el("code", {}, name)), cell, against,
      el("td", {style: "width: 40%; min-width: 6rem", "aria-hidden": "true"}, bar))};
  });

  function update() {
    const {kernel, stride, channels, size} = chosen;
    const counts = found[kernel][stride][channels][size];
    const image = 4 * channels * size * size;
    const most = Math.max(1, ...lowerings.map((name) => counts[name] ?? 0));
    for (const {name, cell, against, bar} of rows) {
      const count = counts[name];
      cell.textContent = count == null ? "refused" : bytes(count);
      cell.dataset.bytes = count ?? "";
      cell.title = count == null ? "" : `${number(count)} bytes`;
      against.textContent = count == null ? "–" : times(count / image);
      bar.style.width = `${100 * (count ?? 0) / most}%`;
    }
    said.textContent = `${channels} channels in and out, ${size} × ${size} pixels, kernel ${kernel} × ${kernel}, stride ${stride}; the image itself has ${bytes(image)}.`;
    const least = lowerings.filter((name) => counts[name] === 0);
    ears.say(`${said.textContent} im2col ${bytes(counts.im2col)}. Nothing is needed by ${least.join(", ") || "none"}.`);
  }
  const labels = {kernel: "Kernel:", stride: "Stride:", channels: "Channels:", size: "Size:"};
  const sliders = names.map((name) => {
    const control = slider(labels[name] ?? name, axes[name], chosen[name], (value) => { chosen[name] = value; update(); },
      (value) => (name === "kernel" || name === "size" ? `${value} × ${value}` : String(value)));
    control.input.dataset.axis = name;
    return control;
  });
  update();
  return el("figure", {},
    el("figcaption", {}, el("strong", {}, "Scratch memory of the lowered image"),
      el("span", {}, "Make the kernel larger and watch im2col grow with its area; then raise the stride.")),
    el("div", {class: "controls"}, sliders), said, ears.node,
    el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Memory of each lowering"},
      el("table", {style: "width: 100%", id: "lowering-table"},
        el("caption", {}, "Bytes beyond input, weights and output"),
        el("thead", {}, el("tr", {}, ["lowering", "memory", "of the image", ""].map((title) => (title ? el("th", {scope: "col"}, title) : el("td"))))),
        el("tbody", {}, rows.map(({node}) => node)))));
});
