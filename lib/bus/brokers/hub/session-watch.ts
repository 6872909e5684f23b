// The hub's side of watching who is present: tells a client what has changed since it was told last.
import type { Present } from "../broker.js";
import { say } from "./protocol.js";
import type { Wire } from "./wire.js";

/** So much waits to be sent that a change is told when less does, together with those that follow. */
const busyBytes = 4 << 20;
const partBytes = 256 << 10;

type Change = readonly [key: string, value: string | null];

export class SessionWatch {
  readonly #wire: Wire;
  readonly #present: () => Promise<readonly Present[]>;
  /** What the client knows; undefined while it does not watch. */
  #known: Map<string, string> | undefined;

  constructor(wire: Wire, present: () => Promise<readonly Present[]>) {
    this.#wire = wire;
    this.#present = present;
  }

  begin(): void {
    this.#known = new Map();
  }

  end(): void {
    this.#known = undefined;
  }

  async show(present: readonly Present[]): Promise<void> {
    const known = this.#known;
    let now = present;
    if (this.#wire.queued > busyBytes) {
      await this.#wire.drained();
      if (this.#known !== known || known === undefined) return;
      now = await this.#present();
    }
    if (known === undefined) return;
    const next = new Map(now.map(({ key, value }) => [key, value]));
    const changes: Change[] = [];
    for (const [key, value] of next) if (known.get(key) !== value) changes.push([key, value]);
    for (const key of known.keys()) if (!next.has(key)) changes.push([key, null]);
    this.#known = next;
    let first = known.size === 0;
    for (const [part, last] of partsOf(changes)) {
      this.#wire.send(say("present", { first, last }, part));
      first = false;
    }
  }
}

/** A list as JSON in as many parts as it needs, but at least one, and whether it is the last. */
export function* partsOf(list: readonly Change[]): Generator<readonly [part: string, last: boolean]> {
  let part: string[] = [];
  let bytes = 0;
  for (const item of list) {
    const text = JSON.stringify(item);
    if (bytes > 0 && bytes + text.length > partBytes) {
      yield [`[${part.join(",")}]`, false];
      [part, bytes] = [[], 0];
    }
    part.push(text);
    bytes += text.length;
  }
  yield [`[${part.join(",")}]`, true];
}
