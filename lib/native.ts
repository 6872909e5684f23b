// Finds and loads the addon, and gives it a type. The only file that knows where native code comes from.
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { isMainThread } from "node:worker_threads";
import { LatentError } from "./errors.js";
import type { NativeDeviceModule, NativeDeviceShare } from "./native-device.js";
import type { NativeEngineModule } from "./native-engine.js";
import type { NativeFitsModule } from "./native-fits.js";
import type { NativeKernelsModule } from "./native-kernels.js";
import type { NativeKvModule } from "./native-kv.js";
import type { NativeSpacesModule } from "./native-spaces.js";

export type NativeDtype = "f32" | "f16" | "bf16" | "i8" | "i32";

/** The typed array of a dtype: f32 Float32Array, f16 and bf16 Uint16Array (their bits), i8 Int8Array, i32 Int32Array. */
export type NativeArray = Float32Array | Uint16Array | Int8Array | Int32Array;

/** A running native operation. `cancelJob` asks it to stop; the promise then rejects with the code ERR_LATENT_CANCELLED, unless it was too late. */
export interface NativeJob<T> {
  readonly promise: Promise<T>;
  readonly id: number;
}

/** A handle to native memory. Reading anything but `disposed` after `dispose` throws ERR_LATENT_DISPOSED. */
export interface NativeTensor {
  readonly dtype: NativeDtype;
  readonly shape: number[];
  readonly byteLength: number;
  /** Where the numbers lie; those of "cuda" cannot be read. */
  readonly device: "cpu" | "cuda";
  readonly disposed: boolean;
  /** One more handle to the same memory, which goes with the last of them. */
  alias(): NativeTensor;
  copyTo(target: NativeArray | DataView): void;
  toTyped(): NativeArray;
  toFloat32(): Float32Array;
  convert(dtype: NativeDtype): NativeJob<NativeTensor>;
  /** Of "cuda" only: memory that others may open, with a copy. */
  share(): NativeJob<NativeDeviceShare>;
  /** A copy there. */
  to(device: "cpu" | "cuda"): NativeJob<NativeTensor>;
  dispose(): void;
}

export interface NativeDiagnostics {
  /** Does nothing: the cost of a call. */
  noop(): void;
  /** Holds a pool thread for `ms` milliseconds. */
  sleepJob(ms: number): NativeJob<undefined>;
  /** What this thread computes (multiply-adds of f32) and reads (64 MiB) at most, measured now; takes some 50 ms. */
  probe(): { gflops: number; readGBs: number };
}

export interface NativeModule
  extends NativeDeviceModule, NativeEngineModule, NativeFitsModule, NativeKernelsModule, NativeKvModule, NativeSpacesModule {
  readonly version: string;
  /** `data` is copied and must have exactly the size of the shape; without it the tensor is zero. */
  readonly Tensor: new (dtype: NativeDtype, shape: readonly number[], data?: NativeArray | DataView) => NativeTensor;
  readonly diagnostics: NativeDiagnostics;
  /** A job that has ended is left alone. */
  cancelJob(id: number): void;
  /** Instruction sets of this processor, e.g. `avx512vnni`. */
  cpuFeatures(): string[];
}

const require = createRequire(import.meta.url);
/** The folder of package.json: this file is one below it, in `lib` and in `dist`. */
export const packageRoot = fileURLToPath(new URL("..", import.meta.url));

let loaded: NativeModule | undefined;

/**
 * The addon, loaded at the first call: the file that the environment variable LATENTWIRE_NATIVE_PATH names, else a local build, else the
 * prebuilt file of this platform.
 * @throws {@link LatentError} `ERR_LATENT_NATIVE_LOAD`
 */
export function native(): NativeModule {
  if (loaded !== undefined) return loaded;
  const addon = loadNative(process.env["LATENTWIRE_NATIVE_PATH"], packageRoot);
  // `process.exit` frees what the libraries use while other threads still run in them; the environments of workers end their own
  if (isMainThread) {
    process.once("exit", () => {
      addon.endAll();
    });
  }
  loaded = addon;
  return addon;
}

/** Loads `file`, or what `root` has for this platform; see {@link native}. */
export function loadNative(file: string | undefined, root: string): NativeModule {
  const given = file !== undefined && file !== "";
  let tried = given ? path.resolve(file) : path.join(root, "{build/Release,prebuilds}");
  let addon: unknown;
  try {
    if (!given) tried = findAddon(root);
    addon = require(tried);
  } catch (cause) {
    throw loadFailure(tried, cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : String(cause), cause);
  }
  if (!isNativeModule(addon)) throw loadFailure(tried, "the file is not the addon of this package", undefined);
  const wanted = packageVersion(root);
  if (wanted !== undefined && addon.version !== wanted) {
    throw loadFailure(tried, `the addon is of version ${addon.version}, the package of version ${wanted}`, undefined);
  }
  return addon;
}

function findAddon(root: string): string {
  const finder: unknown = require("node-gyp-build");
  const resolve: unknown = typeof finder === "function" ? Reflect.get(finder, "resolve") : undefined;
  if (typeof resolve !== "function") throw new Error("node-gyp-build has no resolve()");
  return String(Reflect.apply(resolve, finder, [root]));
}

function isNativeModule(value: unknown): value is NativeModule {
  if (typeof value !== "object" || value === null) return false;
  return typeof Reflect.get(value, "version") === "string" && typeof Reflect.get(value, "Tensor") === "function";
}

function packageVersion(root: string): string | undefined {
  const manifest: unknown = require(path.join(root, "package.json"));
  const version: unknown = typeof manifest === "object" && manifest !== null ? Reflect.get(manifest, "version") : undefined;
  return typeof version === "string" ? version : undefined;
}

/** `glibc 2.36`, `musl` or `no libc` (not Linux). */
function libc(): string {
  if (process.platform !== "linux") return "no libc";
  const report: unknown = process.report.getReport();
  const header: unknown = typeof report === "object" && report !== null ? Reflect.get(report, "header") : undefined;
  const version: unknown = typeof header === "object" && header !== null ? Reflect.get(header, "glibcVersionRuntime") : undefined;
  return typeof version === "string" ? `glibc ${version}` : "musl";
}

function loadFailure(tried: string, reason: string, cause: unknown): LatentError {
  const details = { platform: process.platform, arch: process.arch, libc: libc(), node: process.version, tried };
  const machine = `${details.platform} ${details.arch}, ${details.libc}, Node ${details.node}`;
  return new LatentError("ERR_LATENT_NATIVE_LOAD", `cannot load the native addon on ${machine}; tried ${tried}: ${reason}`, {
    ...(cause !== undefined && { cause }),
    details,
  });
}
