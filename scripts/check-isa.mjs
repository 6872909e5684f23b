// Fails when code for a newer processor can run on an older one: AVX registers outside the translation units of their instruction set, or functions in
// those units that the linker may merge with those of others (weak symbols of templates and inline functions). Looks at the objects of the CMake build.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { capture, commandLine, fail, filesBelow, root } from "./common.mjs";

commandLine();
if (process.arch !== "x64") {
  console.log(`nothing to check on ${process.arch}: NEON is part of every arm64`);
  process.exit(0);
}
const { variables } = JSON.parse(fs.readFileSync(path.join(root, "native", "sources.gypi"), "utf8"));
const special = Object.entries(variables)
  .filter(([name]) => /^avx.*_sources$/.test(name))
  .flatMap(([, sources]) => sources);
const objects = filesBelow(path.join("build", "CMakeFiles"), [".cpp.o"]);
if (objects.length === 0) fail("no objects to check (npm run build)");

let bad = 0;
let seen = 0;
for (const object of objects) {
  const source = special.find((one) => object.endsWith(`${one}.o`));
  const name = path.relative(root, object);
  if (source === undefined) {
    const wide = capture("objdump", ["-d", "--no-show-raw-insn", object]).match(/%[yz]mm\d+/g) ?? [];
    if (wide.length === 0) continue;
    console.log(`FAIL ${name}: ${wide.length} uses of ymm or zmm registers`);
    bad += 1;
  } else {
    seen += 1;
    const weak = capture("nm", ["--defined-only", "-C", object])
      .split("\n")
      .filter((line) => / [WVu] /.test(line) && !line.includes("DW.ref."));
    if (weak.length === 0) continue;
    console.log(`FAIL ${name}: ${weak.join("; ")}`);
    bad += 1;
  }
}
if (seen !== special.length) fail(`found ${seen} of the ${special.length} objects with an instruction set of their own`);
console.log(`${objects.length} objects, ${seen} of them with an instruction set of their own: ${bad === 0 ? "no leak" : `${bad} leak`}`);
process.exitCode = bad === 0 ? 0 : 1;
