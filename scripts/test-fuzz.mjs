// Builds every fuzz target of test/fuzz with Clang and lets each run for an equal share of LATENTWIRE_FUZZ_SECONDS (default 20),
// starting from its corpus in test/fuzz/corpus/<name>. Fails on the first crash, or when there is no target.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { cmake, commandLine, fail, filesBelow, has, root, run, say } from "./common.mjs";

commandLine();
const compiler = ["clang++", "clang++-19", "clang++-16", "clang++-15", "clang++-14"].find((name) => has(name));
if (compiler === undefined) fail("clang++ not found (Debian 12: apt-get install clang-14 libclang-rt-14-dev)");
const names = filesBelow("test/fuzz", ["_fuzz.cpp"]).map((file) => path.basename(file, "_fuzz.cpp"));
if (names.length === 0) fail("no fuzz target in test/fuzz");

say(`building ${String(names.length)} fuzz targets (${compiler})`);
const definitions = { CMAKE_BUILD_TYPE: "Release", CMAKE_CXX_COMPILER: compiler, LATENTWIRE_FUZZ: "ON" };
cmake("build-fuzz", { definitions, targets: ["fuzz"] });

const seconds = Math.max(2, Math.floor(Number(process.env.LATENTWIRE_FUZZ_SECONDS ?? 20) / names.length));
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "latentwire-fuzz-"));
for (const name of names) {
  const found = path.join(scratch, name);
  fs.mkdirSync(found);
  const corpus = path.join(root, "test", "fuzz", "corpus", name);
  say(`${name}: ${String(seconds)} s`);
  const limits = [
    `-max_total_time=${String(seconds)}`,
    "-timeout=10",
    "-rss_limit_mb=2048",
    `-artifact_prefix=${path.join(root, "build-fuzz", `${name}-`)}`,
  ];
  run(
    path.join(root, "build-fuzz", `fuzz-${name}`),
    [...limits, "-print_final_stats=1", found, ...(fs.existsSync(corpus) ? [corpus] : [])],
    { quiet: true },
  );
}
fs.rmSync(scratch, { recursive: true, force: true });
console.log(`${String(names.length)} passed, 0 failed`);
