// Charts: a figure with what to see in it, the drawing, its text for who does not see it, and its numbers as a table.

const {el, details, table} = teach;

/** Drawn again whenever its place becomes wider or narrower. */
const watch = new ResizeObserver((entries) => {
  for (const {target, contentRect} of entries) {
    const width = Math.round(contentRect.width);
    if (width && width !== target.drawnWidth) {
      target.drawnWidth = width;
      target.replaceChildren(target.draw(width));
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

Object.assign(teach, {chart, series, lines, style, SERIES});
