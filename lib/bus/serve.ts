// Agents that others on the bus can call. Each has an inbox; requests of one conversation are carried out in order, others side by side, and a request is
// done with when its answer has been sent, so that an agent that dies over it leaves it to whoever serves the name next.
import { checkArray, checkCallback, checkInteger, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { Agent } from "../agents/agent.js";
import { requireStore } from "../agents/stage.js";
import { LatentError } from "../errors.js";
import type { KvStore } from "../kv/store.js";
import type { Model } from "../models/model.js";
import { Pool } from "../models/pool.js";
import { Translator } from "../spaces/translator.js";
import { acceptsOf } from "./announcement.js";
import { checkName, longestMs, type Envelope } from "./envelope.js";
import { Inbox } from "./inbox.js";
import { newId, type Message } from "./message.js";
import type { Packed, Post } from "./post.js";
import { checkRequest, failureOf } from "./request.js";
import { takeTurn } from "./turn.js";

/** Options of {@link Bus.serve}. */
export interface ServeOptions {
  /** Where the agents' sequences live: one for each model that they have. Default: pools of the bus's own, with the context of the model, at most 8192. */
  readonly pools?: readonly Pool[];
  /** So many requests of one agent are carried out at a time. Default 4. */
  readonly concurrency?: number;
  /** Take over latents of other spaces for the agents. The caller disposes them. Default: none. */
  readonly translators?: readonly Translator[];
  /** Texts of others: above the question in one message (`inline`, default), or as user messages of their own (`message`). */
  readonly notes?: "inline" | "message";
  /** What the agents' prompts are looked up in, and put into. The caller closes it. Default: none. */
  readonly store?: KvStore;
  /** How often a request is tried, if it takes its agent down with it. Default 3. */
  readonly maxTries?: number;
  /**
   * Called when an agent is not served here any more though nobody closed it: its name is served elsewhere now (`ERR_LATENT_BUS_SUPERSEDED`), or the bus was
   * lost. Must not throw.
   */
  readonly onEnd?: (agent: string, error: Error) => void;
}

interface ServeSettings {
  readonly concurrency: number;
  readonly translators: readonly Translator[];
  readonly notes: "inline" | "message";
  readonly store: KvStore | undefined;
  readonly maxTries: number;
  readonly onEnd: (agent: string, error: Error) => void;
}

/** Counts of what was served. */
export interface ServedCounts {
  readonly running: number;
  readonly answered: number;
  readonly failed: number;
}

/** Counts of one agent. */
export interface ServedAgentCounts extends ServedCounts {
  readonly name: string;
}

/** How long an answer is kept for a requester that has not heard it. */
const answerMs = 120_000;

/** Made by {@link Bus.serve}. */
export class Served implements AsyncDisposable {
  readonly #agents: readonly ServedAgent[];
  readonly #own: readonly Pool[];

  private constructor(agents: readonly ServedAgent[], own: readonly Pool[]) {
    this.#agents = agents;
    this.#own = own;
  }

  /** @internal */
  static async start(post: Post, agents: readonly Agent[], options: ServeOptions): Promise<Served> {
    checkKeys("options", options, ["pools", "concurrency", "translators", "notes", "store", "maxTries", "onEnd"]);
    const named = new Set<string>();
    for (const agent of checkArray("agents", agents) as readonly unknown[]) {
      if (!(agent instanceof Agent)) throw invalid("agents", "agents made by model.agent()", agent);
      if (named.has(checkName("agent.name", agent.name))) throw invalid("agents", "agents with a name of its own each", agent.name);
      named.add(agent.name);
    }
    if (agents.length === 0) throw invalid("agents", "at least one agent", agents);
    const given = checkArray("pools", fallback(options.pools, []));
    for (const pool of given as readonly unknown[]) if (!(pool instanceof Pool)) throw invalid("pools", "an array of Pools", pool);
    const translators = checkArray("translators", fallback(options.translators, []));
    for (const one of translators as readonly unknown[])
      if (!(one instanceof Translator)) throw invalid("translators", "an array of Translators", one);
    requireStore(options.store);
    checkCallback("onEnd", options.onEnd);
    const settings: ServeSettings = {
      concurrency: checkInteger("concurrency", fallback(options.concurrency, 4), 1, 64),
      translators,
      notes: checkOneOf("notes", fallback(options.notes, "inline"), ["inline", "message"]),
      store: options.store,
      maxTries: checkInteger("maxTries", fallback(options.maxTries, 3), 1, 1000),
      onEnd: fallback(options.onEnd, () => undefined),
    };
    const own = new Map<Model, Pool>();
    const started: ServedAgent[] = [];
    try {
      for (const agent of agents) {
        let pool = given.find(({ model }) => model === agent.model) ?? own.get(agent.model);
        if (pool === undefined) {
          // a request has its own sequence, and content that arrives another one for a moment
          pool = await agent.model.createPool({ maxSequences: Math.min(127, 2 * settings.concurrency * agents.length) });
          own.set(agent.model, pool);
        }
        started.push(await ServedAgent.start(post, agent, pool, settings));
      }
      return new Served(started, [...own.values()]);
    } catch (error) {
      await Promise.all(started.map((one) => one.stop(0)));
      await Promise.all([...own.values()].map((pool) => pool.dispose()));
      throw error;
    }
  }

  /** Of all agents. */
  get counts(): ServedCounts {
    return this.#agents.reduce(
      (sum, { counts }) => ({
        running: sum.running + counts.running,
        answered: sum.answered + counts.answered,
        failed: sum.failed + counts.failed,
      }),
      { running: 0, answered: 0, failed: 0 },
    );
  }

  /** Of each agent, in their order. */
  get agents(): readonly ServedAgentCounts[] {
    return this.#agents.map(({ name, counts }) => ({ name, ...counts }));
  }

  /**
   * Takes no more requests and ends those that run: they may finish within `drainMs`, by default 10 000, and what is left then goes to whoever serves the
   * agents next. Idempotent.
   */
  async close(options: { readonly drainMs?: number } = {}): Promise<void> {
    checkKeys("options", options, ["drainMs"]);
    const drainMs = checkInteger("drainMs", fallback(options.drainMs, 10_000), 0, longestMs);
    await Promise.all(this.#agents.map((agent) => agent.stop(drainMs)));
    await Promise.all(this.#own.map((pool) => pool.dispose()));
  }

  /** Same as {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

interface Answer {
  readonly peer: string;
  readonly envelope: Envelope;
  readonly packed: Packed;
  readonly timer: NodeJS.Timeout;
}

class ServedAgent {
  readonly #post: Post;
  readonly #agent: Agent;
  readonly #pool: Pool;
  readonly #settings: ServeSettings;
  readonly #running = new Map<string, { readonly cancel: AbortController; readonly done: Promise<void>; readonly peer: string }>();
  /** What runs last of each conversation. */
  readonly #conversations = new Map<string, Promise<void>>();
  readonly #answers = new Map<string, Answer>();
  readonly #stopping = new AbortController();
  #inbox: Inbox | undefined;
  #reading: Promise<void> = Promise.resolve();
  #unlisten: () => void = () => undefined;
  #answered = 0;
  #failed = 0;

  private constructor(post: Post, agent: Agent, pool: Pool, settings: ServeSettings) {
    this.#post = post;
    this.#agent = agent;
    this.#pool = pool;
    this.#settings = settings;
  }

  static async start(post: Post, agent: Agent, pool: Pool, settings: ServeSettings): Promise<ServedAgent> {
    const served = new ServedAgent(post, agent, pool, settings);
    served.#unlisten = await post.broker.listen(`agent.${agent.name}`, (entry) => {
      const envelope = post.heard(entry);
      if (envelope !== undefined) served.#hear(envelope);
    });
    try {
      served.#inbox = await Inbox.open(
        post,
        {
          log: `agent.${agent.name}`,
          name: agent.name,
          kind: "request",
          announce: () => post.announce("agent", agent.name, acceptsOf(pool, settings.translators)),
          acknowledged: () => undefined,
          buried: (envelope, error) => {
            served.#failed++;
            void served.#reply(envelope, { data: { failure: failureOf(error) } });
          },
        },
        { durable: "agent", window: settings.concurrency, maxTries: settings.maxTries },
      );
    } catch (error) {
      served.#unlisten();
      throw error;
    }
    served.#reading = served.#read(served.#inbox);
    return served;
  }

  get name(): string {
    return this.#agent.name;
  }

  get counts(): ServedCounts {
    return { running: this.#running.size, answered: this.#answered, failed: this.#failed };
  }

  async stop(drainMs: number): Promise<void> {
    // its place in the inbox stays, with what is not answered
    await this.#inbox?.pause();
    const timer = setTimeout(() => {
      this.#stopping.abort(new LatentError("ERR_LATENT_BUS_DISCONNECTED", `${this.#agent.name} is not served here any more`));
    }, drainMs);
    await Promise.all([...this.#running.values()].map(({ done }) => done));
    clearTimeout(timer);
    await this.#inbox?.close();
    await this.#reading;
    this.#unlisten();
    for (const { timer: kept } of this.#answers.values()) clearTimeout(kept);
    this.#answers.clear();
  }

  async #read(inbox: Inbox): Promise<void> {
    try {
      for await (const message of inbox) this.#begin(message);
    } catch (error) {
      this.#settings.onEnd(this.name, error instanceof Error ? error : new Error(String(error)));
    }
  }

  #begin(message: Message): void {
    const { envelope, id } = message;
    const key = `${envelope.peer} ${message.conversation}`;
    const before = this.#conversations.get(key);
    const cancel = new AbortController();
    const done: Promise<void> = (before ?? Promise.resolve())
      .then(() => this.#answer(message, cancel.signal))
      .finally(() => {
        this.#running.delete(id);
        if (this.#conversations.get(key) === done) this.#conversations.delete(key);
      });
    this.#conversations.set(key, done);
    this.#running.set(id, { cancel, done, peer: envelope.peer });
  }

  async #answer(message: Message, cancelled: AbortSignal): Promise<void> {
    const { envelope } = message;
    const late = envelope.validForMs === undefined ? [] : [AbortSignal.timeout(envelope.validForMs)];
    const signal = AbortSignal.any([cancelled, this.#stopping.signal, this.#post.signal, ...late]);
    let part = 0;
    const emit = (delta: string): void => {
      this.#say(envelope, { part: part++, delta });
    };
    try {
      const request = checkRequest(envelope.data);
      const { translators, notes, store } = this.#settings;
      const { offer, counts } = await takeTurn({
        agent: this.#agent,
        pool: this.#pool,
        translators,
        noteStyle: notes,
        store,
        request,
        contents: envelope.claims === undefined ? [] : message.contents,
        signal,
        emit,
      });
      using _latent = offer.latent;
      using _kv = offer.kv;
      const packed = await this.#post.pack(offer, {
        receiver: undefined,
        where: request,
        keptMs: this.#post.options.keptMs,
        signal,
      });
      await this.#reply(
        envelope,
        {
          why: packed.why,
          data: { counts },
          ...(packed.claims.length > 0 && { claims: packed.claims }),
          ...(packed.text !== undefined && { text: packed.text }),
          ...(packed.label !== undefined && { label: packed.label }),
        },
        packed,
      );
      this.#answered++;
    } catch (error) {
      // what was begun here goes to whoever serves the agent next
      if (this.#stopping.signal.aborted || this.#post.signal.aborted) return;
      this.#failed++;
      if (!cancelled.aborted) await this.#reply(envelope, { data: { failure: failureOf(error) } });
    }
    await message.ack().catch(() => undefined);
  }

  async #reply(to: Envelope, fields: Partial<Envelope>, packed?: Packed): Promise<void> {
    const envelope = this.#post.envelope("reply", to.peer, to.conversation, { about: to.id, ...fields }, newId());
    const kept = packed ?? { claims: [], body: new Uint8Array(0), object: undefined, releases: [], bytes: 0 };
    this.#post.keep(envelope.id, kept, this.#post.options.keptMs);
    const timer = setTimeout(() => this.#answers.delete(to.id), answerMs).unref();
    this.#answers.set(to.id, { peer: to.peer, envelope, packed: kept, timer });
    await this.#post.signalTo(`peer.${to.peer}`, envelope, kept);
  }

  #say(to: Envelope, data: Readonly<Record<string, unknown>>): void {
    void this.#post.signalTo(`peer.${to.peer}`, this.#post.envelope("part", to.peer, to.conversation, { about: to.id, data }));
  }

  /** A requester that has heard nothing for a while, or wants no more. */
  #hear({ kind, about = "", peer }: Envelope): void {
    const running = this.#running.get(about);
    if (kind === "cancel" && running?.peer === peer) running.cancel.abort(new DOMException("the requester cancelled it", "AbortError"));
    if (kind !== "again") return;
    const answer = this.#answers.get(about);
    if (answer?.peer === peer) void this.#post.signalTo(`peer.${peer}`, answer.envelope, answer.packed);
    else if (running?.peer === peer) this.#say({ ...this.#post.envelope("part", peer, "", {}), id: about, peer }, { working: true });
  }
}
