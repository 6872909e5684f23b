// Steps of one sequence and of eight: what a latent step costs against a token step, and what decoding together gains.
import { interleave, promptTokens, row, time } from "./harness.mjs";
import { allModels } from "./models.mjs";

const steps = 64;
const agents = 8;
const prefixLength = 64;

/** Sequences after a prompt from which greedy sampling does not end early, and a way back to that state with its outputs at hand. */
async function startSequences(pool, count) {
  const sequences = [];
  for (let seed = 1; sequences.length < count; seed++) {
    if (seed > 200) throw new Error("no prompt keeps this model talking");
    const tokens = promptTokens(pool.model, prefixLength, seed);
    const sequence = pool.sequence();
    await sequence.prefill(tokens);
    const { reason } = await sequence.generate({ maxTokens: steps }).result;
    if (reason !== "length") {
      await sequence.dispose();
      continue;
    }
    const rewind = async () => {
      await sequence.truncate(prefixLength - 1);
      await sequence.prefill(tokens.subarray(prefixLength - 1), { hidden: "last" });
    };
    sequences.push({ sequence, rewind });
  }
  return sequences;
}

async function latentAgainstToken({ model, label }) {
  const pool = await model.createPool({ contextLength: 1024, maxSequences: 2 });
  const [{ sequence, rewind }] = await startSequences(pool, 1);
  const think = async () => {
    await rewind();
    let latent;
    const ms = await time(async () => {
      latent = await sequence.think({ steps });
    });
    latent.dispose?.();
    return { think: ms / steps };
  };
  const generate = async () => {
    await rewind();
    return { generate: (await time(() => sequence.generate({ maxTokens: steps }).result)) / steps };
  };
  const times = await interleave([think, generate]);
  await pool.dispose();
  const cost = times.think / times.generate;
  return row({
    name: "latent step",
    shape: `per step of ${steps}; ${label}`,
    ms: times.think,
    peers: { "token step": times.generate },
    ratio: cost,
    target: { what: "ratio", compare: "<=", limit: 1.1, unit: "x", value: cost },
  });
}

async function togetherAgainstApart({ model, label }) {
  const pool = await model.createPool({ contextLength: 4096, maxSequences: 16 });
  const group = await startSequences(pool, agents);
  const rewindAll = async () => {
    for (const { rewind } of group) await rewind();
  };
  const together = async () => {
    await rewindAll();
    const before = pool.counters();
    const ms = await time(() => Promise.all(group.map(({ sequence }) => sequence.generate({ maxTokens: steps }).result)));
    const after = pool.counters();
    return { together: ms, rowsPerCall: (after.decodedRows - before.decodedRows) / (after.decodeCalls - before.decodeCalls) };
  };
  const apart = async () => {
    await rewindAll();
    return {
      apart: await time(async () => {
        for (const { sequence } of group) await sequence.generate({ maxTokens: steps }).result;
      }),
    };
  };
  const times = await interleave([together, apart]);
  await pool.dispose();
  const gain = times.apart / times.together;
  return row({
    name: "concurrent agents",
    shape: `${agents} x ${steps} tokens, ${times.rowsPerCall.toFixed(1)} rows a decode call; ${label}`,
    ms: times.together,
    peers: { "one at a time": times.apart },
    ratio: gain,
    target: { what: "throughput", compare: ">=", limit: 2, unit: "x", value: gain },
  });
}

export async function run(want) {
  const rows = [];
  for (const one of want("latent step") || want("concurrent agents") ? await allModels() : []) {
    if (want("latent step")) rows.push(await latentAgainstToken(one));
    if (want("concurrent agents")) rows.push(await togetherAgainstApart(one));
  }
  return rows;
}
