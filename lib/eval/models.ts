// The agents of an evaluation on loaded models: a reader that sees the facts and a solver that sees the question, made of the same stages as a pipe.
// What the reader of some facts does is done once for all questions about them, and is counted for each as if it had been done for it.
import { checkInteger } from "../check.js";
import { LatentError } from "../errors.js";
import { Agent, type Note } from "../agents/agent.js";
import { noCounts, readPrompt, receiveLatents, speak, think, type Counts, type Turn } from "../agents/stage.js";
import type { ChatMessage } from "../models/chat.js";
import type { Model } from "../models/model.js";
import type { Pool } from "../models/pool.js";
import type { Sequence } from "../models/sequence.js";
import type { Latent } from "../spaces/latent.js";
import type { Translator } from "../spaces/translator.js";
import { policyName, thoughtOf, type Arm, type ArmPolicy } from "./arms.js";
import { noiseRows } from "./noise.js";
import type { Block, EvalSubject, Outcome, StageTimes } from "./run.js";
import type { Suite, SuiteItem } from "./suite.js";

/** @internal */
export interface ModelSubjectOptions {
  readonly reader: Model;
  readonly solver: Model;
  readonly suite: Suite;
  readonly arms: readonly Arm[];
  readonly translators: { readonly fitted?: Translator; readonly shuffled?: Translator };
  readonly parallel: number;
  readonly seed: number;
  readonly signal: AbortSignal;
}

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

/** What a reader made of some facts under one policy. */
interface Reading {
  readonly cells: SharedCells;
  readonly latents: Latent | undefined;
  readonly translated: Map<string, { readonly latent: Latent; readonly ms: number }>;
  readonly note: string;
  /** Up to the thought, and with the words that were put to it. */
  readonly thought: Spent;
  readonly words: Spent;
}

interface Spent {
  readonly counts: Counts;
  readonly ms: number;
  readonly kvBytes: number;
}

const nothingSpent: Spent = { counts: noCounts(), ms: 0, kvBytes: 0 };

export class ModelSubject implements EvalSubject {
  readonly arms: readonly Arm[];
  readonly documents: number;
  readonly #options: ModelSubjectOptions;
  readonly #readerPool: Pool;
  readonly #solverPool: Pool;
  readonly #readers = new Map<string, { readonly agent: Agent; readonly policy: ArmPolicy; readonly media: ReadonlySet<string> }>();
  readonly #solver: Agent;

  private constructor(options: ModelSubjectOptions, readerPool: Pool, solverPool: Pool) {
    this.arms = options.arms;
    this.documents = options.parallel;
    this.#options = options;
    this.#readerPool = readerPool;
    this.#solverPool = solverPool;
    for (const [key, { policy, media }] of readings(options.arms)) {
      this.#readers.set(key, { agent: readerAgent(options, policy), policy, media });
    }
    this.#solver = solverAgent(options);
  }

  /** Makes pools as large as the suite can need. */
  static async create(options: ModelSubjectOptions): Promise<ModelSubject> {
    const { reader, solver, signal, parallel } = options;
    checkInteger("parallel", parallel, 1, 32);
    checkArms(options);
    const need = needOf(options);
    // cells of a block's documents and of the other one whose message a shuffled arm gets
    const kept = Math.max(1, readings(options.arms).size) * (parallel + 1);
    const reading = { contextLength: kept * need.reader, maxSequences: kept + parallel };
    const solving = { contextLength: parallel * need.solver, maxSequences: parallel };
    const together = {
      contextLength: reading.contextLength + solving.contextLength,
      maxSequences: reading.maxSequences + solving.maxSequences,
    };
    if (reader === solver) {
      const pool = await reader.createPool({ ...together, signal });
      return new ModelSubject(options, pool, pool);
    }
    const first = await reader.createPool({ ...reading, signal });
    try {
      return new ModelSubject(options, first, await solver.createPool({ ...solving, signal }));
    } catch (error) {
      await first.dispose();
      throw error;
    }
  }

  async answer(block: Block, onItem: () => void, signal: AbortSignal): Promise<ReadonlyMap<string, readonly Outcome[]>> {
    const readings = new Map<string, Reading>();
    try {
      await this.#readAll(block, readings, signal);
      const outcomes = new Map<string, readonly Outcome[]>();
      for (const arm of this.arms) {
        const alone = await this.#together(block.items, signal, async (item) => {
          const outcome = await this.#solve(arm, item, block, readings, signal);
          onItem();
          return outcome;
        });
        outcomes.set(arm.name, alone);
      }
      return outcomes;
    } finally {
      for (const { cells, latents, translated } of readings.values()) {
        latents?.dispose();
        for (const { latent } of translated.values()) latent.dispose();
        await cells.sequence.dispose();
      }
    }
  }

  async dispose(): Promise<void> {
    await this.#readerPool.dispose();
    await this.#solverPool.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  async #readAll({ items, others }: Block, readings: Map<string, Reading>, signal: AbortSignal): Promise<void> {
    const own = new Set(items.map(({ facts }) => facts));
    const wanted: { readonly key: string; readonly facts: string }[] = [];
    for (const [key] of this.#readers) {
      const uses = (message: Arm["message"]): boolean => this.arms.some((arm) => arm.message === message && readingKey(arm) === key);
      const other = uses("other") ? [...own].map((facts) => others.get(facts) ?? "") : [];
      for (const facts of new Set([...(uses("own") ? own : []), ...other])) wanted.push({ key, facts });
    }
    const made = await this.#inParallel(wanted, async ({ key, facts }) => {
      const reading = await this.#read(key, facts, signal);
      // at once, so that it is disposed of when another one fails
      readings.set(`${key}\n${facts}`, reading);
      return reading.words.ms;
    });
    const share = made.share;
    for (const [name, reading] of readings) readings.set(name, scaled(reading, share));
    await this.#translateAll(readings, signal);
  }

  async #read(key: string, facts: string, signal: AbortSignal): Promise<Reading> {
    const reader = this.#readers.get(key);
    if (reader === undefined) throw new Error(`no reader of policy ${key}`);
    const { agent, policy, media } = reader;
    const start = performance.now();
    const cells = this.#readerPool.sequence();
    let latents: Latent | undefined;
    try {
      const turn = turnOf(agent, cells, facts, [], this.#options.suite, signal);
      let note = "";
      if (policy.kind === "read") await this.#readOnly(turn);
      else {
        await readPrompt(turn, policy.kind === "hidden" ? "last" : "none");
        const thought = await think(turn, media.has("latent") ? "latent" : "kv");
        latents = thought.latents;
        note = thought.text ?? "";
      }
      const thought = this.#spent(turn, start);
      let words = thought;
      if (policy.kind === "hidden" && media.has("text")) {
        await using fork = await cells.fork({ signal });
        const spoken = { ...turn, sequence: fork, counts: { ...turn.counts } };
        note = (await speak(spoken, agent.generate, false)).text;
        words = this.#spent(spoken, start);
      }
      return { cells: new SharedCells(cells), latents, translated: new Map(), note, thought, words };
    } catch (error) {
      latents?.dispose();
      await cells.dispose();
      throw error;
    }
  }

  /** The prompt without the beginning of a turn that the reader would not fill. */
  async #readOnly({ agent, sequence, question, counts, signal }: Turn): Promise<void> {
    const text = agent.model.renderChat(agent.messages(question, [], "message"), { addGenerationPrompt: false });
    await sequence.prefill(text, { signal });
    counts.prefillTokens += sequence.length;
  }

  #spent({ counts, sequence }: Turn, start: number): Spent {
    const { kvBytesPerPosition } = sequence.pool.info;
    return { counts: { ...counts }, ms: performance.now() - start, kvBytes: sequence.length * kvBytesPerPosition };
  }

  async #translateAll(readings: ReadonlyMap<string, Reading>, signal: AbortSignal): Promise<void> {
    const { translators } = this.#options;
    for (const { latents, translated } of readings.values()) {
      for (const kind of ["fitted", "shuffled"] as const) {
        const translator = translators[kind];
        if (translator === undefined || latents === undefined || !this.arms.some((arm) => arm.translator === kind)) continue;
        const start = performance.now();
        translated.set(kind, { latent: await translator.translate(latents, { signal }), ms: performance.now() - start });
      }
    }
  }

  async #solve(arm: Arm, item: SuiteItem, block: Block, readings: ReadonlyMap<string, Reading>, signal: AbortSignal): Promise<Outcome> {
    const { suite } = this.#options;
    const facts = arm.message === "other" ? (block.others.get(item.facts) ?? "") : item.facts;
    const fromReader = arm.message === "own" || arm.message === "other";
    const reading = fromReader ? readings.get(`${readingKey(arm) ?? ""}\n${facts}`) : undefined;
    const notes: Note[] = [];
    if (arm.message === "everything" && suite.kind === "facts") notes.push({ from: "reader", text: facts });
    if (arm.medium === "text") notes.push({ from: "reader", text: reading?.note ?? "" });
    const shared = arm.medium === "kv" ? await reading?.cells.fork(signal) : undefined;
    await using sequence = shared?.fork ?? this.#solverPool.sequence();
    const held = sequence.length;
    const turn = turnOf(this.#solver, sequence, item.question, notes, suite, signal);
    const crossed = arm.medium === "latent" ? await this.#latentOf(arm, facts, reading, signal) : undefined;
    const began = performance.now();
    try {
      if (crossed !== undefined) await receiveLatents(turn, crossed.latent);
      await readPrompt(turn, "none");
      const { text } = await speak(turn, this.#solver.generate, true);
      const spent = arm.medium === "text" ? reading?.words : reading?.thought;
      const ms = { reader: spent?.ms ?? 0, handOver: (shared?.ms ?? 0) + (crossed?.ms ?? 0), solver: performance.now() - began };
      return this.#outcome(arm, text, turn, spent ?? nothingSpent, held, { bytes: crossed?.latent.bytes ?? 0, note: reading?.note ?? "", ms });
    } finally {
      if (crossed?.own === true) crossed.latent.dispose();
    }
  }

  #outcome(
    arm: Arm,
    answer: string,
    { counts, sequence }: Turn,
    reader: Spent,
    held: number,
    crossed: { readonly bytes: number; readonly note: string; readonly ms: StageTimes },
  ): Outcome {
    const perPosition = this.#solverPool.info.kvBytesPerPosition;
    return {
      answer: answer.trim(),
      prefillTokens: reader.counts.prefillTokens + counts.prefillTokens,
      latentSteps: reader.counts.latentSteps + counts.latentSteps,
      decodedTokens: reader.counts.decodedTokens + counts.decodedTokens,
      bytes: arm.medium === "text" ? Buffer.byteLength(crossed.note, "utf8") : crossed.bytes,
      heldBytes: held * perPosition,
      kvBytes: Math.max(reader.kvBytes, sequence.length * perPosition),
      ms: crossed.ms,
    };
  }

  /** The rows that reach the solver. `own`: they are of this item alone. */
  async #latentOf(
    arm: Arm,
    facts: string,
    reading: Reading | undefined,
    signal: AbortSignal,
  ): Promise<{ latent: Latent; ms: number; own: boolean } | undefined> {
    const { solver, seed } = this.#options;
    const steps = arm.policy?.kind === "hidden" ? arm.policy.steps : 1;
    if (arm.message === "noise") return { latent: await noiseRows(solver, steps, seed, facts, signal), ms: 0, own: true };
    if (arm.translator === "none") return reading?.latents && { latent: reading.latents, ms: 0, own: false };
    const translated = reading?.translated.get(arm.translator);
    return translated && { ...translated, own: false };
  }

  /** The outcomes of items that are solved side by side, their times brought to what each of them cost of the whole. */
  async #together(items: readonly SuiteItem[], signal: AbortSignal, solve: (item: SuiteItem) => Promise<Outcome>): Promise<Outcome[]> {
    signal.throwIfAborted();
    const outcomes: Outcome[] = [];
    const { share } = await this.#inParallel(items, async (item, i) => {
      const outcome = await solve(item);
      outcomes[i] = outcome;
      return outcome.ms.handOver + outcome.ms.solver;
    });
    return outcomes.map((one) => ({ ...one, ms: { ...one.ms, handOver: one.ms.handOver * share, solver: one.ms.solver * share } }));
  }

  /** `share`: the time that all of it took, over the sum of the times that `work` tells. Ends with the first failure, after what runs has stopped. */
  async #inParallel<T>(list: readonly T[], work: (one: T, i: number) => Promise<number>): Promise<{ share: number }> {
    const start = performance.now();
    let next = 0;
    let sum = 0;
    const failures: unknown[] = [];
    const worker = async (): Promise<void> => {
      for (let one = list[next]; one !== undefined && failures.length === 0; one = list[next]) {
        try {
          const ms = await work(one, next++);
          sum += ms;
        } catch (error) {
          failures.push(error);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(this.documents, list.length) }, worker));
    if (failures.length > 0) throw failures[0];
    return { share: this.documents === 1 || sum === 0 ? 1 : (performance.now() - start) / sum };
  }
}

function turnOf(agent: Agent, sequence: Sequence, question: string, notes: readonly Note[], suite: Suite, signal: AbortSignal): Turn {
  const noteStyle = suite.prompts.notes;
  return { agent, sequence, question, notes, noteStyle, store: undefined, counts: noCounts(), emit: () => undefined, signal };
}

const readingKey = ({ policy }: Arm): string | undefined => (policy === null ? undefined : policyName(policy));

/** The policies that some arm's message is made by, and the media that it travels in. */
function readings(arms: readonly Arm[]): Map<string, { policy: ArmPolicy; media: ReadonlySet<string> }> {
  const found = new Map<string, { policy: ArmPolicy; media: Set<string> }>();
  for (const { policy, medium, message } of arms) {
    if (policy === null || medium === null || message === "noise") continue;
    const key = policyName(policy);
    const { media } = found.get(key) ?? { media: new Set<string>() };
    found.set(key, { policy, media: media.add(medium) });
  }
  return found;
}

function readerAgent({ reader, suite: { prompts } }: ModelSubjectOptions, policy: ArmPolicy): Agent {
  const system = prompts.reader === undefined ? {} : { system: prompts.reader };
  const think = thoughtOf(policy, prompts.noteTokens);
  return reader.agent({ name: "reader", ...system, think, generate: { maxTokens: prompts.noteTokens } });
}

function solverAgent({ solver, suite: { prompts } }: ModelSubjectOptions): Agent {
  const system = prompts.solver === undefined ? {} : { system: prompts.solver };
  return solver.agent({ name: "solver", ...system, generate: { maxTokens: prompts.answerTokens } });
}

function scaled(reading: Reading, share: number): Reading {
  const { thought, words } = reading;
  return { ...reading, thought: { ...thought, ms: thought.ms * share }, words: { ...words, ms: words.ms * share } };
}

function checkArms({ reader, solver, arms, translators }: ModelSubjectOptions): void {
  const same = reader.space.id === solver.space.id;
  for (const { name, medium, message, translator, policy } of arms) {
    if (medium === "kv" && reader !== solver)
      throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `arm ${name}: cells are of use to one and the same model alone`, {
        hint: "Take text or latent between two models.",
      });
    const translated = translator !== "none" && translators[translator] === undefined;
    if (medium === "latent" && message !== "noise" && (translated || (translator === "none" && !same)))
      throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `arm ${name}: latents of one model reach another one through a translator alone`);
    const slots = translator === "none" ? undefined : translators[translator]?.card.slots;
    if (slots !== undefined && (policy?.kind !== "hidden" || policy.steps !== slots))
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `arm ${name}: the translator takes messages of ${slots} rows`);
  }
}

/** The most positions of one reader and of one solver, over the suite. */
function needOf(options: ModelSubjectOptions): { reader: number; solver: number } {
  const { reader, solver, suite, arms } = options;
  const { prompts } = suite;
  const length = (model: Model, messages: readonly ChatMessage[]): number => model.tokenize(model.renderChat(messages)).length + 1;
  const most = (counts: Iterable<number>): number => Math.max(0, ...counts);
  const steps = most(arms.map(({ policy }) => (policy?.kind === "hidden" ? policy.steps : 0)));
  const thought = steps + (arms.some(({ policy, medium }) => policy?.kind === "tokens" || medium === "text") ? prompts.noteTokens : 0);
  const readerAgents = readerAgent(options, { kind: "read" });
  const solverAgents = solverAgent(options);
  const facts = new Map<string, { read: number; note: number }>();
  let solverNeed = 0;
  for (const { facts: text, question } of suite.items) {
    const known = facts.get(text) ?? {
      read: length(reader, readerAgents.messages(text, [], prompts.notes)) + thought,
      note: solver.tokenize(text).length + 8,
    };
    facts.set(text, known);
    const asked = length(solver, solverAgents.messages(question, [], prompts.notes));
    const before = Math.max(known.note, prompts.noteTokens + 8, steps, arms.some(({ medium }) => medium === "kv") ? known.read : 0);
    solverNeed = Math.max(solverNeed, before + asked + prompts.answerTokens);
  }
  const readerNeed = most([...facts.values()].map(({ read }) => read));
  for (const [model, need] of [
    [reader, readerNeed],
    [solver, solverNeed],
  ] as const) {
    const have = model.info.contextLength;
    if (need > have)
      throw new LatentError("ERR_LATENT_CONTEXT_OVERFLOW", `the suite needs up to ${need} positions in one sequence, the model has ${have}`, {
        details: { need, have },
        hint: "Take shorter items, or lower the tokens of notes and answers.",
      });
  }
  return { reader: readerNeed, solver: solverNeed };
}
