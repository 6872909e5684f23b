// A reader and a writer in two processes: the reader reads the facts and sends what it holds over a link, the writer answers from it. On one machine
// it goes by shared memory, else as a stream. If the reader is lost, here when it is started with "die", the writer reads the text instead, and the
// result says so.
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { bundledModel, LatentError, loadModel, sendKv, type ChatMessage, type Sequence } from "latentwire";

const facts: ChatMessage[] = [
  { role: "user", content: "mia has the red key. tom lives in oslo. ann has the blue coin. ben lives in lima." },
];
const question: ChatMessage[] = [{ role: "user", content: "where does tom live?" }];

async function answer(sequence: Sequence): Promise<{ text: string; tokens: readonly number[] }> {
  await sequence.prefill(question);
  return await sequence.generate({ maxTokens: 16 }).result;
}

await using model = await loadModel(bundledModel());
await using pool = await model.createPool({ contextLength: 512, maxSequences: 2 });

async function read(address: string, dies: boolean): Promise<void> {
  const reader = pool.sequence();
  await reader.prefill(facts);
  await reader.think({ steps: 8 });
  using kv = await reader.exportKv({ label: "the reader" });
  const socket = net.connect(address);
  // as soon as the writer has said what it wants
  if (dies) socket.once("readable", () => process.kill(process.pid, "SIGKILL"));
  await sendKv(socket, kv);
  socket.end();
  process.send?.((await answer(reader)).tokens);
}

async function write(dies: boolean): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), "latentwire-"));
  const address = process.platform === "win32" ? `\\\\.\\pipe\\${path.basename(folder)}` : path.join(folder, "kv.sock");
  const server = net.createServer().listen(address);
  await once(server, "listening");
  const reader = fork(fileURLToPath(import.meta.url), ["reader", address, dies ? "dies" : "lives"]);
  const readersTokens = once(reader, "message");
  try {
    const [socket] = (await once(server, "connection")) as [net.Socket];
    const writer = pool.sequence();
    let medium = "kv";
    try {
      const { positions, way, why, ms } = await writer.receiveKv(socket, { idleMs: 10_000 });
      console.log(`${positions} positions came by ${way} (${why}), ${ms.toFixed(1)} ms`);
    } catch (error) {
      if (!LatentError.isInstance(error)) throw error;
      console.log(`${error.code}: ${error.message}`);
      medium = "text";
      await writer.prefill(facts);
    }
    const { text, tokens } = await answer(writer);
    console.log({ medium, answer: text.trim() });
    if (!dies) console.log({ same: JSON.stringify(tokens) === JSON.stringify((await readersTokens)[0]) });
  } finally {
    server.close();
    if (reader.connected) reader.disconnect();
    rmSync(folder, { recursive: true, force: true });
  }
}

const [role, address, fate] = process.argv.slice(2);
if (role === "reader" && address !== undefined) await read(address, fate === "dies");
else await write(role === "die");
