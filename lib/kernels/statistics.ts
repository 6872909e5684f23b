// What can be read off rows in one pass: norms, how far a trajectory has drifted, the mean of a segment, entropy, what is not finite, digests. All of it
// moves at about the speed of memory (a millisecond or a few for 10 MB), so all of it is done before the call returns.
import { checkKeys, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import { Tensor } from "../tensor.js";
import { array, columnsOf, nativeRows, output, rowCount, type Rows } from "./input.js";

/** `columns`: numbers of a row, needed for a Float32Array. `out`: filled and returned, `[n]`; default a new array. */
export interface RowOptions {
  readonly columns?: number;
  readonly out?: Float32Array;
}

/**
 * |x| of each row, `[n]`, also where |x|² is too large or too small for f32.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row)
 */
export function rowNorms(x: Rows, options: RowOptions = {}): Float32Array {
  return perRow("x", x, options, (rows, columns, out) => {
    native().rowNorms(rows, columns, out);
  });
}

/**
 * -Σ p log₂ p of each row of probabilities, `[n]`, in bits. Rows are taken as they are: they need not sum to 1.
 * @param p f32
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also for a negative number), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`,
 * `ERR_LATENT_NON_FINITE` (which row)
 */
export function entropyBits(p: Rows, options: RowOptions = {}): Float32Array {
  return perRow("p", p, options, (rows, columns, out) => {
    native().entropyBits(rows, columns, out);
  });
}

function perRow(
  name: string,
  x: Rows,
  options: RowOptions,
  work: (rows: ReturnType<typeof nativeRows>, columns: number, out: Float32Array) => void,
): Float32Array {
  checkKeys("options", options, ["columns", "out"]);
  const rows = nativeRows(name, x);
  const columns = columnsOf(x, options.columns);
  const out = output("out", options.out, Float32Array, rowCount(x, columns));
  LatentError.translate(() => {
    work(rows, columns, out);
  });
  return out;
}

/**
 * The first row that holds NaN or an infinity; undefined if all numbers are finite.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`
 */
export function firstNonFiniteRow(x: Rows, options: { readonly columns?: number } = {}): number | undefined {
  checkKeys("options", options, ["columns"]);
  const rows = nativeRows("x", x);
  const columns = columnsOf(x, options.columns);
  const row = LatentError.translate(() => native().firstNonFinite(rows, columns));
  return row < 0 ? undefined : row;
}

/** Dot products along a trajectory, `[n]` each: |xᵢ|², ⟨xᵢ, xᵢ₋₁⟩ and ⟨xᵢ, x₀⟩. */
export interface Drift {
  readonly squares: Float32Array;
  /** 0 for a first row without a `previous`. */
  readonly toPrevious: Float32Array;
  readonly toFirst: Float32Array;
}

/**
 * How a trajectory of latents moves: with the squares, each product is a cosine or a distance.
 * @param options `columns`: numbers of a row, needed for a Float32Array. `previous`, `first`: the last and the first row of a trajectory that began
 * earlier, of the dtype of x; default: row 0 is the first.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row)
 */
export function drift(x: Rows, options: { readonly columns?: number; readonly previous?: Rows; readonly first?: Rows } = {}): Drift {
  checkKeys("options", options, ["columns", "previous", "first"]);
  const rows = nativeRows("x", x);
  const columns = columnsOf(x, options.columns);
  const previous = options.previous === undefined ? undefined : nativeRows("previous", options.previous);
  const first = options.first === undefined ? undefined : nativeRows("first", options.first);
  const n = rowCount(x, columns);
  const found: Drift = { squares: new Float32Array(n), toPrevious: new Float32Array(n), toFirst: new Float32Array(n) };
  LatentError.translate(() => {
    native().drift(rows, columns, previous, first, found.squares, found.toPrevious, found.toFirst);
  });
  return found;
}

/**
 * The mean of the rows of a segment, as they come.
 *
 * ```ts
 * const mean = new RunningMean(384);
 * for await (const latent of latents) mean.add(latent);
 * ```
 */
export class RunningMean {
  /** `[d]`; zeros before the first row. */
  readonly values: Float32Array;
  #count = 0;

  /**
   * @param dimension d
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
   */
  constructor(dimension: number) {
    this.values = new Float32Array(columnsOf(new Float32Array(), dimension));
  }

  /** Rows so far. */
  get count(): number {
    return this.#count;
  }

  /**
   * Takes rows `[n, d]` in. If one of them is refused, none is taken.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row)
   */
  add(x: Rows): void {
    const rows = nativeRows("x", x);
    this.#count = LatentError.translate(() => native().addToMean(rows, this.values, this.#count));
  }
}

/**
 * XXH3-128 of bytes, 32 hex digits as `xxhsum -H2` prints them. It finds damage, not intent: bytes with a given digest can be made; {@link blake3} is
 * for those.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DISPOSED`
 */
export function digest128(data: Uint8Array | Tensor): string {
  const bytes = nativeBytes(data);
  return LatentError.translate(() => native().digest(bytes));
}

/**
 * BLAKE3 of bytes, 64 hex digits as `b3sum` prints them. Nobody can make other bytes with the same digest.
 * @param options `key`: 32 bytes; with it the digest is a code that only who has the key can make or check (the keyed mode).
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DISPOSED`
 */
export function blake3(data: Uint8Array | Tensor, options: { readonly key?: Uint8Array } = {}): string {
  checkKeys("options", options, ["key"]);
  const bytes = nativeBytes(data);
  const key = options.key === undefined ? undefined : array("key", options.key, Uint8Array);
  if (key !== undefined && key.length !== 32) throw invalid("key", "32 bytes", key.length);
  return LatentError.translate(() => native().blake3(bytes, key));
}

function nativeBytes(data: Uint8Array | Tensor): Uint8Array | ReturnType<Tensor["toNative"]> {
  const given: unknown = data;
  if (given instanceof Tensor) return given.toNative();
  if (given instanceof Uint8Array) return given;
  throw invalid("data", "a Uint8Array or a Tensor", given);
}
