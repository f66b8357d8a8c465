// Play, pause, step, speed, place: what everything that moves on this page is moved with. It always starts paused.

const {el, slider} = teach;

const SPEEDS = [1, 2, 4, 8, 16, 32, 64, 128];

/**
 * Buttons and a slider over the places 0 to `length`; `show(place)` draws one.
 * @returns {{node: Element, reset: (length: number) => void, place: () => number, pause: () => void, go: (p: number) => void}}
 */
function player({label, length, show, speed = 8, speeds = SPEEDS, unit = "access"}) {
  let place = 0;
  let rate = speed;
  let clock = null;

  const go = (to) => {
    place = Math.max(0, Math.min(length, to));
    scrub.value = place;
    scrub.setAttribute("aria-valuetext", `${place} of ${length}`);
    at.textContent = `${place} of ${length}`;
    show(place);
    if (place === length) pause();
  };
  const pause = () => {
    cancelAnimationFrame(clock);
    clock = null;
    play.textContent = "▶ Play";
  };
  const start = () => {
    if (place === length) go(0);
    play.textContent = "❚❚ Pause";
    let due = performance.now() + 1000 / rate;
    const turn = (now) => {
      const steps = Math.floor((now - due) * rate / 1000) + 1;
      if (steps > 0) {
        due += steps * 1000 / rate;
        go(place + steps);
      }
      if (clock !== null) clock = requestAnimationFrame(turn);
    };
    clock = requestAnimationFrame(turn);
  };
  const by = (steps) => { pause(); go(place + steps); };

  const id = teach.fresh("place");
  const play = el("button", {type: "button", class: "first",
    click: () => (clock === null ? start() : pause())}, "▶ Play");
  const button = (text, name, click) => el("button", {type: "button", "aria-label": name, click}, text);
  const at = el("output", {for: id}, `0 of ${length}`);
  const scrub = el("input", {type: "range", id, min: 0, max: length, step: 1, value: 0,
    input: () => { pause(); go(Number(scrub.value)); }});
  const node = el("div", {class: "controls", role: "group", "aria-label": label},
    play,
    button("|◀", "To the start", () => by(-length)),
    button("◀ Step", "One step back", () => by(-1)),
    button("Step ▶", "One step forward", () => by(1)),
    el("div", {class: "control wide"}, el("label", {for: id}, "Place: ", unit, " ", at), scrub),
    slider("Speed:", speeds, speed, (value) => { rate = value; }, (value) => `${value} a second`));

  return {
    node, go, pause,
    place: () => place,
    reset(to) {
      pause();
      length = to;
      scrub.max = to;
      go(0);
    },
  };
}

/** A line of text for ears: says the newest of what it is told, at most every `every` milliseconds. */
function herald(every = 1500) {
  const node = el("p", {class: "hidden", "aria-live": "polite", role: "status"});
  let waiting = null;
  let newest = "";
  return {node, say(text) {
    newest = text;
    waiting ??= setTimeout(() => { node.textContent = newest; waiting = null; }, every);
  }};
}

Object.assign(teach, {player, herald});
