// Content that goes from thread to thread of one process without being copied, and what is left of it when a thread ends.
import { once } from "node:events";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { expect, it } from "vitest";
import { bundledModel, KvHandle, loadModel, type KvTicket } from "../../lib/index.js";
import { codeOf } from "../helpers.js";

const built = pathToFileURL(path.resolve("dist/index.js")).href;

it("a ticket is the content in another thread, until its maker lets go", async () => {
  await using model = await loadModel(bundledModel("wren"));
  await using pool = await model.createPool({ contextLength: 512, maxSequences: 4 });
  const worker = new Worker(new URL("kv-worker.mjs", import.meta.url), { workerData: { package: built } });
  const message = async (): Promise<unknown> => ((await once(worker, "message")) as [unknown])[0];

  const ticket = (await message()) as KvTicket;
  using theirs = KvHandle.fromTicket(ticket);
  expect(theirs.label).toBe("of a worker");
  expect(theirs.length).toBe(200);
  const target = pool.sequence();
  expect(await target.importKv(theirs)).toMatchObject({ positions: 200, moved: 0 });
  const own = pool.sequence();
  await own.prefill(Int32Array.from({ length: 200 }, (_, i) => 5 + (i % 50)));
  using back = await target.exportKv({ label: "of a worker" });
  expect(Buffer.compare(await back.toBytes(), await theirs.toBytes())).toBe(0);

  // and the other way
  using mine = await own.exportKv({ label: "of the main thread" });
  const answer = message();
  worker.postMessage(mine.ticket());
  expect(await answer).toEqual({ tokens: (await own.generate({ maxTokens: 8 }).result).tokens, label: "of the main thread" });

  const gone = message();
  worker.postMessage("let go");
  expect(await gone).toBe("gone");
  expect(theirs.tokens().length).toBe(200); // what was taken stays
  const bytes = await theirs.toBytes();
  theirs.dispose();
  expect(await codeOf(() => KvHandle.fromTicket(ticket))).toBe("ERR_LATENT_DISPOSED");
  expect(bytes.length).toBeGreaterThan(1000);

  const next = message();
  worker.postMessage("again");
  const last = (await next) as KvTicket;
  using kept = KvHandle.fromTicket(last);
  await worker.terminate();
  expect(kept.tokens().length).toBe(200);
  kept.dispose();
  expect(await codeOf(() => KvHandle.fromTicket(last))).toBe("ERR_LATENT_DISPOSED");
});

it("what is no ticket, or one of another process, is refused", async () => {
  await using model = await loadModel(bundledModel("wren"));
  await using pool = await model.createPool({ contextLength: 256, maxSequences: 1 });
  const sequence = pool.sequence();
  await sequence.prefill("mia");
  const kv = await sequence.exportKv();
  const ticket = kv.ticket();
  for (const wrong of [
    null,
    {},
    { ...ticket, kind: "kv" },
    { ...ticket, ticket: 5 },
    { ...ticket, mixedFrom: "0" },
    { ...ticket, extra: 1 },
  ])
    expect(await codeOf(() => KvHandle.fromTicket(wrong as unknown as KvTicket))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  expect(await codeOf(() => KvHandle.fromTicket({ ...ticket, ticket: ticket.ticket.replace(/^\d/, "x") }))).toBe("ERR_LATENT_DISPOSED");
  using foreign = KvHandle.fromTicket({ ...ticket, identity: { ...ticket.identity, weights: "another" } });
  expect(await codeOf(() => pool.readKv(foreign.records()))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
  kv.dispose();
  expect(await codeOf(() => kv.ticket())).toBe("ERR_LATENT_DISPOSED");
});
