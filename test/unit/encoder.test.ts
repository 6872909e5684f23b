// Encoders of functions that have vectors, with stand-ins for the tensors of transformers.js and onnxruntime and for the arrays of services.
import { describe, expect, it } from "vitest";
import { createEncoder, LatentError, Translator, type Vectors } from "../../lib/index.js";
import { codeOf } from "../helpers.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";
const letters = Array.from("abcdefghij");

/** How often the first d letters stand in each text. */
const counts = (texts: readonly string[], d: number): number[][] =>
  texts.map((text) => Array.from({ length: d }, (_, k) => text.split(letters[k] ?? "").length - 1));

/** As transformers.js and onnxruntime have them: more than the two fields that are read. */
const tensor = (rows: readonly (readonly number[])[], d: number) => ({
  type: "float32",
  dims: [rows.length, d],
  data: Float32Array.from(rows.flat()),
  size: rows.length * d,
  dispose: () => undefined,
});

const texts = ["abba", "cab", "", "dad", "bbc"];

describe("createEncoder", () => {
  const forms: Record<string, (rows: readonly number[][], d: number) => Vectors> = {
    "a tensor of f32": tensor,
    "a tensor of f64": (rows, d) => ({ dims: [rows.length, d], data: Float64Array.from(rows.flat()) }),
    "arrays of numbers": (rows) => rows,
    "typed arrays": (rows) => rows.map((row) => Float32Array.from(row)),
  };

  it.each(Object.keys(forms))("makes rows of %s, in batches, in the order of the texts", async (form) => {
    const sizes: number[] = [];
    const encoder = createEncoder({
      name: "letters",
      dimension: 3,
      batch: 2,
      embed: (some) => {
        sizes.push(some.length);
        return Promise.resolve(forms[form]?.(counts(some, 3), 3) ?? []);
      },
    });
    using rows = await encoder.encode(texts);
    expect(sizes).toEqual([2, 2, 1]);
    expect(rows).toMatchObject({ kind: "pooled", shape: [5, 3], space: encoder.space });
    expect([...rows.tensor().toFloat32()]).toEqual(counts(texts, 3).flat());
    using none = await encoder.encode([]);
    expect(none.shape).toEqual([0, 3]);
  });

  it("has one space for one name and dimension, and another for any other", () => {
    const embed = (): Promise<Vectors> => Promise.resolve([]);
    const spaceOf = (name: string, dimension: number): string => createEncoder({ name, dimension, embed }).space.id;
    expect(spaceOf("a", 3)).toBe(spaceOf("a", 3));
    expect(new Set([spaceOf("a", 3), spaceOf("a", 4), spaceOf("b", 3)]).size).toBe(3);
    expect(createEncoder({ name: "a", dimension: 3, embed }).space).toMatchObject({ layer: "pooled", dimension: 3, positions: "none" });
  });

  it("refuses vectors that are not what it was told, and says what came", async () => {
    const cases: readonly (readonly [unknown, string])[] = [
      [{ dims: [1, 4, 3], data: new Float32Array(12) }, "1 x 4 x 3"],
      [{ dims: [2, 3], data: new Float32Array(6) }, "2 x 3"],
      [{ dims: [1, 3], data: new Float32Array(2) }, "2 numbers"],
      [{ dims: [1, 3], data: new BigInt64Array(3) }, "bigint"],
      [{ dims: [1, 3], data: "abc" }, "no numbers"],
      [{ dims: [1, 3] }, "no numbers"],
      [{ data: new Float32Array(3) }, "without dims"],
      [[[1, 2]], "a vector of 2"],
      [[[1, 2, "3"]], "a string"],
      [["abc"], "no array"],
      [[], "0 vectors"],
      [undefined, "undefined"],
    ];
    for (const [vectors, found] of cases) {
      const encoder = createEncoder({ name: "odd", dimension: 3, embed: () => Promise.resolve(vectors as Vectors) });
      const error: unknown = await encoder.encode(["one"]).catch((thrown: unknown) => thrown);
      expect(LatentError.isInstance(error) && error.code).toBe(bad);
      expect((error as Error).message).toContain(found);
    }
    const encoder = createEncoder({
      name: "odd",
      dimension: 2,
      embed: () =>
        Promise.resolve([
          [1, 2],
          [1, Number.NaN],
        ]),
    });
    const error: unknown = await encoder.encode(["one", "two"]).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "ERR_LATENT_NON_FINITE", message: "the vector of text 1 holds NaN or an infinity" });
  });

  it("refuses options that are none", async () => {
    const embed = (): Promise<Vectors> => Promise.resolve([]);
    const good = { name: "a", dimension: 3, embed };
    type Loose = (options: unknown) => unknown;
    for (const more of [{ name: "" }, { name: 1 }, { dimension: 0 }, { dimension: 1.5 }, { batch: 0 }, { embed: 1 }, { pool: true }])
      expect(await codeOf(() => (createEncoder as Loose)({ ...good, ...more })), JSON.stringify(more)).toBe(bad);
    const encoder = createEncoder(good) as unknown as { encode: (texts: unknown, options?: unknown) => unknown };
    for (const given of ["text", [1], null]) expect(await codeOf(() => encoder.encode(given))).toBe(bad);
    expect(await codeOf(() => encoder.encode([], { batch: 3 }))).toBe(bad);
  });

  it("passes the signal on, ends with its reason, and lets errors through", async () => {
    const reason = new Error("enough");
    const controller = new AbortController();
    const encoder = createEncoder({
      name: "slow",
      dimension: 1,
      batch: 1,
      embed: (_, signal) => {
        expect(signal).toBe(controller.signal);
        controller.abort(reason);
        return Promise.resolve([[1]]);
      },
    });
    await expect(encoder.encode(["a", "b"], { signal: controller.signal })).rejects.toBe(reason);
    const down = new Error("the service is down");
    const failing = createEncoder({ name: "down", dimension: 1, embed: () => Promise.reject(down) });
    await expect(failing.encode(["a"])).rejects.toBe(down);
  });

  it("feeds a translator between two encoders", async () => {
    const many = Array.from({ length: 80 }, (_, i) => letters.map((one, k) => one.repeat(((i * 7 + k * k * (i % 11)) % 5) + 1)).join(""));
    const one = createEncoder({ name: "one", dimension: 5, embed: (some) => Promise.resolve(counts(some, 5)) });
    const turned = (row: readonly number[]): number[] => row.map((_, k) => (row[(k + 1) % row.length] ?? 0) * 2 - 1);
    const other = createEncoder({ name: "other", dimension: 5, embed: (some) => Promise.resolve(counts(some, 5).map(turned)) });
    using a = await one.encode(many);
    using b = await other.encode(many);
    using translator = await Translator.fit({
      pairs: { from: a.tensor(), to: b.tensor() },
      from: a.space,
      to: b.space,
      method: "procrustes",
      onWeak: "warn",
    });
    using there = await translator.translate(a);
    expect(there).toMatchObject({ kind: "pooled", space: other.space });
    const wanted = b.tensor().toFloat32();
    for (const [i, value] of there.tensor().toFloat32().entries()) expect(value).toBeCloseTo(wanted[i] ?? Number.NaN, 3);
  });
});
