// Every public option against values that it must refuse, and the whole option surface against random ones: each call ends with a result or with an
// error that has a code, and leaves the sequence as it was.
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Agent, bundledModel, KvStore, LatentError, loadModel, pipe, team, type Model, type Pool, type Sequence } from "../../lib/index.js";

let model: Model;
let pool: Pool;
let sequence: Sequence;

beforeAll(async () => {
  model = await loadModel(bundledModel());
  pool = await model.createPool({ contextLength: 256, maxSequences: 4 });
  sequence = pool.sequence();
  await sequence.prefill("mia has the red key.", { hidden: "last" });
});
afterAll(async () => {
  await pool.dispose();
  await model.dispose();
});

// what JavaScript callers pass, whatever the types say
type Loose = (...args: readonly unknown[]) => unknown;
const loose = (target: object, method: string): Loose => (Reflect.get(target, method) as Loose).bind(target);

async function refusal(work: () => unknown): Promise<LatentError> {
  try {
    const value = await work();
    if (typeof value === "object" && value !== null && "result" in value) await value.result;
  } catch (error) {
    if (LatentError.isInstance(error)) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

const badNumbers = [Number.NaN, Number.POSITIVE_INFINITY, -1, 1.5, "3", null, {}, [], true, 1e300];
const cases: Record<string, { readonly call: (value: unknown) => unknown; readonly bad: readonly unknown[] }> = {};
const add = (name: string, call: (value: unknown) => unknown, bad: readonly unknown[]): void => {
  cases[name] = { call, bad };
};

add("loadModel path", (value) => (loadModel as Loose)(value), [1, null, {}, []]);
for (const key of ["gpuLayers"]) add(`loadModel ${key}`, (value) => (loadModel as Loose)(bundledModel(), { [key]: value }), badNumbers);
add("loadModel template", (value) => (loadModel as Loose)(bundledModel(), { template: value }), ["jinja", 1, null]);
add("loadModel onProgress", (value) => (loadModel as Loose)(bundledModel(), { onProgress: value }), [1, "f", null, {}]);
add("loadModel mmap", (value) => (loadModel as Loose)(bundledModel(), { mmap: value }), [1, "true", null]);
for (const key of ["contextLength", "maxSequences", "batch", "threads"]) {
  add(`createPool ${key}`, (value) => loose(model, "createPool")({ [key]: value }), [...badNumbers, 0]);
}
// a batch that cannot hold a row of every sequence is an assertion in llama.cpp
add("createPool batch for its sequences", (value) => loose(model, "createPool")({ batch: value, maxSequences: 16 }), [1, 2, 15, 16]);
add("createPool batch for the default sequences", (value) => loose(model, "createPool")({ batch: value }), [1, 16]);
add("createPool kvType", (value) => loose(model, "createPool")({ kvType: value }), ["f64", 1, null, ""]);
for (const key of ["maxTokens", "topK", "penaltyWindow", "seed"])
  add(`generate ${key}`, (value) => loose(sequence, "generate")({ [key]: value }), badNumbers);
for (const key of ["temperature", "topP", "minP", "repeatPenalty"]) {
  add(`generate ${key}`, (value) => loose(sequence, "generate")({ [key]: value }), [Number.NaN, -1, "1", null, 1e300]);
}
for (const key of ["frequencyPenalty", "presencePenalty"]) {
  add(`generate ${key}`, (value) => loose(sequence, "generate")({ [key]: value }), [Number.NaN, "1", null, 1e300]);
}
add("generate priority", (value) => loose(sequence, "generate")({ priority: value }), [0.5, 5000, "high"]);
add("generate stop", (value) => loose(sequence, "generate")({ stop: value }), ["x", [""], [1], null, {}]);
add("think steps", (value) => loose(sequence, "think")({ steps: value }), [...badNumbers, undefined]);
add("think alpha", (value) => loose(sequence, "think")({ steps: 1, alpha: value }), [Number.NaN, -1, "1", null]);
add("think align", (value) => loose(sequence, "think")({ steps: 1, align: value }), [1, "yes", null]);
add("think onStep", (value) => loose(sequence, "think")({ steps: 1, onStep: value }), [1, "f", {}]);
add("prefill input", (value) => loose(sequence, "prefill")(value), [
  1,
  null,
  {},
  [1.5],
  [-1],
  [1e9],
  ["x"],
  [{ role: "robot", content: "x" }],
  [{ role: "user" }],
]);
add("prefill hidden", (value) => loose(sequence, "prefill")([5], { hidden: value }), ["first", 1, null]);
add("keepLast", (value) => loose(sequence, "keepLast")(value), [...badNumbers, 10_000]);
add("truncate", (value) => loose(sequence, "truncate")(value), [...badNumbers, 10_000]);
add("drop", (value) => loose(sequence, "drop")({ from: value, to: value }), [...badNumbers, 10_000]);
add("append mode", (value) => loose(sequence, "append")(sequence, { mode: value }), ["glue", 1, null]);
add("append other", (value) => loose(sequence, "append")(value, { mode: "shift" }), [1, null, {}, undefined]);
add("append itself", () => loose(sequence, "append")(sequence, { mode: "shift" }), [0]);
add("adopt other", (value) => loose(sequence, "adopt")(value), [1, null, {}, undefined]);
add("restore", (value) => loose(pool, "restore")(value), [1, null, "bytes", []]);
add("tokenize", (value) => loose(model, "tokenize")(value), [1, null, {}]);
add("detokenize", (value) => loose(model, "detokenize")(value), [1, null, "x", [1e9], [-1], [0.5]]);
add("piece", (value) => loose(model, "piece")(value), [...badNumbers, 1e6]);
add("isEndOfGeneration", (value) => loose(model, "isEndOfGeneration")(value), [...badNumbers, 1e6]);
add("inputRows", (value) => loose(model, "inputRows")(value), [1, null, [1e9]]);
add("matrix", (value) => loose(model, "matrix")(value), ["both", 1, null]);
add("alignment lambda", (value) => loose(model, "alignment")({ lambda: value }), [0, -1, Number.NaN, "1"]);
add("renderChat", (value) => loose(model, "renderChat")(value), [[], 1, null, [{}], [{ role: "user", content: 1 }]]);
add("agent name", (value) => loose(model, "agent")({ name: value }), ["", 1, null, undefined]);
add("agent system", (value) => loose(model, "agent")({ name: "a", system: value }), [1, null, {}]);
add("agent user", (value) => loose(model, "agent")({ name: "a", user: value }), [1, null, {}]);
add("agent think", (value) => loose(model, "agent")({ name: "a", think: value }), [
  { policy: "dream" },
  { policy: "hidden" },
  { policy: "hidden", steps: -1 },
  { policy: "hidden", steps: 1, maxTokens: 3 },
  { policy: "tokens", maxTokens: -1 },
]);
add("agent generate", (value) => loose(model, "agent")({ name: "a", generate: value }), [{ maxTokens: -1 }, { tokens: 3 }, 1]);
add("pipe agents", (value) => (pipe as unknown as Loose)(value), [1, null, {}, undefined]);
const solo = (): ReturnType<typeof pipe> => pipe(new Agent(model, { name: "a" }), new Agent(model, { name: "b" }));
add("pipe question", (value) => loose(solo(), "run")(value), [1, null, {}]);
add("pipe medium", (value) => loose(solo(), "run")("x", { medium: value }), ["smoke", ["kv", "kv"], []]);
add("pipe pool", (value) => loose(solo(), "run")("x", { pool: value }), [1, null, {}]);
add("pipe store", (value) => loose(solo(), "run")("x", { store: value }), [1, null, {}]);
for (const key of ["ramBytes", "diskBytes", "saltBytes"])
  add(`store ${key}`, (value) => loose(KvStore, "open")({ [key]: value }), badNumbers);
add("store ttlMs", (value) => loose(KvStore, "open")({ ttlMs: value }), [Number.NaN, -1, "1", null, {}]);
for (const key of ["path", "salt"]) add(`store ${key}`, (value) => loose(KvStore, "open")({ [key]: value }), [1, null, {}]);
add("store clock", (value) => loose(KvStore, "open")({ clock: value }), [1, null, "now"]);
const stored = (method: string, ...args: readonly unknown[]): Promise<unknown> =>
  KvStore.open().then((store) => loose(store, method)(...args));
add("store put", (value) => stored("put", value), [1, null, {}, undefined]);
add("store prefillMs", (value) => stored("put", sequence, { prefillMs: value }), [Number.NaN, -1, "1", null]);
add("store find pool", (value) => stored("find", value, [5]), [1, null, {}, undefined]);
add("store find tokens", (value) => stored("find", pool, value), [1, null, "x", [1e9], [-1], [0.5]]);
add("store clock that tells no time", (value) => KvStore.open({ clock: () => value as number }).then((store) => store.find(pool, [5])), [
  Number.NaN,
  -1,
  "1",
]);
for (const key of ["keep", "notes", "compat"])
  add(`pipe ${key}`, (value) => loose(solo(), "run")("x", { [key]: value }), ["other", 1, null]);
add("team experts", (value) => (team as unknown as Loose)({ experts: value, join: new Agent(model, { name: "a" }) }), [[], 1, null, [1]]);
add(
  "team mode",
  (value) =>
    loose(team({ experts: [new Agent(model, { name: "a" })], join: new Agent(model, { name: "b" }) }), "run")("x", { mode: value }),
  ["glue", 1],
);

// A signal that is none must be refused before a job starts: nobody would await the job, and its failure would end the process.
const withOptions: Record<string, (options: unknown) => unknown> = {
  loadModel: (options) => (loadModel as Loose)(bundledModel(), options),
  alignment: (options) => loose(model, "alignment")(options),
  createPool: (options) => loose(model, "createPool")(options),
  restore: (options) => loose(pool, "restore")(new Uint8Array(12), options),
  prefill: (options) => loose(sequence, "prefill")([5], options),
  generate: (options) => loose(sequence, "generate")(options),
  hidden: (options) => loose(sequence, "hidden")(options),
  logits: (options) => loose(sequence, "logits")(options),
  fork: (options) => loose(sequence, "fork")(options),
  adopt: (options) => loose(sequence, "adopt")(sequence, options),
  truncate: (options) => loose(sequence, "truncate")(1, options),
  keepLast: (options) => loose(sequence, "keepLast")(1, options),
  save: (options) => loose(sequence, "save")(options),
  "store open": (options) => (KvStore.open as Loose)(options),
  "store put": (options) => stored("put", sequence, options),
  "store find": (options) => stored("find", pool, [5], options),
  "pipe run": (options) => loose(solo(), "run")("x", options),
};
for (const [name, call] of Object.entries(withOptions)) {
  add(`${name} options`, call, [1, null, "x", []]);
  add(`${name} signal`, (signal) => call({ signal }), [1, null, "x", {}, new AbortController()]);
}
add("think signal", (signal) => loose(sequence, "think")({ steps: 1, signal }), [1, null, {}]);
add("append signal", (signal) => loose(sequence, "append")(sequence, { mode: "shift", signal }), [1, null, {}]);
add("drop signal", (signal) => loose(sequence, "drop")({ from: 0, to: 1 }, { signal }), [1, null, {}]);

describe("bad values are refused with a code and a message that names them", () => {
  for (const [name, { call, bad }] of Object.entries(cases)) {
    it(name, async () => {
      const length = sequence.length;
      for (const value of bad) {
        const error = await refusal(() => call(value));
        expect(error.code).toBe("ERR_LATENT_INVALID_ARGUMENT");
        expect(error.hint).not.toBe("");
      }
      expect(sequence.length).toBe(length);
    });
  }

  it("a misspelt option", async () => {
    for (const work of [
      () => loose(model, "createPool")({ contextlength: 5 }),
      () => loose(sequence, "generate")({ max_tokens: 5 }),
      () => loose(sequence, "think")({ steps: 1, allign: true }),
      () => loose(solo(), "run")("x", { media: "kv" }),
    ]) {
      expect((await refusal(work)).message).toContain("has no option");
    }
  });
});

it("a run with bad options rejects and does not throw", async () => {
  const both = [
    loose(solo(), "run")(5),
    loose(team({ experts: [new Agent(model, { name: "a" })], join: new Agent(model, { name: "b" }) }), "run")(5),
  ];
  for (const one of both) expect((await refusal(() => one)).code).toBe("ERR_LATENT_INVALID_ARGUMENT");
});

describe("random options", () => {
  const anything = fc.oneof(
    fc.integer({ min: -3, max: 40 }),
    fc.double(),
    fc.string({ maxLength: 4 }),
    fc.boolean(),
    fc.constant(null),
    fc.constant(undefined),
  );
  const settle = async (work: () => unknown): Promise<void> => {
    try {
      const value = await work();
      if (typeof value === "object" && value !== null && "result" in value) await value.result;
    } catch (error) {
      expect(LatentError.isInstance(error), String(error)).toBe(true);
    }
  };

  it("generate, think and prefill end with a result or a code", async () => {
    const record = (keys: readonly string[]) => fc.record(Object.fromEntries(keys.map((key) => [key, anything])), { requiredKeys: [] });
    const property = fc.asyncProperty(
      record([
        "maxTokens",
        "temperature",
        "topK",
        "topP",
        "minP",
        "seed",
        "repeatPenalty",
        "penaltyWindow",
        "priority",
        "frequencyPenalty",
      ]),
      record(["steps", "alpha", "align", "priority"]),
      fc.array(anything, { maxLength: 4 }),
      async (generate, think, tokens) => {
        const fork = await sequence.fork();
        await settle(() => loose(fork, "generate")({ maxTokens: 4, ...generate }));
        await settle(() => loose(fork, "think")(think));
        await settle(() => loose(fork, "prefill")(tokens));
        await fork.dispose();
      },
    );
    await fc.assert(property, { numRuns: 150 });
    expect(pool.counters().poisoned).toBeUndefined();
    expect(pool.counters().openSequences).toBe(1);
  });

  it("text of any kind tokenises and comes back", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 60 }), (text) => {
        expect(model.detokenize(model.tokenize(text, { parseSpecial: false }))).toBe(text);
      }),
      { numRuns: 300 },
    );
  });
});
