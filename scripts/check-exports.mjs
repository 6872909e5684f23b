// Fails when an addon exports anything but the two symbols Node looks up, or the CUDA backend anything but the one that the addon looks up.
// Arguments are the files to check; by default every binary that has been built here.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { capture, commandLine, fail, filesBelow, root } from "./common.mjs";

const WANTED = {
  ".node": ["napi_register_module_v1", "node_api_module_get_api_version_v1"],
  ".so": ["latent_backend_entry_v1"],
};

const built = ["build/Release/latentwire.node", "build-gyp/build/Release/latentwire.node", "build-cuda/latentwire_cuda.so"].map((file) =>
  path.join(root, file),
);
const given = commandLine("[file...]", { positionals: true }).positionals.map((file) => path.resolve(file));
const files = given.length > 0 ? given : [...built.filter((file) => fs.existsSync(file)), ...filesBelow("prebuilds", Object.keys(WANTED))];
if (files.length === 0) fail("no addon to check (npm run build)");

let bad = 0;
for (const file of files) {
  const lines = capture("nm", ["--dynamic", "--defined-only", "--format=posix", file]).trim().split("\n");
  const symbols = lines.map((line) => line.split(" ")[0] ?? "").sort();
  const right = JSON.stringify(symbols) === JSON.stringify(WANTED[path.extname(file)]);
  if (!right) bad += 1;
  console.log(`${right ? "ok" : "FAIL"} ${path.relative(root, file)}: ${symbols.join(" ")}`);
}
process.exitCode = bad === 0 ? 0 : 1;
