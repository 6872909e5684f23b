// A process that fills a sequence and sends what it holds to a socket, a piece at a time; the test kills or stops it on the way. Arguments: the
// package, the socket, positions, what the receiver holds (hex), milliseconds between pieces.
import net from "node:net";
import { setTimeout } from "node:timers/promises";

const [built, address, positions, held, pause] = process.argv.slice(2);
const { bundledModel, loadModel } = await import(built);
const model = await loadModel(bundledModel("finch"));
const pool = await model.createPool({ contextLength: 2048, maxSequences: 2 });
const sequence = pool.sequence();
await sequence.prefill(Int32Array.from({ length: Number(positions) }, (_, i) => 5 + ((i * 7) % 90)));
const kv = await sequence.exportKv();
const socket = net.connect(address);
for await (const piece of kv.records({ held: Buffer.from(held, "hex"), bufferBytes: 30_000 })) {
  if (!socket.write(piece)) await new Promise((resolve) => socket.once("drain", resolve));
  await setTimeout(Number(pause));
}
socket.end();
await new Promise((resolve) => socket.once("close", resolve));
await pool.dispose();
await model.dispose();
