// Runs the C++ tests and counts them: the doctest executable, and the replay of the fuzz corpora.
import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { jobs, root } from "./common.mjs";

/** Runs a program to its end, then shows what it said, and returns `{ status, stdout }`. */
async function execute(executable, args, environment = {}) {
  const child = spawn(executable, args, { cwd: root, env: { ...process.env, ...environment }, stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (data) => (stdout += data));
  child.stderr.on("data", (data) => (stderr += data));
  const [status, signal] = await new Promise((resolve) => {
    child.on("error", (error) => resolve([1, error.message]));
    child.on("close", (...how) => resolve(how));
  });
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  if (status === null || signal !== null) console.error(`${executable}: ended by ${String(signal)}`);
  return { status, stdout };
}

/**
 * Instruction sets below the best one, whose kernels have to be asked for. Under qemu, plain C++ is left out, which is the same everywhere, and so are sets
 * that replace a single product: tests "in every table" go through all of them by themselves. LATENTWIRE_TEST_SETS=best leaves all of them out, and
 * LATENTWIRE_TEST_SETS=one runs whatever the executable has at once.
 */
const sets = process.env.LATENTWIRE_TEST_SETS ?? "all";
const plainer = sets !== "all" ? {} : { arm64: ["neon"], x64: ["scalar", "avx2", "avx512", "avx512_vnni"] };

/**
 * Runs a doctest executable, its kernels also with every instruction set, and returns `{passed, failed}`; a crash or an empty run is a failure.
 * `emulator` is the command in front of it where it is for another processor. As many runs at once as there are cores.
 */
export async function runDoctest(executable, { emulator = [], arch = process.arch } = {}) {
  const [command, ...args] = [...emulator, executable];
  const halves = sets === "one" ? [[]] : [["--test-suite-exclude=kernels"], ["--test-suite=kernels"]];
  const runs = [
    ...halves.map((filter) => ({ args: filter, environment: {} })),
    ...(plainer[arch] ?? []).map((isa) => ({
      args: ["--test-suite=kernels", "--test-case-exclude=*in every table*"],
      environment: { LATENTWIRE_ISA: isa },
    })),
  ];
  const counts = [];
  const worker = async () => {
    for (let run = runs.shift(); run !== undefined; run = runs.shift())
      counts.push(await runCases(command, [...args, ...run.args], run.environment));
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  const total = (key) => counts.reduce((sum, one) => sum + one[key], 0);
  return { passed: total("passed"), failed: total("failed") };
}

async function runCases(command, args, environment) {
  const result = await execute(command, [...args, "--no-colors=true"], environment);
  const line = /test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed/.exec(result.stdout);
  const passed = Number(line?.[1] ?? 0);
  const failed = Number(line?.[2] ?? 0);
  const broken = (result.status !== 0 && failed === 0) || passed + failed === 0;
  const names = [...result.stdout.matchAll(/^TEST CASE: {2}(.*)(?:\n(?!=).*)*ERROR/gm)].map(([, name]) => name);
  for (const name of new Set(names)) console.log(`FAILED TEST: ${name}`);
  if (broken) console.log(`FAILED TEST: ${command} ${args.join(" ")} ended with ${String(result.status)}`);
  return { passed, failed: failed + (broken ? 1 : 0) };
}

/** Replays the corpus of every fuzz target, with mutations, in the build folder `build`; each target is one test. */
export async function runReplays(build) {
  let passed = 0;
  let failed = 0;
  const corpora = path.join(root, "test", "fuzz", "corpus");
  for (const name of fs.existsSync(corpora) ? fs.readdirSync(corpora) : []) {
    const { status } = await execute(path.join(build, `replay-${name}`), ["200", path.join(corpora, name)]);
    if (status === 0) {
      passed += 1;
    } else {
      failed += 1;
      console.log(`FAILED TEST: replay of ${name}`);
    }
  }
  return { passed, failed };
}
