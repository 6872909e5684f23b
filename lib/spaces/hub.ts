// One hub for many spaces: N spaces need 2 N maps instead of N (N - 1), and a space that comes later changes none of those that are there.
import { checkInteger, checkKeys, checkNumber, checkOneOf, checkString, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkMatrix } from "../fits/input.js";
import { svd } from "../fits/decompositions.js";
import { accumulateMoments, type Moments } from "../fits/moments.js";
import type { HubSpace } from "../fits/hub.js";
import { withSignal } from "../jobs.js";
import { transpose } from "../kernels/transpose.js";
import { Tensor } from "../tensor.js";
import { combineRows, stackRows } from "./rows.js";
import { disposeStages, linear, product, rowStages, scaling, type Stage } from "./stages.js";
import { fitTransform } from "./transforms.js";
import { Translator, type TranslatorCard } from "./translator.js";

/** Options of {@link SpaceHub.fit}. */
export interface SpaceHubOptions {
  /** Rows `[n, d]` of the same n things by the name of their space; at least two. */
  readonly spaces: Readonly<Record<string, Tensor>>;
  /**
   * `procrustes` (default): orthogonal maps, and the mean of all as the hub (Gower 1975). `gcca`: what linear maps of all spaces agree on (Kettenring 1971),
   * better for retrieval, worse for what is to be decoded.
   */
  readonly method?: "procrustes" | "gcca";
  /** Of `gcca`: the hub's dimension. Default the smallest of the spaces'. */
  readonly dimension?: number;
  /** Of `gcca`: relative to the mean diagonal, 0 or more. Default 1e-2. */
  readonly ridge?: number;
  readonly signal?: AbortSignal;
}

/** The maps between one space and the hub. */
interface Leaf {
  readonly into: Translator;
  readonly outOf: Translator;
}

/** Maps between many spaces through one. Made by {@link SpaceHub.fit}. */
export class SpaceHub {
  readonly #leaves: Map<string, Leaf>;
  /** Of the hub. */
  readonly dimension: number;
  readonly method: "procrustes" | "gcca";

  private constructor(leaves: Map<string, Leaf>, dimension: number, method: "procrustes" | "gcca") {
    this.#leaves = leaves;
    this.dimension = dimension;
    this.method = method;
  }

  /**
   * Fits the hub of some spaces. Every space is centred and brought to a mean length of 1 first, so that none outweighs the others.
   *
   * ```ts
   * using hub = await SpaceHub.fit({ spaces: { wren: rowsOfWren, finch: rowsOfFinch } });
   * await hub.add("robin", rowsOfRobin, { through: "wren", rows: rowsOfWren });
   * using translator = await hub.translator("robin", "finch");
   * ```
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
   * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  static async fit(options: SpaceHubOptions): Promise<SpaceHub> {
    checkKeys("options", options, ["spaces", "method", "dimension", "ridge", "signal"]);
    const given: unknown = options.spaces;
    if (typeof given !== "object" || given === null) throw invalid("spaces", "an object of rows by name", given);
    const names = Object.keys(options.spaces);
    if (names.length < 2) throw invalid("spaces", "at least two spaces", names.length);
    const sizes = names.map((name) => checkMatrix(`spaces.${name}`, options.spaces[name]));
    const uneven = names.find((_, i) => sizes[i]?.rows !== sizes[0]?.rows);
    if (uneven !== undefined) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${uneven} has not as many rows as ${names[0] ?? ""}`);
    const widths = sizes.map((one) => one.columns);
    const method = checkOneOf("method", fallback(options.method, "procrustes"), ["procrustes", "gcca"]);
    const all = widths.reduce((total, width) => total + width, 0);
    const dimension = checkInteger("dimension", fallback(options.dimension, Math.min(...widths)), 1, all);
    const ridge = checkNumber("ridge", fallback(options.ridge, 1e-2), 0, Number.MAX_VALUE);
    const signal = withSignal(options.signal);
    const before: Stage[][] = [];
    const after: Stage[][] = [];
    const parts: Tensor[] = [];
    try {
      for (const name of names) {
        const rows = options.spaces[name] as Tensor;
        const transform = await fitTransform(rows, ["centre", "isotropic"], signal);
        before.push(rowStages(transform.forward()));
        after.push(rowStages(transform.backward()));
        parts.push(await transform.apply(rows, signal));
      }
      using together = await combineRows(parts, "concat", options.signal);
      using moments = await accumulateMoments({ x: together, ...signal });
      const spaces = await hubMaps(moments, method, widths, dimension, ridge, options.signal);
      const leaves = new Map<string, Leaf>();
      for (const [i, name] of names.entries()) {
        const maps = spaces[i];
        if (maps === undefined) continue;
        const orthogonal = method === "procrustes";
        // rows are centred: the fit's own means are roundings
        const into = [...(before[i] ?? []), linear(maps.into, { orthogonal })];
        const outOf = [linear(maps.outOf, { orthogonal }), ...(after[i] ?? [])];
        leaves.set(name, await makeLeaf(name, into, outOf, options.signal));
      }
      const width = spaces[0]?.into.shape[1] ?? 0;
      return new SpaceHub(leaves, width, method);
    } finally {
      for (const part of parts) part.dispose();
    }
  }

  /**
   * A hub of maps that were saved one by one, and loaded. It takes them over.
   *
   * ```ts
   * await hub.into("wren").save("wren-into.safetensors");
   * await hub.outOf("wren").save("wren-out.safetensors");
   * // later, for each space
   * const wren = { into: await Translator.load("wren-into.safetensors"), outOf: await Translator.load("wren-out.safetensors") };
   * using again = SpaceHub.of({ wren, finch });
   * ```
   * @param method How {@link SpaceHub.add} fits; default `procrustes`.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` where the maps do not meet in one hub
   */
  static of(
    leaves: Readonly<Record<string, { readonly into: Translator; readonly outOf: Translator }>>,
    method: "procrustes" | "gcca" = "procrustes",
  ): SpaceHub {
    checkOneOf("method", method, ["procrustes", "gcca"]);
    const given: unknown = leaves;
    if (typeof given !== "object" || given === null) throw invalid("leaves", "an object of maps by name", given);
    const all = new Map<string, Leaf>();
    let dimension: number | undefined;
    for (const [name, leaf] of Object.entries(leaves)) {
      const one: unknown = leaf;
      if (typeof one !== "object" || one === null) throw invalid(name, "{ into, outOf }, two Translators", one);
      const [into, outOf]: readonly unknown[] = [leaf.into, leaf.outOf];
      if (!(into instanceof Translator) || !(outOf instanceof Translator)) throw invalid(name, "{ into, outOf }, two Translators", leaf);
      const [width, hub] = into.card.dimensions;
      dimension ??= hub;
      if (hub !== dimension || outOf.card.dimensions[0] !== hub || outOf.card.dimensions[1] !== width)
        throw invalid(name, `maps between its space and a hub of ${dimension} dimensions`, into.card.dimensions.join(" to "));
      all.set(name, { into, outOf });
    }
    if (dimension === undefined) throw invalid("leaves", "at least one space", 0);
    return new SpaceHub(all, dimension, method);
  }

  /** The names of the spaces, in the order they came. */
  get names(): readonly string[] {
    return [...this.#leaves.keys()];
  }

  /**
   * Adds a space by rows of things that a space of the hub knows too. The maps of all others stay as they are, bit for bit.
   * @param name Not one of {@link SpaceHub.names}.
   * @param rows `[n, d]`
   * @param options `through`: a space of the hub; `rows`: `[n, d']`, the same things there.
   * @throws {@link LatentError} as {@link SpaceHub.fit}
   */
  async add(
    name: string,
    rows: Tensor,
    options: { readonly through: string; readonly rows: Tensor; readonly signal?: AbortSignal },
  ): Promise<void> {
    checkKeys("options", options, ["through", "rows", "signal"]);
    checkString("name", name);
    if (this.#leaves.has(name)) throw invalid("name", "a name that the hub does not have", name);
    const { rows: count } = checkMatrix("rows", rows);
    if (checkMatrix("options.rows", options.rows).rows !== count) throw invalid("options.rows", `${count} rows`, options.rows.shape[0]);
    const signal = withSignal(options.signal);
    using hub = await this.into(options.through).apply(options.rows, signal);
    const transform = await fitTransform(rows, ["centre", "isotropic"], signal);
    using x = await transform.apply(rows, signal);
    using there = await accumulateMoments({ x, y: hub, ...signal });
    const [before, after] = [rowStages(transform.forward()), rowStages(transform.backward())];
    if (this.method === "procrustes") {
      const { rotation, scale, weights, bias } = await there.procrustes({ scaled: true, ...signal });
      if (weights !== rotation) weights.dispose();
      const shift: Stage = { kind: "rows", add: bias, unit: false };
      const size = rotation.shape[0] ?? 0;
      const back = await transpose(rotation, signal);
      const unshift: Stage = { kind: "rows", subtract: bias, unit: false };
      const into = [...before, linear(rotation, { orthogonal: true }), scaling(scale, this.dimension), shift];
      const outOf = [unshift, linear(back, { orthogonal: true }), scaling(scale === 0 ? 0 : 1 / scale, size), ...after];
      this.#leaves.set(name, await makeLeaf(name, into, outOf, options.signal));
      return;
    }
    using back = await accumulateMoments({ x: hub, y: x, ...signal });
    const forwards = await there.ridge({ lambda: 1e-2, ...signal });
    const backwards = await back.ridge({ lambda: 1e-2, ...signal });
    const into = [...before, linear(forwards.weights, { bias: forwards.bias })];
    const outOf = [linear(backwards.weights, { bias: backwards.bias }), ...after];
    this.#leaves.set(name, await makeLeaf(name, into, outOf, options.signal));
  }

  /**
   * The map of a space into the hub. It is the hub's own: do not dispose it.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` for a space that the hub does not have
   */
  into(name: string): Translator {
    return this.#leaf(name).into;
  }

  /** The map of the hub to a space; see {@link SpaceHub.into}. */
  outOf(name: string): Translator {
    return this.#leaf(name).outOf;
  }

  /**
   * From one space to another through the hub, a translator of its own.
   * @throws {@link LatentError} as {@link SpaceHub.into}; `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async translator(from: string, to: string, options: { readonly signal?: AbortSignal } = {}): Promise<Translator> {
    return this.into(from).compose(this.outOf(to), options);
  }

  /** Frees the memory; idempotent. */
  dispose(): void {
    for (const { into, outOf } of this.#leaves.values()) {
      into.dispose();
      outOf.dispose();
    }
  }

  /** Same as {@link SpaceHub.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #leaf(name: string): Leaf {
    const leaf = this.#leaves.get(name);
    if (leaf === undefined) throw invalid("the space", `one of ${this.names.join(", ")}`, name);
    return leaf;
  }
}

async function hubMaps(
  moments: Moments,
  method: "procrustes" | "gcca",
  widths: readonly number[],
  dimension: number,
  ridge: number,
  signal: AbortSignal | undefined,
): Promise<readonly HubSpace[]> {
  if (method === "gcca") return (await moments.gcca({ widths, dimension, ridge, ...withSignal(signal) })).spaces;
  return (await moments.generalisedProcrustes({ widths, ...withSignal(signal) })).spaces;
}

async function makeLeaf(name: string, into: readonly Stage[], outOf: readonly Stage[], signal: AbortSignal | undefined): Promise<Leaf> {
  const make = async (way: string, stages: readonly Stage[]): Promise<Translator> => {
    const matrices = stages.filter((stage) => stage.kind === "linear");
    const card: TranslatorCard = {
      method: `${name} ${way}`,
      dimensions: [matrices[0]?.weights.shape[0] ?? 0, matrices.at(-1)?.weights.shape[1] ?? 0],
      onWeak: "apply",
      storage: "f32",
    };
    return Translator.make(card, stages, signal);
  };
  let first: Translator;
  try {
    first = await make("into hub", into);
  } catch (error) {
    disposeStages(outOf);
    throw error;
  }
  try {
    return { into: first, outOf: await make("out of hub", outOf) };
  } catch (error) {
    first.dispose();
    throw error;
  }
}

/** What {@link compressMaps} finds. */
export interface CompressedMaps {
  /** `[r, dy]`, orthonormal rows, shared by all. */
  readonly shared: Tensor;
  /** `[dx, r]` each: W ≈ own shared. */
  readonly own: readonly Tensor[];
  /** Σ |W - own shared|² / Σ |W|², from 0 to 1. */
  readonly error: number;
}

/**
 * N maps to one space in N dx r + r dy numbers instead of N dx dy: the leading right singular vectors of all of them, one below the other (the joint
 * SVD of mixtures of latent experts).
 * @param maps `[dx, dy]` of f32 each, at least one, of any dx.
 * @param rank r, from 1 to dy and at most the sum of all dx.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason
 * on abort
 */
export async function compressMaps(
  maps: readonly Tensor[],
  rank: number,
  options: { readonly signal?: AbortSignal } = {},
): Promise<CompressedMaps> {
  checkKeys("options", options, ["signal"]);
  const given: unknown = maps;
  if (!Array.isArray(given) || given.length === 0) throw invalid("maps", "an array of at least one matrix", given);
  const sizes = maps.map((map, i) => checkMatrix(`maps[${i}]`, map));
  const columns = sizes[0]?.columns ?? 0;
  const other = sizes.findIndex((one) => one.columns !== columns);
  if (other >= 0) throw invalid(`maps[${other}]`, `a matrix of ${columns} columns`, sizes[other]?.columns);
  checkInteger(
    "rank",
    rank,
    1,
    Math.min(
      columns,
      sizes.reduce((total, one) => total + one.rows, 0),
    ),
  );
  using stacked = stackRows(maps);
  const { u, values, v } = await svd(stacked, options);
  u.dispose();
  using right = v;
  const squares = Array.from(values, (value) => value ** 2);
  const total = squares.reduce((sum, square) => sum + square, 0);
  const error = total === 0 ? 0 : squares.slice(rank).reduce((sum, square) => sum + square, 0) / total;
  using leading = leadingColumns(right, rank);
  const own: Tensor[] = [];
  try {
    for (const map of maps) own.push(await product(map, leading, options.signal));
    return { shared: await transpose(leading, options), own, error };
  } catch (failure) {
    for (const one of own) one.dispose();
    throw failure;
  }
}

function leadingColumns(matrix: Tensor, count: number): Tensor {
  const [rows = 0, columns = 0] = matrix.shape;
  const all = matrix.toFloat32();
  const values = new Float32Array(rows * count);
  for (let i = 0; i < rows; i++) values.set(all.subarray(i * columns, i * columns + count), i * count);
  return Tensor.fromTyped("f32", [rows, count], values);
}
