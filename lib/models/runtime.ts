// Finds the pinned llama.cpp that this package runs on and hands its folder to the native gate.
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { LatentError } from "../errors.js";
import { run } from "../jobs.js";
import { native } from "../native.js";
import type { NativeRuntimeInfo } from "../native-engine.js";

/** The llama.cpp release that the native layer is written against; any other is refused. */
export const llamaRelease = "v0.5.0";

/** The engine in this process: its folder, versions and compute devices. */
export type RuntimeInfo = NativeRuntimeInfo;

/** The package that carries llama.cpp for a platform, e.g. `@node-llama-cpp/linux-x64`. */
export function platformPackage(platform: string = process.platform, arch: string = process.arch): { name: string; folder: string } | undefined {
  const os: Record<string, string> = { linux: "linux", darwin: "mac", win32: "win" };
  const family = os[platform];
  if (family === undefined || (arch !== "x64" && arch !== "arm64")) return undefined;
  const folder = family === "mac" && arch === "arm64" ? "mac-arm64-metal" : `${family}-${arch}`;
  return { name: `@node-llama-cpp/${folder}`, folder };
}

/** Builds for GPUs, each a package of its own that a user adds; without such a GPU they compute on the CPU as the plain one does. */
const accelerated = ["cuda", "vulkan"] as const;

/**
 * The folder of llama.cpp's libraries: `LATENTWIRE_LLAMA_DIR` if set, else that of the installed platform package, of its build for CUDA or Vulkan
 * (`@node-llama-cpp/linux-x64-cuda`) if that is installed too.
 * @throws {@link LatentError} `ERR_LATENT_ENGINE_NOT_FOUND`, `ERR_LATENT_ENGINE_VERSION`
 */
export function findEngine(environment: NodeJS.ProcessEnv = process.env): string {
  const given = environment["LATENTWIRE_LLAMA_DIR"];
  if (given !== undefined && given !== "") {
    if (!existsSync(given)) throw new LatentError("ERR_LATENT_ENGINE_NOT_FOUND", `LATENTWIRE_LLAMA_DIR names ${given}, which does not exist`);
    checkRelease(given);
    return given;
  }
  const wanted = platformPackage();
  if (wanted === undefined) {
    throw new LatentError("ERR_LATENT_ENGINE_NOT_FOUND", `no prebuilt llama.cpp for ${process.platform} ${process.arch}`, {
      hint: "Build llama.cpp v0.5.0 as shared libraries and name their folder in LATENTWIRE_LLAMA_DIR.",
    });
  }
  for (const kind of accelerated) {
    const directory = folderOf(`${wanted.name}-${kind}`, `${wanted.folder}-${kind}`);
    if (directory !== undefined && releaseOf(directory) === llamaRelease) return directory;
  }
  const directory = folderOf(wanted.name, wanted.folder);
  if (directory === undefined) {
    throw new LatentError("ERR_LATENT_ENGINE_NOT_FOUND", `${wanted.name} is not installed`, {
      hint: `Run \`npm install ${wanted.name}@3.22.1\` (optional dependencies may have been left out), or set LATENTWIRE_LLAMA_DIR.`,
    });
  }
  checkRelease(directory);
  return directory;
}

/** Of an installed package, undefined if it is not. Its exports hide its package.json, so the entry is resolved and the way up is walked. */
function folderOf(name: string, folder: string): string | undefined {
  try {
    const root = path.dirname(path.dirname(createRequire(import.meta.url).resolve(name)));
    const directory = path.join(root, "bins", folder);
    return existsSync(directory) ? directory : undefined;
  } catch {
    return undefined;
  }
}

// A self-built folder need not have the file; the native gate asks the library itself in any case.
function checkRelease(directory: string): void {
  const release = releaseOf(directory);
  if (release !== undefined && release !== llamaRelease)
    throw new LatentError("ERR_LATENT_ENGINE_VERSION", `${directory} holds llama.cpp ${release}, this package needs ${llamaRelease}`);
}

/** What its file says; undefined if there is none. */
function releaseOf(directory: string): string | undefined {
  const file = path.join(directory, "_nlcBuildMetadata.json");
  if (!existsSync(file)) return undefined;
  try {
    const parsed: unknown = JSON.parse(readFileSync(file, "utf8"));
    const release = pick(pick(pick(parsed, "buildOptions"), "llamaCpp"), "release");
    return typeof release === "string" ? release : "of no release";
  } catch (cause) {
    throw new LatentError("ERR_LATENT_ENGINE_VERSION", `${file} cannot be read`, { cause });
  }
}

function pick(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined;
}

let loading: Promise<RuntimeInfo> | undefined;

/**
 * Loads llama.cpp into this process, once; later calls return the same result.
 * @throws {@link LatentError} one of the `ERR_LATENT_ENGINE_*` codes, with what was found and what was expected
 */
export function loadRuntime(): Promise<RuntimeInfo> {
  loading ??= (async () => run(native().loadRuntime(findEngine())))().catch((error: unknown) => {
    loading = undefined;
    throw error;
  });
  return loading;
}
