// Runs the benchmarks and prints one table.
//
//   npm run -s bench -- [--json] [--save[=name]] [filter]
//
// filter: part of a row's name. --json: the results on stdout as JSON. --save: also writes them to bench/results/<name>.json (name: latest). Every
// number is a median of interleaved repetitions; progress goes to stderr.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { fail, root, say } from "../scripts/common.mjs";
import { repetitions, watchHardware } from "./harness.mjs";
import { disposeModels } from "./models.mjs";

const topics = ["napi", "event-loop", "handoff", "steps"];

function parse(args) {
  const options = { json: false, save: undefined, filter: "" };
  for (const arg of args) {
    const save = /^--save(?:=([\w-]+))?$/.exec(arg);
    if (arg === "--json") options.json = true;
    else if (save !== null) options.save = save[1] ?? "latest";
    else if (arg.startsWith("-")) fail(`unknown option ${arg}; there are --json and --save[=name]`);
    else options.filter = arg;
  }
  return options;
}

function cell(value) {
  if (value === null) return "-";
  if (typeof value === "boolean") return value ? "yes" : "NO";
  if (typeof value === "number") return String(Number(value.toPrecision(3)));
  if (typeof value !== "object") return String(value);
  return (
    Object.entries(value)
      .map(([name, one]) => `${name} ${cell(one)}`)
      .join("; ") || "-"
  );
}

function print(rows, hardware) {
  const head = ["name", "shape", "ms", "peers", "ratio", "target", "met"];
  const lines = [head, ...rows.map((one) => head.map((key) => cell(one[key])))];
  const widths = head.map((_, i) => Math.max(...lines.map((line) => line[i].length)));
  for (const line of lines)
    process.stdout.write(
      `${line
        .map((one, i) => one.padEnd(widths[i]))
        .join("  ")
        .trimEnd()}\n`,
    );
  process.stdout.write(`\nmedians of ${repetitions} interleaved repetitions on ${hardware}\n`);
}

const options = parse(process.argv.slice(2));
const describe = watchHardware();
const rows = [];

function results() {
  return { date: new Date().toISOString().slice(0, 10), hardware: describe(), repetitions, rows };
}

function save(name) {
  const folder = path.join(root, "bench", "results");
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, `${name}.json`), `${JSON.stringify(results(), null, 2)}\n`);
}

for (const topic of topics) {
  say(topic);
  const { run } = await import(`./${topic}.mjs`);
  rows.push(...(await run((name) => name.includes(options.filter))));
  // after every topic, so that a run that is cut off keeps what it has
  if (options.save !== undefined && rows.length > 0) save(options.save);
}
await disposeModels();
if (rows.length === 0) fail(`no benchmark has '${options.filter}' in its name`);

const { hardware } = results();
if (options.json) process.stdout.write(`${JSON.stringify(results(), null, 2)}\n`);
else print(rows, hardware);
