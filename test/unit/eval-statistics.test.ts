// Intervals and tests of the evaluation, against sums and published numbers, and by drawing from what they are about.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { mcnemar, pairedDifference, wilson } from "../../lib/index.js";
import { holm, normalQuantile } from "../../lib/eval/statistics.js";
import { at, numbers } from "../helpers.js";

/** C(n, k) / 2^n by Pascal's rule. */
function binomialHalf(n: number): number[] {
  let row = [1];
  for (let i = 0; i < n; i++) row = [...row, 0].map((one, k) => (one + (row[k - 1] ?? 0)) / 2);
  return row;
}

describe("normalQuantile", () => {
  it.each([
    [0.5, 0],
    [0.975, 1.959963984540054],
    [0.995, 2.5758293035489],
    [0.025, -1.959963984540054],
    [0.0001, -3.71901648545568],
    [1e-10, -6.36134090240406],
  ])("at %f", (p, z) => {
    expect(Math.abs(normalQuantile(p) - z)).toBeLessThan(1e-7);
  });
});

describe("wilson", () => {
  // Newcombe 1998, table I, method 3
  it.each([
    [81, 263, 0.2553, 0.3662],
    [15, 148, 0.0624, 0.1605],
    [0, 20, 0, 0.1611],
    [1, 29, 0.0061, 0.1718],
  ])("of %i of %i is the published one", (right, n, low, high) => {
    const [a, b] = wilson(right, n);
    expect(a).toBeCloseTo(low, 4);
    expect(b).toBeCloseTo(high, 4);
  });

  it("ends where the share is 1.96 deviations of the end away, holds the share, and mirrors", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), fc.double({ min: 0, max: 1, noNaN: true }), (n, share) => {
        const right = Math.round(share * n);
        const ends = wilson(right, n);
        expect(ends[0]).toBeLessThanOrEqual(right / n);
        expect(ends[1]).toBeGreaterThanOrEqual(right / n);
        for (const end of ends)
          if (end > 0 && end < 1) expect(Math.abs(right / n - end) / Math.sqrt((end * (1 - end)) / n)).toBeCloseTo(1.95996, 3);
        const mirrored = wilson(n - right, n);
        expect(mirrored[0]).toBeCloseTo(1 - ends[1], 10);
        const wider = wilson(right, n, 0.99);
        expect(wider[1] - wider[0]).toBeGreaterThan(ends[1] - ends[0]);
      }),
    );
    expect(wilson(0, 0)).toEqual([0, 1]);
    expect(wilson(5, 5)[1]).toBe(1);
    expect(wilson(0, 5)[0]).toBe(0);
  });
});

describe("mcnemar", () => {
  it("is twice the tail of the binomial distribution", () => {
    for (const n of [1, 2, 7, 30, 61]) {
      const half = binomialHalf(n);
      for (let a = 0; a <= n; a++) {
        const tail = half.slice(0, Math.min(a, n - a) + 1).reduce((sum, one) => sum + one, 0);
        expect(mcnemar(a, n - a)).toBeCloseTo(Math.min(1, 2 * tail), 10);
        expect(mcnemar(a, n - a)).toBe(mcnemar(n - a, a));
      }
    }
    expect(mcnemar(0, 0)).toBe(1);
    // 1 of 11: 2 (1 + 11) / 2048
    expect(mcnemar(1, 10)).toBeCloseTo(24 / 2048, 12);
  });

  it("goes over to the normal approximation without a step", () => {
    for (const part of [0.5, 0.51, 0.53, 0.6]) {
      const exact = mcnemar(Math.round(2000 * part), 2000 - Math.round(2000 * part));
      const approximate = mcnemar(Math.round(2002 * part), 2002 - Math.round(2002 * part));
      expect(Math.abs(exact - approximate)).toBeLessThan(0.05 * exact + 1e-12);
    }
    expect(mcnemar(10_000, 20_000)).toBeLessThan(1e-100);
  });
});

describe("pairedDifference", () => {
  it("is symmetric, holds the difference but for its drawing in, and narrows with n", () => {
    fc.assert(
      fc.property(fc.nat(300), fc.nat(300), fc.nat(2000), (a, b, both) => {
        const n = a + b + both + 1;
        const [low, high] = pairedDifference(a, b, n);
        const [from, to] = pairedDifference(b, a, n);
        expect(low).toBeCloseTo(-to, 12);
        expect(high).toBeCloseTo(-from, 12);
        expect(low).toBeGreaterThanOrEqual(-1);
        expect(low).toBeLessThan((a - b) / n + 1e-12);
        expect(high).toBeGreaterThan((a - b) / n - 1e-12);
        const [narrowLow, narrowHigh] = pairedDifference(10 * a, 10 * b, 10 * n);
        expect(narrowHigh - narrowLow).toBeLessThan(high - low);
      }),
    );
    expect(pairedDifference(0, 0, 0)).toEqual([-1, 1]);
  });
});

describe("holm", () => {
  it("multiplies the smallest most, keeps the order, and never exceeds 1", () => {
    expect(holm([0.01, 0.04, 0.03]).map((p) => Number(p.toFixed(10)))).toEqual([0.03, 0.06, 0.06]);
    expect(holm([])).toEqual([]);
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0, max: 1, noNaN: true })), (values) => {
        const adjusted = holm(values);
        values.forEach((value, i) => {
          expect(at(adjusted, i)).toBeGreaterThanOrEqual(value);
          expect(at(adjusted, i)).toBeLessThanOrEqual(Math.min(1, value * values.length));
          values.forEach((other, j) => {
            if (value < other) expect(at(adjusted, i)).toBeLessThanOrEqual(at(adjusted, j));
          });
        });
      }),
    );
  });

  it("keeps the share of evaluations with a false finding below 5 %", () => {
    // all of 20 hypotheses hold, so their p-values are even in [0, 1]
    const draws = numbers(2000 * 20, 7).map((x) => (x + 1) / 2);
    let found = 0;
    for (let i = 0; i < 2000; i++) if (Math.min(...holm([...draws.subarray(20 * i, 20 * i + 20)])) < 0.05) found++;
    expect(found / 2000).toBeLessThan(0.065);
    expect(found / 2000).toBeGreaterThan(0.03);
  });
});
