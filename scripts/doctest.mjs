// Runs the C++ test executable through ctest's rules (its exit code decides) and reads its counts from the summary line.
import { spawnSync } from "node:child_process";
import { root } from "./common.mjs";

/** Runs a doctest executable, shows its output, and returns `{passed, failed}`; a crash or an empty run is a failure. */
export function runDoctest(executable, env = {}) {
  const result = spawnSync(executable, ["--no-colors=true"], { cwd: root, env: { ...process.env, ...env }, encoding: "utf8", maxBuffer: 1 << 28 });
  process.stdout.write(result.stdout ?? "");
  process.stderr.write(result.stderr ?? "");
  const line = /test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed/.exec(result.stdout ?? "");
  const passed = Number(line?.[1] ?? 0);
  const failed = Number(line?.[2] ?? 0);
  const broken = (result.status !== 0 && failed === 0) || passed + failed === 0;
  return { passed, failed: failed + (broken ? 1 : 0) };
}
