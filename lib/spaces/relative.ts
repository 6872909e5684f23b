// A relative space: rows told by what they are to a set of anchors, which models that share nothing else can agree on (Moschella et al., ICLR 2023).
// One object for all similarities, products of several of them, and what is done to rows before; the arithmetic is that of packed operands.
import { checkKeys, checkNumber, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { parsevalFrame } from "../fits/decompositions.js";
import { checkMatrix, fit } from "../fits/input.js";
import { leastSquares } from "../fits/linear.js";
import { accumulateMoments } from "../fits/moments.js";
import { withSignal } from "../jobs.js";
import { packAnchors, PackedAnchors, type Similarity, type TopK } from "../kernels/anchors.js";
import { checkStorage, type Storage } from "../kernels/input.js";
import { packProjection, type Projection } from "../kernels/projection.js";
import { readSealed, unsound, writeSealed } from "../files/sealed.js";
import { native } from "../native.js";
import { Tensor } from "../tensor.js";
import { AnchorSet, type AnchorSetJson } from "./anchors.js";
import { Latent } from "./latent.js";
import { combineRows, identity } from "./rows.js";
import { makeSpace, requireSameSpace, type Space } from "./space.js";
import { checkChain, fitTransform, restoreTransform, type RowTransform, type TransformKind } from "./transforms.js";
import { pairedErrors } from "./metrics.js";

/**
 * One of {@link Similarity}, or `lp`: (Σ |xₖ - aₖ|^p)^(1/p), in f64 and about a hundred times as slow as the others. `basis`: the coefficients c of
 * least |aᵀc - x|² (of least |c|² among equals). `whitened`: inner products (x - mean)ᵀ S⁻¹ (a - mean) under the shrunk covariance S of the rows.
 * `parseval`: x Fᵀ with the Parseval frame F of the anchors.
 */
export type RelativeSimilarity = Similarity | "lp" | "basis" | "whitened" | "parseval";

const similarities = ["cosine", "angular", "inner", "squared-euclidean", "euclidean", "l1", "lp", "basis", "whitened", "parseval"] as const;

/** Options of {@link RelativeSpace.fit}. */
export interface RelativeOptions {
  /** One, or several of the same anchors, put together by `combine`. Default `cosine`. */
  readonly similarity?: RelativeSimilarity | readonly RelativeSimilarity[];
  /**
   * How several similarities become one latent (Cannistraci et al., Bricks to Bridges, ICLR 2024): side by side, or element by element. Default `concat`.
   */
  readonly combine?: "concat" | "sum" | "mean";
  /** What is done to rows first, fitted on the anchors only. Default nothing. */
  readonly transforms?: readonly TransformKind[];
  /** Of `whitened`, from 0 to 1: how much of S is the mean variance. Default 0.5. It is fitted on all rows. */
  readonly shrinkage?: number;
  /** Of `lp`, which needs it: 1 or more. */
  readonly p?: number;
  /** How anchors are kept; default `f32`. */
  readonly storage?: Storage;
  readonly signal?: AbortSignal;
}

/** Anchors under a distance that no kernel is made for. */
class LpAnchors {
  readonly #anchors: Tensor;

  /** Takes the tensor over. */
  constructor(
    anchors: Tensor,
    readonly p: number,
  ) {
    this.#anchors = anchors;
  }

  get disposed(): boolean {
    return this.#anchors.disposed;
  }

  async relative(x: Tensor, options: { readonly signal?: AbortSignal }): Promise<Tensor> {
    const [rows, anchors] = [checkMatrix("x", x), checkMatrix("anchors", this.#anchors)];
    return Tensor.fromNative(await fit(() => native().lpDistances(rows.source, anchors.source, this.p), options.signal));
  }

  dispose(): void {
    this.#anchors.dispose();
  }
}

type Measure = PackedAnchors | Projection | LpAnchors;

/** What one similarity is computed with: anchors or a matrix, and a whitening. */
interface Operand {
  readonly similarity: RelativeSimilarity;
  /** `[k, d]`: transformed anchors or a frame; of `basis` the pseudo-inverse of the anchors `[d, k]`. */
  readonly matrix: Tensor;
  readonly mean?: Float32Array;
  readonly whiten?: Tensor;
}

interface Facts {
  readonly similarity: readonly RelativeSimilarity[];
  readonly combine: "concat" | "sum" | "mean";
  readonly transforms: readonly TransformKind[];
  readonly shrinkage: number;
  /** Of `lp`. */
  readonly p: number | null;
  readonly storage: Storage;
}

/** Relative latents in few bits; made by {@link RelativeSpace.codes}. */
export interface RelativeCodes {
  /** As of the latents; it carries the anchors' hash. */
  readonly space: Space;
  readonly bits: 8 | 4 | 1;
  /** i8 `[n, ceil(dimension · bits / 8)]` */
  readonly codes: Tensor;
}

const format = "latentwire relative space 1";

/** Rows relative to anchors in the space of one model. Made by {@link RelativeSpace.fit}, kept by {@link RelativeSpace.save}. */
export class RelativeSpace {
  /** What latents of this space are compared by: equal for two models with the same anchors, similarities and transforms. */
  readonly space: Space;
  readonly #facts: Facts;
  readonly #transform: RowTransform;
  readonly #operands: readonly Operand[];
  readonly #packed: readonly Measure[];

  private constructor(
    readonly anchors: AnchorSet,
    /** d, of rows that are told. */
    readonly inputDimension: number,
    facts: Facts,
    transform: RowTransform,
    operands: readonly Operand[],
    packed: readonly Measure[],
  ) {
    this.#facts = facts;
    this.#transform = transform;
    this.#operands = operands;
    this.#packed = packed;
    const numbers = [...(facts.similarity.includes("whitened") ? [facts.shrinkage] : []), ...(facts.p === null ? [] : [facts.p])];
    this.space = makeSpace({
      weights: anchors.hash,
      layer: "relative",
      dimension: anchors.count * (facts.combine === "concat" ? facts.similarity.length : 1),
      positions: "none",
      normalisation: JSON.stringify([facts.similarity, facts.similarity.length > 1 ? facts.combine : "one", facts.transforms, ...numbers]),
    });
  }

  /**
   * Fits the space of one model.
   *
   * ```ts
   * const anchors = await selectAnchors(rows, { count: 300, corpus: "words-20k" });
   * using relative = await RelativeSpace.fit(rows, anchors, { transforms: ["centre"] });
   * using latent = await relative.encode(embeddings);
   * ```
   * @param rows `[n, d]` of f32, f16 or bf16: the corpus of the anchors as this model embeds it. All of it is used by `whitened` only.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also of anchors that are not among the rows, or equal to each other), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  static async fit(rows: Tensor, anchors: AnchorSet, options: RelativeOptions = {}): Promise<RelativeSpace> {
    checkKeys("options", options, ["similarity", "combine", "transforms", "shrinkage", "p", "storage", "signal"]);
    const { columns } = checkMatrix("rows", rows);
    const given: unknown = anchors;
    if (!(given instanceof AnchorSet)) throw invalid("anchors", "an AnchorSet", given);
    const names = fallback(options.similarity, "cosine");
    const similarity = (typeof names === "string" ? [names] : checkList(names)).map((one) => checkOneOf("similarity", one, similarities));
    const facts: Facts = {
      similarity,
      combine: checkOneOf("combine", fallback(options.combine, "concat"), ["concat", "sum", "mean"]),
      transforms: checkChain(fallback(options.transforms, [])),
      shrinkage: checkNumber("shrinkage", fallback(options.shrinkage, 0.5), 0, 1),
      p: checkPower(similarity, options.p),
      storage: checkStorage(options.storage),
    };
    const signal = withSignal(options.signal);
    using chosen = await anchors.rows(rows, signal);
    const transform = await fitTransform(chosen, facts.transforms, signal);
    using anchorRows = await transform.apply(chosen, signal);
    refuseCopies(anchorRows);
    const operands: Operand[] = [];
    try {
      for (const similarity of facts.similarity)
        operands.push(await fitOperand(similarity, anchorRows, rows, transform, facts.shrinkage, signal));
      return await RelativeSpace.#pack(anchors, columns, facts, transform, operands, signal);
    } catch (error) {
      disposeOperands(operands);
      throw error;
    }
  }

  static async #pack(
    anchors: AnchorSet,
    columns: number,
    facts: Facts,
    transform: RowTransform,
    operands: readonly Operand[],
    signal: { readonly signal?: AbortSignal },
  ): Promise<RelativeSpace> {
    const packed: Measure[] = [];
    try {
      for (const { similarity, matrix, mean, whiten } of operands) {
        const common = { storage: facts.storage, ...signal };
        if (similarity === "lp") packed.push(new LpAnchors(matrix, facts.p ?? 2));
        else if (similarity === "basis") packed.push(await packProjection({ layers: [{ weights: matrix }], ...common }));
        else {
          const measure = similarity === "whitened" || similarity === "parseval" ? "inner" : similarity;
          const whitening = mean !== undefined && whiten !== undefined ? { whitening: { mean, whiten } } : {};
          packed.push(await packAnchors(matrix, { similarity: measure, ...whitening, ...common }));
        }
      }
      return new RelativeSpace(anchors, columns, facts, transform, operands, packed);
    } catch (error) {
      for (const one of packed) one.dispose();
      throw error;
    }
  }

  /** k times the number of similarities that stand side by side. */
  get dimension(): number {
    return this.space.dimension;
  }

  /** What is done to rows before they meet the anchors. */
  get transform(): RowTransform {
    return this.#transform;
  }

  get disposed(): boolean {
    return this.#packed.some((one) => one.disposed);
  }

  /**
   * Rows relative to the anchors, a latent `[n, dimension]` of kind `relative`, which carries the anchors' hash as part of its space.
   * @param x `[n, d]`
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row),
   * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async encode(x: Tensor | Latent, options: { readonly signal?: AbortSignal } = {}): Promise<Latent> {
    checkKeys("options", options, ["signal"]);
    const given = x instanceof Latent ? x.tensor() : x;
    const rows = await this.#prepare(given, options);
    const parts: Tensor[] = [];
    try {
      for (const one of this.#packed) parts.push("relative" in one ? await one.relative(rows, options) : await one.apply(rows, options));
      const [only, ...others] = parts;
      if (only !== undefined && others.length === 0) return new Latent(this.space, "relative", parts.pop() ?? only);
      return new Latent(this.space, "relative", await combineRows(parts, this.#facts.combine, options.signal));
    } finally {
      for (const part of parts) part.dispose();
      if (rows !== given) rows.dispose();
    }
  }

  /** Transformed rows, or the very ones where nothing is to be done. */
  async #prepare(x: Tensor, options: { readonly signal?: AbortSignal }): Promise<Tensor> {
    if (this.#transform.kinds.length > 0) return this.#transform.apply(x, options);
    const { columns } = checkMatrix("x", x);
    if (columns !== this.inputDimension) throw invalid("the dimension of x", String(this.inputDimension), columns);
    return x;
  }

  /**
   * The k anchors nearest to each row, found without all similarities ever being held.
   * @param x `[n, d]`
   * @throws {@link LatentError} as {@link RelativeSpace.encode}, and `ERR_LATENT_INVALID_ARGUMENT` for several similarities or `basis`
   */
  async topK(x: Tensor, k: number, options: { readonly signal?: AbortSignal } = {}): Promise<TopK> {
    checkKeys("options", options, ["signal"]);
    const anchors = this.#onlyAnchors("topK");
    const rows = await this.#prepare(x, options);
    try {
      return await anchors.topK(rows, k, options);
    } finally {
      if (rows !== x) rows.dispose();
    }
  }

  /**
   * Rows as cosines in 8, 4 or 1 bits (see {@link PackedAnchors.codes}), with the space that they are codes of: a quarter, an eighth or a thirty-second of
   * the bytes of {@link RelativeSpace.encode}.
   * @param x `[n, d]`
   * @throws {@link LatentError} as {@link RelativeSpace.topK}, and for similarities other than `cosine`
   */
  async codes(x: Tensor, bits: 8 | 4 | 1, options: { readonly signal?: AbortSignal } = {}): Promise<RelativeCodes> {
    checkKeys("options", options, ["signal"]);
    const anchors = this.#onlyAnchors("codes");
    const rows = await this.#prepare(x, options);
    try {
      return { space: this.space, bits, codes: await anchors.codes(rows, bits, options) };
    } finally {
      if (rows !== x) rows.dispose();
    }
  }

  /**
   * The latent that codes stand for, about: to 1/254 of 8 bits, 1/14 of 4; of 1 bit only signs are left.
   * @throws {@link LatentError} `ERR_LATENT_SPACE_MISMATCH` (codes of other anchors or transforms), `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`,
   * `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async decode({ space, bits, codes }: RelativeCodes, options: { readonly signal?: AbortSignal } = {}): Promise<Latent> {
    checkKeys("options", options, ["signal"]);
    requireSameSpace(space, this.space, "what the codes stand for");
    const given: unknown = codes;
    if (!(given instanceof Tensor)) throw invalid("codes", "a Tensor of i8", given);
    const rows = await fit(() => native().decodeCodes(given.toNative(), this.dimension, bits), options.signal);
    return new Latent(this.space, "relative", Tensor.fromNative(rows));
  }

  #onlyAnchors(what: string): PackedAnchors {
    const [only, another] = this.#packed;
    if (!(only instanceof PackedAnchors) || another !== undefined)
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${what} is of a space with one similarity that is neither 'basis' nor 'lp'`);
    return only;
  }

  /**
   * Writes the fitted space as safetensors: what {@link RelativeSpace.load} makes of it tells the same rows by the same bits.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (the path cannot be written), `ERR_LATENT_DISPOSED`
   */
  async save(path: string): Promise<void> {
    const tensors = this.#transform.state("transform");
    this.#operands.forEach(({ matrix, mean, whiten }, i) => {
      tensors.set(`operand.${i}.matrix`, matrix);
      if (mean !== undefined) tensors.set(`operand.${i}.mean`, Tensor.fromTyped("f32", [mean.length], mean));
      if (whiten !== undefined) tensors.set(`operand.${i}.whiten`, whiten);
    });
    const facts = JSON.stringify({ ...this.#facts, inputDimension: this.inputDimension });
    const metadata = new Map([
      ["facts", facts],
      ["anchors", JSON.stringify(this.anchors)],
    ]);
    await writeSealed(path, format, tensors, metadata);
  }

  /**
   * Reads what {@link RelativeSpace.save} wrote.
   * @throws {@link LatentError} `ERR_LATENT_FILE_FORMAT`, `ERR_LATENT_INVALID_ARGUMENT` (no such file), `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on
   * abort
   */
  static async load(path: string, options: { readonly signal?: AbortSignal } = {}): Promise<RelativeSpace> {
    checkKeys("options", options, ["signal"]);
    const { tensors, metadata } = await readSealed(path, format);
    const { anchors, facts, inputDimension } = parseFacts(path, metadata);
    const transform = restoreTransform(facts.transforms, inputDimension, tensors, "transform");
    const operands = facts.similarity.map((similarity, i) => restoreOperand(path, similarity, tensors, i, anchors.count, inputDimension));
    return RelativeSpace.#pack(anchors, inputDimension, facts, transform, operands, withSignal(options.signal));
  }

  /** Frees the memory; idempotent. */
  dispose(): void {
    for (const one of this.#packed) one.dispose();
    disposeOperands(this.#operands);
  }

  /** Same as {@link RelativeSpace.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function checkList<T>(names: readonly T[]): readonly T[] {
  const given: unknown = names;
  if (!Array.isArray(given) || given.length === 0) throw invalid("similarity", "one or a list of at least one", given);
  return names;
}

function checkPower(similarity: readonly RelativeSimilarity[], p: number | undefined): number | null {
  if (similarity.includes("lp")) return checkNumber("p", p, 1, Number.MAX_VALUE);
  if (p !== undefined) throw invalid("p", "left out unless the similarity is 'lp'", p);
  return null;
}

function disposeOperands(operands: readonly Operand[]): void {
  for (const { matrix, whiten } of operands) {
    matrix.dispose();
    whiten?.dispose();
  }
}

/** Anchors that are copies of each other say the same thing twice and leave a frame or a basis undetermined. */
function refuseCopies(anchors: Tensor): void {
  const count = anchors.shape[0] ?? 0;
  const columns = anchors.shape[1] ?? 0;
  const values = anchors.toFloat32();
  const seen = new Map<string, number>();
  for (let i = 0; i < count; i++) {
    const row = values.subarray(i * columns, (i + 1) * columns);
    const key = Buffer.from(row.buffer, row.byteOffset, row.byteLength).toString("latin1");
    const other = seen.get(key);
    if (other !== undefined)
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `anchors ${other} and ${i} are the same row`, {
        details: { anchors: [other, i] },
      });
    seen.set(key, i);
  }
}

async function fitOperand(
  similarity: RelativeSimilarity,
  anchors: Tensor,
  rows: Tensor,
  transform: RowTransform,
  shrinkage: number,
  signal: { readonly signal?: AbortSignal },
): Promise<Operand> {
  switch (similarity) {
    case "basis": {
      using unit = identity(anchors.shape[0] ?? 0);
      const { weights } = await leastSquares(anchors, unit, { centred: false, ...signal });
      return { similarity, matrix: weights };
    }
    case "parseval": {
      const { frame } = await parsevalFrame(anchors, signal);
      return { similarity, matrix: frame };
    }
    case "whitened": {
      using population = await transform.apply(rows, signal);
      using moments = await accumulateMoments({ x: population, ...signal });
      const { whiten, mean, colour } = await moments.whitening(shrinkage, signal);
      colour.dispose();
      return { similarity, matrix: await anchors.convert("f32", signal), mean, whiten };
    }
    default:
      return { similarity, matrix: await anchors.convert("f32", signal) };
  }
}

function parseFacts(path: string, metadata: ReadonlyMap<string, string>): { anchors: AnchorSet; facts: Facts; inputDimension: number } {
  try {
    const given = JSON.parse(metadata.get("facts") ?? "") as Facts & { readonly inputDimension: number };
    const anchors = AnchorSet.fromJSON(JSON.parse(metadata.get("anchors") ?? "") as AnchorSetJson);
    const similarity = checkList(given.similarity).map((one) => checkOneOf("similarity", one, similarities));
    const facts: Facts = {
      similarity,
      combine: checkOneOf("combine", given.combine, ["concat", "sum", "mean"]),
      transforms: checkChain(given.transforms),
      shrinkage: checkNumber("shrinkage", given.shrinkage, 0, 1),
      p: checkPower(similarity, given.p ?? undefined),
      storage: checkStorage(given.storage),
    };
    return { anchors, facts, inputDimension: checkNumber("inputDimension", given.inputDimension, 1, 2 ** 31) };
  } catch (cause) {
    throw unsound(path, cause);
  }
}

function restoreOperand(
  path: string,
  similarity: RelativeSimilarity,
  tensors: ReadonlyMap<string, Tensor>,
  index: number,
  count: number,
  dimension: number,
): Operand {
  const take = (name: string, shape: readonly number[]): Tensor => {
    const tensor = tensors.get(`operand.${index}.${name}`);
    if (tensor?.dtype !== "f32" || tensor.shape.join() !== shape.join())
      throw new LatentError("ERR_LATENT_FILE_FORMAT", `${path}: it has no operand.${index}.${name} [${shape.join(", ")}]`);
    return tensor;
  };
  const matrix = take("matrix", similarity === "basis" ? [dimension, count] : [count, dimension]);
  if (similarity !== "whitened") return { similarity, matrix };
  return { similarity, matrix, mean: take("mean", [dimension]).toFloat32(), whiten: take("whiten", [dimension, dimension]) };
}

/**
 * How differently two models tell the same things, |a - b| / |b|: 0 where they agree.
 * @param a Relative latents of things by one model, `[n, k]`.
 * @param b Those of the same things by another, in the same relative space.
 * @throws {@link LatentError} `ERR_LATENT_SPACE_MISMATCH` (other anchors, similarities or transforms), `ERR_LATENT_INVALID_ARGUMENT`,
 * `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`; the signal's reason on abort
 */
export async function relativeMismatch(a: Latent, b: Latent, options: { readonly signal?: AbortSignal } = {}): Promise<number> {
  checkKeys("options", options, ["signal"]);
  requireSameSpace(a.space, b.space, "the first latent");
  const { squaredError, targetSquares } = await pairedErrors(a.tensor(), b.tensor(), options.signal);
  return Math.sqrt(squaredError / targetSquares);
}
