// Writes the tables of results into the README and the documentation from the files in bench/results, so that no number there is typed by hand.
//
//   node scripts/result-tables.mjs [--check]
//
// --check changes nothing and fails if a table is not what the results say.
import fs from "node:fs";
import path from "node:path";
import { commandLine, fail, root } from "./common.mjs";

const BEGIN = "<!-- results:begin -->";
const END = "<!-- results:end -->";
const TABLES = [
  {
    file: "README.md",
    results: "main-job",
    head: ["what", "shape", "ms", "compared with", "ratio", "target", "met"],
    cells: (row) => [row.name, row.shape, row.ms, row.peers, row.ratio, row.target, row.met],
  },
  {
    file: "docs/kv-transfer.md",
    results: "kv",
    head: ["what", "shape", "ms", "compared with, ms", "ratio", "target", "met"],
    cells: (row) => [row.name, row.shape, row.ms, row.peers, row.ratio, row.target, row.met],
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

function block({ results, head, cells, rows: chosen = () => true }) {
  const { hardware, date, rows } = JSON.parse(fs.readFileSync(path.join(root, "bench", "results", `${results}.json`), "utf8"));
  const note = `Measured by \`npm run bench -- --suite=${results}\` on ${cell(date)}, on ${cell(hardware)}.`;
  return `${BEGIN}\n\n${table([head, ...rows.filter(chosen).map((row) => cells(row).map(cell))])}\n\n${note}\n\n${END}`;
}

const { check } = commandLine("[--check]", { options: { check: { type: "boolean" } } }).values;
for (const one of TABLES) {
  const file = path.join(root, one.file);
  const text = fs.readFileSync(file, "utf8");
  const start = text.indexOf(BEGIN);
  const end = text.indexOf(END);
  if (start < 0 || end < start) fail(`${one.file} has no results block`);
  const wanted = text.slice(0, start) + block(one) + text.slice(end + END.length);
  if (!check) fs.writeFileSync(file, wanted);
  else if (text !== wanted) fail(`the table of ${one.file} is not that of the results: node scripts/result-tables.mjs`);
}
