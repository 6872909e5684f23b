// The engine under odd models, damaged files, many sequences, aborts and misuse. Whatever happens, the process lives, the error has a code, and no
// cell is lost.
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel, KvStore, loadModel, openTokenTable, pipe, Tensor, type Model, type Pool } from "../../lib/index.js";
import { writeTinyModel, type TinyModelOptions } from "../fixtures/gguf.js";
import { codeOf, cosine, filled, floats, folder, greedy, maxAbsDifference, row, tinyModel } from "./helpers.js";

const text = "mia has the red key. tom lives in oslo.";
let model: Model;
let pool: Pool;

beforeAll(async () => {
  model = await loadModel(bundledModel());
  pool = await model.createPool({ contextLength: 4096, maxSequences: 24, batch: 64 });
});
afterAll(async () => {
  await pool.dispose();
  await model.dispose();
});

describe("families", () => {
  const families: Record<string, TinyModelOptions> = {
    "llama, untied": { architecture: "llama", tied: false },
    "llama, fewer tokens than dimensions": { architecture: "llama", width: 384, vocabSize: 300, tied: false },
    "llama, linear rope scaling": { architecture: "llama", rope: { type: "linear", factor: 2 } },
    "llama, yarn": { architecture: "llama", rope: { type: "yarn", factor: 4 } },
    qwen3: { architecture: "qwen3" },
    "gemma, which scales its input by sqrt(d)": { architecture: "gemma" },
    "gemma2, sliding window": { architecture: "gemma2" },
    "gemma3, which scales token ids but not rows": { architecture: "gemma3" },
    "qwen2vl, four positions a row": { architecture: "qwen2vl" },
  };
  for (const [name, options] of Object.entries(families)) {
    it(`${name}: rows enter where tokens do, and a fork continues as its parent`, async () => {
      await using tiny = await tinyModel(options);
      await using own = await tiny.createPool({ contextLength: 256 });
      const tokens = tiny.tokenize(text);
      const byTokens = own.sequence();
      await byTokens.prefill(tokens);
      const byRows = own.sequence();
      await byRows.prefill(tiny.inputRows(tokens));
      expect(maxAbsDifference(await floats(byTokens.logits()), await floats(byRows.logits()))).toBeLessThan(1e-5);
      await byTokens.think({ steps: 4 });
      const fork = await byTokens.fork();
      expect(await greedy(fork, 16)).toEqual(await greedy(byTokens, 16));
      await byTokens.truncate(5);
      expect(byTokens.length).toBe(5);
      expect(await greedy(byTokens, 4)).toHaveLength(4);
    });
  }

  const calibrated: readonly (readonly [string, TinyModelOptions, number])[] = [
    ["gemma3", { architecture: "gemma3" }, Math.sqrt(64)],
    ["gemma3 whose root is no power of two", { architecture: "gemma3", width: 96 }, Math.sqrt(96)],
    ["q8_0 matrices", { dtype: "q8_0" }, 1],
    ["q4_0 matrices", { dtype: "q4_0" }, 1],
    ["gemma3 with q4_0 matrices", { architecture: "gemma3", width: 96, dtype: "q4_0" }, Math.sqrt(96)],
  ];
  it.each(calibrated)("%s: the input scale is measured, and rows give the very logits of their ids", async (_, options, scale) => {
    await using tiny = await tinyModel(options);
    expect(tiny.info.inputScale).toBe(Math.fround(scale));
    const tokens = tiny.tokenize(text);
    const unscaled = (await tiny.matrix("input"))?.toFloat32() ?? new Float32Array();
    const d = tiny.info.embeddingLength;
    const rows = tiny.inputRows(tokens);
    const want = [...tokens].flatMap((token) => [...row(unscaled, token, d)].map((x) => Math.fround(x * Math.fround(scale))));
    expect(rows.toFloat32()).toEqual(Float32Array.from(want));
    // our kernels and llama.cpp read the same numbers from the file
    using table = await openTokenTable(tiny.path);
    using read = await table.rows(Int32Array.from({ length: table.count }, (_unused, token) => token));
    expect(read.toFloat32()).toEqual(unscaled);
    await using own = await tiny.createPool({ contextLength: 256 });
    const byTokens = own.sequence();
    await byTokens.prefill(tokens);
    const byRows = own.sequence();
    await byRows.prefill(rows);
    const logits = await floats(byTokens.logits());
    expect(new Set(logits).size).toBeGreaterThan(1);
    expect(await floats(byRows.logits())).toEqual(logits);
  });

  it("gemma3 hands latents over: fed again, they give the very logits of the cache that they were thought into", async () => {
    await using tiny = await tinyModel({ architecture: "gemma3", width: 96 });
    await using own = await tiny.createPool({ contextLength: 512 });
    const thinker = await filled(own, text);
    const latents = (await thinker.think({ steps: 4 })).tensor().toFloat32();
    const reader = await filled(own, text);
    // one row a call, as thinking does: a call of another shape rounds otherwise
    const d = tiny.info.embeddingLength;
    for (let step = 0; step < 4; step++) await reader.prefill(Tensor.fromTyped("f32", [1, d], row(latents, step, d)), { hidden: "last" });
    expect(await floats(reader.logits())).toEqual(await floats(thinker.logits()));
    expect(await greedy(reader, 16)).toEqual(await greedy(thinker, 16));
    const one = tiny.agent({ name: "one", think: { policy: "hidden", steps: 4 } });
    const two = tiny.agent({ name: "two", generate: { maxTokens: 8 } });
    for (const medium of ["kv", "latent"] as const) {
      const { hops, totals } = await pipe(one, two).run(text, { medium });
      expect(totals.latentSteps).toBe(4);
      expect(hops.map((hop) => hop.medium)).toEqual([medium]);
    }
  });

  const unread: readonly (readonly [string, TinyModelOptions, RegExp])[] = [
    ["latent attention", { architecture: "deepseek2" }, /deepseek2.*latent attention/],
    ["positions on four axes", { architecture: "qwen2vl" }, /qwen2vl.*M-RoPE/],
  ];
  it.each(unread)(
    "34. %s: the model runs, and every way into its cache or out of it is refused by name and changes nothing",
    async (_, options, why) => {
      await using tiny = await tinyModel(options);
      await using own = await tiny.createPool({ contextLength: 256 });
      await using other = await tiny.createPool({ contextLength: 256 });
      const [sequence, twin] = [await filled(own, text), await filled(own, text)];
      const log = sequence.log();
      await using llama = await tinyModel({ architecture: "llama" });
      await using source = await llama.createPool({ contextLength: 256 });
      const foreign = await filled(source, text);
      const bytes = await foreign.save();
      await using store = await KvStore.open({ ramBytes: 1 << 20 });
      for (const call of [
        () => sequence.exportKv(),
        () => sequence.exportKv({ range: { from: 0, to: 2 } }),
        () => sequence.exportKv({ layers: [0] }),
        () => sequence.save(),
        () => sequence.importKv(bytes),
        () => own.restore(bytes),
        () => own.readKv(bytes),
        () => own.kvReceiver(),
      ]) {
        const error: unknown = await (async () => call())().then(
          () => undefined,
          (reason: unknown) => reason,
        );
        expect(error).toMatchObject({ code: "ERR_LATENT_KV_LAYOUT" });
        expect(String(error)).toMatch(why);
      }
      for (const call of [
        () => sequence.append(twin, { mode: "shift" }),
        () => sequence.drop({ from: 0, to: 2 }),
        () => sequence.keepLast(3),
      ])
        expect(await codeOf(call)).toBe("ERR_LATENT_POSITION_SCHEME");
      // a prefix that fills no chunk asks nothing of the cache
      expect(await store.put(sequence)).toMatchObject({ added: 0 });
      await sequence.prefill(Int32Array.from({ length: 100 }, (__, i) => 5 + (i % 200)));
      await sequence.truncate(log.length);
      expect(sequence.log()).toEqual(log);
      expect(own.counters()).toMatchObject({ openSequences: 2, usedCells: 2 * log.length });
      expect(other.counters().openSequences).toBe(0);
      expect(await greedy(sequence, 8)).toEqual(await greedy(twin, 8));
    },
  );

  it("34. a recurrent state, alone or in some layers, is refused by name at load", async () => {
    for (const architecture of ["mamba", "lfm2"] as const) {
      const error: unknown = await tinyModel({ architecture }).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "ERR_LATENT_MODEL_UNSUPPORTED" });
      expect(String(error)).toMatch(new RegExp(`${architecture}: a recurrent state`));
    }
  });

  it("quantised caches save, restore and continue", async () => {
    await using tiny = await tinyModel({ architecture: "llama", headDim: 32 });
    for (const kvType of ["q8_0", "q4_0", "bf16", "f32"] as const) {
      await using own = await tiny.createPool({ contextLength: 256, kvType });
      const sequence = await filled(own, text);
      const copy = await own.restore(await sequence.save());
      expect(await greedy(copy, 16)).toEqual(await greedy(sequence, 16));
    }
  });
});

describe("damaged model files", () => {
  const good = (): Buffer => {
    const file = path.join(folder, "good.gguf");
    writeTinyModel(file, { architecture: "llama" });
    return readFileSync(file);
  };
  const load = async (bytes: Uint8Array): Promise<string> => {
    const file = path.join(folder, "damaged.gguf");
    writeFileSync(file, bytes);
    return codeOf(async () => {
      await (await loadModel(file)).dispose();
    });
  };

  it("cut at 200 places", async () => {
    const bytes = good();
    for (let i = 0; i < 200; i++) {
      // half of the cuts fall into the header, where the structure is
      const length = i < 100 ? Math.floor((i * 12_000) / 100) : Math.floor((bytes.length * (i - 100)) / 100);
      expect(await load(bytes.subarray(0, Math.min(length, bytes.length - 1)))).toBe("ERR_LATENT_MODEL_FORMAT");
    }
  });

  it("random bytes, a wrong magic and absurd counts", async () => {
    const bytes = good();
    for (let i = 0; i < 50; i++) {
      expect(await load(Uint8Array.from({ length: 200 + i }, (_, k) => (k * 31 + i * 17 + k * k) & 255))).toBe("ERR_LATENT_MODEL_FORMAT");
    }
    for (const [offset, value] of [
      [0, 0x12],
      [4, 99],
      [15, 0x7f],
      [23, 0x7f],
    ] as const) {
      const broken = Buffer.from(bytes);
      broken[offset] = value;
      expect(await load(broken)).toBe("ERR_LATENT_MODEL_FORMAT");
    }
  });

  it("flipped header bytes load or fail with a code, and never end the process", async () => {
    const bytes = good();
    for (let i = 0; i < 60; i++) {
      const broken = Buffer.from(bytes);
      const at = 8 + ((i * 197) % 6000);
      broken[at] = (broken[at] ?? 0) ^ (1 << (i % 8));
      expect(await load(broken)).toMatch(/^(no error|ERR_LATENT_)/);
    }
  });

  it("no file, a folder, and an altered bundled model", async () => {
    expect(await codeOf(() => loadModel(path.join(folder, "absent.gguf")))).toBe("ERR_LATENT_MODEL_NOT_FOUND");
    expect(await codeOf(() => loadModel(folder))).toMatch(/^ERR_LATENT_MODEL_|EISDIR/);
    expect(await codeOf(() => bundledModel("eagle"))).toBe("ERR_LATENT_MODEL_NOT_FOUND");
  });

  it("a file that changes gets a new fingerprint", async () => {
    const file = path.join(folder, "changing.gguf");
    writeTinyModel(file, { architecture: "llama", seed: 1 });
    await using first = await loadModel(file);
    writeTinyModel(file, { architecture: "llama", seed: 2 });
    await using second = await loadModel(file);
    expect(second.info.fingerprint).not.toBe(first.info.fingerprint);
    expect(second.space.id).not.toBe(first.space.id);
    const descriptor = openSync(file, "r+");
    writeSync(descriptor, Buffer.of(1), 0, 1, 200_000);
    closeSync(descriptor);
    await using third = await loadModel(file);
    expect(third.info.fingerprint).not.toBe(second.info.fingerprint);
  });
});

describe("many sequences", () => {
  it("eight agents in a batch give the tokens that each gives alone", async () => {
    const prompts = Array.from(
      { length: 8 },
      (_, i) => `<|user|> ${"mia has the red key. tom lives in oslo. ".repeat(i + 1)}<|end|><|assistant|>`,
    );
    const alone: (readonly number[])[] = [];
    for (const prompt of prompts) {
      const sequence = await filled(pool, prompt);
      alone.push(await greedy(sequence, 32));
      await sequence.dispose();
    }
    const together = await Promise.all(
      prompts.map(async (prompt) => {
        const sequence = await filled(pool, prompt);
        const tokens = await greedy(sequence, 32);
        await sequence.dispose();
        return tokens;
      }),
    );
    expect(together).toEqual(alone);
  });

  it("decodes steps of several sequences in shared calls", async () => {
    const sequences = await Promise.all(Array.from({ length: 8 }, () => filled(pool, text)));
    const before = pool.counters();
    await Promise.all(sequences.map((sequence) => greedy(sequence, 32)));
    const after = pool.counters();
    const rows = after.decodedRows - before.decodedRows;
    expect(rows / (after.decodeCalls - before.decodeCalls)).toBeGreaterThan(4);
    await Promise.all(sequences.map((sequence) => sequence.dispose()));
  });

  it("mixes thinking and generating in one batch without changing either", async () => {
    const [a, b] = [await filled(pool, text), await filled(pool, text)];
    const latents = await floats((await a.think({ steps: 16 })).tensor());
    const tokens = await greedy(b, 16);
    const [c, d] = [await filled(pool, text), await filled(pool, text)];
    const [thought, words] = await Promise.all([c.think({ steps: 16 }), greedy(d, 16)]);
    expect(cosine(thought.tensor().toFloat32(), latents)).toBeGreaterThan(0.9999);
    expect(words).toEqual(tokens);
    await Promise.all([a, b, c, d].map((sequence) => sequence.dispose()));
  });

  it("a long prefill does not keep a short one waiting", async () => {
    const long = pool.sequence();
    const order: string[] = [];
    const slow = long.prefill(Array.from({ length: 1500 }, (_, i) => 5 + (i % 200))).then(() => order.push("long"));
    const short = pool.sequence();
    const quick = short.prefill([5, 6, 7, 8]).then(() => order.push("short"));
    await Promise.all([slow, quick]);
    expect(order).toEqual(["short", "long"]);
    await long.dispose();
    await short.dispose();
  });

  it("a prefill of higher priority overtakes one that began earlier", async () => {
    const filler = Array.from({ length: 1200 }, (_, i) => 5 + (i % 200));
    const [low, high] = [pool.sequence(), pool.sequence()];
    const order: string[] = [];
    const first = low.prefill(filler, { priority: -1 }).then(() => order.push("low"));
    const second = high.prefill(filler, { priority: 1 }).then(() => order.push("high"));
    await Promise.all([first, second]);
    expect(order).toEqual(["high", "low"]);
    await low.dispose();
    await high.dispose();
  });

  it("runs out of sequences and of cells with a code, and recovers", async () => {
    await using small = await model.createPool({ contextLength: 256, maxSequences: 2 });
    const [a, b] = [small.sequence(), small.sequence()];
    expect(await codeOf(() => small.sequence())).toBe("ERR_LATENT_SEQUENCE_LIMIT");
    await a.prefill(Array.from({ length: 200 }, () => 5));
    expect(await codeOf(() => b.prefill(Array.from({ length: 100 }, () => 5)))).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    expect(b.length).toBe(0);
    expect(small.counters().usedCells).toBe(200);
    expect((await a.generate({ maxTokens: 500 }).result).reason).toMatch(/length|end/);
    await a.dispose();
    await b.prefill(Array.from({ length: 100 }, () => 5));
    expect(small.counters().usedCells).toBe(100);
  });
});

describe("one operation at a time", () => {
  it("a second operation, a disposed sequence and a disposed pool are refused with codes", async () => {
    const sequence = await filled(pool, text);
    const first = sequence.think({ steps: 64 });
    expect(await codeOf(() => sequence.prefill("x"))).toBe("ERR_LATENT_SEQUENCE_BUSY");
    expect(await codeOf(() => sequence.log())).toBe("ERR_LATENT_SEQUENCE_BUSY");
    await first;
    await sequence.dispose();
    await sequence.dispose();
    expect(await codeOf(() => sequence.prefill("x"))).toBe("ERR_LATENT_DISPOSED");
    const own = await model.createPool({ contextLength: 256 });
    const left = await filled(own, text);
    const running = codeOf(() => left.generate({ maxTokens: 1_000_000 }).result);
    await own.dispose();
    expect(await running).toMatch(/ERR_LATENT_DISPOSED|no error/);
    expect(await codeOf(() => own.sequence())).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => pool.sequence().generate().result)).toBe("ERR_LATENT_SEQUENCE_EMPTY");
  });

  it("disposing a busy sequence stops it", async () => {
    const sequence = await filled(pool, text);
    const thinking = codeOf(() => sequence.think({ steps: 3000 }));
    await sequence.dispose();
    expect(await thinking).toContain("AbortError");
  });
});

describe("generation", () => {
  it("streams what the result holds, and stop strings never show", async () => {
    const whole = await filled(pool, text);
    const reference = await whole.generate({ maxTokens: 40 }).result;
    const stop = reference.text.slice(12, 17);
    const sequence = await filled(pool, text);
    const generation = sequence.generate({ maxTokens: 40, stop: [stop] });
    let streamed = "";
    for await (const { text: piece } of generation) streamed += piece;
    const result = await generation.result;
    expect(result.reason).toBe("stop");
    expect(streamed).toBe(result.text);
    expect(result.text).toBe(reference.text.slice(0, reference.text.indexOf(stop)));
    await whole.dispose();
    await sequence.dispose();
  });

  it("leaving the loop cuts the sequence back to the tokens that were consumed", async () => {
    const sequence = await filled(pool, text);
    const length = sequence.length;
    const seen: number[] = [];
    for await (const { token } of sequence.generate({ maxTokens: 200 })) {
      seen.push(token);
      if (seen.length === 5) break;
    }
    expect(sequence.length).toBe(length + 5);
    expect([...sequence.log().slice(length)]).toEqual(seen);
    await sequence.dispose();
  });

  it("a slow reader holds the engine back", async () => {
    const sequence = await filled(pool, text);
    const before = pool.counters().decodedTokens;
    const iterator = sequence.generate({ maxTokens: 3000, temperature: 3, topK: 0, topP: 1, minP: 0 })[Symbol.asyncIterator]();
    await iterator.next();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(pool.counters().decodedTokens - before).toBeLessThan(80);
    await iterator.return?.(undefined);
    await sequence.dispose();
  });

  it("the same seed gives the same tokens, another seed others; penalties change greedy text", async () => {
    const sample = async (seed: number): Promise<readonly number[]> => {
      const sequence = await filled(pool, text);
      const { tokens } = await sequence.generate({ maxTokens: 24, temperature: 1.5, topK: 0, topP: 1, minP: 0, seed }).result;
      await sequence.dispose();
      return tokens;
    };
    expect(await sample(7)).toEqual(await sample(7));
    expect(await sample(7)).not.toEqual(await sample(8));
    const [plain, penalised] = [await filled(pool, text), await filled(pool, text)];
    const a = await greedy(plain, 24);
    const b = (await penalised.generate({ maxTokens: 24, repeatPenalty: 5 }).result).tokens;
    expect(a).not.toEqual(b);
    await plain.dispose();
    await penalised.dispose();
  });
});

it("aborted at a random point, 1000 times: no cell and no sequence is lost, and the pool goes on", async () => {
  await using own = await model.createPool({ contextLength: 2048, maxSequences: 4, batch: 32 });
  const base = await filled(own, text);
  const state = Buffer.from(await base.save());
  const cells = own.counters().usedCells;
  let random = 12345;
  const next = (below: number): number => {
    random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
    return random % below;
  };
  const filler = Array.from({ length: 300 }, (_, i) => 5 + (i % 200));
  let aborted = 0;
  for (let i = 0; i < 1000; i++) {
    const abort = new AbortController();
    const fork = await base.fork();
    const length = fork.length;
    const kind = i % 3;
    const work =
      kind === 0
        ? fork.prefill(filler, { signal: abort.signal })
        : kind === 1
          ? fork.think({ steps: 40, signal: abort.signal })
          : fork.generate({ maxTokens: 60, signal: abort.signal }).result;
    const outcome = codeOf(() => work);
    const wait = next(4);
    if (wait === 0) abort.abort();
    else if (wait === 1)
      setImmediate(() => {
        abort.abort();
      });
    else
      setTimeout(() => {
        abort.abort();
      }, next(8));
    const code = await outcome;
    if (code.includes("AbortError")) {
      aborted++;
      if (kind !== 2) expect(fork.length).toBe(length);
    } else expect(code).toBe("no error");
    await fork.dispose();
  }
  expect(aborted).toBeGreaterThan(100);
  const counters = own.counters();
  expect(counters.usedCells).toBe(cells);
  expect(counters.openSequences).toBe(1);
  expect(counters.poisoned).toBeUndefined();
  expect(Buffer.compare(Buffer.from(await base.save()), state)).toBe(0);
  expect(await greedy(base, 8)).toHaveLength(8);
}, 120_000);

it("joins by shift close to a joint pass, and by recompute exactly", async () => {
  const [a, b] = [await filled(pool, "mia has the red key."), await filled(pool, " tom lives in oslo.")];
  const joint = await filled(pool, "mia has the red key.");
  await joint.prefill(" tom lives in oslo.");
  const exact = await a.fork();
  expect(await exact.append(b, { mode: "recompute" })).toBe(b.length);
  expect(cosine(await floats(exact.logits()), await floats(joint.logits()))).toBeGreaterThan(0.9999);
  const before = Buffer.from(await b.save());
  const shifted = await a.fork();
  await shifted.append(b, { mode: "shift" });
  expect(shifted.length).toBe(a.length + b.length);
  expect(cosine(await floats(shifted.logits()), await floats(joint.logits()))).toBeGreaterThan(0.5);
  expect(Buffer.compare(Buffer.from(await b.save()), before)).toBe(0);
  await Promise.all([a, b, joint, exact, shifted].map((sequence) => sequence.dispose()));
});
