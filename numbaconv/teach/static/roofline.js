// Section 6: roofs as measured, and everything that was timed as a point under them.

const {part, el, number, percent, menu, chart, style, below, besides, SERIES} = teach;

const threadsText = (count, all) => (all === 1 ? "" : count === 1 ? ", 1 thread" : `, ${count} threads`);

/** Roofs and points in one drawing; `points` have x (FLOP for a byte), y (GFLOP/s) and a name. */
function drawing({flats, slopes, points, axis, fill, symbol}) {
  const top = d3.max(flats, (roof) => roof.gflops);
  const steep = d3.max(slopes, (roof) => roof.speed);
  const left = Math.min(d3.min(points, (p) => p.x), top / steep) / 2;
  const right = Math.max(d3.max(points, (p) => p.x), top / d3.min(slopes, (roof) => roof.speed)) * 2;
  const bottom = d3.min(points, (p) => p.y) / 2;
  const high = Math.max(top * 1.8, d3.max(points, (p) => p.y) * 1.4);
  return (width) => {
    const height = Math.max(430, Math.min(580, width * 0.62));
    const margin = {marginLeft: 50, marginRight: 20, marginTop: 36, marginBottom: 46};
    const x = d3.scaleLog([left, right], [margin.marginLeft, width - margin.marginRight]);
    const y = d3.scaleLog([bottom, high], [height - margin.marginBottom, margin.marginTop]);
    const angle = Math.atan((y(1) - y(10)) / (x(10) - x(1)));
    const along = {rotate: -angle * 180 / Math.PI, dx: -10 * Math.sin(angle), dy: -10 * Math.cos(angle)};
    const rising = slopes.map((roof, i) => {
      const reach = d3.max(flats.filter((flat) => flat.threads === roof.threads), (flat) => flat.gflops) ?? top;
      const from = Math.max(left, bottom / roof.speed);
      const place = (i + 1) / (slopes.length + 1); // one after the other, so that the names of near slopes do not meet
      return {...roof, from, to: reach / roof.speed, at: from ** (1 - place) * (reach / roof.speed) ** place};
    });
    const small = width < 500 ? 11 : 12.5;
    const taken = flats.map((roof) => [x.range()[1] - roof.name.length * small * 0.65, y(roof.gflops) - 18, x.range()[1], y(roof.gflops) + 2]);
    const names = besides(points.map((p) => ({x: x(p.x), y: y(p.y), name: p.name})), {width, height, size: small, taken});
    const dash = (roof) => (roof.threads > 1 ? "7 4" : null);
    return Plot.plot({
      width, height, style, ...margin,
      x: {type: "log", domain: [left, right], label: `${axis} →`, labelOffset: below.x.labelOffset, tickFormat: (t) => number(t, 1), ticks: width < 500 ? 4 : 8},
      y: {type: "log", domain: [bottom, high], label: "↑ GFLOP/s", labelOffset: 44, grid: true, tickFormat: (t) => number(t, 1), ticks: 5},
      marks: [
        ...rising.map((roof) => Plot.link([roof], {x1: "from", y1: (r) => r.from * r.speed, x2: "to", y2: (r) => r.to * r.speed,
          stroke: "var(--soft)", strokeWidth: 2, strokeDasharray: dash(roof), clip: true})),
        ...flats.map((roof) => Plot.link([roof], {x1: (r) => r.gflops / steep, y1: "gflops", x2: right, y2: "gflops",
          stroke: "var(--ink)", strokeWidth: 2, strokeDasharray: dash(roof), clip: true})),
        Plot.text(rising, {x: "at", y: (r) => r.at * r.speed, text: width < 500 ? "level" : "name", ...along, fill: "var(--ink)", fontSize: small,
          stroke: "var(--paper)", strokeWidth: 4}),
        Plot.text(flats, {x: right, y: "gflops", text: "name", textAnchor: "end", dy: -9, fill: "var(--ink)", fontWeight: 600,
          fontSize: small, stroke: "var(--paper)", strokeWidth: 4}),
        Plot.dot(points, {x: "x", y: "y", fill, stroke: "var(--paper)", symbol, r: 5.5, tip: true, channels: {name: "name"}}),
        Plot.text(names, {x: (n) => x.invert(n.x), y: (n) => y.invert(n.y), text: "name", textAnchor: "start", fill: "var(--ink)",
          stroke: "var(--paper)", strokeWidth: 4, fontSize: small}),
      ],
    });
  };
}

part("roofline-chart", "roofline", ({peaks, bandwidths, points, size, problem}) => {
  const all = d3.max(peaks, (peak) => peak.threads ?? 1);
  const flats = peaks.map((p) => ({...p, threads: p.threads ?? 1, name: `${p.name} ${number(p.gflops)}${threadsText(p.threads ?? 1, all)}`}));
  const slopes = bandwidths.map((b) => ({...b, level: b.name, speed: b.gb_s, threads: b.threads ?? 1,
    name: `${b.name} ${number(b.gb_s)} GB/s${threadsText(b.threads ?? 1, all)}`}));
  const roofs = `Roofs: ${[...flats, ...slopes].map((roof) => roof.name).join("; ")}.`;
  const made = (title, see, shown, levels, axis, fill, symbol) => {
    const counts = new Set(shown.map((p) => p.threads));
    const memory = slopes.filter((roof) => roof.level === levels[0]);
    const roof = (p) => Math.min(d3.max(flats, (f) => (f.threads === p.threads ? f.gflops : 0)) || flats.at(-1).gflops,
      p.x * (memory.find((one) => one.threads === p.threads) ?? memory.at(-1)).speed);
    return chart({
      title, see,
      text: `${roofs} Points: ${shown.map((p) => `${p.name} ${number(p.x)} FLOP for a byte, ${number(p.y)} GFLOP/s`).join("; ")}.`,
      draw: drawing({flats: flats.filter((one) => counts.has(one.threads)),
        slopes: slopes.filter((one) => levels.includes(one.level) && counts.has(one.threads)), points: shown, axis, fill, symbol}),
      numbers: [["what", "threads", "FLOP for a byte", "GFLOP/s", `of the roof of ${levels[0]}`], shown.map((p) => [
        p.name, p.threads, p.x, p.y, percent(p.y / roof(p))])],
    });
  };
  const taken = (group, key) => points.filter((p) => p.group === group && p[key] != null)
    .map((p) => ({name: p.name, threads: p.threads ?? 1, x: p[key], y: p.gflops}));
  const side = size ? `, ${size} × ${size} times ${size} × ${size}` : "";
  const ladder = {
    intensity: () => made(`The same, by the bytes that come from memory${side}`,
      "Matrices of this size fit into the last cache, so all steps ask memory for about the same: here it is not what makes them wait.",
      taken("ladder", "intensity"), ["memory"], "FLOP for each byte of memory", SERIES[5], "circle"),
    l1: () => made(`The ladder under its roofs${side}`,
      "A point on a roof is as fast as this machine allows. Loops in a better order and tiles in registers move a point to the right: fewer bytes come into the first-level cache for the same work. Far below all roofs something else makes it wait, such as numbers multiplied one at a time. Steps of one thread.",
      taken("ladder", "l1").filter((p) => p.threads === 1), ["L2", "L1", "L3", "memory"].filter((name) => slopes.some((roof) => roof.level === name)),
      "FLOP for each byte into L1", SERIES[5], "circle"),
  };
  const counted = points.some((p) => p.l1 != null);
  const place = el("div", {}, counted ? ladder.l1() : ladder.intensity());
  const choice = counted &&
    menu("Bytes are counted", [["l1", "at the first-level cache"], ["intensity", "at memory"]], (key) => place.replaceChildren(ladder[key]()));
  const lowerings = taken("lowering", "intensity");
  return [
    choice && el("div", {class: "controls"}, choice), place,
    lowerings.length ? made(`Lowerings of one layer${problem ? `: ${problem}` : ""}`,
      "FLOP are those of the plain loops, so that what multiplies less may rise above the roof. Lowerings that copy more stand further left.",
      lowerings, ["memory"], "FLOP for each byte of memory", SERIES[0], "triangle") : null,
  ];
});
