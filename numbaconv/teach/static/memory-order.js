// Section 1: a matrix, and the same elements as they lie in memory. Choosing one shows its place and its line.

const {el, slider, scroller} = teach;

const ROWS = 5;
const COLUMNS = 12;
const LINE = 4; // small ones, so that several fit on the page
const SIDE = 26;

function memoryOrder() {
  let row = 2;
  let column = 5;
  const cells = [];
  const strip = [];
  const said = el("p", {class: "status", role: "status"});
  const cell = (x, y, text) => {
    const box = el("svg:rect", {x, y, width: SIDE, height: SIDE});
    const word = el("svg:text", {x: x + SIDE / 2, y: y + SIDE / 2}, text);
    return {box, word, node: [box, word]};
  };
  const grid = el("svg:svg", {
    class: "matrix", viewBox: `-2 -22 ${COLUMNS * SIDE + 4} ${ROWS * SIDE + 24}`, "aria-hidden": "true",
    width: COLUMNS * SIDE + 4,
  }, el("svg:text", {class: "title", x: 0, y: -7}, `b, ${ROWS} rows of ${COLUMNS}`));
  const line = el("svg:svg", {
    class: "matrix", viewBox: `-2 -22 ${ROWS * COLUMNS * SIDE + 4} ${SIDE + 24}`, "aria-hidden": "true",
    width: ROWS * COLUMNS * SIDE + 4, style: "max-width: none; margin: 0",
  }, el("svg:text", {class: "title", x: 0, y: -7}, "the same in memory"));

  for (let place = 0; place < ROWS * COLUMNS; place++) {
    const [i, j] = [Math.floor(place / COLUMNS), place % COLUMNS];
    cells.push(cell(j * SIDE, i * SIDE, String(place)));
    strip.push(cell(place * SIDE, 0, String(place)));
    grid.append(...cells[place].node);
    line.append(...strip[place].node);
    const pick = () => { [row, column] = [i, j]; update(); };
    cells[place].box.addEventListener("click", pick);
    strip[place].box.addEventListener("click", pick);
  }
  for (let place = 0; place <= ROWS * COLUMNS; place += LINE) {
    line.append(el("svg:path", {class: "edge", d: `M${place * SIDE} -4V${SIDE + 4}`}));
  }

  const rowSlider = slider("Row p:", d3.range(ROWS), row, (value) => { row = value; update(); });
  const columnSlider = slider("Column j:", d3.range(COLUMNS), column, (value) => { column = value; update(); });
  const scroll = scroller("The matrix in memory", line);

  function update() {
    rowSlider.input.value = row;
    columnSlider.input.value = column;
    for (const input of [rowSlider.input, columnSlider.input]) {
      input.previousElementSibling.querySelector("output").textContent = input.value;
      input.setAttribute("aria-valuetext", input.value);
    }
    const place = row * COLUMNS + column;
    const first = place - (place % LINE);
    for (const drawn of [cells, strip]) {
      drawn.forEach(({box, word}, i) => {
        const together = i >= first && i < first + LINE;
        box.setAttribute("class", i === place ? "lit" : together ? "dim" : "");
        word.setAttribute("class", i === place ? "lit" : "");
      });
    }
    scroll.scrollLeft = (first + LINE / 2) * SIDE - scroll.clientWidth / 2;
    const other = d3.range(first, first + LINE).filter((i) => i !== place).join(", ");
    said.textContent = `b[${row}, ${column}] is number ${row} · ${COLUMNS} + ${column} = ${place} in memory. Its cache line ` +
      `brings ${other} along (lines of ${LINE} numbers here; of 16 in your machine).`;
  }
  update();
  return el("figure", {},
    el("figcaption", {}, el("strong", {}, "One matrix, two pictures"),
      el("span", {}, "Move along the row, then down the column: how far do you move in memory?")),
    grid, el("div", {class: "controls"}, rowSlider, columnSlider), said, scroll);
}

document.getElementById("memory-order").append(memoryOrder());
