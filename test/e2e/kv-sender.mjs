// A process that fills a sequence and sends what it holds to a socket, a piece at a time; the test kills or stops it on the way. Arguments: the
// package, the socket, positions, what the receiver holds (hex), the number of bytes after which it falls silent, and the codec, a file of one or none:
// what is in flight beyond the
// point where the test acts is then bounded, however large the buffers of a socket are.
import { readFile } from "node:fs/promises";
import net from "node:net";

const [built, address, positions, held, silentAfter, name] = process.argv.slice(2);
const { bundledModel, Kvtc, loadModel } = await import(built);
const codec = name?.endsWith(".kvtc") ? await Kvtc.load(await readFile(name)) : name;
const model = await loadModel(bundledModel("finch"));
const pool = await model.createPool({ contextLength: 2048, maxSequences: 2 });
const sequence = pool.sequence();
await sequence.prefill(Int32Array.from({ length: Number(positions) }, (_, i) => 5 + ((i * 7) % 90)));
const kv = await sequence.exportKv();
const socket = net.connect(address);
let sent = 0;
for await (const piece of kv.records({ held: Buffer.from(held, "hex"), bufferBytes: 30_000, codec })) {
  const part = piece.subarray(0, Math.max(0, Number(silentAfter) - sent));
  if (!socket.write(part)) await new Promise((resolve) => socket.once("drain", resolve));
  sent += part.length;
  if (part.length < piece.length) await new Promise(() => setInterval(() => undefined, 1000));
}
socket.end();
await new Promise((resolve) => socket.once("close", resolve));
await pool.dispose();
await model.dispose();
