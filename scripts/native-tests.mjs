// Runs the C++ tests and counts them: the doctest executable, and the replay of the fuzz corpora.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { root } from "./common.mjs";

function execute(executable, args, environment = {}) {
  const result = spawnSync(executable, args, {
    cwd: root,
    env: { ...process.env, ...environment },
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  process.stdout.write(result.stdout ?? "");
  process.stderr.write(result.stderr ?? "");
  if (result.error) console.error(`${executable}: ${result.error.message}`);
  else if (result.status === null) console.error(`${executable}: ended by ${String(result.signal)}`);
  return result;
}

/**
 * Instruction sets below the best one, whose kernels have to be asked for. Under qemu, plain C++ is left out, which is the same everywhere, and so are sets
 * that replace a single product: tests "in every table" go through all of them by themselves. LATENTWIRE_TEST_SETS=best leaves all of them out.
 */
const plainer = process.env.LATENTWIRE_TEST_SETS === "best" ? {} : { arm64: ["neon"], x64: ["scalar", "avx2", "avx512", "avx512_vnni"] };

/**
 * Runs a doctest executable, then its kernels with every instruction set, and returns `{passed, failed}`; a crash or an empty run is a failure.
 * `emulator` is the command in front of it where it is for another processor.
 */
export function runDoctest(executable, { emulator = [], arch = process.arch } = {}) {
  const [command, ...args] = [...emulator, executable];
  const counts = [runCases(command, args, {})];
  for (const isa of plainer[arch] ?? [])
    counts.push(runCases(command, [...args, "--test-suite=kernels", "--test-case-exclude=*in every table*"], { LATENTWIRE_ISA: isa }));
  const total = (key) => counts.reduce((sum, one) => sum + one[key], 0);
  return { passed: total("passed"), failed: total("failed") };
}

function runCases(command, args, environment) {
  const result = execute(command, [...args, "--no-colors=true"], environment);
  const line = /test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed/.exec(result.stdout ?? "");
  const passed = Number(line?.[1] ?? 0);
  const failed = Number(line?.[2] ?? 0);
  const broken = (result.status !== 0 && failed === 0) || passed + failed === 0;
  return { passed, failed: failed + (broken ? 1 : 0) };
}

/** Replays the corpus of every fuzz target, with mutations, in the build folder `build`; each target is one test. */
export function runReplays(build) {
  let passed = 0;
  let failed = 0;
  const corpora = path.join(root, "test", "fuzz", "corpus");
  for (const name of fs.existsSync(corpora) ? fs.readdirSync(corpora) : []) {
    const { status } = execute(path.join(build, `replay-${name}`), ["200", path.join(corpora, name)]);
    if (status === 0) passed += 1;
    else failed += 1;
  }
  return { passed, failed };
}
