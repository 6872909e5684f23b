// Vectors of texts from anywhere: what an encoder is, and one made of any function that has them, such as a pipeline of transformers.js, a session of
// onnxruntime or a service.
import { createHash } from "node:crypto";
import { checkInteger, checkKeys, checkString, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { Tensor } from "../tensor.js";
import { Latent } from "./latent.js";
import { makeSpace, type Space } from "./space.js";

/** Makes one row of each text. Made by {@link modelEncoder} and {@link createEncoder}, or anything of this form. */
export interface Encoder {
  /** Of its rows: encoders of one space make the same rows of a text. */
  readonly space: Space;
  /** `[texts, space.dimension]`, in the order of the texts; the caller disposes it. */
  encode(texts: readonly string[], options?: { readonly signal?: AbortSignal }): Promise<Latent>;
}

/**
 * Vectors as libraries give them: a tensor `{ dims: [n, d], data }`, which those of transformers.js and onnxruntime are, or n arrays of d numbers, as
 * services send them.
 */
export type Vectors = { readonly dims: readonly number[]; readonly data: ArrayLike<unknown> } | readonly ArrayLike<number>[];

/** Options of {@link createEncoder}. */
export interface CreateEncoderOptions {
  /**
   * Tells the vectors apart from all others, e.g. `all-MiniLM-L6-v2, revision 8b3219a, q8, mean, length 1`: model, revision, number format, pooling. Where it
   * is the same, rows count as of one space.
   */
  readonly name: string;
  /** Numbers of a vector, from 1 to 65536. */
  readonly dimension: number;
  /** The vectors of some texts, one each, in their order. It may heed the signal. */
  readonly embed: (texts: readonly string[], signal: AbortSignal | undefined) => PromiseLike<Vectors>;
  /** Texts a call of `embed`, from 1. Default 32. */
  readonly batch?: number;
}

/**
 * An encoder of a function that has vectors. This package depends on no library for them; bring the one you have.
 *
 * ```ts
 * import { pipeline } from "@huggingface/transformers";
 * const extract = await pipeline("feature-extraction", "Xenova/all-MiniLM-L6-v2", { dtype: "q8" });
 * const encoder = createEncoder({
 *   name: "Xenova/all-MiniLM-L6-v2, q8, mean, length 1",
 *   dimension: 384,
 *   embed: (texts) => extract([...texts], { pooling: "mean", normalize: true }),
 * });
 * ```
 * `encode` throws `ERR_LATENT_INVALID_ARGUMENT` (also: vectors of another number or size), `ERR_LATENT_NON_FINITE`, what `embed` throws, and the signal's
 * reason on abort.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
 */
export function createEncoder(options: CreateEncoderOptions): Encoder {
  checkKeys("options", options, ["name", "dimension", "embed", "batch"]);
  const name = checkString("name", options.name);
  if (name === "") throw invalid("name", "a name that tells the vectors apart from others", name);
  const dimension = checkInteger("dimension", options.dimension, 1, 1 << 16);
  const batch = checkInteger("batch", fallback(options.batch, 32), 1, 1 << 20);
  const { embed } = options;
  if (typeof (embed as unknown) !== "function") throw invalid("embed", "a function", embed);
  const weights = createHash("sha256").update(name).digest("hex");
  const space = makeSpace({ weights, layer: "pooled", dimension, positions: "none", normalisation: "as named" });
  return {
    space,
    async encode(texts, more = {}) {
      checkKeys("options", more, ["signal"]);
      const { signal } = more;
      checkTexts(texts);
      const rows = new Float32Array(texts.length * dimension);
      for (let from = 0; from < texts.length; from += batch) {
        signal?.throwIfAborted();
        const some = texts.slice(from, from + batch);
        const vectors = await embed(some, signal);
        signal?.throwIfAborted();
        fill(rows.subarray(from * dimension, (from + some.length) * dimension), vectors, some.length, dimension);
      }
      const bad = rows.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0)
        throw new LatentError("ERR_LATENT_NON_FINITE", `the vector of text ${Math.floor(bad / dimension)} holds NaN or an infinity`);
      return new Latent(space, "pooled", Tensor.fromTyped("f32", [texts.length, dimension], rows));
    },
  };
}

/** @internal */
export function checkTexts(texts: unknown): asserts texts is readonly string[] {
  if (!Array.isArray(texts) || !texts.every((text) => typeof text === "string")) throw invalid("texts", "an array of strings", texts);
}

/** @internal */
export function isEncoder(value: unknown): value is Encoder {
  if (typeof value !== "object" || value === null) return false;
  const space: unknown = Reflect.get(value, "space");
  return typeof space === "object" && space !== null && typeof Reflect.get(value, "encode") === "function";
}

function fill(rows: Float32Array, vectors: unknown, n: number, d: number): void {
  const wrong = (found: string): LatentError => invalid("what embed returned", `${n} vectors of ${d} numbers`, found);
  if (typeof vectors !== "object" || vectors === null) throw wrong(typeof vectors);
  if (Array.isArray(vectors)) {
    if (vectors.length !== n) throw wrong(`${vectors.length} vectors`);
    for (const [i, vector] of (vectors as readonly unknown[]).entries()) {
      const size = lengthOf(vector);
      if (size !== d) throw wrong(size === undefined ? "a vector that is no array" : `a vector of ${size}`);
      copy(rows, i * d, vector as ArrayLike<unknown>, wrong);
    }
    return;
  }
  const dims: unknown = Reflect.get(vectors, "dims");
  const data: unknown = Reflect.get(vectors, "data");
  if (!Array.isArray(dims)) throw wrong("something without dims");
  if (dims.length !== 2 || dims[0] !== n || dims[1] !== d) throw wrong(`a tensor of ${dims.join(" x ")}`);
  if (lengthOf(data) !== n * d) throw wrong(`a tensor of ${lengthOf(data) ?? "no"} numbers`);
  copy(rows, 0, data as ArrayLike<unknown>, wrong);
}

function lengthOf(value: unknown): number | undefined {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))
    ? (value as unknown as ArrayLike<unknown>).length
    : undefined;
}

function copy(rows: Float32Array, at: number, values: ArrayLike<unknown>, wrong: (found: string) => LatentError): void {
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (typeof value !== "number") throw wrong(`a ${typeof value} in it`);
    rows[at + i] = value;
  }
}
