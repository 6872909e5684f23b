// What an evaluation asks: a list of items, and how the agents are told what to do. Suites are data; files of lines of JSON are read strictly, and what
// is wrong with them is said with the number of the line.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { checkInteger, checkKeys, checkNumber, checkOneOf, checkString, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { arcItem, gsm8kItem, isArc, isGsm8k } from "./adapters.js";
import { chanceOf, checkAnswerCheck, type AnswerCheck } from "./answers.js";

/** One question. */
export interface SuiteItem {
  readonly id: string;
  /** What the reader sees. Items of the same facts are one document, which is read once. In a suite of kind `prompt` it is the prompt. */
  readonly facts: string;
  /** What the solver sees. */
  readonly question: string;
  readonly check: AnswerCheck;
  /** Share of right answers that guessing gives, if that is known. */
  readonly chance?: number;
  /** Items are counted by group as well. */
  readonly group?: string;
}

/** What the agents are told, and how much they may say. */
export interface SuitePrompts {
  /** Above what the agent reads, in the same message; nothing where this is empty or left out. */
  readonly reader?: string;
  readonly solver?: string;
  /** Where notes stand: in user messages of their own, or above the question in one message. */
  readonly notes: "message" | "inline";
  /** The longest note of the reader, and the longest answer, in tokens. */
  readonly noteTokens: number;
  readonly answerTokens: number;
}

/** Made by {@link readSuite}, {@link parseSuite} or {@link relaySuite}. */
export interface Suite {
  readonly name: string;
  /** `facts`: the reader sees facts and the solver a question. `prompt`: both see the same prompt. */
  readonly kind: "facts" | "prompt";
  readonly items: readonly SuiteItem[];
  readonly prompts: SuitePrompts;
  /** SHA-256 over the items, hex. */
  readonly digest: string;
}

/** @internal */
export function makeSuite(suite: Omit<Suite, "digest">): Suite {
  return Object.freeze({ ...suite, digest: createHash("sha256").update(JSON.stringify(suite.items)).digest("hex") });
}

type LineKind = "facts" | "prompt" | "gsm8k" | "arc";

const tellEverything = "Write down every fact of the text in short sentences, and nothing else.";
const planOnly = "Plan in short steps how to solve the task. Do not solve it.";

/** Defaults for files; a caller may replace any of them. */
const promptsOf: Readonly<Record<LineKind, SuitePrompts>> = {
  facts: {
    reader: tellEverything,
    solver: "Answer with the answer alone, in as few words as you can.",
    notes: "inline",
    noteTokens: 256,
    answerTokens: 64,
  },
  prompt: { reader: planOnly, notes: "inline", noteTokens: 256, answerTokens: 512 },
  gsm8k: {
    reader: planOnly,
    solver: "Solve the task step by step. End with 'Answer: ' and the number.",
    notes: "inline",
    noteTokens: 256,
    answerTokens: 512,
  },
  arc: {
    reader: planOnly,
    solver: "Think step by step. End with 'Answer: ' and the letter of the right choice.",
    notes: "inline",
    noteTokens: 256,
    answerTokens: 512,
  },
};

/** What a caller puts in place of a suite's prompts. @throws LatentError `ERR_LATENT_INVALID_ARGUMENT` */
export function withPrompts(suite: Suite, prompts: Partial<SuitePrompts>): Suite {
  checkKeys("prompts", prompts, ["reader", "solver", "notes", "noteTokens", "answerTokens"]);
  for (const name of ["reader", "solver"] as const) if (prompts[name] !== undefined) checkString(`prompts.${name}`, prompts[name]);
  const all = { ...suite.prompts, ...prompts };
  checkOneOf("prompts.notes", all.notes, ["message", "inline"]);
  for (const name of ["noteTokens", "answerTokens"] as const) checkInteger(`prompts.${name}`, all[name], 1, 1_000_000);
  return { ...suite, prompts: all };
}

/** What is wrong, with the line. */
export function suiteError(name: string, line: number, what: string, cause?: unknown): LatentError {
  return new LatentError("ERR_LATENT_SUITE_FORMAT", `${name}, line ${line}: ${what}`, {
    details: { line },
    ...(cause !== undefined && { cause }),
  });
}

/**
 * Reads a suite from a file of lines of JSON; see {@link parseSuite}.
 * @throws {@link LatentError} `ERR_LATENT_SUITE_FORMAT`, also when the file cannot be read
 */
export async function readSuite(file: string): Promise<Suite> {
  checkString("file", file);
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (cause) {
    throw new LatentError("ERR_LATENT_SUITE_FORMAT", `cannot read the suite ${file}: ${String(cause)}`, { cause });
  }
  return parseSuite(bytes, path.basename(file));
}

/**
 * A suite from lines of JSON, UTF-8, all of one kind:
 * `{ facts, question, answer | check, id?, group? }`, facts and answer a text or a list of texts;
 * `{ prompt, check, id?, group? }`;
 * `{ question, answer }`, the answer ending in `#### NUMBER`, as GSM8K has them;
 * `{ question, choices, answerKey, id? }`, as ARC has them, in its own form or in that of its tables.
 * @throws {@link LatentError} `ERR_LATENT_SUITE_FORMAT`; `details.line` counts from 1
 */
export function parseSuite(bytes: Uint8Array | string, name = "suite"): Suite {
  const lines = linesOf(bytes, name);
  const seen = new Map<string, number>();
  let kind: LineKind | undefined;
  const items = lines.map((text, i): SuiteItem => {
    const line = i + 1;
    const value = objectOf(text, name, line);
    const found = kindOf(value);
    if (found === undefined)
      throw suiteError(name, line, "an item has facts and a question, a prompt and a check, or the fields of GSM8K or ARC");
    kind ??= found;
    if (found !== kind) throw suiteError(name, line, `an item of kind ${found} in a suite of kind ${kind}`);
    const item = itemOf(found, value, name, line);
    const before = seen.get(item.id);
    if (before !== undefined) throw suiteError(name, line, `the id '${item.id}' is that of line ${before}`);
    seen.set(item.id, line);
    return item;
  });
  if (kind === undefined) throw suiteError(name, 1, "there is no item");
  return makeSuite({ name, kind: kind === "facts" ? "facts" : "prompt", items, prompts: promptsOf[kind] });
}

function linesOf(bytes: Uint8Array | string, name: string): string[] {
  const text = typeof bytes === "string" ? bytes : decode(bytes, name);
  const lines = text.split("\n").map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line));
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

function decode(bytes: Uint8Array, name: string): string {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  try {
    return decoder.decode(bytes);
  } catch (cause) {
    // the line in which the first byte is that is no UTF-8
    let line = 1;
    for (let from = 0; from < bytes.length; line++) {
      const end = bytes.indexOf(10, from);
      const to = end < 0 ? bytes.length : end;
      try {
        decoder.decode(bytes.subarray(from, to));
      } catch {
        break;
      }
      from = to + 1;
    }
    throw suiteError(name, line, "it is no UTF-8", cause);
  }
}

function objectOf(text: string, name: string, line: number): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw suiteError(name, line, text.trim() === "" ? "it is empty" : "it is no JSON", cause);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw suiteError(name, line, "it is no object");
  return value as Readonly<Record<string, unknown>>;
}

function kindOf(value: Readonly<Record<string, unknown>>): LineKind | undefined {
  if (value["facts"] !== undefined) return "facts";
  if (value["prompt"] !== undefined) return "prompt";
  if (isArc(value)) return "arc";
  return isGsm8k(value) ? "gsm8k" : undefined;
}

function itemOf(kind: LineKind, value: Readonly<Record<string, unknown>>, name: string, line: number): SuiteItem {
  try {
    if (kind === "gsm8k") return gsm8kItem(value, line);
    if (kind === "arc") return arcItem(value, line);
    return kind === "facts" ? factsItem(value, line) : promptItem(value, line);
  } catch (error) {
    if (LatentError.isInstance(error)) throw suiteError(name, line, error.message, error);
    throw error;
  }
}

function factsItem(value: Readonly<Record<string, unknown>>, line: number): SuiteItem {
  checkKeys("an item", value, ["id", "group", "facts", "question", "answer", "check", "chance"]);
  if ((value["answer"] === undefined) === (value["check"] === undefined)) throw invalid("an item", "one with an answer or a check", value);
  const facts = value["facts"];
  const text = Array.isArray(facts) ? facts.map((one, i) => filled(`facts[${i}]`, one)).join(" ") : filled("facts", facts);
  const check = checkAnswerCheck("check", value["check"] ?? { equals: value["answer"] });
  return { ...common(value, line, check), facts: text, question: filled("question", value["question"]), check };
}

function promptItem(value: Readonly<Record<string, unknown>>, line: number): SuiteItem {
  checkKeys("an item", value, ["id", "group", "prompt", "check", "chance"]);
  const prompt = filled("prompt", value["prompt"]);
  const check = checkAnswerCheck("check", value["check"]);
  return { ...common(value, line, check), facts: prompt, question: prompt, check };
}

function common(value: Readonly<Record<string, unknown>>, line: number, check: AnswerCheck): Pick<SuiteItem, "id" | "group" | "chance"> {
  const group = value["group"] === undefined ? undefined : checkString("group", value["group"]);
  const chance = value["chance"] === undefined ? chanceOf(check) : checkNumber("chance", value["chance"], 0, 1);
  const id = value["id"] === undefined ? String(line) : checkString("id", value["id"]);
  return { id, ...(group !== undefined && { group }), ...(chance !== undefined && { chance }) };
}

function filled(name: string, value: unknown): string {
  const text = checkString(name, value);
  if (text.trim() === "") throw invalid(name, "a text that is not empty", text);
  return text;
}
