// Content on a hub is there for as long as somebody needs it, and no longer: a hub that can keep little carries much.
import { afterEach, describe, expect, it } from "vitest";
import { bundledModel, connect, Latent, listen, loadModel, Tensor } from "../../lib/index.js";

const undo: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const one of undo.splice(0).reverse()) await one();
});

async function start() {
  const hub = await listen("http://127.0.0.1:0", { limits: { pieceBytes: 2 << 20 } });
  undo.push(() => hub.close({ drainMs: 0 }));
  const model = await loadModel(bundledModel());
  undo.push(() => model.dispose());
  const [sender, receiver, third] = await Promise.all([1, 2, 3].map(() => connect(hub.url, { inlineBytes: 0, sharedMemory: false })));
  if (sender === undefined || receiver === undefined || third === undefined) throw new Error("three buses");
  for (const bus of [sender, receiver, third]) undo.push(() => bus.close({ drainMs: 0 }));
  const d = model.space.dimension;
  const latentOf = (seed: number): Latent => {
    const rows = Float32Array.from({ length: 512 * d }, (_, i) => Math.sin(i + seed * 1e6));
    return new Latent(model.space, "embeds", Tensor.fromTyped("f32", [512, d], rows));
  };
  return { sender, receiver, third, model, latentOf };
}

const bytesOf = (latent: Latent): Buffer => Buffer.from(latent.tensor().toFloat32().buffer);

describe("content on a hub", () => {
  it("goes when its message is acknowledged, the same content of another message only with that one", async () => {
    const { sender, receiver, model, latentOf } = await start();
    const inbox = await receiver.inbox("box", { accepts: model });
    const messages = inbox[Symbol.asyncIterator]();
    for (let i = 0; i < 20; i++) {
      using latent = latentOf(i);
      const sent = [await sender.send("box", latent), await sender.send("box", latent)];
      expect(sent[0]).toMatchObject({ form: "latent", way: "bus" });
      for (const one of sent) {
        const { value: message } = await messages.next();
        if (message === undefined) throw new Error("a message");
        using got = await message.content.latent();
        expect(bytesOf(got).equals(bytesOf(latent))).toBe(true);
        await message.ack();
        await one.acknowledged();
      }
    }
  });

  it("that was passed on is kept for the one it was passed to", async () => {
    const { sender, receiver, third, model, latentOf } = await start();
    const first = (await receiver.inbox("first", { accepts: model }))[Symbol.asyncIterator]();
    const second = (await third.inbox("second", { accepts: model }))[Symbol.asyncIterator]();
    using latent = latentOf(7);
    const sent = await sender.send("first", latent);
    const { value: message } = await first.next();
    if (message === undefined) throw new Error("a message");
    await receiver.send("second", message.content);
    await message.ack();
    await sent.acknowledged();
    const { value: passed } = await second.next();
    if (passed === undefined) throw new Error("a message");
    using got = await passed.content.latent();
    expect(got.shape).toEqual(latent.shape);
    await passed.ack();
  });
});
