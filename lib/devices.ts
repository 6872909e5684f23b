// The accelerator beside the CPU: whether there is one, what it is, how full it is, and where an operand is to lie.
import { checkOneOf, fallback } from "./check.js";
import { LatentError } from "./errors.js";
import { run } from "./jobs.js";
import { native, type NativeJob } from "./native.js";

/** Where numbers lie and work is done: on the CPU, or on the first NVIDIA GPU that CUDA shows this process. */
export type Device = "cpu" | "cuda";

/** Why there is no GPU to be used: no driver, no device for it, no library of ours, or one of another version of this package. */
export type DeviceReason = "CUDA_NO_DRIVER" | "CUDA_NO_DEVICE" | "CUDA_BACKEND_MISSING" | "CUDA_ABI_MISMATCH";

/** One GPU. */
export interface DeviceInfo {
  readonly name: string;
  /** e.g. `9.0` */
  readonly computeCapability: string;
  /** Streaming multiprocessors. */
  readonly processors: number;
  readonly memoryBytes: number;
  /** The CUDA version that the driver supports, e.g. `13.0`. */
  readonly driver: string;
}

/** What {@link deviceStatus} finds. */
export type DeviceStatus =
  | {
      readonly available: true;
      /** The library that does the work, and its version, compiler and processors. */
      readonly file: string;
      readonly backend: string;
      readonly build: string;
      readonly devices: readonly DeviceInfo[];
    }
  | {
      readonly available: false;
      /** The library that was looked for. */
      readonly file: string;
      readonly reason: DeviceReason;
      readonly message: string;
      /** What to do about it. */
      readonly hint: string;
    };

/** Bytes on the device, as {@link deviceMemory} finds them. */
export interface DeviceMemory {
  /** Of the device, for everyone on it. */
  readonly freeBytes: number;
  /** Of the device. */
  readonly totalBytes: number;
  /** What this package holds in this process, workers included. */
  readonly processBytes: number;
  /** What this thread's tensors and operands hold; what was disposed counts no more. */
  readonly ownBytes: number;
  /** Host memory that copies of this thread pass through. */
  readonly pinnedBytes: number;
}

const reasons: Readonly<Record<DeviceReason, string>> = {
  CUDA_NO_DRIVER: "Install an NVIDIA driver of version 580 or newer, and let this process see it (in a container: the NVIDIA runtime).",
  CUDA_NO_DEVICE: "The driver shows no GPU of compute capability 7.5 or more; look at nvidia-smi and at CUDA_VISIBLE_DEVICES.",
  CUDA_BACKEND_MISSING: "Build it with `npm run build:cuda`, or name its file in LATENTWIRE_CUDA_BACKEND.",
  CUDA_ABI_MISMATCH: "The CUDA library is of another version than this package; build or install the two together.",
};

/**
 * Whether there is a GPU to be used, and if not, why. The first call looks for it, which may take a second, off the JavaScript thread; what it
 * finds is true for the life of the process.
 */
export async function deviceStatus(): Promise<DeviceStatus> {
  const { available, file, reason, message, backend, build, devices } = await run(LatentError.translate(() => native().deviceStatus()));
  if (available) return { available, file, backend: backend ?? "", build: build ?? "", devices };
  const known = isReason(reason) ? reason : "CUDA_BACKEND_MISSING";
  return { available, file, reason: known, message: message ?? "", hint: reasons[known] };
}

function isReason(value: unknown): value is DeviceReason {
  return typeof value === "string" && Object.hasOwn(reasons, value);
}

/**
 * How full the device is.
 * @throws {@link LatentError} `ERR_LATENT_DEVICE_UNAVAILABLE` (with the reason in `details`), `ERR_LATENT_DEVICE_LOST`
 */
export async function deviceMemory(): Promise<DeviceMemory> {
  await requireDevice();
  return run(LatentError.translate(() => native().deviceMemory()));
}

/** @internal Throws unless there is a GPU. */
async function requireDevice(): Promise<void> {
  const status = await deviceStatus();
  if (status.available) return;
  const { reason, file, message, hint } = status;
  throw new LatentError("ERR_LATENT_DEVICE_UNAVAILABLE", `${reason}: ${message}`, { hint, details: { reason, file } });
}

/** @internal The result of a job there, begun already; where there is no GPU, the error says all that {@link deviceStatus} knows. */
export async function runOn<T>(device: Device, job: NativeJob<T>, signal?: AbortSignal): Promise<T> {
  try {
    return await run(job, signal);
  } catch (error) {
    if (device === "cuda" && LatentError.isInstance(error) && error.code === "ERR_LATENT_DEVICE_UNAVAILABLE") await requireDevice();
    throw error;
  }
}

/** @internal */
export function checkDevice(name: string, value: unknown): Device {
  return checkOneOf(name, value, ["cpu", "cuda"]);
}

/** Where an operand is to lie: `auto` is the GPU if there is one, else the CPU, and then the operand says why. */
export type DeviceChoice = Device | "auto";

/** @internal Where an operand does lie, and why not on the GPU though that was wished for. */
export interface Placement {
  readonly device: Device;
  readonly deviceReason?: string;
}

/** @internal Checks the option `device`, before anything is waited for. */
export function checkChoice(value: unknown): DeviceChoice {
  return checkOneOf("device", fallback(value, "cpu"), ["cpu", "cuda", "auto"]);
}

/**
 * @internal What `auto` is for an operand.
 * @param onlyCpu Why it can lie nowhere but on the CPU.
 */
export async function placeAuto(onlyCpu?: string): Promise<Placement> {
  if (onlyCpu !== undefined) return { device: "cpu", deviceReason: onlyCpu };
  const status = await deviceStatus();
  return status.available ? { device: "cuda" } : { device: "cpu", deviceReason: `${status.reason}: ${status.message}` };
}
