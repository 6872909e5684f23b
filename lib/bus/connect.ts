// Where a bus is: by its address.
import { MessagePort } from "node:worker_threads";
import { checkKeys, invalid } from "../check.js";
import type { Broker } from "./brokers/broker.js";
import { Bus } from "./bus.js";
import { connectHub, connectPort } from "./brokers/hub/connect-hub.js";
import { Hub } from "./brokers/hub/hub.js";
import { MemoryCore } from "./brokers/memory-broker.js";
import { connectNats, type NatsOptions, type NatsTls } from "./brokers/nats/nats-broker.js";
import { busSettings, checkBusSettings, type BusSettings } from "./options.js";

/** Options of {@link connect}. */
export interface ConnectOptions extends BusSettings {
  /** What the hub or server wants to see. Never shown anywhere. */
  readonly token?: string;
  /** For `https:` and `tls:`: whom to believe, and what to show. PEM. */
  readonly tls?: NatsTls;
  /** How long a connection that broke is tried to be made anew, in milliseconds, until everything that waits rejects. Default 30 000; NATS: 60 000. */
  readonly reconnectMs?: number;
  /** For `nats:` and `tls:`. */
  readonly nats?: Omit<NatsOptions, "token" | "tls" | "reconnectMs" | "signal">;
  /** Of connecting. */
  readonly signal?: AbortSignal;
}

const memories = new Map<string, MemoryCore>();

/**
 * Connects to a bus, whose promises are the same wherever it is:
 * - `memory:NAME`: this thread; handles are passed, and nothing is copied.
 * - `unix:/PATH`, `http://HOST:PORT`, `https://HOST:PORT`: a hub, which {@link listen} or `latentwire serve` opens; or the {@link Hub} itself, in its process.
 * - `nats://HOST:PORT`, `tls://HOST:PORT`: servers of NATS with JetStream. Takes the packages `@nats-io/transport-node` and `@nats-io/jetstream`.
 * - a `MessagePort` of a worker, whose other end {@link Hub.attach} was given.
 *
 * ```ts
 * await using bus = await connect("unix:/run/agents.sock");
 * await using served = await bus.serve([model.agent({ name: "planner", system: "Plan." })]);
 * ```
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_BUS_DISCONNECTED`, `ERR_LATENT_BUS_UNAUTHORIZED`, `ERR_LATENT_BUS_LIMIT`,
 * `ERR_LATENT_BUS_ENVELOPE` (the other side is of another version), `ERR_LATENT_PACKAGE_MISSING`; the signal's reason on abort
 */
export async function connect(where: string | Hub | MessagePort, options: ConnectOptions = {}): Promise<Bus> {
  checkKeys("options", options, [...busSettings, "token", "tls", "reconnectMs", "nats", "signal"]);
  const settings = checkBusSettings(options);
  return await Bus.start(await brokerAt(where, options), settings);
}

async function brokerAt(where: string | Hub | MessagePort, options: ConnectOptions): Promise<Broker> {
  if (where instanceof Hub) return where.broker();
  if (where instanceof MessagePort) return await connectPort(where);
  const given: unknown = where;
  if (typeof given !== "string") throw invalid("where", "an address, a Hub or a MessagePort", given);
  const { token, tls, reconnectMs, signal } = options;
  const connecting = {
    ...(token !== undefined && { token }),
    ...(tls !== undefined && { tls }),
    ...(reconnectMs !== undefined && { reconnectMs }),
    ...(signal !== undefined && { signal }),
  };
  switch (/^[a-z]+:/.exec(where)?.[0]) {
    case "memory:":
      return memoryAt(where);
    case "unix:":
    case "http:":
    case "https:":
      return await connectHub(where, connecting);
    case "nats:":
    case "tls:":
      return await connectNats(where, { ...options.nats, ...connecting });
    default:
      throw invalid("where", "an address that begins with memory:, unix:, http:, https:, nats: or tls:", where);
  }
}

function memoryAt(address: string): Broker {
  let core = memories.get(address);
  if (core === undefined) memories.set(address, (core = new MemoryCore()));
  return core.connect(address);
}
