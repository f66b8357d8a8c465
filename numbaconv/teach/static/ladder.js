// Section 2: how fast each step is, and each step by itself.

const {
  part, number, percent, times, seconds, bytes, table, figures, chart, bars, series, lines, style, below, stepTabs, assembly,
} = teach;

/** What the threads of a step could do at most. */
const peakOf = ({peak_gflops: one, peak_gflops_all_threads: all}, step) => (step.threads > 1 ? all : one);
const threadsText = (count) => `${count} thread${count > 1 ? "s" : ""}`;

part("intro-figures", "ladder", (found) => {
  const [first, last] = [found.steps[0], found.steps.at(-1)];
  return figures([
    ["three plain loops", number(first.gflops), "GFLOP/s"],
    [`the last step, ${threadsText(last.threads)}`, number(last.gflops), "GFLOP/s"],
    ["faster by", times(last.gflops / first.gflops)],
    ["of the measured peak", percent(last.gflops / peakOf(found, last))],
  ]);
});

/** The peaks, as [GFLOP/s, name]. */
const peaksOf = ({peak_gflops: one, peak_gflops_all_threads: all, threads}) =>
  (threads > 1 ? [[one, "peak, 1 thread"], [all, `peak, ${threadsText(threads)}`]] : [[one, "peak"]])
    .map(([gflops, name]) => ({gflops, name: `${name}: ${number(gflops)}`}));

part("ladder-chart", "ladder", (found) => chart({
  title: `Speed of each step, ${found.m} × ${found.k} times ${found.k} × ${found.n}`,
  see: "Each bar is one idea more. The dashed lines are what the multiply-add units can do if nothing ever waits.",
  text: `${found.steps.map((step) => `${step.name} ${number(step.gflops)}`).join(", ")} GFLOP/s; ${peaksOf(found).map((peak) => peak.name).join("; ")}.`,
  draw: (width) => bars(found.steps, {
    width, x: "gflops", y: (step) => `${step.number} ${step.name}`, text: (step) => number(step.gflops),
    label: "GFLOP/s →", fill: "var(--accent)", domain: [0, d3.max([...peaksOf(found), ...found.steps], (one) => one.gflops) * 1.01],
    marks: [
      Plot.ruleX(peaksOf(found), {x: "gflops", stroke: "var(--s1)", strokeWidth: 2, strokeDasharray: "6 4"}),
      // Where there is little room the names stand one below the other.
      ...peaksOf(found).map((peak, i) => Plot.text([peak], {x: "gflops", text: "name", frameAnchor: "top", dx: 4, textAnchor: "end",
        dy: width < 500 && i ? -2 : -14, fill: "var(--s1)", fontWeight: 600, fontSize: width < 500 ? 11 : 13})),
    ],
  }),
  numbers: [["step", "threads", "rows of A", "time", "GFLOP/s", "of its threads’ peak", "faster than the step before"],
    found.steps.map((step, i) => [
      `${step.number} ${step.name}`, step.threads, step.rows ?? found.m, seconds(step.seconds), step.gflops,
      percent(step.gflops / peakOf(found, step)), i ? times(step.gflops / found.steps[i - 1].gflops) : "–",
    ])],
}));

part("ladder-curves", "ladder", (found) => {
  const {curves} = found;
  const rows = curves.flatMap(({name, sizes, gflops}) => sizes.map((x, i) => ({x, y: gflops[i], name})).filter(({y}) => y));
  const sizes = [...new Set(rows.map((row) => row.x))].sort(d3.ascending);
  return chart({
    title: "Speed against size, m = n = k",
    see: "Follow a line to the right: loops without tiles sink when the matrices leave a cache. The axis is logarithmic: ten times faster is one step up.",
    text: curves.map(({name, gflops}) => `${name}: ${gflops.map((g) => number(g)).join(", ")}`).join("; ") +
      ` GFLOP/s at sizes ${sizes.join(", ")}.`,
    draw: (width) => Plot.plot({
      width, height: Math.min(440, 240 + width / 4), style, marginLeft: 52, marginTop: 34, ...series(curves.map(({name}) => name)),
      ...below, x: {...below.x, type: "log", base: 2, label: "size →", ticks: sizes.length > 8 ? undefined : sizes, tickFormat: "d"},
      y: {type: "log", label: "↑ GFLOP/s", grid: true, tickFormat: (y) => number(y), ticks: 4, labelOffset: 44},
      marks: [Plot.ruleY(peaksOf(found), {y: "gflops", stroke: "var(--s1)", strokeWidth: 1.5, strokeDasharray: "6 4"}),
        Plot.text(peaksOf(found), {y: "gflops", text: "name", frameAnchor: "right", dy: -9, fill: "var(--s1)", fontWeight: 600}),
        ...lines(rows)],
    }),
    numbers: [["size", ...curves.map(({name}) => name)], sizes.map((size) => [
      String(size), ...curves.map(({sizes: at, gflops}) => gflops[at.indexOf(size)]),
    ])],
  });
});

/** What the model of the caches counted for a step, if it was asked. */
function traffic(name) {
  const rows = teach.data.sections.accesses?.traffic?.filter((row) => row.step === name) ?? [];
  return rows.map(({m, n, k, accesses, levels}) => table(
    `Where ${number(accesses)} accesses were answered, by the model, for ${m} × ${k} times ${k} × ${n}`,
    ["level", "hits", "misses", "bytes fetched", "bytes a multiply-add"],
    levels.map((level) => [level.name, level.hits, level.misses, bytes(level.bytes), number(level.bytes / (m * n * k))]),
  ));
}

part("ladder-steps", "ladder", (found) => stepTabs("cpu", "Steps of the ladder", found.steps, (step, i) => figures([
  ["speed", number(step.gflops), "GFLOP/s"],
  [`of the peak of ${threadsText(step.threads)}`, percent(step.gflops / peakOf(found, step))],
  i ? ["against the step before", times(step.gflops / found.steps[i - 1].gflops)] : null,
  step.loads_per_fma == null ? null : ["loads for a multiply-add", number(step.loads_per_fma)],
].filter(Boolean)), (step) => [traffic(step.name), step.assembly ? assembly(step) : null]));
