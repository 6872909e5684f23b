// What it costs to keep content: chunks in lmdb next to a plain file of the same bytes, and a prefix that is held, in memory or on disk, next to
// prefilling it again. The cache has the shape of a real model's; its weights are random and small, so prefilling is cheaper than a real model's.
import fs from "node:fs/promises";
import path from "node:path";
import { KvStore, loadModel } from "../dist/index.js";
import { interleave, promptTokens, row, time } from "./harness.mjs";
import { qwenCacheModel, temporaryFolder } from "./models.mjs";

const lengths = [512, 2048];
const rounds = 5;

/** As a commit of lmdb does, the write ends when the bytes are on the disk. */
async function writeSynced(file, bytes) {
  const handle = await fs.open(file, "w");
  await handle.writeFile(bytes);
  await handle.sync();
  await handle.close();
}

async function measure(model, pool, length) {
  const tokens = promptTokens(model, length);
  const reader = pool.sequence();
  const prefill = await time(() => reader.prefill(tokens));
  const kv = await reader.exportKv();
  await reader.dispose();
  const { bytes } = kv.info;
  const plain = Buffer.alloc(bytes, 1);
  const target = Buffer.alloc(bytes, 2);
  const file = path.join(temporaryFolder(), "plain");
  const disk = await KvStore.open({ path: path.join(temporaryFolder(), `store-${length}`), ramBytes: 0 });
  const memory = await KvStore.open({ ramBytes: 2 * bytes });
  await memory.put(kv);
  const hit = async (store) => {
    let lease;
    const found = await time(async () => {
      lease = await store.find(pool, tokens);
    });
    const receiver = pool.sequence();
    const imported = await time(() => receiver.importKv(lease.handle, { positions: "keep" }));
    lease.dispose();
    await receiver.dispose();
    return { found, imported };
  };
  const times = await interleave(
    [
      async () => ({ memcpy: await time(() => target.set(plain)) }),
      async () => ({ "file written": await time(() => writeSynced(file, plain)), "file read": await time(() => fs.readFile(file)) }),
      async () => {
        await disk.clear();
        const put = await time(() => disk.put(kv));
        const { found, imported } = await hit(disk);
        return { put, "found on disk": found, "hit on disk": found + imported };
      },
      async () => {
        const { found, imported } = await hit(memory);
        return { "found in memory": found, "hit in memory": found + imported };
      },
    ],
    { rounds },
  );
  kv.dispose();
  await disk.close();
  await memory.close();
  return { times, bytes, prefill };
}

export async function run(want) {
  if (!want("kv store")) return [];
  const model = await loadModel(await qwenCacheModel());
  const pool = await model.createPool({ contextLength: 4352, maxSequences: 4 });
  const rows = [];
  for (const length of lengths) {
    const { times, bytes, prefill } = await measure(model, pool, length);
    const shape = `${length} positions, ${(bytes / 1e6).toFixed(0)} MB f16, cache of Qwen3-4B's shape, random weights`;
    const add = (name, ms, peer, peerMs) =>
      rows.push(row({ name: `kv store: ${name}`, shape, ms, peers: { [peer]: peerMs }, ratio: peerMs / ms }));
    add("put on disk", times.put, "plain file, synced", times["file written"]);
    add("found on disk and verified", times["found on disk"], "plain file", times["file read"]);
    add("found in memory", times["found in memory"], "memcpy", times.memcpy);
    add("from disk into the cache, against reading again", times["hit on disk"], "prefill again", prefill);
    add("from memory into the cache, against reading again", times["hit in memory"], "prefill again", prefill);
  }
  await pool.dispose();
  await model.dispose();
  return rows;
}
