// Builds the addon and the C++ tests with sanitizers and runs all suites on them: C++, test/unit, test/worker, and test/e2e with the real
// llama.cpp. Ends with one line, `N passed, N failed`, in which every report of a sanitizer about our code is a failure.
//
//   node scripts/test-sanitized.mjs address,undefined | thread [vitest arguments]
import { spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { capture, cmake, commandLine, fail, root, say } from "./common.mjs";

const [sanitizers = "", ...rest] = commandLine("address,undefined|thread [vitest arguments]", { passRest: true }).rest;
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
  LATENTWIRE_UNITY: "ON",
  // TSan sees nothing in what runs one thread; kernels and fits run on all of them in the tests of the addon
  ...(thread && { LATENTWIRE_TEST_FILES: "thread_pool;large_memory;device;device_content" }),
};
cmake(build, { definitions, targets: ["latentwire", "latentwire-tests"] });

// Reports go to files, because the output of a process that a test starts is often nobody's, and a worker of vitest may take its own with it.
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "latentwire-sanitized-"));
const log = `log_path=${path.join(folder, "report")}`;
const options = {
  // Node itself frees nothing at exit, so leaks say nothing here.
  ASAN_OPTIONS: `detect_leaks=0:abort_on_error=0:alloc_dealloc_mismatch=0:${log}`,
  UBSAN_OPTIONS: `print_stacktrace=1:halt_on_error=1:${log}`,
  // Nothing stops at a report, for most are about Node; isOurs tells which count. Not ignore_noninstrumented_modules: on Linux it takes
  // every module for one, and hides our own races wherever an access is a memcpy, memmove or free.
  TSAN_OPTIONS: `halt_on_error=0:exitcode=0:second_deadlock_stack=1:${log}`,
};
const library = capture(process.env.CXX ?? "c++", [`-print-file-name=${thread ? "libtsan.so" : "libasan.so"}`]).trim();
// LD_PRELOAD is for node alone: the shell and the compiler would be slowed down or refuse to start.
const env = {
  ...process.env,
  ...options,
  // what touches memory runs in the tests "in every table"
  LATENTWIRE_TEST_SETS: thread ? "one" : "best",
  LATENTWIRE_TEST_ROUNDS: process.env.LATENTWIRE_TEST_ROUNDS ?? "20",
  LATENTWIRE_PRELOAD: library,
};

/** Runs test.mjs on this build, shows what it prints and returns what it counted; a run in which nothing passed is a failure. */
function test(...args) {
  const addon = path.join(root, build, "Release", "latentwire.node");
  const command = ["scripts/test.mjs", `--addon=${addon}`, `--tests=${path.join(build, "latentwire-tests")}`, ...args];
  const child = spawn(process.execPath, [...command, "--testTimeout=300000", "--hookTimeout=300000"], {
    cwd: root,
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.on("data", (data) => {
    process.stdout.write(data);
    output += data;
  });
  return new Promise((resolve) => {
    child.on("close", (status) => {
      const line = /(\d+) passed, (\d+) failed\n$/.exec(output);
      const passed = Number(line?.[1] ?? 0);
      const failed = Number(line?.[2] ?? 0);
      resolve({ passed, failed: failed === 0 && (status !== 0 || passed === 0) ? 1 : failed });
    });
  });
}

/**
 * Whether a report of TSan is about our code. Node, llama.cpp and vitest's bundler are not instrumented, so TSan misses how they synchronise
 * and reports what they do. It is ours if one of its accesses (or locks) was made by our code, directly or by a function of the C or C++
 * library, except against ggml's threads, which hand over their results by atomics that TSan does not see, and against the dynamic loader,
 * which frees the thread-local storage of threads that have ended under a lock of its own. About the number of a file only both accesses together
 * say something: libuv closes files by a system call that TSan does not see, and the number goes to the next who opens one. A suppressions file cannot say that: `race:`
 * takes any frame, and every call of ours has Node or, in callbacks, llama.cpp below it; `called_from_lib:` dies when ggml closes the
 * backends that it tried.
 */
function isOurs(report) {
  const runtime = /\((libtsan|libstdc\+\+|libgcc_s|libc)\.so[^()]*\)$/;
  const makers = report
    .split("\n\n")
    .filter((part) => !/^ {2}(Location|Thread|As if|Mutex \w+ \(\w+\) created)/.test(part))
    .map((part) => part.split("\n").find((line) => /^ +#\d+ /.test(line) && !runtime.test(line)) ?? "");
  const ours = (line) => /\((latentwire|replay-)[^()]*\)$/.test(line);
  const opens = /^ +#0 (fopen|fopen64|fclose|open|open64|close|epoll_create1?|eventfd|memfd_create|socket|accept4?|pipe2?|dup[23]?) /gm;
  if (/^ {2}Location is file descriptor/m.test(report) || (report.match(opens) ?? []).length >= 2) return makers.every(ours);
  return makers.some(ours) && !makers.some((line) => /\((lib(ggml|llama)|ld-linux)[^()]*\)$/.test(line));
}

/** The reports that count. A sanitizer that stopped its process says so in a file of its own. */
function findReports() {
  const texts = fs.readdirSync(folder).map((name) => fs.readFileSync(path.join(folder, name), "utf8"));
  if (!thread) return texts;
  return texts.flatMap((text) => text.split(/^={18}\n/m)).filter((text) => text.includes("ThreadSanitizer") && isOurs(text));
}

// Left out is what runs none of our native code, or the same as another suite in processes of its own, and under TSan, where starting Node takes seconds,
// what runs one thread, and the store on disk: with lmdb, which is not instrumented, and processes that are killed, it hangs there.
const single = [
  "e2e/cli",
  "e2e/gate",
  "e2e/kv-store",
  "e2e/kv-windows",
  "e2e/kv-attention",
  "e2e/kv-codec",
  "e2e/kv-in-place",
  "e2e/eval-translated",
  "unit/unsupervised",
  "unit/translator",
];
const evaluation = ["statistics", "suite", "relay", "harness", "report"].map((name) => `unit/eval-${name}`);
// messages and sockets are Node's; what a bus hands over is tested by itself
const bus = ["unit/bus-*", "e2e/bus*", "e2e/cli-bus", "e2e/chat-completions", "e2e/exit"];
const without = ["unit/docs", "unit/scripts", ...evaluation, ...bus, "e2e/cli-spaces", "e2e/cli-eval", ...(thread ? single : [])];
const excluded = without.map((name) => `--exclude=test/${name}.test.ts`);
const suites =
  rest.length > 0
    ? [rest]
    : [
        ["test/unit", "test/worker", ...excluded],
        ["--no-native", "test/e2e", ...excluded],
      ];
let passed = 0;
let failed = 0;
for (const suite of suites) {
  const counts = await test(...suite);
  passed += counts.passed;
  failed += counts.failed;
}
const reports = findReports();
for (const report of reports) console.error(report);
if (reports.length > 0) say(`${reports.length} reports of sanitizers`);
failed += reports.length;
fs.rmSync(folder, { recursive: true, force: true });

console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
