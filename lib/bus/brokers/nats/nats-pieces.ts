// Pieces of content on JetStream: a message each, whose subject has the name and until when it is kept. So whether a piece is there, and for how long, is told
// by the list of subjects, and only a piece that must stay longer than it was put for is moved.
import { LatentError } from "../../../errors.js";
import { checkInteger } from "../../../check.js";
import { pieceBytes, requirePiece } from "../broker.js";
import { frameBytes } from "./nats-client.js";
import type { NatsLink, StreamPlan } from "./nats-link.js";
import { planOf } from "./nats-log.js";
import type { NatsLayout } from "./nats-log.js";

/** The longest time that a piece can be kept for. */
const longestMs = 7 * 86_400_000;
const millisecond = 1_000_000;

export class NatsPieces {
  readonly plan: StreamPlan;

  constructor(
    readonly link: NatsLink,
    readonly layout: NatsLayout,
  ) {
    this.plan = {
      ...planOf(layout, `${layout.prefix}_pieces`, [`${layout.prefix}.piece.*.*`]),
      max_msgs_per_subject: 1,
      max_bytes: layout.pieceBytes,
      discard: "new",
      max_age: 2 * longestMs * millisecond,
      max_msg_size: pieceBytes + frameBytes,
    };
  }

  async put(name: string, piece: Uint8Array, keptMs: number, signal: AbortSignal): Promise<void> {
    requirePiece(name, piece);
    checkKept(keptMs);
    const until = this.link.serverNow + keptMs;
    if ((await this.#until(name, signal)) >= until) return;
    await this.#publish(name, piece, keptMs, signal);
  }

  async touch(name: string, keptMs: number): Promise<boolean> {
    requirePiece(name, new Uint8Array(0));
    checkKept(keptMs);
    const until = await this.#until(name);
    if (until >= this.link.serverNow + keptMs) return true;
    const piece = await this.get(name);
    if (piece === undefined) return false;
    await this.#publish(name, piece, keptMs);
    return true;
  }

  async get(name: string, signal?: AbortSignal): Promise<Uint8Array | undefined> {
    requirePiece(name, new Uint8Array(0));
    const { link, plan } = this;
    const query = { last_by_subj: `${this.#prefix}.${name}.*` };
    const direct = await link.inStream(plan, () => link.jsm.direct.getMessage(plan.name, query), signal);
    if (direct !== null) return direct.data;
    // another replica may know more than the one that was asked
    if (this.layout.replicas === 1) return undefined;
    return (await link.inStream(plan, () => link.jsm.streams.getMessage(plan.name, query), signal))?.data;
  }

  async drop(name: string): Promise<void> {
    requirePiece(name, new Uint8Array(0));
    await this.#purge(`${this.#prefix}.${name}.*`);
  }

  get #prefix(): string {
    return `${this.layout.prefix}.piece`;
  }

  // For longer than asked, so that to touch it, which is what one does while it is used, need not move it each time.
  async #publish(name: string, piece: Uint8Array, keptMs: number, signal?: AbortSignal): Promise<void> {
    const { link, plan } = this;
    const until = Math.ceil(link.serverNow + 2 * keptMs);
    const subject = `${this.#prefix}.${name}.${until}`;
    const publish = async (): Promise<boolean> => {
      try {
        await link.js.publish(subject, piece);
        return true;
      } catch (error) {
        if (link.isFull(error)) return false;
        throw error;
      }
    };
    if (!(await link.inStream(plan, publish, signal))) {
      await this.#sweep(signal);
      if (!(await link.inStream(plan, publish, signal))) throw full(this.layout.pieceBytes);
    }
    // the older copies
    const others = (await link.subjects(plan, `${this.#prefix}.${name}.*`, signal)).filter((other) => untilOf(other) < until);
    for (const other of others) await this.#purge(other);
  }

  /** Until when it is kept; minus infinity if it is not there. */
  async #until(name: string, signal?: AbortSignal): Promise<number> {
    return Math.max(...(await this.link.subjects(this.plan, `${this.#prefix}.${name}.*`, signal)).map(untilOf));
  }

  // Drops what has been kept long enough.
  async #sweep(signal?: AbortSignal): Promise<void> {
    const now = this.link.serverNow;
    for (const subject of await this.link.subjects(this.plan, `${this.#prefix}.*.*`, signal)) {
      signal?.throwIfAborted();
      if (!(untilOf(subject) > now)) await this.#purge(subject);
    }
  }

  async #purge(filter: string): Promise<void> {
    await this.link.unlessMissing(() => this.link.jsm.streams.purge(this.plan.name, { filter }));
  }
}

const untilOf = (subject: string): number => Number(subject.slice(subject.lastIndexOf(".") + 1));

function checkKept(keptMs: number): void {
  checkInteger("keptMs", keptMs, 0, longestMs);
}

function full(limit: number): LatentError {
  return new LatentError("ERR_LATENT_BUS_LIMIT", `the bus keeps at most ${limit} bytes of content`, { details: { limit } });
}
