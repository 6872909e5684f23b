// What a bus believes of what comes from outside: heads, announcements and requests of any shape; and the pure parts that decide from them, as tables and
// properties.
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { decodeAnnouncement, encodeAnnouncement, identityDigest, type Announcement } from "../../lib/bus/announcement.js";
import { mostPieces, type ContentClaim } from "../../lib/bus/claim.js";
import { decodeEnvelope, encodeEnvelope, textLimit, type Envelope } from "../../lib/bus/envelope.js";
import { checkOffer, chooseForm, type Offer } from "../../lib/bus/form.js";
import { addNew, Recent } from "../../lib/bus/brokers/recent.js";
import { Notary } from "../../lib/bus/notary.js";
import { Outbox } from "../../lib/bus/outbox.js";
import { checkCounts, checkRequest, failureFrom, failureOf } from "../../lib/bus/request.js";
import { LatentError, latentErrorCodes } from "../../lib/errors.js";
import { bundledModel, Latent, loadModel, Tensor, type KvHandle, type Model, type Pool } from "../../lib/index.js";
import { makeSpace, type Space } from "../../lib/spaces/space.js";
import type { Translator } from "../../lib/spaces/translator.js";
import { codeOf, runs as runsOf } from "../helpers.js";

const never = new AbortController().signal;
/** To make a failure smaller takes far longer than to find it. */
const runs = (count: number): { numRuns: number; endOnFailure: boolean } => ({ ...runsOf(count), endOnFailure: true });
const bad = "ERR_LATENT_INVALID_ARGUMENT";

const name = fc.string({ minLength: 1, maxLength: 64, unit: fc.constantFrom("a", "z", "A", "Z", "0", "9", "_", "-") });
const short = fc.string({ maxLength: 40, unit: "binary" });
const hex = (digits: number): fc.Arbitrary<string> =>
  fc.uint8Array({ minLength: digits / 2, maxLength: digits / 2 }).map((bytes) => Buffer.from(bytes).toString("hex"));
const count = fc.nat(Number.MAX_SAFE_INTEGER);
const space: fc.Arbitrary<Space> = fc
  .record({
    weights: short,
    layer: fc.constantFrom("embeds", "hidden", "relative", "pooled"),
    dimension: fc.nat(8192),
    positions: short,
    normalisation: short,
  })
  .map((fields) => makeSpace(fields as Omit<Space, "id">));
const place = fc.oneof(
  fc.record({ at: fc.constant("inline" as const) }),
  fc.record({ at: fc.constant("process" as const), process: short, ticket: short }),
  fc.record({ at: fc.constant("bus" as const), root: hex(64), pieces: fc.integer({ min: 1, max: mostPieces }) }),
);
const latentClaim: fc.Arbitrary<ContentClaim> = fc
  .record({ space, place, kind: fc.constantFrom("embeds" as const, "hidden" as const), rows: fc.nat(1 << 20), bytes: fc.nat(1024) })
  .chain(({ space: of, place: at, kind, rows, bytes }) =>
    fc.record({
      form: fc.constant("latent" as const),
      kind: fc.constant(kind),
      space: fc.constant(of),
      shape: fc.constant([rows, of.dimension] as const),
      dtype: fc.constantFrom("f32" as const, "bf16" as const, "i8" as const),
      bytes: fc.constant(bytes),
      digest: fc.oneof(fc.constant(""), hex(64)),
      place: fc.constant(at),
    }),
  );
const kvClaim: fc.Arbitrary<ContentClaim> = fc.record({
  form: fc.constant("kv" as const),
  identity: fc.dictionary(name, short, { noNullPrototype: true }),
  positions: fc.integer({ min: 10, max: 1 << 20 }),
  latents: fc.nat(10),
  bytes: count,
  label: short,
  mixedFrom: fc.option(count, { nil: null }),
  place,
});
const data = fc
  .dictionary(fc.string(), fc.jsonValue(), { noNullPrototype: true, maxKeys: 5 })
  .map((one) => JSON.parse(JSON.stringify(one)) as Record<string, unknown>);
const envelope: fc.Arbitrary<Envelope> = fc.record(
  {
    v: fc.constant(1 as const),
    id: short,
    kind: fc.constantFrom("message" as const, "request", "part", "reply", "cancel", "again", "receipt", "dead"),
    from: name,
    peer: name,
    to: name,
    conversation: short,
    sequence: count,
    sentAt: count,
    validForMs: fc.nat(2 ** 31 - 1),
    about: short,
    text: fc.string({ maxLength: 500, unit: "binary" }),
    claims: fc.array(fc.oneof(latentClaim, kvClaim), { maxLength: 3 }),
    why: fc.string({ maxLength: 1024 }),
    label: fc.string({ maxLength: 1024 }),
    traceparent: fc.tuple(hex(2), hex(32), hex(16), hex(2)).map((parts) => parts.join("-")),
    data,
  },
  { requiredKeys: ["v", "id", "kind", "from", "peer", "to", "conversation", "sequence", "sentAt"] },
);

/** What the reader makes of it: "read", or the code of the refusal. Any other error is thrown on. */
function verdict(json: string): string {
  try {
    decodeEnvelope(json);
    return "read";
  } catch (error) {
    if (LatentError.isInstance(error)) return error.code;
    throw error;
  }
}

/** A value in place of another one somewhere inside of `value`, or beside it. */
function changed(value: unknown, path: readonly number[], by: unknown, key: string): unknown {
  const [first, ...rest] = path;
  if (first === undefined || typeof value !== "object" || value === null) return by;
  const entries: [string, unknown][] = Object.entries(value);
  const at = first % (entries.length + 1);
  const next = entries.map(([own, inner], i) => [own, i === at ? changed(inner, rest, by, key) : inner] as const);
  // one more than there are: a key that nobody knows
  if (at === entries.length) next.push([key, by]);
  if (Array.isArray(value)) return next.map(([, inner]) => inner);
  // parsed, so that `__proto__` is a key of its own, as it is in what comes
  const json = `{${next.map(([own, inner]) => `${JSON.stringify(own)}:${JSON.stringify(inner)}`).join(",")}}`;
  return JSON.parse(json) as unknown;
}

const strange = fc.oneof(
  fc.jsonValue(),
  fc.constantFrom("", "__proto__", "constructor", -1, 0.5, 2 ** 53, 1e308, "x".repeat(300_000), [[]], { length: 3 }, { toString: 1 }),
);

describe("envelopes", () => {
  it("come back as they went", () => {
    fc.assert(
      fc.property(envelope, (one) => {
        expect(decodeEnvelope(encodeEnvelope(one))).toEqual(one);
      }),
      runs(300),
    );
  });

  it("are refused as what they are not, whatever comes", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: "binary" }),
          fc.json(),
          fc.jsonValue().map((value) => JSON.stringify(value)),
        ),
        (json) => {
          expect(verdict(json)).toBe("ERR_LATENT_BUS_ENVELOPE");
        },
      ),
      runs(300),
    );
  });

  it("are read or refused when anything in them is another", () => {
    fc.assert(
      fc.property(
        envelope,
        fc.array(fc.nat(1000), { minLength: 1, maxLength: 5 }),
        strange,
        fc.constantFrom("__proto__", "constructor", "toString", "x"),
        (one, path, by, key) => {
          const json = JSON.stringify(changed(JSON.parse(encodeEnvelope(one)), path, by, key));
          expect(["read", "ERR_LATENT_BUS_ENVELOPE"]).toContain(verdict(json));
          if (verdict(json) === "read") {
            // what was read is what will be written
            const read = decodeEnvelope(json);
            expect(decodeEnvelope(encodeEnvelope(read))).toEqual(read);
          }
          expect(Object.prototype).not.toHaveProperty("polluted");
        },
      ),
      runs(500),
    );
  });

  it("are read or refused when bytes of them are others", () => {
    fc.assert(
      fc.property(envelope, fc.nat(), fc.nat(), fc.string({ maxLength: 3 }), (one, from, length, by) => {
        const json = encodeEnvelope(one);
        const at = from % json.length;
        const other = json.slice(0, at) + by + json.slice(at + (length % 8));
        expect(["read", "ERR_LATENT_BUS_ENVELOPE"]).toContain(verdict(other));
      }),
      runs(300),
    );
  });

  const valid: Envelope = {
    ...{ v: 1, id: "i", kind: "message", from: "a", peer: "p", to: "b", conversation: "", sequence: 1, sentAt: 1 },
  };
  const nested = (depth: number): string => "[".repeat(depth) + "]".repeat(depth);
  it.each([
    ["nesting of 100 000 levels", `{"v":1,"data":${nested(100_000)}}`],
    ["nesting at the top", nested(100_000)],
    ["a later version", JSON.stringify({ ...valid, v: 2, what: "nobody knows" })],
    ["an earlier version", JSON.stringify({ ...valid, v: 0 })],
    ["a key of prototypes", `{"__proto__":{"polluted":1},${JSON.stringify(valid).slice(1)}`],
    ["a name that is long", JSON.stringify({ ...valid, from: "a".repeat(65) })],
    ["a name with a dot", JSON.stringify({ ...valid, to: "a.b" })],
    ["a name that ends in a new line", JSON.stringify({ ...valid, to: "a\n" })],
    ["an id that is long", JSON.stringify({ ...valid, id: "i".repeat(129) })],
    ["a text that is long", JSON.stringify({ ...valid, text: "x".repeat(textLimit + 1) })],
    ["a line that is long", JSON.stringify({ ...valid, why: "x".repeat(1025) })],
    ["too many claims", JSON.stringify({ ...valid, claims: Array(17).fill({}) })],
    ["claims that are none", JSON.stringify({ ...valid, claims: [null] })],
    ["data that is a list", JSON.stringify({ ...valid, data: [] })],
    ["no time", JSON.stringify({ ...valid, sentAt: null })],
    ["a trace context that is none", JSON.stringify({ ...valid, traceparent: "00-0-0-00" })],
  ])("with %s are refused", (_what, json) => {
    expect(verdict(json)).toBe("ERR_LATENT_BUS_ENVELOPE");
    expect(Object.prototype).not.toHaveProperty("polluted");
  });

  it("claim no more memory than can come", () => {
    const of = makeSpace({ weights: "w", layer: "hidden", dimension: 4, positions: "p", normalisation: "n" });
    const claim = { form: "latent", kind: "hidden", space: of, shape: [1, 4], dtype: "f32", bytes: 2 ** 40, digest: "" };
    const at = { at: "bus", root: "0".repeat(64), pieces: 1 };
    expect(verdict(JSON.stringify({ ...valid, claims: [{ ...claim, place: at }] }))).toBe("ERR_LATENT_BUS_ENVELOPE");
    expect(verdict(JSON.stringify({ ...valid, claims: [{ ...claim, bytes: 512 << 10, place: at }] }))).toBe("read");
    expect(verdict(JSON.stringify({ ...valid, claims: [{ ...claim, bytes: 1, place: at, space: { ...of, weights: "v" } }] }))).toBe(
      "ERR_LATENT_BUS_ENVELOPE",
    );
  });

  it("are believed only as they were signed", () => {
    const key = new Uint8Array(16).fill(7);
    const signer = new Notary({ key }, undefined);
    const strict = new Notary(undefined, { a: key });
    const head = signer.headOf(valid);
    expect(strict.read(head)).toEqual(valid);
    fc.assert(
      fc.property(fc.nat(head.length - 1), fc.integer({ min: 1, max: 127 }), (at, by) => {
        const other = head.slice(0, at) + String.fromCharCode(head.charCodeAt(at) ^ by) + head.slice(at + 1);
        let code = "read";
        try {
          // base64 ignores what it does not know: the same signature may be written in several ways
          expect(strict.read(other)).toEqual(valid);
          expect(at).toBeGreaterThan(head.indexOf("\n"));
        } catch (error) {
          if (!LatentError.isInstance(error)) throw error;
          code = error.code;
        }
        expect(["read", "ERR_LATENT_BUS_FORGED", "ERR_LATENT_BUS_ENVELOPE"]).toContain(code);
      }),
      runs(500),
    );
  });
});

const accepts = fc.record({
  spaces: fc.array(fc.string(), { maxLength: 256 }),
  kv: fc.array(fc.string(), { maxLength: 5 }),
  codecs: fc.array(fc.string(), { maxLength: 5 }),
  bytes: count,
});
const announcement: fc.Arbitrary<Announcement> = fc.record({
  role: fc.constantFrom("agent" as const, "inbox" as const),
  name,
  bus: name,
  peer: name,
  machine: fc.string(),
  process: fc.string(),
  accepts,
});

describe("announcements", () => {
  it("come back as they went", () => {
    fc.assert(
      fc.property(announcement, (one) => {
        expect(decodeAnnouncement(encodeAnnouncement(one))).toEqual(one);
      }),
      runs(200),
    );
  });

  it("are left out when they are anything else", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (json) => {
        expect(decodeAnnouncement(json)).toBeUndefined();
      }),
      runs(500),
    );
    fc.assert(
      fc.property(announcement, fc.array(fc.nat(1000), { minLength: 1, maxLength: 3 }), strange, (one, path, by) => {
        const json = JSON.stringify(changed(JSON.parse(encodeAnnouncement(one)), path, by, "__proto__"));
        const read = decodeAnnouncement(json);
        if (read !== undefined) expect(decodeAnnouncement(encodeAnnouncement(read))).toEqual(read);
      }),
      runs(300),
    );
    const many = Array.from({ length: 257 }, String);
    const of = { v: 1, role: "inbox", name: "n", bus: "b", peer: "p", machine: "", process: "" };
    expect(decodeAnnouncement(JSON.stringify({ ...of, accepts: { spaces: many, kv: [], codecs: [], bytes: 1 } }))).toBeUndefined();
  });
});

describe("requests", () => {
  const refusals = new Set<string>([bad, "ERR_LATENT_BUS_LIMIT"]);
  const request = {
    ...{
      op: "say",
      question: "q",
      medium: "text",
      notes: [{ from: "a", text: "t" }],
      generate: { maxTokens: 3 },
      machine: "",
      process: "",
    },
  };

  it("come back as they went", () => {
    expect(checkRequest(JSON.parse(JSON.stringify(request)))).toEqual(request);
  });

  it("are read or refused whatever comes", async () => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue(), async (value) => {
        expect(await codeOf(() => checkRequest(value))).toBe(bad);
        expect(await codeOf(() => checkCounts(value))).toBe(bad);
      }),
      runs(500),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(1000), { minLength: 1, maxLength: 4 }), strange, async (path, by) => {
        const code = await codeOf(() => checkRequest(changed(request, path, by, "__proto__")));
        expect(code === "no error" || refusals.has(code), code).toBe(true);
      }),
      runs(500),
    );
  });

  it.each([
    ["a signal", { ...request, generate: { signal: {} } }],
    ["a priority", { ...request, generate: { priority: 1 } }],
    ["no options of the generation", { ...request, generate: null }],
    ["too many notes", { ...request, notes: Array(65).fill({ from: "a", text: "t" }) }],
    ["notes that are none", { ...request, notes: [null] }],
    ["an operation that nobody knows", { ...request, op: "run" }],
  ])("with %s are refused", async (_what, value) => {
    expect(await codeOf(() => checkRequest(value))).toBe(bad);
  });

  it("fail with a code that this side knows, or as a peer that failed", () => {
    for (const code of latentErrorCodes) {
      const error = failureFrom("a", failureOf(new LatentError(code, "why")));
      expect(error).toMatchObject({ code, message: "a: why", details: { by: "peer", agent: "a", code } });
    }
    expect(failureFrom("a", failureOf(new TypeError("x is no y")))).toMatchObject({ code: "ERR_LATENT_BUS_PEER", message: "a: x is no y" });
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(failureFrom("a", value)).toBeInstanceOf(LatentError);
      }),
      runs(300),
    );
    expect(failureOf(new Error("x".repeat(5000)))["message"]).toHaveLength(1000);
  });
});

describe("the form of what is sent", () => {
  let model: Model;
  let pool: Pool;
  let kv: KvHandle;
  let latent: Latent;
  beforeAll(async () => {
    model = await loadModel(bundledModel());
    pool = await model.createPool({ contextLength: 256, maxSequences: 1 });
    const sequence = pool.sequence();
    await sequence.prefill("tom lives in oslo.");
    kv = await sequence.exportKv();
    latent = new Latent(model.space, "embeds", Tensor.zeros([2, model.info.embeddingLength]));
  });
  afterAll(async () => {
    kv.dispose();
    latent.dispose();
    await model.dispose();
  });

  const receiver = (of: Partial<Announcement["accepts"]>): Announcement => ({
    ...{ role: "inbox", name: "r", bus: "b", peer: "p", machine: "", process: "" },
    accepts: { spaces: [], kv: [], codecs: [], bytes: 2 ** 30, ...of },
  });
  const translator = (from: string, to: string): Translator => ({ card: { from: { id: from }, to: { id: to } } }) as unknown as Translator;

  it("is the richest that both sides have, with the reason", async () => {
    const all: Offer = { kv, latent, text: "t" };
    const own = { kv: [identityDigest(kv.identity)], spaces: [latent.space.id] };
    const to = translator(latent.space.id, "other");
    const table: readonly [Offer, Announcement | undefined, Parameters<typeof chooseForm>[2], object | string][] = [
      [all, undefined, { translators: [] }, { form: "kv", why: "nobody has said what the receiver can use" }],
      [{ latent }, undefined, { translators: [] }, { form: "latent", why: "nobody has said what the receiver can use" }],
      [all, undefined, { translators: [], form: "text" }, { form: "text" }],
      [{ kv }, undefined, { translators: [], form: "latent" }, "ERR_LATENT_BUS_FORM"],
      [all, undefined, { translators: [], form: "smoke" as "text" }, bad],
      [all, receiver(own), { translators: [] }, { form: "kv", why: "it continues from keys and values of this model" }],
      [
        all,
        receiver({ ...own, kv: [] }),
        { translators: [] },
        { form: "latent", why: "it reads latents of this space; its keys and values are of another model" },
      ],
      [
        all,
        receiver({ ...own, bytes: 1 }),
        { translators: [] },
        { form: "text", why: "text can always be read; its keys and values are too many; its latents are too many" },
      ],
      [
        all,
        receiver({ spaces: ["other"] }),
        { translators: [] },
        { form: "text", why: "text can always be read; its keys and values are of another model; it reads latents of other spaces" },
      ],
      [
        { latent },
        receiver({ spaces: ["other"] }),
        { translators: [to] },
        { form: "latent", why: "its latents were translated", translator: to },
      ],
      [{ latent }, receiver({ spaces: ["another"] }), { translators: [to] }, "ERR_LATENT_BUS_FORM"],
      [{ kv, latent }, receiver({}), { translators: [] }, "ERR_LATENT_BUS_FORM"],
      [all, receiver({}), { translators: [], form: "kv" }, "ERR_LATENT_BUS_FORM"],
      [{ text: "" }, receiver({}), { translators: [] }, { form: "text", why: "text can always be read" }],
    ];
    for (const [offer, of, options, want] of table) {
      if (typeof want === "string") expect(await codeOf(() => chooseForm(offer, of, options))).toBe(want);
      else expect(chooseForm(offer, of, options)).toMatchObject(want);
    }
  });

  it("is of an offer that is one", async () => {
    expect(checkOffer("t")).toEqual({ text: "t" });
    expect(checkOffer(latent)).toEqual({ latent });
    expect(checkOffer({ kv, label: "l" })).toEqual({ kv, label: "l" });
    for (const wrong of [
      undefined,
      null,
      1,
      [],
      {},
      { label: "l" },
      { kv: latent },
      { latent: "t" },
      { text: 1 },
      { text: "t", more: 1 },
      { text: "t", label: "x".repeat(1025) },
    ])
      expect(await codeOf(() => checkOffer(wrong))).toBe(bad);
    expect(await codeOf(() => checkOffer("€".repeat(textLimit / 3 + 1)))).toBe("ERR_LATENT_BUS_LIMIT");
  });
});

describe("what was lately", () => {
  it("is known until as much has come since, and never more than twice that", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(40), { maxLength: 200 }), fc.integer({ min: 1, max: 20 }), (ids, most) => {
        const seen = new Recent<true>(most, 600_000);
        const news: number[] = [];
        for (const id of ids) {
          const mustBeKnown = news.slice(-most).includes(id);
          const isNew = addNew(seen, String(id));
          if (mustBeKnown || !news.includes(id)) expect(isNew).toBe(!mustBeKnown);
          if (isNew) news.push(id);
          expect(seen.size).toBeLessThanOrEqual(2 * most);
        }
      }),
      runs(300),
    );
  });

  it("can come again when it was not used", () => {
    const seen = new Recent<true>(10, 600_000);
    expect([addNew(seen, "a"), addNew(seen, "a")]).toEqual([true, false]);
    seen.delete("a");
    expect(addNew(seen, "a")).toBe(true);
  });
});

describe("what is kept for receivers", () => {
  type Step = { readonly reserve: number } | { readonly free: number } | { readonly abort: number };
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({ reserve: fc.nat(150) }),
    fc.record({ free: fc.nat(100) }),
    fc.record({ abort: fc.nat(100) }),
  );

  it("stays within the window, is had in order, and all of it comes back", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const window = 100;
        const outbox = new Outbox(window);
        const admitted: number[] = [];
        const held: { readonly bytes: number; readonly free: () => void }[] = [];
        const asked: { readonly abort: AbortController; readonly done: Promise<void> }[] = [];
        for (const one of steps) {
          if ("reserve" in one) {
            const abort = new AbortController();
            const number = asked.length;
            const done = outbox.reserve(one.reserve, abort.signal).then(
              (free) => {
                admitted.push(number);
                held.push({ bytes: one.reserve, free });
              },
              () => undefined,
            );
            asked.push({ abort, done });
          } else if ("free" in one) held.splice(one.free % Math.max(1, held.length), 1)[0]?.free();
          else asked[one.abort % Math.max(1, asked.length)]?.abort.abort();
          for (let i = 0; i < 5; i++) await Promise.resolve();
          const bytes = held.reduce((sum, own) => sum + own.bytes, 0);
          expect(outbox.bytes).toBe(bytes);
          expect(bytes <= window || held.filter((own) => own.bytes > 0).length === 1, `${bytes}`).toBe(true);
        }
        while (held.length > 0 || outbox.bytes > 0) {
          held.shift()?.free();
          for (let i = 0; i < 5; i++) await Promise.resolve();
        }
        await Promise.all(asked.map(({ done }) => done));
        for (const { free } of held) free();
        expect(outbox.bytes).toBe(0);
        expect(admitted).toEqual([...admitted].sort((a, b) => a - b));
      }),
      runs(300),
    );
  });

  it("goes once: when the receiver is done, after a while, or with the bus", async () => {
    const outbox = new Outbox(10);
    const gone: string[] = [];
    for (const id of ["a", "b", "c"]) outbox.hold(id, id === "b" ? 1 : 600_000, () => gone.push(id));
    outbox.release("a");
    outbox.release("a");
    await expect.poll(() => gone).toEqual(["a", "b"]);
    const free = await outbox.reserve(10, never);
    const waiting = codeOf(() => outbox.reserve(1, never));
    outbox.close();
    expect(await waiting).toBe("ERR_LATENT_BUS_DISCONNECTED");
    expect(gone).toEqual(["a", "b", "c"]);
    outbox.hold("d", 600_000, () => gone.push("d"));
    expect(gone).toEqual(["a", "b", "c", "d"]);
    expect(await codeOf(() => outbox.reserve(1, never))).toBe("ERR_LATENT_BUS_DISCONNECTED");
    free();
    free();
    expect(outbox.bytes).toBe(0);
  });
});
