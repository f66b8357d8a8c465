// Section 5: a heat map for each sweep, with the model's choice and the best.

const {part, el, number, percent, chart, style} = teach;

/** Ink that can be read on a colour. */
const inkOn = (colour) => (d3.lab(colour).l > 55 ? "#111" : "#fff");

function heatMap({name, title, x, y, cells, model, best}) {
  const ran = cells.filter((cell) => cell.gflops != null);
  const [low, high] = d3.extent(ran, (cell) => cell.gflops);
  const colour = d3.scaleSequential([low === high ? 0 : low, high], (t) => d3.interpolateViridis(0.12 + 0.88 * t));
  const at = (place) => place && cells.find((cell) => cell.x === place.x && cell.y === place.y);
  const named = (place) => (place ? `${x.name} ${place.x}, ${y.name} ${place.y}` : "none");
  const share = at(model)?.gflops ? ` The model’s choice reaches ${percent(at(model).gflops / at(best).gflops)} of the best.` : "";
  const mark = (cell) => (cell.gflops == null ? "×" : [cell === at(model) ? "▲" : "", cell === at(best) ? "★" : ""].join(""));
  return chart({
    title,
    see: `Lighter is faster: from ${number(low)} to ${number(high)} GFLOP/s.${share}`,
    text: `Best: ${named(best)}, ${number(at(best)?.gflops)} GFLOP/s. Model: ${named(model)}, ${number(at(model)?.gflops)} GFLOP/s.`,
    draw: (width) => {
      const left = 16 + 8 * d3.max(y.values, (value) => String(value).length);
      const small = (width - left) / x.values.length < 52;
      return Plot.plot({
        width, height: 34 * Math.max(2, y.values.length) + 78, style, marginLeft: left, marginTop: 34, marginBottom: 44, padding: 0.04,
        x: {domain: x.values, label: `${x.name} →`, labelAnchor: "right", type: "band", tickFormat: String},
        y: {domain: y.values, label: `↑ ${y.name}`, labelAnchor: "top", labelOffset: left - 4, type: "band", reverse: true, tickFormat: String},
        marks: [
          Plot.cell(cells, {x: "x", y: "y", fill: (cell) => (cell.gflops == null ? "var(--code)" : colour(cell.gflops)),
            title: (cell) => `${named(cell)}: ${cell.gflops == null ? cell.reason ?? "refused" : `${number(cell.gflops)} GFLOP/s`}`}),
          Plot.text(cells, {x: "x", y: "y", text: (cell) => (small ? mark(cell) : `${mark(cell)}${cell.gflops == null ? "" : `${mark(cell) ? " " : ""}${number(cell.gflops)}`}`),
            fill: (cell) => (cell.gflops == null ? "var(--soft)" : inkOn(colour(cell.gflops))), fontWeight: 700, fontSize: small ? 14 : 12}),
          Plot.cell([at(best)].filter(Boolean), {x: "x", y: "y", stroke: "var(--ink)", strokeWidth: 2.5, fill: "none"}),
        ],
        color: {type: "identity"},
      });
    },
    numbers: [[x.name, y.name, "GFLOP/s", "remark"], cells.map((cell) => [
      String(cell.x), String(cell.y), cell.gflops,
      [cell === at(model) && "the model’s choice", cell === at(best) && "the best", cell.gflops == null && (cell.reason ?? "refused")].filter(Boolean).join(", "),
    ])],
    words: [0, 3],
  });
}

part("sweeps", "sweep", (sweeps) => el("div", {class: "columns two"}, sweeps.filter(({cells}) => cells.some((cell) => cell.gflops != null)).map(heatMap)));
