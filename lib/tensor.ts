// The public face of native memory: numbers go in and come out by copies, and stay native in between.
import { checkDevice, runOn, type Device } from "./devices.js";
import { LatentError } from "./errors.js";
import { run } from "./jobs.js";
import { native } from "./native.js";
import { checkReference, SharedTensor, type SharedTensorReference } from "./shared-tensor.js";
import type { NativeArray, NativeDtype, NativeTensor } from "./native.js";

/** Element types: 32-bit, 16-bit and bfloat floats, and 8- and 32-bit integers. */
export type Dtype = NativeDtype;

/** The typed array of a dtype: f32 Float32Array, f16 and bf16 Uint16Array (their bits), i8 Int8Array, i32 Int32Array. */
export type TensorData = NativeArray;

/**
 * A dense tensor in native memory, of the host or of a GPU ({@link Tensor.to}). Shape, dtype and size stay readable after disposal; the numbers do
 * not. Those on a GPU cannot be read where they are: kernels with operands there take them, and `to("cpu")` brings a copy.
 *
 * ```ts
 * using tensor = Tensor.fromTyped("f32", [2, 2], Float32Array.of(1, 2, 3, 4));
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
  /** Where the numbers lie. */
  readonly device: Device;

  private constructor(handle: NativeTensor) {
    this.#native = handle;
    this.dtype = handle.dtype;
    this.shape = Object.freeze(handle.shape);
    this.byteLength = handle.byteLength;
    this.device = handle.device;
  }

  /**
   * Copies `data`, of the typed array that belongs to `dtype` and of exactly the size of `shape`, into a new tensor.
   * @param shape Row-major, at most 8 dimensions; `[]` is a scalar.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (sizes that do not match), `ERR_LATENT_DTYPE`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  static fromTyped(dtype: Dtype, shape: readonly number[], data: TensorData | DataView): Tensor {
    const given: unknown = data; // JavaScript callers may leave it out
    if (given === undefined)
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "data is missing; Tensor.zeros makes a tensor without it");
    return LatentError.translate(() => new Tensor(new (native().Tensor)(dtype, shape, data)));
  }

  /**
   * A tensor of zeros.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  static zeros(shape: readonly number[], dtype: Dtype = "f32"): Tensor {
    return LatentError.translate(() => new Tensor(new (native().Tensor)(dtype, shape)));
  }

  /**
   * A copy of a tensor of the GPU that another thread or process of this machine shares; it never passes through the host.
   * @param reference What the other side's {@link Tensor.share} gives as JSON. The copy is made while that is not disposed yet.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (a handle of nothing, or of fewer bytes than the shape needs), `ERR_LATENT_DTYPE`, and as
   * {@link Tensor.to}; the signal's reason on abort
   */
  static async fromShared(reference: SharedTensorReference, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    const handle = checkReference(reference);
    options.signal?.throwIfAborted();
    const job = LatentError.translate(() => native().openShared(reference.dtype, reference.shape, handle));
    return new Tensor(await runOn("cuda", job, options.signal));
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

  /** @internal One more handle to the same memory, which goes with the last of them. */
  alias(): Tensor {
    return LatentError.translate(() => new Tensor(this.#native.alias()));
  }

  /**
   * A copy of the numbers in the typed array of the dtype.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (they lie on a GPU), `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  toTyped(): TensorData {
    return LatentError.translate(() => this.#native.toTyped());
  }

  /**
   * A copy of the numbers as f32, whatever the dtype.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (they lie on a GPU), `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  toFloat32(): Float32Array {
    return LatentError.translate(() => this.#native.toFloat32());
  }

  /**
   * Copies the numbers into `target`, which must be of the dtype's type and of exactly this size.
   * @throws {@link LatentError} `ERR_LATENT_DISPOSED`, `ERR_LATENT_INVALID_ARGUMENT`
   */
  copyTo(target: TensorData | DataView): void {
    LatentError.translate(() => {
      this.#native.copyTo(target);
    });
  }

  /**
   * A new tensor of another dtype, made on the native thread pool. Floats round to nearest, ties to even, and do not become integers.
   * @throws {@link LatentError} `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async convert(dtype: Dtype, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    options.signal?.throwIfAborted();
    const job = LatentError.translate(() => this.#native.convert(dtype));
    return new Tensor(await run(job, options.signal));
  }

  /**
   * A copy on another device, or one more on the same. It goes through pinned memory in parts, on threads of the stream that this JavaScript thread
   * has on the GPU, in the order of the calls; the JavaScript thread waits for nothing. A tensor of the GPU belongs to the thread that made it.
   *
   * ```ts
   * using x = await Tensor.fromTyped("f32", [64, 2560], rows).to("cuda");
   * using y = await (await projector.apply(x)).to("cpu"); // projector was packed with { device: "cuda" }
   * ```
   * @throws {@link LatentError} `ERR_LATENT_DEVICE_UNAVAILABLE` (why, in `details.reason`), `ERR_LATENT_OUT_OF_MEMORY` (all else goes on),
   * `ERR_LATENT_DEVICE_FAILED`, `ERR_LATENT_DEVICE_LOST`, `ERR_LATENT_DISPOSED`; the signal's reason on abort
   */
  async to(device: Device, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkDevice("device", device);
    options.signal?.throwIfAborted();
    const job = LatentError.translate(() => this.#native.to(device));
    return new Tensor(await runOn(device, job, options.signal));
  }

  /**
   * A copy of a tensor of the GPU in memory that other threads and processes of this machine may open, for {@link Tensor.fromShared}. It takes the
   * system's means for that (CUDA IPC), which some containers do not allow.
   *
   * ```ts
   * using shared = await x.share();
   * child.send(shared.toJSON()); // there: await Tensor.fromShared(reference), and an answer before `shared` goes
   * ```
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (a tensor of the CPU), and as {@link Tensor.to}; the signal's reason on abort
   */
  async share(options: { readonly signal?: AbortSignal } = {}): Promise<SharedTensor> {
    options.signal?.throwIfAborted();
    const job = LatentError.translate(() => this.#native.share());
    return new SharedTensor(await runOn("cuda", job, options.signal), this.dtype, this.shape);
  }

  /** Frees the memory as soon as no running operation uses it; idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
