// The foot: what was measured where and when, and how to do it again.

const {data: {about}, el, bytes, seconds} = teach;
const {machine} = about;

const facts = [
  ["Processor", `${machine.cpu_name} (${machine.llvm_name})`],
  ["Vectors", `${machine.vector_bits} bits, ${machine.vector_registers} registers: ${machine.vector_bits / 32} numbers in float32 at once`],
  ["Caches", `L1 ${bytes(machine.l1d_bytes)}, L2 ${bytes(machine.l2_bytes)}, last level ${bytes(machine.l3_bytes)}`],
  ["Threads", String(about.threads)],
  ["Software", [...about.versions, about.system].join(", ")],
  ["Measured", `${about.date.replace("T", ", ").replace("+00:00", " UTC")}, in ${seconds(about.seconds)}${about.quick ? ", the quick way: small sizes and short samples" : ""}`],
  ["Again", [el("code", {}, `numbaconv teach${about.quick ? " --quick" : ""} --out page.html`), ". With ", el("code", {}, "--json data.json"), " the numbers are kept as well."]],
  ["Drawn with", "D3 and Observable Plot (ISC licence), which are in this file"],
];
document.getElementById("about-facts").append(
  el("dl", {class: "facts"}, facts.map(([what, text]) => [el("dt", {}, what), el("dd", {}, text)])),
  el("p", {class: "quiet"}, "Times on a machine that others use too vary; ratios say more than seconds."));
