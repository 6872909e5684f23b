// Runs in a worker: fills a sequence, gives its content away by a ticket, and then takes one, by whose content it answers. It keeps its own until it is
// told to let go.
import { once } from "node:events";
import { parentPort, workerData } from "node:worker_threads";

const { KvHandle, bundledModel, loadModel } = await import(workerData.package);
const model = await loadModel(bundledModel("wren"));
const pool = await model.createPool({ contextLength: 512, maxSequences: 4 });
const source = pool.sequence();
await source.prefill(Int32Array.from({ length: 200 }, (_, i) => 5 + (i % 50)));
const kv = await source.exportKv({ label: "of a worker" });
parentPort.postMessage(kv.ticket());
const [theirs] = await once(parentPort, "message");
const taken = KvHandle.fromTicket(theirs);
const target = pool.sequence();
await target.importKv(taken);
parentPort.postMessage({ tokens: (await target.generate({ maxTokens: 8 }).result).tokens, label: taken.label });
await once(parentPort, "message");
kv.dispose();
parentPort.postMessage("gone");
await once(parentPort, "message");
parentPort.postMessage((await source.exportKv()).ticket());
await once(parentPort, "message");
