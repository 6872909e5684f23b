// Evaluations between two models: the translated arm is what a pipe with a translator does, and its placebos are placebos.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  evaluate,
  fitTranslator,
  gatherPairs,
  loadModel,
  pipe,
  relaySuite,
  relayTexts,
  type EvalTranslators,
  type Model,
} from "../../lib/index.js";
import { parseArm } from "../../lib/eval/arms.js";
import { ModelSubject } from "../../lib/eval/models.js";
import { codeOf } from "../helpers.js";

let finch: Model;
let wren: Model;
let translators: EvalTranslators;
beforeAll(async () => {
  wren = await loadModel(bundledModel("wren"));
  finch = await loadModel(bundledModel("finch"));
  using pairs = await gatherPairs({ from: wren, to: finch, texts: relayTexts(300) });
  const fit = { pairs, method: "ridge", maps: "slot", onWeak: "warn" } as const;
  translators = { fitted: await fitTranslator(fit), shuffled: await fitTranslator({ ...fit, placebo: true }) };
});
afterAll(async () => {
  translators.fitted.dispose();
  translators.shuffled.dispose();
  await wren.dispose();
  await finch.dispose();
});

describe("between two models", () => {
  it("the translated arm answers and counts as a pipe does, with either translator", async () => {
    const suite = relaySuite({ items: 8, seed: 4 });
    const arms = ["latent", "shuffled-translator"].map((name) => parseArm(name, 8, true));
    const signal = new AbortController().signal;
    await using subject = await ModelSubject.create({
      reader: wren,
      solver: finch,
      suite,
      arms,
      translators,
      parallel: 1,
      seed: 0,
      signal,
    });
    const outcomes = await subject.answer({ items: suite.items, others: new Map() }, () => undefined, signal);
    for (const [name, translator] of [
      ["latent", translators.fitted],
      ["shuffled-translator", translators.shuffled],
    ] as const) {
      for (const [i, { facts, question }] of suite.items.entries()) {
        const reader = wren.agent({ name: "reader", user: facts, think: { policy: "hidden", steps: 8 } });
        const solver = finch.agent({ name: "solver", generate: { maxTokens: 12 } });
        const { text, totals } = await pipe(reader, translator, solver).run(question, { notes: "message" });
        expect(outcomes.get(name)?.[i]).toMatchObject({
          answer: text.trim(),
          prefillTokens: totals.prefillTokens,
          latentSteps: totals.latentSteps,
          decodedTokens: totals.decodedTokens,
          bytes: totals.bytes,
        });
      }
    }
  });

  it("what wren reads reaches finch through the translator, and not through its placebo", async () => {
    const { arms, translator, reader, solver, chance } = await evaluate({
      suite: relaySuite({ items: 120, seed: 8 }),
      reader: wren,
      solver: finch,
      translators,
    });
    expect(arms.map(({ arm }) => arm)).toEqual(["single", "text", "latent", "none", "shuffled", "noise", "shuffled-translator"]);
    expect([reader.architecture, solver.architecture]).toEqual(["llama", "qwen3"]);
    expect(translator).toContain("ridge by slot");
    const of = (name: string): readonly [number, number] => arms.find(({ arm }) => arm === name)?.interval ?? [Number.NaN, Number.NaN];
    for (const placebo of ["none", "shuffled", "noise", "shuffled-translator"]) {
      expect(of("latent")[0]).toBeGreaterThan(of(placebo)[1]);
      expect(of(placebo)[0]).toBeLessThan((chance ?? 1) + 0.05);
    }
  });

  it("refuses what the translator cannot carry, before anything is asked", async () => {
    const suite = relaySuite({ items: 8 });
    const both = { suite, reader: wren, solver: finch, translators };
    for (const wrong of [
      { arms: ["latent/hidden4"] },
      { arms: ["latent/tokens"] },
      { steps: 4 },
      { translators: {} },
      { translators: { ...translators, more: 1 } },
    ])
      expect(await codeOf(() => evaluate({ ...both, ...wrong } as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => evaluate({ ...both, arms: ["kv"] }))).toBe("ERR_LATENT_SPACE_MISMATCH");
    // the other way round
    expect(await codeOf(() => evaluate({ ...both, reader: finch, solver: wren }))).toBe("ERR_LATENT_SPACE_MISMATCH");
  });
});
