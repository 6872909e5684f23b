// Vectors as symbols: the nearest codeword of a codebook or of several in turn, a grid that needs no codebook, and how many bits a component deserves.
import { checkInteger, checkKeys, checkNumber, checkOneOf, fallback, invalid } from "../check.js";
import { checkChoice, placeAuto, runOn, type Device, type DeviceChoice, type Placement } from "../devices.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import type { NativeCodebook } from "../native-kernels.js";
import { Tensor } from "../tensor.js";
import { array, nativeRows, output, rowCount, settled, type Rows } from "./input.js";

/** Options of {@link packCodebook}. */
export interface PackCodebookOptions {
  /** What codewords are compared in; default `f32`. */
  readonly storage?: "f32" | "f16" | "bf16";
  /**
   * Where it lies and computes; default `cpu`. On `cuda` there is no `Sync` method, rows may lie on either side, and results lie where the rows do.
   * `auto` takes the CPU where there is no GPU, and `deviceReason` says why.
   */
  readonly device?: DeviceChoice;
  readonly signal?: AbortSignal;
}

/**
 * Prepares codewords for {@link Codebook.nearest}. `kmeans` finds some.
 *
 * ```ts
 * using book = await packCodebook(codewords);
 * const symbols = book.nearestSync(latents); // Int32Array
 * ```
 * @param codewords `[k, d]` of f32, f16 or bf16.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_OUT_OF_MEMORY`, and with `cuda` `ERR_LATENT_DEVICE_UNAVAILABLE`, `ERR_LATENT_DEVICE_FAILED` and `ERR_LATENT_DEVICE_LOST`; the signal's
 * reason on abort
 */
export async function packCodebook(codewords: Tensor, options: PackCodebookOptions = {}): Promise<Codebook> {
  checkKeys("options", options, ["storage", "device", "signal"]);
  const given: unknown = codewords;
  if (!(given instanceof Tensor)) throw invalid("codewords", "a Tensor [k, d]", given);
  const storage = checkOneOf("storage", fallback(options.storage, "f32"), ["f32", "f16", "bf16"]);
  const choice = checkChoice(options.device);
  options.signal?.throwIfAborted();
  const placement = choice === "auto" ? await placeAuto() : { device: choice };
  const job = LatentError.translate(() => native().packCodebook(given.toNative(), storage, placement.device === "cuda"));
  return new Codebook(await runOn(placement.device, job, options.signal), storage, placement);
}

/** The nearest codeword of each row, i32 `[n]`, and the squared distance to it, f32 `[n]`. */
export interface Nearest {
  readonly indices: Tensor;
  readonly distances: Tensor;
}

/** Codewords in native memory, made by {@link packCodebook}. */
export class Codebook {
  readonly #native: NativeCodebook;
  /** k */
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
    handle: NativeCodebook,
    readonly storage: "f32" | "f16" | "bf16",
    placement: Placement,
  ) {
    this.#native = handle;
    this.device = placement.device;
    this.deviceReason = placement.deviceReason;
    ({ count: this.count, dimension: this.dimension, bytes: this.bytes } = handle.info());
  }

  /** @internal The handle, for native calls. */
  toNative(): NativeCodebook {
    return this.#native;
  }

  /** Whether {@link Codebook.dispose} was called. */
  get disposed(): boolean {
    return this.#native.disposed;
  }

  /**
   * The codeword of least |x - c|² for each row, the lower index among equals, computed before it returns.
   * @param x `[n, d]`
   * @param indices `[n]`, filled and returned; default a new array.
   * @param distances `[n]`, filled with |x - c|² if it is given; those much smaller than |x|² are inexact.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
   * `ERR_LATENT_OUT_OF_MEMORY`
   */
  nearestSync(x: Rows, indices?: Int32Array, distances?: Float32Array): Int32Array {
    const rows = nativeRows("x", x);
    const found = output("indices", indices, Int32Array, rowCount(x, this.dimension));
    if (distances !== undefined) array("distances", distances, Float32Array);
    LatentError.translate(() => {
      this.#native.nearestSync(rows, found, distances);
    });
    return found;
  }

  /**
   * The same, off the JavaScript thread unless there is little to do (about a million multiplications, n · k · d).
   * @throws {@link LatentError} as {@link Codebook.nearestSync}; the signal's reason on abort
   */
  async nearest(x: Rows, options: { readonly signal?: AbortSignal } = {}): Promise<Nearest> {
    checkKeys("options", options, ["signal"]);
    const rows = nativeRows("x", x);
    const { indices, distances } = await settled(() => this.#native.nearest(rows), options.signal);
    return { indices: Tensor.fromNative(indices), distances: Tensor.fromNative(distances) };
  }

  /** Frees the memory as soon as no running call uses it; idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  /** Same as {@link Codebook.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Residual vector quantisation: each codebook in turn codes what those before it have left.
 * @param codebooks At least one, all of one dimension d, on the CPU.
 * @param x `[n, d]`
 * @returns `indices`, i32 `[n, stages]`, and `residual`, what is left at the end, f32 `[n, d]`
 * @throws {@link LatentError} as {@link Codebook.nearestSync}; the signal's reason on abort
 */
export async function residualQuantise(
  codebooks: readonly Codebook[],
  x: Rows,
  options: { readonly signal?: AbortSignal } = {},
): Promise<{ readonly indices: Tensor; readonly residual: Tensor }> {
  checkKeys("options", options, ["signal"]);
  const stages = nativeCodebooks(codebooks);
  const rows = nativeRows("x", x);
  const { indices, residual } = await settled(() => native().residualQuantise(stages, rows), options.signal);
  return { indices: Tensor.fromNative(indices), residual: Tensor.fromNative(residual) };
}

/**
 * The sum of the codewords that {@link residualQuantise} chose; with one codebook, the decoding of plain vector quantisation.
 * @param indices `[n, stages]`, an array or a tensor of i32.
 * @returns f32 `[n, d]`
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (an index that no codeword has), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`,
 * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function residualDequantise(
  codebooks: readonly Codebook[],
  indices: Int32Array | Tensor,
  options: { readonly signal?: AbortSignal } = {},
): Promise<Tensor> {
  checkKeys("options", options, ["signal"]);
  const stages = nativeCodebooks(codebooks);
  const numbers: unknown = indices instanceof Tensor ? indices.toTyped() : indices;
  if (!(numbers instanceof Int32Array)) {
    if (indices instanceof Tensor) throw new LatentError("ERR_LATENT_DTYPE", `indices must be i32, not ${indices.dtype}`);
    throw invalid("indices", "an Int32Array or a Tensor of i32", numbers);
  }
  return Tensor.fromNative(await settled(() => native().residualDequantise(stages, numbers), options.signal));
}

function nativeCodebooks(codebooks: unknown): NativeCodebook[] {
  if (!Array.isArray(codebooks) || codebooks.length === 0) throw invalid("codebooks", "an array of at least one Codebook", codebooks);
  return codebooks.map((one: unknown) => {
    if (!(one instanceof Codebook)) throw invalid("codebooks", "an array of at least one Codebook", one);
    return one.toNative();
  });
}

/**
 * Finite scalar quantisation: each component is bounded by tanh and rounded to one of a few values; no codebook is learnt or looked up.
 *
 * Mentzer et al., ICLR 2024.
 */
export class FiniteScalarQuantiser {
  readonly #levels: Int32Array;
  /** How many symbols there are: the product of the levels. */
  readonly symbols: number;

  /**
   * @param levels Values of each component, 2 to 65536; at most 2³¹ - 1 symbols in all. `[8, 5, 5, 5]` are the thousand symbols of the paper.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
   */
  constructor(levels: readonly number[]) {
    const given: unknown = levels;
    if (!Array.isArray(given) || given.length === 0) throw invalid("levels", "an array of at least one number", given);
    this.#levels = Int32Array.from(given, (count: unknown, i) => checkInteger(`levels[${i}]`, count, 2, 65536));
    this.symbols = this.#levels.reduce((product, count) => product * count, 1);
    if (this.symbols > 2 ** 31 - 1) throw invalid("the product of levels", `at most ${2 ** 31 - 1}`, this.symbols);
  }

  /** Components of a row. */
  get dimension(): number {
    return this.#levels.length;
  }

  /**
   * The symbols of rows, `[n]`: digits of mixed radix, the first component's the lowest.
   * @param x `[n, dimension]`
   * @param out Filled and returned; default a new array.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`
   */
  encode(x: Rows, out?: Int32Array): Int32Array {
    const rows = nativeRows("x", x);
    const symbols = output("out", out, Int32Array, rowCount(x, this.dimension));
    LatentError.translate(() => {
      native().fsqEncode(rows, this.#levels, symbols);
    });
    return symbols;
  }

  /**
   * The values that symbols stand for, `[n, dimension]`: -1 to 1 for an odd number of levels, -1 to 1 - 2 / levels for an even one.
   * @param out Filled and returned; default a new array.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (a symbol that there is not)
   */
  decode(symbols: Int32Array, out?: Float32Array): Float32Array {
    array("symbols", symbols, Int32Array);
    const values = output("out", out, Float32Array, symbols.length * this.dimension);
    LatentError.translate(() => {
      native().fsqDecode(symbols, this.#levels, values);
    });
    return values;
  }
}

/** A budget of bits over components, by {@link waterFilling}. */
export interface BitSplit {
  /** Bits of each component, `[n]`. */
  readonly bits: Float64Array;
  /** Mean squared error of a component that gets bits. */
  readonly level: number;
  /** The sum of the errors of all components. */
  readonly distortion: number;
}

/** Options of {@link wholeBits}. */
export interface WholeBitsOptions {
  /** The most bits of a component, at most 64; default 16. */
  readonly mostBits?: number;
}

/**
 * Reverse water-filling: the split of `totalBits` over independent Gaussian components with the least squared error. Component i gets
 * max(0, ½ log₂(variance / level)) bits.
 * @param variances `[n]`, none negative; those of a PCA, say.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (a variance that is negative or not finite; bits to spend and nothing that varies)
 */
export function waterFilling(variances: Float64Array, totalBits: number): BitSplit {
  array("variances", variances, Float64Array);
  checkNumber("totalBits", totalBits, 0, 1e15);
  const bits = new Float64Array(variances.length);
  const { level, distortion } = LatentError.translate(() => native().splitBits(variances, totalBits, bits));
  return { bits, level, distortion };
}

/**
 * The same in whole bits: one after the other to the component with the largest error, which it quarters; the lower index among equals.
 * @returns `bits`, `[n]`, which add up to `totalBits` or to less when nothing is left to be coded, and the sum of the errors
 * @throws {@link LatentError} as {@link waterFilling}
 */
export function wholeBits(
  variances: Float64Array,
  totalBits: number,
  options: WholeBitsOptions = {},
): { readonly bits: Int32Array; readonly distortion: number } {
  checkKeys("options", options, ["mostBits"]);
  array("variances", variances, Float64Array);
  checkInteger("totalBits", totalBits, 0, 2 ** 40);
  const mostBits = checkInteger("mostBits", fallback(options.mostBits, 16), 0, 64);
  const bits = new Int32Array(variances.length);
  return { bits, distortion: LatentError.translate(() => native().splitWholeBits(variances, totalBits, mostBits, bits)) };
}
