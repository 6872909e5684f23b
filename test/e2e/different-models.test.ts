// Two bundled models of different families: a translator between them is fitted on what both make of the same texts, stands in a pipe, and is held against
// one that was fitted on shuffled pairs. What the models can is not pinned, only that it is far above the placebo.
import { writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  fitTranslator,
  gatherPairs,
  loadModel,
  pipe,
  Tensor,
  Translator,
  type Agent,
  type GatherPairsOptions,
  type LatentPairs,
  type Model,
  type PipeOptions,
  type RunEvent,
} from "../../lib/index.js";
import { isAborted } from "../helpers.js";
import { norm } from "../plain.js";
import { worldDocuments } from "../world.js";
import { codeOf, floats, folder, row } from "./helpers.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";
const steps = 8;
const texts = worldDocuments(400, 1).map((document) => document.text);
const unseen = worldDocuments(10, 2).filter((document) => !texts.includes(document.text));

let wren: Model;
let finch: Model;
let pairs: LatentPairs;
let translator: Translator;

beforeAll(async () => {
  wren = await loadModel(bundledModel("wren"));
  finch = await loadModel(bundledModel("finch"));
  pairs = await gatherPairs({ from: wren, to: finch, texts });
  translator = await fitTranslator({ pairs, method: "ridge", maps: "slot" });
});
afterAll(async () => {
  translator.dispose();
  pairs.dispose();
  await Promise.all([wren.dispose(), finch.dispose()]);
});

const reader = (text: string, thoughts = steps): Agent =>
  wren.agent({ name: "reader", user: text, think: { policy: "hidden", steps: thoughts }, generate: { maxTokens: 48 } });
const solver = (): Agent => finch.agent({ name: "solver", generate: { maxTokens: 12 } });

/** How many questions about unseen documents are answered right, of how many. */
async function score(between: Translator): Promise<{ right: number; all: number }> {
  let [right, all] = [0, 0];
  for (const { text, questions } of unseen) {
    for (const { text: question, answer } of questions) {
      const run = await pipe(reader(text), between, solver()).run(question, { notes: "message" });
      if (run.text.trim() === answer) right++;
      all++;
    }
  }
  return { right, all };
}

describe("pairs", () => {
  it("are rows of both models that each could take itself", async () => {
    expect(pairs).toMatchObject({ slots: steps, texts: 400, length: finch.info.alpha });
    for (const [latent, model] of [
      [pairs.from, wren],
      [pairs.to, finch],
    ] as const) {
      const d = model.info.embeddingLength;
      expect(latent.shape).toEqual([400 * steps, d]);
      expect(latent.space.id).toBe(model.space.id);
      await using pool = await model.createPool({ contextLength: 256, maxSequences: 1 });
      const sequence = pool.sequence();
      await sequence.prefill([{ role: "user", content: texts[7] ?? "" }], { hidden: "last" });
      const alone = await floats((await sequence.think({ steps })).tensor());
      const gathered = latent
        .tensor()
        .toFloat32()
        .subarray(7 * steps * d, 8 * steps * d);
      // read beside other texts, the order of sums differs a little
      for (let k = 0; k < steps; k++) {
        const [a, b] = [[...row(alone, k, d)], [...row(gathered, k, d)]];
        expect(norm(b)).toBeCloseTo(model.info.alpha, 4);
        expect(norm(a.map((value, j) => value - (b[j] ?? 0))) / model.info.alpha).toBeLessThan(2e-2);
      }
    }
  });

  it.each(["last", "mean"] as const)("of gather '%s' have one row a text, and make a translator for any number of rows", async (gather) => {
    using single = await gatherPairs({ from: wren, to: finch, texts: texts.slice(0, 60), gather });
    expect(single.from.shape).toEqual([60, wren.info.embeddingLength]);
    const lengths = single.to.tensor().toFloat32();
    expect(norm([...row(lengths, 3, finch.info.embeddingLength)])).toBeCloseTo(finch.info.alpha, 4);
    using one = await fitTranslator({ pairs: single, method: "ridge", onWeak: "warn" });
    expect(one.card.slots).toBeUndefined();
    using moved = await one.translate(pairs.from);
    expect(moved.shape).toEqual([400 * steps, finch.info.embeddingLength]);
  });

  it("of the first step are what gather 'last' gives", async () => {
    using last = await gatherPairs({ from: wren, to: finch, texts: texts.slice(0, 8), gather: "last" });
    using first = await gatherPairs({ from: wren, to: finch, texts: texts.slice(0, 8), think: { policy: "hidden", steps: 1 } });
    const [a, b] = [last.from.tensor().toFloat32(), first.from.tensor().toFloat32()];
    expect(Math.max(...a.map((value, i) => Math.abs(value - (b[i] ?? Number.NaN))))).toBeLessThan(1e-2);
  });

  it("leave out blank texts and repetitions, and take what comes in time", async () => {
    const lines = [...texts.slice(0, 8), "", "  ", texts[0] ?? ""];
    using few = await gatherPairs({
      from: wren,
      to: finch,
      texts: (async function* () {
        yield* lines;
      })(),
      gather: "last",
    });
    expect(few.texts).toBe(8);
  });

  it("tell what is wrong", async () => {
    const asked = (options: Readonly<Record<string, unknown>>): Promise<string> =>
      codeOf(() => gatherPairs({ from: wren, to: finch, texts, ...options }));
    expect(await asked({ texts: texts.slice(0, 7) })).toBe(bad);
    expect(await asked({ texts: [1, 2, 3] })).toBe(bad);
    expect(await asked({ texts: 5 })).toBe(bad);
    expect(await asked({ from: "wren" })).toBe(bad);
    expect(await asked({ gather: "middle" })).toBe(bad);
    expect(await asked({ gather: "mean", think: { policy: "hidden", steps: 8 } })).toBe(bad);
    expect(await asked({ think: { policy: "hidden", steps: 0 } })).toBe(bad);
    expect(await asked({ think: { policy: "tokens" } })).toBe(bad);
    expect(await asked({ prompt: "no function" })).toBe(bad);
    expect(await asked({ onProgress: 1 })).toBe(bad);
    expect(await asked({ colour: 1 })).toBe(bad);
    expect(await asked({ texts: [...texts, "mia has the red key. ".repeat(4000)] })).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    const gone = await loadModel(bundledModel("wren"));
    await gone.dispose();
    expect(await asked({ from: gone })).toBe("ERR_LATENT_DISPOSED");
  });

  it("stop where the signal says so, and leave nothing running", async () => {
    const reason = new Error("enough");
    expect(await isAborted(({ signal }) => gatherPairs({ from: wren, to: finch, texts: texts.slice(0, 40), signal }), reason, 5)).toBe(
      true,
    );
  });
});

describe("a translator between models", () => {
  it("knows its spaces, says what it is worth, and makes rows of the receiver's length", async () => {
    const { card, report } = translator;
    expect(card).toMatchObject({ method: "ridge", slots: steps, maps: "slot" });
    expect(card.from?.id).toBe(wren.space.id);
    expect(card.to?.id).toBe(finch.space.id);
    expect(report?.verdict).not.toBe("unusable");
    expect(report?.heldOut.count).toBe(80 * steps);
    expect(report?.heldOut.mrr).toBeGreaterThan(3 * (report?.null.mrr ?? 1));
    using rows = await translator.translate(pairs.from);
    const values = rows.tensor().toFloat32();
    for (const i of [0, 9, 77]) expect(norm([...row(values, i, finch.info.embeddingLength)])).toBeCloseTo(finch.info.alpha, 4);
    expect(await codeOf(() => translator.translate(pairs.to))).toBe("ERR_LATENT_SPACE_MISMATCH");
  });

  it("answers questions about texts that only the other model has read, far more than a placebo", async () => {
    using placebo = await fitTranslator({ pairs, method: "ridge", maps: "slot", placebo: true });
    expect(placebo.card.placebo).toBe(true);
    expect(placebo.report?.verdict).toBe("unusable");
    const [own, chance] = [await score(translator), await score(placebo)];
    expect(own.all).toBeGreaterThan(40);
    expect(own.right).toBeGreaterThan(2 * chance.right + 4);
  });

  it("is fitted in one call, with progress, and auto finds a way that is not worse", async () => {
    const stages: string[] = [];
    const ratios: number[] = [];
    using all = await fitTranslator({
      from: wren,
      to: finch,
      texts: texts.slice(0, 120),
      onProgress: ({ stage, ratio }) => {
        stages.push(stage);
        ratios.push(ratio);
      },
    });
    expect(stages.join()).toMatch(/reading by wren.*reading by finch.*trying ridge \(slot\).*done/);
    expect(ratios.at(-1)).toBe(1);
    expect([...ratios].sort((a, b) => a - b)).toEqual(ratios);
    const tried = all.report?.tried ?? [];
    expect(new Set(tried.map(({ maps }) => maps))).toEqual(new Set(["shared", "slot", "flat"]));
    expect(tried[0]).toMatchObject({ method: all.card.method });
    expect(tried[0]?.cosine).toBe(Math.max(...tried.map(({ cosine }) => cosine)));
  });

  it("refuses what it is not made for", async () => {
    expect(await codeOf(() => fitTranslator({ pairs: "none" as unknown as LatentPairs }))).toBe(bad);
    expect(await codeOf(() => fitTranslator({ pairs, slots: 3 } as unknown as { pairs: LatentPairs }))).toBe(bad);
    expect(await codeOf(() => fitTranslator({ from: wren, to: finch, texts, length: 3 } as unknown as GatherPairsOptions))).toBe(bad);
    expect(await codeOf(() => fitTranslator({ pairs, method: "ridge", placebo: true, onWeak: "throw" }))).toBe(
      "ERR_LATENT_TRANSLATOR_WEAK",
    );
  });
});

describe("a pipe across models", () => {
  const { text = "", questions = [] } = unseen[0] ?? {};
  const question = questions[0]?.text ?? "";

  it("reports the translator with the hop, in the events and at the end", async () => {
    const events: RunEvent[] = [];
    const stream = pipe(reader(text), translator, solver()).stream(question);
    for await (const event of stream) events.push(event);
    const { hops, totals } = await stream.answer;
    expect(events[0]).toMatchObject({ type: "run-start", media: ["latent"] });
    expect(hops).toHaveLength(1);
    expect(hops[0]).toMatchObject({ medium: "latent", positions: steps, bytes: steps * wren.info.embeddingLength * 4 });
    const { heldOut, verdict } = translator.report ?? {};
    expect(hops[0]?.translator).toEqual({
      method: "ridge",
      slots: steps,
      maps: "slot",
      quality: { retrieval1: heldOut?.retrieval1, mrr: heldOut?.mrr, cosine: heldOut?.cosine },
      verdict,
      used: "latents",
    });
    expect(events).toContainEqual({ type: "hop-end", hop: hops[0] });
    expect(totals.latentSteps).toBe(steps);
  });

  it("is the same as translating by hand", async () => {
    const run = await pipe(reader(text), translator, solver()).run(question);
    await using from = await wren.createPool({ contextLength: 512, maxSequences: 2 });
    const sender = from.sequence();
    await sender.prefill([{ role: "user", content: text }], { hidden: "last" });
    using thought = await sender.think({ steps });
    using rows = await translator.translate(thought);
    await using to = await finch.createPool({ contextLength: 512, maxSequences: 2 });
    const receiver = to.sequence();
    await receiver.prefill(rows);
    await receiver.prefill([{ role: "user", content: question }]);
    expect((await receiver.generate({ maxTokens: 12 }).result).text).toBe(run.text);
  });

  it("goes over three agents, each hop by its own way", async () => {
    const middle = finch.agent({ name: "middle", think: { policy: "hidden", steps: 2 } });
    const row = pipe(reader(text), translator, middle, solver());
    expect(row.agents.map(({ name }) => name)).toEqual(["reader", "middle", "solver"]);
    expect(row.translators).toEqual([translator, undefined]);
    const { hops } = await row.run(question);
    expect(hops.map(({ medium }) => medium)).toEqual(["latent", "kv"]);
    expect(hops[1]?.translator).toBeUndefined();
  });

  it("throws without a translator, unless text is asked for", async () => {
    for (const options of [{}, { medium: "kv" }, { medium: "latent" }] as const)
      expect(await codeOf(() => pipe(reader(text), solver()).run(question, options))).toBe("ERR_LATENT_SPACE_MISMATCH");
    const { hops } = await pipe(reader(text), solver()).run(question, { medium: "text" });
    expect(hops[0]?.medium).toBe("text");
    const asked = await pipe(reader(text), translator, solver()).run(question, { medium: "text" });
    expect(asked.hops[0]).toMatchObject({ medium: "text", translator: { used: "none" } });
  });

  it("sends text where the translator is of no use and its maker said so, and declares it", async () => {
    using useless = await fitTranslator({ pairs, method: "ridge", maps: "slot", placebo: true, onWeak: "text" });
    const events: RunEvent[] = [];
    const stream = pipe(reader(text), useless, solver()).stream(question);
    for await (const event of stream) events.push(event);
    const { hops } = await stream.answer;
    expect(events[0]).toMatchObject({ media: ["text"] });
    expect(hops[0]).toMatchObject({ medium: "text", positions: 0, translator: { used: "text", verdict: "unusable", placebo: true } });
    expect(hops[0]?.decodedTokens).toBeGreaterThan(0);
    expect(await codeOf(() => useless.translate(pairs.from))).toBe("ERR_LATENT_TRANSLATOR_WEAK");
  });

  it("hands over nothing of a thought without steps", async () => {
    using shared = await fitTranslator({ pairs, method: "ridge", maps: "shared" });
    const { hops } = await pipe(reader(text, 0), shared, solver()).run(question);
    expect(hops[0]).toMatchObject({ medium: "latent", positions: 0, bytes: 0 });
    const tokens = wren.agent({ name: "writer", user: text, think: { policy: "tokens", maxTokens: 3 } });
    expect((await pipe(tokens, shared, solver()).run(question)).hops[0]?.positions).toBeGreaterThan(0);
  });

  it("refuses rows of stages that make no sense, before anything runs", async () => {
    const [a, b] = [reader(text), solver()];
    const run = (...stages: unknown[]): Promise<string> => codeOf(() => pipe(...(stages as [Agent, Translator, Agent])).run(question));
    expect(await run(translator, a)).toBe(bad);
    expect(await run(a, translator)).toBe(bad);
    expect(await run(a, translator, translator, b)).toBe(bad);
    expect(await run(a, "finch", b)).toBe(bad);
    expect(await run(b, translator, a)).toBe("ERR_LATENT_SPACE_MISMATCH");
    expect(await run(a, translator, a)).toBe("ERR_LATENT_SPACE_MISMATCH");
    const chosen = (options: PipeOptions, thoughts = steps): Promise<string> =>
      codeOf(() => pipe(reader(text, thoughts), translator, b).run(question, options));
    expect(await chosen({ medium: "kv" })).toBe(bad);
    expect(await chosen({ medium: ["latent", "latent"] })).toBe(bad);
    expect(await chosen({}, 4)).toBe(bad);
    const rows = Tensor.fromTyped(
      "f32",
      [20, 3],
      Float32Array.from({ length: 60 }, (_, i) => Math.sin(i * i)),
    );
    using homeless = await Translator.fit({ pairs: { from: rows, to: rows }, method: "procrustes" });
    expect(await run(a, homeless, b)).toBe(bad);
    const gone = await fitTranslator({ pairs, method: "ridge", maps: "shared" });
    gone.dispose();
    expect(await run(a, gone, b)).toBe("ERR_LATENT_DISPOSED");
  });

  it("works the same with a translator that was saved and loaded", async () => {
    const file = path.join(folder, "wren-finch.safetensors");
    await translator.save(file);
    using loaded = await Translator.load(file);
    expect(loaded.card).toEqual(JSON.parse(JSON.stringify(translator.card)));
    const [before, after] = [
      await pipe(reader(text), translator, solver()).run(question),
      await pipe(reader(text), loaded, solver()).run(question),
    ];
    expect(after.text).toBe(before.text);
    writeFileSync(file, "damaged");
    expect(await codeOf(() => Translator.load(file))).toBe("ERR_LATENT_FILE_FORMAT");
  });
});
