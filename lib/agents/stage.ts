// One agent's turn on one sequence: read what is new, then think or speak. Shared by pipes and teams, and the one place that counts.
import type { Latent } from "../spaces/latent.js";
import { Latent as LatentHandle } from "../spaces/latent.js";
import { invalid } from "../check.js";
import { Pool } from "../models/pool.js";
import type { Sequence } from "../models/sequence.js";
import { samplingOf } from "../policies/thought.js";
import type { GenerateOptions } from "../models/generation.js";
import type { Agent, Note } from "./agent.js";
import type { Medium, RunTotals } from "./events.js";
import type { Emit } from "./stream.js";

/** Mutable counts of one stage. */
export interface Counts {
  prefillTokens: number;
  latentSteps: number;
  decodedTokens: number;
}

export const noCounts = (): Counts => ({ prefillTokens: 0, latentSteps: 0, decodedTokens: 0 });

export function sum(counts: readonly Counts[], bytes: number, ms: number): RunTotals {
  const total = noCounts();
  for (const one of counts) {
    total.prefillTokens += one.prefillTokens;
    total.latentSteps += one.latentSteps;
    total.decodedTokens += one.decodedTokens;
  }
  return { ...total, bytes, ms };
}

export interface Turn {
  readonly agent: Agent;
  readonly sequence: Sequence;
  readonly question: string;
  readonly notes: readonly Note[];
  readonly noteStyle: "inline" | "message";
  readonly counts: Counts;
  readonly emit: Emit;
  readonly signal: AbortSignal;
}

export function requirePool(pool: unknown): void {
  if (pool !== undefined && !(pool instanceof Pool)) throw invalid("pool", "a Pool", pool);
}

/** Feeds the latents of a sender as the first positions of the receiver. */
export async function receiveLatents(turn: Turn, latents: Latent): Promise<void> {
  await turn.sequence.prefill(latents, { signal: turn.signal });
  turn.counts.prefillTokens += latents.shape[0];
}

/** Feeds the agent's prompt, tokens as rendered and nothing in between. */
export async function readPrompt(turn: Turn, hidden: "none" | "last"): Promise<void> {
  const start = performance.now();
  const tokens = turn.sequence.tokensOf(turn.agent.messages(turn.question, turn.notes, turn.noteStyle));
  await turn.sequence.prefill(tokens, { hidden, signal: turn.signal });
  turn.counts.prefillTokens += tokens.length;
  turn.emit({ type: "prefill", agent: turn.agent.name, tokens: tokens.length, ms: performance.now() - start });
}

/** Generates and reports the text; `final` marks the answer. */
export async function speak(turn: Turn, options: GenerateOptions, final: boolean): Promise<{ text: string; tokens: readonly number[] }> {
  const generation = turn.sequence.generate({ ...options, signal: turn.signal });
  for await (const { text } of generation) {
    if (text !== "") turn.emit({ type: "text-delta", agent: turn.agent.name, delta: text, final });
  }
  const { text, tokens } = await generation.result;
  turn.counts.decodedTokens += tokens.length;
  return { text, tokens };
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
