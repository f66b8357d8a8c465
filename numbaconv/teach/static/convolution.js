// Section 8: the founding example, strides, the ladder of convolutions, and Fourier transforms against GEMM.

const {part, el, number, seconds, bytes, times, table, details, chart, bars, series, lines, style, below, stepTabs, figures} = teach;

part("blog", "convolution", ({blog: {m, k, n, macs, steps, measured}}) => [
  el("p", {}, `A layer of the size that Warden’s article multiplies: ${m} × ${number(k)} times ${number(k)} × ${n}.`),
  figures([
    ["multiply-adds", `${number(macs / 1e6, 2)} million`],
    ...measured.slice(0, 1).flatMap((ours) => [
      ["on this machine", seconds(ours.seconds)],
      ["speed", number(ours.gflops), "GFLOP/s"],
      ["such products in a second", number(Math.floor(1 / ours.seconds))],
    ]),
  ]),
  el("ol", {class: "worked"}, steps.map(({title, text}) => el("li", {}, el("strong", {}, `${title}. `), text))),
]);

part("stride", "convolution", ({stride: {rule, small, layer}}) => {
  const rows = ({rows: found}) => found.map((row) => [
    String(row.stride), row.worked, `${row.oh} × ${row.ow}`, bytes(row.im2col_bytes), times(row.copies), row.columns_shared]);
  const titles = ["stride", "places along one side", "result", "im2col writes", "each pixel, on average", "columns shared by neighbours"];
  return [
    el("div", {class: "formula"}, el("p", {}, rule)),
    table(small.title, titles, rows(small)),
    details(`The same for ${layer.title}`, table(layer.title, titles, rows(layer))),
  ];
});

// ----------------------------------------------------------------------------------------------------- the ladder

const label = (step) => `${step.number} ${step.name}`;

const ladderChart = (steps) => chart({
  title: `${steps[0].layer}, one thread`,
  see: "Speed counts the multiply-adds of the plain loops for everybody: what needs fewer seems faster than it multiplies. " +
    "In brackets: memory for what is lowered.",
  text: steps.map((step) => `${step.name}: ${number(step.gflops)} GFLOP/s with ${bytes(step.lowering_bytes)}`).join("; "),
  draw: (width) => bars(steps, {width, x: "gflops", y: label, label: "GFLOP/s →", fill: "var(--s7)",
    text: (step) => (width < 500 ? number(step.gflops) : `${number(step.gflops)}  (${bytes(step.lowering_bytes)})`)}),
  numbers: [["step", "time", "GFLOP/s", "lowered", "grew into", "its GFLOP/s", "lowered there"], steps.map((step) => [
    label(step), seconds(step.seconds), step.gflops, bytes(step.lowering_bytes),
    step.production?.name, step.production?.gflops, bytes(step.production?.lowering_bytes)])],
});

part("conv-ladder", "convolution", ({ladder}) => {
  const others = d3.range(ladder[0].others?.length ?? 0).map((i) => ladder.map((step) => ({...step, ...step.others[i]})));
  return el("div", {class: others.length ? "columns two" : ""}, [ladder, ...others].map(ladderChart));
});

part("conv-steps", "convolution", ({ladder}) => stepTabs("conv", "Steps of the convolution ladder", ladder, (step, i) => figures([
  ["time", seconds(step.seconds)],
  ["speed", number(step.gflops), "GFLOP/s"],
  i ? ["against the step before", times(ladder[i - 1].seconds / step.seconds)] : null,
  ["lowered", bytes(step.lowering_bytes)],
  [`in the library: ${step.production.name}`, number(step.production.gflops), "GFLOP/s"],
].filter(Boolean))));

// -------------------------------------------------------------------------------------------------------- Fourier

part("fourier", "convolution", ({fourier: {kernels, strides, cells, layer}}) => {
  const name = (stride) => `stride ${stride}`;
  const rows = cells.filter((cell) => cell.fft_seconds && cell.gemm_seconds)
    .map((cell) => ({x: cell.kernel, y: cell.gemm_seconds / cell.fft_seconds, name: name(cell.stride)}));
  const wins = rows.filter(({y}) => y > 1);
  return chart({
    title: `How many times faster the Fourier transform is${layer ? `: ${layer}` : ""}`,
    see: "Above the line at 1 the transform wins. Follow one stride to the right: the product grows with the kernel’s area, the transform does not.",
    text: `${rows.map(({x, y, name: which}) => `kernel ${x}, ${which}: ${number(y, 2)}`).join("; ")}. ` +
      `The transform wins ${wins.length} of ${cells.length} times.`,
    draw: (width) => Plot.plot({
      width, height: 340, style, marginLeft: 52, marginTop: 34, ...series(strides.map(name)), ...below,
      x: {...below.x, label: "kernel size →", ticks: kernels, tickFormat: "d"},
      y: {type: "log", label: "↑ time of the product / time of the transform", labelOffset: 46, grid: true, tickFormat: (y) => number(y, 2), ticks: 5},
      marks: [Plot.ruleY([1], {stroke: "var(--ink)", strokeWidth: 1.5}), ...lines(rows)],
    }),
    numbers: [["kernel", "stride", "multiply-add", "its time", "transform", "its time"], cells.map((cell) => [
      String(cell.kernel), String(cell.stride), cell.gemm, seconds(cell.gemm_seconds),
      cell.fft_seconds == null ? "refused" : cell.fft, cell.fft_seconds == null ? cell.reason : seconds(cell.fft_seconds)])],
    words: [0, 1, 2, 4, 5],
  });
});
