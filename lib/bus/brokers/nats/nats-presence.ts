// Who is there, on JetStream: records in the server's memory that vanish by themselves unless they are written again every few seconds. Who watches keeps a copy
// of his own from the records as they are written, and forgets on his own what was not written again; so neither a restarted server nor a lost message matters.
import { randomUUID } from "node:crypto";
import { requireEntry } from "../broker.js";
import type { Present } from "../broker.js";
import type { NatsLink, StreamPlan } from "./nats-link.js";
import { nameOf, planOf, tokenOf } from "./nats-log.js";
import type { NatsLayout } from "./nats-log.js";

const lifeMs = 8000;
const refreshMs = 2500;
const millisecond = 1_000_000;

interface Announcement {
  readonly value: string;
  /** When it was announced, by the server's clock: of two that announce the same key, the later one counts. */
  readonly at: number;
}

interface PresenceRecord extends Announcement {
  /** The connection. */
  readonly owner: string;
}

export class NatsPresence {
  readonly plan: StreamPlan;
  readonly #owner = randomUUID();
  readonly #own = new Map<string, Announcement>();
  readonly #seen = new Map<string, PresenceRecord & { readonly until: number }>();
  readonly #watchers = new Set<(present: readonly Present[]) => void>();
  #refresher: NodeJS.Timeout | undefined;
  #forgetter: NodeJS.Timeout | undefined;
  #listening: Promise<() => void> | undefined;
  #told: string | undefined;

  constructor(
    readonly link: NatsLink,
    readonly layout: NatsLayout,
  ) {
    this.plan = {
      ...planOf({ ...layout, storage: "memory" }, `${layout.prefix}_present`, [`${layout.prefix}.present.*`]),
      max_msgs_per_subject: 1,
      max_age: lifeMs * millisecond,
      max_msg_size: 1 << 20,
    };
    link.events.on("reconnect", () => {
      this.#refresh();
    });
    link.events.once("end", () => {
      clearInterval(this.#refresher);
      clearInterval(this.#forgetter);
    });
  }

  async announce(key: string, value: string): Promise<void> {
    this.link.check();
    requireEntry({ head: value, body: new Uint8Array(0) });
    // later than what it replaces, whatever clocks do
    const before = this.#own.get(key)?.at ?? (await this.#read(key))?.at ?? 0;
    this.#own.set(key, { value, at: Math.max(this.link.serverNow, before + 1) });
    this.#refresher ??= setInterval(() => {
      this.#refresh();
    }, refreshMs).unref();
    await this.#write(key);
  }

  async withdraw(key: string): Promise<void> {
    this.link.check();
    if (!this.#own.delete(key)) return;
    const record = await this.#read(key);
    if (record?.owner !== this.#owner) return;
    await this.link.inStream(this.plan, () => this.link.js.publish(this.#subject(key)));
  }

  async withdrawAll(): Promise<void> {
    await Promise.all([...this.#own.keys()].map((key) => this.withdraw(key)));
  }

  async present(): Promise<readonly Present[]> {
    const found: Present[] = [];
    for (const [subject, { data }] of await this.link.readAll(this.plan, this.#subject("*"))) {
      const key = this.#keyOf(subject);
      const record = parseRecord(data);
      if (key !== undefined && record !== undefined) found.push({ key, value: record.value });
    }
    return found;
  }

  async watch(take: (present: readonly Present[]) => void): Promise<() => void> {
    this.#listening ??= this.#listen().catch((error: unknown) => {
      this.#listening = undefined;
      throw error;
    });
    await this.#listening;
    // one function may watch more than once
    const own = (present: readonly Present[]): void => {
      take(present);
    };
    this.#watchers.add(own);
    own(this.#list());
    return () => {
      this.#watchers.delete(own);
      if (this.#watchers.size === 0) this.#stopListening();
    };
  }

  #subject(key: string): string {
    return `${this.layout.prefix}.present.${tokenOf(key)}`;
  }

  #keyOf(subject: string): string | undefined {
    return nameOf(subject.slice(this.#subject("").length));
  }

  async #read(key: string): Promise<PresenceRecord | undefined> {
    const record = await this.link.read(this.plan, this.#subject(key));
    return record === undefined ? undefined : parseRecord(record.data);
  }

  async #write(key: string): Promise<void> {
    await this.link.inStream(this.plan, async () => {
      const own = this.#own.get(key);
      if (own === undefined) return;
      const record: PresenceRecord = { owner: this.#owner, ...own };
      await this.link.js.publish(this.#subject(key), JSON.stringify(record));
    });
  }

  // Somebody else may have announced the same key since.
  #refresh(): void {
    for (const [key, own] of this.#own) {
      const again = async (): Promise<void> => {
        const record = await this.#read(key);
        if (record !== undefined && record.owner !== this.#owner && record.at >= own.at) {
          if (this.#own.get(key) === own) this.#own.delete(key);
        } else await this.#write(key);
      };
      again().catch(() => undefined);
    }
  }

  async #listen(): Promise<() => void> {
    const stop = await this.link.subscribe(this.#subject("*"), ({ subject, data }) => {
      const key = this.#keyOf(subject);
      if (key !== undefined) this.#take(key, data);
    });
    for (const [subject, { data }] of await this.link.readAll(this.plan, this.#subject("*"))) {
      const key = this.#keyOf(subject);
      // what came in the meantime is newer
      if (key !== undefined && data.length > 0 && !this.#seen.has(key)) this.#take(key, data);
    }
    this.#forgetter = setInterval(() => {
      for (const [key, { until }] of this.#seen) if (until <= performance.now()) this.#seen.delete(key);
      this.#tell();
    }, 1000).unref();
    return stop;
  }

  #stopListening(): void {
    const listening = this.#listening;
    this.#listening = undefined;
    clearInterval(this.#forgetter);
    this.#seen.clear();
    this.#told = undefined;
    listening?.then(
      (stop) => {
        stop();
      },
      () => undefined,
    );
  }

  #take(key: string, data: Uint8Array): void {
    const record = data.length === 0 ? undefined : parseRecord(data);
    if (data.length === 0) this.#seen.delete(key);
    if (record !== undefined) {
      const before = this.#seen.get(key);
      if (before !== undefined && before.owner !== record.owner && before.at > record.at) return;
      this.#seen.set(key, { ...record, until: performance.now() + lifeMs });
    }
    this.#tell();
  }

  #list(): readonly Present[] {
    return [...this.#seen].map(([key, { value }]) => ({ key, value }));
  }

  // Most of what comes says only that all is as before.
  #tell(): void {
    const present = this.#list();
    const told = JSON.stringify(present);
    if (told === this.#told) return;
    this.#told = told;
    for (const take of this.#watchers) take(present);
  }
}

function parseRecord(data: Uint8Array): PresenceRecord | undefined {
  try {
    const record: unknown = JSON.parse(new TextDecoder().decode(data));
    if (typeof record !== "object" || record === null) return undefined;
    const { owner, value, at } = record as Readonly<Record<keyof PresenceRecord, unknown>>;
    return typeof owner === "string" && typeof value === "string" && typeof at === "number" ? { owner, value, at } : undefined;
  } catch {
    return undefined;
  }
}
