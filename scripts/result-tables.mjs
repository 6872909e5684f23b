// Writes the tables of results into the README and the documentation from the files in bench/results, so that no number there is typed by hand.
//
//   node scripts/result-tables.mjs [--check]
//
// --check changes nothing and fails if a table is not what the results say.
import fs from "node:fs";
import path from "node:path";
import { commandLine, fail, root } from "./common.mjs";

// A file that has several tables names them: <!-- results:eval:begin -->.
const mark = (name, side) => `<!-- results:${name === undefined ? "" : `${name}:`}${side} -->`;
const EVALUATION = {
  results: "eval",
  head: [
    "arm",
    "agents",
    "right",
    "95 %",
    "prefilled",
    "latent steps",
    "decoded",
    "moved, bytes",
    "ms",
    "times text's speed",
    "target",
    "met",
  ],
  cells: (row) => [
    row.name,
    row.shape,
    row.right === undefined ? null : percent(row.right),
    row.interval === undefined ? null : row.interval.map((share) => (100 * share).toFixed(1)).join(" to "),
    row.prefillTokens,
    row.latentSteps,
    row.decodedTokens,
    row.bytes,
    row.ms,
    row.ratio,
    row.target,
    row.met,
  ],
};
const IN_PLACE = {
  results: "kv-in-place",
  head: ["what", "shape", "ms", "compared with, ms", "times as fast"],
  cells: (row) => [row.name, row.shape, row.ms, row.peers, row.ratio],
};
const TABLES = [
  {
    file: "README.md",
    results: "main-job",
    head: ["what", "shape", "ms", "compared with", "ratio", "target", "met"],
    cells: (row) => [row.name, row.shape, row.ms, row.peers, row.ratio, row.target, row.met],
  },
  // of two models what crosses between them, of one model everything
  {
    file: "README.md",
    name: "eval",
    ...EVALUATION,
    rows: ({ name, shape }) =>
      shape.startsWith("finch,") || name.startsWith("4 agents") || (shape.includes(" to ") && /^(latent|shuffled-)/.test(name)),
  },
  { file: "docs/evaluation.md", ...EVALUATION },
  {
    file: "docs/kv-transfer.md",
    results: "kv",
    head: ["what", "shape", "ms", "compared with, ms", "ratio", "target", "met"],
    cells: (row) => [row.name, row.shape, row.ms, row.peers, row.ratio, row.target, row.met],
  },
  { file: "docs/kv-transfer.md", name: "kv-in-place", ...IN_PLACE },
  {
    file: "docs/gpu.md",
    name: "kv-in-place-cuda",
    ...IN_PLACE,
    results: "kv-in-place-cuda",
    command: "npm run bench -- --suite=kv-in-place",
    save: "npm run bench -- --suite=kv-in-place --save",
  },
  {
    file: "docs/message-passing.md",
    results: "bus",
    head: ["what", "shape", "ms", "p99, ms", "compared with, ms", "ratio", "target", "met"],
    cells: (row) => [row.name, row.shape, row.ms, row.p99, row.peers, row.ratio, row.target, row.met],
  },
  {
    file: "docs/different-models.md",
    results: "spaces",
    rows: (row) => row.right !== undefined,
    head: ["what", "fitted on", "questions", "right", "right by the placebo", "mean reciprocal rank of unseen rows", "verdict"],
    cells: (row) => [row.name, row.shape, row.questions, percent(row.right), percent(row.placebo), row.mrr, row.verdict],
  },
  {
    file: "docs/spaces.md",
    results: "spaces",
    rows: (row) => row.right === undefined,
    head: ["row", "what", "threads", "ms", "compared with, ms", "best peer / ours"],
    cells: (row) => [row.name, row.shape, row.threads, row.ms, row.peers, row.ratio],
  },
  {
    file: "docs/performance.md",
    results: "kernels",
    head: ["row", "what", "kept as", "µs", "peers, µs", "best peer / ours", "share of the machine's limit", "target", "met"],
    cells: (row) => [
      row.name,
      row.shape,
      row.dtype,
      1000 * row.ms,
      Object.fromEntries(Object.entries(row.peers).map(([name, ms]) => [name, 1000 * ms])),
      row.ratio,
      row.limitShare === null ? null : `${Math.round(100 * row.limitShare)} %`,
      row.target,
      row.met,
    ],
  },
  {
    file: "docs/gpu.md",
    results: "cuda",
    // how tiles were chosen
    rows: ({ op }) => op !== "tiles",
    head: ["what", "shape", "µs", "floor, µs", "share of the limit", "limit", "PyTorch, µs", "best of PyTorch / ours"],
    cells: (row) => [
      row.op,
      row.shape,
      row.us ?? row.error,
      row.floor_us,
      row.share === undefined ? null : `${Math.round(100 * row.share)} %`,
      row.limit,
      row.peers,
      row.against,
    ],
    command: "npm run bench:gpu",
    save: "npm run bench:gpu -- --save",
    hardware: ({ device }) =>
      `${device.name}: copies of ${cell(device.copy_gbs)} GB/s, bf16 products of ${cell(device.bf16_tflops)} TFLOP/s`,
  },
];

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return String(Number(value.toPrecision(3)));
  if (Array.isArray(value)) return value.map(cell).join("; ");
  if (typeof value === "object")
    return Object.entries(value)
      .map(([key, one]) => `${key} ${cell(one)}`)
      .join("; ");
  return String(value).replaceAll("|", "\\|").replaceAll("\n", " ");
}

// Padded to the widest cell of a column, as prettier pads, so that formatting and generating agree.
function table(rows) {
  const widths = rows[0].map((_, i) => Math.max(3, ...rows.map((row) => [...row[i]].length)));
  const line = (cells) => `| ${cells.map((one, i) => one + " ".repeat(widths[i] - [...one].length)).join(" | ")} |`;
  const [head, ...body] = rows;
  return [line(head), `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`, ...body.map(line)].join("\n");
}

function block({
  results,
  name,
  head,
  cells,
  rows: chosen = () => true,
  command = benchOf(results),
  save = `${command} --save`,
  hardware = hardwareOf,
}) {
  const file = path.join(root, "bench", "results", `${results}.json`);
  const between = (text) => `${mark(name, "begin")}\n\n${text}\n\n${mark(name, "end")}`;
  if (!fs.existsSync(file)) return between(`Not measured yet: \`${save}\`.`);
  const found = JSON.parse(fs.readFileSync(file, "utf8"));
  const note = `Measured by \`${command}\` on ${cell(found.date)}, on ${cell(hardware(found))}.`;
  return between(`${table([head, ...found.rows.filter(chosen).map((row) => cells(row).map(cell))])}\n\n${note}`);
}

function benchOf(results) {
  return `npm run bench -- --suite=${results}`;
}

function hardwareOf({ hardware }) {
  return hardware;
}

const { check } = commandLine("[--check]", { options: { check: { type: "boolean" } } }).values;
for (const one of TABLES) {
  const file = path.join(root, one.file);
  const text = fs.readFileSync(file, "utf8");
  const start = text.indexOf(mark(one.name, "begin"));
  const end = text.indexOf(mark(one.name, "end"));
  if (start < 0 || end < start) fail(`${one.file} has no block of results${one.name === undefined ? "" : ` '${one.name}'`}`);
  const wanted = text.slice(0, start) + block(one) + text.slice(end + mark(one.name, "end").length);
  if (!check) fs.writeFileSync(file, wanted);
  else if (text !== wanted) fail(`the table of ${one.file} is not that of the results: node scripts/result-tables.mjs`);
}
