// Builds the CUDA backend, cuda/, into build-cuda/latentwire_cuda.so, puts a copy beside the local build of the addon, and checks what it exports
// and needs. It needs nvcc of the CUDA toolkit 13.0 or newer, and no GPU.
//
//   node scripts/build-cuda.mjs [--sass=LIST] [--if-possible]
//
// --sass names processors to compile for instead of all, e.g. --sass=90a; then no PTX is kept. --if-possible does nothing where there is no nvcc.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { cmake, commandLine, fail, has, root, run, say } from "./common.mjs";

const { sass, "if-possible": ifPossible = false } = commandLine("[--sass=LIST] [--if-possible]", {
  options: { sass: { type: "string" }, "if-possible": { type: "boolean" } },
}).values;

const toolkits = [process.env.CUDA_HOME, process.env.CUDA_PATH, "/usr/local/cuda"].filter((folder) => folder !== undefined);
if (!has("nvcc") && !toolkits.some((folder) => fs.existsSync(path.join(folder, "bin", "nvcc")))) {
  const missing = "nvcc not found: install the CUDA toolkit, 13.0 or newer (no GPU is needed to build), or name its folder in CUDA_HOME";
  if (!ifPossible) fail(missing);
  say(`${missing}. The CUDA backend is left out.`);
  process.exit(0);
}
const definitions = {
  CMAKE_BUILD_TYPE: "Release",
  LATENTWIRE_GLIBC_SYSROOT: process.env.LATENTWIRE_GLIBC_SYSROOT ?? "",
  ...(sass !== undefined && { LATENT_CUDA_SASS: sass.replaceAll(",", ";"), LATENT_CUDA_PTX: "" }),
};
cmake("build-cuda", { source: "cuda", definitions, targets: ["latentwire_cuda"] });
const built = path.join(root, "build-cuda", "latentwire_cuda.so");
say(`${path.relative(root, built)}: ${String(fs.statSync(built).size)} bytes`);
run(process.execPath, ["scripts/check-exports.mjs", built]);
const release = path.join(root, "build", "Release");
if (fs.existsSync(release)) fs.copyFileSync(built, path.join(release, "latentwire_cuda.so"));
