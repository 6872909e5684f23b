// Handing over what an agent holds: by shared cells, by a saved state, and through a file of node-llama-cpp, each against feeding the tokens again.
import path from "node:path";
import { interleave, promptTokens, row, time } from "./harness.mjs";
import { smallModels, temporaryFolder } from "./models.mjs";
import { startNodeLlamaCpp } from "./node-llama-cpp.mjs";

const lengths = [128, 512, 2048];
const contextLength = 8192;

async function measure(pool, tokens, peer) {
  const next = tokens.subarray(0, 1);
  const sender = pool.sequence();
  await sender.prefill(tokens);

  const byCells = async () => {
    let receiver;
    const fork = await time(async () => {
      receiver = await sender.fork();
    });
    const step = await time(() => receiver.prefill(next));
    await receiver.dispose();
    return { fork, forkAndToken: fork + step };
  };
  const byTokens = async () => {
    const receiver = pool.sequence();
    const prefill = await time(() => receiver.prefill(tokens));
    const step = await time(() => receiver.prefill(next));
    await receiver.dispose();
    return { prefill, prefillAndToken: prefill + step };
  };
  const byState = async () => {
    let receiver;
    const state = await time(async () => {
      receiver = await pool.restore(await sender.save());
    });
    await receiver.dispose();
    return { state };
  };
  const cases = [byCells, byTokens, byState];
  if (peer !== undefined) cases.push(async () => ({ file: await peer.handOff() }));
  const result = await interleave(cases);
  await sender.dispose();
  return result;
}

export async function run(want) {
  const names = ["hand-off by kv", "hand-off by kv and one token", "hand-off by saved state"];
  if (!names.some(want)) return [];
  const rows = [];
  for (const { model, label } of await smallModels()) {
    const pool = await model.createPool({ contextLength, maxSequences: 4 });
    const peer = await startNodeLlamaCpp(model.path, contextLength, pool.info.threads, path.join(temporaryFolder(), "peer.state"));
    for (const length of lengths) {
      const tokens = promptTokens(model, length);
      await peer?.prepare(tokens);
      const times = await measure(pool, tokens, peer);
      const shape = `${length} positions; ${label}`;
      const gain = times.prefill / times.fork;
      rows.push(
        row({
          name: names[0],
          shape,
          ms: times.fork,
          peers: { "prefill again": times.prefill },
          ratio: gain,
          target: length === 512 ? { what: "ratio", compare: ">=", limit: 20, unit: "x", value: gain } : null,
        }),
        row({
          name: names[1],
          shape,
          ms: times.forkAndToken,
          peers: { "prefill again": times.prefillAndToken },
          ratio: times.prefillAndToken / times.forkAndToken,
        }),
        row({
          name: names[2],
          shape,
          ms: times.state,
          peers: { "prefill again": times.prefill, "node-llama-cpp state file": times.file ?? "absent" },
          ratio: times.prefill / times.state,
        }),
      );
    }
    await peer?.stop();
    await pool.dispose();
  }
  return rows.filter((one) => want(one.name));
}
