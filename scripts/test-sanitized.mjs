// Builds the addon and the C++ tests with sanitizers and runs the suites that use native code hardest: test/worker, test/unit, C++.
//
//   node scripts/test-sanitized.mjs address,undefined | thread [vitest arguments]
import path from "node:path";
import process from "node:process";
import { spawnSync } from "node:child_process";
import { capture, cmake, fail, root, say } from "./common.mjs";

const [sanitizers = "", ...rest] = process.argv.slice(2);
const thread = sanitizers === "thread";
if (!thread && sanitizers !== "address,undefined") fail("usage: test-sanitized.mjs address,undefined | thread");

const build = thread ? "build-tsan" : "build-asan";
say(`building with -fsanitize=${sanitizers}`);
// The sanitizers themselves make GCC's flow warnings unreliable; the ordinary build has them as errors.
const definitions = {
  CMAKE_BUILD_TYPE: "RelWithDebInfo",
  LATENTWIRE_SANITIZE: sanitizers,
  LATENTWIRE_TESTS: "ON",
  LATENTWIRE_WERROR: "OFF",
};
cmake(build, { definitions, targets: ["latentwire", "latentwire-tests"] });

const options = {
  // Node itself frees nothing at exit, so leaks say nothing here.
  ASAN_OPTIONS: "detect_leaks=0:abort_on_error=0:alloc_dealloc_mismatch=0",
  UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
  TSAN_OPTIONS: "ignore_noninstrumented_modules=1:halt_on_error=1:second_deadlock_stack=1",
};
const library = capture(process.env.CXX ?? "c++", [`-print-file-name=${thread ? "libtsan.so" : "libasan.so"}`]).trim();
// docs.test.ts compiles the examples of the documentation, with no native code of ours running.
const suites = rest.length > 0 ? rest : ["test/unit", "test/worker", "--exclude=test/unit/docs.test.ts"];
const args = [
  "scripts/test.mjs",
  `--addon=${path.join(root, build, "Release", "latentwire.node")}`,
  `--tests=${path.join(build, "latentwire-tests")}`,
];
// LD_PRELOAD is for node alone: the shell and the compiler would be slowed down or refuse to start.
const env = {
  ...process.env,
  ...options,
  LATENTWIRE_TEST_ROUNDS: process.env.LATENTWIRE_TEST_ROUNDS ?? "40",
  LATENTWIRE_PRELOAD: library,
};
const { status } = spawnSync(process.execPath, [...args, ...suites, "--testTimeout=300000", "--hookTimeout=300000"], {
  cwd: root,
  env,
  stdio: "inherit",
});
process.exitCode = status ?? 1;
