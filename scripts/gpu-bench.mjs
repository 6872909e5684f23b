// Builds the CUDA kernels for this machine's GPU, measures them, and PyTorch on the same shapes where Python has it, and prints one table.
//
//   npm run -s bench:gpu -- [--save]
//
// --save also writes the rows, with date and device, to bench/results/cuda.json.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { commandLine, fail, has, root, run } from "./common.mjs";

const { save = false } = commandLine("[--save]", { options: { save: { type: "boolean" } } }).values;
if (!has("nvcc") && !fs.existsSync("/usr/local/cuda/bin/nvcc")) fail("nvcc not found: install the CUDA toolkit, 13.0 or newer");
if (!has("nvidia-smi")) fail("no NVIDIA driver on this machine: the kernels can be compiled here, but not measured");

const out = path.join(root, "build-cuda-gpu", "results");
fs.mkdirSync(out, { recursive: true });
const status = run("sh", ["cuda/run-on-gpu.sh", out, "bench", "peers"], { soft: true });

/** The lines of a file of JSON lines; none if there is no such file. */
function lines(name) {
  const file = path.join(out, name);
  if (!fs.existsSync(file)) return [];
  const text = fs.readFileSync(file, "utf8").split("\n");
  return text.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

const [device, ...ours] = lines("bench.json");
if (device === undefined) fail(`no measurement was made: ${path.join(out, "summary.txt")}`);
const peers = lines("peers.json").filter((line) => line.us !== undefined);
const rows = ours.map((row) => {
  const same = peers.filter((peer) => peer.op === row.op && peer.shape === row.shape);
  const times = Object.fromEntries(same.map((peer) => [peer.peer, peer.us]));
  const best = Math.min(...Object.values(times));
  return { ...row, peers: times, ...(same.length > 0 && row.us !== undefined ? { against: best / row.us } : {}) };
});

const cell = (value) => (value === undefined ? "-" : typeof value === "number" ? String(Number(value.toPrecision(3))) : String(value));
const table = [
  ["op", "shape", "us", "floor us", "share", "limit", "eager us", "compiled us", "times as fast"],
  ...rows.map((row) => [
    row.op,
    row.shape,
    cell(row.us ?? row.error),
    cell(row.floor_us),
    cell(row.share),
    cell(row.limit),
    cell(row.peers["torch eager"]),
    cell(row.peers["torch compile"]),
    cell(row.against),
  ]),
];
const widths = table[0].map((_, i) => Math.max(...table.map((line) => line[i].length)));
for (const line of table)
  console.log(
    line
      .map((one, i) => one.padEnd(widths[i]))
      .join("  ")
      .trimEnd(),
  );
console.log(`\n${device.name}: copy ${cell(device.copy_gbs)} GB/s, bf16 product ${cell(device.bf16_tflops)} TFLOP/s`);

if (save) {
  const file = path.join(root, "bench", "results", "cuda.json");
  fs.writeFileSync(file, `${JSON.stringify({ date: new Date().toISOString().slice(0, 10), device, rows }, null, 2)}\n`);
}
process.exitCode = status;
