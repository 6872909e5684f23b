// Experts that do not see each other, and one agent that joins what they hold and answers.
import { checkKeys, checkOneOf, checkString, invalid, fallback } from "../check.js";
import { LatentError } from "../errors.js";
import type { KvStore } from "../kv/store.js";
import type { Pool } from "../models/pool.js";
import type { Sequence } from "../models/sequence.js";
import { thoughtLimit } from "../policies/thought.js";
import { Agent, type Note } from "./agent.js";
import type { Hop, RunResult, RunStream } from "./events.js";
import { noCounts, readPrompt, requirePool, requireStore, resultOf, speak, sum, think, type Counts, type Turn } from "./stage.js";
import { StoreOfRun } from "./store-of-run.js";
import { startRun, type Emit } from "./stream.js";

/**
 * How the experts' thoughts reach the joiner. `text`: as notes. `concat`: their cells one after the other with keys rotated to follow; fast, but no
 * expert attended to another (block-diagonal attention). `recompute`: their logs fed again in a row; exact, and costs a prefill.
 */
export type JoinMode = "text" | "concat" | "recompute";

/** Options of a run of a {@link Team}. */
export interface TeamOptions {
  /** Default `concat` if the model's keys can be moved, else `recompute`. */
  readonly mode?: JoinMode;
  readonly notes?: "inline" | "message";
  /** Default: a pool made for the run. */
  readonly pool?: Pool;
  /** Prompts of the experts are kept here; see {@link PipeOptions.store}. */
  readonly store?: KvStore;
  readonly signal?: AbortSignal;
}

/** Experts and their joiner; see {@link team}. */
export interface Team {
  readonly experts: readonly Agent[];
  readonly join: Agent;
  /** Runs to the end. @throws LatentError; `signal.reason` when aborted */
  run(question: string, options?: TeamOptions): Promise<RunResult>;
  /** Starts a run and returns its events and its answer. Leaving the loop over the events cancels it. */
  stream(question: string, options?: TeamOptions): RunStream;
}

/**
 * A team of 1 or more experts and a joiner, all of one model. The experts run concurrently in one pool; the result does not depend on their timing.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_SPACE_MISMATCH`
 */
export function team(members: { readonly experts: readonly Agent[]; readonly join: Agent }): Team {
  checkKeys("team", members, ["experts", "join"]);
  const { join } = members;
  const given: unknown = members.experts;
  if (!Array.isArray(given) || given.length === 0) throw invalid("experts", "an array of at least one agent", given);
  const experts: readonly Agent[] = members.experts;
  for (const agent of [...experts, join] as readonly unknown[])
    if (!(agent instanceof Agent)) throw invalid("team", "agents made by model.agent()", agent);
  for (const expert of experts) {
    if (expert.model !== join.model)
      throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `${expert.name} and ${join.name} are of different models`);
  }
  const all = { experts: Object.freeze([...experts]), join };
  return {
    ...all,
    run: async (question, options = {}) =>
      execute(all, checked(all, question, options), () => undefined, options.signal ?? new AbortController().signal),
    stream(question, options = {}) {
      const plan = checked(all, question, options);
      return startRun((emit, signal) => execute(all, plan, emit, signal), options.signal);
    },
  };
}

interface Members {
  readonly experts: readonly Agent[];
  readonly join: Agent;
}

interface Plan {
  readonly question: string;
  readonly mode: JoinMode | undefined;
  readonly notes: "inline" | "message";
  readonly pool: Pool | undefined;
  readonly store: KvStore | undefined;
  readonly need: number;
}

// All sequences live in one pool, so their sum is what must fit.
function checked({ experts, join }: Members, question: string, options: TeamOptions): Plan {
  checkKeys("options", options, ["mode", "notes", "pool", "store", "signal"]);
  checkString("question", question);
  const { model } = join;
  requirePool(options.pool);
  requireStore(options.store);
  if (options.pool !== undefined && options.pool.model !== model)
    throw new LatentError("ERR_LATENT_SPACE_MISMATCH", "the pool is of another model");
  const notes = checkOneOf("notes", fallback(options.notes, "inline"), ["inline", "message"]);
  const mode = options.mode === undefined ? undefined : checkOneOf("mode", options.mode, ["text", "concat", "recompute"]);
  const prompt = (agent: Agent): number => model.tokenize(model.renderChat(agent.messages(question, [], notes))).length + 1;
  const spoken =
    options.mode === "text" ? (agent: Agent) => (agent.think.policy === "hidden" ? (agent.generate.maxTokens ?? 256) : 0) : () => 0;
  const thoughts = experts.reduce((total, expert) => total + prompt(expert) + thoughtLimit(expert.think) + spoken(expert), 0);
  // a shifted join holds the experts' cells twice for a moment
  const need = 2 * thoughts + prompt(join) + 1;
  const have = options.pool?.info.contextLength ?? model.info.contextLength;
  if (need > have) {
    throw new LatentError("ERR_LATENT_CONTEXT_OVERFLOW", `the team needs up to ${need} positions, the context has ${have}`, {
      details: { need, have },
    });
  }
  return { question, mode, notes, pool: options.pool, store: options.store, need };
}

async function execute({ experts, join }: Members, plan: Plan, emit: Emit, signal: AbortSignal): Promise<RunResult> {
  signal.throwIfAborted();
  const { model } = join;
  const answer = join.generate.maxTokens ?? 256;
  const pool =
    plan.pool ??
    (await model.createPool({
      contextLength: Math.min(model.info.contextLength, plan.need + answer),
      maxSequences: experts.length + 1,
      signal,
    }));
  const mode = plan.mode ?? (pool.info.canShift ? "concat" : "recompute");
  const medium = mode === "text" ? "text" : "kv";
  const store = plan.store === undefined ? undefined : new StoreOfRun(plan.store);
  const start = performance.now();
  emit({ type: "run-start", agents: [...experts, join].map((agent) => agent.name), media: experts.map(() => medium), compat: "none" });
  const open: Sequence[] = [];
  const stop = new AbortController();
  const both = AbortSignal.any([signal, stop.signal]);
  try {
    const begun = await Promise.all(
      experts.map(async (agent) => {
        const sequence = pool.sequence();
        open.push(sequence);
        const counts = noCounts();
        const turn: Turn = {
          agent,
          sequence,
          question: plan.question,
          notes: [],
          noteStyle: plan.notes,
          store,
          counts,
          emit,
          signal: both,
        };
        const began = performance.now();
        emit({ type: "agent-start", agent: agent.name, inherited: 0 });
        await readPrompt(turn, agent.think.policy === "hidden" ? "last" : "none");
        const thought = await think(turn, medium);
        thought.latents?.dispose();
        return { agent, sequence, counts, began, text: thought.text ?? "" };
      }),
    ).catch((error: unknown) => {
      // the others stop too, before their sequences go
      stop.abort(error);
      throw error;
    });

    const sequence = pool.sequence();
    open.push(sequence);
    const counts = noCounts();
    const notes: Note[] = [];
    const hops: Hop[] = [];
    for (const expert of begun) {
      let crossed = { positions: 0, bytes: Buffer.byteLength(expert.text, "utf8"), heldBytes: 0 };
      if (mode === "text") notes.push({ from: expert.agent.name, text: expert.text });
      else {
        const positions = await sequence.append(expert.sequence, { mode: mode === "concat" ? "shift" : "recompute", signal: both });
        if (mode === "recompute") counts.prefillTokens += positions;
        const heldBytes = positions * pool.info.kvBytesPerPosition;
        crossed = { positions, bytes: mode === "concat" ? heldBytes : 0, heldBytes };
      }
      const hop: Hop = {
        from: expert.agent.name,
        to: join.name,
        medium,
        ...crossed,
        ...expert.counts,
        ms: performance.now() - expert.began,
      };
      hops.push(hop);
      emit({ type: "hop-end", hop });
    }
    const turn: Turn = { agent: join, sequence, question: plan.question, notes, noteStyle: plan.notes, store, counts, emit, signal: both };
    emit({ type: "agent-start", agent: join.name, inherited: sequence.length });
    await readPrompt(turn, "none");
    const answer = await speak(turn, join.generate, true);

    const all: Counts[] = [...begun.map((expert) => expert.counts), counts];
    const totals = sum(
      all,
      hops.reduce((total, hop) => total + hop.bytes, 0),
      performance.now() - start,
    );
    const reread = mode === "concat" ? hops.reduce((total, hop) => total + hop.positions, 0) : 0;
    const result = resultOf(answer, hops, totals, reread, store);
    emit({ type: "run-end", result });
    return result;
  } finally {
    await Promise.all(open.map((sequence) => sequence.dispose()));
    if (plan.pool === undefined) await pool.dispose();
  }
}
