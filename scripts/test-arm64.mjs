// Cross-compiles the C++ tests for arm64 and runs them under qemu, the kernels with every instruction set. Needs g++-aarch64-linux-gnu and
// qemu-user. Ends with one line, `N passed, N failed`.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { cmake, commandLine, root } from "./common.mjs";
import { runDoctest } from "./native-tests.mjs";

commandLine();
process.env.LATENTWIRE_TEST_ROUNDS ??= "20"; // the emulator makes each many times as long
const build = "build-arm64";
// The compiler must not see the other headers beside doctest's, which are this machine's.
const include = path.join(root, build, "include");
fs.mkdirSync(include, { recursive: true });
const link = path.join(include, "doctest");
fs.rmSync(link, { force: true });
fs.symlinkSync("/usr/include/doctest", link);
const definitions = {
  CMAKE_BUILD_TYPE: "Release",
  CMAKE_SYSTEM_NAME: "Linux",
  CMAKE_SYSTEM_PROCESSOR: "aarch64",
  CMAKE_CXX_COMPILER: "aarch64-linux-gnu-g++",
  LATENTWIRE_TESTS: "ON",
  LATENTWIRE_UNITY: "ON",
  LATENTWIRE_WERROR: "OFF",
  LATENTWIRE_DOCTEST_INCLUDE: include,
  LATENTWIRE_EIGEN_INCLUDE: "/usr/include/eigen3",
};
cmake(build, { definitions, targets: ["latentwire-tests"] });
const executable = path.join(root, build, "latentwire-tests");
const emulator = ["qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"];
const { passed, failed } = await runDoctest(executable, { emulator, arch: "arm64" });
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
