// Files of rows: what NumPy and safetensors write is read, what is damaged in any way is refused, and writing leaves the old file or the new one.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { parseNpy, parseSafetensors, readNpy, readSafetensors, Tensor, writeNpy, writeSafetensors } from "../../lib/index.js";
import { codeOf, numbers, runs } from "../helpers.js";

const folder = mkdtempSync(path.join(os.tmpdir(), "latentwire-files-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
});
const file = (name: string): string => path.join(folder, name);
const format = "ERR_LATENT_FILE_FORMAT";

/** A .npy file as NumPy writes it. */
function npy(descr: string, shape: string, data: ArrayBufferView, version = 1, order = "False"): Buffer {
  const text = `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': (${shape}), }`;
  const first = version === 1 ? 10 : 12;
  const length = Math.ceil((first + text.length + 1) / 64) * 64 - first;
  const header = Buffer.alloc(first + length, " ");
  header.write("\x93NUMPY", 0, "latin1");
  header[6] = version;
  header[7] = 0;
  if (version === 1) header.writeUInt16LE(length, 8);
  else header.writeUInt32LE(length, 8);
  header.write(text, first, "latin1");
  header.write("\n", first + length - 1);
  return Buffer.concat([header, Buffer.from(data.buffer, data.byteOffset, data.byteLength)]);
}

function safetensors(header: string, data: Uint8Array): Buffer {
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
  return Buffer.concat([start, Buffer.from(header), data]);
}

/** Reads to a tensor or refuses with the code of damaged files: nothing else may happen. */
async function isSafe(parse: () => Promise<unknown>): Promise<void> {
  expect(["no error", format]).toContain(await codeOf(parse));
}

describe(".npy", () => {
  it.each([1, 2, 3])("of version %i is read", async (version) => {
    const values = Float32Array.of(1, -2, 3.5, 4, 5, 6);
    const tensor = await parseNpy(npy("<f4", "2, 3", values, version));
    expect(tensor.shape).toEqual([2, 3]);
    expect(tensor.toFloat32()).toEqual(values);
  });

  it("of f64 is rounded, of f16 kept", async () => {
    const doubles = await parseNpy(npy("<f8", "3,", Float64Array.of(0.1, 1e-50, 7)));
    expect(doubles.dtype).toBe("f32");
    expect(doubles.shape).toEqual([3]);
    expect(doubles.toFloat32()).toEqual(Float32Array.of(0.1, 1e-50, 7));
    const halves = await parseNpy(npy("<f2", "2, 1", Uint16Array.of(0x3c00, 0xc000)));
    expect(halves.dtype).toBe("f16");
    expect(halves.toFloat32()).toEqual(Float32Array.of(1, -2));
  });

  it("of no rows, or one number, is read", async () => {
    expect((await parseNpy(npy("<f4", "0, 7", new Float32Array()))).shape).toEqual([0, 7]);
    expect((await parseNpy(npy("<f4", "", Float32Array.of(3)))).shape).toEqual([]);
  });

  it.each([
    ["big-endian numbers", npy(">f4", "1,", new Float32Array(1))],
    ["integers", npy("<i4", "1,", new Float32Array(1))],
    ["objects", npy("|O", "1,", new Float32Array(1))],
    ["Fortran order", npy("<f4", "1, 1", new Float32Array(1), 1, "True")],
    ["fewer numbers than its shape", npy("<f4", "2, 2", new Float32Array(3))],
    ["more numbers than its shape", npy("<f4", "2, 2", new Float32Array(5))],
    ["a shape beyond all memory", npy("<f4", "99999999, 99999999, 99999999", new Float32Array(1))],
    ["a negative extent", npy("<f4", "-1, 4", new Float32Array(1))],
    ["nine dimensions", npy("<f4", "1,1,1,1,1,1,1,1,1", new Float32Array(1))],
    ["code in its header", npy("<f4', 'x': __import__('os')", "1,", new Float32Array(1))],
    ["a name of prototypes", npy("__proto__", "1,", new Float32Array(1))],
    ["another version", Object.assign(npy("<f4", "1,", new Float32Array(1)), { 6: 4 })],
    ["no content", Buffer.alloc(0)],
  ])("with %s is refused", async (_, bytes) => {
    expect(await codeOf(() => parseNpy(bytes))).toBe(format);
  });

  it("cut anywhere is refused, and with any byte flipped it is read or refused", async () => {
    const whole = npy("<f4", "3, 5", numbers(15, 1));
    for (let length = 0; length < whole.length; length++) expect(await codeOf(() => parseNpy(whole.subarray(0, length)))).toBe(format);
    for (let at = 0; at < whole.length; at++) {
      const flipped = Buffer.from(whole);
      flipped[at] = (flipped[at] ?? 0) ^ (1 << (at % 8));
      await isSafe(() => parseNpy(flipped));
    }
  });

  it("is never more than a tensor or an error, whatever the bytes", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 300 }),
        fc.string({ maxLength: 20 }),
        fc.string({ maxLength: 20 }),
        async (data, descr, shape) => {
          await isSafe(() => parseNpy(data));
          await isSafe(() => parseNpy(npy(descr.replace(/[^\x20-\x7e]/g, ""), shape.replace(/[^\x20-\x7e]/g, ""), data)));
        },
      ),
      runs(300),
    );
  });

  it("comes back as it was written", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(6), { maxLength: 4 }), fc.constantFrom("f32" as const, "f16" as const), async (shape, dtype) => {
        const count = shape.reduce((product, extent) => product * extent, 1);
        using plain = Tensor.fromTyped("f32", shape, numbers(count, count + 1));
        using tensor = await plain.convert(dtype);
        await writeNpy(file("round.npy"), tensor);
        using again = await readNpy(file("round.npy"));
        expect(again.shape).toEqual(shape);
        expect(again.dtype).toBe(dtype);
        expect(again.toTyped()).toEqual(tensor.toTyped());
      }),
      runs(40),
    );
  });

  it("does not touch the array it is read from, at any offset", async () => {
    const bytes = npy("<f4", "2, 2", Float32Array.of(1, 2, 3, 4));
    const shifted = new Uint8Array(bytes.length + 3);
    shifted.set(bytes, 3);
    const before = shifted.slice();
    expect((await parseNpy(shifted.subarray(3))).toFloat32()).toEqual(Float32Array.of(1, 2, 3, 4));
    expect(shifted).toEqual(before);
  });

  it("that cannot be opened, and what cannot be written, are named", async () => {
    expect(await codeOf(() => readNpy(file("nowhere.npy")))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => readNpy(folder))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => readNpy(7 as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => parseNpy("bytes" as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    using integers = Tensor.fromTyped("i32", [1], Int32Array.of(1));
    expect(await codeOf(() => writeNpy(file("i.npy"), integers))).toBe("ERR_LATENT_DTYPE");
    using one = Tensor.zeros([1]);
    expect(await codeOf(() => writeNpy(path.join(folder, "no", "where.npy"), one))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});

describe("safetensors", () => {
  const one = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}';
  const data = new Uint8Array(Float32Array.of(1, 2).buffer);

  it("are read with their texts, whatever the order of their header", async () => {
    const header =
      '{"b":{"dtype":"I8","shape":[3],"data_offsets":[8,11]},"__metadata__":{"k":"v"},"a":{"shape":[2],"dtype":"F32","data_offsets":[0,8]},' +
      '"e":{"dtype":"F16","shape":[0],"data_offsets":[8,8]}}   ';
    const { tensors, metadata } = await parseSafetensors(safetensors(header, Buffer.concat([data, Uint8Array.of(1, 254, 3)])));
    expect(tensors.get("a")?.toTyped()).toEqual(Float32Array.of(1, 2));
    expect(tensors.get("b")?.toTyped()).toEqual(Int8Array.of(1, -2, 3));
    expect(tensors.get("e")?.shape).toEqual([0]);
    expect([...metadata]).toEqual([["k", "v"]]);
  });

  it.each([
    ["a gap", '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', data],
    ["an overlap", one.replace("}}", '},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'), Buffer.concat([data, data])],
    ["bytes behind the last", one, Buffer.concat([data, data])],
    ["bytes missing", one, data.subarray(0, 7)],
    ["offsets that are not the shape", one.replace("[2]", "[3]"), data],
    ["a shape that is no integer", one.replace("[2]", "[1.5]"), data],
    ["a negative extent", one.replace("[2]", "[-2]"), data],
    ["a product beyond all numbers", one.replace("[2]", "[9007199254740991,9007199254740991]"), data],
    ["an unknown type", one.replace("F32", "U64"), data],
    ["no type", one.replace("dtype", "type"), data],
    ["a tensor that is a list", '{"a":[1]}', new Uint8Array()],
    ["a header that is a list", "[1]", new Uint8Array()],
    ["a header that is no JSON", "{", new Uint8Array()],
    ["metadata that is no text", '{"__metadata__":{"a":1}}', new Uint8Array()],
    ["metadata that is no object", '{"__metadata__":null}', new Uint8Array()],
  ])("with %s are refused", async (_, header, bytes) => {
    expect(await codeOf(() => parseSafetensors(safetensors(header, bytes)))).toBe(format);
  });

  it("with a header longer than the file are refused, without asking for its memory", async () => {
    const bytes = safetensors(one, data);
    for (const length of [2n ** 64n - 1n, 2n ** 40n, BigInt(bytes.length)]) {
      bytes.writeBigUInt64LE(length);
      expect(await codeOf(() => parseSafetensors(bytes))).toBe(format);
    }
  });

  it("cut anywhere are refused, and with any byte flipped they are read or refused", async () => {
    const whole = safetensors(one, data);
    for (let length = 0; length < whole.length; length++)
      expect(await codeOf(() => parseSafetensors(whole.subarray(0, length)))).toBe(format);
    for (let at = 0; at < whole.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        const flipped = Buffer.from(whole);
        flipped[at] = (flipped[at] ?? 0) ^ (1 << bit);
        await isSafe(() => parseSafetensors(flipped));
      }
    }
  });

  it("are never more than tensors or an error, whatever the header", async () => {
    await fc.assert(
      fc.asyncProperty(fc.json(), fc.uint8Array({ maxLength: 40 }), async (header, bytes) => {
        await isSafe(() => parseSafetensors(safetensors(header, bytes)));
        await isSafe(() => parseSafetensors(safetensors(`{"a":${header}}`, bytes)));
        await isSafe(() => parseSafetensors(safetensors(`{"a":{"dtype":"F32","shape":${header},"data_offsets":[0,8]}}`, data)));
        await isSafe(() => parseSafetensors(bytes));
      }),
      runs(300),
    );
  });

  it("come back as they were written, and the same content is the same bytes", async () => {
    const tensors = new Map([
      ["w", Tensor.fromTyped("f32", [2, 3], numbers(6, 1))],
      ["__proto__", Tensor.fromTyped("i32", [2], Int32Array.of(-1, 7))],
      ["empty", Tensor.zeros([0, 4])],
      ["h", Tensor.fromTyped("bf16", [2], Uint16Array.of(0x3f80, 0x4000))],
    ]);
    await writeSafetensors(file("a.safetensors"), tensors, new Map([["who", "ümläut"]]));
    await writeSafetensors(file("b.safetensors"), new Map([...tensors].reverse()), new Map([["who", "ümläut"]]));
    expect(readFileSync(file("a.safetensors"))).toEqual(readFileSync(file("b.safetensors")));
    const read = await readSafetensors(file("a.safetensors"));
    expect([...read.tensors.keys()].sort()).toEqual([...tensors.keys()].sort());
    for (const [name, tensor] of tensors) {
      expect(read.tensors.get(name)?.shape).toEqual(tensor.shape);
      expect(read.tensors.get(name)?.toTyped()).toEqual(tensor.toTyped());
    }
    expect(read.metadata.get("who")).toBe("ümläut");
  });

  it("that fail to be written leave the old file as it was, and nothing beside it", async () => {
    const target = file("kept.safetensors");
    writeFileSync(target, "old");
    const gone = Tensor.zeros([2]);
    gone.dispose();
    expect(await codeOf(() => writeSafetensors(target, new Map([["a", gone]])))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => writeSafetensors(target, new Map([["a", 1 as never]])))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(readFileSync(target, "utf8")).toBe("old");
    // a folder in the way: the move is what fails
    expect(await codeOf(() => writeSafetensors(folder, new Map()))).not.toBe("no error");
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
    expect(readdirSync(path.dirname(folder)).filter((name) => name.startsWith(path.basename(folder)) && name.endsWith(".tmp"))).toEqual([]);
  });
});
