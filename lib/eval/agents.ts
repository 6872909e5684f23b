// The two agents of an evaluation, as the suite tells them what to do.
import type { Agent, AgentOptions, Note } from "../agents/agent.js";
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

/** What an agent is told stands above what it is asked, in one message: there are templates that refuse system prompts. */
function asked(told: string | undefined): Pick<AgentOptions, "user"> {
  return told === undefined || told === "" ? {} : { user: (question) => `${told}\n\n${question}` };
}

export function readerAgent({ reader, suite: { prompts } }: ModelSubjectOptions, policy: ArmPolicy): Agent {
  const think = thoughtOf(policy, prompts.noteTokens);
  return reader.agent({ name: "reader", ...asked(prompts.reader), think, generate: { maxTokens: prompts.noteTokens } });
}

export function solverAgent({ solver, suite: { prompts } }: ModelSubjectOptions): Agent {
  return solver.agent({ name: "solver", ...asked(prompts.solver), generate: { maxTokens: prompts.answerTokens } });
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
