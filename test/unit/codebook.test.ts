// Codebooks, grids and budgets of bits as users see them, against plain arithmetic.
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  FiniteScalarQuantiser,
  packCodebook,
  residualDequantise,
  residualQuantise,
  Tensor,
  waterFilling,
  wholeBits,
  type Codebook,
} from "../../lib/index.js";
import { at, codeOf, numbers, runs } from "../helpers.js";

const k = 37;
const d = 12;
const words = numbers(k * d, 1);
let book: Codebook;

beforeAll(async () => {
  using tensor = Tensor.fromTyped("f32", [k, d], words);
  book = await packCodebook(tensor);
});
afterAll(() => {
  book.dispose();
});

function squaredDistance(x: ArrayLike<number>, i: number, c: ArrayLike<number>, j: number): number {
  let sum = 0;
  for (let t = 0; t < d; t++) sum += (at(x, i * d + t) - at(c, j * d + t)) ** 2;
  return sum;
}

describe("packCodebook", () => {
  it("finds the nearest codeword, at once and later", async () => {
    expect(book).toMatchObject({ count: k, dimension: d, storage: "f32", disposed: false });
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 6000 }), fc.integer(), async (n, seed) => {
        const x = numbers(n * d, seed);
        const distances = new Float32Array(n);
        const indices = book.nearestSync(x, undefined, distances);
        const later = await book.nearest(x);
        expect(later.indices.toTyped()).toEqual(indices);
        expect(later.distances.toFloat32()).toEqual(distances);
        for (let i = 0; i < n; i += Math.max(1, n >> 4)) {
          const all = Array.from({ length: k }, (_, j) => squaredDistance(x, i, words, j));
          expect(at(all, at(indices, i)) - Math.min(...all)).toBeLessThan(1e-5);
          expect(Math.abs(at(distances, i) - Math.min(...all))).toBeLessThan(1e-5);
        }
      }),
      runs(20),
    );
    expect(book.nearestSync(words)).toEqual(Int32Array.from({ length: k }, (_, i) => i));
  });

  it("refuses rows whose distances are beyond f32, and arrays that overlap", async () => {
    const far = new Float32Array(3 * d);
    far.fill(1e25, 2 * d);
    await expect(book.nearest(far)).rejects.toThrow("row 2 ");
    expect(await codeOf(() => book.nearestSync(far))).toBe("ERR_LATENT_NON_FINITE");
    const buffer = new ArrayBuffer(8);
    const call = (): unknown => book.nearestSync(numbers(d, 1), new Int32Array(buffer, 0, 1), new Float32Array(buffer, 0, 1));
    expect(await codeOf(call)).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("codes what is left with the next codebook, and adds up again", async () => {
    using small = Tensor.fromTyped(
      "f32",
      [k, d],
      words.map((x) => x / 8),
    );
    using second = await packCodebook(small, { storage: "f16" });
    const x = numbers(50 * d, 9);
    const { indices, residual } = await residualQuantise([book, second], x);
    expect(indices.shape).toEqual([50, 2]);
    const sum = await residualDequantise([book, second], indices);
    const left = residual.toFloat32();
    sum.toFloat32().forEach((value, i) => {
      expect(value + at(left, i)).toBeCloseTo(at(x, i), 5);
    });
    const first = book.nearestSync(x);
    expect(Int32Array.from({ length: 50 }, (_, i) => at(indices.toTyped(), 2 * i))).toEqual(first);
    const square = (of: Float32Array): number => of.reduce((total, value) => total + value * value, 0);
    const once = await residualQuantise([book], x);
    expect(square(left)).toBeLessThan(square(once.residual.toFloat32()));
    expect((await residualDequantise([book], first)).shape).toEqual([50, d]);
  });

  it("refuses what does not fit, and works on afterwards", async () => {
    using vector = Tensor.zeros([3]);
    using other = await packCodebook(Tensor.zeros([2, 5]));
    const x = numbers(d, 3);
    const before = book.nearestSync(x);
    const bad: [string, () => unknown][] = [
      ["ERR_LATENT_INVALID_ARGUMENT", () => packCodebook(vector)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => packCodebook([1] as never)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => packCodebook(Tensor.zeros([2, 2]), { storage: "i8" as never })],
      ["ERR_LATENT_DTYPE", () => packCodebook(Tensor.zeros([2, 2], "i32"))],
      ["ERR_LATENT_NON_FINITE", () => packCodebook(Tensor.fromTyped("f32", [1, 1], Float32Array.of(Number.NaN)))],
      ["Error: no", () => packCodebook(Tensor.zeros([2, 2]), { signal: AbortSignal.abort(new Error("no")) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => book.nearestSync(x.subarray(1))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => book.nearestSync(x, new Int32Array(2))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => book.nearestSync(x, undefined, new Float32Array(2))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => book.nearestSync(x, undefined, [1] as never)],
      ["ERR_LATENT_NON_FINITE", () => book.nearestSync(x.map(() => Infinity))],
      ["ERR_LATENT_DTYPE", () => book.nearest(Tensor.zeros([1, d], "i8"))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => residualQuantise([], x)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => residualQuantise([book, other], x)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => residualQuantise([{} as never], x)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => residualDequantise([book], Int32Array.of(k))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => residualDequantise([book], Int32Array.of(-1))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => residualDequantise([book, book], Int32Array.of(1))],
      ["ERR_LATENT_DTYPE", () => residualDequantise([book], Tensor.zeros([1]))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => residualDequantise([book], [1] as never)],
    ];
    for (const [code, call] of bad) expect(await codeOf(call)).toBe(code);
    expect(book.nearestSync(x)).toEqual(before);
    const gone = await packCodebook(Tensor.zeros([2, d]));
    gone.dispose();
    gone.dispose();
    expect(gone.disposed).toBe(true);
    expect(await codeOf(() => gone.nearestSync(x))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => residualQuantise([gone], x))).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("FiniteScalarQuantiser", () => {
  it("gives every symbol its own value and takes it back", () => {
    const grid = new FiniteScalarQuantiser([8, 5, 3]);
    expect(grid.symbols).toBe(120);
    expect(grid.dimension).toBe(3);
    const all = Int32Array.from({ length: 120 }, (_, i) => i);
    const values = grid.decode(all);
    expect(new Set([...all].map((i) => values.subarray(3 * i, 3 * i + 3).join())).size).toBe(120);
    expect(Math.min(...values)).toBe(-1);
    // a value is what tanh makes of something: the middle of the symbol's cell, if it is not at the border
    const inner = all.filter((i) => [0, 1, 2].every((j) => Math.abs(at(values, 3 * i + j)) < 1));
    const levels = [8, 5, 3];
    expect(inner.length).toBeGreaterThan(0);
    const given = Float32Array.from(
      [...inner].flatMap((i) =>
        [0, 1, 2].map((j) => {
          const count = at(levels, j);
          const half = ((count - 1) * 1.001) / 2;
          const offset = count % 2 === 0 ? 0.5 : 0;
          return Math.atanh((at(values, 3 * i + j) * Math.floor(count / 2) + offset) / half) - Math.atanh(offset / half);
        }),
      ),
    );
    expect(grid.encode(given)).toEqual(inner);
    using tensor = Tensor.fromTyped("f32", [inner.length, 3], given);
    expect(grid.encode(tensor)).toEqual(inner);
  });

  it("refuses grids, rows and symbols that there are not", async () => {
    for (const levels of [[], [1], [2.5], [70000], Array<number>(40).fill(2), "8" as never])
      expect(await codeOf(() => new FiniteScalarQuantiser(levels))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    const grid = new FiniteScalarQuantiser([4, 4]);
    const bad: [string, () => unknown][] = [
      ["ERR_LATENT_INVALID_ARGUMENT", () => grid.encode(new Float32Array(3))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => grid.encode(new Float32Array(4), new Int32Array(1))],
      ["ERR_LATENT_NON_FINITE", () => grid.encode(Float32Array.of(0, Number.NaN))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => grid.decode(Int32Array.of(16))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => grid.decode(Int32Array.of(1), new Float32Array(3))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => grid.decode([1] as never)],
    ];
    for (const [code, call] of bad) expect(await codeOf(call)).toBe(code);
  });
});

describe("waterFilling", () => {
  it("spends the bits where they help most", () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 1e-3, max: 1e3, noNaN: true }), { minLength: 1, maxLength: 30 }),
        fc.double({ min: 0, max: 200, noNaN: true }),
        (list, total) => {
          const variances = Float64Array.from(list);
          const { bits, level, distortion } = waterFilling(variances, total);
          expect(bits.reduce((sum, one) => sum + one, 0)).toBeCloseTo(total, 6);
          variances.forEach((variance, i) => {
            if (at(bits, i) > 1e-9) expect(Math.abs((variance * 4 ** -at(bits, i)) / level - 1)).toBeLessThan(1e-9);
            else expect(variance).toBeLessThanOrEqual(level * (1 + 1e-8));
          });
          expect(distortion).toBeCloseTo(
            variances.reduce((sum, variance) => sum + Math.min(level, variance), 0),
            6,
          );
          const whole = wholeBits(variances, Math.floor(total), { mostBits: 64 });
          expect(whole.bits.reduce((sum, one) => sum + one, 0)).toBe(Math.min(Math.floor(total), 64 * variances.length));
          expect(whole.distortion).toBeGreaterThanOrEqual(waterFilling(variances, Math.floor(total)).distortion * (1 - 1e-9));
        },
      ),
    );
    // the level is smaller than any number
    expect(waterFilling(Float64Array.of(1, 1), 4000).bits).toEqual(Float64Array.of(2000, 2000));
    expect(waterFilling(Float64Array.of(4, 0), 0)).toEqual({ bits: Float64Array.of(0, 0), level: 4, distortion: 4 });
    expect(wholeBits(Float64Array.of(4, 1), 3).bits).toEqual(Int32Array.of(2, 1));
    expect(wholeBits(Float64Array.of(4, 1), 100, { mostBits: 3 }).bits).toEqual(Int32Array.of(3, 3));
  });

  it("refuses budgets and variances that make no sense", async () => {
    for (const call of [
      () => waterFilling(Float64Array.of(-1), 1),
      () => waterFilling(Float64Array.of(Infinity), 1),
      () => waterFilling(Float64Array.of(0), 1),
      () => waterFilling(Float64Array.of(1), -1),
      () => waterFilling(Float32Array.of(1) as never, 1),
      () => wholeBits(Float64Array.of(-1), 1),
      () => wholeBits(Float64Array.of(1), 1.5),
      () => wholeBits(Float64Array.of(1), 1, { mostBits: 65 }),
    ])
      expect(await codeOf(call)).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});
