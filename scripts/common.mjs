// What the build and test scripts share: where the checkout is, their command lines, running a command, and freshness by modification time.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

/** Build jobs: LATENTWIRE_JOBS, or the number of cores. */
export const jobs = Number(process.env.LATENTWIRE_JOBS) || os.availableParallelism();

const script = path.basename(process.argv[1] ?? "", ".mjs");

/** Prints one line of progress to stderr; stdout belongs to the command that was asked for. */
export function say(message) {
  process.stderr.write(`[${script}] ${message}\n`);
}

/** Prints a message and ends the process with code 1. */
export function fail(message) {
  say(message);
  process.exit(1);
}

/**
 * Reads the command line of a script with parseArgs and returns `{ values, positionals, rest }`. --help prints the usage and ends the process
 * with code 0; an argument that the script does not have, or a value that is not among `choices` of its option, ends it with code 2. With
 * `passRest`, what is not an option of the script comes back as `rest`, for another program to judge; then values are written `--name=value`.
 */
export function commandLine(synopsis = "", { options = {}, positionals = false, passRest = false } = {}) {
  const usage = `usage: node ${path.relative(root, process.argv[1] ?? "")} ${synopsis}`.trim();
  const known = { ...options, help: { type: "boolean" } };
  const args = process.argv.slice(2);
  const own = passRest ? args.filter((arg) => Object.hasOwn(known, /^--([^=]+)/.exec(arg)?.[1] ?? "")) : args;
  try {
    const parsed = parseArgs({ args: own, options: known, allowPositionals: positionals });
    if (parsed.values.help) {
      console.log(usage);
      process.exit(0);
    }
    for (const [name, { choices }] of Object.entries(options)) {
      const value = parsed.values[name];
      if (choices && value !== undefined && !choices.includes(value)) throw new TypeError(`--${name} cannot be '${value}'`);
    }
    return { ...parsed, rest: args.filter((arg) => !own.includes(arg)) };
  } catch (error) {
    say(error.message);
    console.error(usage);
    process.exit(2);
  }
}

/**
 * Runs a command with its output on stderr (both streams) and ends this process when it fails.
 * Options: `cwd`, `env` (added to the present one), `quiet` (output only when it fails), `soft` (return the status instead of ending).
 */
export function run(command, args, { cwd = root, env = {}, quiet = false, soft = false } = {}) {
  const result = spawnSync(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: quiet ? ["ignore", "pipe", "pipe"] : ["ignore", 2, 2],
    maxBuffer: 1 << 28,
  });
  const status = result.status ?? 1;
  if (status !== 0 && quiet) process.stderr.write(`${String(result.stdout ?? "")}${String(result.stderr ?? "")}`);
  if (status !== 0 && !soft) {
    fail(`${[command, ...args].join(" ")} failed (${result.error?.message ?? `exit code ${String(status)}`})`);
  }
  return status;
}

/** Runs a command and returns its stdout; ends this process when it fails. */
export function capture(command, args, { cwd = root, env = {} } = {}) {
  const result = spawnSync(command, args, { cwd, env: { ...process.env, ...env }, encoding: "utf8", maxBuffer: 1 << 28 });
  if (result.status !== 0) {
    process.stderr.write(result.stderr ?? "");
    fail(`${[command, ...args].join(" ")} failed (${result.error?.message ?? `exit code ${String(result.status)}`})`);
  }
  return result.stdout;
}

/** True when `command --version` can be run. */
export function has(command) {
  return spawnSync(command, ["--version"], { stdio: "ignore" }).status === 0;
}

/** Every file below `folder` whose name ends with one of `endings`, sorted; an absent folder has none. */
export function filesBelow(folder, endings) {
  const at = path.resolve(root, folder);
  if (!fs.existsSync(at)) return [];
  return fs
    .readdirSync(at, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && endings.some((ending) => entry.name.endsWith(ending)))
    .map((entry) => path.join(entry.parentPath, entry.name))
    .sort();
}

/** Newest modification time of `files` in ms, 0 for none. */
export function newest(files) {
  return Math.max(0, ...files.map((file) => fs.statSync(file).mtimeMs));
}

/** True when `output` is missing or older than one of `inputs`. */
export function stale(output, inputs) {
  const at = path.resolve(root, output);
  return !fs.existsSync(at) || fs.statSync(at).mtimeMs < newest(inputs);
}

/** Arguments that make CMake use Ninja for a new build folder when it is installed; an existing folder keeps its generator. */
export function generator(buildFolder) {
  if (fs.existsSync(path.resolve(root, buildFolder, "CMakeCache.txt"))) return [];
  return has("ninja") ? ["-G", "Ninja"] : ["-G", "Unix Makefiles"];
}

/** Configures and builds the project in the folder `source` with CMake. `targets` empty means all. */
export function cmake(buildFolder, { source = ".", definitions = {}, targets = [], quiet = true, env = {} } = {}) {
  const values = Object.entries(definitions).map(([name, value]) => `-D${name}=${value}`);
  run("cmake", ["-S", path.resolve(root, source), "-B", path.resolve(root, buildFolder), ...generator(buildFolder), ...values], {
    quiet,
    env,
  });
  const wanted = targets.length > 0 ? ["--target", ...targets] : [];
  run("cmake", ["--build", path.resolve(root, buildFolder), "--parallel", String(jobs), ...wanted], { quiet, env });
}
