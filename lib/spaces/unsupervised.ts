// A translator without a single pair: clusters of both sides are matched by how they lie to each other, and what follows from the matches is refined. Relative
// representations with anchors that nobody had to name (mini-vec2vec, arXiv 2510.02348).
import { checkInteger, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkCount, checkMatrix, checkSeed } from "../fits/input.js";
import { accumulateMoments } from "../fits/moments.js";
import { kmeans } from "../fits/representatives.js";
import { withSignal } from "../jobs.js";
import { packAnchors, type PackedAnchors } from "../kernels/anchors.js";
import type { Tensor } from "../tensor.js";
import { range, SeededDraws } from "./random.js";
import { heldOutQuality, refuseUnusable, verdictOf, type TranslatorReport } from "./report.js";
import { averageRows, columnStatistics, combineRows, selectRows, stackRows } from "./rows.js";
import { disposeStages, linear, rowStages, runStages, scaling, type Stage } from "./stages.js";
import { fitTransform } from "./transforms.js";
import { Translator, type TranslatorCard } from "./translator.js";

/** Options of {@link fitUnsupervised}. */
export interface UnsupervisedOptions {
  /** Rows of one space `[n, dx]`, and of other things of the same kind in the other `[m, dy]`: nothing is paired. At least twice `clusters` each. */
  readonly from: Tensor;
  readonly to: Tensor;
  /** Pairs that the result is held against; without them nothing can be said about it and it has no report. At least 8. */
  readonly check?: { readonly from: Tensor; readonly to: Tensor };
  /** As in {@link Translator.fit}; only with `check`. Default `throw`. */
  readonly onWeak?: "throw" | "text" | "warn";
  /** Clusters of a run, from 2. Default 20. */
  readonly clusters?: number;
  /** Runs of clustering and matching, each on rows of its own draw. Default 30. */
  readonly runs?: number;
  /** Neighbours whose mean stands for the unknown partner of a row. Default 50, or a tenth of the rows of `to` if that is less. */
  readonly neighbours?: number;
  /** Refinements. Default 100. */
  readonly refinements?: number;
  /** Default 0. */
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

// of rows that one run clusters, and that one refinement looks at
const rowsOfRun = 10_000;
const rowsOfRefinement = 1000;
const restarts = 30;

/**
 * Fits an orthogonal map between two spaces from rows that are not paired. It works where both spaces have the same clusters lie to each other in the
 * same way, as embeddings of texts by different models do, and needs some thousand rows; always give `check`.
 *
 * ```ts
 * using translator = await fitUnsupervised({ from: rowsOfA, to: otherRowsOfB, check: fewPairs });
 * ```
 * @throws {@link LatentError} `ERR_LATENT_TRANSLATOR_WEAK` (see `onWeak`), `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`,
 * `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function fitUnsupervised(options: UnsupervisedOptions): Promise<Translator> {
  const given = checkOptions(options);
  const { signal } = options;
  const centreX = await fitTransform(options.from, ["centre"], withSignal(signal));
  const centreY = await fitTransform(options.to, ["centre"], withSignal(signal));
  using unitX = await runStages([...rowStages(centreX.forward()), { kind: "rows", unit: true }], options.from, signal);
  using unitY = await runStages([...rowStages(centreY.forward()), { kind: "rows", unit: true }], options.to, signal);
  using centredY = await centreY.apply(options.to, withSignal(signal));
  const { meanNorm } = await columnStatistics(centredY, signal);
  using map = await fitMap(unitX, unitY, given, signal);
  const stages: Stage[] = [
    ...rowStages(centreX.forward()),
    { kind: "rows", unit: true },
    linear(await map.convert("f32", withSignal(signal)), { orthogonal: true }),
    // lengths are lost: the mean one stands for all
    scaling(meanNorm, given.dimensions[1]),
    ...rowStages(centreY.backward()),
  ];
  try {
    const report = options.check === undefined ? undefined : await reportOf(stages, options.check, given, signal);
    if (report !== undefined && given.onWeak === "throw") refuseUnusable("unsupervised", report);
    const card: TranslatorCard = {
      method: "unsupervised",
      dimensions: given.dimensions,
      ...(report && { report }),
      onWeak: report?.verdict === "unusable" && given.onWeak === "text" ? "text" : "apply",
      storage: "f32",
    };
    return await Translator.make(card, stages, signal);
  } catch (error) {
    disposeStages(stages);
    throw error;
  }
}

interface Checked {
  readonly dimensions: readonly [number, number];
  readonly rows: readonly [number, number];
  readonly clusters: number;
  readonly runs: number;
  readonly neighbours: number;
  readonly refinements: number;
  readonly seed: number;
  readonly onWeak: "throw" | "text" | "warn";
}

function checkOptions(options: UnsupervisedOptions): Checked {
  const names = ["from", "to", "check", "onWeak", "clusters", "runs", "neighbours", "refinements", "seed", "signal"];
  checkKeys("options", options, names);
  const [x, y] = [checkMatrix("from", options.from), checkMatrix("to", options.to)];
  const clusters = checkInteger("clusters", fallback(options.clusters, 20), 2, 2 ** 16);
  for (const [name, side] of [
    ["from", x],
    ["to", y],
  ] as const)
    if (side.rows < 2 * clusters) throw invalid(`the rows of ${name}`, `at least ${2 * clusters}, two a cluster`, side.rows);
  if (options.check !== undefined) {
    checkKeys("check", options.check, ["from", "to"]);
    const [a, b] = [checkMatrix("check.from", options.check.from), checkMatrix("check.to", options.check.to)];
    checkCount("check.to", "rows", b.rows, a.rows);
    if (a.columns !== x.columns || b.columns !== y.columns)
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "check must be of the dimensions of from and to");
    checkInteger("the number of pairs of check", a.rows, 8, 2 ** 31);
  }
  return {
    dimensions: [x.columns, y.columns],
    rows: [x.rows, y.rows],
    clusters,
    runs: checkInteger("runs", fallback(options.runs, 30), 1, 1000),
    neighbours: checkInteger("neighbours", fallback(options.neighbours, Math.max(1, Math.min(50, Math.floor(y.rows / 10)))), 1, y.rows),
    refinements: checkInteger("refinements", fallback(options.refinements, 100), 0, 10_000),
    seed: checkSeed(fallback(options.seed, 0)),
    onWeak: checkOneOf("onWeak", fallback(options.onWeak, "throw"), ["throw", "text", "warn"]),
  };
}

/** An orthogonal `[dx, dy]`, of centred rows of length 1. */
async function fitMap(x: Tensor, y: Tensor, given: Checked, signal: AbortSignal | undefined): Promise<Tensor> {
  const draws = new SeededDraws(given.seed);
  const draw = async (rows: Tensor, n: number, most: number): Promise<Tensor> =>
    selectRows(rows, Int32Array.from(draws.sample(range(n), Math.min(n, most))), signal);
  const [n, m] = given.rows;
  const anchorsX: Tensor[] = [];
  const anchorsY: Tensor[] = [];
  let map: Tensor | undefined;
  try {
    for (let run = 0; run < given.runs; run++) {
      using someX = await draw(x, n, Math.min(rowsOfRun, Math.ceil(0.8 * n)));
      using someY = await draw(y, m, Math.min(rowsOfRun, Math.ceil(0.8 * m)));
      const [ofX, ofY] = await matchClusters(someX, someY, given.clusters, draws, signal);
      anchorsX.push(ofX);
      anchorsY.push(ofY);
    }
    using allX = stackRows(anchorsX);
    using allY = stackRows(anchorsY);
    using encoderX = await packAnchors(allX, withSignal(signal));
    using encoderY = await packAnchors(allY, withSignal(signal));
    using some = await draw(x, n, rowsOfRun);
    using relativeX = await encoderX.relative(some, withSignal(signal));
    using relativeY = await encoderY.relative(y, withSignal(signal));
    using index = await packAnchors(relativeY, withSignal(signal));
    map = await mapToNeighbours(some, relativeX, index, y, given.neighbours, signal);
    using targets = await packAnchors(y, withSignal(signal));
    for (let i = 0; i < given.refinements; i++) {
      using last: Tensor = map;
      using part = await draw(x, n, rowsOfRefinement);
      using moved = await runStages([linear(last)], part, signal);
      using next = await mapToNeighbours(part, moved, targets, y, given.neighbours, signal);
      map = await combineRows([last, next], "mean", signal);
    }
    using blend: Tensor = map;
    using moved = await runStages([linear(blend)], x, signal);
    return await procrustesMap(x, moved, signal);
  } catch (error) {
    map?.dispose();
    throw error;
  } finally {
    for (const anchors of [...anchorsX, ...anchorsY]) anchors.dispose();
  }
}

async function procrustesMap(x: Tensor, y: Tensor, signal: AbortSignal | undefined): Promise<Tensor> {
  using moments = await accumulateMoments({ x, y, centred: false, ...withSignal(signal) });
  const { rotation } = await moments.procrustes(withSignal(signal));
  return rotation;
}

/** The orthogonal map of rows to the mean of the rows of y that `index` finds nearest to what they were looked up as. */
async function mapToNeighbours(
  rows: Tensor,
  lookedUpAs: Tensor,
  index: PackedAnchors,
  y: Tensor,
  k: number,
  signal: AbortSignal | undefined,
): Promise<Tensor> {
  const { indices, values } = await index.topK(lookedUpAs, k, withSignal(signal));
  values.dispose();
  using nearest = indices;
  using means = await averageRows(y, nearest.toTyped() as Int32Array, k, signal);
  return await procrustesMap(rows, means, signal);
}

/** Centres `[c, d]` of both sides, those next to each other that lie to the others in the same way. */
async function matchClusters(
  x: Tensor,
  y: Tensor,
  clusters: number,
  draws: SeededDraws,
  signal: AbortSignal | undefined,
): Promise<[Tensor, Tensor]> {
  const options = { clusters, distance: "cosine", seed: draws.below(2 ** 32), ...withSignal(signal) } as const;
  const { centres: ofX } = await kmeans(x, options);
  try {
    using ofY = (await kmeans(y, options)).centres;
    const order = matchGraphs(await similaritiesOf(ofX, signal), await similaritiesOf(ofY, signal), clusters, draws);
    return [ofX, await selectRows(ofY, Int32Array.from(order), signal)];
  } catch (error) {
    ofX.dispose();
    throw error;
  }
}

/** Cosines of centres to each other, rows and columns centred, `[c, c]`. */
async function similaritiesOf(centres: Tensor, signal: AbortSignal | undefined): Promise<Float64Array> {
  using packed = await packAnchors(centres, withSignal(signal));
  using table = await packed.relative(centres, withSignal(signal));
  const values = Float64Array.from(table.toFloat32());
  const c = centres.shape[0] ?? 0;
  const means = new Float64Array(c);
  values.forEach((value, at) => {
    means[Math.floor(at / c)] = (means[Math.floor(at / c)] ?? 0) + value / c;
  });
  const all = means.reduce((sum, mean) => sum + mean / c, 0);
  return values.map((value, at) => value - (means[Math.floor(at / c)] ?? 0) - (means[at % c] ?? 0) + all);
}

/**
 * The order p for which Σ a[i][j] b[p(i)][p(j)] is the largest that exchanges of two find from several beginnings: the quadratic assignment problem by
 * 2-opt.
 * @internal
 */
export function matchGraphs(a: Float64Array, b: Float64Array, c: number, draws: SeededDraws): number[] {
  const get = (values: Float64Array, i: number, j: number): number => values[i * c + j] ?? 0;
  const value = (order: readonly number[]): number => {
    let sum = 0;
    for (let i = 0; i < c; i++) for (let j = 0; j < c; j++) sum += get(a, i, j) * get(b, order[i] ?? 0, order[j] ?? 0);
    return sum;
  };
  // what the exchange of the images of r and s changes; both tables are symmetric
  const gain = (order: readonly number[], r: number, s: number): number => {
    const [p, q] = [order[r] ?? 0, order[s] ?? 0];
    let sum = 0;
    for (let k = 0; k < c; k++) {
      if (k === r || k === s) continue;
      const image = order[k] ?? 0;
      sum += (get(a, r, k) - get(a, s, k)) * (get(b, q, image) - get(b, p, image));
    }
    return 2 * sum + (get(a, r, r) - get(a, s, s)) * (get(b, q, q) - get(b, p, p));
  };
  let best: number[] = [];
  let most = -Infinity;
  for (let restart = 0; restart < restarts; restart++) {
    const order = draws.sample(range(c), c);
    for (let better = true; better;) {
      better = false;
      for (let r = 0; r < c; r++) {
        for (let s = r + 1; s < c; s++) {
          if (gain(order, r, s) <= 1e-12) continue;
          [order[r], order[s]] = [order[s] ?? 0, order[r] ?? 0];
          better = true;
        }
      }
    }
    const found = value(order);
    if (found > most) [best, most] = [order, found];
  }
  return best;
}

async function reportOf(
  stages: readonly Stage[],
  pairs: { readonly from: Tensor; readonly to: Tensor },
  given: Checked,
  signal: AbortSignal | undefined,
): Promise<TranslatorReport> {
  using translated = await runStages(stages, pairs.from, signal);
  const own = await heldOutQuality(translated, pairs.to, signal);
  const { count } = own.quality;
  using wrong = await selectRows(pairs.to, Int32Array.from(new SeededDraws(given.seed).sample(range(count), count)), signal);
  const chance = await heldOutQuality(translated, wrong, signal);
  return {
    count: given.rows[0],
    anchors: 0,
    heldOut: own.quality,
    null: chance.quality,
    condition: 1,
    verdict: verdictOf(own.quality.mrr, chance.quality.mrr, own.variance + chance.variance),
    warnings: [],
    tried: [],
  };
}
