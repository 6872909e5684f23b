// What an evaluation can need, found out before anything is asked: arms that make sense for the models, and room for the longest item.
import { LatentError } from "../errors.js";
import type { ChatMessage } from "../models/chat.js";
import type { Model } from "../models/model.js";
import { requireSameSpace } from "../spaces/space.js";
import { readerAgent, solverAgent, type ModelSubjectOptions } from "./agents.js";

// what a template puts around a note
const noteRoom = 32;

/** @throws LatentError `ERR_LATENT_SPACE_MISMATCH`, `ERR_LATENT_INVALID_ARGUMENT` */
export function checkArms({ reader, solver, arms, translators }: ModelSubjectOptions): void {
  const same = reader.space.id === solver.space.id;
  for (const { name, medium, message, translator, policy } of arms) {
    if (medium === "kv" && reader !== solver)
      throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `arm ${name}: cells are of use to one and the same model alone`, {
        hint: "Take text or latent between two models.",
      });
    const translated = translator !== "none" && translators[translator] === undefined;
    if (medium === "latent" && message !== "noise" && (translated || (translator === "none" && !same)))
      throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `arm ${name}: latents of one model reach another one through a translator alone`);
    const card = translator === "none" ? undefined : translators[translator]?.card;
    if (card?.from !== undefined) requireSameSpace(reader.space, card.from, "what the reader makes");
    if (card?.to !== undefined) requireSameSpace(card.to, solver.space, "what the translator makes");
    const slots = card?.slots;
    if (slots !== undefined && (policy?.kind !== "hidden" || policy.steps !== slots))
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `arm ${name}: the translator takes messages of ${slots} rows`);
  }
}

/** The most positions of one reader and of one solver, over the suite. @throws LatentError `ERR_LATENT_CONTEXT_OVERFLOW` */
export function needOf(options: ModelSubjectOptions): { readonly reader: number; readonly solver: number } {
  const { reader, solver, suite, arms } = options;
  const { prompts } = suite;
  const length = (model: Model, messages: readonly ChatMessage[]): number => model.tokenize(model.renderChat(messages)).length + 1;
  const steps = arms.reduce((most, { policy }) => Math.max(most, policy?.kind === "hidden" ? policy.steps : 0), 0);
  const thought = steps + (arms.some(({ policy, medium }) => policy?.kind === "tokens" || medium === "text") ? prompts.noteTokens : 0);
  // another tokenizer may need more tokens for the same words
  const noteTokens = reader === solver ? prompts.noteTokens : 2 * prompts.noteTokens;
  const shares = arms.some(({ medium }) => medium === "kv");
  const [readerOf, solverOf] = [readerAgent(options, { kind: "read" }), solverAgent(options)];
  const documents = new Map<string, { readonly read: number; readonly note: number }>();
  const need = { reader: 0, solver: 0 };
  for (const { facts, question } of suite.items) {
    const known = documents.get(facts) ?? {
      read: length(reader, readerOf.messages(facts, [], prompts.notes)) + thought,
      note: solver.tokenize(facts).length,
    };
    documents.set(facts, known);
    const asked = length(solver, solverOf.messages(question, [], prompts.notes)) + prompts.answerTokens;
    need.reader = Math.max(need.reader, known.read);
    need.solver = Math.max(need.solver, asked + Math.max(noteRoom + Math.max(known.note, noteTokens), steps, shares ? known.read : 0));
  }
  for (const [model, positions] of [
    [reader, need.reader],
    [solver, need.solver],
  ] as const) {
    const have = model.info.contextLength;
    if (positions > have)
      throw new LatentError(
        "ERR_LATENT_CONTEXT_OVERFLOW",
        `the suite needs up to ${positions} positions in one sequence, the model has ${have}`,
        { details: { need: positions, have }, hint: "Take shorter items, or lower the tokens of notes and answers." },
      );
  }
  return need;
}
