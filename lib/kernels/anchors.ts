// Relative representations: a vector told by its similarities to anchors, which two models can agree on where their own coordinates differ.
import { checkInteger, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { checkChoice, placeAuto, runOn, type Device, type DeviceChoice, type Placement } from "../devices.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import type { NativeAnchors } from "../native-kernels.js";
import { Tensor } from "../tensor.js";
import { checkStorage, nativeRows, onlyOnCpu, output, rowCount, settled, type Rows, type Storage } from "./input.js";

/**
 * `cosine`: ⟨x, a⟩ / (|x| |a|), 0 for a zero vector. `angular`: arccos(cosine) / π, a distance from 0 to 1. `inner`: ⟨x, a⟩. `squared-euclidean`:
 * |x - a|². `euclidean`: |x - a|, whose rounding near 0 is the root of that of the square, about 3e-4 of the length of x. `l1`: Σ |xₖ - aₖ|, the
 * Manhattan distance.
 */
export type Similarity = "cosine" | "angular" | "inner" | "squared-euclidean" | "euclidean" | "l1";

/** The map x → (x - mean) whiten: what {@link Moments.whitening} finds, or another. */
export interface AnchorWhitening {
  /** `[d]` */
  readonly mean: Float32Array;
  /** `[d, k]` of f32, f16 or bf16; kept as f32. */
  readonly whiten: Tensor;
}

/** Options of {@link packAnchors}. */
export interface PackAnchorsOptions {
  /** Default `cosine`. */
  readonly similarity?: Similarity;
  /** How anchors are kept; default `f32`. Not `i8` for `l1`: a row's codes and an anchor's differ in scale, so nothing can be subtracted. */
  readonly storage?: Storage;
  /**
   * Applied to anchors and to every x before all else; default none. With the whitening of a covariance S, `inner` is (x - mean)ᵀ S⁻¹ (a - mean) and
   * `squared-euclidean` the squared distance of Mahalanobis (1936). A row costs d · k multiplications more, except for `inner` with f32 anchors.
   */
  readonly whitening?: AnchorWhitening;
  /**
   * `[d]`, subtracted from anchors and from every x; default none. Cosines between vectors with a large common part say little without it. After a
   * whitening it is `[k]`, and so is `scale`.
   */
  readonly centre?: Float32Array;
  /** `[d]`, multiplied into anchors and every x after centring; default none. */
  readonly scale?: Float32Array;
  /**
   * Where it lies and computes; default `cpu`. On `cuda` there is no `Sync` method, rows may lie on either side, and results lie where the rows do.
   * `auto` takes the CPU where there is no GPU, and `deviceReason` says why.
   */
  readonly device?: DeviceChoice;
  readonly signal?: AbortSignal;
}

const similarities = ["cosine", "angular", "inner", "squared-euclidean", "euclidean", "l1"] as const;

/**
 * Prepares anchors for {@link PackedAnchors.relative}: normalised, converted and laid out once, so that no call does it again.
 *
 * ```ts
 * using anchors = await packAnchors(Tensor.fromTyped("f32", [300, 384], rows));
 * const r = anchors.relativeSync(embedding); // Float32Array of 300 cosines
 * ```
 * @param anchors `[m, d]` of f32, f16 or bf16.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also of `l1` with `i8`), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`
 * (NaN, an infinity, or a number that f16 cannot hold), `ERR_LATENT_OUT_OF_MEMORY`, and with `cuda` `ERR_LATENT_DEVICE_UNAVAILABLE`,
 * `ERR_LATENT_DEVICE_FAILED` and `ERR_LATENT_DEVICE_LOST`; the signal's reason on abort
 */
export async function packAnchors(anchors: Tensor, options: PackAnchorsOptions = {}): Promise<PackedAnchors> {
  checkKeys("options", options, ["similarity", "storage", "whitening", "centre", "scale", "device", "signal"]);
  const given: unknown = anchors;
  if (!(given instanceof Tensor)) throw invalid("anchors", "a Tensor [m, d]", given);
  const similarity = checkOneOf("similarity", fallback(options.similarity, "cosine"), similarities);
  const storage = checkStorage(options.storage);
  const { whitening, centre, scale, signal } = options;
  if (whitening !== undefined) checkWhitening(whitening);
  const choice = checkChoice(options.device);
  signal?.throwIfAborted();
  const placement = choice === "auto" ? await placeAuto(onlyOnCpu(storage)) : { device: choice };
  const job = LatentError.translate(() =>
    native().packAnchors(
      given.toNative(),
      { similarity, storage, mean: whitening?.mean, whiten: whitening?.whiten.toNative(), centre, scale },
      placement.device === "cuda",
    ),
  );
  return new PackedAnchors(await runOn(placement.device, job, signal), similarity, storage, placement);
}

function checkWhitening(whitening: AnchorWhitening): void {
  // the whole of what Moments.whitening gives may be passed
  checkKeys("whitening", whitening, ["mean", "whiten", "bias", "colour"]);
  const whiten: unknown = whitening.whiten;
  if (!(whiten instanceof Tensor)) throw invalid("whitening.whiten", "a Tensor [d, k]", whiten);
}

/** The `k` anchors that are most similar to each row (of distances the smallest), the best first: `indices` i32 and `values` f32, both `[n, k]`. */
export interface TopK {
  readonly indices: Tensor;
  readonly values: Tensor;
}

/**
 * Anchors in native memory, made by {@link packAnchors}. Every method takes rows `[n, d]`; below about a million multiplications (n · m · d), some ten
 * microseconds, the asynchronous ones compute before they return instead of going to another thread.
 *
 * Relative representations: Moschella et al., ICLR 2023.
 */
export class PackedAnchors {
  readonly #native: NativeAnchors;
  /** m */
  readonly count: number;
  /** d */
  readonly dimension: number;
  /** Native memory in bytes. */
  readonly bytes: number;
  /** Where it lies and computes. */
  readonly device: Device;
  /** Why it lies on the CPU, though `device: "auto"` would have taken a GPU. */
  readonly deviceReason: string | undefined;

  /** @internal */
  constructor(
    handle: NativeAnchors,
    readonly similarity: Similarity,
    readonly storage: Storage,
    placement: Placement,
  ) {
    this.#native = handle;
    this.device = placement.device;
    this.deviceReason = placement.deviceReason;
    ({ count: this.count, dimension: this.dimension, bytes: this.bytes } = handle.info());
  }

  /** Whether {@link PackedAnchors.dispose} was called. */
  get disposed(): boolean {
    return this.#native.disposed;
  }

  /**
   * The similarities of each row to each anchor, `[n, m]` row by row, computed before it returns, on all threads where that pays. For a few rows:
   * large inputs hold up the event loop.
   * @param out Filled and returned, exactly n · m numbers; it must not overlap `x`. Default: a new array, which costs more than a small product.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row; what `out`
   * holds is undefined then)
   */
  relativeSync(x: Rows, out?: Float32Array): Float32Array {
    const rows = nativeRows("x", x);
    const result = output("out", out, Float32Array, rowCount(x, this.dimension) * this.count);
    LatentError.translate(() => {
      this.#native.relativeSync(rows, result);
    });
    return result;
  }

  /**
   * The similarities of each row to each anchor, f32 `[n, m]`.
   * @throws {@link LatentError} as {@link PackedAnchors.relativeSync}; the signal's reason on abort
   */
  async relative(x: Rows, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    const rows = nativeRows("x", x);
    return Tensor.fromNative(await settled(() => this.#native.relative(rows), options.signal));
  }

  /**
   * The k nearest anchors of each row; the lower index first among equals.
   * @param k From 1 to {@link PackedAnchors.count}.
   * @throws {@link LatentError} as {@link PackedAnchors.relativeSync}; the signal's reason on abort
   */
  async topK(x: Rows, k: number, options: { readonly signal?: AbortSignal } = {}): Promise<TopK> {
    checkKeys("options", options, ["signal"]);
    checkInteger("k", k, 1, this.count);
    const rows = nativeRows("x", x);
    const { indices, values } = await settled(() => this.#native.topK(rows, k), options.signal);
    return { indices: Tensor.fromNative(indices), values: Tensor.fromNative(values) };
  }

  /**
   * The cosines as signed codes, i8 `[n, ceil(m · bits / 8)]`: round(127 r) of 8 bits, round(7 r) of 4 (two's complement, the first in the low half of
   * a byte), or the sign (1 where r ≥ 0, from the lowest bit on).
   * @throws {@link LatentError} as {@link PackedAnchors.relativeSync}, and `ERR_LATENT_INVALID_ARGUMENT` for other similarities; the signal's reason
   * on abort
   */
  async codes(x: Rows, bits: 8 | 4 | 1, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    checkInteger("bits", bits, 1, 8);
    const rows = nativeRows("x", x);
    return Tensor.fromNative(await settled(() => this.#native.codes(rows, bits), options.signal));
  }

  /** Frees the memory as soon as no running call uses it; idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  /** Same as {@link PackedAnchors.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
