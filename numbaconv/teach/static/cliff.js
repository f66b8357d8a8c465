// Section 4: what happens when rows are a power of two apart.

const {part, el, number, chart, series, lines, style, below} = teach;

const power = (x) => Number.isInteger(Math.log2(x));

part("cliff-charts", "accesses", ({cliff: {steps}}) => {
  const names = steps.map(({name}) => name);
  const leading = [...new Set(steps.flatMap((step) => step.leading))].sort(d3.ascending);
  const powers = leading.filter(power);
  const drawing = (key, title, see, label) => {
    const rows = steps.flatMap((step) => step.leading.map((x, i) => ({x, y: step[key]?.[i], name: step.name})).filter(({y}) => y != null));
    if (!rows.length) return null;
    return chart({
      title, see,
      text: steps.map((step) => `${step.name}: ${step.leading.map((x, i) => `${x}: ${number(step[key][i])}`).join(", ")}`).join("; "),
      draw: (width) => Plot.plot({
        width, height: 320, style, marginLeft: 52, marginTop: 34, ...series(names), ...below,
        x: {...below.x, label: "numbers from one row to the next →", tickFormat: "d", ticks: width < 500 ? powers : leading},
        y: {label, grid: true, zero: true},
        marks: [
          Plot.ruleX(powers, {stroke: "var(--soft)", strokeDasharray: "3 4"}),
          Plot.text(powers, {x: (x) => x, text: () => "2ⁿ", frameAnchor: "top", dy: -8, dx: 8, fill: "var(--soft)"}),
          ...lines(rows), Plot.ruleY([0]),
        ],
      }),
      numbers: [["step", ...leading.map(String)], steps.map((step) => [step.name, ...leading.map((x) => step[key][step.leading.indexOf(x)])])],
    });
  };
  return el("div", {class: "columns two"},
    drawing("gflops", "Speed", "Look at the dashed lines: steps that walk down columns fall into a hole there.", "↑ GFLOP/s"),
    drawing("misses_per_mac", "Misses of the first-level cache, by the model", "The same places, seen by the model: misses jump where speed falls.", "↑ misses for each multiply-add"));
});
