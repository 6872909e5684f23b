// A worker that reads one entry, does not acknowledge it, says what it was, and waits for its end.
import { parentPort, workerData } from "node:worker_threads";

const { connectPort } = await import(workerData.built);
const broker = await connectPort(workerData.port);
await broker.announce("worker", "1");
const reader = await broker.open("log", "reader", { windowBytes: 1 << 20, signal: new AbortController().signal });
for await (const { head } of reader) {
  // a round trip, so that the hub knows that it has been delivered
  await broker.present();
  parentPort.postMessage(JSON.parse(head));
  await new Promise(() => setInterval(() => undefined, 1000));
}
