// Fails when code for a newer processor can run on an older one: instructions outside the translation units of their instruction set, or functions in
// those units that the linker may merge with those of others (weak symbols of templates and inline functions). Looks at the objects of the CMake build,
// or, with --arch=arm64 on another machine, at those of `npm run test:arm64`.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { capture, commandLine, fail, filesBelow, root } from "./common.mjs";

const architectures = {
  // all wide registers; NEON itself is part of every arm64
  x64: { units: /^avx.*_sources$/, newer: /%[yz]mm\d+/g, tools: "x86_64-linux-gnu-" },
  arm64: {
    units: /^neon_.+_sources$/,
    newer: /\t(?:us|su|[us])dot\b|\t(?:us|[us])mmla\b|\tbf(?:dot|mmla)\b/g,
    tools: "aarch64-linux-gnu-",
  },
};
const { values } = commandLine("[--arch=x64|arm64]", { options: { arch: { type: "string", choices: Object.keys(architectures) } } });
const arch = values.arch ?? process.arch;
const { units, newer, tools } = architectures[arch] ?? fail(`no instruction sets of ${arch} are known`);
const own = arch === process.arch;
const prefix = own ? "" : tools;
const { variables } = JSON.parse(fs.readFileSync(path.join(root, "native", "sources.gypi"), "utf8"));
const special = Object.entries(variables)
  .filter(([name]) => units.test(name))
  .flatMap(([, sources]) => sources);
const objects = filesBelow(path.join(own ? "build" : `build-${arch}`, "CMakeFiles"), [".cpp.o"]);
if (objects.length === 0) fail(`no objects to check (npm run ${own ? "build" : `test:${arch}`})`);

let bad = 0;
let seen = 0;
for (const object of objects) {
  const source = special.find((one) => object.endsWith(`${one}.o`));
  const name = path.relative(root, object);
  if (source === undefined) {
    const uses = capture(`${prefix}objdump`, ["-d", "--no-show-raw-insn", object]).match(newer) ?? [];
    if (uses.length === 0) continue;
    console.log(`FAIL ${name}: ${uses.length} uses of newer registers or instructions, the first ${uses[0].trim()}`);
    bad += 1;
  } else {
    seen += 1;
    const weak = capture(`${prefix}nm`, ["--defined-only", "-C", object])
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
