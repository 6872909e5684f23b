// The public face of native memory: numbers go in and come out by copies, and stay native in between.
import { LatentError, translated } from "./errors.js";
import { run } from "./jobs.js";
import { native } from "./native.js";
import type { NativeArray, NativeDtype, NativeTensor } from "./native.js";

/** Element types: 32-bit, 16-bit and bfloat floats, and 8- and 32-bit integers. */
export type Dtype = NativeDtype;

/** The typed array of a dtype: f32 Float32Array, f16 and bf16 Uint16Array (their bits), i8 Int8Array, i32 Int32Array. */
export type TensorData = NativeArray;

export interface TensorOptions {
  /** Row-major, at most 8 dimensions; default: one dimension, all of the data. */
  readonly shape?: readonly number[];
  /** Default: what the typed array says. A Uint16Array needs it: `f16` or `bf16`. */
  readonly dtype?: Dtype;
}

function dtypeOf(data: unknown): Dtype {
  if (data instanceof Float32Array) return "f32";
  if (data instanceof Int8Array) return "i8";
  if (data instanceof Int32Array) return "i32";
  if (data instanceof Uint16Array) {
    throw new LatentError("ERR_LATENT_DTYPE", "a Uint16Array can hold f16 or bf16: pass the dtype");
  }
  throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "data must be a Float32Array, Uint16Array, Int8Array or Int32Array");
}

/**
 * A dense tensor in native memory. Shape, dtype and size stay readable after disposal; the numbers do not.
 *
 * ```ts
 * using tensor = Tensor.fromTyped(Float32Array.of(1, 2, 3, 4), { shape: [2, 2] });
 * using half = await tensor.convert("f16");
 * ```
 */
export class Tensor {
  readonly #native: NativeTensor;
  readonly dtype: Dtype;
  /** Row-major; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Size of the data in bytes. */
  readonly byteLength: number;

  private constructor(handle: NativeTensor) {
    this.#native = handle;
    this.dtype = handle.dtype;
    this.shape = Object.freeze(handle.shape);
    this.byteLength = handle.byteLength;
  }

  /**
   * Copies `data` into a new tensor.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (sizes that do not match), `ERR_LATENT_DTYPE`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  static fromTyped(data: TensorData, options: TensorOptions = {}): Tensor {
    const dtype = options.dtype ?? dtypeOf(data);
    const shape = options.shape ?? [data.length];
    return translated(() => new Tensor(new (native().Tensor)(dtype, shape, data)));
  }

  /**
   * A tensor of zeros.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  static zeros(shape: readonly number[], dtype: Dtype = "f32"): Tensor {
    return translated(() => new Tensor(new (native().Tensor)(dtype, shape)));
  }

  /** @internal Takes over a handle that native code returned. */
  static fromNative(handle: NativeTensor): Tensor {
    return new Tensor(handle);
  }

  /** @internal The handle, for native calls. */
  toNative(): NativeTensor {
    return this.#native;
  }

  get disposed(): boolean {
    return this.#native.disposed;
  }

  /**
   * A copy of the numbers in the typed array of the dtype.
   * @throws {@link LatentError} `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  toTyped(): TensorData {
    return translated(() => this.#native.toTyped());
  }

  /**
   * A copy of the numbers as f32, whatever the dtype.
   * @throws {@link LatentError} `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  toFloat32(): Float32Array {
    return translated(() => this.#native.toFloat32());
  }

  /**
   * Copies the numbers into `target`, which must be of the dtype's type and of exactly this size.
   * @throws {@link LatentError} `ERR_LATENT_DISPOSED`, `ERR_LATENT_INVALID_ARGUMENT`
   */
  copyTo(target: TensorData | DataView): void {
    translated(() => {
      this.#native.copyTo(target);
    });
  }

  /**
   * A new tensor of another dtype, made on the native thread pool. Floats round to nearest, ties to even, and do not become integers.
   * @throws {@link LatentError} `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async convert(dtype: Dtype, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    options.signal?.throwIfAborted();
    const job = translated(() => this.#native.convert(dtype));
    return new Tensor(await run(job, options.signal));
  }

  /** Frees the memory as soon as no running operation uses it; idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
