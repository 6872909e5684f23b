// The client library of NATS: loaded when it is needed, and what it and the server say in terms of this package.
import type * as JetStream from "@nats-io/jetstream";
import type * as Transport from "@nats-io/transport-node";
import type { NatsConnection } from "@nats-io/transport-node";
import { LatentError } from "../../../errors.js";
import { entryBytes } from "../broker.js";

export interface NatsModules {
  readonly transport: typeof Transport;
  readonly jetstream: typeof JetStream;
}

/** What an entry's message has beside head and body, at most: lengths and headers. */
export const frameBytes = 2048;
const oldestServer = [2, 9] as const;
/** Of errors of JetStream. */
export const code = { streamNotFound: 10059, consumerNotFound: 10014, nameInUse: 10058, storeFailed: 10077 } as const;
/** Of the account or server: storage, memory, streams, consumers, message size. */
const limitCodes: readonly number[] = [10002, 10023, 10026, 10027, 10028, 10047, 10054, code.storeFailed];
/** The cluster has no leader yet, JetStream is starting, or a stream of that name is just being deleted. */
export const passingCodes: readonly number[] = [10008, 10009, 10049];

export async function loadNats(): Promise<NatsModules> {
  try {
    const [transport, jetstream] = await Promise.all([import("@nats-io/transport-node"), import("@nats-io/jetstream")]);
    return { transport, jetstream };
  } catch (cause) {
    const hint = "Run `npm install @nats-io/transport-node@3.4.0 @nats-io/jetstream@3.4.0`, or connect to another bus.";
    const message = "a bus on NATS needs the packages @nats-io/transport-node and @nats-io/jetstream, which cannot be loaded";
    throw new LatentError("ERR_LATENT_PACKAGE_MISSING", message, { cause, hint });
  }
}

/** @throws LatentError `ERR_LATENT_BUS_DISCONNECTED` (too old, no JetStream), `ERR_LATENT_BUS_LIMIT` (it takes no messages as large as entries are) */
export function requireServer({ info }: NatsConnection, address: string): void {
  const refuse = (why: string, hint: string): never => {
    throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", `${address}: ${why}`, { hint });
  };
  const [major = 0, minor = 0] = (info?.version ?? "").split(".").map(Number);
  const [needMajor, needMinor] = oldestServer;
  if (major < needMajor || (major === needMajor && minor < needMinor))
    refuse(`NATS ${info?.version ?? "of no version"} is too old`, "Run nats-server 2.9 or newer.");
  if (info?.jetstream !== true) refuse("the server has no JetStream", "Start nats-server with `-js`.");
  const limit = info?.max_payload ?? 0;
  const bytes = entryBytes + frameBytes;
  if (limit >= bytes) return;
  const hint = "Have `max_payload` of the server raised; 1MB, its default, is enough.";
  throw new LatentError("ERR_LATENT_BUS_LIMIT", `${address}: the server takes messages of ${limit} bytes, and ${bytes} are needed`, {
    hint,
    details: { bytes, limit },
  });
}

// By name: a copy of the client library elsewhere must not make the difference.
export function isDenied(error: unknown): boolean {
  for (let one = error; one instanceof Error; one = one.cause)
    if (["AuthorizationError", "UserAuthenticationExpiredError", "PermissionViolationError"].includes(one.name)) return true;
  return false;
}

export function toBusError(error: unknown, address: string): LatentError {
  if (LatentError.isInstance(error)) return error;
  const message = `${address}: ${error instanceof Error ? error.message.split("\n", 1)[0] : "failed"}`;
  if (isDenied(error)) return new LatentError("ERR_LATENT_BUS_UNAUTHORIZED", message, { cause: error });
  const found: unknown = error instanceof Error ? Reflect.get(error, "code") : undefined;
  if (typeof found === "number" && limitCodes.includes(found)) return new LatentError("ERR_LATENT_BUS_LIMIT", message, { cause: error });
  return new LatentError("ERR_LATENT_BUS_DISCONNECTED", message, { cause: error });
}
