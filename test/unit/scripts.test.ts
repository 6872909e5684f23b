// The command lines of the build and test scripts: a wrong argument ends them before they do anything.
import { spawnSync } from "node:child_process";
import path from "node:path";
import { expect, it } from "vitest";

const scripts = [
  "build-cuda",
  "build-gyp",
  "check-exports",
  "check-glibc",
  "check-llama-headers",
  "format",
  "gpu-bench",
  "gpu-test",
  "prebuild",
  "result-tables",
  "setup",
  "test",
  "test-consumer",
  "test-fuzz",
  "tidy",
];

function call(name: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } {
  // without a sanitizer's run time: the scripts load no native code, and it would make each start slow
  const env = { ...process.env, LD_PRELOAD: "" };
  return spawnSync(process.execPath, [path.resolve("scripts", `${name}.mjs`), ...args], { encoding: "utf8", env, timeout: 20_000 });
}

it.each(scripts)("%s prints its usage for --help", (name) => {
  const { status, stdout, stderr } = call(name, "--help");
  expect([status, stderr]).toEqual([0, ""]);
  expect(stdout).toMatch(new RegExp(`^usage: node scripts/${name}\\.mjs\\b.*\\n$`));
});

// test.mjs passes what it does not know to vitest, which refuses it
it.each(scripts.filter((name) => name !== "test"))("%s refuses an option that it does not have", (name) => {
  const { status, stdout, stderr } = call(name, "--no-such-option");
  expect([status, stdout]).toEqual([2, ""]);
  expect(stderr).toContain("--no-such-option");
  expect(stderr).toMatch(new RegExp(`\\nusage: node scripts/${name}\\.mjs\\b.*\\n$`));
});

it.each([
  ["setup", "--only=both"],
  ["setup", "--only"],
  ["setup", "--tests=yes"],
  ["setup", "tests"],
  ["format", "lib"],
  ["prebuild", "linux"],
  ["test", "--addon"],
  ["test", "--no-native=1"],
])("%s refuses %s", (name, argument) => {
  const { status, stderr } = call(name, argument);
  expect(status).toBe(2);
  expect(stderr).toContain("usage: ");
});
