// Second build of the addon, with node-gyp, in build-gyp/ so that it never disturbs the CMake build in build/. node-gyp always writes
// below the folder of its binding.gyp, hence a folder of links.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { commandLine, jobs, root, run, say } from "./common.mjs";

commandLine();
const folder = path.join(root, "build-gyp");
fs.mkdirSync(folder, { recursive: true });
for (const name of ["binding.gyp", "package.json", "native", "node_modules"]) {
  const link = path.join(folder, name);
  fs.rmSync(link, { force: true });
  fs.symlinkSync(path.join("..", name), link);
}

// Node's own headers, when this Node came with them, spare node-gyp a download.
const prefix = path.resolve(process.execPath, "../..");
const nodedir = fs.existsSync(path.join(prefix, "include", "node", "node_api.h")) ? [`--nodedir=${prefix}`] : [];
say("building the addon (node-gyp)");
run(process.execPath, ["../node_modules/node-gyp/bin/node-gyp.js", "rebuild", "-j", String(jobs), ...nodedir], {
  cwd: folder,
  quiet: true,
});
say(path.join("build-gyp", "build", "Release", "latentwire.node"));
