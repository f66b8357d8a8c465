// Charts: a figure with what to see in it, the drawing, its text for who does not see it, and its numbers as a table.

const {el, details, table} = teach;

/** Drawn again whenever its place becomes wider or narrower. */
const watch = new ResizeObserver((entries) => {
  for (const {target, contentRect} of entries) {
    const width = Math.round(contentRect.width);
    if (width && width !== target.drawnWidth) {
      target.drawnWidth = width;
      const drawn = target.draw(width);
      drawn.setAttribute("aria-hidden", "true"); // the place around it has the words
      target.replaceChildren(drawn);
    }
  }
});

/**
 * A chart.
 * @param {string} title
 * @param {string} see one sentence: what to see
 * @param {string} text what a listener should know of the drawing
 * @param {(width: number) => Node} draw
 * @param {[string[], Array[]]} numbers titles and rows of the table
 */
function chart({title, see, text, draw, numbers, words}) {
  const plot = el("div", {class: "plot", role: "img", "aria-label": `${title}. ${text}`});
  plot.draw = draw;
  watch.observe(plot);
  return el("figure", {},
    el("figcaption", {}, el("strong", {}, title), see && el("span", {}, see)),
    plot,
    numbers && details("The numbers as a table", table(title, ...numbers, words)));
}

const SERIES = ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"].map((name) => `var(--${name})`);
const SYMBOLS = ["circle", "square", "triangle", "diamond", "cross", "star", "wye", "times"];

/** Scales that tell series apart by colour and by shape, with one legend for both. */
const series = (names) => ({
  color: {domain: names, range: names.map((_, i) => SERIES[i % SERIES.length])},
  symbol: {domain: names, range: names.map((_, i) => SYMBOLS[i % SYMBOLS.length]), legend: true},
});

/** Lines with a shape at each point; `rows` are {x, y, name}. */
const lines = (rows) => [
  Plot.line(rows, {x: "x", y: "y", stroke: "name", strokeWidth: 2}),
  Plot.dot(rows, {x: "x", y: "y", stroke: "name", fill: "name", symbol: "name", r: 4, tip: true,
    channels: {name: "name"}}),
];

const style = {background: "transparent", fontSize: "13px", fontFamily: "var(--body)"};

/** Bars with their numbers behind them, one for each row; `text` says what stands there. */
function bars(rows, {width, x, y, label, text, fill, marks = [], domain}) {
  const long = d3.max(rows, (row) => text(row).length);
  return Plot.plot({
    width, style, height: 40 * rows.length + 62, marginLeft: 8 + 7.6 * d3.max(rows, (row) => y(row).length),
    marginRight: Math.min(width / 3, 16 + 8 * long), marginTop: 28, marginBottom: 44,
    x: {label, grid: true, ticks: width < 500 ? 3 : 6, domain, nice: !domain, labelOffset: 40},
    y: {label: null, domain: rows.map(y), tickSize: 0},
    marks: [
      Plot.barX(rows, {x, y, fill, insetTop: 5, insetBottom: 5}),
      ...marks,
      Plot.text(rows, {x, y, text, textAnchor: "start", dx: 6, fill: "var(--ink)", fontWeight: 600,
        stroke: "var(--paper)", strokeWidth: 5}),
      Plot.ruleX([0]),
    ],
  });
}

/** Below an axis: room for the ticks' numbers and, under them, what they are. */
const below = {marginBottom: 46, x: {labelOffset: 42}};

/**
 * Where names can stand beside points without covering each other: [{x, y, name}] in pixels, those without room away.
 * The first of `points` choose first; `taken` are boxes [left, top, right, bottom] that stay free.
 */
function besides(points, {width, height, size, taken: before = []}) {
  const taken = [...before, ...points.map(({x, y}) => [x - 5, y - 5, x + 5, y + 5])];
  const clear = ([a, b, c, d]) => a > 0 && c < width && b > 0 && d < height &&
    taken.every(([e, f, g, h]) => c <= e || a >= g || d <= f || b >= h);
  return points.flatMap(({x, y, name}) => {
    const wide = name.length * size * 0.58;
    const corners = [[9, -size / 2], [-9 - wide, -size / 2], [-wide / 2, -9 - size], [-wide / 2, 9],
      [7, -8 - size], [7, 8], [-7 - wide, -8 - size], [-7 - wide, 8]];
    for (const [dx, dy] of corners) {
      const box = [x + dx, y + dy, x + dx + wide, y + dy + size];
      if (clear(box)) {
        taken.push(box);
        return [{x: box[0], y: y + dy + size / 2, name}];
      }
    }
    return [];
  });
}

Object.assign(teach, {chart, bars, series, lines, style, below, besides, SERIES});
