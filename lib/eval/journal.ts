// The journal of an evaluation: a file with a line for what is evaluated and a line for every item that is done, so that an evaluation which was
// stopped goes on where it was. A last line that was cut off while it was written is taken back.
import { mkdir, open, type FileHandle } from "node:fs/promises";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import { LatentError } from "../errors.js";
import type { ItemRecord } from "./run.js";

/** What decides the answers; an evaluation is resumed under the same settings alone. */
export type EvalSettings = Readonly<Record<string, unknown>>;

/** Made by {@link openJournal}. */
export class Journal {
  readonly #file: FileHandle;

  /** @internal */
  constructor(
    file: FileHandle,
    /** What was there when it was opened. */
    readonly records: readonly ItemRecord[],
  ) {
    this.#file = file;
  }

  /** Writes lines through to the disk. */
  async append(records: readonly ItemRecord[]): Promise<void> {
    await this.#file.appendFile(records.map((record) => `${JSON.stringify(record)}\n`).join(""));
    await this.#file.datasync();
  }

  /** Ends the use of the file; call it once. */
  async close(): Promise<void> {
    await this.#file.close();
  }
}

/**
 * Opens a journal, new or begun. The folder is made.
 * @throws {@link LatentError} `ERR_LATENT_EVAL_RESUME`: the file is no journal, is damaged, or was begun under other settings
 */
export async function openJournal(file: string, settings: EvalSettings): Promise<Journal> {
  const wanted: unknown = JSON.parse(JSON.stringify(settings));
  const first = `${JSON.stringify({ latentwire: "evaluation", version: 1, settings: wanted })}\n`;
  await mkdir(path.dirname(file), { recursive: true });
  const handle = await open(file, "a+");
  try {
    const text = await handle.readFile("utf8");
    const end = text.lastIndexOf("\n") + 1;
    const [head, ...lines] = text.slice(0, end).split("\n").slice(0, -1);
    if (head !== undefined) requireSameSettings(file, head, wanted);
    else if (!first.startsWith(text)) throw resumeError(file, "it is no journal of an evaluation");
    const records = lines.map((line, i) => recordOf(file, line, i + 2));
    // nothing is cut off a file that is not known to be ours
    if (end < text.length) await handle.truncate(Buffer.byteLength(text.slice(0, end)));
    if (head === undefined) await handle.appendFile(first);
    return new Journal(handle, records);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function resumeError(file: string, what: string, cause?: unknown): LatentError {
  return new LatentError("ERR_LATENT_EVAL_RESUME", `${file}: ${what}`, cause === undefined ? {} : { cause });
}

function parse(file: string, line: string, number: number): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw resumeError(file, `line ${number} is damaged`, cause);
  }
}

function requireSameSettings(file: string, head: string, wanted: unknown): void {
  const value = parse(file, head, 1);
  const begun: unknown = typeof value === "object" && value !== null ? Reflect.get(value, "settings") : undefined;
  if (typeof begun !== "object" || begun === null || Reflect.get(value as object, "latentwire") !== "evaluation")
    throw resumeError(file, "it is no journal of an evaluation");
  if (Reflect.get(value as object, "version") !== 1) throw resumeError(file, "it was written by another version");
  const keys = new Set([...Object.keys(begun), ...Object.keys(wanted as object)]);
  const other = [...keys].filter((key) => !isDeepStrictEqual(Reflect.get(begun, key), Reflect.get(wanted as object, key)));
  if (other.length > 0) throw resumeError(file, `it was begun under another setting of ${other.join(", ")}`);
}

const counts = ["prefillTokens", "latentSteps", "decodedTokens", "bytes", "heldBytes", "kvBytes"];

function recordOf(file: string, line: string, number: number): ItemRecord {
  const value = parse(file, line, number);
  if (!isRecord(value)) throw resumeError(file, `line ${number} is no outcome of an item`);
  return value;
}

function isRecord(value: unknown): value is ItemRecord {
  if (typeof value !== "object" || value === null) return false;
  const { id, arms } = value as { readonly id?: unknown; readonly arms?: unknown };
  return typeof id === "string" && typeof arms === "object" && arms !== null && Object.values(arms).every(isOutcome);
}

function isOutcome(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  const field = (name: string): unknown => Reflect.get(value, name);
  const ms = field("ms");
  if (typeof field("answer") !== "string" || typeof field("right") !== "boolean" || typeof ms !== "object" || ms === null) return false;
  return (
    counts.every((name) => Number.isFinite(field(name))) &&
    ["reader", "handOver", "solver"].every((name) => Number.isFinite(Reflect.get(ms, name)))
  );
}
