// Checks (default) or repairs (--write) the layout of all sources: clang-format for C++ and CUDA, prettier for TypeScript, JavaScript and JSON.
import process from "node:process";
import { commandLine, filesBelow, has, fail, run } from "./common.mjs";

const { write = false } = commandLine("[--write]", { options: { write: { type: "boolean" } } }).values;
const folders = ["native", "cuda", "test/native", "test/fuzz", "bench/native"];
const native = folders.flatMap((folder) => filesBelow(folder, [".cpp", ".h", ".cu", ".cuh"]));

if (!has("clang-format")) fail("clang-format not found (Debian, Ubuntu: apt-get install clang-format)");
const cpp = native.length === 0 ? 0 : run("clang-format", [...(write ? ["-i"] : ["--dry-run", "--Werror"]), ...native], { soft: true });
const script = run(process.execPath, ["node_modules/prettier/bin/prettier.cjs", write ? "--write" : "--check", "--log-level=warn", "."], {
  soft: true,
});
process.exitCode = cpp === 0 && script === 0 ? 0 : 1;
