// The readers of an evaluation: what they make of facts is made once for all questions about these, and for all media that it travels in.
import type { Agent } from "../agents/agent.js";
import { noCounts, readPrompt, speak, think, type Counts, type Turn } from "../agents/stage.js";
import type { Pool } from "../models/pool.js";
import type { Sequence } from "../models/sequence.js";
import type { Latent } from "../spaces/latent.js";
import type { Translator } from "../spaces/translator.js";
import { readerAgent, turnOf, type ModelSubjectOptions } from "./agents.js";
import { policyName, type Arm, type ArmPolicy } from "./arms.js";
import type { Block } from "./run.js";
import { sideBySide } from "./side-by-side.js";

/** A sequence that several solvers fork: one after the other, since it does one thing at a time. */
class SharedCells {
  #last: Promise<unknown> = Promise.resolve();

  constructor(readonly sequence: Sequence) {}

  async fork(signal: AbortSignal): Promise<{ fork: Sequence; ms: number }> {
    const next = this.#last.then(async () => {
      const start = performance.now();
      return { fork: await this.sequence.fork({ signal }), ms: performance.now() - start };
    });
    this.#last = next.catch(() => undefined);
    return next;
  }
}

/** What something took. */
export interface Spent {
  readonly counts: Counts;
  readonly ms: number;
  readonly kvBytes: number;
}

export const nothingSpent: Spent = { counts: noCounts(), ms: 0, kvBytes: 0 };

/** What a reader made of some facts under one policy. */
export interface Reading {
  /** Present where an arm hands cells over. */
  readonly cells: SharedCells | undefined;
  readonly latents: Latent | undefined;
  readonly translated: Map<Arm["translator"], { readonly latent: Latent; readonly ms: number }>;
  readonly note: string;
  /** Up to the thought, and with the words that were put to it. */
  readonly thought: Spent;
  readonly words: Spent;
}

/** The readings of one block; they hold memory of the pool. */
export class Readings {
  readonly #byKey = new Map<string, Reading>();

  /** Of the facts that the arm's message is about; undefined where no reader is behind it. */
  of({ policy, message }: Arm, facts: string): Reading | undefined {
    return policy === null || message === "noise" ? undefined : this.#byKey.get(keyOf(policyName(policy), facts));
  }

  /** @internal */
  set(policy: string, facts: string, reading: Reading): void {
    this.#byKey.set(keyOf(policy, facts), reading);
  }

  /** @internal */
  entries(): Iterable<[string, Reading]> {
    return this.#byKey;
  }

  /** @internal Times that were measured beside others, brought to what each took of the whole. */
  scale(share: number): void {
    const scaled = (spent: Spent): Spent => ({ ...spent, ms: spent.ms * share });
    for (const [key, reading] of this.#byKey)
      this.#byKey.set(key, { ...reading, thought: scaled(reading.thought), words: scaled(reading.words) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { cells, latents, translated } of this.#byKey.values()) {
      latents?.dispose();
      for (const { latent } of translated.values()) latent.dispose();
      await cells?.sequence.dispose();
    }
  }
}

const keyOf = (policy: string, facts: string): string => `${policy}\n${facts}`;

interface Reader {
  readonly agent: Agent;
  readonly policy: ArmPolicy;
  readonly media: ReadonlySet<string>;
}

/** The reader of each policy that an arm's message is made by. */
export class Readers {
  readonly #options: ModelSubjectOptions;
  readonly #pool: Pool;
  readonly #readers: ReadonlyMap<string, Reader>;

  constructor(options: ModelSubjectOptions, pool: Pool) {
    this.#options = options;
    this.#pool = pool;
    this.#readers = new Map(
      [...policiesOf(options.arms)].map(([key, { policy, media }]) => [key, { agent: readerAgent(options, policy), policy, media }]),
    );
  }

  /** Reads what the arms need of a block into `readings`, which hold it also where this fails. */
  async read({ items, others }: Block, readings: Readings, signal: AbortSignal): Promise<void> {
    const { arms, parallel } = this.#options;
    const own = new Set(items.map(({ facts }) => facts));
    const wanted: { readonly key: string; readonly facts: string; readonly reader: Reader }[] = [];
    for (const [key, reader] of this.#readers) {
      const uses = (message: Arm["message"]): boolean =>
        arms.some(({ message: of, policy }) => of === message && policy !== null && policyName(policy) === key);
      const other = uses("other") ? [...own].map((facts) => others.get(facts) ?? "") : [];
      for (const facts of new Set([...(uses("own") ? own : []), ...other])) wanted.push({ key, facts, reader });
    }
    const share = await sideBySide(wanted, parallel, async ({ key, facts, reader }) => {
      const reading = await this.#readOne(reader, facts, signal);
      readings.set(key, facts, reading);
      return reading.words.ms;
    });
    readings.scale(share);
    await this.#translate(readings, signal);
  }

  async #readOne({ agent, policy, media }: Reader, facts: string, signal: AbortSignal): Promise<Reading> {
    const start = performance.now();
    const sequence = this.#pool.sequence();
    let latents: Latent | undefined;
    let kept = false;
    try {
      const turn = turnOf(agent, sequence, facts, [], this.#options.suite, signal);
      let note = "";
      if (policy.kind === "read") await readOnly(turn);
      else {
        await readPrompt(turn, policy.kind === "hidden" ? "last" : "none");
        const thought = await think(turn, media.has("latent") ? "latent" : "kv");
        latents = thought.latents;
        note = thought.text ?? "";
      }
      const thought = spentOf(turn, start);
      let words = thought;
      if (policy.kind === "hidden" && media.has("text")) {
        await using fork = await sequence.fork({ signal });
        const spoken = { ...turn, sequence: fork, counts: { ...turn.counts } };
        note = (await speak(spoken, agent.generate, false)).text;
        words = spentOf(spoken, start);
      }
      kept = media.has("kv");
      const cells = kept ? new SharedCells(sequence) : undefined;
      return { cells, latents, translated: new Map(), note, thought, words };
    } catch (error) {
      latents?.dispose();
      throw error;
    } finally {
      if (!kept) await sequence.dispose();
    }
  }

  async #translate(readings: Readings, signal: AbortSignal): Promise<void> {
    const { translators, arms } = this.#options;
    const all: readonly (readonly ["fitted" | "shuffled", Translator | undefined])[] = [
      ["fitted", translators.fitted],
      ["shuffled", translators.shuffled],
    ];
    for (const [, { latents, translated }] of readings.entries()) {
      for (const [kind, translator] of all) {
        if (translator === undefined || latents === undefined || !arms.some((arm) => arm.translator === kind)) continue;
        const start = performance.now();
        translated.set(kind, { latent: await translator.translate(latents, { signal }), ms: performance.now() - start });
      }
    }
  }
}

/** The prompt without the beginning of a turn that the reader would not fill. */
async function readOnly({ agent, sequence, question, counts, signal }: Turn): Promise<void> {
  const text = agent.model.renderChat(agent.messages(question, [], "message"), { addGenerationPrompt: false });
  await sequence.prefill(text, { signal });
  counts.prefillTokens += sequence.length;
}

function spentOf({ counts, sequence }: Turn, start: number): Spent {
  const { kvBytesPerPosition } = sequence.pool.info;
  return { counts: { ...counts }, ms: performance.now() - start, kvBytes: sequence.length * kvBytesPerPosition };
}

/** The policies that some arm's message is made by, and the media that it travels in. */
export function policiesOf(arms: readonly Arm[]): Map<string, { policy: ArmPolicy; media: ReadonlySet<string> }> {
  const found = new Map<string, { policy: ArmPolicy; media: Set<string> }>();
  for (const { policy, medium, message } of arms) {
    if (policy === null || medium === null || message === "noise") continue;
    const key = policyName(policy);
    const { media } = found.get(key) ?? { media: new Set<string>() };
    found.set(key, { policy, media: media.add(medium) });
  }
  return found;
}
