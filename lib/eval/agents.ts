// The two agents of an evaluation, as the suite tells them what to do.
import type { Agent, Note } from "../agents/agent.js";
import { noCounts, type Turn } from "../agents/stage.js";
import type { Model } from "../models/model.js";
import type { Sequence } from "../models/sequence.js";
import type { Translator } from "../spaces/translator.js";
import { thoughtOf, type Arm, type ArmPolicy } from "./arms.js";
import type { Suite } from "./suite.js";

/** What agents on loaded models are asked, and how. */
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

export function readerAgent({ reader, suite: { prompts } }: ModelSubjectOptions, policy: ArmPolicy): Agent {
  const system = prompts.reader === undefined ? {} : { system: prompts.reader };
  const think = thoughtOf(policy, prompts.noteTokens);
  return reader.agent({ name: "reader", ...system, think, generate: { maxTokens: prompts.noteTokens } });
}

export function solverAgent({ solver, suite: { prompts } }: ModelSubjectOptions): Agent {
  const system = prompts.solver === undefined ? {} : { system: prompts.solver };
  return solver.agent({ name: "solver", ...system, generate: { maxTokens: prompts.answerTokens } });
}

/** A turn of an agent of the evaluation. */
export function turnOf(
  agent: Agent,
  sequence: Sequence,
  question: string,
  notes: readonly Note[],
  suite: Suite,
  signal: AbortSignal,
): Turn {
  const noteStyle = suite.prompts.notes;
  return { agent, sequence, question, notes, noteStyle, store: undefined, counts: noCounts(), emit: () => undefined, signal };
}
