// The typed view of the addon's accelerator. Operands on it are those of native-kernels.ts: packing takes where they are to lie.
import type { NativeDtype, NativeJob, NativeTensor } from "./native.js";

export interface NativeDeviceStatus {
  readonly available: boolean;
  /** The library that was tried. */
  readonly file: string;
  /** CUDA_NO_DRIVER, CUDA_NO_DEVICE, CUDA_BACKEND_MISSING or CUDA_ABI_MISMATCH, with `message`, where it is not available. */
  readonly reason?: string;
  readonly message?: string;
  /** "cuda", and how it was built, where it is available. */
  readonly backend?: string;
  readonly build?: string;
  readonly devices: readonly NativeDeviceInfo[];
}

export interface NativeDeviceInfo {
  readonly name: string;
  readonly computeCapability: string;
  readonly processors: number;
  readonly memoryBytes: number;
  readonly driver: string;
}

export interface NativeDeviceMemory {
  readonly freeBytes: number;
  readonly totalBytes: number;
  readonly processBytes: number;
  readonly ownBytes: number;
  readonly pinnedBytes: number;
}

export interface NativeDeviceShare {
  /** 64 bytes. */
  readonly handle: Uint8Array;
  readonly disposed: boolean;
  dispose(): void;
}

export interface NativeDeviceModule {
  /** A tensor with a copy of what lies in another's memory. */
  openShared(dtype: NativeDtype, shape: readonly number[], handle: Uint8Array): NativeJob<NativeTensor>;
  deviceStatus(): NativeJob<NativeDeviceStatus>;
  deviceMemory(): NativeJob<NativeDeviceMemory>;
}
