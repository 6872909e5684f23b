// The evaluation on the bundled models: every arm is what a pipe of the same agents does, and the harness shares, resumes and stops without changing
// that. No accuracy is pinned: models are trained anew.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  evaluate,
  loadModel,
  parseSuite,
  pipe,
  relaySuite,
  rowNorms,
  type EvalResult,
  type ItemRecord,
  type Medium,
  type Model,
  type Outcome,
  type Suite,
  type ThoughtPolicy,
} from "../../lib/index.js";
import { parseArm } from "../../lib/eval/arms.js";
import { ModelSubject } from "../../lib/eval/models.js";
import { noiseRows } from "../../lib/eval/noise.js";
import { at, codeOf } from "../helpers.js";
import { cosine, folder, row } from "./helpers.js";

const never = new AbortController().signal;
let finch: Model;
let wren: Model;
beforeAll(async () => {
  finch = await loadModel(bundledModel("finch"));
  wren = await loadModel(bundledModel("wren"));
});
afterAll(async () => {
  await finch.dispose();
  await wren.dispose();
});

async function outcomesOf(
  suite: Suite,
  names: readonly string[],
  more: { readonly parallel?: number; readonly reader?: Model; readonly solver?: Model } = {},
): Promise<ReadonlyMap<string, readonly Outcome[]>> {
  const arms = names.map((name) => parseArm(name, 8, false));
  const models = { reader: finch, solver: finch, parallel: 1, ...more };
  await using subject = await ModelSubject.create({ ...models, suite, arms, translators: {}, seed: 0, signal: never });
  const facts = [...new Set(suite.items.map((item) => item.facts))];
  const others = new Map(facts.map((one, i) => [one, facts[(i + 1) % facts.length] ?? ""]));
  const outcomes = new Map(names.map((name): [string, Outcome[]] => [name, []]));
  for (let i = 0; i < facts.length; i += models.parallel) {
    const block = facts.slice(i, i + models.parallel);
    const items = suite.items.filter((item) => block.includes(item.facts));
    const made = await subject.answer({ items, others }, () => undefined, never);
    for (const [name, list] of outcomes) list.push(...(made.get(name) ?? []));
  }
  return outcomes;
}

const withoutTimes = (outcome: Outcome): Omit<Outcome, "ms"> => ({ ...outcome, ms: undefined }) as Omit<Outcome, "ms">;
const alone = (outcomes: readonly Outcome[] | undefined) => (outcomes ?? []).map(withoutTimes);

describe("arms", () => {
  const suite = relaySuite({ items: 12, seed: 4 });

  it.each<[string, Medium, ThoughtPolicy]>([
    ["text", "text", { policy: "tokens", maxTokens: 96 }],
    ["text/hidden4", "text", { policy: "hidden", steps: 4 }],
    ["latent", "latent", { policy: "hidden", steps: 8 }],
    ["latent/tokens", "latent", { policy: "tokens", maxTokens: 96 }],
    ["kv/hidden8", "kv", { policy: "hidden", steps: 8 }],
    ["kv/tokens", "kv", { policy: "tokens", maxTokens: 96 }],
  ])("%s answers and counts as a pipe does", async (name, medium, think) => {
    const outcomes = (await outcomesOf(suite, [name])).get(name) ?? [];
    expect(outcomes).toHaveLength(12);
    for (const [i, { facts, question }] of suite.items.entries()) {
      const reader = finch.agent({ name: "reader", user: facts, think, generate: { maxTokens: 96 } });
      const solver = finch.agent({ name: "solver", generate: { maxTokens: 12 } });
      const { text, totals, hops } = await pipe(reader, solver).run(question, { medium, notes: "message" });
      expect(outcomes[i]).toMatchObject({
        answer: text.trim(),
        prefillTokens: totals.prefillTokens,
        latentSteps: totals.latentSteps,
        decodedTokens: totals.decodedTokens,
        bytes: totals.bytes,
        heldBytes: hops[0]?.heldBytes,
      });
    }
  });

  it("of a suite of facts tell agents what to do above what they read, with the note in the solver's message", async () => {
    const item = { facts: "mia has the red key. tom lives in oslo.", question: "where does tom live?", answer: "oslo" };
    const other = { ...item, facts: "ana lives in rome. ben has the blue cup." };
    const suite = parseSuite([item, other].map((one) => JSON.stringify(one)).join("\n"));
    const prompts = { ...suite.prompts, reader: "tell", solver: "answer", noteTokens: 20, answerTokens: 6 };
    for (const medium of ["text", "latent"] as const) {
      const [outcome] = (await outcomesOf({ ...suite, prompts }, [medium])).get(medium) ?? [];
      const think: ThoughtPolicy = medium === "text" ? { policy: "tokens", maxTokens: 20 } : { policy: "hidden", steps: 8 };
      const reader = finch.agent({ name: "reader", user: `tell\n\n${item.facts}`, think });
      const solver = finch.agent({ name: "solver", user: (question) => `answer\n\n${question}`, generate: { maxTokens: 6 } });
      const { text, totals } = await pipe(reader, solver).run(item.question, { medium });
      expect(outcome).toMatchObject({ answer: text.trim(), prefillTokens: totals.prefillTokens, decodedTokens: totals.decodedTokens });
    }
  });

  it("kv answers as one agent that reads everything, to the token", async () => {
    const outcomes = await outcomesOf(suite, ["single", "kv"]);
    const [single, kv] = ["single", "kv"].map((name) => outcomes.get(name) ?? []);
    expect(kv).toHaveLength(12);
    kv?.forEach((outcome, i) => {
      const { answer, prefillTokens, decodedTokens, kvBytes } = single?.[i] as Outcome;
      expect(outcome).toMatchObject({ answer, prefillTokens, decodedTokens, kvBytes, bytes: 0 });
      expect(outcome.heldBytes).toBeGreaterThan(0);
    });
  });

  it("a shuffled arm hands over what was read of the next document", async () => {
    const facts = [...new Set(suite.items.map((item) => item.facts))];
    const other = (own: string): string => facts[(facts.indexOf(own) + 1) % facts.length] ?? "";
    const swapped = { ...suite, items: suite.items.map((item) => ({ ...item, facts: other(item.facts) })) };
    for (const [shuffled, own] of [
      ["shuffled", "latent"],
      ["shuffled:kv", "kv"],
      ["shuffled:text", "text"],
    ] as const) {
      expect(alone((await outcomesOf(suite, [shuffled])).get(shuffled))).toEqual(alone((await outcomesOf(swapped, [own])).get(own)));
    }
  });

  it("none gets nothing, and noise rows without a meaning", async () => {
    const outcomes = await outcomesOf(suite, ["none", "noise"]);
    const [none, noise] = ["none", "noise"].map((name) => outcomes.get(name) ?? []);
    const solver = finch.agent({ name: "solver", generate: { maxTokens: 12 } });
    for (const [i, { question }] of suite.items.entries()) {
      const { text, totals } = await pipe(solver).run(question);
      expect(none?.[i]).toMatchObject({ answer: text.trim(), prefillTokens: totals.prefillTokens, bytes: 0, latentSteps: 0 });
      expect(noise?.[i]).toMatchObject({
        prefillTokens: totals.prefillTokens + 8,
        bytes: 8 * finch.info.embeddingLength * 4,
        latentSteps: 0,
      });
    }
  });

  it("answers side by side are those of one at a time, but for rounding, and their times add up", async () => {
    const many = relaySuite({ items: 60, seed: 9 });
    const names = ["text", "kv", "latent"];
    const one = await outcomesOf(many, names);
    const start = performance.now();
    const four = await outcomesOf(many, names, { parallel: 4 });
    const wall = performance.now() - start;
    for (const name of names) {
      const [a, b] = [alone(one.get(name)), alone(four.get(name))];
      expect(a.filter((outcome, i) => outcome.answer === b[i]?.answer).length).toBeGreaterThan(55);
    }
    const solving = [...four.values()].flat().reduce((sum, { ms }) => sum + ms.solver + ms.handOver, 0);
    expect(solving).toBeLessThan(wall);
    expect(solving).toBeGreaterThan(0);
  });

  it("two models exchange text, and nothing else without a translator", async () => {
    const outcomes = await outcomesOf(suite, ["text"], { reader: wren, solver: finch });
    const [item] = suite.items;
    const reader = wren.agent({ name: "reader", user: item?.facts ?? "", think: { policy: "tokens", maxTokens: 96 } });
    const solver = finch.agent({ name: "solver", generate: { maxTokens: 12 } });
    const { text, totals } = await pipe(reader, solver).run(item?.question ?? "", { medium: "text", notes: "message" });
    expect(outcomes.get("text")?.[0]).toMatchObject({ answer: text.trim(), prefillTokens: totals.prefillTokens });
    for (const name of ["kv", "latent", "shuffled"])
      expect(await codeOf(() => outcomesOf(suite, [name], { reader: wren }))).toBe("ERR_LATENT_SPACE_MISMATCH");
  });
});

describe("noiseRows", () => {
  it("have the norm of latent steps, and directions that a seed and a text draw", async () => {
    const d = finch.info.embeddingLength;
    const values = async (seed: number, text: string): Promise<Float32Array> => {
      using noise = await noiseRows(finch, 8, seed, text, never);
      expect(noise.shape).toEqual([8, d]);
      for (const norm of rowNorms(noise.tensor())) expect(norm).toBeCloseTo(finch.info.alpha, 3);
      return noise.tensor().toFloat32();
    };
    const first = await values(1, "a");
    expect(await values(1, "a")).toEqual(first);
    for (const other of [await values(2, "a"), await values(1, "b")])
      for (let i = 0; i < 8; i++) expect(Math.abs(cosine(row(first, i, d), row(other, i, d)))).toBeLessThan(0.4);
    for (let i = 1; i < 8; i++) expect(Math.abs(cosine(row(first, 0, d), row(first, i, d)))).toBeLessThan(0.4);
    // an even share of both signs: nothing of what the noise was added to is left
    expect(Math.abs(first.reduce((sum, x) => sum + Math.sign(x), 0)) / first.length).toBeLessThan(0.1);
  });
});

describe("evaluate", () => {
  const suite = relaySuite({ items: 40, seed: 2 });
  const table = ({ arms, n, comparisons, verdict }: EvalResult) => ({
    n,
    arms: arms.map(({ ms: _ms, stages: _stages, ...rest }) => rest),
    comparisons,
    verdict: verdict.replace(/[\d.]+x|[\d.e+]+ ms/g, ""),
  });

  it("is repeated to the bit, and resumed without a trace", async () => {
    const whole = await evaluate({ suite, reader: finch });
    expect(whole).toMatchObject({ suite: "relay", n: 40, stopped: "all", translator: null, seed: 0, parallel: 1 });
    expect(whole.arms.map(({ arm }) => arm)).toEqual(["single", "text", "kv", "latent", "none", "shuffled", "noise"]);
    expect(whole.reader).toMatchObject({ architecture: "qwen3", fingerprint: finch.info.fingerprint });
    const documents = new Set(suite.items.map(({ facts }) => facts));
    expect(new Set(whole.examples.map(({ facts }) => facts)).size).toBe(Math.min(6, documents.size));
    const journal = path.join(folder, "eval", "items.jsonl");
    const stop = new AbortController();
    const reason = new Error("killed");
    const onProgress = ({ items }: { readonly items: number }): void => {
      if (items >= 15) stop.abort(reason);
    };
    await expect(evaluate({ suite, reader: finch, journal, signal: stop.signal, onProgress })).rejects.toBe(reason);
    const done = readFileSync(journal, "utf8").trimEnd().split("\n").slice(1);
    expect(done.length).toBeGreaterThanOrEqual(15);
    expect(done.length).toBeLessThan(40);
    // a kill in the middle of a line
    writeFileSync(journal, readFileSync(journal, "utf8").slice(0, -30));
    const resumed = await evaluate({ suite, reader: finch, journal });
    expect(table(resumed).arms).toEqual(table(whole).arms);
    expect(table(resumed).comparisons).toEqual(table(whole).comparisons);
    const kept = readFileSync(journal, "utf8").trimEnd().split("\n").slice(1);
    expect(kept.slice(0, done.length - 1)).toEqual(done.slice(0, -1));
    expect(new Set(kept.map((line) => (JSON.parse(line) as ItemRecord).id)).size).toBe(40);
    expect(await codeOf(() => evaluate({ suite, reader: finch, journal, seed: 1 }))).toBe("ERR_LATENT_EVAL_RESUME");
    expect(await codeOf(() => evaluate({ suite, reader: wren, journal }))).toBe("ERR_LATENT_EVAL_RESUME");
  });

  it("placebos are near chance, and what the reader hands over is not", async () => {
    const { arms, chance, comparisons } = await evaluate({ suite: relaySuite({ items: 200, seed: 6 }), reader: finch });
    const of = (name: string): EvalResult["arms"][number] => {
      const arm = arms.find((one) => one.arm === name);
      if (arm === undefined) throw new Error(name);
      return arm;
    };
    for (const name of ["none", "shuffled", "noise"]) {
      expect(of(name).placebo).toBe(true);
      expect(of(name).interval[0]).toBeLessThan((chance ?? 1) + 0.05);
    }
    expect(of("kv").accuracy).toBe(of("single").accuracy);
    expect(comparisons.find(({ a, b }) => a === "single" && b === "kv")).toMatchObject({ onlyA: 0, onlyB: 0, p: 1 });
    for (const name of ["text", "kv", "latent"]) expect(of(name).interval[0]).toBeGreaterThan(of("none").interval[1]);
    expect(of("text").decodedTokens).toBeGreaterThan(3 * of("kv").decodedTokens);
    expect(of("latent").latentSteps).toBe(8);
  });

  it("evaluates tasks of a user: prompts, with what the agents are told", async () => {
    const lines = ["1 + 1?", "2 + 2?", "3 + 3?"].map((prompt, i) => JSON.stringify({ prompt, check: { number: 2 * i + 2 } }));
    const tasks = parseSuite(`${lines.join("\n")}\n`, "sums");
    const prompts = { reader: "plan", solver: "solve", noteTokens: 8, answerTokens: 4 };
    const { arms, n, verdict } = await evaluate({ suite: tasks, reader: finch, arms: ["kv/hidden4"], prompts });
    expect(n).toBe(3);
    expect(arms.map(({ arm }) => arm)).toEqual(["single", "text", "kv/hidden4", "none", "shuffled", "noise"]);
    const [single, none] = ["single", "none"].map((name) => arms.find(({ arm }) => arm === name));
    expect(none?.prefillTokens).toBe(single?.prefillTokens);
    expect(at([single?.decodedTokens ?? Number.NaN], 0)).toBeLessThanOrEqual(4);
    expect(verdict).toContain("3 items do not show that any medium helps");
  });

  it("between two models has text alone, unless a translator is there", async () => {
    const { arms, reader, solver } = await evaluate({ suite: relaySuite({ items: 12 }), reader: wren, solver: finch });
    expect(arms.map(({ arm, medium }) => [arm, medium])).toEqual([
      ["single", null],
      ["text", "text"],
      ["none", null],
      ["shuffled", "text"],
      ["noise", "latent"],
    ]);
    expect([reader.architecture, solver.architecture]).toEqual(["llama", "qwen3"]);
    for (const asked of ["kv", "latent"])
      expect(await codeOf(() => evaluate({ suite, reader: wren, solver: finch, arms: [asked] }))).toBe("ERR_LATENT_SPACE_MISMATCH");
  });

  it("refuses what it cannot do before anything is asked", async () => {
    const long = parseSuite(`${JSON.stringify({ facts: "a ".repeat(5000), question: "b", answer: "c" })}\n`);
    expect(await codeOf(() => evaluate({ suite: long, reader: finch }))).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    for (const wrong of [
      { reader: {} },
      { solver: null },
      { arms: ["kv/"] },
      { steps: 0 },
      { parallel: 33 },
      { n: 41 },
      { seed: 0.5 },
      { arm: 1 },
      { prompts: { notes: "x" } },
    ])
      expect(await codeOf(() => evaluate({ suite, reader: finch, ...wrong } as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    const aborted = AbortSignal.abort(new Error("no"));
    await expect(evaluate({ suite, reader: finch, signal: aborted })).rejects.toThrow("no");
  });
});
