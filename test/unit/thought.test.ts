// Token tables and thought steps as users see them: against plain arithmetic, in every way of giving rows, and with every argument that is refused.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  createThoughtStep,
  loadModel,
  openTokenTable,
  packProjection,
  Tensor,
  type ThoughtRecipe,
  type TokenTable,
} from "../../lib/index.js";
import { at, codeOf, numbers, runs, sameBits } from "../helpers.js";

const V = 1000;
const width = 24;
const rows = numbers(V * width, 1);
let table: TokenTable;

beforeAll(async () => {
  using tensor = Tensor.fromTyped("f32", [V, width], rows);
  table = await openTokenTable(tensor);
});
afterAll(() => {
  table.dispose();
});

function logitsOf(n: number, seed: number): Float32Array {
  return numbers(n * V, seed).map((x) => 6 * x);
}

/** p at a temperature over the k most likely tokens, those of the lower ids first among equals. */
function softmax(logits: ArrayLike<number>, row: number, temperature: number, k: number): Map<number, number> {
  const ids = Array.from({ length: V }, (_, id) => id).sort((a, b) => at(logits, row * V + b) - at(logits, row * V + a) || a - b);
  const kept = ids.slice(0, k === 0 ? V : k);
  const top = at(logits, row * V + at(kept, 0));
  const weights = kept.map((id) => Math.exp((at(logits, row * V + id) - top) / temperature));
  const sum = weights.reduce((a, b) => a + b, 0);
  return new Map(kept.map((id, i) => [id, at(weights, i) / sum]));
}

describe("openTokenTable", () => {
  it("tells what it holds and reads rows", async () => {
    expect(table).toMatchObject({ count: V, width, format: "f32", disposed: false });
    using some = await table.rows(Int32Array.of(3, 0, V - 1, 3));
    expect(some.shape).toEqual([4, width]);
    const read = some.toFloat32();
    [3, 0, V - 1, 3].forEach((token, i) => {
      expect(read.subarray(i * width, (i + 1) * width)).toEqual(rows.subarray(token * width, (token + 1) * width));
    });
    using none = await table.rows(new Int32Array(0));
    expect(none.shape).toEqual([0, width]);
    // more than is done at once
    using many = await table.rows(Int32Array.from({ length: 60_000 }, (_, i) => i % V));
    expect(many.toFloat32().subarray(59_999 * width)).toEqual(rows.subarray((59_999 % V) * width, (59_999 % V) * width + width));
  });

  it.each(["f16", "bf16"] as const)("reads %s", async (dtype) => {
    using full = Tensor.fromTyped("f32", [V, width], rows);
    using half = await full.convert(dtype);
    using halves = await openTokenTable(half);
    expect(halves.format).toBe(dtype);
    using read = await halves.rows(Int32Array.of(7));
    using expected = await half.convert("f32");
    expect(read.toFloat32()).toEqual(expected.toFloat32().subarray(7 * width, 8 * width));
  });

  it.each(["wren", "finch"] as const)("reads the matrices of the model file of %s", async (name) => {
    await using model = await loadModel(bundledModel(name));
    for (const matrix of ["input", "output"] as const) {
      using opened = await openTokenTable(bundledModel(name), { matrix });
      expect(opened.count).toBe(model.info.vocabularySize);
      expect(opened.width).toBe(model.info.embeddingLength);
      const tokens = Int32Array.of(5, 300);
      using read = await opened.rows(tokens);
      const same = matrix === "input" || model.info.tiedOutput;
      if (same) expect(read.toFloat32()).toEqual(model.inputRows(tokens).toFloat32());
      else expect(read.toFloat32()).not.toEqual(model.inputRows(tokens).toFloat32());
    }
  });

  it("refuses what is no table", async () => {
    using vector = Tensor.fromTyped("f32", [3], Float32Array.of(1, 2, 3));
    using integers = Tensor.fromTyped("i32", [1, 3], Int32Array.of(1, 2, 3));
    expect(await codeOf(() => openTokenTable(vector))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => openTokenTable(integers))).toBe("ERR_LATENT_DTYPE");
    expect(await codeOf(() => openTokenTable(3 as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => openTokenTable("nowhere.gguf"))).toBe("ERR_LATENT_MODEL_NOT_FOUND");
    expect(await codeOf(() => openTokenTable("nowhere.gguf", { matrix: "middle" as never }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "latentwire-")), "cut.gguf");
    fs.writeFileSync(file, fs.readFileSync(bundledModel("finch")).subarray(0, 5000));
    expect(await codeOf(() => openTokenTable(file))).toBe("ERR_LATENT_MODEL_FORMAT");
    for (const token of [-1, V]) expect(await codeOf(() => table.rows(Int32Array.of(token)))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => table.rows([1] as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => openTokenTable("nowhere.gguf", { signal: AbortSignal.abort(new Error("no")) }))).toBe("Error: no");
  });

  it("lives on in a step when it is disposed", async () => {
    using tensor = Tensor.fromTyped("f32", [V, width], rows);
    const opened = await openTokenTable(tensor);
    using step = createThoughtStep(opened, { topK: 1 });
    opened.dispose();
    tensor.dispose();
    expect(opened.disposed).toBe(true);
    expect(step.runSync(logitsOf(1, 3))).toHaveLength(width);
    expect(await codeOf(() => opened.rows(Int32Array.of(1)))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => createThoughtStep(opened))).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("createThoughtStep", () => {
  it("mixes embeddings as plain arithmetic does, at once and later, for one row and many", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 300 }),
        fc.constantFrom(0, 1, 5, 64, V),
        fc.constantFrom(0.3, 1, 2.5),
        fc.integer(),
        async (n, topK, temperature, seed) => {
          const logits = logitsOf(n, seed);
          using step = createThoughtStep(table, { topK, temperature });
          expect(step).toMatchObject({ vocabularySize: V, width, hiddenWidth: width, mostTokens: topK === 0 ? V : topK });
          const statistics = new Float64Array(n * 5);
          const sync = step.runSync(logits, {}, undefined, statistics);
          const later = await step.run(logits, {}, { mixture: true });
          using embeddings = later.embeddings;
          expect(embeddings.shape).toEqual([n, width]);
          expect(sameBits(embeddings.toFloat32(), sync)).toBe(true);
          expect(later.entropyBits).toEqual(statistics.filter((_, i) => i % 5 === 0));
          const ids = later.mixture?.ids.toTyped() ?? [];
          const weights = later.mixture?.weights.toFloat32() ?? [];
          for (let row = 0; row < n; row += Math.max(1, n >> 2)) {
            const p = softmax(logits, row, temperature, topK);
            const whole = [...softmax(logits, row, temperature, 0).values()];
            const entropy = whole.reduce((sum, q) => sum - (q > 0 ? q * Math.log2(q) : 0), 0);
            expect(at(later.entropyBits, row)).toBeCloseTo(entropy, 5);
            expect(at(later.maxP, row)).toBeCloseTo(Math.max(...whole), 6);
            expect(at(later.effectiveTokens, row)).toBeCloseTo(2 ** entropy, 2);
            expect(later.argmax[row]).toBe([...p.keys()][0]);
            expect(later.selected[row]).toBe(p.size);
            for (let i = 0; i < p.size; i++) {
              const where = row * step.mostTokens + i;
              expect(Math.abs(at(weights, where) - (p.get(at(ids, where)) ?? 9))).toBeLessThan(1e-6);
            }
            for (let j = 0; j < width; j++) {
              let expected = 0;
              for (const [id, weight] of p) expected += weight * at(rows, id * width + j);
              expect(Math.abs(at(sync, row * width + j) - expected)).toBeLessThan(1e-5);
            }
          }
        },
      ),
      runs(25),
    );
  });

  it("is the row of a token, the hidden state, or their sum", async () => {
    const logits = logitsOf(2, 5);
    const hidden = numbers(2 * width, 6);
    const tokens = Int32Array.of(17, 900);
    using token = createThoughtStep(table, { token: 1, mix: 0 });
    using expected = await table.rows(tokens);
    expect(token.runSync(logits, { tokens })).toEqual(expected.toFloat32());
    using state = createThoughtStep(table, { mix: 0, hidden: 1 });
    expect(state.runSync(logits, { hidden })).toEqual(hidden);
    using all = createThoughtStep(table, { token: 0.5, mix: 0.25, hidden: 2, topK: 1, norm: 3 });
    const e = all.runSync(logits, { tokens, hidden });
    for (let row = 0; row < 2; row++) {
      const best = [...softmax(logits, row, 1, 1).keys()][0] ?? -1;
      const want = Array.from(
        { length: width },
        (_, j) => 0.5 * at(rows, at(tokens, row) * width + j) + 0.25 * at(rows, best * width + j) + 2 * at(hidden, row * width + j),
      );
      const length = Math.hypot(...want);
      for (let j = 0; j < width; j++) expect(at(e, row * width + j)).toBeCloseTo((3 * at(want, j)) / length, 5);
    }
  });

  it("aligns hidden states with a projection", async () => {
    using weights = Tensor.fromTyped("f32", [3, width], numbers(3 * width, 8));
    using align = await packProjection({ layers: [{ weights }] });
    using step = createThoughtStep(table, { mix: 0, hidden: 1, align });
    expect(step.hiddenWidth).toBe(3);
    const hidden = numbers(6, 9);
    expect(step.runSync(logitsOf(2, 1), { hidden })).toEqual(align.applySync(hidden));
    using half = await Tensor.fromTyped("f32", [2, 3], hidden).convert("f16");
    const { embeddings } = await step.run(logitsOf(2, 1), { hidden: half });
    expect(embeddings.toFloat32()).toEqual(align.applySync(half));
    using other = await packProjection({ layers: [{ weights: Tensor.zeros([3, 5]) }] });
    expect(await codeOf(() => createThoughtStep(table, { align: other }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("never mixes masked tokens and keeps topP's promise", async () => {
    const logits = logitsOf(1, 11);
    const best = [...softmax(logits, 0, 1, 0).keys()];
    using step = createThoughtStep(table, { masked: Int32Array.of(at(best, 1), at(best, 0)), topP: 0.8 });
    const { argmax, selected, mixture } = await step.run(logits, {}, { mixture: true });
    expect(argmax[0]).toBe(best[2]);
    const left = logits.slice();
    left[at(best, 0)] = left[at(best, 1)] = -Infinity;
    const p = [...softmax(left, 0, 1, 0).values()];
    let sum = 0;
    let count = 0;
    while (sum < 0.8) sum += at(p, count++);
    expect(selected[0]).toBe(count);
    expect(mixture?.ids.toTyped().slice(0, count)).not.toContain(best[0]);
    expect(mixture?.ids.toTyped()[count]).toBe(-1);
  });

  it("draws the same noise for the same seed and step, in a batch or alone", async () => {
    for (const kind of ["gumbel", "dirichlet"] as const) {
      using step = createThoughtStep(table, { topK: 30, noise: { kind, amount: 0.5 } });
      const logits = logitsOf(3, 12);
      const all = step.runSync(logits, { seed: 7, step: 100 });
      for (let row = 0; row < 3; row++) {
        const alone = step.runSync(logits.subarray(row * V, (row + 1) * V), { seed: 7, step: 100 + row });
        expect(alone).toEqual(all.subarray(row * width, (row + 1) * width));
      }
      expect(step.runSync(logits, { seed: 8, step: 100 })).not.toEqual(all);
      expect(step.runSync(logits, { seed: 7, step: 101 })).not.toEqual(all);
    }
  });

  it("refuses bad recipes and inputs, and works on afterwards", async () => {
    const recipes: ThoughtRecipe[] = [
      { temperature: 0 },
      { temperature: Number.NaN },
      { topK: -1 },
      { topK: 1.5 },
      { topP: 0 },
      { topP: 1.1 },
      { mix: Infinity },
      { norm: -1 },
      { masked: Int32Array.of(V) },
      { masked: [1] as never },
      { align: {} as never },
      { noise: { kind: "cauchy" as never, amount: 1 } },
      { noise: { kind: "gumbel", amount: 0 } },
      { unitMix: 1 as never },
      { topk: 3 } as never,
      null as never,
    ];
    for (const recipe of recipes) expect(await codeOf(() => createThoughtStep(table, recipe))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => createThoughtStep({} as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");

    using step = createThoughtStep(table, { token: 1, hidden: 1, topK: 2 });
    const logits = logitsOf(1, 13);
    const good = { tokens: Int32Array.of(1), hidden: numbers(width, 2) };
    const before = step.runSync(logits, good);
    const bad: [string, () => unknown][] = [
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits, { ...good, tokens: Int32Array.of(V) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits, { ...good, tokens: Int32Array.of(1, 2) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits, { ...good, hidden: numbers(2 * width, 1) })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits.subarray(1), good)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits, good, new Float32Array(1))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits, good, undefined, new Float64Array(4))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits, good, logits.subarray(0, width))],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits, good, good.hidden)],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(logits, { ...good, seed: -1 })],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.runSync(new Float32Array(V).fill(-Infinity), good)],
      ["ERR_LATENT_NON_FINITE", () => step.runSync(new Float32Array(V).fill(Number.NaN), good)],
      ["ERR_LATENT_NON_FINITE", () => step.runSync(logits, { ...good, hidden: new Float32Array(width).fill(Infinity) })],
      ["ERR_LATENT_DTYPE", async () => step.runSync(await Tensor.fromTyped("f32", [1, V], logits).convert("f16"), good)],
      [
        "ERR_LATENT_DTYPE",
        async () => step.run(logits, { ...good, hidden: await Tensor.fromTyped("f32", [1, width], good.hidden).convert("f16") }),
      ],
      ["ERR_LATENT_INVALID_ARGUMENT", () => step.run(logits, good, { mixture: 1 as never })],
      ["Error: no", () => step.run(logits, good, { signal: AbortSignal.abort(new Error("no")) })],
    ];
    for (const [code, call] of bad) expect(await codeOf(call)).toBe(code);
    expect(step.runSync(logits, good)).toEqual(before);
    step.dispose();
    step.dispose();
    expect(step.disposed).toBe(true);
    expect(await codeOf(() => step.runSync(logits, good))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => step.run(logits, good))).toBe("ERR_LATENT_DISPOSED");
  });

  it("can be aborted, and disposed while it runs", async () => {
    using step = createThoughtStep(table, {});
    const logits = logitsOf(2000, 14);
    const controller = new AbortController();
    const aborted = step.run(logits, {}, { signal: controller.signal });
    controller.abort(new Error("enough"));
    // a job that was nearly done may finish all the same
    const outcome = await aborted.then(
      () => "finished",
      (error: unknown) => String(error),
    );
    expect(["finished", "Error: enough"]).toContain(outcome);
    const running = step.run(logits);
    step.dispose();
    expect((await running).embeddings.shape).toEqual([2000, width]);
  });
});

describe("memory that others change", () => {
  it("is read without harm while a worker writes to it", async () => {
    const shared = new SharedArrayBuffer(4 * V);
    const logits = new Float32Array(shared);
    const tokens = new Int32Array(new SharedArrayBuffer(4 * V));
    const writer = new Worker(
      `const { workerData: [logits, tokens] } = require("node:worker_threads");
       for (let k = 0; ; k++) for (let i = 0; i < logits.length; i++) {
         logits[i] = i * 1e-3 + Math.random();
         tokens[i] = k % 2 === 0 ? 0x7fffffff : i;
       }`,
      { eval: true, workerData: [logits, tokens] },
    );
    try {
      await once(writer, "online");
      using step = createThoughtStep(table, { topK: 8 });
      const e = new Float32Array(width);
      const statistics = new Float64Array(5);
      const codes = new Set<string>();
      for (let i = 0; i < 2000; i++) {
        codes.add(await codeOf(() => step.runSync(logits, {}, e, statistics)));
        codes.add(await codeOf(() => table.rows(tokens)));
        expect(at(statistics, 3)).toBeLessThan(V);
      }
      expect([...codes].filter((code) => !["no error", "ERR_LATENT_NON_FINITE", "ERR_LATENT_INVALID_ARGUMENT"].includes(code))).toEqual([]);
    } finally {
      await writer.terminate();
    }
  });

  it("is refused when its buffer was transferred", async () => {
    using step = createThoughtStep(table, { topK: 8 });
    const buffer = new ArrayBuffer(4 * V);
    const logits = new Float32Array(buffer);
    structuredClone(buffer, { transfer: [buffer] });
    await expect(step.run(logits)).rejects.toThrow("transferred");
    expect(await codeOf(() => step.runSync(logits))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("is not written twice by one call", async () => {
    using step = createThoughtStep(table, { topK: 8 });
    const buffer = new ArrayBuffer(8 * 24);
    const call = (): unknown => step.runSync(logitsOf(1, 1), {}, new Float32Array(buffer, 0, width), new Float64Array(buffer, 40, 5));
    expect(await codeOf(call)).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("names the first bad row, on any number of threads", async () => {
    using step = createThoughtStep(table, {});
    const logits = logitsOf(60, 2);
    for (const row of [59, 31, 7]) logits[row * V + 5] = Number.NaN;
    for (let i = 0; i < 20; i++) await expect(step.run(logits)).rejects.toThrow("input 7 ");
  });

  it("and coefficients too small for f32 are refused instead of left out", async () => {
    expect(await codeOf(() => createThoughtStep(table, { hidden: 1e-50 }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => createThoughtStep(table, { topP: 1e-50 }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});
