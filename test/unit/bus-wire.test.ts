// Frames and ports: whatever the pieces in which bytes come, and whatever the bytes, there are messages or one kind of error.
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MessageChannel } from "node:worker_threads";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { say, understand } from "../../lib/bus/brokers/hub/protocol.js";
import { frameBytes, framePrefix, FrameReader, PortWire, StreamWire } from "../../lib/bus/brokers/hub/wire.js";
import type { Message, Wire } from "../../lib/bus/brokers/hub/wire.js";
import { LatentError } from "../../lib/index.js";

const message = fc.record({
  head: fc.string({ unit: "binary", minLength: 1 }).map((text) => Buffer.from(text).toString()),
  body: fc.uint8Array({ maxLength: 300 }),
});
const plain = ({ head, body }: Message): unknown => ({ head, body: Buffer.from(body).toString("hex") });
const bytesOf = (messages: readonly Message[]): Buffer => Buffer.concat(messages.flatMap((one) => [framePrefix(one), one.body]));

/** All messages of bytes that come in pieces of these lengths, over and over. */
function read(bytes: Buffer, lengths: readonly number[]): Message[] {
  const reader = new FrameReader();
  const messages: Message[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const length = lengths[i % lengths.length] ?? 1;
    reader.push(bytes.subarray(at, at + length));
    at += length;
    for (let next = reader.next(); next !== undefined; next = reader.next()) messages.push(next);
  }
  return messages;
}

const lengths = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 20 });

describe("frames", () => {
  it("are found however the stream is cut", () => {
    fc.assert(
      fc.property(fc.array(message, { maxLength: 20 }), lengths, (messages, cuts) => {
        expect(read(bytesOf(messages), cuts).map(plain)).toEqual(messages.map(plain));
      }),
    );
  });

  it("have bodies that keep nothing else in memory", () => {
    for (const { body } of read(bytesOf([say("a", {}, "", Buffer.from("x")), say("b", {}, "", randomBytes(5000))]), [100_000]))
      expect(body.buffer.byteLength).toBe(body.length);
  });

  it("that are damaged or are none are told by one error, before anything large is allocated", () => {
    fc.assert(
      fc.property(
        fc.array(message, { minLength: 1, maxLength: 5 }),
        lengths,
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (messages, cuts, at, turn) => {
          const bytes = bytesOf(messages);
          const place = at % bytes.length;
          bytes[place] = (bytes[place] ?? 0) ^ turn;
          try {
            for (const { head, body } of read(bytes, cuts)) expect(head.length + body.length).toBeLessThanOrEqual(frameBytes);
          } catch (error) {
            expect(LatentError.isInstance(error) && error.code).toBe("ERR_LATENT_BUS_ENVELOPE");
          }
        },
      ),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), lengths, (bytes, cuts) => {
        try {
          read(Buffer.from(bytes), cuts);
        } catch (error) {
          expect(LatentError.isInstance(error) && error.code).toBe("ERR_LATENT_BUS_ENVELOPE");
        }
      }),
    );
  });

  it("have a largest one", () => {
    const head = "h".repeat(100);
    expect(read(bytesOf([{ head, body: new Uint8Array(frameBytes - 100) }]), [65_536])).toHaveLength(1);
    expect(() => read(bytesOf([{ head, body: new Uint8Array(frameBytes - 99) }]), [65_536])).toThrow(LatentError);
  });
});

describe("what is said", () => {
  it("is understood as it was said", () => {
    fc.assert(
      fc.property(
        fc.string({ minLength: 1 }),
        fc.dictionary(
          fc.string().filter((key) => key !== "kind" && key !== "__proto__"),
          fc.string(),
        ),
        fc.string(),
        (kind, fields, rest) => {
          const said = understand(say(kind, fields, rest));
          expect([said.kind, said.rest]).toEqual([kind, rest]);
          expect(said.fields).toEqual({ ...fields, kind });
        },
      ),
    );
  });

  it("or there is one error", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (head) => {
        try {
          understand({ head, body: new Uint8Array(0) });
        } catch (error) {
          expect(LatentError.isInstance(error) && error.code).toBe("ERR_LATENT_BUS_ENVELOPE");
        }
      }),
    );
  });
});

const pairs: Record<string, () => Promise<[Wire, Wire]>> = {
  "a stream": async () => {
    const folder = await mkdtemp(join(tmpdir(), "lw-wire-"));
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(folder, "s"), resolve));
    const near = connect(join(folder, "s"));
    const [far] = (await once(server, "connection")) as [Socket];
    server.close();
    await rm(folder, { recursive: true });
    return [new StreamWire(near), new StreamWire(far)];
  },
  "a port": async () => {
    const { port1, port2 } = new MessageChannel();
    return [new PortWire(port1), new PortWire(port2)];
  },
};

describe.each(Object.entries(pairs))("a wire over %s", (_, pair) => {
  it("holds back who sends while the other side is busy, and loses nothing", async () => {
    const [a, b] = await pair();
    const got: string[] = [];
    let most = 0;
    let goOn: () => void = () => undefined;
    let isBusy = new Promise<void>((resolve) => (goOn = resolve));
    const all = new Promise<void>((resolve) => {
      b.onMessage(async ({ head }) => {
        await isBusy;
        if (got.push(head) === 100) resolve();
      });
    });
    a.onMessage(() => undefined);
    const body = randomBytes(100_000);
    let sent = 0;
    const sending = (async () => {
      for (; sent < 100; sent++) {
        if (a.send({ head: String(sent), body })) await a.drained();
        most = Math.max(most, a.queued);
      }
    })();
    await new Promise((resolve) => setImmediate(resolve));
    expect(sent).toBeLessThan(50);
    isBusy = Promise.resolve();
    goOn();
    await Promise.all([sending, all]);
    expect(got).toEqual(Array.from({ length: 100 }, (_, i) => String(i)));
    expect(most).toBeLessThan((1 << 20) + 200_000);
    expect(body.length).toBe(100_000);
    a.close();
    b.close();
  });

  it("tells both sides once that it is over, and sends what it had been given", async () => {
    const [a, b] = await pair();
    let closes = 0;
    a.onClose(() => closes++);
    const got: string[] = [];
    const over = new Promise<void>((resolve) => {
      b.onClose(() => {
        closes++;
        resolve();
      });
    });
    b.onMessage(({ head }) => void got.push(head));
    a.onMessage(() => undefined);
    a.send({ head: "last", body: Buffer.from("words") });
    a.close();
    a.close();
    expect(a.send({ head: "too late", body: Buffer.of() })).toBe(false);
    await a.drained();
    await over;
    b.close();
    expect(got).toEqual(["last"]);
    expect(closes).toBe(2);
  });
});

it("something else on a port ends it", async () => {
  for (const lie of [
    null,
    7,
    "x",
    { head: 1, body: new Uint8Array(1) },
    { head: "x", body: "y" },
    { head: "x", body: new Uint8Array(frameBytes) },
  ]) {
    const { port1, port2 } = new MessageChannel();
    const wire = new PortWire(port1);
    wire.onMessage(() => {
      throw new Error("it is none");
    });
    const error = new Promise((resolve) => {
      wire.onClose(resolve);
    });
    port2.postMessage(lie);
    expect(await error).toMatchObject({ code: "ERR_LATENT_BUS_ENVELOPE" });
  }
});
