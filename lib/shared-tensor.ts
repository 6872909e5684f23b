// A tensor of the GPU that other threads and processes of this machine may take over without a way through the host.
import { checkKeys, checkString, invalid } from "./check.js";
import type { NativeDeviceShare } from "./native-device.js";
import type { Dtype } from "./tensor.js";

/** What names a {@link SharedTensor} to others: plain JSON. Whoever has it may read the tensor. */
export interface SharedTensorReference {
  readonly device: "cuda";
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** 64 bytes in base64: a handle of CUDA IPC. */
  readonly handle: string;
}

/** The numbers of a tensor, in memory that others may open until this is disposed; made by `tensor.share()`, opened by `Tensor.fromShared`. */
export class SharedTensor {
  readonly #native: NativeDeviceShare;
  readonly #reference: SharedTensorReference;

  /** @internal */
  constructor(handle: NativeDeviceShare, dtype: Dtype, shape: readonly number[]) {
    this.#native = handle;
    this.#reference = { device: "cuda", dtype, shape, handle: Buffer.from(handle.handle).toString("base64") };
  }

  /** What to send to the other side. */
  toJSON(): SharedTensorReference {
    return this.#reference;
  }

  get disposed(): boolean {
    return this.#native.disposed;
  }

  /** Frees the memory; who has opened it by then has a copy of its own. Idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  /** Same as {@link SharedTensor.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @internal The handle of a reference, which may come from anywhere. */
export function checkReference(reference: SharedTensorReference): Uint8Array {
  checkKeys("reference", reference, ["device", "dtype", "shape", "handle"]);
  const handle = Buffer.from(checkString("reference.handle", reference.handle), "base64");
  if (handle.length !== 64) throw invalid("reference.handle", "64 bytes in base64", reference.handle);
  return new Uint8Array(handle);
}
