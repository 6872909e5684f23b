// The broker on NATS JetStream 2.9 or newer. Everything is under one prefix, so that a server can be shared and permissions are short: publish and subscribe on
// `PREFIX.>` and `_INBOX.>`, publish on `$JS.API.>`.
//
//   PREFIX.log.NAME            a stream PREFIX_log_NAME each: the entries of a log
//   PREFIX.cursor.LOG.CURSOR   stream PREFIX_cursors: how far readers are
//   PREFIX.present.KEY         stream PREFIX_present, in memory: who is there
//   PREFIX.piece.NAME.UNTIL    stream PREFIX_pieces
//   PREFIX.signal.SUBJECT, PREFIX.shown.LOG (a copy of each entry, for taps), PREFIX.room.LOG (there is room again): no stream, for whoever listens
import type { NodeConnectionOptions } from "@nats-io/transport-node";
import { checkInteger, checkKeys, checkOneOf, checkString, fallback, invalid } from "../../../check.js";
import { LatentError } from "../../../errors.js";
import type { AppendOptions, Broker, Entry, LogReader, OpenLogOptions, Present, Tapped } from "../broker.js";
import { requireEntry, requireId, requireName } from "../broker.js";
import { loadNats } from "./nats-client.js";
import type { NatsModules } from "./nats-client.js";
import { NatsLink } from "./nats-link.js";
import { decodeEntry, encodeEntry, NatsLogs } from "./nats-log.js";
import type { NatsLayout } from "./nats-log.js";
import { NatsPieces } from "./nats-pieces.js";
import { NatsPresence } from "./nats-presence.js";
import { NatsReader } from "./nats-reader.js";

/** How servers of NATS are trusted, and what they are shown. */
export interface NatsTls {
  /** Certificates of who signs servers' certificates, PEM. Default: those that Node.js trusts. */
  readonly ca?: string;
  /** Own certificate, PEM. */
  readonly cert?: string;
  /** Its key, PEM. */
  readonly key?: string;
}

/** What can be set of a bus on NATS. */
export interface NatsOptions {
  readonly token?: string;
  /** The text of a `.creds` file, or the seed of an nkey. */
  readonly credentials?: string;
  /** The connection must be encrypted. */
  readonly tls?: NatsTls;
  /** Of all streams and subjects: letters, digits, `_` and `-`. Default "latentwire". */
  readonly prefix?: string;
  /** Where streams are kept that do not exist yet. Default "file". */
  readonly storage?: "file" | "memory";
  /** How many servers keep each stream. Default 1. */
  readonly replicas?: 1 | 3 | 5;
  /** Bytes of a log, until who appends has to wait; with what NATS adds. Holds for logs that do not exist yet. Default 64 MiB. */
  readonly logBytes?: number;
  /** Bytes of all pieces. Default 1 GiB. */
  readonly pieceBytes?: number;
  /** How long entries and cursors are kept that nobody reads, in milliseconds. Default a day. */
  readonly unreadMs?: number;
  /** How long the server may be away before everything rejects, in milliseconds. Default 60 000. */
  readonly reconnectMs?: number;
  /** Ends the attempt to connect. */
  readonly signal?: AbortSignal;
}

const optionKeys = [
  "token",
  "credentials",
  "tls",
  "prefix",
  "storage",
  "replicas",
  "logBytes",
  "pieceBytes",
  "unreadMs",
  "reconnectMs",
  "signal",
];
/** How long closing may take when the server does not answer. */
const closeMs = 3000;

/**
 * Connects to `nats://HOST:PORT` or, encrypted, `tls://HOST:PORT`; several servers of a cluster with commas in between.
 * @throws LatentError `ERR_LATENT_PACKAGE_MISSING`, `ERR_LATENT_BUS_DISCONNECTED` (nobody there, no JetStream, too old), `ERR_LATENT_BUS_UNAUTHORIZED`,
 * `ERR_LATENT_BUS_LIMIT` (the server's `max_payload` is too small), `ERR_LATENT_INVALID_ARGUMENT`
 */
export async function connectNats(url: string, options: NatsOptions = {}): Promise<Broker> {
  checkKeys("options", options, optionKeys);
  const { encrypted, servers } = parseUrl(url);
  const layout = checkLayout(options);
  const reconnectMs = checkInteger("reconnectMs", fallback(options.reconnectMs, 60_000), 100, 86_400_000);
  const { token, credentials, tls } = options;
  if (token !== undefined && credentials !== undefined) throw refused("token and credentials exclude each other");
  const modules = await loadNats();
  const address = `${encrypted ? "tls" : "nats"}://${servers.join(",")}`;
  const connection: NodeConnectionOptions = {
    servers,
    name: "latentwire",
    ...(token === undefined ? {} : { token: checkSecret("token", token) }),
    ...(credentials === undefined ? {} : { authenticator: authenticator(modules, credentials) }),
    ...(encrypted || tls !== undefined ? { tls: checkTls(fallback(tls, {})) } : {}),
  };
  const link = await NatsLink.connect(modules, address, connection, reconnectMs, options.signal);
  const broker = new NatsBroker(link, layout);
  try {
    await broker.start(options.signal);
    return broker;
  } catch (error) {
    await broker.close();
    throw error;
  }
}

class NatsBroker implements Broker {
  readonly passesObjects = false;
  readonly countsPieces = false;
  readonly #link: NatsLink;
  readonly #layout: NatsLayout;
  readonly #logs: NatsLogs;
  readonly #presence: NatsPresence;
  readonly #pieces: NatsPieces;
  readonly #readers = new Map<NatsReader, string>();
  #signals: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  constructor(link: NatsLink, layout: NatsLayout) {
    this.#link = link;
    this.#layout = layout;
    this.#logs = new NatsLogs(link, layout);
    this.#presence = new NatsPresence(link, layout);
    this.#pieces = new NatsPieces(link, layout);
  }

  get address(): string {
    return this.#link.address;
  }

  /** Makes the streams that all share, and reads the server's clock. */
  async start(signal: AbortSignal | undefined): Promise<void> {
    const { jsm } = this.#link;
    for (const plan of [this.#logs.cursors, this.#presence.plan, this.#pieces.plan])
      await this.#link.inStream(plan, () => jsm.streams.info(plan.name), signal);
    const { name } = this.#presence.plan;
    const { created, name: consumer } = await this.#link.attempt(
      () => jsm.consumers.add(name, { ack_policy: "none", deliver_policy: "new", mem_storage: true, inactive_threshold: 1e9 }),
      signal,
    );
    this.#link.setClock(created);
    // on a slow machine the server has dropped it by now
    await this.#link.unlessMissing(() => jsm.consumers.delete(name, consumer));
    this.#logs.startSweeping();
  }

  async append(log: string, entry: Entry, { id, signal }: AppendOptions): Promise<void> {
    this.#require(log);
    requireId(id);
    requireEntry(entry);
    await this.#logs.append(log, entry, id, signal);
  }

  async open(log: string, cursor: string, options: OpenLogOptions): Promise<LogReader> {
    this.#require(log, cursor);
    const reader = await NatsReader.open(this.#logs, log, cursor, options, (ended) => this.#readers.delete(ended));
    if (!reader.hasEnded) this.#readers.set(reader, `${log} ${cursor}`);
    this.#link.check();
    return reader;
  }

  async forget(log: string, cursor: string): Promise<void> {
    this.#require(log, cursor);
    for (const [reader, name] of this.#readers) if (name === `${log} ${cursor}`) reader.end();
    await this.#logs.forget(log, cursor);
  }

  async signal(subject: string, entry: Entry): Promise<void> {
    this.#require(subject);
    requireEntry(entry);
    const turn = this.#signals.then(async () => {
      // a client that is not connected would keep all of it
      if (!this.#link.isConnected) await this.#link.flush();
      this.#link.connection.publish(this.#signalSubject(subject), encodeEntry(entry));
    });
    this.#signals = turn.catch(() => undefined);
    await turn;
    // who listens from now on does not get it, and who signals faster than the server takes it has to wait
    await this.#link.flush();
  }

  async listen(subject: string, take: (entry: Entry) => void): Promise<() => void> {
    this.#require(subject);
    return this.#link.subscribe(this.#signalSubject(subject), ({ data }) => {
      const entry = decodeEntry(data);
      if (entry !== undefined) take(entry);
    });
  }

  async announce(key: string, value: string): Promise<void> {
    this.#require(key);
    await this.#presence.announce(key, value);
  }

  async withdraw(key: string): Promise<void> {
    this.#require(key);
    await this.#presence.withdraw(key);
  }

  async present(): Promise<readonly Present[]> {
    this.#require();
    return this.#presence.present();
  }

  async watch(take: (present: readonly Present[]) => void): Promise<() => void> {
    this.#require();
    return this.#presence.watch(take);
  }

  async put(name: string, piece: Uint8Array, keptMs: number, signal: AbortSignal): Promise<void> {
    this.#require();
    await this.#pieces.put(name, piece, keptMs, signal);
  }

  async touch(name: string, keptMs: number): Promise<boolean> {
    this.#require();
    return this.#pieces.touch(name, keptMs);
  }

  async get(name: string, signal: AbortSignal): Promise<Uint8Array | undefined> {
    this.#require();
    return this.#pieces.get(name, signal);
  }

  async drop(name: string): Promise<void> {
    this.#require();
    await this.#pieces.drop(name);
  }

  async tap(take: (entry: Tapped) => void): Promise<() => void> {
    this.#require();
    const { prefix } = this.#layout;
    const show = async (channel: Tapped["channel"], start: string): Promise<() => void> =>
      this.#link.subscribe(`${start}.>`, ({ subject, data }) => {
        const entry = decodeEntry(data);
        if (entry !== undefined) take({ channel, name: subject.slice(start.length + 1), ...entry });
      });
    const logs = await show("log", `${prefix}.shown`);
    try {
      const signals = await show("signal", `${prefix}.signal`);
      return () => {
        logs();
        signals();
      };
    } catch (error) {
      logs();
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#closing ??= this.#close();
    await this.#closing;
  }

  #signalSubject(subject: string): string {
    return `${this.#layout.prefix}.signal.${subject}`;
  }

  #require(...names: string[]): void {
    if (this.#closing !== undefined) throw this.#link.lost("the bus was closed");
    this.#link.check();
    for (const name of names) requireName(name);
  }

  async #close(): Promise<void> {
    if (this.#link.isConnected) {
      const work = [
        ...[...this.#readers.keys()].map((reader) => reader.close()),
        this.#presence.withdrawAll(),
        this.#signals,
        this.#link.flush(),
      ];
      await this.#link.pause(closeMs, undefined, Promise.allSettled(work)).catch(() => undefined);
    }
    for (const reader of this.#readers.keys()) await reader.close();
    await this.#link.close();
  }
}

/** Of what may be or hold a secret, which must not be in a message. */
function refused(why: string): LatentError {
  return new LatentError("ERR_LATENT_INVALID_ARGUMENT", why);
}

function parseUrl(url: string): { readonly encrypted: boolean; readonly servers: string[] } {
  const [, scheme, rest = ""] = /^(nats|tls):\/\/([^/?#]+)\/?$/.exec(checkString("url", url)) ?? [];
  const servers = rest.split(",");
  if (rest.includes("@")) throw refused("url must have no user or token in it; give `token` or `credentials`");
  if (scheme === undefined || !servers.every((server) => /^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?$/.test(server)))
    throw refused("url must be nats://HOST:PORT or tls://HOST:PORT, with more servers after commas");
  return { encrypted: scheme === "tls", servers };
}

function checkLayout(options: NatsOptions): NatsLayout {
  const prefix = checkString("prefix", fallback(options.prefix, "latentwire"));
  if (!/^[A-Za-z0-9_-]{1,32}$/.test(prefix)) throw invalid("prefix", "1 to 32 letters, digits, '_' and '-'", prefix);
  const replicas = fallback(options.replicas, 1);
  if (![1, 3, 5].includes(replicas)) throw invalid("replicas", "1, 3 or 5", replicas);
  return {
    prefix,
    replicas,
    storage: checkOneOf("storage", fallback(options.storage, "file"), ["file", "memory"]),
    logBytes: checkInteger("logBytes", fallback(options.logBytes, 64 << 20), 1 << 20, 2 ** 40),
    pieceBytes: checkInteger("pieceBytes", fallback(options.pieceBytes, 1 << 30), 1 << 20, 2 ** 50),
    unreadMs: checkInteger("unreadMs", fallback(options.unreadMs, 86_400_000), 120_000, 366 * 86_400_000),
  };
}

function checkTls(tls: NatsTls): { ca?: string; cert?: string; key?: string } {
  checkKeys("tls", tls, ["ca", "cert", "key"]);
  const { ca, cert, key } = tls;
  return {
    ...(ca === undefined ? {} : { ca: checkSecret("tls.ca", ca) }),
    ...(cert === undefined ? {} : { cert: checkSecret("tls.cert", cert) }),
    ...(key === undefined ? {} : { key: checkSecret("tls.key", key) }),
  };
}

function authenticator({ transport }: NatsModules, credentials: string): NonNullable<NodeConnectionOptions["authenticator"]> {
  const text = checkSecret("credentials", credentials).trim();
  const bytes = new TextEncoder().encode(text);
  if (/^SU[A-Z2-7]{56}$/.test(text)) return transport.nkeyAuthenticator(bytes);
  if (text.includes("-----BEGIN NATS USER JWT-----")) return transport.credsAuthenticator(bytes);
  throw refused("credentials must be the text of a .creds file or the seed of an nkey");
}

function checkSecret(name: string, value: unknown): string {
  if (typeof value !== "string" || value === "") throw refused(`${name} must be a string that is not empty`);
  return value;
}
