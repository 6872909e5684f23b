// Writes the results table of the README from bench/results/main-job.json, so that no number there is typed by hand.
//
//   node scripts/readme-table.mjs [--print]
//
// --print writes the block to stdout and leaves the README alone. Without the results file the block is empty.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { commandLine, root } from "./common.mjs";

const BEGIN = "<!-- results:begin -->";
const END = "<!-- results:end -->";
const HEAD = ["what", "shape", "ms", "compared with", "ratio", "target", "met"];

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
  const widths = HEAD.map((_, i) => Math.max(3, ...rows.map((row) => [...row[i]].length)));
  const line = (cells) => `| ${cells.map((one, i) => one + " ".repeat(widths[i] - [...one].length)).join(" | ")} |`;
  const [head, ...body] = rows;
  return [line(head), `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`, ...body.map(line)].join("\n");
}

function block() {
  const file = path.join(root, "bench", "results", "main-job.json");
  if (!fs.existsSync(file)) return `${BEGIN}\n${END}`;
  const { hardware, date, rows } = JSON.parse(fs.readFileSync(file, "utf8"));
  const cells = rows.map((row) => [row.name, row.shape, row.ms, row.peers, row.ratio, row.target, row.met].map(cell));
  const note = `Measured by \`npm run bench\` on ${cell(date)}, on ${cell(hardware)}.`;
  return `${BEGIN}\n\n${table([HEAD, ...cells])}\n\n${note}\n\n${END}`;
}

if (commandLine("[--print]", { options: { print: { type: "boolean" } } }).values.print) {
  process.stdout.write(`${block()}\n`);
} else {
  const file = path.join(root, "README.md");
  const text = fs.readFileSync(file, "utf8");
  const start = text.indexOf(BEGIN);
  const end = text.indexOf(END);
  if (start < 0 || end < start) throw new Error("README.md has no results block");
  fs.writeFileSync(file, text.slice(0, start) + block() + text.slice(end + END.length));
}
