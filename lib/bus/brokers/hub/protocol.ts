// What a hub and its clients say to each other. The head of a message is one line of JSON, and behind it, if something else travels along, its text: the head
// of an entry, the value of a record. So that text is neither escaped nor parsed on its way.
import { LatentError, latentErrorCodes } from "../../../errors.js";
import type { LatentErrorCode } from "../../../errors.js";
import { nothing } from "./wire.js";
import type { Message } from "./wire.js";

export const protocolVersion = 1;
/** HTTP: what a session is upgraded to, and where. */
export const upgradeName = "latentwire";
export const sessionPath = "/v1/bus";

/** Each side pings this often as long as it takes to be counted as lost. */
export const pingsPerSilence = 3;
export const standardSilentMs = 15_000;
/** Appends of one session that are not confirmed yet, and what each counts beyond its bytes. */
export const appendWindowBytes = 8 << 20;
export const appendOverheadBytes = 512;
/** How long a record of presence may be. */
export const presentBytes = 64 << 10;
/** How many names (readers, subjects, records) one session may have of each kind. */
export const namesOfSession = 4096;

const lineBytes = 12 << 10;

/** The fields of one line. */
export type Fields = Readonly<Record<string, unknown>>;

export interface Said {
  /** What it is. */
  readonly kind: string;
  readonly fields: Fields;
  /** The text behind the line. */
  readonly rest: string;
  readonly body: Uint8Array;
}

export function say(kind: string, fields: Fields = {}, rest = "", body: Uint8Array = nothing): Message {
  const line = JSON.stringify({ kind, ...fields });
  return { head: rest === "" ? line : `${line}\n${rest}`, body };
}

/** @throws LatentError `ERR_LATENT_BUS_ENVELOPE` */
export function understand({ head, body }: Message): Said {
  const end = head.indexOf("\n");
  const line = end < 0 ? head : head.slice(0, end);
  if (line.length > lineBytes) throw misunderstood(`a line of ${line.length} characters`);
  let fields: unknown;
  try {
    fields = JSON.parse(line);
  } catch {
    throw misunderstood("a line that is not JSON");
  }
  if (!isFields(fields)) throw misunderstood("a line that is no object");
  return { kind: textOf(fields, "kind"), fields, rest: end < 0 ? "" : head.slice(end + 1), body };
}

export function textOf(fields: Fields, name: string): string {
  const value = fields[name];
  if (typeof value !== "string") throw misunderstood(`a message without '${name}'`);
  return value;
}

/** A number from 0 to 2^53 - 1; whole if it is not a time. */
export function numberOf(fields: Fields, name: string): number {
  const value = fields[name];
  if (typeof value !== "number" || !(value >= 0 && value <= Number.MAX_SAFE_INTEGER) || (!name.endsWith("Ms") && !Number.isInteger(value)))
    throw misunderstood(`a message without '${name}'`);
  return value;
}

export const misunderstood = (what: string): LatentError =>
  new LatentError("ERR_LATENT_BUS_ENVELOPE", `what came is not of this protocol: ${what}`);

/** The fields of a failure. Only what a {@link LatentError} says leaves this process. */
export function failureOf(error: unknown): Fields {
  if (!LatentError.isInstance(error)) return { code: "ERR_LATENT_BUS_PEER", message: "the hub failed" };
  return { code: error.code, message: error.message.slice(0, 1000) };
}

export function errorOf(fields: Fields): LatentError {
  const given = textOf(fields, "code");
  const code: LatentErrorCode = latentErrorCodes.find((one) => one === given) ?? "ERR_LATENT_BUS_PEER";
  return new LatentError(code, textOf(fields, "message"));
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
