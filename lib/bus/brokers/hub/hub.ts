// A hub: one server, over HTTP or a unix socket, that keeps logs, presence and pieces in its memory for those who connect to it.
import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { createServer as createHttp, STATUS_CODES } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { createServer as createHttps } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { MessagePort } from "node:worker_threads";
import { checkCallback, checkInteger, checkKeys, checkNumber, checkString, fallback, invalid } from "../../../check.js";
import { LatentError } from "../../../errors.js";
import { formatAddress, isLoopback, parseAddress } from "./address.js";
import type { Address } from "./address.js";
import type { Broker } from "../broker.js";
import { Clients } from "./clients.js";
import { serveHttp } from "./hub-http.js";
import { MemoryCore, memoryLimits } from "../memory-broker.js";
import type { MemoryLimits } from "../memory-broker.js";
import { sessionPath, standardSilentMs, upgradeName } from "./protocol.js";
import { Session } from "./session.js";
import type { SessionCounts, SessionHost } from "./session.js";
import { listenAtPath } from "./socket-file.js";
import { PortWire, StreamWire } from "./wire.js";

/** How a hub shows who it is. PEM. */
export interface HubTls {
  readonly key: string | Buffer;
  readonly cert: string | Buffer;
  /** Only clients with a certificate of this authority are let in. */
  readonly ca?: string | Buffer;
}

/** Options of {@link listen}. */
export interface HubOptions {
  /** What clients must show, as a bearer token. Needed, or `tls.ca`, where others than this machine can connect. Never shown anywhere. */
  readonly token?: string;
  /** For `https:`. */
  readonly tls?: HubTls;
  /** How much is kept. */
  readonly limits?: Partial<MemoryLimits>;
  /** Messages that one connection may send in a second, on average; it is read more slowly if it sends more. Default: no limit. */
  readonly ratePerSecond?: number;
  /** The same for bytes. */
  readonly bytesPerSecond?: number;
  /** How many clients may be connected at once. Default 1024. */
  readonly connections?: number;
  /** After which time a client that says nothing is lost. Default 15 000. */
  readonly silentMs?: number;
  /** More that is served on the same port, after the token was checked. Returns whether it answers the request. */
  readonly routes?: (request: IncomingMessage, response: ServerResponse) => boolean;
  /** More lines for `/metrics`, in the text format of Prometheus; each ends with a line feed. */
  readonly metrics?: () => string;
  /** Whether `/ready` may say that it is. Default: always. */
  readonly ready?: () => boolean;
}

/** Options of {@link Hub.close}. */
export interface HubCloseOptions {
  /** How long what waits may still be answered. Default 5000. */
  readonly drainMs?: number;
}

/**
 * Opens a hub at `unix:/path`, `http://host:port` or `https://host:port`; port 0: the system chooses. It keeps everything in memory: what it held is lost with
 * its process.
 * @throws LatentError `ERR_LATENT_INVALID_ARGUMENT`: also when the address cannot be listened at, or others than this machine could connect without a token
 */
export async function listen(url: string, options: HubOptions = {}): Promise<Hub> {
  const address = parseAddress(url);
  const known = ["token", "tls", "limits", "ratePerSecond", "bytesPerSecond", "connections", "silentMs", "routes", "metrics", "ready"];
  checkKeys("options", options, known);
  const token = options.token === undefined ? undefined : checkString("token", options.token);
  if (token !== undefined && !/^[\x21-\x7e]{8,}$/.test(token))
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "token must be 8 printable ASCII characters or more");
  checkTls(address, options.tls);
  if (address.kind !== "unix" && !isLoopback(address.host) && token === undefined && options.tls?.ca === undefined) {
    throw new LatentError(
      "ERR_LATENT_INVALID_ARGUMENT",
      `a hub at ${formatAddress(address)} needs a token or 'tls.ca', for others can reach it`,
    );
  }
  checkCallback("routes", options.routes);
  checkCallback("metrics", options.metrics);
  checkCallback("ready", options.ready);
  const limits = fallback(options.limits, {});
  checkKeys("limits", limits, Object.keys(memoryLimits));
  for (const [name, value] of Object.entries(limits)) checkInteger(`limits.${name}`, value, 1, Number.MAX_SAFE_INTEGER);
  const hub = new Hub(address, options, {
    limits,
    ratePerSecond: checkRate("ratePerSecond", options.ratePerSecond),
    bytesPerSecond: checkRate("bytesPerSecond", options.bytesPerSecond),
    connections: checkInteger("connections", fallback(options.connections, 1024), 1, 1_000_000),
    silentMs: checkInteger("silentMs", fallback(options.silentMs, standardSilentMs), 30, 2 ** 31 - 1),
  });
  await hub.start();
  return hub;
}

interface Checked {
  readonly limits: Partial<MemoryLimits>;
  readonly ratePerSecond: number;
  readonly bytesPerSecond: number;
  readonly connections: number;
  readonly silentMs: number;
}

/** Made by {@link listen}: what keeps a bus for others, in the memory of this process. */
export class Hub implements AsyncDisposable {
  readonly #core: MemoryCore;
  readonly #clients: Clients;
  readonly #server: Server;
  readonly #sessions = new Set<Session>();
  readonly #counts: SessionCounts = { appended: 0, delivered: 0, signalled: 0, receivedBytes: 0, sentBytes: 0, refused: new Map() };
  readonly #host: SessionHost;
  readonly #connections: number;
  readonly #token: Buffer | undefined;
  /** Clients show certificates. */
  readonly #isMutual: boolean;
  #address: Address;
  #isDraining = false;
  #removeFile: (() => Promise<void>) | undefined;
  #closed: Promise<void> | undefined;

  /** @internal By {@link listen}. */
  constructor(address: Address, { token, tls, routes, metrics, ready }: HubOptions, checked: Checked) {
    const { limits, connections, ratePerSecond, bytesPerSecond, silentMs } = checked;
    this.#address = address;
    this.#core = new MemoryCore(limits);
    this.#clients = new Clients(this.#core);
    this.#connections = connections;
    this.#isMutual = tls?.ca !== undefined;
    this.#token = token === undefined ? undefined : digestOf(token);
    this.#host = {
      ...{ core: this.#core, clients: this.#clients, epoch: randomUUID(), silentMs, ratePerSecond, bytesPerSecond, counts: this.#counts },
      onEnd: (session) => this.#sessions.delete(session),
    };
    this.#server = serverOf(tls);
    // requests over kept connections, and sessions
    this.#server.maxConnections = 2 * connections;
    this.#server.on("request", (request, response) => {
      const { core, counts } = this.#host;
      const state = { core, counts, routes, metrics, ready, sessions: this.#sessions.size, isDraining: this.#isDraining };
      void serveHttp({ ...state, isAuthorized: (asked) => this.#isAuthorized(asked) }, request, response);
    });
    this.#server.on("upgrade", (request, socket: Socket, first) => {
      this.#upgrade(request, socket, first);
    });
    this.#server.on("clientError", (_, socket) => socket.destroy());
  }

  /** Where it listens, for those who connect. */
  get url(): string {
    return formatAddress(this.#address);
  }

  /** @internal */
  async start(): Promise<void> {
    const address = this.#address;
    try {
      if (address.kind === "unix") {
        this.#removeFile = await listenAtPath(this.#server, address.path, (path) => this.#listen({ path }));
        return;
      }
      await this.#listen({ host: address.host, port: address.port, exclusive: true });
      this.#address = { ...address, port: (this.#server.address() as AddressInfo).port };
    } catch (error) {
      if (LatentError.isInstance(error)) throw error;
      const code = error instanceof Error ? String(Reflect.get(error, "code")) : "";
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `a hub cannot listen at ${this.url}: ${code}`, { cause: error });
    }
  }

  /** @internal A connection for the process of the hub itself, without a socket; `connect(hub)` makes a bus of it. */
  broker(): Broker {
    this.#requireOpen();
    return this.#core.connect(this.url, false);
  }

  /** Serves the thread that has the other end of the channel; there `connectPort` makes the connection. The port is the hub's then. */
  attach(port: MessagePort): void {
    const given: unknown = port;
    if (!(given instanceof MessagePort)) throw invalid("port", "a MessagePort", given);
    this.#requireOpen();
    // a thread that computes is silent, and one that ends closes its port
    this.#sessions.add(new Session({ ...this.#host, silentMs: Infinity }, new PortWire(given)));
  }

  /** Lets nobody in any more, and says so at `/health` and `/ready`; who is connected stays so until {@link close}. Idempotent. */
  drain(): void {
    this.#isDraining = true;
  }

  /** Lets nobody in any more, answers what waits, and ends. Idempotent. */
  async close(options: HubCloseOptions = {}): Promise<void> {
    checkKeys("options", options, ["drainMs"]);
    const drainMs = checkNumber("drainMs", fallback(options.drainMs, 5000), 0, 2 ** 31 - 1);
    await (this.#closed ??= this.#close(drainMs));
  }

  /** Same as {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(drainMs: number): Promise<void> {
    this.drain();
    const until = performance.now() + drainMs;
    while (performance.now() < until && [...this.#sessions].some((session) => !session.isIdle)) await delay(10);
    for (const session of [...this.#sessions]) session.close();
    this.#clients.close();
    await this.#removeFile?.();
    const closed = new Promise<void>((resolve) => this.#server.close(() => { resolve(); })); // prettier-ignore
    this.#server.closeAllConnections();
    await closed;
  }

  async #listen(
    where: { readonly path: string } | { readonly host: string; readonly port: number; readonly exclusive: boolean },
  ): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(where, () => {
        this.#server.off("error", reject);
        resolve();
      });
    });
  }

  #upgrade(request: IncomingMessage, socket: Socket, first: Buffer): void {
    socket.on("error", () => socket.destroy());
    if (request.url !== sessionPath || request.headers.upgrade?.toLowerCase() !== upgradeName) refuse(socket, 404);
    else if (!this.#isAuthorized(request)) {
      this.#refused("ERR_LATENT_BUS_UNAUTHORIZED");
      refuse(socket, 401);
    } else if (this.#isDraining) refuse(socket, 503);
    else if (this.#sessions.size >= this.#connections) {
      this.#refused("ERR_LATENT_BUS_LIMIT");
      refuse(socket, 429);
    } else {
      socket.setTimeout(0);
      socket.setNoDelay(true);
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${upgradeName}\r\n\r\n`);
      this.#sessions.add(new Session(this.#host, new StreamWire(socket, first)));
    }
  }

  #isAuthorized({ headers: { authorization = "", host = "", origin } }: IncomingMessage): boolean {
    // without a token the only guard is that nobody but this machine can connect, which a page in its browser can too, under a name of its own
    if (this.#token === undefined)
      return (
        this.#address.kind === "unix" ||
        this.#isMutual ||
        (origin === undefined && isLoopback(host.replace(/:\d+$/, "").replace(/[[\]]/g, "")))
      );
    return timingSafeEqual(digestOf(/^Bearer +(\S+)$/i.exec(authorization)?.[1] ?? ""), this.#token);
  }

  #refused(code: string): void {
    this.#counts.refused.set(code, (this.#counts.refused.get(code) ?? 0) + 1);
  }

  #requireOpen(): void {
    if (this.#isDraining) throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the hub was closed");
  }
}

function serverOf(tls: HubTls | undefined): Server {
  // Expect nothing of who connects but the headers, soon.
  const options = { headersTimeout: 10_000, requestTimeout: 60_000 };
  if (tls === undefined) return createHttp(options);
  const isMutual = tls.ca !== undefined;
  try {
    return createHttps({ ...options, ...tls, requestCert: isMutual, rejectUnauthorized: isMutual });
  } catch (error) {
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "tls must be a key and a certificate that belong together, in PEM", {
      cause: error,
    });
  }
}

function checkTls(address: Address, tls: HubTls | undefined): void {
  if (tls === undefined) {
    if (address.kind === "https") throw invalid("tls", "a key and a certificate where the address is https", tls);
    return;
  }
  checkKeys("tls", tls, ["key", "cert", "ca"]);
  if (address.kind !== "https") throw invalid("url", "'https://host:port' where tls is given", formatAddress(address));
}

function checkRate(name: string, value: number | undefined): number {
  return value === undefined ? Infinity : checkNumber(name, value, 1, Number.MAX_SAFE_INTEGER);
}

function refuse(socket: Socket, status: number): void {
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ""}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
  setTimeout(() => socket.destroy(), 1000).unref();
}

function digestOf(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}
