// Steps of a ladder: title, idea, note, figures, and the code with what is new marked.

const {el, prose, note, tabs, details} = teach;

const MARKS = {new: "+", gone: "−", same: ""};

/** Code, line by line; marks stand in front of the lines, so that colour is not all that tells. */
function listing(step) {
  const lines = step.listing.map(({kind, spans}) => {
    const said = kind === "same" ? null : el("span", {class: "hidden"}, kind === "new" ? "new: " : "gone: ");
    return el("span", {class: `line ${kind}`, "data-mark": MARKS[kind]}, said,
      spans.map(([word, text]) => (word ? el("span", {class: word}, text) : text)), "\n");
  });
  const box = el("div", {class: "listing", tabindex: "0", role: "region", "aria-label": `Code of ${step.name}`},
    el("pre", {}, el("code", {}, lines)));
  const gone = step.listing.filter(({kind}) => kind === "gone").length;
  if (!gone) return [box];
  const id = teach.fresh("gone");
  const toggle = el("input", {type: "checkbox", id, change: () => box.classList.toggle("with-gone", toggle.checked)});
  return [el("p", {class: "quiet"}, toggle, " ", el("label", {for: id}, `Show the ${gone} lines that went`)), box];
}

/** Assembly, with its loads, stores and multiply-adds marked. */
function assembly(step) {
  const {text, loads, stores, multiply_adds: pairs, fmas, spills, lanes} = step.assembly;
  const count = (what, many) => `${many} ${what}${many === 1 ? "" : "s"}`;
  const kind = (line) => (/\b(vfn?m(add|sub)|v?(mul|add)[ps][sd]\b|fmla)/.test(line) ? "fma" : "");
  const how = fmas ? "fused" : "a product and a sum each";
  return details(
    loads == null ? "The inner loop in assembly" :
      `The inner loop in assembly: ${count("load", loads)}, ${count("store", stores)}, ${count("multiply-add", pairs ?? fmas)} ` +
        `(${how}) of ${count("lane", lanes)}, ${count("spill", spills)}`,
    el("div", {class: "listing", tabindex: "0", role: "region", "aria-label": `Assembly of ${step.name}`},
      el("pre", {}, el("code", {}, text.trimEnd().split("\n").map((line) =>
        el("span", {class: `line ${kind(line)}`, "data-mark": kind(line) ? "*" : ""}, line, "\n"))))),
    el("p", {class: "quiet"}, "Lines with * multiply and add."));
}

/** Tabs, one for each step; `more(step, i)` gives what stands between idea and code, `after` what follows. */
const stepTabs = (ladder, label, steps, more, after = () => []) =>
  tabs(label, steps.map((step) => `${step.number} ${step.name}`), (i) => {
    const step = steps[i];
    return [
      el("h4", {}, `${step.number}. ${step.title}`), prose(step.idea), note(`note-${ladder}-${step.name}`),
      more(step, i), listing(step), after(step, i),
    ].flat(Infinity).filter(Boolean);
  });

Object.assign(teach, {listing, assembly, stepTabs});
