// Section 6: roofs as measured, and everything that was timed as a point under them.

const {part, number, chart, style, SERIES} = teach;

part("roofline-chart", "roofline", ({peaks, bandwidths, points}) => {
  const top = d3.max(peaks, ({gflops}) => gflops);
  const [low, high] = d3.extent(points, ({intensity}) => intensity);
  const left = Math.min(low, top / d3.max(bandwidths, (one) => one.gb_s)) / 3;
  const right = Math.max(high, top / d3.min(bandwidths, (one) => one.gb_s)) * 3;
  const slopes = bandwidths.flatMap(({name, gb_s: speed}) =>
    [left, top / speed].map((x) => ({x, y: x * speed, name: `${name} ${number(speed)} GB/s`})));
  const flats = peaks.flatMap(({name, gflops}) => [gflops / d3.max(bandwidths, (one) => one.gb_s), right].map((x) => ({x, y: gflops, name: `${name} ${number(gflops)} GFLOP/s`})));
  const groups = [...new Set(points.map(({group}) => group))];
  const symbols = {ladder: "circle", lowering: "triangle"};
  const bottom = Math.min(d3.min(points, ({gflops}) => gflops), d3.min(slopes, ({y}) => y)) / 1.5;
  return chart({
    title: "What limits whom, on this machine",
    see: "A point on a roof is as fast as this machine allows; the way up from a point below is to wait less, the way to the right is to move fewer bytes.",
    text: `Roofs: ${[...peaks.map((p) => `${p.name} ${number(p.gflops)} GFLOP/s`), ...bandwidths.map((b) => `${b.name} ${number(b.gb_s)} GB/s`)].join(", ")}. ` +
      `Points: ${points.map((p) => `${p.name} at ${number(p.intensity)} FLOP a byte, ${number(p.gflops)} GFLOP/s`).join("; ")}.`,
    draw: (width) => Plot.plot({
      width, height: Math.max(420, Math.min(560, width * 0.6)), style, marginLeft: 52, marginRight: 24, marginTop: 30,
      x: {type: "log", domain: [left, right], label: "intensity, FLOP for each byte of memory →", tickFormat: (x) => number(x, 1), ticks: width < 500 ? 4 : 8},
      y: {type: "log", domain: [bottom, top * 2], label: "↑ GFLOP/s", grid: true, tickFormat: (y) => number(y, 1), ticks: 5},
      color: {domain: groups, range: groups.map((_, i) => SERIES[i ? 0 : 5])},
      symbol: {domain: groups, range: groups.map((name) => symbols[name] ?? "square"), legend: true},
      marks: [
        Plot.line(slopes, {x: "x", y: "y", z: "name", stroke: "var(--soft)", strokeWidth: 1.75}),
        Plot.line(flats, {x: "x", y: "y", z: "name", stroke: "var(--ink)", strokeWidth: 2}),
        Plot.text(bandwidths, {x: ({gb_s: s}) => Math.max(left, bottom / s) * 1.15, y: ({gb_s: s}) => Math.max(left * s, bottom) * 1.15, text: ({name, gb_s: s}) => `${name} ${number(s)} GB/s`,
          textAnchor: "start", dy: -9, fill: "var(--ink)", stroke: "var(--paper)", strokeWidth: 4, rotate: 0}),
        Plot.text(peaks, {x: right, y: "gflops", text: ({name, gflops}) => `${name} ${number(gflops)}`, textAnchor: "end", dy: -9, fill: "var(--ink)", fontWeight: 600, stroke: "var(--paper)", strokeWidth: 4}),
        Plot.dot(points, {x: "intensity", y: "gflops", stroke: "group", fill: "group", symbol: "group", r: 5, tip: true, channels: {name: "name"}}),
        Plot.text(points, {x: "intensity", y: "gflops", text: "name", textAnchor: "start", dx: 8, dy: 3, fill: "var(--ink)", stroke: "var(--paper)", strokeWidth: 4, fontSize: width < 500 ? 10 : 12}),
      ],
    }),
    numbers: [["what", "group", "FLOP for a byte", "GFLOP/s", "of the memory roof"], points.map((p) => [
      p.name, p.group, p.intensity, p.gflops,
      teach.percent(p.gflops / Math.min(top, p.intensity * d3.min(bandwidths, (one) => one.gb_s))),
    ])],
    words: [0, 1],
  });
});
