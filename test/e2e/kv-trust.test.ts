// Keys and values from senders that are not trusted: signatures, encryption, and reading some of it again. The numbers in the titles are those of the
// conformance list of KV transfer.
import { createSecretKey, generateKeyPairSync, randomBytes } from "node:crypto";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel, decryptKv, encryptKv, loadModel, type KvSigner, type KvVerifier, type Model, type Pool } from "../../lib/index.js";
import { native } from "../../lib/native.js";
import { runs } from "../helpers.js";
import { codeOf, filled } from "./helpers.js";

const text = "tom is in the red house. the key is in the box. ana has the blue ball. where is the key?";

let model: Model;
let pool: Pool;

beforeAll(async () => {
  model = await loadModel(bundledModel("finch"));
  pool = await model.createPool({ contextLength: 2048, maxSequences: 8 });
});

afterAll(async () => {
  await pool.dispose();
  await model.dispose();
});

const secret = randomBytes(32);
const pair = generateKeyPairSync("ed25519");

async function gathered(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) pieces.push(piece);
  return Buffer.concat(pieces);
}

describe("signed streams", () => {
  const signed = async (sign: KvSigner): Promise<Buffer> => {
    const source = await filled(pool, text);
    const bytes = Buffer.from(await source.save({ sign }));
    await source.dispose();
    return bytes;
  };
  const read = async (bytes: Uint8Array, verify: KvVerifier): Promise<string> =>
    codeOf(async () => {
      (await pool.readKv(bytes, { verify })).dispose();
    });

  it("are taken from those who may sign, and by readers that ask for nothing", async () => {
    const other = generateKeyPairSync("ed25519");
    for (const [key, keys] of [
      [secret, [randomBytes(32), secret]],
      [createSecretKey(secret), [secret]],
      [pair.privateKey, [other.publicKey, secret, pair.publicKey]],
    ] as const) {
      const bytes = await signed({ key, context: "tenant 7" });
      expect(await read(bytes, { keys, context: "tenant 7" })).toBe("no error");
      const restored = await pool.restore(bytes, { verify: { keys, context: "tenant 7" } });
      expect(restored.length).toBeGreaterThan(10);
      await restored.dispose();
      (await pool.readKv(bytes)).dispose();
    }
  });

  it("29. are refused if forged, unsigned, expired, for somebody else, or played again for another request", async () => {
    const bytes = await signed({ key: secret, context: "request 1", validForMs: 60_000 });
    expect(await read(bytes, { keys: [secret], context: "request 1" })).toBe("no error");
    expect(await read(bytes, { keys: [secret], context: "request 2" })).toBe("ERR_LATENT_KV_AUTH");
    expect(await read(bytes, { keys: [randomBytes(32)], context: "request 1" })).toBe("ERR_LATENT_KV_AUTH");
    expect(await read(bytes, { keys: [pair.publicKey], context: "request 1" })).toBe("ERR_LATENT_KV_AUTH");
    const source = await filled(pool, text);
    expect(await read(await source.save(), { keys: [secret] })).toBe("ERR_LATENT_KV_AUTH");
    const short = await source.save({ sign: { key: secret, validForMs: 1 } });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(await read(short, { keys: [secret] })).toBe("ERR_LATENT_KV_AUTH");
    await source.dispose();
  });

  it("29. do not lend their signature to another content", async () => {
    const [mine, theirs] = [await filled(pool, text), await filled(pool, text.replace("tom", "mia"))];
    const sign = { key: secret };
    const [a, b] = [Buffer.from(await mine.save({ sign })), Buffer.from(await theirs.save({ sign: { key: randomBytes(32) } }))];
    const signatureOf = (bytes: Buffer): [from: number, to: number] => {
      const at = bytes.indexOf("SIGN", 0, "latin1");
      return [at, bytes.indexOf("ROOT", at, "latin1")];
    };
    const forged = Buffer.concat([b.subarray(0, signatureOf(b)[0]), a.subarray(...signatureOf(a)), b.subarray(signatureOf(b)[1])]);
    expect(
      await codeOf(async () => {
        (await pool.readKv(forged)).dispose();
      }),
    ).toBe("no error");
    expect(await read(forged, { keys: [secret] })).toBe("ERR_LATENT_KV_AUTH");
    using receiver = pool.kvReceiver({ verify: { keys: [secret] } });
    expect(await codeOf(() => receiver.read(forged))).toBe("ERR_LATENT_KV_AUTH");
    expect(await codeOf(() => receiver.read(a))).toBe("ERR_LATENT_DISPOSED");
    await mine.dispose();
    await theirs.dispose();
  });

  it("keep their seal over a stream that broke off", async () => {
    const source = pool.sequence();
    await source.prefill(model.tokenize(text.repeat(20)).slice(0, 400));
    using kv = await source.exportKv();
    const sign = { key: pair.privateKey };
    const bytes = Buffer.from(await kv.toBytes({ sign }));
    using receiver = pool.kvReceiver({ verify: { keys: [pair.publicKey] } });
    expect(await codeOf(() => receiver.read(bytes.subarray(0, bytes.length / 2)))).toBe("ERR_LATENT_KV_TRUNCATED");
    using received = await receiver.read(kv.records({ held: receiver.held(), sign }));
    expect(Buffer.from(await received.toBytes()).equals(Buffer.from(await kv.toBytes()))).toBe(true);
    await source.dispose();
  });

  it("are refused whatever bytes stand for a signature, and always by the same code", async () => {
    const source = await filled(pool, text);
    const bytes = Buffer.from(await source.save({ sign: { key: secret } }));
    await source.dispose();
    const verify = { keys: [secret, pair.publicKey] };
    const at = bytes.indexOf("SIGN", 0, "latin1");
    const rest = bytes.subarray(bytes.indexOf("ROOT", at, "latin1"));
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: 1, maxLength: 200 }),
        fc.constantFrom(1, 2, 3),
        fc.boolean(),
        async (mark, algorithm, farAway) => {
          mark[0] = algorithm;
          if (farAway) mark.fill(255, 1, 9);
          const forged = Buffer.concat([bytes.subarray(0, at), native().kvSignature(mark), rest]);
          expect(await read(forged, verify)).toBe("ERR_LATENT_KV_AUTH");
        },
      ),
      runs(100),
    );
  });

  it("want keys of their kinds", async () => {
    const source = await filled(pool, text);
    using kv = await source.exportKv();
    const rsa = generateKeyPairSync("rsa", { modulusLength: 1024 });
    const pem = Buffer.from(pair.publicKey.export({ type: "spki", format: "pem" }));
    expect(await codeOf(() => pool.sequence().importKv(kv, { verify: { keys: [secret] } }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    for (const key of [pem, new Uint8Array(15), rsa.privateKey, pair.publicKey, "secret" as unknown as Uint8Array])
      expect(await codeOf(() => kv.toBytes({ sign: { key } }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    for (const keys of [[pem], [], [rsa.publicKey], [pair.privateKey], undefined as unknown as []])
      expect(await codeOf(() => pool.kvReceiver({ verify: { keys } }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    await source.dispose();
  });
});

describe("encrypted streams", () => {
  it("come back whatever the pieces are, and tell nothing of what they carry", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 3000 }), { maxLength: 5 }),
        fc.integer({ min: 1, max: 5000 }),
        async (pieces, cut) => {
          const plain = Buffer.concat(pieces);
          const sealed = await gathered(encryptKv(pieces, secret));
          const cuts = Array.from({ length: Math.ceil(sealed.length / cut) }, (_, i) => sealed.subarray(i * cut, (i + 1) * cut));
          expect((await gathered(decryptKv(cuts, secret))).equals(plain)).toBe(true);
          if (plain.length > 16) expect(sealed.includes(plain.subarray(0, 16))).toBe(false);
        },
      ),
      runs(40),
    );
  });

  it("are refused wherever a bit is wrong, cut anywhere, or with another key", async () => {
    const sealed = await gathered(encryptKv([randomBytes(2_500_000)], secret));
    const refusal = async (bytes: Uint8Array, key: Uint8Array = secret): Promise<string> => codeOf(() => gathered(decryptKv(bytes, key)));
    expect(await refusal(sealed)).toBe("no error");
    expect(await refusal(sealed, randomBytes(32))).toBe("ERR_LATENT_KV_AUTH");
    expect(await refusal(Buffer.concat([sealed, Buffer.from([0])]))).toBe("ERR_LATENT_KV_FORMAT");
    for (let i = 0; i < 60; i++) {
      const at = i < 24 ? i : Math.floor(Math.random() * sealed.length);
      expect(await refusal(sealed.subarray(0, at)), `cut at ${at}`).toBe("ERR_LATENT_KV_TRUNCATED");
      const wrong = Buffer.from(sealed);
      wrong[at] = (wrong[at] ?? 0) ^ (1 << (i % 8));
      expect(await refusal(wrong), `bit at ${at}`).toMatch(/^ERR_LATENT_KV_(AUTH|FORMAT|VERSION|LIMIT|TRUNCATED)$/);
    }
    expect(await codeOf(() => gathered(encryptKv([], new Uint8Array(16))))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("refuse segments that were left out, repeated or exchanged", async () => {
    const pieces = await (async () => {
      const all: Uint8Array[] = [];
      for await (const piece of encryptKv([Buffer.alloc(100, 1), Buffer.alloc(100, 2), Buffer.alloc(100, 3)], secret)) all.push(piece);
      return all;
    })();
    const [head, one, two, three, end] = pieces as [Uint8Array, Uint8Array, Uint8Array, Uint8Array, Uint8Array];
    const refusal = (source: Uint8Array[]): Promise<string> => codeOf(() => gathered(decryptKv(source, secret)));
    expect(await refusal([head, one, two, three, end])).toBe("no error");
    for (const wrong of [
      [head, one, three, end],
      [head, one, one, two, three, end],
      [head, two, one, three, end],
      [head, one, two, end],
      [head, end],
    ])
      expect(await refusal(wrong)).toBe("ERR_LATENT_KV_AUTH");
    expect(await refusal([head, one, two, three])).toBe("ERR_LATENT_KV_TRUNCATED");
  });

  it("carry content from pool to pool", async () => {
    const source = await filled(pool, text);
    using kv = await source.exportKv();
    const target = pool.sequence();
    await target.importKv(decryptKv(encryptKv(kv.records({ sign: { key: secret } }), secret), secret), { verify: { keys: [secret] } });
    expect(Buffer.compare(await target.save(), await source.save())).toBe(0);
    await source.dispose();
    await target.dispose();
  });
});

describe("spot recompute", () => {
  it("35. detects keys and values of another text, and takes what is honest in every format", async () => {
    const honest = await filled(pool, text);
    for (const format of ["f16", "q8_0", "q4_0"] as const) {
      using kv = await honest.exportKv({ format });
      const target = pool.sequence();
      expect((await target.importKv(kv, { spot: {} })).positions).toBe(honest.length);
      await target.dispose();
    }
    // sound, but not what the model makes of these tokens alone: it had read others before them
    const other = await filled(pool, `mia has the red key. ${text}`);
    using tail = await other.exportKv({ range: { from: 6, to: other.length } });
    const moved = pool.sequence();
    await moved.importKv(tail, { positions: { at: 0 } });
    const forged = await moved.save();
    const target = pool.sequence();
    await target.prefill("ana is here.");
    const before = Buffer.from(await target.save());
    const cells = pool.counters().usedCells;
    const open = pool.counters().openSequences;
    expect(await codeOf(() => target.importKv(forged, { spot: {} }))).toBe("ERR_LATENT_KV_FORGED");
    expect(pool.counters().usedCells).toBe(cells);
    expect(pool.counters().openSequences).toBe(open);
    expect(Buffer.compare(await target.save(), before)).toBe(0);
    for (const sequence of [honest, other, moved, target]) await sequence.dispose();
  });

  it("says what cannot be computed again", async () => {
    const source = await filled(pool, text);
    using part = await source.exportKv({ range: { from: 5, to: 20 } });
    const target = pool.sequence();
    expect(await codeOf(() => target.importKv(part, { spot: {} }))).toBe("ERR_LATENT_KV_POSITION");
    expect(await codeOf(() => target.importKv(part, { spot: { positions: 0 } }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    // a gap or a latent early on must not reduce what is looked at to the begin token
    using whole = await source.exportKv();
    using gap = whole.drop({ from: 1, to: 2 });
    expect(await codeOf(() => target.importKv(gap, { spot: {} }))).toBe("ERR_LATENT_KV_POSITION");
    const thinker = await filled(pool, "ana");
    await thinker.think({ steps: 1 });
    await thinker.prefill(text);
    using mixed = await thinker.exportKv();
    expect(await codeOf(() => target.importKv(mixed, { spot: {} }))).toBe("ERR_LATENT_KV_POSITION");
    expect(target.length).toBe(0);
    await thinker.dispose();
    await source.dispose();
    await target.dispose();
  });
});
