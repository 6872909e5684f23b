// A sequence whose outputs are out of date decodes its last position again before it thinks, speaks or tells its logits. Whatever ends such an
// operation early, the position must not be lost.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel, loadModel, type Model, type Pool, type Sequence } from "../../lib/index.js";
import { codeOf, floats, greedy, maxAbsDifference } from "./helpers.js";

const text = "<|user|> mia has the red key. tom lives in oslo.<|end|><|assistant|>";
let model: Model;
let pool: Pool;

beforeAll(async () => {
  model = await loadModel(bundledModel());
  pool = await model.createPool({ contextLength: 1024, maxSequences: 8 });
});
afterAll(async () => {
  await pool.dispose();
  await model.dispose();
});

// prefilled without hidden states, so that a thought must begin with a refresh
async function stale(): Promise<Sequence> {
  const sequence = pool.sequence();
  await sequence.prefill(text);
  return sequence;
}

describe("the last position survives", () => {
  it("a thought whose listener throws", async () => {
    const sequence = await stale();
    const log = [...sequence.log()];
    for (let i = 0; i < 20; i++) {
      const failing = sequence.think({
        steps: 400,
        onStep() {
          throw new Error("from the listener");
        },
      });
      await expect(failing).rejects.toThrow("from the listener");
      expect([...sequence.log()]).toEqual(log);
    }
    await sequence.dispose();
  });

  it("aborts at any point of a thought, of logits and of words", async () => {
    const reference = await stale();
    const log = [...reference.log()];
    const logits = await floats(reference.logits());
    let aborted = 0;
    for (let i = 0; i < 150; i++) {
      const sequence = await stale();
      const abort = new AbortController();
      const work = [
        () => sequence.think({ steps: 100, signal: abort.signal }),
        async () => {
          await sequence.truncate(sequence.length - 1);
          await sequence.prefill([log.at(-1) ?? 0]);
          const fork = await sequence.fork();
          await codeOf(() => fork.logits({ signal: abort.signal }));
          expect([...fork.log()]).toEqual(log);
          await fork.dispose();
          return sequence.hidden({ signal: abort.signal });
        },
      ][i % 2];
      const outcome = codeOf(() => work?.());
      if (i % 5 === 0) abort.abort();
      else if (i % 5 === 1)
        queueMicrotask(() => {
          abort.abort();
        });
      else
        setTimeout(() => {
          abort.abort();
        }, i % 4);
      if ((await outcome).includes("AbortError")) {
        aborted++;
        expect([...sequence.log()]).toEqual(log);
        expect(maxAbsDifference(await floats(sequence.logits()), logits)).toBeLessThan(0.05);
      }
      await sequence.dispose();
    }
    expect(aborted).toBeGreaterThan(20);
    await reference.dispose();
    expect(pool.counters().usedCells).toBe(0);
  });

  it("a full pool, where the last cell belongs to a fork as well", async () => {
    await using small = await model.createPool({ contextLength: 256, maxSequences: 2 });
    const sequence = small.sequence();
    const tokens = Array.from({ length: small.info.contextLength }, (_, i) => 5 + (i % 200));
    await sequence.prefill(tokens);
    const fork = await sequence.fork();
    expect(await codeOf(() => fork.hidden())).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    expect([...fork.log()]).toEqual(tokens);
    await fork.dispose();
    expect((await sequence.hidden()).shape).toEqual([model.info.embeddingLength]);
    expect([...sequence.log()]).toEqual(tokens);
    await sequence.truncate(200);
    expect(await greedy(sequence, 4)).not.toHaveLength(0);
  });
});
