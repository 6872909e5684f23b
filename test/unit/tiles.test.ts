// Tile codecs, the Walsh-Hadamard transform and packed symbols as users see them. Codes are computed again in plain JavaScript.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hadamardTransform, packBits, Tensor, TileCodec, unpackBits, type TileCodecOptions } from "../../lib/index.js";
import { at, codeOf, numbers, runs, sameBits } from "../helpers.js";

const formats: TileCodecOptions[] = (["fp8", "i8", "i4", "i4-zero"] as const).flatMap((code) =>
  (code === "fp8" ? (["f32", "ue8m0"] as const) : (["f32", "f16"] as const)).flatMap((scale) =>
    ([32, 64, 128] as const).map((group) => ({ code, scale, group })),
  ),
);

/** The largest error of a number of a group, from what its code can tell apart. */
function tolerance({ code, scale }: TileCodecOptions, group: readonly number[]): number {
  const largest = Math.max(...group.map(Math.abs));
  const range = Math.max(...group) - Math.min(...group);
  const coarse = scale === "ue8m0" ? 2 : scale === "f16" ? 1.002 : 1.0001;
  // e4m3 has 3 bits behind the point: a relative error of 2^-4
  if (code === "fp8") return (coarse * largest) / 16;
  if (code === "i8") return (coarse * largest) / 127 / 2;
  if (code === "i4") return (coarse * largest) / 7 / 2;
  return (coarse * range) / 15 / 2 + (scale === "f16" ? largest / 1000 : 0);
}

describe("TileCodec", () => {
  it.each(formats)("$code with $scale scales a $group numbers: exact sizes, small errors, at once and later", async (format) => {
    const codec = new TileCodec(format);
    expect(codec).toMatchObject(format);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 1, max: 300 }), fc.integer(), async (n, columns, seed) => {
        const x = numbers(n * columns, seed);
        const payload = codec.quantiseSync(x, { columns });
        const groups = Math.ceil(columns / codec.group);
        const scaleBytes = { f32: 4, f16: 2, ue8m0: 1 }[codec.scale];
        const codeBytes = codec.code === "i8" || codec.code === "fp8" ? columns : Math.ceil(columns / 2);
        expect(payload.length).toBe(n * (groups * scaleBytes * (codec.code === "i4-zero" ? 2 : 1) + codeBytes));
        expect(codec.byteLength(n, columns)).toBe(payload.length);
        using tensor = Tensor.fromTyped("f32", [n, columns], x);
        for (const input of [x, tensor]) {
          using later = await codec.quantise(input, { columns });
          expect(new Uint8Array(later.toTyped().buffer)).toEqual(payload);
          using back = await codec.dequantise(later, { rows: n, columns });
          expect(back.shape).toEqual([n, columns]);
          expect(back.toFloat32()).toEqual(codec.dequantiseSync(payload, { rows: n, columns }));
        }
        const y = codec.dequantiseSync(payload, { rows: n, columns });
        for (let row = 0; row < n; row++) {
          for (let first = 0; first < columns; first += codec.group) {
            const place = row * columns + first;
            const group = [...x.subarray(place, row * columns + Math.min(columns, first + codec.group))];
            const limit = tolerance(format, group) + 1e-30;
            const errors = group.map((value, i) => Math.abs(at(y, place + i) - value));
            expect(Math.max(...errors)).toBeLessThanOrEqual(limit);
          }
        }
      }),
      runs(12),
    );
  });

  it("gives the codes of plain arithmetic for int8", () => {
    const columns = 200;
    const x = numbers(3 * columns, 5);
    const payload = new TileCodec({ code: "i8", scale: "f32", group: 64 }).quantiseSync(x, { columns });
    const scales = new Float32Array(payload.slice(0, 3 * 4 * 4).buffer);
    const codes = new Int8Array(payload.slice(3 * 4 * 4).buffer);
    for (let row = 0; row < 3; row++) {
      for (let g = 0; g < 4; g++) {
        const group = x.subarray(row * columns + 64 * g, row * columns + Math.min(columns, 64 * g + 64));
        const scale = Math.fround(Math.max(...group.map(Math.abs)) / 127);
        expect(at(scales, row * 4 + g)).toBe(scale);
        group.forEach((value, i) => {
          expect(Math.abs(at(codes, row * columns + 64 * g + i) - value / scale)).toBeLessThanOrEqual(0.5001);
        });
      }
    }
  });

  it("goes to other float types, large inputs go to another thread", async () => {
    const codec = new TileCodec({ code: "fp8" });
    const rows = 4000;
    const columns = 256;
    const x = numbers(rows * columns, 3);
    using payload = await codec.quantise(x, { columns });
    const bytes = new Uint8Array(payload.toTyped().buffer);
    expect(sameBits(bytes, codec.quantiseSync(x, { columns }))).toBe(true);
    const pending = codec.dequantise(bytes, { rows, columns, dtype: "f16" });
    bytes.fill(0); // a job has its own copy
    using half = await pending;
    using whole = await codec.dequantise(payload, { rows, columns });
    using expected = await whole.convert("f16");
    expect(sameBits(half.toTyped(), expected.toTyped())).toBe(true);
    const controller = new AbortController();
    const aborted = codec.quantise(x, { columns, signal: controller.signal });
    controller.abort(new Error("enough"));
    expect(["no error", "Error: enough"]).toContain(await codeOf(() => aborted));
  });

  it("takes payloads from anywhere in a buffer, and an output right behind them", () => {
    const codec = new TileCodec({ code: "i8", scale: "f16" });
    const x = numbers(3, 2);
    const payload = codec.quantiseSync(x, { columns: 3 });
    const buffer = new ArrayBuffer(64);
    const moved = new Uint8Array(buffer, 1, payload.length);
    moved.set(payload);
    const out = codec.dequantiseSync(moved, { rows: 1, columns: 3, out: new Float32Array(buffer, 8, 3) });
    expect(out).toEqual(codec.dequantiseSync(payload, { rows: 1, columns: 3 }));
  });

  it("gives back finite numbers or refuses them", async () => {
    const largest = 3.4028234663852886e38;
    for (const options of formats) {
      const codec = new TileCodec(options);
      for (const x of [Float32Array.of(largest, 1), Float32Array.of(-largest, -3e38), Float32Array.of(2e38, -1e38)]) {
        const code = await codeOf(() => {
          const y = codec.dequantiseSync(codec.quantiseSync(x, { columns: 2 }), { rows: 1, columns: 2 });
          expect(y.every(Number.isFinite)).toBe(true);
        });
        expect(["no error", "ERR_LATENT_NON_FINITE"]).toContain(code);
      }
    }
  });

  it("refuses what it cannot code, and works on afterwards", async () => {
    const options: TileCodecOptions[] = [
      { code: "i5" as never },
      { code: "i8", scale: "ue8m0" },
      { code: "fp8", scale: "f16" },
      { group: 48 as never },
      { groups: 32 } as never,
    ];
    for (const one of options) expect(await codeOf(() => new TileCodec(one))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    const codec = new TileCodec({ scale: "f32" });
    const x = numbers(64, 1);
    const payload = codec.quantiseSync(x, { columns: 64 });
    const long = new Uint8Array(100);
    const shape = { rows: 1, columns: 64 };
    const bad: [string, () => unknown][] = [
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.quantiseSync(x)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.quantiseSync(x, { columns: 0 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.quantiseSync(x, { columns: 63 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.quantiseSync(x, { columns: 64, out: new Uint8Array(67) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.quantiseSync(x, { columns: 64, out: long.subarray(1, 69) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.quantiseSync(x, { columns: 64, out: new Uint8Array(x.buffer, 0, 68) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.quantiseSync(Tensor.zeros([2, 32]), { columns: 64 })],
      ["ERR_LATENT_DTYPE", () => codec.quantiseSync(Tensor.zeros([2, 64], "i32"))],
      ["ERR_LATENT_NON_FINITE", () => codec.quantiseSync(Float32Array.of(1, Infinity), { columns: 1 })],
      ["ERR_LATENT_NON_FINITE", () => codec.quantise(Float32Array.of(1, Number.NaN), { columns: 1 })],
      ["ERR_LATENT_NON_FINITE", () => new TileCodec({ scale: "f16" }).quantiseSync(Float32Array.of(1e30), { columns: 1 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.dequantiseSync(payload.subarray(1), shape)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.dequantiseSync(payload, { rows: 2, columns: 32 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.dequantiseSync(payload, { rows: 2 ** 31, columns: 2 ** 31 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.dequantiseSync(payload, { rows: 2 ** 20, columns: 2 ** 20 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.byteLength(2 ** 31, 2 ** 31)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.dequantiseSync(payload, { ...shape, out: new Float32Array(63) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => codec.dequantiseSync([1] as never, shape)],
      ["ERR_LATENT_DTYPE", () => codec.dequantise(payload, { ...shape, dtype: "i32" })],
      ["ERR_LATENT_DTYPE", () => codec.dequantise(Tensor.zeros([17]), shape)],
    ];
    for (const [code, call] of bad) expect(await codeOf(call)).toBe(code);
    expect(codec.quantiseSync(x, { columns: 64 })).toEqual(payload);
    const disposed = Tensor.zeros([1, 64]);
    disposed.dispose();
    expect(await codeOf(() => codec.quantiseSync(disposed))).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("hadamardTransform", () => {
  it("is the orthonormal transform, and its own inverse", () => {
    for (const [columns, block] of [
      [8, 8],
      [24, 8],
      [128, 64],
      [5, 1],
    ] as const) {
      const x = numbers(2 * columns, columns);
      const y = hadamardTransform(x.slice(), { columns, block });
      for (let i = 0; i < 2 * columns; i++) {
        const start = i - (i % block);
        let sum = 0;
        for (let j = 0; j < block; j++) {
          let ones = 0;
          for (let both = (i % block) & j; both > 0; both >>= 1) ones += both & 1;
          sum += (ones % 2 === 0 ? 1 : -1) * at(x, start + j);
        }
        expect(at(y, i)).toBeCloseTo(sum / Math.sqrt(block), 5);
      }
      hadamardTransform(y, { columns, block }).forEach((value, i) => {
        expect(value).toBeCloseTo(at(x, i), 5);
      });
    }
  });

  it("refuses blocks that are no power of two or do not divide a row", async () => {
    const x = new Float32Array(24);
    for (const options of [
      { columns: 24, block: 16 },
      { columns: 24, block: 3 },
      { columns: 7 },
      { columns: 24, block: 0 },
      { columns: 12.5 },
    ])
      expect(await codeOf(() => hadamardTransform(x, options))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => hadamardTransform([1] as never, { columns: 1 }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});

describe("packBits", () => {
  it("packs any width into exactly its bytes, and back", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 16 }), fc.array(fc.integer({ min: 0, max: 65535 }), { maxLength: 200 }), (bits, list) => {
        const symbols = Uint16Array.from(list, (one) => one & (2 ** bits - 1));
        const packed = packBits(symbols, bits);
        expect(packed.length).toBe(Math.ceil((symbols.length * bits) / 8));
        expect(unpackBits(packed, symbols.length, bits)).toEqual(symbols);
        symbols.forEach((symbol, i) => {
          let read = 0;
          for (let bit = 0; bit < bits; bit++) read |= ((at(packed, (i * bits + bit) >> 3) >> ((i * bits + bit) & 7)) & 1) << bit;
          expect(read).toBe(symbol);
        });
      }),
    );
  });

  it("refuses other sizes", async () => {
    for (const call of [
      () => packBits(new Uint16Array(3), 0),
      () => packBits(new Uint16Array(3), 17),
      () => packBits(new Uint16Array(3), 4, new Uint8Array(3)),
      () => packBits([1] as never, 4),
      () => unpackBits(new Uint8Array(2), 5, 4),
      () => unpackBits(new Uint8Array(2), 4, 4, new Uint16Array(3)),
      () => unpackBits(new Uint8Array(2), -1, 4),
    ])
      expect(await codeOf(call)).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});
