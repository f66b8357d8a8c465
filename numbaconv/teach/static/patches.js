// Section 8: a window slides over the photograph, and im2col's matrix fills, column by column.

const {data, el, slider, menu, player, herald, number, scroller} = teach;

const SIDE = 40; // of a pixel of the image
const {uri, width: photoWidth, height: photoHeight, pixels} = data.photograph;
const [HEIGHT, WIDTH] = [pixels.length, pixels[0].length];
const GREY = [0.299, 0.587, 0.114];

/** Weights by name, for a window of k × k: they add up to 1 for a blur, to 0 for edges. */
const BANKS = {
  "vertical edges": (k, u, v) => 2 * (v - (k - 1) / 2) / (k * (d3.sum(d3.range(k), (i) => Math.abs(i - (k - 1) / 2)) || 1)),
  "horizontal edges": (k, u, v) => 2 * (u - (k - 1) / 2) / (k * (d3.sum(d3.range(k), (i) => Math.abs(i - (k - 1) / 2)) || 1)),
  blur: (k) => 1 / (k * k),
};

const state = {kernel: 3, stride: 1, padding: 0, colour: false, bank: "vertical edges"};
const channels = () => (state.colour ? 3 : 1);
const output = (size) => Math.floor((size + 2 * state.padding - state.kernel) / state.stride) + 1;

/** The value of a pixel from 0 to 1; null in the padding, which counts as 0. */
function value(channel, row, column) {
  const rgb = pixels[row]?.[column];
  if (!rgb) return null;
  return (state.colour ? rgb[channel] : d3.sum(rgb, (part, i) => part * GREY[i])) / 255;
}

/** What a number looks like: grey, or as much of its channel. */
function shade(channel, x) {
  const level = Math.round(255 * (x ?? 0));
  return state.colour ? `rgb(${[0, 1, 2].map((i) => (i === channel ? level : 0)).join(" ")})` : `rgb(${level} ${level} ${level})`;
}

/** How bright that is, from 0 to 1, as the eye sees it. */
function light(channel, x) {
  const linear = x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  return state.colour ? linear * [0.2126, 0.7152, 0.0722][channel] : linear;
}

/** The rows of one column: [channel, row, column, weight] in im2col's order. */
function patch(place) {
  const {kernel, stride, padding, bank} = state;
  const across = output(WIDTH);
  const [top, left] = [Math.floor(place / across) * stride - padding, (place % across) * stride - padding];
  return d3.cross(d3.range(channels()), d3.cross(d3.range(kernel), d3.range(kernel)), (c, [u, v]) =>
    [c, top + u, left + v, BANKS[bank](kernel, u, v) / channels()]);
}

const result = (place) => d3.sum(patch(place), ([c, row, column, weight]) => weight * (value(c, row, column) ?? 0));

// ------------------------------------------------------------------------------------------------------ drawings

const image = el("svg:svg", {class: "matrix image", "aria-hidden": "true"});
const columnNow = el("div", {id: "patch-column"});
const matrix = el("canvas", {id: "patch-matrix", role: "img"});
const answer = el("canvas", {id: "patch-output", role: "img"});
const matrixBox = scroller("im2col’s matrix", matrix);
const formula = el("div", {class: "formula"});
const said = el("p", {class: "status", id: "patch-status"});
const ears = herald();

function drawImage() {
  const pad = state.padding;
  image.setAttribute("viewBox", `${-pad * SIDE - 3} ${-pad * SIDE - 3} ${(WIDTH + 2 * pad) * SIDE + 6} ${(HEIGHT + 2 * pad) * SIDE + 6}`);
  image.setAttribute("width", (WIDTH + 2 * pad) * SIDE + 6);
  const boxes = d3.cross(d3.range(-pad, HEIGHT + pad), d3.range(-pad, WIDTH + pad), (row, column) => {
    const inside = value(0, row, column) !== null;
    const colour = inside && (state.colour ? `rgb(${pixels[row][column].join(" ")})` : shade(0, value(0, row, column)));
    const box = el("svg:rect", {x: column * SIDE, y: row * SIDE, width: SIDE, height: SIDE, class: !inside && "zero", style: inside && `fill: ${colour}; stroke: none`});
    return inside ? box : [box, el("svg:text", {x: (column + 0.5) * SIDE, y: (row + 0.5) * SIDE}, "0")];
  });
  const frame = (kind) => el("svg:rect", {class: `window ${kind}`, width: state.kernel * SIDE, height: state.kernel * SIDE});
  image.replaceChildren(...boxes.flat(), frame(""), frame("inner"));
}

function size(canvas, columns, rows, cell) {
  const sharp = window.devicePixelRatio || 1;
  canvas.width = columns * cell * sharp;
  canvas.height = rows * cell * sharp;
  canvas.style.width = `${columns * cell}px`;
  canvas.style.height = `${rows * cell}px`;
  const pen = canvas.getContext("2d");
  pen.scale(sharp, sharp);
  return pen;
}

function drawMatrix(filled) {
  const [columns, rows] = [output(WIDTH) * output(HEIGHT), channels() * state.kernel ** 2];
  const cell = Math.max(8, Math.min(16, Math.floor((matrixBox.clientWidth || 600) / columns)));
  const pen = size(matrix, columns, rows, cell);
  pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--rule");
  pen.lineWidth = 0.5;
  for (let i = 0; i <= columns; i++) pen.strokeRect(i * cell, 0, 0, rows * cell);
  for (let i = 0; i <= rows; i++) pen.strokeRect(0, i * cell, columns * cell, 0);
  for (let place = 0; place < filled; place++) {
    patch(place).forEach(([c, row, column], i) => {
      pen.fillStyle = shade(c, value(c, row, column));
      pen.fillRect(place * cell, i * cell, cell, cell);
    });
  }
  if (filled) {
    pen.strokeStyle = "#e91e63";
    pen.lineWidth = 2.5;
    pen.strokeRect((filled - 1) * cell, 1.25, cell, rows * cell - 2.5);
    matrixBox.scrollLeft = filled * cell - matrixBox.clientWidth / 2;
  }
  matrix.setAttribute("aria-label", `Matrix of ${rows} rows and ${columns} columns, ${filled} of them filled`);
}

function drawAnswer(filled) {
  const [across, down] = [output(WIDTH), output(HEIGHT)];
  const cell = Math.min(20, 240 / across);
  const pen = size(answer, across, down, cell);
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--code");
  pen.fillRect(0, 0, across * cell, down * cell);
  for (let place = 0; place < filled; place++) {
    const x = state.bank === "blur" ? result(place) : 0.5 + result(place);
    const level = Math.round(255 * Math.max(0, Math.min(1, x)));
    pen.fillStyle = `rgb(${level} ${level} ${level})`;
    pen.fillRect((place % across) * cell, Math.floor(place / across) * cell, cell, cell);
  }
  answer.setAttribute("aria-label", `Result, ${across} × ${down} pixels, ${filled} of them computed`);
}

function drawColumn(place) {
  if (place < 0) return columnNow.replaceChildren(el("p", {class: "quiet"}, "No column yet."));
  const rows = patch(place);
  const shown = rows.slice(0, 27).map(([c, row, column, weight]) => {
    const x = value(c, row, column);
    const ink = light(c, x ?? 0) > 0.179 ? "#000" : "#fff"; // where both stand out equally
    return el("tr", {}, el("td", {style: `background: ${shade(c, x)}; color: ${ink}; padding: .05rem .6rem`}, (x ?? 0).toFixed(2)),
      el("td", {}, `× ${weight < 0 ? "−" : ""}${Math.abs(weight).toFixed(3)}`));
  });
  return columnNow.replaceChildren(el("table", {},
    el("caption", {}, rows.length > 27 ? `Column ${place}, the first 27 of ${rows.length} rows` : `Column ${place}`),
    el("thead", {}, el("tr", {}, el("th", {scope: "col"}, "pixel"), el("th", {scope: "col"}, "weight"))), el("tbody", {}, shown)));
}

function drawWindow(place) {
  const across = output(WIDTH);
  for (const frame of image.querySelectorAll(".window")) {
    frame.setAttribute("visibility", place < 0 ? "hidden" : "visible");
    frame.setAttribute("x", ((place % across) * state.stride - state.padding) * SIDE);
    frame.setAttribute("y", (Math.floor(place / across) * state.stride - state.padding) * SIDE);
  }
}

function drawSizes() {
  const {kernel, stride, padding} = state;
  const [across, down] = [output(WIDTH), output(HEIGHT)];
  const rows = channels() * kernel ** 2;
  const copies = rows * across * down / (channels() * WIDTH * HEIGHT);
  const every = Math.floor((WIDTH + 2 * padding - kernel) + 1) * Math.floor((HEIGHT + 2 * padding - kernel) + 1);
  formula.replaceChildren(
    el("p", {}, `places across = ⌊(${WIDTH} + 2·${padding} − ${kernel}) / ${stride}⌋ + 1 = ${across}`),
    el("p", {}, `places down   = ⌊(${HEIGHT} + 2·${padding} − ${kernel}) / ${stride}⌋ + 1 = ${down}`),
    el("p", {}, `rows = channels · kernel² = ${channels()} · ${kernel}² = ${rows},  columns = ${across} · ${down} = ${across * down}`),
    el("p", {}, `numbers in the matrix: ${number(rows * across * down)}, ${number(copies, 2)} times the image’s ${number(channels() * WIDTH * HEIGHT)}`));
  return stride === 1
    ? "Stride 1: the window stops at every place, and neighbouring columns share most of their pixels."
    : `Stride ${stride}: the window jumps ${stride} pixels, across and down. Of ${every} places ${across * down} are left, so the matrix, ` +
      `the work and the result shrink about ${stride} · ${stride} times.${stride > kernel ? " The stride is wider than the window: pixels between are never read." : ""}`;
}

const strideWords = el("p", {class: "quiet", id: "stride-words"});

function show(filled) {
  const place = filled - 1;
  drawWindow(place);
  drawMatrix(filled);
  drawAnswer(filled);
  drawColumn(place);
  const across = output(WIDTH);
  said.textContent = place < 0 ? "The window has not begun." :
    `Window at place (${Math.floor(place / across)}, ${place % across}): column ${place} of the matrix. Weights times column = ${result(place).toFixed(3).replace("-", "−")}.`;
  ears.say(said.textContent);
}

// ------------------------------------------------------------------------------------------------------- controls

const moves = player({label: "Sliding window", length: 1, show: (place) => show(place), speed: 8, speeds: [1, 2, 4, 8, 16, 32], unit: "column"});

function restart() {
  const places = output(WIDTH) * output(HEIGHT);
  drawImage();
  strideWords.textContent = drawSizes();
  moves.reset(places);
  moves.go(1);
}

function dragTo(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(image.getScreenCTM().inverse());
  const at = (x, count) => Math.max(0, Math.min(count - 1, Math.round((x / SIDE + state.padding - state.kernel / 2) / state.stride)));
  moves.pause();
  moves.go(at(point.y, output(HEIGHT)) * output(WIDTH) + at(point.x, output(WIDTH)) + 1);
}
image.addEventListener("pointerdown", (event) => { image.setPointerCapture(event.pointerId); dragTo(event); });
image.addEventListener("pointermove", (event) => { if (event.buttons) dragTo(event); });

const arrows = el("div", {tabindex: "0", role: "group", id: "patch-image", "aria-label": "The image in large pixels. Arrow keys move the window.", keydown: (event) => {
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -output(WIDTH), ArrowDown: output(WIDTH)}[event.key];
  if (!step) return;
  event.preventDefault();
  const to = moves.place() + step;
  moves.pause();
  if (to >= 1 && to <= output(WIDTH) * output(HEIGHT)) moves.go(to);
}}, image);

const change = (key) => (chosen) => { state[key] = chosen; restart(); };
const setters = el("div", {class: "controls"},
  slider("Kernel:", [1, 2, 3, 4, 5], 3, change("kernel"), (k) => `${k} × ${k}`),
  slider("Stride:", [1, 2, 3, 4], 1, change("stride")),
  slider("Padding:", [0, 1, 2], 0, change("padding")),
  menu("Channels", [["grey", "1, grey"], ["colour", "3, colour"]], (name) => { state.colour = name === "colour"; restart(); }),
  menu("Weights", Object.keys(BANKS).map((name) => [name, name]), change("bank")));

document.getElementById("patches").append(el("figure", {},
  el("figcaption", {}, el("strong", {}, "im2col of a photograph"),
    el("span", {}, "Each stop of the window is one column. Neighbouring columns repeat each other: that is what im2col pays, to get one plain product.")),
  setters, moves.node, said, ears.node,
  el("div", {class: "patch-grid"},
    el("div", {}, el("img", {src: uri, width: photoWidth, height: photoHeight, alt: "The photograph: a cat’s face."}),
      el("p", {class: "quiet"}, `The photograph, and beside it the same in ${WIDTH} × ${HEIGHT} large pixels. Zeros around it are padding.`)),
    arrows),
  formula, strideWords,
  el("h4", {}, "The matrix that im2col writes"),
  el("p", {class: "quiet"}, "One column for each place of the window, one row for each pixel under it."),
  matrixBox,
  el("div", {class: "columns two"},
    el("div", {}, el("h4", {}, "The column in the window, and the weights"), columnNow),
    el("div", {}, el("h4", {}, "The result: one pixel for each column"), answer,
      el("p", {class: "quiet"}, "The row of weights times one column gives one pixel; 64 kernels are 64 rows, and the product does all of them at once.")))));
restart();
document.getElementById("theme").addEventListener("click", () => moves.go(moves.place()));
