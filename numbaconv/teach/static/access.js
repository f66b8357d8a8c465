// Section 3: which elements a step touches, in what order, and where each access was answered.

const {part, el, menu, player, herald, percent, table, scroller} = teach;

const SIDE = 26;
const GAP = 34;
const FORMAT = [["l1", "1"], ["l2", "2"], ["l3", "3"]];

/** Class and letter of a level; what no cache had came from memory. */
const look = (hit, levels) => (hit >= levels.length ? ["mem", "M"] : FORMAT[Math.min(hit, 2)]);

/** Where each matrix stands: b above c, a left of c, as the product is written; buffers below. */
function places(matrices) {
  const size = ({rows, columns}) => [columns * SIDE, rows * SIDE];
  const [a, b, c, ...buffers] = matrices;
  const left = size(a)[0] + GAP;
  const top = size(b)[1] + GAP;
  const found = [[0, top], [left, 0], [left, top]];
  let [x, y] = [0, top + Math.max(size(a)[1], size(c)[1]) + GAP];
  const width = left + Math.max(size(b)[0], size(c)[0]);
  let high = 0;
  for (const buffer of buffers) {
    if (x && x + size(buffer)[0] > width) [x, y, high] = [0, y + high + GAP, 0];
    found.push([x, y]);
    high = Math.max(high, size(buffer)[1]);
    x += size(buffer)[0] + GAP;
  }
  return {found, width: Math.max(width, ...matrices.map((one, i) => found[i][0] + size(one)[0])),
    height: Math.max(...matrices.map((one, i) => found[i][1] + size(one)[1]))};
}

/** A drawing of a step's matrices; `paint(place)` shows the state after so many events. */
function stage(step, levels, lineElements, say) {
  const {found, width, height} = places(step.matrices);
  const svg = el("svg:svg", {class: "matrix", viewBox: `-4 -22 ${width + 8} ${height + 28}`, width: width + 8, "aria-hidden": "true"});
  const cells = step.matrices.map(({name, rows, columns}, i) => {
    const [x, y] = found[i];
    svg.append(el("svg:text", {class: "title", x, y: y - 6}, name));
    const drawn = d3.range(rows * columns).map((at) => {
      const [left, top] = [x + (at % columns) * SIDE, y + Math.floor(at / columns) * SIDE];
      const box = el("svg:rect", {x: left, y: top, width: SIDE, height: SIDE});
      const word = el("svg:text", {x: left + SIDE / 2, y: top + SIDE / 2});
      svg.append(box, word);
      return {box, word};
    });
    return drawn;
  });
  const line = el("svg:rect", {class: "line", visibility: "hidden"});
  const now = el("svg:rect", {width: SIDE, height: SIDE, visibility: "hidden", style: "fill: none"});
  svg.append(line, now);

  let shown = 0;
  const counts = step.matrices.map(() => new Array(levels.length + 1).fill(0));
  const last = step.matrices.map(({rows, columns}) => new Array(rows * columns).fill(null));
  const index = ([matrix, row, column]) => row * step.matrices[matrix].columns + column;

  const dress = (matrix, at) => {
    const {box, word} = cells[matrix][at];
    const hit = last[matrix][at];
    const [kind, letter] = hit === null ? ["", ""] : look(hit, levels);
    box.setAttribute("class", kind);
    word.setAttribute("class", kind === "mem" ? "on-mem" : "on-level");
    word.textContent = letter;
  };
  const forward = (event) => {
    counts[event[0]][event[4]]++;
    last[event[0]][index(event)] = event[4];
    dress(event[0], index(event));
  };
  const clear = () => {
    shown = 0;
    counts.forEach((row) => row.fill(0));
    last.forEach((row, matrix) => row.forEach((_, at) => { row[at] = null; dress(matrix, at); }));
  };

  function paint(place) {
    if (place < shown) clear();
    while (shown < place) forward(step.events[shown++]);
    const event = step.events[place - 1];
    for (const mark of [now, line]) mark.setAttribute("visibility", event ? "visible" : "hidden");
    if (!event) return say(null, counts);
    const [matrix, row, column, write, hit] = event;
    const {columns} = step.matrices[matrix];
    const [x, y] = found[matrix];
    now.setAttribute("x", x + column * SIDE);
    now.setAttribute("y", y + row * SIDE);
    now.setAttribute("class", write ? "now write" : "now");
    // Lines are drawn as if each row began with one.
    const first = column - (column % lineElements);
    line.setAttribute("x", x + first * SIDE);
    line.setAttribute("y", y + row * SIDE);
    line.setAttribute("width", Math.min(lineElements, columns - first) * SIDE);
    line.setAttribute("height", SIDE);
    line.setAttribute("visibility", hit >= levels.length ? "visible" : "hidden");
    return say(event, counts);
  }
  return {svg, paint};
}

part("access-player", "accesses", ({animation}) => {
  const {m, n, k, steps, line_elements: lineElements} = animation;
  const levels = animation.levels.filter((name) => !/memory/i.test(name));
  const box = el("div", {class: "stage"});
  const status = el("p", {class: "status"});
  const rates = el("div");
  const ears = herald();
  let step;
  let drawn;

  function say(event, counts) {
    if (event) {
      const [matrix, row, column, write, hit] = event;
      const where = hit >= levels.length ? "memory" : `cache ${levels[hit]}`;
      status.textContent = `${write ? "writes" : "reads"} ${step.matrices[matrix].name}[${row}, ${column}]: answered by ${where}`;
    } else status.textContent = "Nothing was touched yet: all caches are empty.";
    const total = d3.sum(counts.flat());
    const hits = total - d3.sum(counts, (row) => row[levels.length]);
    ears.say(`${status.textContent}. ${total} accesses so far, ${percent(total ? hits / total : 0)} found in a cache.`);
    rates.replaceChildren(table("Accesses so far", ["matrix", "accesses", ...levels, "memory", "in a cache"], [
      ...step.matrices.map(({name}, i) => [name, counts[i]]), ["all", d3.transpose(counts).map((column) => d3.sum(column))],
    ].map(([name, row]) => {
      const all = d3.sum(row);
      return [name, all, ...row, all ? percent((all - row[levels.length]) / all) : "–"];
    })));
  }
  const moves = player({label: "Animation of accesses", length: 0, show: (place) => drawn?.paint(place)});
  const choose = (name) => {
    step = steps.find((one) => one.name === name);
    drawn = stage(step, levels, lineElements, say);
    box.replaceChildren(drawn.svg);
    moves.reset(step.events.length);
  };
  const chosen = menu("Step", steps.map(({name}) => [name, name]), choose);
  choose(steps[0].name);
  return el("figure", {id: "animation"},
    el("figcaption", {}, el("strong", {}, `Accesses of a product of ${m} × ${k} and ${k} × ${n}`),
      el("span", {}, "Compare the first two steps: the same products, in another order. Watch how b is walked through. " +
        `A dashed frame is a write. Lines hold ${lineElements} numbers here, so that several fit.`)),
    el("div", {class: "controls"}, chosen), moves.node, status, ears.node,
    scroller("The matrices", box), rates);
});

part("access-rates", "accesses", ({animation}) => {
  const levels = animation.levels.filter((name) => !/memory/i.test(name));
  return table("The whole run of each step, in the small model cache", ["step", "accesses", "reads", "writes", ...levels, "memory", "in a cache"],
    animation.steps.map(({name, events}) => {
      const at = [...levels, "memory"].map((_, level) => events.filter((event) => Math.min(event[4], levels.length) === level).length);
      const writes = events.filter((event) => event[3]).length;
      return [name, events.length, events.length - writes, writes, ...at, percent(1 - at[levels.length] / events.length)];
    }));
});
