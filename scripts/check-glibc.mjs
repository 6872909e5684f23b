// Fails when a shipped Linux binary needs a newer C or C++ library than official Node binaries do: GLIBC 2.28, no libstdc++ of the system at
// all, and of libgcc_s, which Node itself needs, symbols of GCC 4 at most. Arguments are the files to check; by default every glibc prebuild.
import path from "node:path";
import process from "node:process";
import { capture, commandLine, fail, filesBelow, root } from "./common.mjs";

const FLOOR = [2, 28];

function newer(version, floor) {
  const [major = 0, minor = 0] = version;
  return major > floor[0] || (major === floor[0] && minor > floor[1]);
}

const given = commandLine("[file...]", { positionals: true }).positionals.map((file) => path.resolve(file));
const files = given.length > 0 ? given : filesBelow("prebuilds", [".glibc.node", ".so"]);
if (files.length === 0) fail("no glibc prebuild to check (npm run prebuild)");

let bad = 0;
for (const file of files) {
  const needs = capture("readelf", ["--version-info", "--wide", file]);
  const versions = [...needs.matchAll(/Name: GLIBC_(\d+(?:\.\d+)*)/g)].map((match) => match[1].split(".").map(Number));
  const highest = versions.reduce((a, b) => (newer(b, a) ? b : a), [0, 0]);
  const libraries = [...capture("readelf", ["--dynamic", "--wide", file]).matchAll(/NEEDED.*\[(.*)\]/g)].map((match) => match[1]);
  const unwinder = [...needs.matchAll(/Name: GCC_(\d+)/g)].every((match) => Number(match[1]) <= 4);
  const wrong = versions.length === 0 || newer(highest, FLOOR) || !unwinder || libraries.some((name) => name.startsWith("libstdc++"));
  if (wrong) bad += 1;
  console.log(`${wrong ? "FAIL" : "ok"} ${path.relative(root, file)}: GLIBC_${highest.join(".")}, needs ${libraries.join(" ")}`);
}
process.exitCode = bad === 0 ? 0 : 1;
