// The agents of an evaluation on loaded models: a reader that sees the facts and a solver that sees the question, made of the same stages as a pipe.
// What the reader of some facts does is done once for all questions about them, and is counted for each as if it had been done for it.
import { checkInteger } from "../check.js";
import type { Agent, Note } from "../agents/agent.js";
import { readPrompt, receiveLatents, speak, type Turn } from "../agents/stage.js";
import type { Pool } from "../models/pool.js";
import type { Latent } from "../spaces/latent.js";
import { solverAgent, turnOf, type ModelSubjectOptions } from "./agents.js";
import type { Arm } from "./arms.js";
import { checkArms, needOf } from "./limits.js";
import { noiseRows } from "./noise.js";
import { nothingSpent, policiesOf, Readers, Readings, type Reading, type Spent } from "./readers.js";
import type { Block, EvalSubject, Outcome, StageTimes } from "./run.js";
import { sideBySide } from "./side-by-side.js";
import type { SuiteItem } from "./suite.js";

export class ModelSubject implements EvalSubject {
  readonly arms: readonly Arm[];
  readonly documents: number;
  readonly #options: ModelSubjectOptions;
  readonly #pools: readonly [reader: Pool, solver: Pool];
  readonly #readers: Readers;
  readonly #solver: Agent;

  private constructor(options: ModelSubjectOptions, pools: readonly [reader: Pool, solver: Pool]) {
    this.arms = options.arms;
    this.documents = options.parallel;
    this.#options = options;
    this.#pools = pools;
    this.#readers = new Readers(options, pools[0]);
    this.#solver = solverAgent(options);
  }

  /** Makes pools as large as the suite can need. */
  static async create(options: ModelSubjectOptions): Promise<ModelSubject> {
    const { reader, solver, signal, parallel } = options;
    checkInteger("parallel", parallel, 1, 32);
    checkArms(options);
    const need = needOf(options);
    // cells are kept of a block's documents and of the one after them, whose message a shuffled arm gets
    const kept = [...policiesOf(options.arms).values()].filter(({ media }) => media.has("kv")).length * (parallel + 1);
    // a reader that speaks after its steps has a fork
    const reading = { contextLength: (kept + parallel) * need.reader, maxSequences: kept + 2 * parallel };
    const solving = { contextLength: parallel * need.solver, maxSequences: parallel };
    if (reader === solver) {
      const contextLength = reading.contextLength + solving.contextLength;
      const pool = await reader.createPool({ contextLength, maxSequences: reading.maxSequences + parallel, signal });
      return new ModelSubject(options, [pool, pool]);
    }
    const first = await reader.createPool({ ...reading, signal });
    try {
      return new ModelSubject(options, [first, await solver.createPool({ ...solving, signal })]);
    } catch (error) {
      await first.dispose();
      throw error;
    }
  }

  async answer(block: Block, onItem: () => void, signal: AbortSignal): Promise<ReadonlyMap<string, readonly Outcome[]>> {
    await using readings = new Readings();
    await this.#readers.read(block, readings, signal);
    const all = new Map<string, readonly Outcome[]>();
    for (const arm of this.arms) {
      signal.throwIfAborted();
      const outcomes: Outcome[] = [];
      const share = await sideBySide(block.items, this.documents, async (item, i) => {
        const outcome = await this.#solve(arm, item, block, readings, signal);
        outcomes[i] = outcome;
        onItem();
        return outcome.ms.handOver + outcome.ms.solver;
      });
      const times = ({ reader, handOver, solver }: StageTimes): StageTimes => ({
        reader,
        handOver: handOver * share,
        solver: solver * share,
      });
      all.set(
        arm.name,
        outcomes.map((one) => ({ ...one, ms: times(one.ms) })),
      );
    }
    return all;
  }

  async dispose(): Promise<void> {
    for (const pool of this.#pools) await pool.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  async #solve(arm: Arm, item: SuiteItem, block: Block, readings: Readings, signal: AbortSignal): Promise<Outcome> {
    const { suite } = this.#options;
    const facts = arm.message === "other" ? (block.others.get(item.facts) ?? "") : item.facts;
    const reading = readings.of(arm, facts);
    const notes: Note[] = [];
    if (arm.message === "everything" && suite.kind === "facts") notes.push({ from: "reader", text: facts });
    if (arm.medium === "text") notes.push({ from: "reader", text: reading?.note ?? "" });
    const shared = arm.medium === "kv" ? await reading?.cells?.fork(signal) : undefined;
    await using sequence = shared?.fork ?? this.#pools[1].sequence();
    const held = sequence.length;
    const turn = turnOf(this.#solver, sequence, item.question, notes, suite, signal);
    const crossed = arm.medium === "latent" ? await this.#latentOf(arm, facts, reading, signal) : undefined;
    const began = performance.now();
    try {
      if (crossed !== undefined) await receiveLatents(turn, crossed.latent);
      await readPrompt(turn, "none");
      const { text } = await speak(turn, this.#solver.generate, true);
      const spent = (arm.medium === "text" ? reading?.words : reading?.thought) ?? nothingSpent;
      const handOver = (shared?.ms ?? 0) + (crossed?.ms ?? 0);
      const bytes = arm.medium === "text" ? Buffer.byteLength(reading?.note ?? "", "utf8") : (crossed?.bytes ?? 0);
      return outcomeOf(text, turn, spent, { held, bytes, ms: { reader: spent.ms, handOver, solver: performance.now() - began } });
    } finally {
      if (crossed?.own === true) crossed.latent.dispose();
    }
  }

  /** The rows that reach the solver. `bytes`: of what was sent, before it was translated. `own`: the rows are of this item alone. */
  async #latentOf(arm: Arm, facts: string, reading: Reading | undefined, signal: AbortSignal): Promise<Crossed | undefined> {
    const { solver, seed } = this.#options;
    if (arm.message === "noise") {
      const steps = arm.policy?.kind === "hidden" ? arm.policy.steps : 1;
      const latent = await noiseRows(solver, steps, seed, facts, signal);
      return { latent, bytes: latent.bytes, ms: 0, own: true };
    }
    const sent = reading?.latents;
    const arrived = arm.translator === "none" ? { latent: sent, ms: 0 } : reading?.translated.get(arm.translator);
    if (sent === undefined || arrived?.latent === undefined) return undefined;
    return { latent: arrived.latent, bytes: sent.bytes, ms: arrived.ms, own: false };
  }
}

interface Crossed {
  readonly latent: Latent;
  readonly bytes: number;
  readonly ms: number;
  readonly own: boolean;
}

/** What a reader and a solver took together. `held`: positions that the solver got as cells. */
function outcomeOf(
  answer: string,
  { counts, sequence }: Turn,
  reader: Spent,
  { held, bytes, ms }: { readonly held: number; readonly bytes: number; readonly ms: StageTimes },
): Outcome {
  const perPosition = sequence.pool.info.kvBytesPerPosition;
  return {
    answer: answer.trim(),
    prefillTokens: reader.counts.prefillTokens + counts.prefillTokens,
    latentSteps: reader.counts.latentSteps + counts.latentSteps,
    decodedTokens: reader.counts.decodedTokens + counts.decodedTokens,
    bytes,
    heldBytes: held * perPosition,
    kvBytes: Math.max(reader.kvBytes, sequence.length * perPosition),
    ms,
  };
}
