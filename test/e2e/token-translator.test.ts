// W_cross between models whose vocabularies overlap: a planted map is found by the strings of tokens, whatever their numbers are.
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  Latent,
  loadModel,
  pipe,
  Tensor,
  tokenTranslator,
  type Model,
  type TokenTranslatorOptions,
} from "../../lib/index.js";
import { tinyModel, writeGguf, type GgufParts } from "../fixtures/gguf.js";
import { cosine, norm, randomRows, times } from "../plain.js";
import { codeOf, folder } from "./helpers.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";
const [dx, dy, vocabulary] = [8, 12, 400];
const planted = randomRows(dx, dy, 3);

let from: Model;
let to: Model;
let stranger: Model;

const tokensOf = (parts: GgufParts): string[] => {
  const entry = parts.metadata.get("tokenizer.ggml.tokens");
  return entry?.type === "array" && entry.of === "string" ? [...entry.value] : expect.fail("no tokens");
};
const matrixOf = (parts: GgufParts, name: string): Float32Array => {
  const data = parts.tensors.find((tensor) => tensor.name === name)?.data ?? expect.fail(name);
  return new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4);
};
async function written(name: string, parts: GgufParts): Promise<Model> {
  const file = path.join(folder, name);
  writeGguf(file, parts);
  return loadModel(file);
}

// strings that both have, but for bytes that are no characters, whose rows in `to` have nothing to do with those in `from`
let shared = 0;

beforeAll(async () => {
  const shape = { heads: 2, kvHeads: 1, headDim: 4, layers: 1, vocabSize: vocabulary };
  const sender = tinyModel({ ...shape, width: dx, tied: false, seed: 1 });
  const receiver = tinyModel({ ...shape, width: dy, headDim: 6, seed: 2 });
  const strings = tokensOf(sender);
  // the receiver has other tokens in the place of the first unused ones, and those that both have in reverse
  const others = strings.map((text, id) => (id < 300 ? (id < 272 ? text : `<other${id}>`) : (strings[699 - id] ?? "")));
  receiver.metadata.set("tokenizer.ggml.tokens", { type: "array", of: "string", value: others });
  // llama.cpp spells no token of the type "unused"
  const types = strings.map((_, id) => (id < 4 ? 3 : 1));
  for (const parts of [sender, receiver]) parts.metadata.set("tokenizer.ggml.token_type", { type: "array", of: "i32", value: types });
  const output = matrixOf(sender, "output.weight");
  const input = matrixOf(receiver, "token_embd.weight");
  for (const [id, text] of others.entries()) {
    const token = strings.indexOf(text);
    const isByte = id >= 4 && id < 260;
    if (token < 0 || (isByte && id - 4 >= 128)) continue;
    shared++;
    const row = [...output.subarray(token * dx, (token + 1) * dx)];
    input.set(times([row], planted)[0] ?? [], id * dy);
  }
  from = await written("sender.gguf", sender);
  to = await written("receiver.gguf", receiver);
  const foreign = tinyModel({ ...shape, width: dx, seed: 4 });
  const renamed = tokensOf(foreign).map((_, id) => `<foreign${id}>`);
  foreign.metadata.set("tokenizer.ggml.tokens", { type: "array", of: "string", value: renamed });
  stranger = await written("stranger.gguf", foreign);
});
afterAll(async () => {
  for (const model of [from, to, stranger]) await model.dispose();
});

describe("tokenTranslator", () => {
  it("finds the map between the output rows of the one and the input rows of the other, by strings", async () => {
    using translator = await tokenTranslator({ from, to, lambda: 1e-9 });
    const { card, report } = translator;
    expect(card).toMatchObject({ method: "linear-ridge", from: from.space, to: to.space, dimensions: [dx, dy] });
    expect(shared).toBe(4 + 128 + 12 + 100);
    expect(report?.count).toBe(shared - Math.round(0.2 * shared));
    expect(report?.heldOut).toMatchObject({ retrieval1: 1, mrr: 1 });
    expect(report?.verdict).toBe("good");
    for (const factor of [1, 1000]) {
      const rows = randomRows(5, dx, 9).map((row) => row.map((value) => factor * value));
      using given = new Latent(from.space, "embeds", Tensor.fromTyped("f32", [5, dx], Float32Array.from(rows.flat())));
      using made = await translator.translate(given);
      expect(made).toMatchObject({ kind: "embeds", space: to.space });
      const values = made.tensor().toFloat32();
      for (const [i, wanted] of times(rows, planted).entries()) {
        const row = [...values.subarray(i * dy, (i + 1) * dy)];
        // the length of a row of the sender says nothing
        expect(cosine(row, wanted)).toBeGreaterThan(1 - 1e-6);
        expect(norm(row) / to.info.alpha).toBeCloseTo(1, 5);
      }
    }
  });

  it("stands in a pipe", async () => {
    using translator = await tokenTranslator({ from, to });
    const reader = from.agent({ name: "reader", think: { policy: "hidden", steps: 3 } });
    const { hops } = await pipe(reader, translator, to.agent({ name: "solver", generate: { maxTokens: 2 } })).run("the inn");
    expect(hops).toMatchObject([{ medium: "latent", positions: 3, translator: { method: "linear-ridge", used: "latents" } }]);
  });

  it("takes the input rows of the sender where it is told to, which here have nothing to do with the receiver's", async () => {
    expect(await codeOf(() => tokenTranslator({ from, to, rows: "input" }))).toBe("ERR_LATENT_TRANSLATOR_WEAK");
    using warned = await tokenTranslator({ from, to, rows: "input", onWeak: "warn" });
    expect(warned.report?.verdict).toBe("unusable");
    using placebo = await tokenTranslator({ from, to, placebo: true });
    expect(placebo).toMatchObject({ card: { placebo: true }, report: { verdict: "unusable" } });
  });

  it("is of little use between the bundled models, most of whose tokens were never trained, and says so", async () => {
    await using wren = await loadModel(bundledModel("wren"));
    await using finch = await loadModel(bundledModel("finch"));
    using translator = await tokenTranslator({ from: wren, to: finch, onWeak: "text" });
    expect(translator.report?.verdict).not.toBe("good");
    const solver = finch.agent({ name: "solver", generate: { maxTokens: 8 } });
    const reader = wren.agent({ name: "reader", user: "mia lives in oslo.", think: { policy: "hidden", steps: 8 } });
    const { hops } = await pipe(reader, translator, solver).run("where does mia live?");
    expect(hops[0]?.medium).toBe(translator.report?.verdict === "unusable" ? "text" : "latent");
  });

  it("refuses vocabularies that share next to nothing, and options that are none", async () => {
    expect(await codeOf(() => tokenTranslator({ from, to: stranger }))).toBe(bad);
    expect(await codeOf(() => tokenTranslator({ from: stranger, to }))).toBe(bad);
    for (const more of [{ rows: "both" }, { from: 1 }, { to: null }, { method: "ridge" }, { lambda: -1 }, { texts: [] }])
      expect(await codeOf(() => tokenTranslator({ from, to, ...more } as TokenTranslatorOptions)), JSON.stringify(more)).toBe(bad);
    const reason = new Error("enough");
    await expect(tokenTranslator({ from, to, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});
