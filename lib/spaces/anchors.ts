// Which things are the anchors. A set of anchors is identities, not vectors: two agents who know the same things by the same numbers each embed them in
// their own space, and may compare what they say about others only if the sets are equal.
import { createHash } from "node:crypto";
import { checkInteger, checkKeys, checkNumber, checkOneOf, checkString, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkMatrix, checkSeed } from "../fits/input.js";
import { farthestPoints, kmeans } from "../fits/representatives.js";
import { packAnchors } from "../kernels/anchors.js";
import type { Tensor } from "../tensor.js";
import { withSignal } from "../jobs.js";
import { range, SeededDraws } from "./random.js";
import { averageRows, selectRows } from "./rows.js";

const maxInt32 = 2 ** 31 - 1;

/** What a set of anchors is in JSON. */
export interface AnchorSetJson {
  readonly corpus: string;
  readonly support: number;
  readonly ids: readonly number[];
}

/** Anchors by the numbers of things in a list that all agents have, the corpus. Immutable. */
export class AnchorSet {
  /** SHA-256 of the corpus, the support and the ids in their order, hex. It travels with everything that is told relative to these anchors. */
  readonly hash: string;
  readonly #ids: Int32Array;

  /**
   * @param ids `[k · support]`, those of one anchor next to each other, none of them twice in it; with a support of 1 none twice at all.
   * @param options `corpus`: what the numbers count, e.g. the digest of a word list; default `""`. `support`: how many things an anchor is the mean of;
   * default 1.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
   */
  constructor(ids: ArrayLike<number>, options: { readonly corpus?: string; readonly support?: number } = {}) {
    checkKeys("options", options, ["corpus", "support"]);
    this.corpus = checkString("corpus", fallback(options.corpus, ""));
    this.support = checkInteger("support", fallback(options.support, 1), 1, maxInt32);
    const given: unknown = ids;
    if (typeof given !== "object" || given === null || !("length" in given)) throw invalid("ids", "an array of integers", given);
    const checked = Array.from(ids, (id, i) => checkInteger(`ids[${i}]`, id, 0, maxInt32 - 1));
    if (checked.length === 0 || checked.length % this.support !== 0)
      throw new LatentError(
        "ERR_LATENT_INVALID_ARGUMENT",
        `ids must be ${this.support} for each of at least one anchor, got ${checked.length}`,
      );
    const block = this.support === 1 ? checked.length : this.support;
    for (let first = 0; first < checked.length; first += block) {
      const seen = new Set<number>();
      for (const id of checked.slice(first, first + block)) {
        if (seen.has(id)) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `ids has ${id} twice`);
        seen.add(id);
      }
    }
    this.#ids = Int32Array.from(checked);
    this.hash = createHash("sha256")
      .update(JSON.stringify(["latentwire anchors 1", this.corpus, this.support, checked]))
      .digest("hex");
  }

  readonly corpus: string;
  readonly support: number;

  /** k */
  get count(): number {
    return this.#ids.length / this.support;
  }

  /** A copy of the ids, `[k · support]`. */
  get ids(): Int32Array {
    return this.#ids.slice();
  }

  /** What {@link AnchorSet.fromJSON} takes; called by JSON.stringify. */
  toJSON(): AnchorSetJson {
    return { corpus: this.corpus, support: this.support, ids: [...this.#ids] };
  }

  /**
   * The set that {@link AnchorSet.toJSON} told.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
   */
  static fromJSON(value: AnchorSetJson): AnchorSet {
    checkKeys("the set of anchors", value, ["corpus", "support", "ids"]);
    return new AnchorSet(value.ids, { corpus: value.corpus, support: value.support });
  }

  /**
   * The anchors in one space: rows of things, or means of rows, f32 `[k, d]`.
   * @param rows `[n, d]`, the whole corpus as one model embeds it.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also where an id is not below n), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`,
   * `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async rows(rows: Tensor, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    const { rows: n } = checkMatrix("rows", rows);
    const beyond = this.#ids.find((id) => id >= n);
    if (beyond !== undefined) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `anchor ${beyond} is not among the ${n} rows`);
    return this.support === 1 ? selectRows(rows, this.#ids, options.signal) : averageRows(rows, this.#ids, this.support, options.signal);
  }
}

/** Options of {@link selectAnchors}. */
export interface SelectAnchorsOptions {
  /** k, from 1 to n. */
  readonly count: number;
  /**
   * `uniform` (default): drawn from all. `frequent`: drawn from the first `top`. `stratified`: drawn from the classes of `labels` in turn. `farthest`:
   * each the farthest from those before. `medoids`: the rows nearest to the centres of k-means. `prototypes`: means of the `support` rows nearest to each
   * centre. The last three compare directions.
   */
  readonly method?: "uniform" | "frequent" | "stratified" | "farthest" | "medoids" | "prototypes";
  /** An integer from 0 to 2⁵³ - 1. Default 0. */
  readonly seed?: number;
  /** Of `frequent`: from `count` to n, where rows are sorted by how frequent they are. */
  readonly top?: number;
  /** Of `stratified`: `[n]`, the class of each row. */
  readonly labels?: ArrayLike<number>;
  /** Of `prototypes`: from 1 to n. Default min(10, n). */
  readonly support?: number;
  /** See {@link AnchorSet}. */
  readonly corpus?: string;
  readonly signal?: AbortSignal;
}

/**
 * Chooses anchors. The same seed gives the same ids on every platform for `uniform`, `frequent` and `stratified`; the others read rows, in f32, and may
 * differ between processors where rows are almost equally far: let one agent choose and send its {@link AnchorSet}, whose hash tells.
 *
 * ```ts
 * const anchors = await selectAnchors(rows, { count: 300, method: "farthest", seed: 7, corpus: "words-20k" });
 * ```
 * @param rows `[n, d]` of f32, f16 or bf16.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also of rows of zeros, which have no direction), `ERR_LATENT_DTYPE`,
 * `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function selectAnchors(rows: Tensor, options: SelectAnchorsOptions): Promise<AnchorSet> {
  checkKeys("options", options, ["count", "method", "seed", "top", "labels", "support", "corpus", "signal"]);
  const { rows: n } = checkMatrix("rows", rows);
  const count = checkInteger("count", options.count, 1, n);
  const seed = checkSeed(fallback(options.seed, 0));
  const methods = ["uniform", "frequent", "stratified", "farthest", "medoids", "prototypes"] as const;
  const method = checkOneOf("method", fallback(options.method, "uniform"), methods);
  const named = { corpus: checkString("corpus", fallback(options.corpus, "")) };
  for (const [option, owner] of [
    ["top", "frequent"],
    ["labels", "stratified"],
    ["support", "prototypes"],
  ] as const)
    if (options[option] !== undefined && method !== owner)
      throw invalid(option, `left out unless the method is '${owner}'`, options[option]);
  const draws = new SeededDraws(seed);
  const signal = withSignal(options.signal);
  switch (method) {
    case "uniform":
      return new AnchorSet(draws.sample(range(n), count), named);
    case "frequent":
      return new AnchorSet(draws.sample(range(checkInteger("top", options.top, count, n)), count), named);
    case "stratified":
      return new AnchorSet(stratified(checkLabels(options.labels, n), count, draws), named);
    case "farthest":
      return new AnchorSet(await farthestPoints(rows, count, { distance: "cosine", seed, ...signal }), named);
    case "medoids": {
      const { centres, medoids } = await kmeans(rows, { clusters: count, distance: "cosine", seed, ...signal });
      centres.dispose();
      return new AnchorSet(medoids, named);
    }
    case "prototypes": {
      const support = checkInteger("support", fallback(options.support, Math.min(10, n)), 1, n);
      const found = await kmeans(rows, { clusters: count, distance: "cosine", seed, ...signal });
      using centres = found.centres;
      using packed = await packAnchors(rows, signal);
      const { indices, values } = await packed.topK(centres, support, signal);
      values.dispose();
      using nearest = indices;
      return new AnchorSet(nearest.toTyped(), { ...named, support });
    }
  }
}

function checkLabels(labels: ArrayLike<number> | undefined, n: number): number[] {
  if (labels === undefined || labels.length !== n) throw invalid("labels", `${n} classes, one a row`, labels);
  return Array.from(labels, (label, i) => checkNumber(`labels[${i}]`, label, -Number.MAX_VALUE, Number.MAX_VALUE));
}

/** One of every class in turn, in the order of the classes, until there are enough. */
function stratified(labels: readonly number[], count: number, draws: SeededDraws): number[] {
  const classes = [...new Set(labels)].sort((a, b) => a - b);
  const members = classes.map((one) => {
    const own = range(labels.length).filter((i) => labels[i] === one);
    return draws.sample(own, own.length);
  });
  const ids: number[] = [];
  for (let turn = 0; ids.length < count; turn++) {
    for (const own of members) {
      const id = own[turn];
      if (id !== undefined && ids.length < count) ids.push(id);
    }
  }
  return ids;
}
