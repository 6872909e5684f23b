// A loaded model as an encoder, and translators that have an encoder at one end.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  createEncoder,
  fitTranslator,
  gatherPairs,
  loadModel,
  modelEncoder,
  type Encoder,
  type Model,
} from "../../lib/index.js";
import { isAborted } from "../helpers.js";
import { cosine, norm } from "../plain.js";
import { worldDocuments } from "../world.js";
import { codeOf, floats, row } from "./helpers.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";
const texts = worldDocuments(120, 5).map(({ text }) => text);

let wren: Model;
let finch: Model;
beforeAll(async () => {
  wren = await loadModel(bundledModel("wren"));
  finch = await loadModel(bundledModel("finch"));
});
afterAll(async () => {
  await Promise.all([wren.dispose(), finch.dispose()]);
});

const rowsOf = async (encoder: Encoder, some: readonly string[]): Promise<number[][]> => {
  using latent = await encoder.encode(some);
  const [n, d] = latent.shape;
  const values = latent.tensor().toFloat32();
  return Array.from({ length: n }, (_, i) => [...row(values, i, d)]);
};

describe("modelEncoder", () => {
  it("gives the mean of the states of all tokens, or the last one's, of length 1 unless told otherwise", async () => {
    const some = texts.slice(0, 12);
    const d = wren.info.embeddingLength;
    const rows = {
      mean: await rowsOf(modelEncoder(wren, { unit: false }), some),
      last: await rowsOf(modelEncoder(wren, { pooling: "last", unit: false }), some),
      unit: await rowsOf(modelEncoder(wren), some),
    };
    await using pool = await wren.createPool({ contextLength: 256, maxSequences: 1 });
    for (const [i, text] of some.entries()) {
      await using sequence = pool.sequence();
      const tokens = wren.tokenize(text, { special: true });
      const states = await sequence.prefill(tokens, { hidden: "all" });
      const values = await floats(states?.tensor() ?? expect.fail("no states"));
      const mean = Array.from({ length: d }, (_, k) => {
        let sum = 0;
        for (let t = 0; t < tokens.length; t++) sum += values[t * d + k] ?? Number.NaN;
        return sum / tokens.length;
      });
      const last = [...row(values, tokens.length - 1, d)];
      for (const [name, wanted] of Object.entries({ mean, last, unit: mean })) {
        const found = rows[name as keyof typeof rows][i] ?? [];
        // read beside other texts, the order of sums differs a little
        expect(cosine(found, wanted), name).toBeGreaterThan(0.9999);
        expect(norm(found), name).toBeCloseTo(name === "unit" ? 1 : norm(wanted), 1);
      }
    }
  });

  it("has a space of its own for each way of pooling, which no model takes as input", async () => {
    const spaces = [modelEncoder(wren), modelEncoder(wren, { pooling: "last" }), modelEncoder(wren, { unit: false }), modelEncoder(finch)];
    expect(new Set([wren.space.id, wren.hiddenSpace.id, ...spaces.map(({ space }) => space.id)]).size).toBe(6);
    expect(modelEncoder(wren).space.id).toBe(modelEncoder(wren, { pooling: "mean", unit: true }).space.id);
    using rows = await modelEncoder(wren).encode(texts.slice(0, 2));
    expect(rows.kind).toBe("pooled");
    await using pool = await wren.createPool({ contextLength: 256, maxSequences: 1 });
    expect(await codeOf(() => pool.sequence().prefill(rows))).toBe("ERR_LATENT_SPACE_MISMATCH");
  });

  it("reads what looks like a special token as text", async () => {
    const end = wren.piece(wren.info.eos);
    expect(wren.tokenize(end)).toHaveLength(1);
    const text = `ana ${end}`;
    let spelled: Int32Array;
    try {
      spelled = wren.tokenize(text, { special: true, parseSpecial: false });
    } catch {
      // this vocabulary cannot spell it: then it is refused rather than read as the token
      expect(await codeOf(() => modelEncoder(wren).encode([text]))).toBe(bad);
      return;
    }
    const [found = []] = await rowsOf(modelEncoder(wren, { pooling: "last" }), [text]);
    await using pool = await wren.createPool({ contextLength: 256, maxSequences: 1 });
    const state = await pool.sequence().prefill(spelled, { hidden: "last" });
    expect(cosine(found, [...(await floats(state?.tensor() ?? expect.fail("no state")))])).toBeGreaterThan(0.9999);
  });

  it("takes no text for no rows, and refuses what it cannot read", async () => {
    const encoder = modelEncoder(wren);
    using none = await encoder.encode([]);
    expect(none.shape).toEqual([0, wren.info.embeddingLength]);
    const long = Array.from({ length: wren.info.contextLength + 1 }, () => "ana").join(" ");
    const error: unknown = await encoder.encode(["ana", long]).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "ERR_LATENT_CONTEXT_OVERFLOW", details: { text: 1 } });
    if (!wren.info.addBos) expect(await codeOf(() => encoder.encode(["ana", ""]))).toBe(bad);
    type Loose = (...args: readonly unknown[]) => unknown;
    const make = modelEncoder as Loose;
    for (const args of [[1], [wren, { pooling: "max" }], [wren, { unit: 1 }], [wren, { normalise: true }]])
      expect(await codeOf(() => make(...args))).toBe(bad);
    for (const given of ["text", [1], null]) expect(await codeOf(() => (encoder.encode as Loose)(given))).toBe(bad);
    const closed = await loadModel(bundledModel("wren"));
    const gone = modelEncoder(closed);
    await closed.dispose();
    expect(await codeOf(() => gone.encode(["ana"]))).toBe("ERR_LATENT_DISPOSED");
  });

  it("ends with the reason of an abort", async () => {
    const reason = new Error("enough");
    expect(await isAborted((options) => modelEncoder(finch).encode(texts, options), reason, 5)).toBe(true);
  });
});

describe("a translator with an encoder at one end", () => {
  // as another library would have it
  const outside = (): Encoder => {
    const inside = modelEncoder(finch);
    const { dimension } = inside.space;
    return createEncoder({
      name: "finch, mean",
      dimension,
      embed: async (some) => {
        using rows = await inside.encode(some);
        return { dims: [some.length, dimension], data: rows.tensor().toFloat32() };
      },
    });
  };

  it("turns vectors into rows that the model takes as input", async () => {
    const encoder = outside();
    const stages = new Set<string>();
    using translator = await fitTranslator({
      from: encoder,
      to: wren,
      texts,
      method: "ridge",
      onProgress: ({ stage, ratio }) => {
        expect(ratio).toBeLessThanOrEqual(1);
        stages.add(stage);
      },
    });
    expect([...stages]).toEqual(expect.arrayContaining(["encoding from", "reading by wren-f16"]));
    expect(translator.card).toMatchObject({ from: encoder.space, to: wren.space, dimensions: [192, 128] });
    expect(translator.report?.verdict).toMatch(/^(good|fair)$/);
    using rows = await encoder.encode(texts.slice(0, 3));
    using input = await translator.translate(rows);
    expect(input.kind).toBe("embeds");
    expect(norm([...row(input.tensor().toFloat32(), 1, 128)])).toBeCloseTo(wren.info.alpha, 4);
    await using pool = await wren.createPool({ contextLength: 256, maxSequences: 1 });
    const sequence = pool.sequence();
    await sequence.prefill(input);
    expect(sequence.length).toBe(3);
    // rows of the encoder itself are none of the model's
    expect(await codeOf(() => sequence.prefill(rows))).toBe("ERR_LATENT_SPACE_MISMATCH");
  });

  it("maps one encoder's vectors to another's, of whatever length they are", async () => {
    using pairs = await gatherPairs({ from: modelEncoder(wren), to: outside(), texts });
    expect(pairs).toMatchObject({ slots: 1, texts: 120, length: undefined });
    using translator = await fitTranslator({ pairs, method: "ridge" });
    expect(translator.report?.verdict).toMatch(/^(good|fair)$/);
  });

  it("has one row a text, and checks what encoders give", async () => {
    const encoder = outside();
    expect(await codeOf(() => gatherPairs({ from: encoder, to: wren, texts, gather: "slots" }))).toBe(bad);
    expect(await codeOf(() => gatherPairs({ from: encoder, to: wren, texts, think: { policy: "hidden", steps: 4 } }))).toBe(bad);
    using last = await gatherPairs({ from: encoder, to: wren, texts: texts.slice(0, 9), gather: "last" });
    expect(last.to.shape).toEqual([9, 128]);
    const short: Encoder = { space: encoder.space, encode: (some, options) => encoder.encode(some.slice(1), options) };
    expect(await codeOf(() => gatherPairs({ from: short, to: wren, texts }))).toBe(bad);
    const foreign: Encoder = { space: encoder.space, encode: (some, options) => modelEncoder(finch).encode(some, options) };
    expect(await codeOf(() => gatherPairs({ from: wren, to: foreign, texts }))).toBe("ERR_LATENT_SPACE_MISMATCH");
    expect(await codeOf(() => gatherPairs({ from: wren, to: { space: encoder.space } as unknown as Encoder, texts }))).toBe(bad);
  });
});
