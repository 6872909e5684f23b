// Transposed tensors as users see them, against one element after the other.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Tensor, transpose, type Dtype, type TensorData } from "../../lib/index.js";
import { at, codeOf, runs } from "../helpers.js";

const arrays = { f32: Float32Array, i32: Int32Array, f16: Uint16Array, bf16: Uint16Array, i8: Int8Array } as const;

function counted(dtype: Dtype, size: number): TensorData {
  return new arrays[dtype](size).map((_, i) => i % 127);
}

function plain(x: TensorData, n: number, m: number, rest: number): TensorData {
  return x.map((_, i) => at(x, (Math.floor(i / rest) % n) * m * rest + Math.floor(i / (rest * n)) * rest + (i % rest)));
}

const sameNumbers = (tensor: Tensor, numbers: TensorData): boolean =>
  Buffer.from(tensor.toTyped().buffer).equals(Buffer.from(numbers.buffer));

describe("transpose", () => {
  it("exchanges the first two axes of every dtype and shape, and back", async () => {
    const extent = fc.integer({ min: 0, max: 70 });
    const shape = fc.tuple(extent, extent, fc.constantFrom([], [3], [0], [8, 4], [64]));
    await fc.assert(
      fc.asyncProperty(shape, fc.constantFrom(...(Object.keys(arrays) as Dtype[])), async ([n, m, rest], dtype) => {
        const elements = rest.reduce((product, one) => product * one, 1);
        const data = counted(dtype, n * m * elements);
        using x = Tensor.fromTyped(dtype, [n, m, ...rest], data);
        using y = await transpose(x);
        expect(y.dtype).toBe(dtype);
        expect(y.shape).toEqual([m, n, ...rest]);
        expect(sameNumbers(y, plain(data, n, m, elements))).toBe(true);
        using back = await transpose(y);
        expect(sameNumbers(back, data)).toBe(true);
      }),
      runs(60),
    );
  });

  it("takes large tensors to other threads", async () => {
    for (const shape of [
      [1500, 8, 128],
      [8, 1500, 128],
      [1100, 1030],
    ]) {
      const [n = 0, m = 0, rest = 1] = shape;
      const data = counted("f16", n * m * rest);
      using x = Tensor.fromTyped("f16", shape, data);
      using y = await transpose(x);
      expect(sameNumbers(y, plain(data, n, m, rest))).toBe(true);
    }
  });

  it("refuses what has no two axes, and stops when told to", async () => {
    expect(await codeOf(() => transpose(Tensor.zeros([3])))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => transpose(Tensor.zeros([])))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => transpose(new Float32Array(4) as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => transpose(Tensor.zeros([1, 1]), { out: 1 } as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    const gone = Tensor.zeros([2, 2]);
    gone.dispose();
    expect(await codeOf(() => transpose(gone))).toBe("ERR_LATENT_DISPOSED");
    const reason = new Error("enough");
    await expect(transpose(Tensor.zeros([2, 2]), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});
