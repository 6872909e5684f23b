// Runs the benchmarks and prints one table a suite.
//
//   npm run -s bench -- [--json] [--save] [--suite=main-job|kv|kv-in-place|kernels|spaces|eval|bus] [--threads=N] [--compare=file] [filter]
//
// filter: part of a row's name. --json: the rows on stdout as one array. --save: also writes them, with date and hardware, to
// bench/results/<suite>.json. --threads: of the kernels (1). --compare: adds the ratio to the rows of an older file. Every number is a median of
// interleaved repetitions; progress goes to stderr.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { commandLine, fail, root, say } from "../scripts/common.mjs";
import { repetitions, watchHardware } from "./harness.mjs";
import { disposeModels } from "./models.mjs";

const suites = {
  "main-job": ["napi", "event-loop", "handoff", "steps"],
  kv: ["kv", "kv-store"],
  "kv-in-place": ["kv-in-place"],
  kernels: ["kernels", "native-benches"],
  spaces: ["spaces", "between-models"],
  eval: ["evaluation", "agents"],
  bus: ["bus", "bus-agents"],
};

function parse() {
  const { values, positionals } = commandLine(
    "[--json] [--save] [--suite=main-job|kv|kv-in-place|kernels|spaces|eval|bus] [--threads=N] [--compare=file] [filter]",
    {
      options: {
        json: { type: "boolean" },
        save: { type: "boolean" },
        suite: { type: "string", choices: Object.keys(suites) },
        threads: { type: "string" },
        compare: { type: "string" },
      },
      positionals: true,
    },
  );
  const threads = Number(values.threads ?? 1);
  if (!Number.isInteger(threads) || threads < 1) fail(`--threads cannot be '${values.threads}'`);
  return { ...values, threads, filter: positionals[0] ?? "" };
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

function print({ rows, hardware }) {
  const keys = [
    "name",
    "shape",
    "dtype",
    "ms",
    "p99",
    "peers",
    "ratio",
    "right",
    "placebo",
    "verdict",
    "limitShare",
    "target",
    "met",
    "against",
  ];
  const head = keys.filter((key) => rows.some((one) => one[key] !== undefined));
  const lines = [head, ...rows.map((one) => head.map((key) => cell(one[key] ?? null)))];
  const widths = head.map((_, i) => Math.max(...lines.map((line) => line[i].length)));
  for (const line of lines)
    process.stdout.write(
      `${line
        .map((one, i) => one.padEnd(widths[i]))
        .join("  ")
        .trimEnd()}\n`,
    );
  process.stdout.write(`\nmedians of up to ${repetitions} interleaved repetitions on ${hardware}\n\n`);
}

/** Adds to each row how many times as long as in an older file it took. */
function compare(rows, file) {
  const key = ({ name, shape, dtype, threads }) => JSON.stringify([name, shape, dtype, threads]);
  const old = new Map(JSON.parse(fs.readFileSync(file, "utf8")).rows.map((one) => [key(one), one.ms]));
  for (const one of rows) one.against = old.has(key(one)) ? one.ms / old.get(key(one)) : null;
}

const options = parse();
// before the pool of threads is made; keys and values are moved by all of them
if (!["kv", "kv-in-place", "bus"].includes(options.suite)) process.env.LATENTWIRE_THREADS ??= String(options.threads);
const all = [];
for (const [suite, topics] of Object.entries(suites)) {
  if (options.suite !== undefined && options.suite !== suite) continue;
  const describe = watchHardware();
  const rows = [];
  let device; // that was measured besides the processor
  for (const topic of topics) {
    say(topic);
    const { run, where } = await import(`./${topic}.mjs`);
    rows.push(...(await run((name) => name.includes(options.filter), options)));
    if (where !== undefined) device = await where();
  }
  if (rows.length === 0) continue;
  const hardware = [...(device === undefined ? [] : [device.name]), describe()].join(", ");
  const results = { date: new Date().toISOString().slice(0, 10), hardware, repetitions, rows };
  const file = path.join(root, "bench", "results", `${suite}${device === undefined ? "" : `-${device.kind}`}.json`);
  if (options.save) fs.writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
  if (options.compare !== undefined) compare(rows, options.compare);
  if (!options.json) print(results);
  all.push(...rows);
}
await disposeModels();
if (all.length === 0) fail(`no benchmark has '${options.filter}' in its name`);
if (options.json) process.stdout.write(`${JSON.stringify(all, null, 2)}\n`);
