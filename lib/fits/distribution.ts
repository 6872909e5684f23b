// What is usual for a number: its place among those of a sample.
import { checkKeys, checkNumber, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import type { NativeDistribution } from "../native-fits.js";
import { Tensor } from "../tensor.js";
import { checkMemory, fit } from "./input.js";

/**
 * The empirical distribution of a sample, sorted once in native memory; a question takes a binary search.
 *
 * ```ts
 * using usual = await EmpiricalDistribution.fit(entropies);
 * const strange = usual.cdf(entropy) > 0.99;
 * ```
 */
export class EmpiricalDistribution {
  readonly #native: NativeDistribution;
  /** Of the sample. */
  readonly count: number;
  /** Native memory in bytes. */
  readonly bytes: number;

  private constructor(handle: NativeDistribution) {
    this.#native = handle;
    ({ count: this.count, bytes: this.bytes } = handle.info());
  }

  /**
   * Sorts a copy of the sample.
   * @param sample At least one number, in a Float32Array or a Tensor of f32, f16 or bf16 and any shape. Infinities are numbers like others, NaN is none.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (NaN),
   * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  static async fit(sample: Float32Array | Tensor, options: { readonly signal?: AbortSignal } = {}): Promise<EmpiricalDistribution> {
    checkKeys("options", options, ["signal"]);
    const given: unknown = sample; // JavaScript callers may pass anything
    const tensor = given instanceof Tensor;
    if (!tensor && !(given instanceof Float32Array)) throw invalid("sample", "a Float32Array or a Tensor", given);
    if (tensor && (given.dtype === "i8" || given.dtype === "i32"))
      throw new LatentError("ERR_LATENT_DTYPE", `sample must be f32, f16 or bf16, got ${given.dtype}`);
    if (given.byteLength === 0) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "sample must have at least one number, got none");
    checkMemory("the sample", 2 * given.byteLength);
    return new EmpiricalDistribution(await fit(() => native().empiricalDistribution(tensor ? given.toNative() : given), options.signal));
  }

  /** Whether {@link EmpiricalDistribution.dispose} was called. */
  get disposed(): boolean {
    return this.#native.disposed;
  }

  /**
   * The share of the sample that is at most x, from 0 to 1.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (no number, or NaN), `ERR_LATENT_DISPOSED`
   */
  cdf(x: number): number {
    const given: unknown = x;
    if (typeof given !== "number" || Number.isNaN(given)) throw invalid("x", "a number", given);
    return LatentError.translate(() => this.#native.cdf(given));
  }

  /**
   * The number below which a share p of the sample lies: type 7 of Hyndman and Fan (1996), as in R and NumPy, linear between neighbours at position
   * p (count - 1). Between an infinity and the number above it, the infinity.
   * @param p From 0 to 1.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DISPOSED`
   */
  quantile(p: number): number {
    checkNumber("p", p, 0, 1);
    return LatentError.translate(() => this.#native.quantile(p));
  }

  /** Frees the memory; idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  /** Same as {@link EmpiricalDistribution.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
