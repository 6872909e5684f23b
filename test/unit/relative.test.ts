// Anchors, transforms and relative spaces: the invariances that make two models agree, against plain references, and everything that must be refused. The
// numbers in brackets are those of the conformance list.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import {
  AnchorSet,
  fitTransform,
  relativeAgreement,
  relativeMismatch,
  RelativeSpace,
  selectAnchors,
  Tensor,
  type Latent,
  type RelativeOptions,
  type RelativeSimilarity,
  type TransformKind,
} from "../../lib/index.js";
import { readSafetensors } from "../../lib/files/safetensors.js";
import { writeSealed } from "../../lib/files/sealed.js";
import { SeededDraws } from "../../lib/spaces/random.js";
import { at, codeOf, runs } from "../helpers.js";
import {
  cosine,
  dot,
  meanRow,
  minus,
  moved,
  norm,
  orthogonal,
  randomRows,
  tensorOf,
  times,
  transposed,
  worst,
  type Rows,
} from "../plain.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";
const folder = mkdtempSync(path.join(os.tmpdir(), "latentwire-relative-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const first = (k: number): AnchorSet => new AnchorSet(Array.from({ length: k }, (_, i) => i));
/** A file with `old` replaced in it: as it is, or sealed again by somebody who knows how. */
async function altered(source: string, target: string, old: string, other: string, format: string, sealed: boolean): Promise<void> {
  const whole = readFileSync(source, "latin1");
  expect(whole, old).toContain(old);
  writeFileSync(target, whole.replace(old, other), "latin1");
  if (!sealed) return;
  const { tensors, metadata } = await readSafetensors(target);
  await writeSealed(target, format, tensors, new Map([...metadata].filter(([key]) => key !== "seal" && key !== "format")));
}

const numbersOf = (latent: Latent): Float32Array => latent.tensor().toFloat32();

/** Rows relative to the first k of them. */
async function relative(rows: Rows, k: number, options: RelativeOptions = {}): Promise<Float32Array> {
  using space = await RelativeSpace.fit(tensorOf(rows), first(k), options);
  using latent = await space.encode(tensorOf(rows));
  return numbersOf(latent);
}

describe("cosines to anchors", () => {
  it("are those of f64, also from f16 and bf16 (7, 8)", async () => {
    const rows = randomRows(30, 40, 1);
    const expected = rows.flatMap((row) => rows.slice(0, 9).map((anchor) => cosine(row, anchor)));
    const found = await relative(rows, 9);
    expect(worst(found, expected)).toBeLessThan(1e-6);
    for (let i = 0; i < 9; i++) {
      expect(at(found, i * 9 + i)).toBeCloseTo(1, 6);
      for (let j = 0; j < 9; j++) expect(at(found, i * 9 + j)).toBeCloseTo(at(found, j * 9 + i), 6);
    }
    for (const [dtype, most] of [
      ["f16", 2e-4],
      ["bf16", 2e-3],
    ] as const) {
      using half = await tensorOf(rows).convert(dtype);
      using space = await RelativeSpace.fit(half, first(9));
      using latent = await space.encode(half);
      expect(worst(numbersOf(latent), expected)).toBeLessThan(most);
    }
  });

  it("stay under rotations, reflections, scale, permutations, and lengths of rows (1, 2, 3)", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 2, max: 30 }), fc.integer({ min: 1, max: 12 }), fc.nat(1000), async (d, k, seed) => {
        const rows = randomRows(25, d, seed);
        const before = await relative(rows, k);
        expect(worst(await relative(moved(rows, orthogonal(d, seed + 1), 3.7), k), before)).toBeLessThan(1e-6);
        const order = new SeededDraws(seed).sample(rows[0]?.map((_, i) => i) ?? [], d);
        expect(
          worst(
            await relative(
              rows.map((row) => order.map((i) => at(row, i))),
              k,
            ),
            before,
          ),
        ).toBeLessThan(5e-7);
        const lengths = rows.map((row, i) => row.map((value) => value * (0.1 + (i % 7))));
        expect(worst(await relative(lengths, k), before)).toBeLessThan(1e-6);
      }),
      runs(20),
    );
  });

  it("change when all rows move, unless they are centred by the anchors (4)", async () => {
    const rows = randomRows(40, 20, 3);
    const far = moved(rows, orthogonal(20, 4), 3.7, 74);
    expect(worst(await relative(far, 15), await relative(rows, 15))).toBeGreaterThan(0.1);
    const centred = { transforms: ["centre"] } as const;
    expect(worst(await relative(far, 15, centred), await relative(rows, 15, centred))).toBeLessThan(5e-6);
  });

  it("of permuted anchors are permuted, bit for bit, and rows alone are those of a batch (5)", async () => {
    const rows = randomRows(33, 17, 6);
    using x = tensorOf(rows);
    const ids = [4, 0, 11, 7, 19];
    using forwards = await RelativeSpace.fit(x, new AnchorSet(ids));
    using backwards = await RelativeSpace.fit(x, new AnchorSet([...ids].reverse()));
    const [a, b] = [numbersOf(await forwards.encode(x)), numbersOf(await backwards.encode(x))];
    expect(forwards.space.id).not.toBe(backwards.space.id);
    for (let i = 0; i < 33; i++) expect(a.subarray(i * 5, i * 5 + 5)).toEqual(b.slice(i * 5, i * 5 + 5).reverse());
    using one = tensorOf(rows.slice(8, 9));
    expect(worst(numbersOf(await forwards.encode(one)), a.subarray(40, 45))).toBeLessThan(1e-6);
  });

  it("of zeros are zeros, and of NaN an error (6)", async () => {
    using space = await RelativeSpace.fit(tensorOf(randomRows(10, 4, 1)), first(3));
    expect(numbersOf(await space.encode(Tensor.zeros([2, 4])))).toEqual(new Float32Array(6));
    using broken = Tensor.fromTyped("f32", [2, 4], Float32Array.of(1, 2, 3, 4, 5, Infinity, 7, 8));
    expect(await codeOf(() => space.encode(broken))).toBe("ERR_LATENT_NON_FINITE");
    expect(await codeOf(() => space.encode(Tensor.zeros([2, 5])))).toBe(bad);
    expect(await codeOf(() => space.encode(Tensor.zeros([0, 4])))).toBe(bad);
  });

  it("as codes and as the nearest are those of all", async () => {
    const rows = randomRows(12, 6, 1);
    using x = tensorOf(rows);
    using space = await RelativeSpace.fit(x, first(5));
    const all = numbersOf(await space.encode(x));
    const { indices, values } = await space.topK(x, 1);
    const eight = await space.codes(x, 8);
    const codes = eight.codes.toTyped();
    for (let i = 0; i < 12; i++) {
      const row = all.subarray(i * 5, i * 5 + 5);
      expect(at(indices.toTyped(), i)).toBe(row.indexOf(Math.max(...row)));
      expect(at(values.toFloat32(), i)).toBe(Math.max(...row));
      row.forEach((value, j) => {
        expect(Math.abs(at(codes, i * 5 + j) - 127 * value)).toBeLessThanOrEqual(0.501);
      });
    }
    // a receiver in the same relative space, and one in another
    for (const [bits, most] of [
      [8, 0.5 / 127],
      [4, 0.5 / 7],
      [1, 1],
    ] as const)
      expect(worst(numbersOf(await space.decode(await space.codes(x, bits))), all)).toBeLessThan(most + 1e-6);
    const signs = numbersOf(await space.decode(await space.codes(x, 1)));
    expect(signs).toEqual(all.map((value) => (value >= 0 ? 1 : -1)));
    using other = await RelativeSpace.fit(x, first(6));
    expect(await codeOf(() => other.decode(eight))).toBe("ERR_LATENT_SPACE_MISMATCH");
    expect(await codeOf(() => space.decode({ ...eight, bits: 4 }))).toBe(bad);
    expect(await codeOf(() => space.decode({ ...eight, codes: x }))).toBe("ERR_LATENT_DTYPE");
    using distances = await RelativeSpace.fit(x, first(5), { similarity: "euclidean" });
    expect(await codeOf(() => distances.codes(x, 8))).toBe(bad);
    using basis = await RelativeSpace.fit(x, first(5), { similarity: "basis" });
    expect(await codeOf(() => basis.topK(x, 1))).toBe(bad);
  });
});

describe("other similarities", () => {
  const rows = randomRows(30, 12, 8);
  const anchors = rows.slice(0, 9);
  const each = (measure: (row: readonly number[], anchor: readonly number[]) => number): number[] =>
    rows.flatMap((row) => anchors.map((anchor) => measure(row, anchor)));
  const references: Partial<Record<RelativeSimilarity, number[]>> = {
    angular: each((x, a) => Math.acos(Math.min(1, Math.max(-1, cosine(x, a)))) / Math.PI),
    inner: each(dot),
    "squared-euclidean": each((x, a) => norm(minus(x, a)) ** 2),
    l1: each((x, a) => minus(x, a).reduce((sum, value) => sum + Math.abs(value), 0)),
  };

  it.each(Object.entries(references))("%s is its definition (10, 11, 12)", async (name, expected) => {
    // arccos is steep at 1: a row and itself
    expect(worst(await relative(rows, 9, { similarity: name as RelativeSimilarity }), expected)).toBeLessThan(
      name === "angular" ? 3e-4 : 2e-5,
    );
  });

  it("euclidean distances are right far from the origin, do not change when all moves, and grow with the scale (11)", async () => {
    const far = rows.map((row) => row.map((value) => Math.fround(value + 1000)));
    const expected = far.flatMap((row) => far.slice(0, 9).map((anchor) => norm(minus(row, anchor))));
    const found = await relative(far, 9, { similarity: "euclidean" });
    expected.forEach((value, i) => {
      if (value > 0) expect(Math.abs(at(found, i) - value) / value).toBeLessThan(1e-5);
      else expect(at(found, i)).toBeLessThan(5e-3);
    });
    const near = await relative(rows, 9, { similarity: "euclidean" });
    const scaled = await relative(moved(rows, orthogonal(12, 2), 4), 9, { similarity: "euclidean" });
    expect(
      worst(
        scaled,
        near.map((value) => 4 * value),
      ),
    ).toBeLessThan(1e-2);
    expect(
      worst(
        scaled.filter((_, i) => at(expected, i) > 0),
        near.map((value) => 4 * value).filter((_, i) => at(expected, i) > 0),
      ),
    ).toBeLessThan(2e-4);
  });

  it("l1 stays under moves and permutations, not under rotations (12)", async () => {
    const before = await relative(rows, 9, { similarity: "l1" });
    const shifted = rows.map((row) => [...row].reverse().map((value) => value + 5));
    expect(worst(await relative(shifted, 9, { similarity: "l1" }), before)).toBeLessThan(1e-4);
    expect(worst(await relative(moved(rows, orthogonal(12, 3)), 9, { similarity: "l1" }), before)).toBeGreaterThan(0.5);
  });

  it("lp is its definition for every p, and l1 and euclidean are two of them", async () => {
    for (const p of [1, 1.7, 2, 4]) {
      const expected = each((x, a) => minus(x, a).reduce((sum, value) => sum + Math.abs(value) ** p, 0) ** (1 / p));
      expect(worst(await relative(rows, 9, { similarity: "lp", p }), expected)).toBeLessThan(1e-5);
    }
    using x = tensorOf(rows);
    for (const options of [{ similarity: "lp" }, { similarity: "lp", p: 0.5 }, { similarity: "l1", p: 1 }] as const)
      expect(await codeOf(() => RelativeSpace.fit(x, first(9), options))).toBe(bad);
    using three = await RelativeSpace.fit(x, first(9), { similarity: "lp", p: 3 });
    using four = await RelativeSpace.fit(x, first(9), { similarity: "lp", p: 4 });
    expect(three.space.id).not.toBe(four.space.id);
    expect(await codeOf(() => three.topK(x, 1))).toBe(bad);
    await three.save(path.join(folder, "lp.safetensors"));
    using again = await RelativeSpace.load(path.join(folder, "lp.safetensors"));
    expect(again.space).toEqual(three.space);
    expect(numbersOf(await again.encode(x))).toEqual(numbersOf(await three.encode(x)));
  });

  it("basis stays under invertible maps, and gives back what the anchors span (13)", async () => {
    const before = await relative(rows, 9, { similarity: "basis" });
    const coefficients = rows.map((_, i) => [...before.subarray(i * 9, i * 9 + 9)]);
    // the first nine rows are anchors: their coefficients are those of the identity
    expect(
      worst(
        coefficients.slice(0, 9).flat(),
        anchors.flatMap((_, i) => anchors.map((__, j) => Number(i === j))),
      ),
    ).toBeLessThan(1e-4);
    const few = randomRows(30, 6, 9);
    const more = await relative(few, 9, { similarity: "basis" });
    const again = times(
      few.map((_, i) => [...more.subarray(i * 9, i * 9 + 9)]),
      few.slice(0, 9),
    );
    expect(worst(again.flat(), few.flat())).toBeLessThan(1e-4);
    const spanned = times(randomRows(30, 4, 10), anchors.slice(0, 4));
    const all = [...anchors.slice(0, 4), ...spanned];
    const own = await relative(all, 4, { similarity: "basis" });
    const mapped = await relative(times(all, randomRows(12, 12, 11)), 4, { similarity: "basis" });
    expect(worst(mapped, own)).toBeLessThan(5e-3);
  });

  it("whitened stays under invertible affine maps without shrinkage, under rotations with any (14)", async () => {
    const many = randomRows(200, 6, 12);
    const map = moved(many, randomRows(6, 6, 13), 2, 7);
    const exact = { similarity: "whitened", shrinkage: 0 } as const;
    expect(worst(await relative(map, 10, exact), await relative(many, 10, exact))).toBeLessThan(1e-3);
    const shrunk = { similarity: "whitened", shrinkage: 0.5 } as const;
    expect(worst(await relative(moved(many, orthogonal(6, 14)), 10, shrunk), await relative(many, 10, shrunk))).toBeLessThan(1e-4);
    expect(worst(await relative(map, 10, shrunk), await relative(many, 10, shrunk))).toBeGreaterThan(0.1);
  });

  it("parseval keeps lengths for as many anchors as dimensions, and shortens for fewer (23)", async () => {
    for (const [k, keeps] of [
      [15, true],
      [9, false],
    ] as const) {
      const coded = await relative(rows, k, { similarity: "parseval" });
      rows.forEach((row, i) => {
        const length = norm([...coded.subarray(i * k, i * k + k)]);
        if (keeps || i < k) expect(length / norm(row)).toBeCloseTo(1, 4);
        else expect(length).toBeLessThan(norm(row));
      });
    }
  });

  it("of several kinds stand side by side, or are added up", async () => {
    const [a, b] = [await relative(rows, 9), await relative(rows, 9, { similarity: "l1" })];
    const similarity = ["cosine", "l1"] as const;
    const wide = await relative(rows, 9, { similarity });
    const sum = await relative(rows, 9, { similarity, combine: "sum" });
    const mean = await relative(rows, 9, { similarity, combine: "mean" });
    for (let i = 0; i < 30; i++) {
      for (let j = 0; j < 9; j++) {
        const [own, other] = [at(a, i * 9 + j), at(b, i * 9 + j)];
        expect(at(wide, i * 18 + j)).toBe(own);
        expect(at(wide, i * 18 + 9 + j)).toBe(other);
        expect(at(sum, i * 9 + j)).toBeCloseTo(own + other, 4);
        expect(at(mean, i * 9 + j)).toBeCloseTo((own + other) / 2, 4);
      }
    }
  });
});

describe("transforms", () => {
  it("are fitted on what they are given and undone exactly (20, 21)", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom<TransformKind>("centre", "standardise", "isotropic"), { maxLength: 4 }),
        fc.integer({ min: 1, max: 9 }),
        fc.nat(1000),
        async (chain, d, seed) => {
          const anchors = randomRows(12, d, seed, 3);
          const x = randomRows(5, d, seed + 1, 3);
          const transform = await fitTransform(tensorOf(anchors), chain);
          using there = await transform.apply(tensorOf(x));
          using back = await transform.invert(there);
          expect(worst(back.toFloat32(), x.flat())).toBeLessThan(2e-5);
          expect(transform.kinds).toEqual(chain);
        },
      ),
      runs(25),
    );
  });

  it("standardise divides by the deviation of n - 1, of a constant column by 1 (20)", async () => {
    const rows = randomRows(10, 3, 1).map(([a = 0, b = 0]) => [a + 50, b, 0.1]);
    const transform = await fitTransform(tensorOf(rows), ["standardise"]);
    using found = await transform.apply(tensorOf(rows));
    const mean = meanRow(rows);
    const deviation = transposed(rows).map((column, j) =>
      Math.sqrt(column.reduce((sum, value) => sum + (value - at(mean, j)) ** 2, 0) / 9),
    );
    const expected = rows.flatMap((row) => row.map((value, j) => (j === 2 ? 0 : (value - at(mean, j)) / at(deviation, j))));
    expect(worst(found.toFloat32(), expected)).toBeLessThan(1e-5);
  });

  it("unit and isotropic are about lengths; unit cannot be undone", async () => {
    const rows = randomRows(10, 4, 2);
    const unit = await fitTransform(tensorOf(rows), ["unit"]);
    using ones = await unit.apply(tensorOf(rows));
    expect(
      worst(
        ones.toFloat32(),
        rows.flatMap((row) => row.map((value) => value / norm(row))),
      ),
    ).toBeLessThan(1e-6);
    expect(unit.invertible).toBe(false);
    expect(await codeOf(() => unit.invert(ones))).toBe(bad);
    const isotropic = await fitTransform(tensorOf(rows), ["isotropic"]);
    using scaled = await isotropic.apply(tensorOf(rows));
    const mean = rows.reduce((sum, row) => sum + norm(row), 0) / 10;
    expect(
      worst(
        scaled.toFloat32(),
        rows.flatMap((row) => row.map((value) => value / mean)),
      ),
    ).toBeLessThan(1e-6);
    expect(await codeOf(() => fitTransform(Tensor.zeros([3, 2]), ["isotropic"]))).toBe(bad);
    expect(await codeOf(() => fitTransform(tensorOf(rows), ["whiten" as never]))).toBe(bad);
    expect(await codeOf(() => isotropic.apply(Tensor.zeros([1, 5])))).toBe(bad);
  });
});

describe("anchors", () => {
  const rows = randomRows(60, 5, 4);
  const x = tensorOf(rows);

  it("of a seed are the same everywhere, without one twice (25)", async () => {
    // what SplitMix64 draws, written down so that every platform is held to it
    expect([...(await selectAnchors(x, { count: 8, seed: 7 })).ids]).toMatchInlineSnapshot(`
      [
        27,
        42,
        38,
        33,
        30,
        45,
        40,
        11,
      ]
    `);
    expect([...(await selectAnchors(x, { count: 4, method: "frequent", top: 6, seed: 1 })).ids]).toMatchInlineSnapshot(`
      [
        5,
        0,
        4,
        1,
      ]
    `);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 60 }), fc.nat(), async (count, seed) => {
        const ids = [...(await selectAnchors(x, { count, seed })).ids];
        expect(new Set(ids).size).toBe(count);
        expect(Math.max(...ids)).toBeLessThan(60);
        expect(ids).toEqual([...(await selectAnchors(x, { count, seed })).ids]);
      }),
      runs(30),
    );
  });

  it("drawn by class come from the classes in turn", async () => {
    const labels = rows.map((_, i) => (i < 50 ? 0 : i < 58 ? 1 : 2));
    const ids = [...(await selectAnchors(x, { count: 9, method: "stratified", labels, seed: 3 })).ids];
    expect(ids.map((id) => labels[id])).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 0]);
  });

  it("that are farthest begin with those of fewer; medoids are rows; prototypes are means of the same rows on both sides (25)", async () => {
    const ten = (await selectAnchors(x, { count: 10, method: "farthest", seed: 5 })).ids;
    expect((await selectAnchors(x, { count: 4, method: "farthest", seed: 5 })).ids).toEqual(ten.slice(0, 4));
    expect(new Set((await selectAnchors(x, { count: 6, method: "medoids" })).ids).size).toBe(6);
    const prototypes = await selectAnchors(x, { count: 6, method: "prototypes", support: 3 });
    expect(prototypes.count).toBe(6);
    const other = randomRows(60, 8, 9);
    using means = await prototypes.rows(tensorOf(other));
    const expected = Array.from({ length: 6 }, (_, i) =>
      meanRow([...prototypes.ids.subarray(3 * i, 3 * i + 3)].map((id) => other[id] ?? [])),
    );
    expect(worst(means.toFloat32(), expected.flat())).toBeLessThan(1e-6);
  });

  it("have a hash of what they are, and come back from JSON", () => {
    const anchors = new AnchorSet([3, 1, 2], { corpus: "words" });
    expect(AnchorSet.fromJSON(JSON.parse(JSON.stringify(anchors)) as never).hash).toBe(anchors.hash);
    for (const other of [
      new AnchorSet([1, 3, 2], { corpus: "words" }),
      new AnchorSet([3, 1, 2]),
      new AnchorSet([3, 1, 2], { corpus: "words", support: 3 }),
    ])
      expect(other.hash).not.toBe(anchors.hash);
  });

  it("that are too many, twice, out of range or badly asked for are refused", async () => {
    for (const ids of [[], [1, 1], [-1], [0.5], "12", undefined]) expect(await codeOf(() => new AnchorSet(ids as never))).toBe(bad);
    expect(await codeOf(() => new AnchorSet([1, 2, 3], { support: 2 }))).toBe(bad);
    expect(await codeOf(() => new AnchorSet([1, 2, 2, 2], { support: 2 }))).toBe(bad);
    for (const options of [
      { count: 61 },
      { count: 0 },
      { count: 3, method: "nearest" },
      { count: 3, top: 9 },
      { count: 3, method: "frequent", top: 2 },
      { count: 3, method: "frequent" },
      { count: 3, method: "stratified" },
      { count: 3, method: "stratified", labels: [1, 2] },
      { count: 3, seed: -1 },
    ])
      expect(await codeOf(() => selectAnchors(x, options as never))).toBe(bad);
    expect(await codeOf(() => RelativeSpace.fit(x, new AnchorSet([60])))).toBe(bad);
    const twins = tensorOf([...rows.slice(0, 4), ...rows.slice(0, 4)]);
    expect(await codeOf(() => RelativeSpace.fit(twins, new AnchorSet([0, 4])))).toBe(bad);
    expect(await codeOf(() => RelativeSpace.fit(x, first(3), { similarity: [] }))).toBe(bad);
    expect(await codeOf(() => RelativeSpace.fit(x, first(3), { similarity: "dot" as never }))).toBe(bad);
    expect(await codeOf(() => RelativeSpace.fit(x, { ids: [1] } as never))).toBe(bad);
  });
});

describe("two agents", () => {
  const rows = randomRows(50, 16, 20);
  const other = moved(rows, orthogonal(16, 21), 5);

  it("agree where they have the same anchors, and are refused where they have not (30)", async () => {
    using mine = await RelativeSpace.fit(tensorOf(rows), first(20));
    using theirs = await RelativeSpace.fit(tensorOf(other), first(20));
    expect(mine.space).toEqual(theirs.space);
    using a = await mine.encode(tensorOf(rows));
    using b = await theirs.encode(tensorOf(other));
    expect(a.kind).toBe("relative");
    expect(a.toJSON()).toMatchObject({ space: mine.space.id, kind: "relative", shape: [50, 20] });
    expect(await relativeMismatch(a, b)).toBeLessThan(1e-6);
    using swapped = await RelativeSpace.fit(tensorOf(other), new AnchorSet([1, 0, ...Array.from({ length: 18 }, (_, i) => i + 2)]));
    using c = await swapped.encode(tensorOf(other));
    const refusal = await relativeMismatch(a, c).catch((error: unknown) => error);
    expect(refusal).toMatchObject({ code: "ERR_LATENT_SPACE_MISMATCH" });
    expect(String(refusal)).toContain("the set of anchors differs");
    using centred = await RelativeSpace.fit(tensorOf(other), first(20), { transforms: ["centre"] });
    using d = await centred.encode(tensorOf(other));
    expect(await codeOf(() => relativeMismatch(a, d))).toBe("ERR_LATENT_SPACE_MISMATCH");
  });

  it("load what was saved, and tell rows by the same bits (30, 32)", async () => {
    const prototypes = await selectAnchors(tensorOf(rows), { count: 9, method: "prototypes", support: 4, corpus: "words" });
    for (const options of [
      {},
      { similarity: ["cosine", "basis", "whitened", "parseval"], transforms: ["standardise", "unit"] },
      { similarity: "l1", transforms: ["centre", "isotropic"], storage: "f16" },
    ] as RelativeOptions[]) {
      const file = path.join(folder, "space.safetensors");
      using space = await RelativeSpace.fit(tensorOf(rows), prototypes, options);
      await space.save(file);
      using again = await RelativeSpace.load(file);
      expect(again.space).toEqual(space.space);
      expect(again.anchors.hash).toBe(prototypes.hash);
      const x = tensorOf(randomRows(7, 16, 30));
      expect(numbersOf(await again.encode(x))).toEqual(numbersOf(await space.encode(x)));
    }
  });

  it("refuse files that were changed, also where the seal was made anew", async () => {
    const file = path.join(folder, "space.safetensors");
    const target = path.join(folder, "changed.safetensors");
    using space = await RelativeSpace.fit(tensorOf(rows), first(5));
    await space.save(file);
    for (const [old, other, sealed] of [
      ['\\"ids\\":[0,1,2', '\\"ids\\":[9,1,2', false],
      ["relative space 1", "relative space 2", false],
      ["operand.0.matrix", "operand.1.matrix", true],
      ["[5,16]", "[16,5]", true],
      ["cosine", "cosign", true],
      ['\\"ids\\":[0,1,2', '\\"ids\\":[1,1,2', true],
      ['\\"inputDimension\\":16', '\\"inputDimension\\":15', true],
      ['\\"shrinkage\\":0.5', '\\"shrinkage\\":5.5', true],
    ] as const) {
      await altered(file, target, old, other, "latentwire relative space 1", sealed);
      expect(await codeOf(() => RelativeSpace.load(target)), old).toBe("ERR_LATENT_FILE_FORMAT");
    }
    const whole = readFileSync(file);
    for (let bit = 0; bit < 8 * whole.length; bit += 13) {
      const flipped = Buffer.from(whole);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      writeFileSync(target, flipped);
      // spaces at the end of the header may be tabs: nothing has changed then
      const code = await codeOf(async () => {
        using loaded = await RelativeSpace.load(target);
        expect(loaded.space).toEqual(space.space);
      });
      expect(["ERR_LATENT_FILE_FORMAT", "no error"]).toContain(code);
    }
    for (const length of [0, 7, 100, whole.length - 1]) {
      writeFileSync(target, whole.subarray(0, length));
      expect(await codeOf(() => RelativeSpace.load(target))).toBe("ERR_LATENT_FILE_FORMAT");
    }
  });

  it("find each other's things with fewer anchors than dimensions, and not with shuffled ones", async () => {
    const found = await relativeAgreement({ pairs: { from: tensorOf(rows), to: tensorOf(other) }, anchors: 10, transforms: [] });
    expect(found).toMatchObject({ anchors: 10, verdict: "good" });
    expect(found.heldOut.retrieval1).toBe(1);
    expect(found.null.retrieval1).toBeLessThan(0.6);
    expect((await relativeAgreement({ pairs: { from: tensorOf(rows), to: tensorOf(other) } })).anchors).toBe(32);
    for (const options of [{ anchors: 41 }, { anchors: 0 }, { holdout: 1 }, { similarity: "dot" }, { method: "ridge" }])
      expect(await codeOf(() => relativeAgreement({ pairs: { from: tensorOf(rows), to: tensorOf(other) }, ...options } as never))).toBe(
        bad,
      );
    const unrelated = tensorOf(randomRows(50, 16, 99));
    expect((await relativeAgreement({ pairs: { from: tensorOf(rows), to: unrelated } })).verdict).toBe("unusable");
  });

  it("are told when the space is gone", async () => {
    const space = await RelativeSpace.fit(tensorOf(rows), first(5));
    space.dispose();
    space.dispose();
    expect(space.disposed).toBe(true);
    expect(await codeOf(() => space.encode(tensorOf(rows)))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => space.save(path.join(folder, "gone.safetensors")))).toBe("ERR_LATENT_DISPOSED");
  });
});
