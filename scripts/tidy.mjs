// Runs clang-tidy (.clang-tidy) over the native sources, several at once. Arguments, if any, are the files to look at.
import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { commandLine, fail, filesBelow, generator, has, jobs, root, run } from "./common.mjs";

const wanted = commandLine("[file...]", { positionals: true }).positionals.map((file) => path.resolve(file));
if (!has("clang-tidy")) fail("clang-tidy not found (Debian, Ubuntu: apt-get install clang-tidy)");
const build = path.join(root, "build");
// Configuring is enough: clang-tidy reads the compile commands.
run("cmake", ["-S", root, "-B", build, ...generator("build")], { quiet: true });

// What this build compiles: another processor's kernels mean nothing to this one's compiler.
const compiled = new Set(JSON.parse(fs.readFileSync(path.join(build, "compile_commands.json"), "utf8")).map(({ file }) => file));
const files = (wanted.length > 0 ? wanted : filesBelow("native", [".cpp"])).filter((file) => compiled.has(file));
let failed = 0;

async function worker() {
  for (let file = files.shift(); file !== undefined; file = files.shift()) {
    let output = "";
    // GCC's own options mean nothing to Clang's front end.
    const child = spawn("clang-tidy", ["--quiet", "-p", build, "--extra-arg=-Wno-unknown-warning-option", file]);
    child.stdout.on("data", (chunk) => (output += String(chunk)));
    const status = await new Promise((resolve) => child.on("close", resolve));
    if (status === 0) continue;
    failed += 1;
    console.log(output);
  }
}

const total = files.length;
await Promise.all(Array.from({ length: Math.min(jobs, files.length) }, worker));
console.log(`clang-tidy: ${String(total - failed)} of ${String(total)} files clean`);
process.exitCode = failed === 0 && total > 0 ? 0 : 1;
