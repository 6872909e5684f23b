// The part of a bus that inboxes and agents share: it makes envelopes and reads them, ships content and opens it, keeps the order of what is sent, and
// hears what comes for this peer.
import { randomUUID } from "node:crypto";
import { setMaxListeners } from "node:events";
import type { Translator } from "../spaces/translator.js";
import type { Latent } from "../spaces/latent.js";
import { LatentError } from "../errors.js";
import type { KvCodecChoice } from "../kv/codec.js";
import type { KvHandle } from "../kv/handle.js";
import type { KvVerifier } from "../kv/signature.js";
import type { Medium } from "../agents/events.js";
import {
  decodeAnnouncement,
  encodeAnnouncement,
  identityDigest,
  ownMachine,
  ownProcess,
  type Accepts,
  type Announcement,
  type Whereabouts,
} from "./announcement.js";
import type { Broker, Entry } from "./brokers/broker.js";
import type { ContentClaim } from "./claim.js";
import { type Envelope, type MessageKind } from "./envelope.js";
import { chooseForm, type Offer } from "./form.js";
import { Notary } from "./notary.js";
import { Outbox } from "./outbox.js";
import { Parcel } from "./parcel.js";
import { saltBytes } from "./pieces.js";
import { shipKv, shipLatent, type Shipment, type ShippingOptions } from "./shipping.js";
import type { BusOptions } from "./options.js";
import { addNew, Recent, seenLately } from "./brokers/recent.js";

/** What an envelope says besides what every one does. */
export type EnvelopeFields = Partial<Pick<Envelope, "validForMs" | "about" | "text" | "claims" | "why" | "label" | "traceparent" | "data">>;

/** Content that is ready to go, in the order of its claims. */
export interface Packed {
  readonly claims: readonly ContentClaim[];
  readonly body: Uint8Array;
  readonly object: object | undefined;
  /** What gives up what this side must keep of it. */
  readonly releases: readonly (() => void)[];
  readonly bytes: number;
}

export interface PackOptions {
  readonly form?: Medium | undefined;
  /** Who it is for; where that is, if it has not said what it can use. */
  readonly receiver: Announcement | undefined;
  readonly where?: Whereabouts | undefined;
  /** Other content of the same message has been packed before it. */
  readonly isMore?: boolean;
  readonly keptMs: number;
  readonly signal: AbortSignal;
}

/** One content and how it goes. */
export interface PackedOffer extends Packed {
  readonly form: Medium;
  readonly why: string;
  readonly text: string | undefined;
  readonly label: string | undefined;
}

const nothing: Packed = { claims: [], body: new Uint8Array(0), object: undefined, releases: [], bytes: 0 };
/** So many conversations are counted; one that was silent for long begins again at 1. */
const mostConversations = 10_000;
const mostReceipts = 10_000;

export class Post {
  readonly id = randomUUID();
  readonly name: string;
  readonly outbox: Outbox;
  readonly seen = seenLately();
  readonly #notary: Notary;
  readonly #sequences = new Map<string, number>();
  readonly #lanes = new Map<string, Promise<void>>();
  readonly #takers = new Map<string, (envelope: Envelope, entry: Entry) => void>();
  /** The last ones, for who asks later whether a message was acknowledged. */
  readonly #receipts = new Recent<Envelope>(mostReceipts, Infinity);
  readonly #salt: Uint8Array;
  readonly #verify: KvVerifier | undefined;
  readonly #closed = new AbortController();
  #directory: readonly Announcement[] = [];
  #changed = new Set<() => void>();

  constructor(
    readonly broker: Broker,
    readonly options: BusOptions,
  ) {
    // everything that waits listens to it, which is no leak
    setMaxListeners(0, this.#closed.signal);
    this.name = options.name;
    // everything that waits listens to it
    setMaxListeners(0, this.#closed.signal);
    this.outbox = new Outbox(options.windowBytes);
    this.#notary = new Notary(options.sign, options.trust);
    this.#salt = saltBytes(options.salt);
    this.#verify = options.trust === undefined ? undefined : { keys: Object.values(options.trust) };
  }

  /** Listens for what is for this peer, and follows who is there. */
  async start(): Promise<void> {
    await this.broker.listen(`peer.${this.id}`, (entry) => {
      const envelope = this.heard(entry);
      if (envelope === undefined || envelope.to !== this.id) return;
      const { kind, about = "" } = envelope;
      if (kind === "receipt") {
        // a dead letter may still be read
        if (envelope.data === undefined) this.outbox.release(about);
        this.#receipts.set(about, envelope);
      }
      this.#takers.get(about)?.(envelope, entry);
    });
    await this.broker.watch((present) => {
      this.#directory = present.flatMap(({ value }) => decodeAnnouncement(value) ?? []);
      for (const wake of [...this.#changed]) wake();
    });
  }

  get signal(): AbortSignal {
    return this.#closed.signal;
  }

  get closed(): boolean {
    return this.#closed.signal.aborted;
  }

  get directory(): readonly Announcement[] {
    return this.#directory;
  }

  find(role: Announcement["role"], name: string): Announcement | undefined {
    return this.#directory.find((one) => one.role === role && one.name === name);
  }

  /** Calls back after each change of who is there, until the returned function is called. */
  onChange(wake: () => void): () => void {
    this.#changed.add(wake);
    return () => this.#changed.delete(wake);
  }

  async announce(role: Announcement["role"], name: string, accepts: Accepts): Promise<() => Promise<void>> {
    const record: Announcement = { role, name, bus: this.name, peer: this.id, machine: ownMachine(), process: ownProcess(), accepts };
    const key = `${role}.${name}.${this.id}`;
    await this.broker.announce(key, encodeAnnouncement(record));
    return () => this.broker.withdraw(key);
  }

  /** What its reader said of a message, if that was lately. */
  receiptFor(id: string): Envelope | undefined {
    return this.#receipts.get(id);
  }

  /** Calls `take` with everything that comes for this peer about that message. */
  expect(about: string, take: (envelope: Envelope, entry: Entry) => void): () => void {
    this.#takers.set(about, take);
    return () => this.#takers.delete(about);
  }

  envelope(kind: MessageKind, to: string, conversation: string, fields: EnvelopeFields, id: string = randomUUID()): Envelope {
    return {
      v: 1,
      id,
      kind,
      from: this.name,
      peer: this.id,
      to,
      conversation,
      sequence: 0,
      sentAt: Date.now(),
      ...fields,
    };
  }

  /**
   * Appends a message when the ones before it have been: what is asked for first comes first, however long its content takes. Its sequence is counted here,
   * so that there are no gaps.
   */
  async append(
    log: string,
    signal: AbortSignal,
    prepare: () => Promise<{ readonly envelope: Envelope; readonly packed: Packed }>,
  ): Promise<Envelope> {
    const before = this.#lanes.get(log);
    let handed = (): void => undefined;
    const own = new Promise<void>((resolve) => (handed = resolve));
    // one that failed early does not let the next ones past those before it
    const lane = before === undefined ? own : before.then(() => own);
    this.#lanes.set(log, lane);
    void lane.then(() => {
      if (this.#lanes.get(log) === lane) this.#lanes.delete(log);
    });
    let packed: Packed | undefined;
    try {
      // room in the outbox is taken in this order too: who comes later cannot hold what the one before it waits for
      if (before !== undefined) await unlessAborted(before, signal);
      const prepared = await prepare();
      packed = prepared.packed;
      signal.throwIfAborted();
      const envelope = { ...prepared.envelope, sequence: this.#count(log, prepared.envelope.conversation) };
      const entry: Entry = { head: this.#notary.headOf(envelope), body: packed.body, object: packed.object };
      const appended = this.broker.append(log, entry, { id: envelope.id, signal });
      handed();
      await appended;
      return envelope;
    } catch (error) {
      for (const release of packed?.releases ?? []) release();
      throw error;
    } finally {
      handed();
    }
  }

  /** To whoever listens now. A failure is nobody's business here: what matters is asked for again. */
  async signalTo(subject: string, envelope: Envelope, packed: Packed = nothing): Promise<void> {
    await this.broker
      .signal(subject, { head: this.#notary.headOf(envelope), body: packed.body, object: packed.object })
      .catch(() => undefined);
  }

  /** What the entry says, checked; throws what is to be said of it. */
  read(entry: Entry): Envelope {
    const envelope = this.#notary.read(entry.head);
    const { peers, spaces } = this.options.allow;
    if (peers !== undefined && !peers.includes(envelope.from))
      throw new LatentError("ERR_LATENT_BUS_UNAUTHORIZED", `'${envelope.from}' is not among those who may send here`);
    for (const claim of envelope.claims ?? []) {
      const space = claim.form === "latent" ? claim.space.id : (claim.identity["weights"] ?? "");
      if (spaces !== undefined && !spaces.includes(space)) {
        const what = claim.form === "latent" ? "latents" : "keys and values";
        throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `${what} of this space may not come here`, { details: { space } });
      }
    }
    return envelope;
  }

  /** Of a signal: undefined for what is not to be believed, or was heard before. */
  heard(entry: Entry): Envelope | undefined {
    try {
      const envelope = this.read(entry);
      return addNew(this.seen, envelope.id) ? envelope : undefined;
    } catch {
      return undefined;
    }
  }

  /** Puts content where the receiver finds it, in the richest form that both have. */
  async pack(offer: Offer | Parcel, options: PackOptions): Promise<PackedOffer> {
    if (offer instanceof Parcel) return await this.#forward(offer, options);
    const { receiver } = options;
    const { translators } = this.options;
    const { form, why, translator } = chooseForm(offer, receiver, { form: options.form, translators });
    const words = { form, why, text: offer.text, label: offer.label };
    const codec = receiver !== undefined && receiver.accepts.codecs.length > 0 ? this.options.codec : undefined;
    if (form === "kv" && offer.kv !== undefined) return { ...words, ...(await this.#shipKv(offer.kv, codec, options)) };
    if (form === "latent" && offer.latent !== undefined)
      return { ...words, ...(await this.#shipLatent(offer.latent, translator, options)) };
    return { ...words, ...nothing, bytes: Buffer.byteLength(offer.text ?? "") };
  }

  /** Several contents as one. */
  static join(all: readonly Packed[]): Packed {
    const objects = all.flatMap(({ object, claims }) => (claims.length > 0 ? [object] : []));
    return {
      claims: all.flatMap(({ claims }) => claims),
      body: Buffer.concat(all.map(({ body }) => body)),
      object: objects.some((one) => one !== undefined) ? objects : undefined,
      releases: all.flatMap(({ releases }) => releases),
      bytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
    };
  }

  /** Keeps what was packed until the receiver of the message says that it has done with it. */
  keep(id: string, packed: Packed, keptMs: number): void {
    const { releases } = packed;
    if (releases.length === 0) return;
    this.outbox.hold(id, keptMs, () => {
      for (const release of releases) release();
    });
  }

  /** The contents of a message. `done` is called once, when all of them have been disposed. */
  parcels(envelope: Envelope, entry: Entry, done: () => void = () => undefined): readonly [Parcel, ...Parcel[]] {
    const { claims = [], text, label = "", why = "", from } = envelope;
    const opener = { broker: this.broker, salt: this.#salt, verify: this.#verify };
    let left = Math.max(1, claims.length);
    const release = (): void => {
      if (--left === 0) done();
    };
    let at = 0;
    const parcel = (claim: ContentClaim | undefined, i: number): Parcel => {
      const length = claim?.place.at === "inline" ? claim.bytes : 0;
      const body = entry.body.subarray(at, at + length);
      at += length;
      const object: unknown = Array.isArray(entry.object) ? entry.object[i] : entry.object;
      const content = { claim, text, label, why, from, body, object: object instanceof Object ? object : undefined };
      return new Parcel(content, opener, release);
    };
    return [parcel(claims[0], 0), ...claims.slice(1).map((claim, i) => parcel(claim, i + 1))];
  }

  /** A receiver has done with it. */
  receipt({ id, peer, conversation }: Envelope, data?: Readonly<Record<string, unknown>>): void {
    void this.signalTo(`peer.${peer}`, this.envelope("receipt", peer, conversation, { about: id, ...(data !== undefined && { data }) }));
  }

  async close(): Promise<void> {
    this.#closed.abort(new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the bus was closed"));
    this.outbox.close();
    await this.broker.close();
  }

  async #shipKv(kv: KvHandle, codec: KvCodecChoice | undefined, options: PackOptions): Promise<Packed> {
    return await this.#reserved(kv.info.bytes, options, () =>
      shipKv(kv, options.receiver ?? options.where, codec, this.#shipping(options)),
    );
  }

  async #shipLatent(latent: Latent, translator: Translator | undefined, options: PackOptions): Promise<Packed> {
    if (translator !== undefined) {
      using translated = await translator.translate(latent, { signal: options.signal });
      return await this.#shipLatent(translated, undefined, options);
    }
    return await this.#reserved(latent.bytes, options, () =>
      shipLatent(latent, options.receiver ?? options.where, this.#shipping(options)),
    );
  }

  /** While it is made, and as long as this side keeps it, its bytes count. */
  async #reserved(bytes: number, { signal, isMore }: PackOptions, ship: () => Promise<Shipment>): Promise<Packed> {
    const free = await this.outbox.reserve(bytes, signal, isMore);
    try {
      const { claim, body, object, release, drop, bytes: moved } = await ship();
      if (release === undefined) free();
      const releases = release === undefined ? (drop === undefined ? [] : [drop]) : [release, free];
      return { claims: [claim], body, object, releases, bytes: moved };
    } catch (error) {
      free();
      throw error;
    }
  }

  /** As it is where the receiver can reach it; else it is fetched and sent anew. */
  async #forward(parcel: Parcel, options: PackOptions): Promise<PackedOffer> {
    const { claim, text, body, object } = parcel.content;
    const { receiver } = options;
    if (parcel.disposed) throw new LatentError("ERR_LATENT_DISPOSED", "the parcel was disposed");
    const words = { text, label: parcel.label === "" ? undefined : parcel.label };
    const accepted = receiver === undefined || claim === undefined || this.#usable(claim, receiver);
    const reason = receiver === undefined || claim === undefined ? "passed on" : "passed on: it can use it as it is";
    if (
      accepted &&
      (options.form === undefined || options.form === parcel.form) &&
      (await parcel.reaches(receiver ?? options.where, options.keptMs, options.signal))
    ) {
      const packed = { ...nothing, claims: claim === undefined ? [] : [claim], body, object, bytes: body.length };
      return { ...words, form: parcel.form, why: reason, ...packed };
    }
    if (claim?.form === "latent") {
      using latent = await parcel.latent({ signal: options.signal });
      return await this.pack({ latent, ...(text !== undefined && { text }) }, options);
    }
    if (text !== undefined) return await this.pack({ text }, options);
    throw new LatentError(
      "ERR_LATENT_BUS_FORM",
      `keys and values from ${parcel.from} cannot be passed on to ${receiver?.name ?? "others"}`,
    );
  }

  #usable(claim: ContentClaim, { accepts }: Announcement): boolean {
    return claim.form === "latent" ? accepts.spaces.includes(claim.space.id) : accepts.kv.includes(identityDigest(claim.identity));
  }

  #shipping({ keptMs, signal }: PackOptions): ShippingOptions {
    const { inlineBytes, sharedMemory, sign } = this.options;
    return { broker: this.broker, inlineBytes, sharedMemory, keptMs, salt: this.#salt, sign, signal };
  }

  #count(log: string, conversation: string): number {
    const key = `${log} ${conversation}`;
    const next = (this.#sequences.get(key) ?? 0) + 1;
    // the one that was silent for longest goes first
    this.#sequences.delete(key);
    this.#sequences.set(key, next);
    if (this.#sequences.size > mostConversations) this.#sequences.delete(this.#sequences.keys().next().value ?? "");
    return next;
  }
}

/** Resolves with the promise, which never rejects; rejects when the signal aborts before. */
async function unlessAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  let abort = (): void => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    abort = (): void => {
      reject(signal.reason as Error);
    };
    signal.addEventListener("abort", abort, { once: true });
  });
  try {
    await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Aborts with either; what waits for no signal of its own still ends with the bus. */
export function eitherOf(own: AbortSignal, given: AbortSignal | undefined): AbortSignal {
  return given === undefined ? own : AbortSignal.any([own, given]);
}
