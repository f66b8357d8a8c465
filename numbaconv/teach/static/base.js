// The data, and the few words that the other scripts are written with. They share one object, `teach`.

const data = JSON.parse(document.getElementById("data").textContent);

/** An element: el("p", {class: "quiet"}, "text", child). Attributes that are functions listen; false leaves one away. */
function el(name, attributes = {}, ...children) {
  const [space, tag] = name.startsWith("svg:") ? ["http://www.w3.org/2000/svg", name.slice(4)] : [null, name];
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

let made = 0;
/** An id that no other element has. */
const fresh = (word) => `${word}-${++made}`;

// ------------------------------------------------------------------------------------------------------ numbers

/** Three digits, or all of a whole number. */
function number(x, digits = 3) {
  if (x == null) return "–";
  return (Math.abs(x) >= 1000 ? Math.round(x) : Number(x.toPrecision(digits))).toLocaleString("en-GB", {maximumFractionDigits: 6});
}

function bytes(count) {
  if (count == null) return "–";
  for (const [factor, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (count >= factor) return `${number(count / factor)} ${unit}`;
  }
  return `${number(count)} B`;
}

function seconds(s) {
  if (s == null) return "–";
  const [factor, unit] = s >= 1 ? [1, "s"] : s >= 1e-3 ? [1e3, "ms"] : [1e6, "µs"];
  return `${number(s * factor)} ${unit}`;
}

const percent = (part) => (part == null ? "–" : `${number(100 * part, part < 0.1 ? 2 : 3)} %`);
const times = (ratio) => `${number(ratio, ratio < 10 ? 2 : 3)} ×`;

// -------------------------------------------------------------------------------------------------------- parts

/** A box that scrolls sideways if it must; the keyboard stops at it only then. */
function scroller(label, ...children) {
  const box = el("div", {class: "scroll", role: "region", "aria-label": label}, ...children);
  new ResizeObserver(() => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }).observe(box);
  return box;
}

/** A table: `columns` are titles, `rows` cells; words stand left in the columns that `words` names. */
function table(caption, columns, rows, words = [0]) {
  const cell = (value, column) => {
    const text = value instanceof Node ? value : typeof value === "number" ? number(value) : value ?? "–";
    if (column === 0) return el("th", {scope: "row"}, text);
    return el("td", {class: words.includes(column) && "text"}, text);
  };
  return scroller(caption, el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, columns.map((title) => el("th", {scope: "col"}, title)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell))))));
}

const details = (summary, ...children) => el("details", {}, el("summary", {}, summary), ...children);

/** Large figures: [["what", "12", "GFLOP/s"], ...]. */
const figures = (entries) => el("dl", {class: "figures"}, entries.map(([what, value, unit]) =>
  el("div", {}, el("dt", {}, what), el("dd", {}, value, unit ? el("small", {}, ` ${unit}`) : null))));

/** A labelled slider over a list of values; `change` gets the value. */
function slider(label, values, start, change, text = String) {
  const id = fresh("slider");
  const shown = el("output", {for: id});
  const input = el("input", {type: "range", id, min: 0, max: values.length - 1, step: 1});
  const show = () => {
    shown.textContent = text(values[input.value]);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.value = Math.max(0, values.indexOf(start));
  input.addEventListener("input", () => { show(); change(values[input.value]); });
  show();
  return Object.assign(el("div", {class: "control wide"}, el("label", {for: id}, label, " ", shown), input), {input});
}

/** A labelled menu: options are [value, text] pairs. */
function menu(label, options, change) {
  const id = fresh("menu");
  const select = el("select", {id}, options.map(([value, text]) => el("option", {value}, text)));
  select.addEventListener("change", () => change(select.value));
  return Object.assign(el("div", {class: "control"}, el("label", {for: id}, label), select), {select});
}

/** Tabs over one panel: arrow keys move, Home and End too; `show` gets the number and fills the panel. */
function tabs(label, names, show) {
  const panelId = fresh("panel");
  const panel = el("div", {class: "step", role: "tabpanel", id: panelId, tabindex: "0"});
  const buttons = names.map((name, i) => el("button", {
    type: "button", role: "tab", id: fresh("tab"), "aria-controls": panelId, click: () => select(i),
  }, name));
  const select = (chosen, focus = false) => {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-selected", i === chosen);
      button.tabIndex = i === chosen ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", buttons[chosen].id);
    if (focus) buttons[chosen].focus();
    panel.replaceChildren(...[show(chosen)].flat());
  };
  const list = el("div", {class: "tabs", role: "tablist", "aria-label": label, keydown: (event) => {
    const now = buttons.indexOf(document.activeElement);
    const last = buttons.length - 1;
    const to = {ArrowRight: now === last ? 0 : now + 1, ArrowLeft: now ? now - 1 : last, Home: 0, End: last}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(to, true);
  }}, buttons);
  select(0);
  return [list, panel];
}

/** Words of a docstring: ``these`` are code, and how a step begins its comparison stands out. */
const words = (text) => text.split(/(``[^`]+``|`[^`]+`|\B\*[^\s*]+\*\B|^Compared with the step before:)/).map((part) => {
  if (part.startsWith("`")) return el("code", {}, part.replaceAll("`", ""));
  if (/^\*\S+\*$/.test(part)) return el("em", {}, part.slice(1, -1));
  return part.startsWith("Compared with") ? el("strong", {}, part) : part.replace(/\s+/g, " ");
});

/** Text of a docstring: paragraphs, lists, and drawings, which are indented or have a frame of signs. */
function prose(text) {
  const blocks = [];
  for (const block of text.replace(/::(?=\n\s*\n)/g, ":").split(/\n[^\S\n]*\n/)) {
    const drawn = block.split("\n").every((line) => /^\s{2}/.test(line)) || /={4}/.test(block);
    if (drawn && blocks.at(-1)?.drawn) blocks.at(-1).text += `\n\n${block}`;
    else blocks.push({drawn, text: block});
  }
  return el("div", {class: "idea"}, blocks.map(({drawn, text: block}) => {
    if (drawn) return el("pre", {tabindex: "0", role: "img", "aria-label": "A drawing in letters, explained by the text around it"}, block);
    if (/^[*-] /.test(block)) return el("ul", {}, block.split(/\n(?=[*-] )/).map((item) => el("li", {}, words(item.slice(2)))));
    return el("p", {}, words(block));
  }));
}

/** A copy of a template in the page, or nothing. */
function note(id) {
  const template = document.getElementById(id);
  return template && el("div", {class: "note"}, template.content.cloneNode(true));
}

/** Draw a part of the page from a section of the data; where that was not measured, say why. */
function part(id, section, draw) {
  const place = document.getElementById(id);
  const found = data.sections[section];
  if (found == null || (found.reason && Object.keys(found).length === 1)) {
    const reason = found?.reason ?? "this file of data does not have it";
    place.replaceChildren(el("p", {class: "notice"}, el("strong", {}, "Not measured here: "), reason));
    return;
  }
  place.replaceChildren(...[draw(found, place)].flat(Infinity).filter(Boolean));
}

window.teach = {
  data, el, fresh, number, bytes, seconds, percent, times, scroller, table, details, figures, slider, menu, tabs, prose, note, part,
};

// ------------------------------------------------------------------------------------------------- light and dark

const theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const paint = (dark) => {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  theme.setAttribute("aria-pressed", dark);
};
theme.addEventListener("click", () => paint(document.documentElement.dataset.theme !== "dark"));
system.addEventListener("change", (event) => paint(event.matches));
paint(system.matches);
