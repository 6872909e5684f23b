// Tensors as users see them: what goes in comes out, and every bad value is an error that names it.
import { describe, expect, it } from "vitest";
import { Tensor } from "../../lib/tensor.js";
import type { Dtype, TensorData } from "../../lib/tensor.js";

const samples: readonly (readonly [Dtype, TensorData, readonly number[]])[] = [
  ["f32", Float32Array.of(1.5, -2, Infinity, 0, 5, 6), [1.5, -2, Infinity, 0, 5, 6]],
  ["f16", Uint16Array.of(0x3c00, 0xc000, 0x7c00, 0x0001, 0x7bff, 0), [1, -2, Infinity, 2 ** -24, 65504, 0]],
  ["bf16", Uint16Array.of(0x3f80, 0xc000, 0x7f80, 0x0001, 0, 0x4040), [1, -2, Infinity, 2 ** -133, 0, 3]],
  ["i8", Int8Array.of(-128, 127, 0, 1, 2, 3), [-128, 127, 0, 1, 2, 3]],
  ["i32", Int32Array.of(-(2 ** 31), 2 ** 24, 0, 1, 2, 3), [-(2 ** 31), 2 ** 24, 0, 1, 2, 3]],
];

/** Calls with values that the types forbid. */
function untyped(dtype: unknown, shape: unknown, data?: unknown): Tensor {
  return Tensor.fromTyped(dtype as Dtype, shape as number[], data as TensorData);
}

describe("Tensor", () => {
  it.each(samples)("keeps %s", (dtype, data, floats) => {
    using tensor = Tensor.fromTyped(dtype, [2, 3], data);
    expect(tensor.dtype).toBe(dtype);
    expect(tensor.shape).toEqual([2, 3]);
    expect(tensor.byteLength).toBe(data.byteLength);
    expect(tensor.toTyped()).toEqual(data);
    expect(tensor.toFloat32()).toEqual(Float32Array.from(floats));
    const target = data.slice().fill(0);
    tensor.copyTo(target);
    expect(target).toEqual(data);
    const bytes = new DataView(new ArrayBuffer(data.byteLength + 3), 3, data.byteLength); // unaligned
    tensor.copyTo(bytes);
    using again = Tensor.fromTyped(dtype, [6], bytes);
    expect(again.toTyped()).toEqual(data);
  });

  it("copies: later changes of the source, or its transfer, do not reach it", () => {
    const data = Float32Array.of(1, 2);
    using tensor = Tensor.fromTyped("f32", [2], data);
    data.fill(9);
    structuredClone(data.buffer, { transfer: [data.buffer] });
    expect(tensor.toTyped()).toEqual(Float32Array.of(1, 2));
    tensor.toTyped().fill(7);
    expect(tensor.toTyped()).toEqual(Float32Array.of(1, 2));
  });

  it("takes a view of a shared buffer, and a part of a buffer", () => {
    const shared = new Float32Array(new SharedArrayBuffer(8));
    shared.set([3, 4]);
    using one = Tensor.fromTyped("f32", [2], shared);
    expect([...one.toTyped()]).toEqual([3, 4]);
    using two = Tensor.fromTyped("f32", [2], Float32Array.of(0, 1, 2, 3).subarray(1, 3));
    expect([...two.toTyped()]).toEqual([1, 2]);
  });

  it("may be a scalar, empty, or zero", () => {
    using scalar = Tensor.fromTyped("f32", [], Float32Array.of(5));
    expect(scalar.shape).toEqual([]);
    using empty = Tensor.fromTyped("i8", [0, 4], new Int8Array());
    expect(empty.byteLength).toBe(0);
    expect(empty.toTyped()).toEqual(new Int8Array());
    expect(empty.toFloat32()).toEqual(new Float32Array());
    using zeros = Tensor.zeros([2, 2]);
    expect(zeros.toTyped()).toEqual(new Float32Array(4));
    expect(Tensor.zeros([3], "i8").toTyped()).toEqual(new Int8Array(3));
  });

  it("has a shape that nobody can change", () => {
    using tensor = Tensor.zeros([2]);
    expect(() => (tensor.shape as number[]).push(1)).toThrow(TypeError);
  });

  it.each([
    ["f64", [1], new Float64Array(1), "ERR_LATENT_DTYPE", /'f32', 'f16', 'bf16', 'i8' or 'i32', got 'f64'/],
    [undefined, [1], Float32Array.of(1), "ERR_LATENT_DTYPE", /got undefined/],
    ["f32", 4, new Float32Array(4), "ERR_LATENT_INVALID_ARGUMENT", /shape must be an array/],
    ["f32", [-1], new Float32Array(1), "ERR_LATENT_INVALID_ARGUMENT", /shape\[0\]/],
    ["f32", [2, 1.5], new Float32Array(3), "ERR_LATENT_INVALID_ARGUMENT", /shape\[1\]/],
    ["f32", [NaN], new Float32Array(1), "ERR_LATENT_INVALID_ARGUMENT", /shape\[0\]/],
    ["f32", ["1"], new Float32Array(1), "ERR_LATENT_INVALID_ARGUMENT", /shape\[0\]/],
    ["f32", [1n], new Float32Array(1), "ERR_LATENT_INVALID_ARGUMENT", /shape\[0\]/],
    ["f32", [2 ** 53], new Float32Array(1), "ERR_LATENT_INVALID_ARGUMENT", /shape\[0\]/],
    ["f32", Array(9).fill(1), new Float32Array(1), "ERR_LATENT_INVALID_ARGUMENT", /at most 8/],
    ["f32", [2], new Float32Array(3), "ERR_LATENT_INVALID_ARGUMENT", /12 bytes.*f32 \[2\] has 8/],
    ["f32", [2], new Float64Array(2), "ERR_LATENT_INVALID_ARGUMENT", /Float32Array or a DataView/],
    ["f16", [2], new Float32Array(2), "ERR_LATENT_INVALID_ARGUMENT", /Uint16Array or a DataView/],
    ["f32", [2], [1, 2], "ERR_LATENT_INVALID_ARGUMENT", /data/],
    ["f32", [2], new ArrayBuffer(8), "ERR_LATENT_INVALID_ARGUMENT", /data/],
    ["f32", [2], null, "ERR_LATENT_INVALID_ARGUMENT", /data/],
    ["f32", [2], undefined, "ERR_LATENT_INVALID_ARGUMENT", /data is missing/],
    ["f32", [2 ** 40], new Float32Array(1), "ERR_LATENT_OUT_OF_MEMORY", /1 TiB/],
    ["i8", [2 ** 32, 2 ** 32], new Int8Array(0), "ERR_LATENT_OUT_OF_MEMORY", /1 TiB/],
  ])("refuses dtype %s, shape %s, data %s", (dtype, shape, data, code, message) => {
    expect(() => untyped(dtype, shape, data)).toThrow(message);
    expect(() => untyped(dtype, shape, data)).toThrow(expect.objectContaining({ name: "LatentError", code }));
  });

  it("refuses a detached source", () => {
    const data = new Float32Array(2);
    structuredClone(data.buffer, { transfer: [data.buffer] });
    expect(() => Tensor.fromTyped("f32", [2], data)).toThrow(expect.objectContaining({ code: "ERR_LATENT_INVALID_ARGUMENT" }));
  });

  it("refuses a target of another type or size", () => {
    using tensor = Tensor.zeros([2]);
    for (const target of [new Float32Array(1), new Float32Array(3), new Int32Array(2), new DataView(new ArrayBuffer(7)), {} as never]) {
      expect(() => {
        tensor.copyTo(target);
      }).toThrow(expect.objectContaining({ code: "ERR_LATENT_INVALID_ARGUMENT" }));
    }
  });

  it("has its memory as long as one of its handles", () => {
    const tensor = Tensor.fromTyped("f32", [2, 2], Float32Array.of(1, 2, 3, 4));
    const alias = tensor.alias();
    expect(alias).toMatchObject({ dtype: "f32", shape: [2, 2], byteLength: 16 });
    tensor.dispose();
    expect(alias.disposed).toBe(false);
    const second = alias.alias();
    alias.dispose();
    expect([...second.toFloat32()]).toEqual([1, 2, 3, 4]);
    second.dispose();
    expect(() => second.alias()).toThrow(expect.objectContaining({ code: "ERR_LATENT_DISPOSED" }));
  });

  it("is disposed once and then says so, but keeps its description", async () => {
    const tensor = Tensor.zeros([2]);
    expect(tensor.disposed).toBe(false);
    tensor.dispose();
    tensor.dispose();
    expect(tensor.disposed).toBe(true);
    expect(tensor.shape).toEqual([2]);
    const disposed: unknown = expect.objectContaining({ name: "LatentError", code: "ERR_LATENT_DISPOSED" });
    expect(() => tensor.toTyped()).toThrow(disposed);
    expect(() => tensor.toFloat32()).toThrow(disposed);
    expect(() => {
      tensor.copyTo(new Float32Array(2));
    }).toThrow(disposed);
    await expect(tensor.convert("f16")).rejects.toEqual(disposed);
  });
});

describe("convert", () => {
  it("rounds to nearest, ties to even", async () => {
    using tensor = Tensor.fromTyped("f32", [4], Float32Array.of(1 + 2 ** -11, 1 + 3 * 2 ** -11, 65520, NaN));
    using half = await tensor.convert("f16");
    expect(half.toTyped()).toEqual(Uint16Array.of(0x3c00, 0x3c02, 0x7c00, 0x7e00));
    using wide = await half.convert("f32");
    expect(wide.toTyped()).toEqual(Float32Array.of(1, 1 + 2 ** -9, Infinity, NaN));
  });

  it("finishes though its source is disposed meanwhile", async () => {
    const tensor = Tensor.fromTyped("f32", [1 << 20], new Float32Array(1 << 20).fill(2));
    const converting = tensor.convert("bf16");
    tensor.dispose();
    using brain = await converting;
    expect(brain.toFloat32().every((value) => value === 2)).toBe(true);
  });

  it("refuses integers and unknown types", async () => {
    using tensor = Tensor.zeros([2]);
    await expect(tensor.convert("i8")).rejects.toMatchObject({ name: "LatentError", code: "ERR_LATENT_DTYPE" });
    await expect(tensor.convert("f64" as Dtype)).rejects.toMatchObject({ name: "LatentError", code: "ERR_LATENT_DTYPE" });
  });

  it("obeys its signal", async () => {
    using tensor = Tensor.zeros([1 << 22]);
    const reason = new Error("no longer needed");
    await expect(tensor.convert("f16", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});
