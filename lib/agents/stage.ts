// One agent's turn on one sequence: read what is new, then think or speak. Shared by pipes and teams, and the one place that counts.
import type { Latent } from "../spaces/latent.js";
import { Latent as LatentHandle } from "../spaces/latent.js";
import { invalid } from "../check.js";
import { KvStore } from "../kv/store.js";
import { Pool } from "../models/pool.js";
import type { Sequence } from "../models/sequence.js";
import { samplingOf } from "../policies/thought.js";
import type { GenerateOptions, GenerationResult } from "../models/generation.js";
import type { Agent, Note } from "./agent.js";
import type { Hop, Medium, RunResult, RunTotals } from "./events.js";
import type { StoreOfRun } from "./store-of-run.js";
import type { Emit } from "./stream.js";

/** Mutable counts of one stage. */
export interface Counts {
  prefillTokens: number;
  latentSteps: number;
  decodedTokens: number;
  fromRam: number;
  fromDisk: number;
}

export const noCounts = (): Counts => ({ prefillTokens: 0, latentSteps: 0, decodedTokens: 0, fromRam: 0, fromDisk: 0 });

export function sum(counts: readonly Counts[], bytes: number, ms: number): RunTotals {
  const total = noCounts();
  for (const one of counts) {
    total.prefillTokens += one.prefillTokens;
    total.latentSteps += one.latentSteps;
    total.decodedTokens += one.decodedTokens;
    total.fromRam += one.fromRam;
    total.fromDisk += one.fromDisk;
  }
  return { ...total, bytes, ms };
}

/** `reread`: positions that crossed as cells and would have to be prefilled as text. */
export function resultOf(
  { text, reason }: Pick<RunResult, "text" | "reason">,
  hops: readonly Hop[],
  totals: RunTotals,
  reread: number,
  store: StoreOfRun | undefined,
): RunResult {
  const asText = {
    prefillTokens: totals.prefillTokens + totals.fromRam + totals.fromDisk + reread,
    decodedTokens: totals.decodedTokens + totals.latentSteps,
  };
  return { text, reason, hops, totals, asText, ...(store === undefined ? {} : { store: store.use }) };
}

export interface Turn {
  readonly agent: Agent;
  readonly sequence: Sequence;
  readonly question: string;
  readonly notes: readonly Note[];
  readonly noteStyle: "inline" | "message";
  readonly store: StoreOfRun | undefined;
  readonly counts: Counts;
  readonly emit: Emit;
  readonly signal: AbortSignal;
}

export function requirePool(pool: unknown): void {
  if (pool !== undefined && !(pool instanceof Pool)) throw invalid("pool", "a Pool", pool);
}

export function requireStore(store: unknown): void {
  if (store !== undefined && !(store instanceof KvStore)) throw invalid("store", "a KvStore", store);
}

/** Feeds the latents of a sender as the first positions of the receiver. */
export async function receiveLatents(turn: Turn, latents: Latent): Promise<void> {
  await turn.sequence.prefill(latents, { signal: turn.signal });
  turn.counts.prefillTokens += latents.shape[0];
}

/** Feeds the agent's prompt, tokens as rendered and nothing in between; what the store holds of it is taken from there. */
export async function readPrompt(turn: Turn, hidden: "none" | "last"): Promise<void> {
  const { sequence, counts, signal } = turn;
  const start = performance.now();
  const tokens = sequence.tokensOf(turn.agent.messages(turn.question, turn.notes, turn.noteStyle));
  // content is found by the tokens from the first position on, so there is something to find for an empty sequence alone
  const store = sequence.length === 0 ? turn.store : undefined;
  const stored = (await store?.take(sequence, tokens, signal)) ?? { fromRam: 0, fromDisk: 0 };
  const fresh = tokens.subarray(stored.fromRam + stored.fromDisk);
  const prefillStart = performance.now();
  await sequence.prefill(fresh, { hidden, signal });
  const end = performance.now();
  counts.prefillTokens += fresh.length;
  counts.fromRam += stored.fromRam;
  counts.fromDisk += stored.fromDisk;
  turn.emit({ type: "prefill", agent: turn.agent.name, tokens: fresh.length, ...stored, ms: end - start });
  await store?.give(sequence, fresh.length, end - prefillStart, signal);
}

/** Generates and reports the text; `final` marks the answer. */
export async function speak(turn: Turn, options: GenerateOptions, final: boolean): Promise<GenerationResult> {
  const generation = turn.sequence.generate({ ...options, signal: turn.signal });
  for await (const { text } of generation) {
    if (text !== "") turn.emit({ type: "text-delta", agent: turn.agent.name, delta: text, final });
  }
  const result = await generation.result;
  turn.counts.decodedTokens += result.tokens.length;
  return result;
}

/** What a turn made for the next agent. */
export interface Thought {
  /** Positions that the thought took. */
  readonly positions: number;
  /** Present when it travels as latents. */
  readonly latents: Latent | undefined;
  /** Present when it travels as text. */
  readonly text: string | undefined;
}

/** Thinks by the agent's policy and puts the thought in the form that its medium needs. */
export async function think(turn: Turn, medium: Medium): Promise<Thought> {
  const { agent, sequence, signal } = turn;
  if (agent.think.policy === "hidden") {
    const latents = await sequence.think({
      steps: agent.think.steps,
      align: agent.think.align ?? false,
      signal,
      onStep: (step) => {
        turn.emit({ type: "thought-step", agent: agent.name, ...step });
      },
    });
    turn.counts.latentSteps += agent.think.steps;
    // latent thoughts cannot be read as text: the agent says them in words
    const spoken = medium === "text" ? await speak(turn, agent.generate, false) : undefined;
    return { positions: agent.think.steps, latents, text: spoken?.text };
  }
  const { text, tokens } = await speak(turn, samplingOf(agent.think), false);
  const { model } = agent;
  const latents = medium === "latent" ? new LatentHandle(model.space, "embeds", model.inputRows(tokens)) : undefined;
  return { positions: tokens.length, latents, text };
}
