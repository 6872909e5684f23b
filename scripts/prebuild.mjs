// Makes the binary that is shipped: prebuilds/<platform>-<arch>/latentwire.<libc>.node, by prebuildify with CMake behind it. On glibc
// Linux it is linked against an older C library (glibc-sysroot.mjs) so that it runs wherever official Node runs; then its glibc floor
// and its exports are checked. LATENTWIRE_NO_SYSROOT=1 links against this machine's library instead. With LATENTWIRE_GLIBC_SYSROOT set,
// the main build is the portable one already (setup.mjs), and what was tested is what is shipped. Where there is nvcc, the CUDA backend lies
// beside it: latentwire_cuda.so, which the addon loads when it finds a driver.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { commandLine, root, run, say } from "./common.mjs";
import { glibcSysroot } from "./glibc-sysroot.mjs";

commandLine();
const glibc = process.platform === "linux" && !fs.existsSync("/etc/alpine-release");
const portable = glibc && process.env.LATENTWIRE_NO_SYSROOT !== "1";
const debianArchitecture = process.arch === "x64" ? "amd64" : process.arch;
const given = process.env.LATENTWIRE_GLIBC_SYSROOT;
const sysroot = given ?? (portable ? glibcSysroot(debianArchitecture) : undefined);
const env = sysroot === undefined ? {} : { LATENTWIRE_GLIBC_SYSROOT: sysroot };
// prebuildify builds below its working directory: in the main build, or in one of its own
const stage = given === undefined ? path.join(root, "build-prebuild") : root;
if (stage !== root) {
  fs.mkdirSync(stage, { recursive: true });
  fs.copyFileSync(path.join(root, "package.json"), path.join(stage, "package.json"));
}
const node = process.execPath;
const standIn = path.join(root, "scripts", "cmake-as-node-gyp.mjs");
const options = ["--napi", "--strip", "--tag-libc", "--name", "latentwire", "--node-gyp", standIn, "--out", root];
run(node, [path.join(root, "node_modules", "prebuildify", "bin.js"), ...options], { cwd: stage, env });

const folder = path.join("prebuilds", `${process.platform}-${process.arch}`);
const cuda = path.join(root, "build-cuda", "latentwire_cuda.so");
if (portable && process.arch === "x64") {
  run(node, ["scripts/build-cuda.mjs", "--if-possible"], { env });
  if (fs.existsSync(cuda)) fs.copyFileSync(cuda, path.join(root, folder, path.basename(cuda)));
}
for (const file of fs.readdirSync(path.join(root, folder))) {
  say(`${path.join(folder, file)}: ${String(fs.statSync(path.join(root, folder, file)).size)} bytes`);
}
if (portable) run(node, ["scripts/check-glibc.mjs"]);
if (glibc) run(node, ["scripts/check-exports.mjs"]);
