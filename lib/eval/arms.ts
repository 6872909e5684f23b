// An arm is one way for a reader to tell a solver what it read: a policy of thinking, a medium, and whose message arrives. Placebos are arms too.
import { checkString, invalid } from "../check.js";
import type { Medium } from "../agents/events.js";
import type { ThoughtPolicy } from "../policies/thought.js";

/** How the reader thinks: not at all, in tokens, or in latent steps. */
export type ArmPolicy =
  { readonly kind: "read" } | { readonly kind: "tokens" } | { readonly kind: "hidden"; readonly steps: number; readonly align: boolean };

/**
 * What the solver gets. `everything`: the facts themselves (one agent). `own`: what the reader of this item's facts hands over. `other`: what the
 * reader of other facts hands over. `noise`: random rows of the norm of latent ones. `nothing`.
 */
export type ArmMessage = "everything" | "own" | "other" | "noise" | "nothing";

/** One arm of an evaluation; docs/evaluation.md lists their names. */
export interface Arm {
  readonly name: string;
  readonly message: ArmMessage;
  /** null where nothing is handed over by an agent. */
  readonly medium: Medium | null;
  readonly policy: ArmPolicy | null;
  /** Between agents of two models: `fitted`, or `shuffled`, fitted on pairs that do not belong together. */
  readonly translator: "none" | "fitted" | "shuffled";
}

/** True for arms that show what answers are worth without the message. */
export function isPlacebo({ message, translator }: Arm): boolean {
  return message === "nothing" || message === "other" || message === "noise" || translator === "shuffled";
}

/** True for arms in which something real is handed over. */
export function isHandOver(arm: Arm): boolean {
  return arm.message === "own" && !isPlacebo(arm);
}

const grammar =
  "single, none, noise, shuffled, shuffled-translator, or text, kv or latent, optionally with /read, /tokens or /hiddenN(-align) behind " +
  "and shuffled: before it";

/**
 * Reads the name of an arm: `single`, `none`, or a medium and a policy, `kv/hidden8`. `text` alone is `text/tokens`, `kv` is `kv/read` (the reader's
 * cells behind its prompt), `latent` is `latent/hiddenN`. `shuffled:` before it hands over what was read of other facts. `noise` and `shuffled` alone
 * belong to `latent`, `shuffled-translator` is `latent` through a translator that was fitted on shuffled pairs.
 * @param steps of `latent` alone
 * @param translated whether latents go through a translator
 * @throws LatentError `ERR_LATENT_INVALID_ARGUMENT`
 */
export function parseArm(name: string, steps: number, translated: boolean): Arm {
  checkString("an arm", name);
  const translator = translated ? "fitted" : "none";
  const hidden: ArmPolicy = { kind: "hidden", steps, align: false };
  const latent = { name, medium: "latent" as const, policy: hidden, translator } as const;
  if (name === "single") return { name, message: "everything", medium: null, policy: null, translator: "none" };
  if (name === "none") return { name, message: "nothing", medium: null, policy: null, translator: "none" };
  if (name === "noise") return { ...latent, message: "noise" };
  if (name === "shuffled") return { ...latent, message: "other" };
  if (name === "shuffled-translator" && translated) return { ...latent, message: "own", translator: "shuffled" };
  const parts = /^(shuffled:)?(text|kv|latent)(?:\/(?:(read|tokens)|hidden(\d{1,6})(-align)?))?$/u.exec(name);
  if (parts === null) throw invalid("an arm", grammar, name);
  const [, shuffled, given, plain, count, align] = parts;
  const medium = given as Medium;
  const standard: ArmPolicy = medium === "text" ? { kind: "tokens" } : medium === "kv" ? { kind: "read" } : hidden;
  const policy: ArmPolicy =
    plain !== undefined
      ? { kind: plain as "read" | "tokens" }
      : count !== undefined
        ? { kind: "hidden", steps: Number(count), align: align !== undefined }
        : standard;
  if (policy.kind === "read" && medium !== "kv") throw invalid("an arm", "one that thinks: without a thought there are cells alone", name);
  if (policy.kind === "hidden" && policy.steps === 0 && medium === "latent") throw invalid("an arm", "one of 1 step or more", name);
  return {
    name,
    message: shuffled === undefined ? "own" : "other",
    medium,
    policy,
    translator: medium === "latent" ? translator : "none",
  };
}

/** The arms that an evaluation has in any case, without which no other can be judged. */
export const standingArms = ["single", "text", "none", "shuffled", "noise"] as const;

/** The names of all arms of an evaluation, each once: what was asked for and what always stands beside it, hand-overs before placebos. */
export function armNames(asked: readonly string[] | undefined, translated: boolean): string[] {
  const standard = translated ? ["latent", "shuffled-translator"] : ["kv", "latent"];
  const names = [...new Set([...standingArms, ...(asked ?? standard)])];
  const isLast = (name: string): boolean => name === "none" || name === "noise" || name.startsWith("shuffled");
  return [...names.filter((name) => !isLast(name)), ...names.filter(isLast)];
}

/** The name of a policy in an arm's name. */
export function policyName(policy: ArmPolicy): string {
  return policy.kind === "hidden" ? `hidden${policy.steps}${policy.align ? "-align" : ""}` : policy.kind;
}

/** How an agent of this policy thinks; reading alone is no thought. */
export function thoughtOf(policy: ArmPolicy, noteTokens: number): ThoughtPolicy {
  if (policy.kind === "tokens") return { policy: "tokens", maxTokens: noteTokens };
  const { steps, align } = policy.kind === "hidden" ? policy : { steps: 0, align: false };
  return { policy: "hidden", steps, align };
}
