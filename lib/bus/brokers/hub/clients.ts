// Who is, or was lately, connected to a hub: what lets a client that lost its connection go on with a new one as if nothing had happened.
import type { MemoryBroker, MemoryCore } from "../memory-broker.js";

/** How long records of presence outlive a lost connection, and how long a client is remembered. */
const lingerMs = 5_000;
const rememberMs = 120_000;
const sweepMs = 1_000;

/** A client, over all its connections. */
export interface Client {
  /** Of its connections, which it counts, the newest. */
  connection: number;
  /** The last of its requests that was a signal and has been passed on: it must not be when it is repeated. */
  signalled: number;
  /** Keeps its records, so that they outlive a connection. */
  presence: MemoryBroker;
  readonly keys: Set<string>;
  /** Ends the session that it has now. */
  end: (() => void) | undefined;
  lostAt: number;
}

export class Clients {
  readonly #core: MemoryCore;
  readonly #all = new Map<string, Client>();
  #sweeper: NodeJS.Timeout | undefined;

  constructor(core: MemoryCore) {
    this.#core = core;
  }

  /** The client whose connection this is, whose older one ends now. Undefined if this is not its newest. */
  arrive(id: string, connection: number, end: () => void): Client | undefined {
    let client = this.#all.get(id);
    if (client === undefined) {
      client = { connection: 0, signalled: 0, presence: this.#core.connect("hub"), keys: new Set(), end: undefined, lostAt: 0 };
      this.#all.set(id, client);
    }
    if (connection <= client.connection) return undefined;
    client.connection = connection;
    client.end?.();
    client.end = end;
    return client;
  }

  /** The connection has ended; `said`: the client wanted it so, and does not come back. */
  leave(id: string, connection: number, said: boolean): void {
    const client = this.#all.get(id);
    if (client?.connection !== connection) return;
    client.end = undefined;
    if (said) {
      void client.presence.close();
      this.#all.delete(id);
      return;
    }
    client.lostAt = performance.now();
    this.#sweeper ??= setInterval(() => {
      this.#sweep();
    }, sweepMs).unref();
  }

  close(): void {
    clearInterval(this.#sweeper);
    for (const { presence } of this.#all.values()) void presence.close();
    this.#all.clear();
  }

  #sweep(): void {
    let lost = 0;
    for (const [id, client] of this.#all) {
      if (client.end !== undefined) continue;
      lost++;
      const goneMs = performance.now() - client.lostAt;
      if (goneMs > rememberMs) {
        void client.presence.close();
        this.#all.delete(id);
      } else if (goneMs > lingerMs && client.keys.size > 0) {
        void client.presence.close();
        client.presence = this.#core.connect("hub");
        client.keys.clear();
      }
    }
    if (lost > 0) return;
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }
}
