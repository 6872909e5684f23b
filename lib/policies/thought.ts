// How an agent thinks before it hands over: a plain record, so that a new policy is a preset and not a class.
import { checkBoolean, checkInteger, checkKeys, checkOneOf, fallback } from "../check.js";
import { checkGenerateOptions, type GenerateOptions } from "../models/generation.js";

/** Latent steps: the last hidden state is fed back as the next input row (LatentMAS). `align`: through the ridge alignment; default false. */
export interface HiddenThought {
  readonly policy: "hidden";
  readonly steps: number;
  readonly align?: boolean;
}

/** Ordinary tokens; at most `maxTokens` (default 256), sampled as told. */
export interface TokenThought extends Omit<GenerateOptions, "signal" | "priority"> {
  readonly policy: "tokens";
}

/** How an agent thinks. */
export type ThoughtPolicy = HiddenThought | TokenThought;

/** @throws LatentError `ERR_LATENT_INVALID_ARGUMENT` */
export function checkThought(value: ThoughtPolicy): ThoughtPolicy {
  checkOneOf("think.policy", value.policy, ["hidden", "tokens"]);
  if (value.policy === "hidden") {
    checkKeys("think", value, ["policy", "steps", "align"]);
    checkInteger("think.steps", value.steps, 0, 1 << 20);
    checkBoolean("think.align", fallback(value.align, false));
    return value;
  }
  checkGenerateOptions(samplingOf(value));
  return value;
}

/** The sampling options of a token thought. */
export function samplingOf(thought: TokenThought): GenerateOptions {
  return Object.fromEntries(Object.entries(thought).filter(([key]) => key !== "policy"));
}

/** The most positions that a thought can take. */
export function thoughtLimit(thought: ThoughtPolicy): number {
  return thought.policy === "hidden" ? thought.steps : (thought.maxTokens ?? 256);
}
