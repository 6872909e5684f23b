// Connections to a hub: over a socket that HTTP was upgraded on, and over a port to another thread.
import { request as requestHttp } from "node:http";
import type { RequestOptions } from "node:http";
import { request as requestHttps } from "node:https";
import type { Socket } from "node:net";
import { MessagePort } from "node:worker_threads";
import { checkInteger, checkKeys, checkString, fallback, invalid } from "../../../check.js";
import { LatentError } from "../../../errors.js";
import { formatAddress, parseAddress } from "./address.js";
import type { Address } from "./address.js";
import type { Broker } from "../broker.js";
import type { Dial } from "./link.js";
import { sessionPath, upgradeName } from "./protocol.js";
import { RemoteBroker } from "./remote-broker.js";
import { PortWire, StreamWire } from "./wire.js";
import type { Wire } from "./wire.js";

/** How a client trusts a hub, and is trusted by it. PEM. */
export interface ClientTls {
  /** Who signed the hub's certificate. Default: the authorities that Node knows. */
  readonly ca?: string | Buffer;
  /** What this client shows of itself, for a hub that wants it. */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
}

export interface ConnectHubOptions {
  /** The hub's token. Never shown anywhere. */
  readonly token?: string;
  /** For `https:`. */
  readonly tls?: ClientTls;
  /** How long a connection that broke is tried to be made anew until everything that waits rejects. Default 30 000. */
  readonly reconnectMs?: number;
  /** Of the first connection only. */
  readonly signal?: AbortSignal;
}

/**
 * Connects to a hub: `unix:/path`, `http://host:port` or `https://host:port`. The first attempt must succeed; later the connection is made anew whenever it
 * breaks. Entries that a hub had confirmed are lost when it is killed, for it keeps them in memory.
 * @throws LatentError `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_BUS_DISCONNECTED`, `ERR_LATENT_BUS_UNAUTHORIZED`, `ERR_LATENT_BUS_LIMIT` (it has as many
 * connections as it takes), `ERR_LATENT_BUS_ENVELOPE` (it is of another version)
 */
export async function connectHub(url: string, options: ConnectHubOptions = {}): Promise<Broker> {
  checkKeys("options", options, ["token", "tls", "reconnectMs", "signal"]);
  const address = parseAddress(url);
  const token = options.token === undefined ? undefined : checkString("token", options.token);
  if (token !== undefined && !/^[\x21-\x7e]+$/.test(token))
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "token must be printable ASCII");
  if (options.tls !== undefined) {
    checkKeys("tls", options.tls, ["ca", "cert", "key"]);
    if (address.kind !== "https") throw invalid("url", "'https://host:port' where tls is given", formatAddress(address));
  }
  const reconnectMs = checkInteger("reconnectMs", fallback(options.reconnectMs, 30_000), 0, 2 ** 31 - 1);
  const dial: Dial = (signal) => dialHub(address, token, options.tls, signal);
  return RemoteBroker.connect(dial, { address: formatAddress(address), reconnectMs }, options.signal ?? new AbortController().signal);
}

/**
 * Connects over a port whose other end was given to `hub.attach`. It belongs to the connection then, and ends it when it closes.
 * @throws LatentError `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_BUS_DISCONNECTED`
 */
export async function connectPort(port: MessagePort): Promise<Broker> {
  const given: unknown = port;
  if (!(given instanceof MessagePort)) throw invalid("port", "a MessagePort", given);
  let wire: Wire | undefined = new PortWire(given);
  const dial: Dial = async () => {
    const only = wire;
    wire = undefined;
    if (only === undefined) throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the port was closed");
    return Promise.resolve(only);
  };
  return RemoteBroker.connect(dial, { address: "worker:", reconnectMs: 0 }, new AbortController().signal);
}

async function dialHub(address: Address, token: string | undefined, tls: ClientTls | undefined, signal: AbortSignal): Promise<Wire> {
  signal.throwIfAborted();
  const where: RequestOptions = address.kind === "unix" ? { socketPath: address.path } : { host: address.host, port: address.port };
  const headers = {
    connection: "Upgrade",
    upgrade: upgradeName,
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
  };
  const options = { ...where, ...tls, path: sessionPath, headers, agent: false };
  return new Promise<Wire>((resolve, reject) => {
    const request = address.kind === "https" ? requestHttps(options) : requestHttp(options);
    const abort = (): void => {
      request.destroy();
      reject(signal.reason as Error);
    };
    const settle = (): void => {
      signal.removeEventListener("abort", abort);
    };
    signal.addEventListener("abort", abort, { once: true });
    request.on("error", (error) => {
      settle();
      reject(failureOfRequest(address, error));
    });
    request.on("response", (response) => {
      settle();
      reject(failureOfStatus(address, response.statusCode ?? 0));
      response.destroy();
    });
    request.on("upgrade", (response, socket: Socket, first) => {
      settle();
      if (response.headers.upgrade?.toLowerCase() !== upgradeName) {
        socket.destroy();
        reject(failureOfStatus(address, 101));
        return;
      }
      socket.setTimeout(0);
      socket.setNoDelay(true);
      resolve(new StreamWire(socket, first));
    });
    request.end();
  });
}

function failureOfStatus(address: Address, status: number): LatentError {
  const where = formatAddress(address);
  if (status === 401 || status === 403) return new LatentError("ERR_LATENT_BUS_UNAUTHORIZED", `${where} wants another token`);
  if (status === 429) return new LatentError("ERR_LATENT_BUS_LIMIT", `${where} has as many connections as it takes`);
  return new LatentError("ERR_LATENT_BUS_DISCONNECTED", `${where} answered with status ${status}, and has no hub or ends it`);
}

function failureOfRequest(address: Address, error: Error): LatentError {
  const where = formatAddress(address);
  const code = String(Reflect.get(error, "code"));
  // of certificates: either side does not trust the other, which does not change by itself
  if (/^ERR_(SSL|TLS)_|CERT|SIGNATURE|ISSUER/.test(code))
    return new LatentError("ERR_LATENT_BUS_UNAUTHORIZED", `${where} and this client do not trust each other: ${code}`, { cause: error });
  return new LatentError("ERR_LATENT_BUS_DISCONNECTED", `${where} cannot be reached: ${code}`, { cause: error });
}
