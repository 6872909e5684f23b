// Makes a checkout ready to run: installs npm packages, headers, and builds the addon and the TypeScript if they are missing or stale.
// Idempotent and quick when there is nothing to do. Everything it says goes to stderr, so that `npm run -s demo -- --json` stays JSON.
//
//   node scripts/setup.mjs [--tests] [--rebuild] [--only=native|ts]
//
// --tests also builds the C++ tests; --rebuild ignores freshness. With LATENTWIRE_GLIBC_SYSROOT the build is the portable one that
// prebuild.mjs ships.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { cmake, commandLine, filesBelow, fail, has, root, run, say, stale } from "./common.mjs";

const {
  tests: withTests = false,
  rebuild = false,
  only,
} = commandLine("[--tests] [--rebuild] [--only=native|ts]", {
  options: { tests: { type: "boolean" }, rebuild: { type: "boolean" }, only: { type: "string", choices: ["native", "ts"] } },
}).values;

/** What no npm package has: the header or program to look for, and the Debian package that brings it. */
const SYSTEM = [
  { file: "eigen3/Eigen/Core", package: "libeigen3-dev", tests: false },
  { file: "xxhash.h", package: "libxxhash-dev", tests: false },
  { file: "doctest/doctest.h", package: "doctest-dev", tests: true },
  { program: "nats-server", package: "nats-server", tests: true },
];
const INCLUDE_FOLDERS = ["/usr/include", "/usr/local/include", "/opt/homebrew/include"];

function installPackages() {
  // npm writes this file last, so it is older than the lock file exactly when the lock file has changed since.
  const marker = path.join(root, "node_modules", ".package-lock.json");
  if (!stale(marker, [path.join(root, "package-lock.json")])) return;
  say("installing npm packages (npm ci)");
  run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { quiet: true });
}

function checkTools() {
  for (const tool of ["cmake", process.env.CXX ?? "c++"]) {
    if (!has(tool)) fail(`${tool} not found. Install CMake >= 3.22 and a C++20 compiler (Debian, Ubuntu: apt-get install cmake g++).`);
  }
}

function installFromSystem() {
  const isThere = ({ file, program }) =>
    file === undefined ? has(program) : INCLUDE_FOLDERS.some((folder) => fs.existsSync(path.join(folder, file)));
  const missing = SYSTEM.filter((one) => (withTests || !one.tests) && !isThere(one)).map((one) => one.package);
  if (missing.length === 0) return;
  const command = `apt-get install -y --no-install-recommends ${missing.join(" ")}`;
  if (process.getuid?.() !== 0 || !has("apt-get")) fail(`missing: ${missing.join(", ")}. Run: sudo ${command}`);
  say(command);
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  if (run("sh", ["-c", command], { env, quiet: true, soft: true }) !== 0) {
    run("apt-get", ["update"], { env, quiet: true });
    run("sh", ["-c", command], { env, quiet: true });
  }
}

function buildNative() {
  const sources = [
    ...filesBelow("native", [".cpp", ".h", ".gypi", ".map"]),
    ...filesBelow("cmake", [".cmake"]),
    ...(withTests ? filesBelow("cuda/mock", [".cpp", ".h"]) : []),
    path.join(root, "CMakeLists.txt"),
  ];
  const addon = "build/Release/latentwire.node";
  const tests = "build/latentwire-tests";
  const fresh = !stale(addon, sources) && (!withTests || !stale(tests, [...sources, ...filesBelow("test/native", [".cpp", ".h"])]));
  if (fresh && !rebuild) return;
  checkTools();
  installFromSystem();
  say(`building the addon${withTests ? " and its C++ tests" : ""} (CMake)`);
  const definitions = {
    CMAKE_BUILD_TYPE: "Release",
    LATENTWIRE_GLIBC_SYSROOT: process.env.LATENTWIRE_GLIBC_SYSROOT ?? "",
    ...(withTests && { LATENTWIRE_TESTS: "ON" }),
  };
  cmake("build", { definitions, targets: withTests ? ["latentwire", "latentwire-tests"] : ["latentwire"] });
  // The compiler leaves an up-to-date output alone, for instance after a comment was touched: mark it fresh for the next call.
  const now = new Date();
  for (const output of withTests ? [addon, tests] : [addon]) fs.utimesSync(path.join(root, output), now, now);
}

function buildTypeScript() {
  const sources = [...filesBelow("lib", [".ts"]), path.join(root, "tsconfig.json"), path.join(root, "tsconfig.build.json")];
  if (!stale("dist/index.js", sources) && !rebuild) return;
  say("building the TypeScript (tsc)");
  fs.rmSync(path.join(root, "dist"), { recursive: true, force: true });
  run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"]);
  const main = path.join(root, "dist", "cli", "main.js");
  if (fs.existsSync(main)) fs.chmodSync(main, 0o755);
}

installPackages();
// the servers of tests too, whatever is built already
if (withTests) installFromSystem();
if (only !== "ts") buildNative();
if (only !== "native") buildTypeScript();
