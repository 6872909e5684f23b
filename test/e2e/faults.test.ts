// An engine that fails: what breaks is told by its own code, touches its own pool only, and leaves everything else as it was. The engine is the real
// llama.cpp behind a library that fails on demand, in a process of its own.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { findEngine } from "../../lib/models/runtime.js";
import { writeTinyModel } from "../fixtures/gguf.js";
import { compilerEnvironment, folder } from "./helpers.js";

const engine = path.join(folder, "faulty");
const faultFile = path.join(folder, "fault");

/** The real libraries by link, except llama.cpp itself, which our library takes the place of and is linked against. */
function buildEngine(): void {
  const real = findEngine();
  mkdirSync(engine, { recursive: true });
  const library = "libllama.v0.5.0.so";
  for (const name of readdirSync(real)) if (name !== library) symlinkSync(path.join(real, name), path.join(engine, name));
  const command = ["-std=c++20", "-shared", "-fPIC", "-Inative", "-o", path.join(engine, library), "test/fixtures/faulty_llama.cpp"];
  execFileSync(
    "c++",
    [...command, "-Wl,--no-as-needed", path.join(real, library), path.join(real, "libggml-base.so"), `-Wl,-rpath,${real}`],
    { env: compilerEnvironment },
  );
}

/**
 * Runs the body of a script in its own process on the faulty engine. It has `lw` (the package), `fault(kind)`, `codeOf(promise)` and, unless it
 * loads for itself, `model` and `pool`; what it returns is the result.
 */
function onFaultyEngine(body: string, { loads = false } = {}): unknown {
  const prepared = loads
    ? ""
    : `const model = await lw.loadModel(lw.bundledModel()); const pool = await model.createPool({ contextLength: 256, maxSequences: 4 });`;
  const script = `
    import { writeFileSync } from "node:fs";
    const lw = await import(${JSON.stringify(path.resolve("dist/index.js"))});
    const fault = (kind) => writeFileSync(${JSON.stringify(faultFile)}, kind);
    const codeOf = (promise) => promise.then(() => "no error", (error) => error.code);
    const run = async () => { ${prepared} ${body} };
    console.log(JSON.stringify(await run()));
    process.exit(0);`;
  writeFileSync(faultFile, "");
  const { stdout, stderr, status, signal } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    env: { ...process.env, LATENTWIRE_LLAMA_DIR: engine, LATENTWIRE_FAULT_FILE: faultFile },
    encoding: "utf8",
    timeout: 60_000,
  });
  if (status !== 0) throw new Error(`exit ${String(status)} ${String(signal)}: ${stderr}`);
  return JSON.parse(stdout);
}

describe.skipIf(process.platform !== "linux")("an engine that fails", () => {
  beforeAll(buildEngine);

  it("without a fault it is the real engine", () => {
    const text = onFaultyEngine(`
      const sequence = pool.sequence();
      await sequence.prefill("mia has the red key.");
      return (await sequence.generate({ maxTokens: 4 }).result).tokens.length;`);
    expect(text).toBe(4);
  });

  it("rows that are read otherwise than tokens fail the self-test at load", () => {
    expect(onFaultyEngine(`fault("rows-differ"); return codeOf(lw.loadModel(lw.bundledModel()));`, { loads: true })).toBe(
      "ERR_LATENT_ENGINE_SELF_TEST",
    );
  });

  it("37. states of another byte order or of another release: the pool works, and keys and values do not leave it", () => {
    for (const kind of ["state-big-endian", "state-later"]) {
      const result = onFaultyEngine(`
        fault("${kind}");
        const other = await model.createPool({ contextLength: 256, maxSequences: 2 });
        fault("");
        const sequence = other.sequence();
        await sequence.prefill("mia has the red key.");
        const log = [...sequence.log()];
        const source = pool.sequence();
        await source.prefill("mia has the red key.");
        const kv = await source.exportKv();
        const bytes = await source.save();
        const codes = [];
        for (const call of [() => sequence.exportKv(), () => sequence.save(), () => sequence.importKv(kv), () => sequence.importKv(bytes), () => other.restore(bytes), async () => other.kvReceiver()])
          codes.push(await codeOf(call()));
        const same = JSON.stringify([...sequence.log()]) === JSON.stringify(log);
        return { codes, same, tokens: (await sequence.generate({ maxTokens: 4 }).result).tokens.length, sequences: other.counters().openSequences };`);
      const codes = Array.from({ length: 6 }, () => expect.stringMatching(/^ERR_LATENT_KV_(LAYOUT|MODEL_MISMATCH)$/) as string);
      expect(result).toEqual({ codes, same: true, tokens: 4, sequences: 1 });
    }
  });

  it("37. a graph that does not tell its layers: which rows of two caches are whose cannot be proved, and they do not leave the pool", () => {
    const file = path.join(folder, "unproved.gguf");
    writeTinyModel(file, { architecture: "gemma2", layers: 4 });
    const result = onFaultyEngine(
      `
      const model = await lw.loadModel(${JSON.stringify(file)});
      const results = [];
      for (const kind of ["graph-unnamed", "graph-alike", ""]) {
        fault(kind);
        const pool = await model.createPool({ contextLength: 256, maxSequences: 4 });
        const sequence = pool.sequence();
        await sequence.prefill([5, 6, 7, 8]);
        const { tokens } = await sequence.generate({ maxTokens: 4 }).result;
        results.push([await codeOf(sequence.save()), await codeOf(sequence.drop({ from: 0, to: 2 })), tokens.length > 0]);
        await pool.dispose();
      }
      return results;`,
      { loads: true },
    );
    const refused = ["ERR_LATENT_KV_LAYOUT", "ERR_LATENT_POSITION_SCHEME", true];
    expect(result).toEqual([refused, refused, ["no error", "no error", true]]);
  });

  it("34. a state whose second cache the engine cannot take leaves nothing of its first one behind", () => {
    const file = path.join(folder, "windows.gguf");
    writeTinyModel(file, { architecture: "gemma2", layers: 4 });
    const result = onFaultyEngine(
      `
      const model = await lw.loadModel(${JSON.stringify(file)});
      const pool = await model.createPool({ contextLength: 256, maxSequences: 4 });
      const source = pool.sequence();
      await source.prefill(Int32Array.from({ length: 40 }, (_, i) => 5 + i));
      const kv = await source.exportKv();
      const target = pool.sequence();
      await target.prefill([7, 8, 9]);
      const before = Buffer.from(await target.save());
      const cells = pool.counters().usedCells;
      fault("state-cut");
      const code = await codeOf(target.importKv(kv));
      fault("");
      const same = Buffer.compare(Buffer.from(await target.save()), before) === 0;
      const freed = pool.counters().usedCells === cells;
      await target.importKv(kv);
      // all cells that are left are free
      const rest = pool.sequence();
      await rest.prefill(Int32Array.from({ length: 256 - 40 - 43 }, (_, i) => 5 + (i % 200)));
      return { code, same, freed, length: target.length };`,
      { loads: true },
    );
    expect(result).toEqual({ code: "ERR_LATENT_CONTEXT_OVERFLOW", same: true, freed: true, length: 43 });
  });

  it("no context", () => {
    const codes = onFaultyEngine(`
      fault("context-refused");
      const refused = await codeOf(model.createPool());
      fault("context-throws");
      const thrown = await codeOf(model.createPool());
      fault("");
      return [refused, thrown, await codeOf(model.createPool())];`);
    expect(codes).toEqual(["ERR_LATENT_OUT_OF_MEMORY", "ERR_LATENT_ENGINE_FAILED", "no error"]);
  });

  it("a decode that fails ends the operation, puts the sequence back and leaves the pool usable", () => {
    const result = onFaultyEngine(`
      const sequence = pool.sequence();
      await sequence.prefill("mia has the red key.");
      const log = [...sequence.log()];
      const logits = (await sequence.logits()).toFloat32();
      fault("decode-fails");
      const code = await codeOf(sequence.prefill("tom lives in oslo."));
      fault("");
      const after = (await sequence.logits()).toFloat32();
      return { code, same: String(sequence.log()) === String(log) && after.every((x, i) => Math.abs(x - logits[i]) < 0.05),
        poisoned: pool.counters().poisoned ?? null, next: await codeOf(sequence.prefill("tom lives in oslo.")) };`);
    expect(result).toEqual({ code: "ERR_LATENT_ENGINE_FAILED", same: true, poisoned: null, next: "no error" });
  });

  it("a decode that fails once while the last position is decoded again loses nothing", () => {
    const result = onFaultyEngine(`
      const sequence = pool.sequence();
      await sequence.prefill("mia has the red key.");
      const length = sequence.length;
      const other = await sequence.fork();
      fault("decode-fails 1");
      const latent = await sequence.think({ steps: 2 });
      const thought = sequence.length - length;
      fault("decode-fails 1 ");
      const both = await Promise.all([codeOf(other.think({ steps: 1 })), codeOf(pool.sequence().prefill("tom lives in oslo."))]);
      return { thought, both, length: other.length - length, poisoned: pool.counters().poisoned ?? null };`);
    expect(result).toEqual({ thought: 2, both: ["no error", expect.stringMatching(/no error|ENGINE_FAILED/)], length: 1, poisoned: null });
  });

  it("an engine that keeps failing there poisons its pool, which says so to everything that follows", () => {
    const result = onFaultyEngine(`
      const sequence = pool.sequence();
      await sequence.prefill("mia has the red key.");
      fault("decode-fails");
      const code = await codeOf(sequence.think({ steps: 2 }));
      fault("");
      return [code, await codeOf(sequence.logits())];`);
    expect(result).toEqual(["ERR_LATENT_ENGINE_FAILED", "ERR_LATENT_POOL_POISONED"]);
  });

  it.each(["decode-throws", "decode-asserts"])("%s: this pool is poisoned, with all that runs in it; another goes on", (kind) => {
    const result = onFaultyEngine(`
      const neighbour = await model.createPool({ contextLength: 256 });
      const [a, b, c] = [pool.sequence(), pool.sequence(), neighbour.sequence()];
      for (const one of [a, b, c]) await one.prefill("mia has the red key.");
      fault(${JSON.stringify(kind)} + " 1");
      const running = await Promise.all([codeOf(a.generate({ maxTokens: 50 }).result), codeOf(b.generate({ maxTokens: 50 }).result)]);
      fault("");
      let fresh = "no error";
      try { pool.sequence(); } catch (error) { fresh = error.code; }
      const after = [await codeOf(a.logits()), await codeOf(b.save()), fresh];
      const next = [await codeOf(c.generate({ maxTokens: 4 }).result)];
      const reason = pool.counters().poisoned;
      await a.dispose(); await b.dispose(); await pool.dispose();
      next.push(await codeOf((await model.createPool()).sequence().prefill("tom lives in oslo.")));
      return { running, after, next, reason };`);
    const poisoned = "ERR_LATENT_POOL_POISONED";
    expect(result).toEqual({
      // the second may have come a moment after the fault
      running: ["ERR_LATENT_ENGINE_FAILED", expect.stringMatching(/^ERR_LATENT_(ENGINE_FAILED|POOL_POISONED)$/)],
      after: [poisoned, poisoned, poisoned],
      next: ["no error", "no error"],
      reason: expect.stringContaining(kind) as string,
    });
  });

  it("a state that llama.cpp does not take leaves the sequence unmade and the pool usable", () => {
    const result = onFaultyEngine(`
      const sequence = pool.sequence();
      await sequence.prefill("mia has the red key.");
      const saved = await sequence.save();
      const { usedCells, openSequences } = pool.counters();
      fault("state-refused");
      const code = await codeOf(pool.restore(saved));
      fault("");
      const counters = pool.counters();
      return { code, same: counters.usedCells === usedCells && counters.openSequences === openSequences, next: await codeOf(pool.restore(saved)) };`);
    expect(result).toEqual({ code: "ERR_LATENT_CONTEXT_OVERFLOW", same: true, next: "no error" });
  });
});
