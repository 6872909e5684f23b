// The other end of a link, in a process of its own, which the test kills or stops. Arguments: the package, "send" or "receive", the address, positions,
// and options in JSON: `share` sends only a reference, as a line; `link` are options of the link; `hangAfter` stops sending after so many bytes.
import net from "node:net";
import { Duplex } from "node:stream";

const [built, role, address, positions, json] = process.argv.slice(2);
const { share = false, link = {}, hangAfter = Infinity } = JSON.parse(json);
const { bundledModel, loadModel, sendKv } = await import(built);
const model = await loadModel(bundledModel("finch"));
const pool = await model.createPool({ contextLength: 2048, maxSequences: 2 });
const socket = net.connect(address);
socket.on("error", () => undefined);
const say = (value) => new Promise((resolve) => process.stdout.write(`${JSON.stringify(value)}\n`, resolve));

/** The same socket, but what is written after so many bytes stays here for ever. */
function hanging(inner) {
  let left = hangAfter;
  const outer = new Duplex({
    read: () => inner.resume(),
    write(piece, _encoding, done) {
      const part = piece.subarray(0, left);
      left -= part.length;
      inner.write(part, () => {
        if (part.length === piece.length) done();
      });
    },
  });
  inner.on("data", (piece) => outer.push(piece) || inner.pause());
  inner.on("end", () => outer.push(null));
  return outer;
}

try {
  if (role === "send") {
    const sequence = pool.sequence();
    await sequence.prefill(Int32Array.from({ length: Number(positions) }, (_, i) => 5 + ((i * 7) % 90)));
    const kv = await sequence.exportKv({ label: "of another process" });
    if (share) {
      const shared = await kv.share();
      await say(shared.reference);
      await new Promise(() => setInterval(() => undefined, 1000));
    }
    await say(await sendKv(hangAfter === Infinity ? socket : hanging(socket), kv, link));
  } else {
    const sequence = pool.sequence();
    const { way, why, positions: added } = await sequence.receiveKv(socket, link);
    await say({ way, why, positions: added, tokens: (await sequence.generate({ maxTokens: 8 }).result).tokens });
  }
} catch (error) {
  await say({ code: error.code ?? error.name, message: error.message });
}
socket.destroy();
await pool.dispose();
await model.dispose();
