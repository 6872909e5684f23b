// What an agent is asked over a bus, and what it answers: the part of an envelope that the two ends of a call share.
import { checkArray, checkInteger, checkKeys, checkNumber, checkOneOf, checkString, invalid } from "../check.js";
import type { Medium } from "../agents/events.js";
import { isLatentErrorCode, LatentError } from "../errors.js";
import { checkGenerateOptions, type GenerateOptions } from "../models/generation.js";
import type { Whereabouts } from "./announcement.js";
import { checkText } from "./envelope.js";

/** Options of a generation that can be sent. */
export type SentGenerateOptions = Omit<GenerateOptions, "signal" | "priority">;

/** What a request asks for. */
export interface AgentRequest extends Whereabouts {
  /** `think`: a thought for another agent. `say`: an answer. `generate`: text behind a prompt, without the agent's own. */
  readonly op: "think" | "say" | "generate";
  readonly question: string;
  /** Of `think`: how the thought travels. */
  readonly medium: Medium;
  /** Texts of other agents. */
  readonly notes: readonly { readonly from: string; readonly text: string }[];
  /** Of `say` and `generate`: instead of the agent's own, one by one. */
  readonly generate: SentGenerateOptions;
}

/** What it cost the agent. */
export interface AgentCounts {
  readonly prefillTokens: number;
  readonly latentSteps: number;
  readonly decodedTokens: number;
  /** Positions that came from a store instead of being prefilled. */
  readonly stored: number;
  /** From when the agent began to when it was done, without waiting for its turn. */
  readonly ms: number;
}

const ops = ["think", "say", "generate"] as const;
const media = ["kv", "latent", "text"] as const;
const mostNotes = 64;

/** @throws LatentError `ERR_LATENT_INVALID_ARGUMENT` */
export function checkRequest(value: unknown): AgentRequest {
  checkKeys("the request", value, ["op", "question", "medium", "notes", "generate", "machine", "process"]);
  const fields = value as Readonly<Record<keyof AgentRequest, unknown>>;
  const notes = checkArray("notes", fields.notes as readonly unknown[]);
  if (notes.length > mostNotes) throw invalid("notes", `at most ${mostNotes}`, notes);
  const generate = checkSent(fields.generate);
  return {
    op: checkOneOf("op", fields.op, ops),
    question: checkText(fields.question),
    medium: checkOneOf("medium", fields.medium, media),
    notes: notes.map((note) => {
      checkKeys("note", note, ["from", "text"]);
      const { from, text } = note as Readonly<Record<string, unknown>>;
      return { from: checkString("note.from", from), text: checkText(text) };
    }),
    generate,
    machine: checkString("machine", fields.machine),
    process: checkString("process", fields.process),
  };
}

function checkSent(generate: unknown): SentGenerateOptions {
  if (typeof generate !== "object" || generate === null || "signal" in generate || "priority" in generate)
    throw invalid("generate", "options that can be sent", generate);
  checkGenerateOptions(generate);
  return generate;
}

/** @throws LatentError `ERR_LATENT_INVALID_ARGUMENT` */
export function checkCounts(value: unknown): AgentCounts {
  checkKeys("counts", value, ["prefillTokens", "latentSteps", "decodedTokens", "stored", "ms"]);
  const fields = value as Readonly<Record<keyof AgentCounts, unknown>>;
  const count = (name: Exclude<keyof AgentCounts, "ms">): number => checkInteger(name, fields[name], 0, Number.MAX_SAFE_INTEGER);
  return {
    prefillTokens: count("prefillTokens"),
    latentSteps: count("latentSteps"),
    decodedTokens: count("decodedTokens"),
    stored: count("stored"),
    ms: checkNumber("ms", fields.ms, 0, Number.MAX_SAFE_INTEGER),
  };
}

/** How an agent's failure travels. */
export function failureOf(error: unknown): Readonly<Record<string, string>> {
  const message = (error instanceof Error ? error.message : String(error)).slice(0, 1000);
  return { code: LatentError.isInstance(error) ? error.code : "", message };
}

/** The failure as the requester gets it: its own code where that says what to do here, and that of a peer that failed else. */
export function failureFrom(agent: string, value: unknown): LatentError {
  const field = (name: string): unknown => (typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined);
  const code = field("code");
  const message = `${agent}: ${String(field("message")).slice(0, 1000)}`;
  const details = { by: "peer", agent, ...(isLatentErrorCode(code) && { code }) };
  return new LatentError(isLatentErrorCode(code) ? code : "ERR_LATENT_BUS_PEER", message, { details });
}
