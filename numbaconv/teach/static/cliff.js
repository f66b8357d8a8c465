// Section 4: what happens when rows are a power of two apart.

const {part, el, number, times, chart, series, lines, style, below} = teach;

const power = (x) => Number.isInteger(Math.log2(x));

/** A step's value at each power of two, as a multiple of the median of all others nearby. */
function against(step, values) {
  return step.leading.flatMap((x, i) => {
    if (!power(x)) return [];
    const near = d3.median(step.leading.flatMap((y, j) => (!power(y) && Math.abs(y - x) < x / 4 ? [values[j]] : [])));
    return near > 0 ? [`${times(values[i] / near)} at ${x}`] : [];
  });
}

part("cliff-charts", "accesses", ({cliff: {steps}}) => {
  const leading = [...new Set(steps.flatMap((step) => step.leading))].sort(d3.ascending);
  const powers = leading.filter(power);
  const drawing = (key, title, see, label) => {
    const rows = steps.flatMap((step) => step.leading.map((x, i) => ({x, y: step[key][i], name: step.name})).filter(({y}) => y > 0));
    if (!rows.length) return null;
    const found = steps.map((step) => `${step.name} ${against(step, step[key]).join(", ")}`).join("; ");
    return chart({
      title, see: `${see} Against the sizes around: ${found}.`,
      text: steps.map((step) => `${step.name}: ${step.leading.map((x, i) => `${x}: ${number(step[key][i])}`).join(", ")}`).join("; "),
      draw: (width) => Plot.plot({
        width, height: 340, style, marginLeft: 54, marginTop: 34, ...series(steps.map(({name}) => name)), ...below,
        x: {...below.x, label: "numbers from one row of B to the next →", tickFormat: "d", ticks: powers, type: "point", domain: leading},
        y: {label, labelOffset: 48, grid: true, type: "log", tickFormat: (y) => number(y, 2), ticks: 5},
        marks: [
          Plot.ruleX(powers, {stroke: "var(--soft)", strokeDasharray: "3 4"}),
          Plot.text(powers, {x: (x) => x, text: () => "2ⁿ", frameAnchor: "top", dy: -8, fill: "var(--soft)"}),
          ...lines(rows),
        ],
      }),
      numbers: [["step", ...leading.map(String)], steps.map((step) => [step.name, ...leading.map((x) => step[key][step.leading.indexOf(x)])])],
    });
  };
  return el("div", {class: "columns two"},
    drawing("gflops", "Speed", "Who falls where the dashed lines are?", "↑ GFLOP/s"),
    drawing("misses_per_mac", "Misses of the first-level cache, by the model", "The same places, seen by the model of the cache.", "↑ misses for each multiply-add"));
});
