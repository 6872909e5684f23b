// Builds every fuzz target of test/fuzz with Clang and lets each run for LATENTWIRE_FUZZ_SECONDS (default 60), as many at once as there are cores,
// starting from its corpus in test/fuzz/corpus/<name>. Ends with one line, `N passed, N failed`; a target that finds something shows its report, and
// what it found lies in build-fuzz/.
import { spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { cmake, commandLine, fail, filesBelow, has, jobs, root, say } from "./common.mjs";

commandLine();
const compiler = ["clang++", "clang++-19", "clang++-16", "clang++-15", "clang++-14"].find((name) => has(name));
if (compiler === undefined) fail("clang++ not found (Debian 12: apt-get install clang-14 libclang-rt-14-dev)");
const names = filesBelow("test/fuzz", ["_fuzz.cpp"]).map((file) => path.basename(file, "_fuzz.cpp"));
if (names.length === 0) fail("no fuzz target in test/fuzz");

say(`building ${String(names.length)} fuzz targets (${compiler})`);
const definitions = { CMAKE_BUILD_TYPE: "Release", CMAKE_CXX_COMPILER: compiler, LATENTWIRE_FUZZ: "ON" };
cmake("build-fuzz", { definitions, targets: ["fuzz"] });

const seconds = Math.max(2, Number(process.env.LATENTWIRE_FUZZ_SECONDS ?? 60));
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "latentwire-fuzz-"));

/** Whether it found nothing in its time. */
async function fuzz(name) {
  const found = path.join(scratch, name);
  fs.mkdirSync(found);
  const corpus = path.join(root, "test", "fuzz", "corpus", name);
  const limits = [
    `-max_total_time=${String(seconds)}`,
    "-timeout=10",
    "-rss_limit_mb=2048",
    `-artifact_prefix=${path.join(root, "build-fuzz", `${name}-`)}`,
  ];
  say(`${name}: ${String(seconds)} s`);
  const child = spawn(path.join(root, "build-fuzz", `fuzz-${name}`), [...limits, found, ...(fs.existsSync(corpus) ? [corpus] : [])], {
    cwd: root,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let report = "";
  child.stderr.on("data", (data) => (report += String(data)));
  const status = await new Promise((resolve) => child.on("close", resolve));
  if (status === 0) return true;
  console.log(report.slice(-8000));
  console.log(`FAILED TEST: fuzz target ${name} ended with ${String(status)}`);
  return false;
}

const waiting = [...names];
let passed = 0;
const worker = async () => {
  for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) if (await fuzz(name)) passed += 1;
};
await Promise.all(Array.from({ length: jobs }, worker));
fs.rmSync(scratch, { recursive: true, force: true });
console.log(`${String(passed)} passed, ${String(names.length - passed)} failed`);
process.exitCode = passed === names.length ? 0 : 1;
