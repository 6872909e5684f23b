// The conformance list for latent hand-over between agents of one model: which state is fed back, what a sequence grows by, that a chain equals one
// pass, that batch-mates and seeds change nothing, and that what is saved, forked or cut behaves as it must. Items 1 to 5 are arithmetic and are
// tested in test/native/alignment_test.cpp.
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel, Latent, loadModel, pipe, team, Tensor, type Model, type Pool, type Sequence } from "../../lib/index.js";
import { tinyModel as parts, writeGguf } from "../fixtures/gguf.js";
import { argmax, codeOf, cosine, filled, floats, folder, greedy, klDivergence, maxAbsDifference, norm, row, tinyModel } from "./helpers.js";

const factsA = "<|user|> mia has the red key. tom lives in oslo.<|end|><|assistant|>";
const factsB = "<|user|> zoe has the blue coin. ben lives in lima. ann has the old map.<|end|><|assistant|>";
const question = "<|user|> where does tom live?<|end|><|assistant|>";

let model: Model;
let pool: Pool;

beforeAll(async () => {
  model = await loadModel(bundledModel());
  pool = await model.createPool({ maxSequences: 32, contextLength: 4096 });
});
afterAll(async () => {
  await pool.dispose();
  await model.dispose();
});

it("2. a tied model has no alignment matrix: the aligned path is the identity path, bit for bit", async () => {
  expect(await model.alignment()).toBeNull();
  const [a, b] = [await filled(pool, factsA), await filled(pool, factsA)];
  const plain = await floats((await a.think({ steps: 4 })).tensor());
  const aligned = await floats((await b.think({ steps: 4, align: true })).tensor());
  expect(aligned).toEqual(plain);
  await a.dispose();
  await b.dispose();
});

it("1. an untied model's alignment satisfies the normal equations, is cached, and changes the thought", async () => {
  await using untied = await tinyModel({ architecture: "llama", tied: false, width: 64, vocabSize: 300 });
  const w = await untied.alignment();
  const again = await untied.alignment();
  if (w === null || again === null) throw new Error("an untied model must have an alignment");
  expect(again.toFloat32()).toEqual(w.toFloat32());
  const [input, output] = [await untied.matrix("input"), await untied.matrix("output")];
  if (output === null || input === null) throw new Error("an untied model has two matrices");
  const [wi, wo, map] = [input.toFloat32(), output.toFloat32(), w.toFloat32()];
  const [vocabulary = 0, d = 0] = input.shape;
  const product = (a: Float32Array, b: Float32Array): Float64Array => {
    const out = new Float64Array(d * d);
    for (let v = 0; v < vocabulary; v++) {
      for (let i = 0; i < d; i++) {
        for (let j = 0; j < d; j++) out[i * d + j] = (out[i * d + j] ?? 0) + (a[v * d + i] ?? 0) * (b[v * d + j] ?? 0);
      }
    }
    return out;
  };
  const gram = product(wo, wo);
  const cross = product(wo, wi);
  let residual = 0;
  let size = 0;
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < d; j++) {
      let sum = 1e-5 * (map[i * d + j] ?? 0);
      for (let k = 0; k < d; k++) sum += (gram[i * d + k] ?? 0) * (map[k * d + j] ?? 0);
      residual += (sum - (cross[i * d + j] ?? 0)) ** 2;
      size += (cross[i * d + j] ?? 0) ** 2;
    }
  }
  expect(Math.sqrt(residual / size)).toBeLessThan(1e-5);
  await using own = await untied.createPool();
  const [a, b] = [await filled(own, factsA), await filled(own, factsA)];
  const plain = await floats((await a.think({ steps: 2 })).tensor());
  const aligned = await floats((await b.think({ steps: 2, align: true })).tensor());
  expect(maxAbsDifference(plain, aligned)).toBeGreaterThan(1e-3);
});

it("3, 4. a latent is the hidden state rescaled to the mean norm of the input rows", async () => {
  const sequence = await filled(pool, factsA);
  const h = await floats(sequence.hidden());
  const e = await floats((await sequence.think({ steps: 1 })).tensor());
  expect(cosine(e, h)).toBeGreaterThan(1 - 1e-6);
  expect(Math.abs(norm(e) - model.info.alpha) / model.info.alpha).toBeLessThan(1e-5);
  const input = await model.matrix("input");
  const rows = await floats(input ?? Tensor.zeros([0]));
  const d = model.info.embeddingLength;
  let mean = 0;
  for (let v = 0; v < model.info.vocabularySize; v++) mean += norm(row(rows, v, d)) / model.info.vocabularySize;
  expect(Math.abs(model.info.alpha - mean) / mean).toBeLessThan(1e-5);
  await sequence.dispose();
});

it("6. the hidden state is the one that the output matrix reads: it reproduces the logits", async () => {
  await using untied = await tinyModel({ architecture: "llama", tied: false });
  for (const each of [model, untied]) {
    await using own = await each.createPool({ kvType: "f32" });
    const sequence = await filled(own, factsA);
    const h = await floats(sequence.hidden());
    const logits = await floats(sequence.logits());
    const matrix = await floats((await each.matrix("output")) ?? (await each.matrix("input")) ?? Tensor.zeros([0]));
    const d = each.info.embeddingLength;
    const own_logits = Float32Array.from(logits, (_, v) => row(matrix, v, d).reduce((sum, x, i) => sum + x * (h[i] ?? 0), 0));
    expect(argmax(own_logits)).toBe(argmax(logits));
    expect(cosine(own_logits, logits)).toBeGreaterThan(0.9999);
    expect(maxAbsDifference(own_logits, logits)).toBeLessThan(2e-2);
  }
});

it("6. the state before the final norm does not reproduce the logits", async () => {
  // a final norm with uneven weights: dividing by them gives the state as it was before they were applied
  const { metadata, tensors } = parts({ architecture: "llama", tied: false });
  const gain = tensors.find((tensor) => tensor.name === "output_norm.weight");
  if (gain === undefined) throw new Error("the tiny model has no final norm");
  const weights = new Float32Array(gain.data.buffer, gain.data.byteOffset, gain.data.byteLength / 4);
  weights.forEach((_, i) => (weights[i] = 0.2 + (i % 7)));
  const file = path.join(folder, "uneven-norm.gguf");
  writeGguf(file, { metadata, tensors });
  await using uneven = await loadModel(file);
  await using own = await uneven.createPool({ kvType: "f32" });
  const sequence = await filled(own, factsA);
  const h = await floats(sequence.hidden());
  const logits = await floats(sequence.logits());
  const matrix = await floats((await uneven.matrix("output")) ?? Tensor.zeros([0]));
  const read = (state: Float32Array): Float32Array =>
    logits.map((_, v) => row(matrix, v, h.length).reduce((sum, x, i) => sum + x * (state[i] ?? 0), 0));
  expect(maxAbsDifference(read(h), logits)).toBeLessThan(1e-3);
  expect(argmax(read(h))).toBe(argmax(logits));
  expect(cosine(read(h.map((x, i) => x / (weights[i] ?? 1))), logits)).toBeLessThan(0.99);
});

it("7. P tokens and m latents grow the sequence by exactly P + m", async () => {
  const before = pool.counters();
  const sequence = pool.sequence();
  const tokens = model.tokenize(factsA);
  await sequence.prefill(tokens, { hidden: "last" });
  await sequence.think({ steps: 5 });
  expect(sequence.length).toBe(tokens.length + 5);
  expect(sequence.nextPosition).toBe(tokens.length + 5);
  const after = pool.counters();
  expect(after.prefillTokens - before.prefillTokens).toBe(tokens.length);
  expect(after.latentSteps - before.latentSteps).toBe(5);
  expect(after.refreshedPositions).toBe(before.refreshedPositions);
  await sequence.dispose();
});

it("8. nothing stands between one agent's latents and the next agent's prompt", async () => {
  const sequence = pool.sequence();
  const [first, second] = [model.tokenize(factsA), model.tokenize(question)];
  await sequence.prefill(first, { hidden: "last" });
  await sequence.think({ steps: 3 });
  await sequence.prefill(question);
  expect([...sequence.log()]).toEqual([...first, -1, -1, -1, ...second]);
  await sequence.dispose();
});

describe("9. a chain of agents equals one pass over the concatenated rows", () => {
  async function chainAndPass(each: Model): Promise<{ chain: Float32Array; pass: Float32Array; sameArgmax: boolean }> {
    await using exact = await each.createPool({ kvType: "f32", contextLength: 512 });
    const chain = exact.sequence();
    const first = each.tokenize(factsA);
    const second = each.tokenize(question);
    await chain.prefill(first, { hidden: "last" });
    const latents = await chain.think({ steps: 8 });
    await chain.prefill(second, { hidden: "last" });

    const d = each.info.embeddingLength;
    const rows = new Float32Array((first.length + 8 + second.length) * d);
    rows.set(await floats(each.inputRows(first)));
    rows.set(latents.tensor().toFloat32(), first.length * d);
    rows.set(await floats(each.inputRows(second)), (first.length + 8) * d);
    const single = exact.sequence();
    await single.prefill(Tensor.fromTyped("f32", [rows.length / d, d], rows), { hidden: "last" });
    const sameArgmax = argmax(await floats(chain.logits())) === argmax(await floats(single.logits()));
    return { chain: await floats(chain.hidden()), pass: await floats(single.hidden()), sameArgmax };
  }

  // weights and cache are f32, but llama.cpp's flash attention rounds a tile of many rows otherwise than a single row: 2e-3 on states of norm 8
  it("with f32 weights to 5e-3 and a cosine of 0.999999", async () => {
    await using exact = await tinyModel({ architecture: "llama", contextLength: 1024 });
    const { chain, pass, sameArgmax } = await chainAndPass(exact);
    expect(maxAbsDifference(chain, pass)).toBeLessThanOrEqual(5e-3);
    expect(cosine(chain, pass)).toBeGreaterThan(0.999999);
    expect(sameArgmax).toBe(true);
  });

  // the same comparison without that rounding: two rows a call, so the chain and the pass run through the same kernels
  it("to 1e-5 when both are decoded in calls of the same shape", async () => {
    await using exact = await tinyModel({ architecture: "llama", contextLength: 1024 });
    await using narrow = await exact.createPool({ kvType: "f32", contextLength: 512, maxSequences: 1, batch: 2 });
    const first = exact.tokenize(factsA);
    const second = exact.tokenize(question);
    const chain = narrow.sequence();
    await chain.prefill(first, { hidden: "last" });
    const latents = await chain.think({ steps: 8 });
    await chain.prefill(second, { hidden: "last" });
    const [chainState, chainLog] = [await floats(chain.hidden()), [...chain.log()]];
    await chain.dispose();
    const single = narrow.sequence();
    const d = exact.info.embeddingLength;
    const rows = new Float32Array((first.length + 8 + second.length) * d);
    rows.set(await floats(exact.inputRows(first)));
    rows.set(latents.tensor().toFloat32(), first.length * d);
    rows.set(await floats(exact.inputRows(second)), (first.length + 8) * d);
    await single.prefill(Tensor.fromTyped("f32", [rows.length / d, d], rows), { hidden: "last" });
    expect(single.length).toBe(chainLog.length);
    expect(maxAbsDifference(chainState, await floats(single.hidden()))).toBeLessThanOrEqual(1e-5);
  });

  it("with f16 weights to a cosine of 0.9999", async () => {
    const { chain, pass, sameArgmax } = await chainAndPass(model);
    expect(cosine(chain, pass)).toBeGreaterThan(0.9999);
    expect(sameArgmax).toBe(true);
  });
});

it("10. sampler seeds change the words and never the latents", async () => {
  const runs = [];
  for (const seed of [1, 2]) {
    const sequence = await filled(pool, factsA);
    const latents = await floats((await sequence.think({ steps: 4 })).tensor());
    const state = await sequence.save();
    const words = (await sequence.generate({ maxTokens: 24, temperature: 2, topK: 0, topP: 1, minP: 0, seed }).result).tokens;
    runs.push({ latents, state, words });
    await sequence.dispose();
  }
  expect(runs[0]?.latents).toEqual(runs[1]?.latents);
  expect(Buffer.compare(Buffer.from(runs[0]?.state ?? []), Buffer.from(runs[1]?.state ?? []))).toBe(0);
  expect(runs[0]?.words).not.toEqual(runs[1]?.words);
});

it("11. sequences of different length thinking in one batch get the latents they get alone", async () => {
  const texts = ["<|user|> mia", factsB];
  const alone = [];
  for (const text of texts) {
    const sequence = await filled(pool, text);
    alone.push(await floats((await sequence.think({ steps: 6 })).tensor()));
    await sequence.dispose();
  }
  const sequences = await Promise.all(texts.map((text) => filled(pool, text)));
  const together = await Promise.all(sequences.map(async (sequence) => floats((await sequence.think({ steps: 6 })).tensor())));
  const d = model.info.embeddingLength;
  for (const [i, latents] of together.entries()) {
    for (let step = 0; step < 6; step++) expect(cosine(row(latents, step, d), row(alone[i] ?? latents, step, d))).toBeGreaterThan(0.9999);
  }
  await Promise.all(sequences.map((sequence) => sequence.dispose()));
});

it("12. with m = 0 the last agent inherits the prompts, or in latentmas mode starts from nothing, and the mode is reported", async () => {
  const a = model.agent({ name: "a", user: "mia has the red key.", think: { policy: "hidden", steps: 0 } });
  const b = model.agent({ name: "b", generate: { maxTokens: 4 } });
  for (const compat of ["none", "latentmas"] as const) {
    const inherited: number[] = [];
    const stream = pipe(a, b).stream("who has the red key?", { compat });
    for await (const event of stream) {
      if (event.type === "run-start") expect(event.compat).toBe(compat);
      if (event.type === "agent-start") inherited.push(event.inherited);
    }
    const prompt = model.tokenize(model.renderChat([{ role: "user", content: "mia has the red key." }])).length;
    expect(inherited).toEqual(compat === "none" ? [0, prompt] : [0, 0]);
  }
});

describe("13. cutting", () => {
  it("latents alone, re-anchored, give the logits of the whole sequence with the dropped rows masked", async () => {
    const whole = await filled(pool, factsA);
    await whole.think({ steps: 8 });
    const prompt = whole.length - 8;
    const masked = await whole.fork();
    await masked.drop({ from: 0, to: prompt }, { positions: "keep" });
    expect(masked.contiguous).toBe(false);
    expect(masked.nextPosition).toBe(prompt + 8);
    await whole.drop({ from: 0, to: prompt });
    expect([...whole.log()]).toEqual(Array.from({ length: 8 }, () => -1));
    expect(whole.nextPosition).toBe(8);
    await masked.prefill(question);
    await whole.prefill(question);
    expect(cosine(await floats(whole.logits()), await floats(masked.logits()))).toBeGreaterThan(0.999);
    await masked.dispose();
    await whole.dispose();
  });

  it("a pipe keeps all, exactly P + m of the last agent, or exactly its m thoughts", async () => {
    const reader = (name: string, user: string) => model.agent({ name, user, think: { policy: "hidden", steps: 5 } });
    const [one, two] = [reader("one", "mia has the red key."), reader("two", "tom lives in oslo.")];
    const join = model.agent({ name: "join", generate: { maxTokens: 3 } });
    const p = (user: string): number => model.tokenize(model.renderChat([{ role: "user", content: user }])).length;
    const [p1, p2] = [p("mia has the red key."), p("tom lives in oslo.")];
    for (const [keep, want] of [
      ["all", [p1 + 5, p1 + 5 + p2 + 5]],
      ["own", [p1 + 5, p2 + 5]],
      ["thoughts", [5, 5]],
    ] as const) {
      const { hops } = await pipe(one, two, join).run("where does tom live?", { keep, pool });
      expect(hops.map((hop) => hop.positions)).toEqual(want);
      for (const hop of hops) expect(hop.heldBytes).toBe(hop.positions * pool.info.kvBytesPerPosition);
    }
  });

  it("keepLast is a drop of all before", async () => {
    const a = await filled(pool, factsB);
    const b = await a.fork();
    await a.keepLast(6);
    await b.drop({ from: 0, to: b.length - 6 });
    expect([...a.log()]).toEqual([...b.log()]);
    expect(a.nextPosition).toBe(6);
    expect(Buffer.compare(await a.save(), await b.save())).toBe(0);
    await a.prefill(question);
    await b.prefill(question);
    // their cells lie in different places, and attention sums in the order of the cells
    expect(maxAbsDifference(await floats(a.logits()), await floats(b.logits()))).toBeLessThan(3e-2);
    await a.dispose();
    await b.dispose();
  });

  it("dropping from a fork leaves its parent as it was", async () => {
    const parent = await filled(pool, factsB);
    const before = await parent.save();
    const child = await parent.fork();
    await child.drop({ from: 2, to: 7 });
    expect(Buffer.compare(Buffer.from(await parent.save()), Buffer.from(before))).toBe(0);
    await child.dispose();
    await parent.dispose();
  });

  it("is refused where the cache cannot be read", async () => {
    await using compressed = await tinyModel({ architecture: "deepseek2" });
    await using own = await compressed.createPool({ contextLength: 256 });
    const [a, b] = [await filled(own, factsA), await filled(own, factsB)];
    const before = [...a.log()];
    expect(own.info.canShift).toBe(false);
    expect(await codeOf(() => a.drop({ from: 0, to: 3 }))).toBe("ERR_LATENT_POSITION_SCHEME");
    expect(await codeOf(() => a.append(b, { mode: "shift" }))).toBe("ERR_LATENT_POSITION_SCHEME");
    expect([...a.log()]).toEqual(before);
    expect(await a.append(b, { mode: "recompute" })).toBe(b.length);
  });

  it("17. (KV) moving keys under YaRN turns them and nothing else: their norms stay, and so do all other sequences", async () => {
    await using yarn = await tinyModel({ architecture: "llama", rope: { type: "yarn", factor: 4 } });
    await using own = await yarn.createPool({ contextLength: 256, kvType: "f32" });
    const [a, b] = [await filled(own, factsA), await filled(own, factsB)];
    const neighbour = await b.save();
    const keyNorms = async (sequence: Sequence, from: number, to: number): Promise<number[]> => {
      using kv = await sequence.exportKv({ range: { from, to } });
      const norms: number[] = [];
      for (const tile of kv.tiles()) {
        if (tile.part === "keys") norms.push(norm(await floats(tile.tensor())));
      }
      return norms;
    };
    const before = await keyNorms(a, 3, a.length);
    await a.drop({ from: 0, to: 3 });
    const after = await keyNorms(a, 0, a.length);
    for (const [layer, value] of after.entries()) expect(value / (before[layer] ?? Number.NaN)).toBeCloseTo(1, 5);
    expect(Buffer.compare(await b.save(), neighbour)).toBe(0);
    expect(await a.append(b, { mode: "shift" })).toBe(b.length);
  });
});

it("14. experts do not see each other and give the same in any order; a chain inherits them all", async () => {
  const expert = (name: string, user: string) => model.agent({ name, user, think: { policy: "hidden", steps: 4 } });
  const one = expert("one", "mia has the red key.");
  const two = expert("two", "tom lives in oslo.");
  const join = model.agent({ name: "join", generate: { maxTokens: 6 } });
  const results = await Promise.all([
    team({ experts: [one, two], join }).run("where does tom live?", { mode: "recompute" }),
    team({ experts: [two, one], join }).run("where does tom live?", { mode: "recompute" }),
  ]);
  for (const { hops } of results) for (const hop of hops) expect(hop.latentSteps).toBe(4);
  expect(results[0].hops.map((hop) => hop.positions).sort()).toEqual(results[1].hops.map((hop) => hop.positions).sort());
  const chain = await pipe(one, two, join).run("where does tom live?");
  expect(chain.hops[1]?.positions).toBe(results[0].hops.reduce((sum, hop) => sum + hop.positions, 0));
});

it("14. what an expert thinks depends neither on the order nor on the others' prompts", async () => {
  const expert = (name: string, user: string) => model.agent({ name, user, think: { policy: "hidden", steps: 4 } });
  const one = expert("one", "mia has the red key.");
  const two = expert("two", "tom lives in oslo.");
  const other = expert("two", "zoe has the blue coin. ben lives in lima. ann has the old map.");
  const join = model.agent({ name: "join", generate: { maxTokens: 2 } });
  const thoughts = async (experts: readonly [typeof one, typeof one]): Promise<number[]> => {
    const steps: number[] = [];
    for await (const event of team({ experts, join }).stream("where does tom live?", { mode: "recompute" })) {
      if (event.type === "thought-step" && event.agent === "one") steps.push(event.norm, event.cosine);
    }
    return steps;
  };
  const reference = await thoughts([one, two]);
  expect(reference).toHaveLength(8);
  const distance = (steps: readonly number[]): number => Math.max(...reference.map((x, i) => Math.abs(x - (steps[i] ?? Number.NaN))));
  // batch-mates of another length change the rounding, by 2e-3 after four steps
  expect(distance(await thoughts([two, one]))).toBeLessThan(5e-3);
  expect(distance(await thoughts([one, other]))).toBeLessThan(5e-3);
  // and the measure is not blind: another prompt of its own is 0.1 away
  expect(distance(await thoughts([expert("one", "zoe has the red key."), two]))).toBeGreaterThan(2e-2);
});

it("15. greedy from restored memory equals greedy from live memory, 64 tokens", async () => {
  const live = await filled(pool, factsA);
  await live.think({ steps: 8 });
  const restored = await pool.restore(await live.save());
  // an end token ends a turn but not the comparison: both go on until there are 64
  const words: number[][] = [[], []];
  for (const [i, sequence] of [live, restored].entries()) {
    const said = words[i] ?? [];
    while (said.length < 64) said.push(...(await greedy(sequence, 64 - said.length)));
  }
  expect(words[1]).toHaveLength(64);
  expect(words[1]).toEqual(words[0]);
  await live.dispose();
  await restored.dispose();
});

it("16. two forks go their ways without touching each other or their parent", async () => {
  const parent = await filled(pool, factsA);
  const before = await parent.save();
  const [a, b] = [await parent.fork(), await parent.fork()];
  // hot and from the whole vocabulary: a model this sure of its words would say the same twice
  const wild = { maxTokens: 20, temperature: 5, topK: 0, topP: 1, minP: 0 };
  await Promise.all([a.generate({ ...wild, seed: 3 }).result, b.generate({ ...wild, seed: 4 }).result]);
  expect([...a.log()]).not.toEqual([...b.log()]);
  expect(Buffer.compare(Buffer.from(await parent.save()), Buffer.from(before))).toBe(0);
  await Promise.all([a, b, parent].map((sequence) => sequence.dispose()));
});

it("16. a state restored in a new process gives the same next logits, bit for bit", async () => {
  const sequence = await filled(pool, factsA);
  await sequence.think({ steps: 8 });
  const state = path.join(folder, "state.bin");
  writeFileSync(state, await sequence.save());
  const here = await pool.restore(readFileSync(state));
  const script = `
    import { readFileSync } from "node:fs";
    import { bundledModel, loadModel } from ${JSON.stringify(pathToFileURL(path.resolve("dist/index.js")).href)};
    const model = await loadModel(bundledModel());
    const pool = await model.createPool({ maxSequences: 32, contextLength: 4096 });
    const sequence = await pool.restore(readFileSync(${JSON.stringify(state)}));
    const logits = await sequence.logits();
    process.stdout.write(Buffer.from(logits.toFloat32().buffer).toString("base64"));
    await pool.dispose();
    await model.dispose();`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
  expect(stderr).toBe("");
  expect(status).toBe(0);
  const there = Buffer.from(stdout, "base64");
  expect(there.length).toBe(model.info.vocabularySize * 4);
  expect(Buffer.compare(there, Buffer.from((await floats(here.logits())).buffer))).toBe(0);
  await here.dispose();
  await sequence.dispose();
});

describe("17. what does not fit is refused before anything is touched", () => {
  it("what another model saved; damage is the matter of kv.test.ts", async () => {
    await using wren = await loadModel(bundledModel("wren"));
    await using other = await wren.createPool();
    const sequence = await filled(pool, factsA);
    const state = await sequence.save();
    const open = other.counters().openSequences;
    expect(await codeOf(() => other.restore(state))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    expect(other.counters().openSequences).toBe(open);
    expect(other.counters().usedCells).toBe(0);
    await sequence.dispose();
  });

  it("latents of another space, and too little context", async () => {
    await using wren = await loadModel(bundledModel("wren"));
    await using other = await wren.createPool();
    const thinker = await filled(other, factsA);
    const latents = await thinker.think({ steps: 2 });
    const sequence = pool.sequence();
    expect(await codeOf(() => sequence.prefill(latents))).toBe("ERR_LATENT_SPACE_MISMATCH");
    expect(sequence.length).toBe(0);
    const long = Array.from({ length: pool.info.contextLength + 1 }, () => 5);
    expect(await codeOf(() => sequence.prefill(long))).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    await sequence.prefill(factsA);
    expect(await codeOf(() => sequence.think({ steps: pool.info.contextLength }))).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    expect(sequence.length).toBe(model.tokenize(factsA).length);
    await sequence.dispose();
    const a = model.agent({ name: "a", think: { policy: "hidden", steps: 100_000 } });
    expect(await codeOf(() => pipe(a, a).run("x"))).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    const b = wren.agent({ name: "b" });
    for (const medium of ["kv", "latent"] as const) {
      expect(await codeOf(() => pipe(model.agent({ name: "a" }), b).run("x", { medium }))).toBe("ERR_LATENT_SPACE_MISMATCH");
    }
  });
});

it("19. counts are exact: a run's totals are the pool's own counters", async () => {
  for (const medium of ["kv", "latent", "text"] as const) {
    await using own = await model.createPool({ maxSequences: 4 });
    const reader = model.agent({
      name: "reader",
      user: "mia has the red key.",
      think: { policy: "hidden", steps: 6 },
      generate: { maxTokens: 12 },
    });
    const middle = model.agent({ name: "middle", think: { policy: "tokens", maxTokens: 7 } });
    const solver = model.agent({ name: "solver", generate: { maxTokens: 5 } });
    const { totals, hops } = await pipe(reader, middle, solver).run("who has the red key?", { medium, pool: own });
    const counters = own.counters();
    expect(totals.prefillTokens).toBe(counters.prefillTokens);
    expect(totals.latentSteps).toBe(counters.latentSteps);
    expect(totals.decodedTokens).toBe(counters.decodedTokens);
    expect(counters.decodedRows).toBe(counters.prefillTokens + counters.latentSteps + counters.decodedTokens + counters.refreshedPositions);
    expect(totals.bytes).toBe(hops.reduce((sum, hop) => sum + hop.bytes, 0));
    expect(counters.usedCells).toBe(0);
    expect(counters.openSequences).toBe(0);
  }
});

describe("20. placebo", () => {
  it("another item's memory changes the next-token distribution", async () => {
    const [right, wrong] = [await filled(pool, factsA), await filled(pool, factsB)];
    for (const sequence of [right, wrong]) {
      await sequence.think({ steps: 8 });
      await sequence.prefill(question);
    }
    expect(klDivergence(await floats(right.logits()), await floats(wrong.logits()))).toBeGreaterThan(0);
    await right.dispose();
    await wrong.dispose();
  });

  it("a pipe of one agent is the single-agent baseline", async () => {
    const solver = model.agent({ name: "solver", generate: { maxTokens: 12 } });
    const { text, hops } = await pipe(solver).run("where does tom live?");
    const sequence = pool.sequence();
    await sequence.prefill([{ role: "user", content: "where does tom live?" }]);
    expect(text).toBe((await sequence.generate({ maxTokens: 12 }).result).text);
    expect(hops).toEqual([]);
    await sequence.dispose();
  });
});

it("a latent turns into a small reference in JSON", async () => {
  const sequence = await filled(pool, factsA);
  const latents = await sequence.think({ steps: 8 });
  expect(latents).toBeInstanceOf(Latent);
  const text = JSON.stringify({ message: latents });
  expect(text.length).toBeLessThan(400);
  expect(JSON.parse(text)).toMatchObject({
    message: { kind: "embeds", shape: [8, model.info.embeddingLength], bytes: 8 * model.info.embeddingLength * 4 },
  });
  await sequence.dispose();
});
