// Runs the C++ tests (what ctest would run) and the TypeScript tests (vitest) and ends with one line, `N passed, N failed`. A suite that ran no test
// counts as a failure.
//
//   node scripts/test.mjs [--addon=FILE] [--tests=FILE] [--no-native] [vitest arguments]
//
// --addon runs the TypeScript tests on another build of the addon (LATENTWIRE_NATIVE_PATH), --tests names another build of the C++ tests,
// --no-native leaves them out. LATENTWIRE_PRELOAD is a library (a sanitizer's run time) that Node must load first.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { commandLine, root } from "./common.mjs";
import { runDoctest, runReplays } from "./native-tests.mjs";

const { values, rest } = commandLine("[--addon=FILE] [--tests=FILE] [--no-native] [vitest arguments]", {
  options: { addon: { type: "string" }, tests: { type: "string" }, "no-native": { type: "boolean" } },
  passRest: true,
});
const { addon } = values;
let passed = 0;
let failed = 0;

if (!values["no-native"]) {
  const executable = path.resolve(root, values.tests ?? path.join("build", "latentwire-tests"));
  for (const result of [await runDoctest(executable), await runReplays(path.dirname(executable))]) {
    passed += result.passed;
    failed += result.failed;
  }
}

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "latentwire-test-"));
const report = path.join(folder, "vitest.json");
const preload = process.env.LATENTWIRE_PRELOAD;
const env = {
  ...process.env,
  ...(addon && { LATENTWIRE_NATIVE_PATH: path.resolve(root, addon) }),
  ...(preload && { LD_PRELOAD: preload }),
};
const vitest = ["node_modules/vitest/vitest.mjs", "run", "--reporter=default", "--reporter=json", `--outputFile.json=${report}`, ...rest];
const { status } = spawnSync(process.execPath, vitest, { cwd: root, env, stdio: "inherit" });
if (fs.existsSync(report)) {
  const counts = JSON.parse(fs.readFileSync(report, "utf8"));
  passed += counts.numPassedTests;
  failed += counts.numFailedTests;
  for (const file of counts.testResults) {
    for (const { status: outcome, fullName, failureMessages } of file.assertionResults)
      if (outcome === "failed") console.log(`FAILED TEST: ${fullName}: ${failureMessages.join(" ").split("\n", 1)[0]}`);
  }
  // Vitest also fails for a file that cannot be loaded and for an unhandled rejection; neither is a failed test.
  if (status !== 0 && counts.numFailedTests === 0) {
    failed += 1;
    console.log(`FAILED TEST: vitest ended with ${String(status)} though no test failed`);
  }
  if (counts.numTotalTests === 0) failed += 1;
} else {
  failed += 1;
}
fs.rmSync(folder, { recursive: true, force: true });

console.log(`${String(passed)} passed, ${String(failed)} failed`);
process.exitCode = failed === 0 ? 0 : 1;
