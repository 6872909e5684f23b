// Installs the packed tarball the way a user does, in an empty project with no compiler, no Python and no make on PATH: by
// `npm install`, `npm install --strict-allow-scripts` and `npm ci`. In each it imports the package, requires it, uses it in a worker
// thread and runs its command. Ends with one line, `N passed, N failed`. Needs `npm run build` and `npm run prebuild` first.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { capture, commandLine, fail, root, say } from "./common.mjs";

commandLine();
const version = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")).version;
const probes = path.join(root, "test", "package");
let passed = 0;
let failed = 0;

function check(name, ok, detail = "") {
  if (ok) passed += 1;
  else failed += 1;
  console.log(`${ok ? "ok" : "FAIL"} ${name}${ok ? "" : `\n${detail}`}`);
}

/** A PATH of links to node, npm and sh, and nothing else. */
function barePath(folder) {
  fs.mkdirSync(folder);
  const npm = fs.realpathSync(capture("sh", ["-c", "command -v npm"]).trim());
  for (const [name, target] of [
    ["node", process.execPath],
    ["npm", npm],
    ["sh", "/bin/sh"],
  ]) {
    fs.symlinkSync(target, path.join(folder, name));
  }
  return folder;
}

if (!fs.existsSync(path.join(root, "dist", "index.js"))) fail("dist/ is missing: npm run build");
if (!fs.existsSync(path.join(root, "prebuilds"))) fail("prebuilds/ is missing: npm run prebuild");

const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "latentwire-consumer-"));
const [packed] = JSON.parse(capture("npm", ["pack", "--json", "--pack-destination", scratch]));
const tarball = path.join(scratch, packed.filename);
say(`${packed.filename}: ${String(packed.size)} bytes, ${String(packed.files.length)} files`);
const names = packed.files.map((file) => file.path);
const prebuild = new RegExp(`^prebuilds/${process.platform}-${process.arch}/latentwire\\..*node$`);
check(
  "the tarball has this platform's prebuild",
  names.some((name) => prebuild.test(name)),
);
check("the tarball has no root binding.gyp", !names.includes("binding.gyp"));
check("the tarball has its licence", names.includes("LICENSE"));
const manifest = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8"));
check(
  "the package has no install script",
  ["preinstall", "install", "postinstall"].every((name) => !(name in manifest.scripts)),
);

const environment = { ...process.env, PATH: barePath(path.join(scratch, "bin")) };
// npm hands its configuration to the scripts it runs; the user's project has none of ours.
for (const name of Object.keys(environment)) {
  if (/^(npm_|LATENTWIRE_)/.test(name) || name === "NODE_PATH" || name === "INIT_CWD") delete environment[name];
}

function inProject(project, command, args) {
  const result = spawnSync(path.join(scratch, "bin", command), args, {
    cwd: project,
    env: environment,
    encoding: "utf8",
    timeout: 300_000,
  });
  return { ok: result.status === 0, output: `${result.stdout ?? ""}${result.stderr ?? ""}${result.error?.message ?? ""}` };
}

function newProject(name) {
  const project = path.join(scratch, name);
  fs.mkdirSync(project);
  fs.writeFileSync(path.join(project, "package.json"), `${JSON.stringify({ name, private: true, version: "1.0.0" })}\n`);
  for (const file of fs.readdirSync(probes)) fs.copyFileSync(path.join(probes, file), path.join(project, file));
  return project;
}

function use(name, project) {
  for (const probe of ["import.mjs", "require.cjs", "worker.mjs"]) {
    const { ok, output } = inProject(project, "node", [probe]);
    check(`${name}: ${probe}`, ok && output.trim() === `ok ${version}`, output);
  }
  const command = inProject(project, "node", ["node_modules/latentwire/dist/cli/main.js", "--help"]);
  check(`${name}: latentwire --help`, command.ok && command.output.includes("latentwire"), command.output);
}

for (const [name, flags] of [
  ["npm install", []],
  ["npm install --strict-allow-scripts", ["--strict-allow-scripts"]],
]) {
  const project = newProject(flags.length === 0 ? "plain" : "strict");
  const { ok, output } = inProject(project, "npm", ["install", ...flags, tarball]);
  check(name, ok, output);
  check(`${name}: no script asks for approval`, !/allow-?scripts|install scripts/i.test(output), output);
  if (ok) use(name, project);
}

const project = newProject("ci");
fs.copyFileSync(path.join(scratch, "plain", "package.json"), path.join(project, "package.json"));
fs.copyFileSync(path.join(scratch, "plain", "package-lock.json"), path.join(project, "package-lock.json"));
const { ok, output } = inProject(project, "npm", ["ci"]);
check("npm ci", ok, output);
if (ok) use("npm ci", project);

fs.rmSync(scratch, { recursive: true, force: true });
console.log(`${String(passed)} passed, ${String(failed)} failed`);
process.exitCode = failed === 0 ? 0 : 1;
