// Builds the CUDA kernels for this machine's GPU and runs their tests, then the same tests, fewer rounds of them, under compute-sanitizer
// (memcheck and racecheck). What was said lies in build-cuda-gpu/results; the last line is that of the tests.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { commandLine, fail, has, root, run } from "./common.mjs";

commandLine();
if (!has("nvcc") && !fs.existsSync("/usr/local/cuda/bin/nvcc")) fail("nvcc not found: install the CUDA toolkit, 13.0 or newer");
if (!has("nvidia-smi")) fail("no NVIDIA driver on this machine: the kernels can be compiled here, but not run");

const out = path.join(root, "build-cuda-gpu", "results");
fs.mkdirSync(out, { recursive: true });
const parts = ["tests", "memcheck", "racecheck"];
const status = run("sh", ["cuda/run-on-gpu.sh", out, ...parts], { soft: true });
for (const part of parts) {
  const file = path.join(out, `${part}.txt`);
  if (status !== 0 && fs.existsSync(file)) process.stderr.write(`--- ${part}\n${fs.readFileSync(file, "utf8").slice(-6000)}\n`);
}
const tests = path.join(out, "tests.txt");
const last = fs.existsSync(tests) ? fs.readFileSync(tests, "utf8").trimEnd().split("\n").at(-1) : undefined;
console.log(last ?? "0 passed, 1 failed");
process.exitCode = status;
