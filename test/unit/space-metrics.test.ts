// Measures of alignment as users call them: stored values, plain references, invariances, and refusals. The arithmetic is tested in test/native at length.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  anchorCoverage,
  canonicalCorrelations,
  cknna,
  jaccard,
  linearCka,
  mutualKnn,
  predictionError,
  procrustesDistance,
  rbfCka,
  retrieval,
  spectrum,
  svcca,
  Tensor,
  unbiasedCka,
} from "../../lib/index.js";
import { codeOf, isAborted, runs } from "../helpers.js";
import { cosine, dot, minus, meanRow, moved, norm, orthogonal, randomRows, tensorOf, type Rows } from "../plain.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";

// latentis' test matrices
const inOrder = Array.from({ length: 8 }, (_, i) => [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3]);
const shuffled = [
  [1, 2, 27, 22],
  [0, 28, 15, 18],
  [12, 9, 14, 8],
  [11, 19, 16, 13],
  [31, 20, 10, 3],
  [24, 5, 7, 29],
  [4, 30, 21, 6],
  [26, 17, 23, 25],
];

/** Ranks by sorting nothing: one more than those strictly more similar. */
const ranksOf = (queries: Rows, candidates: Rows): number[] =>
  queries.map((query, i) => 1 + candidates.filter((other) => cosine(query, other) > cosine(query, candidates[i] ?? [])).length);

/** The k nearest by cosine, the lower index first among equals. */
const nearest = (query: readonly number[], rows: Rows, k: number, except = -1): number[] =>
  rows
    .map((row, i) => ({ i, similarity: cosine(query, row) }))
    .filter(({ i }) => i !== except)
    .sort((a, b) => b.similarity - a.similarity || a.i - b.i)
    .slice(0, k)
    .map(({ i }) => i);

describe("stored values", () => {
  it("linear CKA .2815, RBF .3945, SVCCA .8125 (26, 27)", async () => {
    const [x, y] = [tensorOf(inOrder), tensorOf(shuffled)];
    expect(await linearCka(x, y)).toBeCloseTo(0.2815, 4);
    expect(await rbfCka(x, y)).toBeCloseTo(0.39445, 4);
    expect(await svcca(x, y)).toBeCloseTo(0.8125, 4);
  });
});

describe("measures of likeness", () => {
  it("are those of the same rows turned, scaled and moved (26, 28)", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 6, max: 40 }), fc.integer({ min: 2, max: 12 }), fc.nat(1000), async (n, d, seed) => {
        const rows = randomRows(n, d, seed);
        const x = tensorOf(rows);
        const turned = tensorOf(moved(rows, orthogonal(d, seed + 1), 2.5, 3));
        expect(await linearCka(x, turned)).toBeCloseTo(1, 4);
        expect(await rbfCka(x, turned)).toBeCloseTo(1, 4);
        expect(await procrustesDistance(x, turned)).toBeCloseTo(0, 4);
        const y = tensorOf(randomRows(n, 5, seed + 2));
        expect(await linearCka(turned, y)).toBeCloseTo(await linearCka(x, y), 4);
        expect(await linearCka(y, x)).toBeCloseTo(await linearCka(x, y), 9);
        expect(await mutualKnn(x, x, 3)).toBe(1);
      }),
      runs(15),
    );
  });

  it("canonical correlations do not change under invertible maps (27)", async () => {
    const rows = randomRows(120, 4, 5);
    const y = tensorOf(randomRows(120, 6, 6).map((row, i) => [...row.slice(0, 5), rows[i]?.[2] ?? 0]));
    const before = await canonicalCorrelations(tensorOf(rows), y);
    const after = await canonicalCorrelations(tensorOf(moved(rows, randomRows(4, 4, 7), 3, -2)), y);
    expect(before).toHaveLength(4);
    before.forEach((value, i) => {
      expect(after[i]).toBeCloseTo(value, 3);
    });
    expect(before[0]).toBeCloseTo(1, 4);
  });

  it("the unbiased estimate is about 0 for independent rows, the biased one is not (26)", async () => {
    const [x, y] = [tensorOf(randomRows(80, 150, 1)), tensorOf(randomRows(80, 150, 2))];
    expect(Math.abs(await unbiasedCka(x, y))).toBeLessThan(0.06);
    expect(await linearCka(x, y)).toBeGreaterThan(0.5);
    expect(await cknna(x, x, 10)).toBeCloseTo(1, 9);
    expect(Math.abs(await cknna(x, y, 10))).toBeLessThan(0.2);
  });

  it("refuse rows that are all equal, too few, not as many, or not finite", async () => {
    const x = tensorOf(randomRows(10, 3, 1));
    const constant = tensorOf(Array.from({ length: 10 }, () => [0.1, 0.2]));
    const broken = Tensor.fromTyped("f32", [10, 1], Float32Array.of(1, 2, Number.NaN, 4, 5, 6, 7, 8, 9, 10));
    for (const measure of [linearCka, unbiasedCka, rbfCka, procrustesDistance]) {
      expect(await codeOf(() => measure(x, constant))).toBe(bad);
      expect(await codeOf(() => measure(x, tensorOf(randomRows(9, 3, 1))))).toBe(bad);
      expect(await codeOf(() => measure(x, broken))).toBe("ERR_LATENT_NON_FINITE");
      expect(await codeOf(() => measure(x, 7 as never))).toBe(bad);
      expect(await codeOf(() => measure(x, x, { sginal: 1 } as never))).toBe(bad);
    }
    expect(await codeOf(() => canonicalCorrelations(tensorOf(randomRows(4, 4, 1)), tensorOf(randomRows(4, 2, 1))))).toBe(bad);
    for (const k of [0, 10, 1.5]) {
      expect(await codeOf(() => cknna(x, x, k))).toBe(bad);
      expect(await codeOf(() => mutualKnn(x, x, k))).toBe(bad);
    }
    expect(await codeOf(() => canonicalCorrelations(x, x, { epsilon: 0 }))).toBe(bad);
  });

  it("end with the signal's reason", async () => {
    const x = tensorOf(randomRows(300, 200, 1));
    const reason = new Error("enough");
    expect(await isAborted((options) => unbiasedCka(x, x, options), reason)).toBe(true);
  });
});

describe("retrieval and neighbours", () => {
  it("are those of plain references (15)", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 2, max: 30 }), fc.integer({ min: 5, max: 20 }), fc.nat(1000), async (n, d, seed) => {
        // in few dimensions many cosines are nearer to each other than f32 tells
        const candidates = randomRows(n, d, seed);
        const noise = randomRows(n, d, seed + 1);
        const queries = candidates.map((row, i) => row.map((value, j) => Math.fround(value + (noise[i]?.[j] ?? 0))));
        const k = 1 + (seed % n);
        const found = await retrieval(tensorOf(queries), tensorOf(candidates), { k });
        const ranks = ranksOf(queries, candidates);
        const mean = (value: (rank: number) => number): number => ranks.reduce((sum, rank) => sum + value(rank), 0) / n;
        expect(found.retrieval1).toBeCloseTo(
          mean((rank) => Number(rank === 1)),
          4,
        );
        expect(found.retrievalK).toBeCloseTo(
          mean((rank) => Number(rank <= k)),
          4,
        );
        expect(found.mrr).toBeCloseTo(
          mean((rank) => 1 / rank),
          4,
        );
        expect(found.mrrK).toBeCloseTo(
          mean((rank) => (rank <= k ? 1 / rank : 0)),
          4,
        );
        expect(found.meanRank).toBeCloseTo(
          mean((rank) => rank),
          4,
        );
        expect(found.foscttm).toBeCloseTo(
          mean((rank) => (rank - 1) / (n - 1)),
          4,
        );
        const overlap = queries.map((query, i) => {
          const own = new Set(nearest(candidates[i] ?? [], candidates, k));
          const common = nearest(query, candidates, k).filter((j) => own.has(j)).length;
          return common / (2 * k - common);
        });
        expect(await jaccard(tensorOf(queries), tensorOf(candidates), k)).toBeCloseTo(overlap.reduce((a, b) => a + b, 0) / n, 4);
        if (k < n) {
          const shared = queries.map((query, i) => {
            const own = new Set(nearest(candidates[i] ?? [], candidates, k, i));
            return nearest(query, queries, k, i).filter((j) => own.has(j)).length / k;
          });
          expect(await mutualKnn(tensorOf(queries), tensorOf(candidates), k)).toBeCloseTo(shared.reduce((a, b) => a + b, 0) / n, 4);
        }
      }),
      runs(40),
    );
  });

  it("know what is perfect and what is one row", async () => {
    const x = tensorOf(randomRows(20, 5, 3));
    expect(await retrieval(x, x)).toEqual({ retrieval1: 1, retrievalK: 1, k: 10, mrr: 1, mrrK: 1, meanRank: 1, foscttm: 0 });
    expect((await retrieval(tensorOf([[1, 2]]), tensorOf([[3, 4]]))).foscttm).toBe(0);
    expect(await codeOf(() => retrieval(x, tensorOf(randomRows(20, 4, 3))))).toBe(bad);
    expect(await codeOf(() => retrieval(x, x, { k: 21 }))).toBe(bad);
    expect(await codeOf(() => jaccard(x, x, 21))).toBe(bad);
  });
});

describe("errors, spectra, coverage", () => {
  it("errors are those of f64", async () => {
    const target = randomRows(30, 7, 1, 2);
    const predicted = target.map((row, i) => row.map((value, j) => Math.fround(value + 0.1 * Math.sin(i + j))));
    const found = await predictionError(tensorOf(predicted), tensorOf(target));
    const mean = meanRow(target);
    const total = (value: (row: readonly number[], i: number) => number): number => target.reduce((sum, row, i) => sum + value(row, i), 0);
    const missed = total((row, i) => norm(minus(row, predicted[i] ?? [])) ** 2);
    expect(found.mse).toBeCloseTo(missed / 210, 9);
    expect(found.nmse).toBeCloseTo(missed / total((row) => dot(row, row)), 9);
    expect(found.r2).toBeCloseTo(1 - missed / total((row) => norm(minus(row, mean)) ** 2), 9);
    expect(found.cosine).toBeCloseTo(total((row, i) => cosine(row, predicted[i] ?? [])) / 30, 9);
    expect((await predictionError(tensorOf([[0, 0]]), tensorOf([[0, 0]]))).r2).toBe(1);
    expect((await predictionError(tensorOf([[1, 0]]), tensorOf([[0, 0]]))).nmse).toBe(Infinity);
  });

  it("a spectrum tells rank and condition", async () => {
    const square = [1, -1].flatMap((a) => [1, -1].map((b) => [3 * a + 100, b, 7]));
    const { values, effectiveRank, condition } = await spectrum(tensorOf(square));
    expect(values[0]).toBeCloseTo(6, 5);
    expect(values[1]).toBeCloseTo(2, 5);
    expect(values[2]).toBeCloseTo(0, 5);
    expect(condition).toBe(Infinity);
    expect(effectiveRank).toBeCloseTo(Math.exp(-(0.75 * Math.log(0.75) + 0.25 * Math.log(0.25))), 5);
    expect((await spectrum(tensorOf(square.map((row) => row.slice(0, 2))))).condition).toBeCloseTo(3, 5);
    expect((await spectrum(tensorOf([[1, 2]]))).effectiveRank).toBe(0);
  });

  it("coverage is the mean of the largest cosine", async () => {
    const [x, anchors] = [randomRows(20, 6, 1), randomRows(5, 6, 2)];
    const expected = x.reduce((sum, row) => sum + Math.max(...anchors.map((anchor) => cosine(row, anchor))), 0) / 20;
    expect(await anchorCoverage(tensorOf(x), tensorOf(anchors))).toBeCloseTo(expected, 5);
    expect(await anchorCoverage(tensorOf(x), tensorOf(x))).toBeCloseTo(1, 5);
    expect(await codeOf(() => anchorCoverage(tensorOf(x), tensorOf(randomRows(5, 5, 2))))).toBe(bad);
  });
});
