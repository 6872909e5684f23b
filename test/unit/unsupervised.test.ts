// A map between spaces that have no pairs: the assignment of clusters against all orders, a planted turn of clustered rows, and what cannot be found.
import { describe, expect, it } from "vitest";
import { fitUnsupervised, type UnsupervisedOptions } from "../../lib/index.js";
import { SeededDraws } from "../../lib/spaces/random.js";
import { matchGraphs } from "../../lib/spaces/unsupervised.js";
import { at, codeOf, isAborted } from "../helpers.js";
import { moved, normals, orthogonal, randomRows, tensorOf } from "../plain.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";

/** Rows about `clusters` centres of different sizes. */
function clustered(n: number, d: number, clusters: number, seed: number): number[][] {
  const centres = randomRows(clusters, d, 77);
  const next = normals(seed);
  return Array.from({ length: n }, (_, i) => {
    const centre = centres[Math.floor(clusters * (i / n) ** 1.3)] ?? [];
    return centre.map((value) => Math.fround(2 * value + 0.6 * next()));
  });
}

describe("the assignment", () => {
  it("is the best of all orders", () => {
    const c = 6;
    const table = (seed: number): Float64Array => {
      const next = normals(seed);
      const out = new Float64Array(c * c);
      for (let i = 0; i < c; i++) for (let j = 0; j <= i; j++) out[i * c + j] = out[j * c + i] = next();
      return out;
    };
    const orders = (left: readonly number[]): number[][] =>
      left.length === 0 ? [[]] : left.flatMap((one) => orders(left.filter((other) => other !== one)).map((rest) => [one, ...rest]));
    for (let seed = 0; seed < 5; seed++) {
      const [a, b] = [table(seed), table(seed + 50)];
      const value = (order: readonly number[]): number => {
        let sum = 0;
        for (let i = 0; i < c; i++) for (let j = 0; j < c; j++) sum += at(a, i * c + j) * at(b, at(order, i) * c + at(order, j));
        return sum;
      };
      const best = Math.max(...orders([0, 1, 2, 3, 4, 5]).map(value));
      expect(value(matchGraphs(a, b, c, new SeededDraws(seed)))).toBeCloseTo(best, 9);
    }
  });
});

describe("without pairs", () => {
  const turn = orthogonal(8, 3);
  const from = tensorOf(clustered(1500, 8, 12, 1));
  const to = tensorOf(moved(clustered(1400, 8, 12, 2), turn, 3, 5));
  const fresh = clustered(100, 8, 12, 9);
  const check = { from: tensorOf(fresh), to: tensorOf(moved(fresh, turn, 3, 5)) };
  const quick: UnsupervisedOptions = { from, to, check, clusters: 12, runs: 30, refinements: 15, seed: 1 };

  it("a turn of clustered rows is found, the same for the same seed", async () => {
    using translator = await fitUnsupervised(quick);
    expect(translator.report).toMatchObject({ verdict: "good", anchors: 0, heldOut: { count: 100 } });

    expect(translator.report?.heldOut.mrr).toBeGreaterThan(0.9);
    expect(translator.report?.heldOut.cosine).toBeGreaterThan(0.97);
    using again = await fitUnsupervised(quick);
    expect(again.card).toEqual(translator.card);
    const { check: _, ...unchecked } = quick;
    using untold = await fitUnsupervised(unchecked);
    expect(untold.report).toBeUndefined();
    expect((await untold.apply(check.from)).toFloat32()).toEqual((await translator.apply(check.from)).toFloat32());
  });

  it("what has no clusters in common is found to be of no use", async () => {
    const other = tensorOf(randomRows(1000, 8, 99));
    const stranger = { from: check.from, to: tensorOf(randomRows(100, 8, 98)) };
    expect(await codeOf(() => fitUnsupervised({ ...quick, to: other, check: stranger }))).toBe("ERR_LATENT_TRANSLATOR_WEAK");
    using text = await fitUnsupervised({ ...quick, to: other, check: stranger, onWeak: "text" });
    expect(await codeOf(() => text.apply(check.from))).toBe("ERR_LATENT_TRANSLATOR_WEAK");
  });

  it("bad options are named, and an abort is heard", async () => {
    for (const options of [
      {},
      { from, to: tensorOf(randomRows(30, 8, 1)) },
      { from, to, check: { from: check.from, to: tensorOf(randomRows(99, 8, 1)) } },
      { from, to, check: { from: tensorOf(randomRows(100, 7, 1)), to: check.to } },
      { from, to, clusters: 1 },
      { from, to, runs: 0 },
      { from, to, neighbours: 1401 },
      { from, to, refinements: -1 },
      { from, to, onWeak: "ignore" },
      { from, to, pairs: check },
    ])
      expect(await codeOf(() => fitUnsupervised(options as never))).toBe(bad);
    expect(await isAborted((options) => fitUnsupervised({ ...quick, ...options }), new Error("enough"))).toBe(true);
  });
});
