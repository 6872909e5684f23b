// A proxy between a client and a hub on which the network fails as a test wants it.
import { createServer, connect } from "node:net";
import type { AddressInfo, Socket } from "node:net";

export class Proxy {
  /** Bytes, both directions together, after which each next connection is cut. */
  cutAfter: () => number = () => Infinity;
  /** Nobody gets through. */
  isDown = false;
  cuts = 0;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  readonly #server = createServer({ allowHalfOpen: false }, (client) => {
    this.#serve(client);
  });
  #port = 0;

  constructor(readonly target: number) {}

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.#port = this.target;
    return this;
  }

  /** Ends all connections, in the middle of whatever they carry. */
  cut(): void {
    for (const [a, b] of this.#pairs) {
      a.resetAndDestroy();
      b.resetAndDestroy();
      this.cuts++;
    }
    this.#pairs.clear();
  }

  /** Connections that exist carry nothing any more, and nobody is told. */
  freeze(): void {
    for (const [a, b] of this.#pairs) {
      for (const socket of [a, b]) {
        socket.removeAllListeners("data");
        socket.removeAllListeners("close");
        socket.resume();
      }
    }
  }

  async stop(): Promise<void> {
    this.isDown = true;
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(client: Socket): void {
    client.on("error", () => undefined);
    if (this.isDown) {
      client.destroy();
      return;
    }
    const hub = connect(this.#port, "127.0.0.1");
    hub.on("error", () => undefined);
    const pair = [client, hub] as const;
    this.#pairs.add(pair);
    let left = this.cutAfter();
    const forward = (from: Socket, to: Socket): void => {
      from.on("data", (chunk: Buffer) => {
        const part = chunk.subarray(0, Math.max(0, left));
        left -= chunk.length;
        to.write(part);
        if (left > 0) return;
        // what was forwarded arrives, what was not does not
        this.cuts++;
        this.#pairs.delete(pair);
        client.destroySoon();
        hub.destroySoon();
      });
      from.on("close", () => {
        this.#pairs.delete(pair);
        to.destroy();
      });
    };
    forward(client, hub);
    forward(hub, client);
  }
}
