// The rows that are measured in C++: bench/native/<name>_bench.cpp, built into build-bench against the peers that C++ has (OpenBLAS, Eigen, XXH3,
// memcpy). Each prints one JSON line a row.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { cmake, fail, root, say } from "../scripts/common.mjs";

const build = "build-bench";
const rowsOf = {
  bf16_rows_bench: ["A8"],
  thought_bench: ["C2"],
  tile_bench: ["D1", "D2", "D3"],
  kv_rows_bench: ["D2", "D3"],
  codebook_bench: ["E1"],
  fit_bench: ["F1"],
  threads_bench: ["G2"],
};

/**
 * OpenBLAS before 0.3.25 takes new processors for a Prescott; the names are those of its OPENBLAS_CORETYPE. What the shell says of OpenBLAS is dropped: a
 * peer must not be slowed down by somebody's environment.
 */
function environment(threads) {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith("OPENBLAS_"));
  const flags = fs.existsSync("/proc/cpuinfo") ? fs.readFileSync("/proc/cpuinfo", "utf8") : "";
  const core = /\bavx512f\b/.test(flags) ? "SKYLAKEX" : /\bavx2\b/.test(flags) ? "HASWELL" : undefined;
  return {
    LATENTWIRE_THREADS: String(threads),
    ...Object.fromEntries(kept),
    OPENBLAS_NUM_THREADS: String(threads),
    ...(core === undefined ? {} : { OPENBLAS_CORETYPE: core }),
  };
}

function rows(name, filter, threads) {
  const result = spawnSync(path.join(root, build, name), [`--threads=${threads}`, filter], {
    env: environment(threads),
    stdio: ["ignore", "pipe", "inherit"],
    encoding: "utf8",
  });
  if (result.status !== 0) fail(`${build}/${name} failed (${result.error?.message ?? result.signal ?? `exit code ${result.status}`})`);
  return result.stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));
}

export async function run(want, { threads, filter }) {
  const names = Object.keys(rowsOf).filter((name) => rowsOf[name].some(want));
  if (names.length === 0) return [];
  say(`building ${build}, or bringing it up to date`);
  cmake(build, { definitions: { LATENTWIRE_BENCH: "ON", CMAKE_BUILD_TYPE: "Release" }, targets: names });
  return names.flatMap((name) => {
    say(name);
    return rows(name, filter, threads);
  });
}
