// What is read off rows in one pass, against plain arithmetic.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { blake3, digest128, drift, entropyBits, firstNonFiniteRow, rowNorms, RunningMean, Tensor } from "../../lib/index.js";
import { at, codeOf, numbers } from "../helpers.js";

const shapes = fc.tuple(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 1, max: 100 }), fc.integer());

function dot(x: Float32Array, i: number, j: number, columns: number): number {
  let sum = 0;
  for (let t = 0; t < columns; t++) sum += at(x, i * columns + t) * at(x, j * columns + t);
  return sum;
}

describe("statistics of rows", () => {
  it("rowNorms, drift and RunningMean are those of plain arithmetic", () => {
    fc.assert(
      fc.property(shapes, ([n, columns, seed]) => {
        const x = numbers(n * columns, seed);
        using tensor = Tensor.fromTyped("f32", [n, columns], x);
        const norms = rowNorms(tensor);
        expect(rowNorms(x, { columns })).toEqual(norms);
        const moved = drift(tensor);
        for (let i = 0; i < n; i++) {
          expect(at(norms, i)).toBeCloseTo(Math.sqrt(dot(x, i, i, columns)), 4);
          expect(at(moved.squares, i)).toBeCloseTo(dot(x, i, i, columns), 4);
          expect(at(moved.toPrevious, i)).toBeCloseTo(i === 0 ? 0 : dot(x, i, i - 1, columns), 4);
          expect(at(moved.toFirst, i)).toBeCloseTo(dot(x, i, 0, columns), 4);
        }
        // in two parts
        const cut = n >> 1;
        if (cut > 0) {
          const rest = drift(x.subarray(cut * columns), {
            columns,
            previous: x.subarray((cut - 1) * columns, cut * columns),
            first: x.subarray(0, columns),
          });
          expect(rest.toPrevious).toEqual(moved.toPrevious.subarray(cut));
          expect(rest.toFirst).toEqual(moved.toFirst.subarray(cut));
        }
        const mean = new RunningMean(columns);
        mean.add(x.subarray(0, cut * columns));
        mean.add(x.subarray(cut * columns));
        expect(mean.count).toBe(n);
        for (let t = 0; t < columns && n > 0; t++) {
          let sum = 0;
          for (let i = 0; i < n; i++) sum += at(x, i * columns + t);
          expect(at(mean.values, t)).toBeCloseTo(sum / n, 5);
        }
      }),
    );
    expect(at(rowNorms(Float32Array.of(3e38, 1e38), { columns: 2 }), 0) / Math.hypot(3e38, 1e38)).toBeCloseTo(1, 6);
  });

  it("entropyBits is exact on what is known, and close elsewhere", () => {
    expect(entropyBits(Float32Array.of(0.5, 0.5, 1, 0), { columns: 2 })).toEqual(Float32Array.of(1, 0));
    const p = numbers(3000, 4).map((x) => (x + 1) / 3000);
    const expected = p.reduce((sum, one) => sum - (one > 0 ? one * Math.log2(one) : 0), 0);
    expect(at(entropyBits(p, { columns: 3000 }), 0)).toBeCloseTo(expected, 4);
  });

  it("firstNonFiniteRow names the row", async () => {
    const x = numbers(30 * 7, 5);
    expect(firstNonFiniteRow(x, { columns: 7 })).toBeUndefined();
    x[11 * 7 + 6] = -Infinity;
    x[20 * 7] = Number.NaN;
    expect(firstNonFiniteRow(x, { columns: 7 })).toBe(11);
    using tensor = Tensor.fromTyped("f32", [30, 7], x);
    for (const dtype of ["f16", "bf16"] as const) {
      using converted = await tensor.convert(dtype);
      expect(firstNonFiniteRow(converted)).toBe(11);
    }
  });

  it("digest128 is XXH3-128", () => {
    // the vector that xxHash publishes for no bytes, and what xxhsum -H2 prints for "abc"
    expect(digest128(new Uint8Array(0))).toBe("99aa06d3014798d86001c324468d497f");
    expect(digest128(new TextEncoder().encode("abc"))).toBe("06b05ab6733a618578af5f94892f3950");
    const bytes = new Uint8Array(5000).map((_, i) => i % 251);
    const digest = digest128(bytes);
    using tensor = Tensor.fromTyped("i8", [5000], new Int8Array(bytes.buffer));
    expect(digest128(tensor)).toBe(digest);
    for (const i of [0, 240, 4999]) {
      const flipped = bytes.slice();
      flipped[i] = at(flipped, i) ^ 1;
      expect(digest128(flipped)).not.toBe(digest);
    }
  });

  it("blake3 is BLAKE3, keyed or not", () => {
    // of the published test vectors: byte i is i modulo 251
    const bytes = new Uint8Array(102400).map((_, i) => i % 251);
    const key = new TextEncoder().encode("whats the Elvish word for friend");
    const published: [number, string, string][] = [
      [
        0,
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
      ],
      [
        2049,
        "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
        "9f29700902f7c86e514ddc4df1e3049f258b2472b6dd5267f61bf13983b78dd5",
      ],
      [
        102400,
        "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
        "1c35d1a5811083fd7119f5d5d1ba027b4d01c0c6c49fb6ff2cf75393ea5db4a7",
      ],
    ];
    for (const [length, plain, keyed] of published) {
      expect(blake3(bytes.subarray(0, length))).toBe(plain);
      expect(blake3(bytes.subarray(0, length), { key })).toBe(keyed);
      using tensor = Tensor.fromTyped("i8", [length], new Int8Array(bytes.buffer, 0, length));
      expect(blake3(tensor)).toBe(plain);
    }
  });

  it("refuses bad values, and a mean keeps what it has", async () => {
    const x = Float32Array.of(1, 2, 3, Number.NaN);
    const mean = new RunningMean(2);
    mean.add(Float32Array.of(1, 2));
    const before = mean.values.slice();
    const bad: [string, () => unknown][] = [
      ["ERR_LATENT_NON_FINITE", () => rowNorms(x, { columns: 2 })],
      ["ERR_LATENT_NON_FINITE", () => drift(x, { columns: 2 })],
      ["ERR_LATENT_NON_FINITE", () => entropyBits(x, { columns: 2 })],
      [
        "ERR_LATENT_NON_FINITE",
        () => {
          mean.add(x);
        },
      ],
      [
        "ERR_LATENT_INVALID_ARGUMENT",
        () => {
          mean.add(Float32Array.of(1));
        },
      ],
      [
        "ERR_LATENT_INVALID_ARGUMENT",
        () => {
          mean.add(mean.values);
        },
      ],
      ["ERR_LATENT_INVALID_ARGUMENT", () => entropyBits(Float32Array.of(-0.5), { columns: 1 })],
      ["ERR_LATENT_NON_FINITE", () => entropyBits(Float32Array.of(3e38, 3e38), { columns: 2 })],
      ["ERR_LATENT_DTYPE", async () => entropyBits(await Tensor.zeros([1, 2]).convert("f16"))],
      ["ERR_LATENT_DTYPE", () => rowNorms(Tensor.zeros([1, 2], "i32"))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => rowNorms(x)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => rowNorms(x, { columns: 3 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => rowNorms(x, { columns: 2, out: new Float32Array(3) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => rowNorms(x, { columns: 2, out: x.subarray(0, 2) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => rowNorms(Tensor.zeros([1, 2]), { columns: 3 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => rowNorms("x" as never)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => firstNonFiniteRow(x, { columns: 0 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => drift(x, { columns: 2, first: Float32Array.of(1) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => drift(x, { columns: 2, first: x })],
      ["ERR_LATENT_DTYPE", async () => drift(x, { columns: 2, previous: await Tensor.zeros([1, 2]).convert("f16") })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => new RunningMean(0)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => digest128("abc" as never)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => blake3([1] as never)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => blake3(new Uint8Array(1), { key: new Uint8Array(31) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => blake3(new Uint8Array(1), { key: "secret" as never })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => blake3(new Uint8Array(1), { salt: 1 } as never)],
    ];
    for (const [code, call] of bad) expect(await codeOf(call)).toBe(code);
    expect(mean.count).toBe(1);
    expect(mean.values).toEqual(before);
    const gone = Tensor.zeros([1, 2]);
    gone.dispose();
    expect(await codeOf(() => digest128(gone))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => blake3(gone))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => rowNorms(gone))).toBe("ERR_LATENT_DISPOSED");
  });
});
