// Section 8: the founding example, the ladder of convolutions, and Fourier transforms against GEMM.

const {part, el, number, seconds, bytes, times, chart, series, lines, style, stepTabs, figures} = teach;

part("blog", "convolution", ({blog}) => {
  const {m = 256, k = 1152, n = 192} = blog;
  const macs = m * k * n;
  return [
    el("p", {}, `Warden’s article has a product of ${m} rows and ${number(k)} columns with ${number(k)} rows and ${n} columns. `,
      `Where does such a thing come from? A kernel of 3 × 3 over ${k / 9} channels has 3 · 3 · ${k / 9} = ${number(k)} weights: `,
      `that is the length of each column. ${n} kernels give ${n} results for each of ${m} places of the window, say ${Math.sqrt(m)} × ${Math.sqrt(m)}.`),
    el("div", {class: "formula", tabindex: "0", role: "region", "aria-label": "The product in numbers"},
      el("p", {}, `${m} · ${number(k)} · ${n} = ${number(macs)} multiply-adds, about ${number(macs / 1e6, 2)} million`),
      el("p", {}, `2 · ${number(macs)} = ${number(2 * macs)} FLOP`),
      el("p", {}, `4 · (${m}·${number(k)} + ${number(k)}·${n} + ${m}·${n}) = ${number(4 * (m * k + k * n + m * n))} bytes, each touched once`),
      el("p", {}, `${number(2 * macs)} / ${number(4 * (m * k + k * n + m * n))} = ${number(2 * macs / (4 * (m * k + k * n + m * n)))} FLOP for each byte`)),
    blog.seconds == null ? null : figures([
      ["on this machine", seconds(blog.seconds)],
      ["speed", number(blog.gflops ?? 2 * macs / blog.seconds / 1e9), "GFLOP/s"],
      ["such products in a second", number(Math.floor(1 / blog.seconds))],
    ]),
  ];
});

part("conv-ladder", "convolution", ({ladder}) => {
  const label = (step) => `${step.number} ${step.name}`;
  return chart({
    title: `One layer, step by step${ladder[0].descriptor ? `: ${ladder[0].descriptor}` : ""}`,
    see: "Speed counts the multiply-adds of the plain loops for everybody; an algorithm that needs fewer seems faster than it multiplies.",
    text: ladder.map((step) => `${step.name}: ${number(step.gflops)} GFLOP/s with ${bytes(step.lowering_bytes)}`).join("; "),
    draw: (width) => Plot.plot({
      width, style, height: 44 * ladder.length + 50, marginLeft: width < 500 ? 96 : 120, marginRight: 120,
      x: {label: "GFLOP/s →", grid: true, ticks: 5}, y: {label: null, domain: ladder.map(label)},
      marks: [
        Plot.barX(ladder, {x: "gflops", y: label, fill: "var(--s7)", insetTop: 4, insetBottom: 4}),
        Plot.text(ladder, {x: "gflops", y: label, text: (step) => `${number(step.gflops)}  (+${bytes(step.lowering_bytes)})`, textAnchor: "start", dx: 6, fill: "var(--ink)", fontWeight: 600, stroke: "var(--paper)", strokeWidth: 4}),
        Plot.ruleX([0]),
      ],
    }),
    numbers: [["step", "time", "GFLOP/s", "lowered"], ladder.map((step) => [label(step), seconds(step.seconds), step.gflops, bytes(step.lowering_bytes)])],
  });
});

part("conv-steps", "convolution", ({ladder}) => stepTabs("conv", "Steps of the convolution ladder", ladder, (step, i) => figures([
  ["time", seconds(step.seconds)],
  ["speed", number(step.gflops), "GFLOP/s"],
  i ? ["against the step before", times(ladder[i - 1].seconds / step.seconds)] : null,
  ["lowered", bytes(step.lowering_bytes)],
].filter(Boolean))));

part("fourier", "convolution", ({fourier: {kernels, strides, cells}}) => {
  const name = (stride) => `stride ${stride}`;
  const rows = cells.filter((cell) => cell.fft_seconds && cell.gemm_seconds)
    .map((cell) => ({x: cell.kernel, y: cell.gemm_seconds / cell.fft_seconds, name: name(cell.stride)}));
  const wins = rows.filter(({y}) => y > 1);
  return chart({
    title: "How many times faster the Fourier transform is",
    see: "Above the line at 1 the transform wins: from a certain kernel size on, with stride 1. A stride of 2 takes most of that away.",
    text: rows.map(({x, y, name: which}) => `kernel ${x}, ${which}: ${number(y, 2)}`).join("; ") +
      (wins.length ? `. It wins ${wins.length} of ${rows.length} times.` : ". It never wins here."),
    draw: (width) => Plot.plot({
      width, height: 320, style, marginLeft: 48, ...series(strides.map(name)),
      x: {label: "kernel size →", ticks: kernels, tickFormat: "d"},
      y: {type: "log", label: "↑ time of the product / time of the transform", grid: true, tickFormat: (y) => number(y, 2), ticks: 5},
      marks: [Plot.ruleY([1], {stroke: "var(--ink)", strokeWidth: 1.5}), ...lines(rows)],
    }),
    numbers: [["kernel", "stride", "matrix product", "Fourier transform"], cells.map((cell) => [
      String(cell.kernel), String(cell.stride), seconds(cell.gemm_seconds), cell.fft_seconds == null ? "refused" : seconds(cell.fft_seconds)])],
  });
});
