// The head of every message: who, to whom, about what, and where the payload lies. JSON that people can read in a log; what comes from outside is read
// strictly, and nothing of it is used before all of it was checked.
import { checkArray, checkInteger, checkKeys, checkOneOf, checkString, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkClaim, type ContentClaim } from "./claim.js";

/** What a message is for. */
export type MessageKind =
  /** For an inbox or a topic. */
  | "message"
  /** For an agent, which answers with parts and a reply. */
  | "request"
  | "part"
  | "reply"
  /** The requester waits no more. */
  | "cancel"
  /** The requester has heard nothing for a while: say that it is being worked on, or the reply again. */
  | "again"
  /** The receiver has done with a message, or with the content of a reply. */
  | "receipt"
  /** What no reader could use, and why; in the inbox of dead letters. */
  | "dead";

/** What a message says of itself. */
export interface Envelope {
  readonly v: 1;
  readonly id: string;
  readonly kind: MessageKind;
  /** Name of the sender's bus. */
  readonly from: string;
  /** Where the sender hears replies and receipts. */
  readonly peer: string;
  /** The inbox, agent, topic or peer that it is for. */
  readonly to: string;
  readonly conversation: string;
  /** Of messages from this sender to this receiver in this conversation, from 1. */
  readonly sequence: number;
  /** By the sender's clock, in milliseconds since 1970: for people, and for signatures. */
  readonly sentAt: number;
  /** Of no use after so many milliseconds, by the clock of the bus. */
  readonly validForMs?: number;
  /** The message that this one belongs to. */
  readonly about?: string;
  /** The whole content, or what stands for it where the content is of no use. */
  readonly text?: string;
  /** Of the content; the bodies of those that are `inline` stand one after another in the body of the entry. */
  readonly claims?: readonly ContentClaim[];
  /** Why the content travels in this form, in a line. */
  readonly why?: string;
  /** What its maker says of where the content comes from. Decides about nothing. */
  readonly label?: string;
  /** W3C trace context. */
  readonly traceparent?: string;
  /** What the kind adds; checked by who reads it. */
  readonly data?: Readonly<Record<string, unknown>>;
}

const kinds = ["message", "request", "part", "reply", "cancel", "again", "receipt", "dead"] as const;
const required = ["v", "id", "kind", "from", "peer", "to", "conversation", "sequence", "sentAt"] as const;
const optional = ["validForMs", "about", "text", "claims", "why", "label", "traceparent", "data"] as const;
const version = 1;
const nameLimit = 128;
const lineLimit = 1024;
/** The most contents of one message. */
export const mostClaims = 16;
/** The longest text of a message, in bytes of UTF-8. */
export const textLimit = 256 << 10;
export const longestMs = 2 ** 31 - 1;

/** Names of agents, inboxes, topics and buses: they are parts of names of the broker. */
export function checkName(what: string, name: unknown): string {
  const given = checkString(what, name);
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(given)) throw invalid(what, "1 to 64 letters, digits, '_' and '-'", name);
  return given;
}

/** Names within a conversation: any text. */
export function checkConversation(conversation: unknown): string {
  return checkShort("conversation", conversation, nameLimit);
}

/** W3C trace context, version 00. */
export function checkTraceparent(traceparent: unknown): string {
  const given = checkString("traceparent", traceparent);
  if (!/^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/.test(given)) throw invalid("traceparent", "a W3C trace context", traceparent);
  return given;
}

export function checkLine(name: string, line: unknown): string {
  return checkShort(name, line, lineLimit);
}

export function checkText(text: unknown): string {
  const given = checkString("text", text);
  const bytes = Buffer.byteLength(given);
  if (bytes <= textLimit) return given;
  throw new LatentError("ERR_LATENT_BUS_LIMIT", `a text of ${bytes} bytes is longer than ${textLimit}`, {
    details: { bytes, limit: textLimit },
  });
}

function checkShort(name: string, value: unknown, limit: number): string {
  const given = checkString(name, value);
  if (given.length > limit) throw invalid(name, `at most ${limit} characters`, value);
  return given;
}

export function encodeEnvelope(envelope: Envelope): string {
  return JSON.stringify(envelope);
}

/**
 * Reads what {@link encodeEnvelope} wrote, or refuses it.
 * @throws {@link LatentError} `ERR_LATENT_BUS_ENVELOPE`
 */
export function decodeEnvelope(json: string): Envelope {
  try {
    return readEnvelope(JSON.parse(json));
  } catch (cause) {
    if (LatentError.isInstance(cause) && cause.code === "ERR_LATENT_BUS_ENVELOPE") throw cause;
    const why = cause instanceof Error ? cause.message.slice(0, 200) : "";
    throw new LatentError("ERR_LATENT_BUS_ENVELOPE", `this is no envelope: ${why}`, { cause });
  }
}

function readEnvelope(value: unknown): Envelope {
  if (typeof value !== "object" || value === null) throw invalid("the envelope", "an object", value);
  const found: unknown = Reflect.get(value, "v");
  if (typeof found === "number" && Number.isInteger(found) && found > version)
    throw new LatentError("ERR_LATENT_BUS_ENVELOPE", `the envelope is of version ${found}, this side knows ${version}`);
  checkKeys("the envelope", value, [...required, ...optional]);
  const fields = value as Readonly<Record<keyof Envelope, unknown>>;
  checkInteger("v", fields.v, version, version);
  return {
    v: version,
    id: checkShort("id", fields.id, nameLimit),
    kind: checkOneOf("kind", fields.kind, kinds),
    from: checkName("from", fields.from),
    peer: checkName("peer", fields.peer),
    to: checkName("to", fields.to),
    conversation: checkConversation(fields.conversation),
    sequence: checkInteger("sequence", fields.sequence, 0, Number.MAX_SAFE_INTEGER),
    sentAt: checkInteger("sentAt", fields.sentAt, 0, Number.MAX_SAFE_INTEGER),
    ...(fields.validForMs !== undefined && { validForMs: checkInteger("validForMs", fields.validForMs, 0, longestMs) }),
    ...(fields.about !== undefined && { about: checkShort("about", fields.about, nameLimit) }),
    ...(fields.text !== undefined && { text: checkText(fields.text) }),
    ...(fields.claims !== undefined && { claims: checkClaims(fields.claims) }),
    ...(fields.why !== undefined && { why: checkLine("why", fields.why) }),
    ...(fields.label !== undefined && { label: checkLine("label", fields.label) }),
    ...(fields.traceparent !== undefined && { traceparent: checkTraceparent(fields.traceparent) }),
    ...(fields.data !== undefined && { data: checkData(fields.data) }),
  };
}

function checkClaims(claims: unknown): readonly ContentClaim[] {
  const list = checkArray("claims", claims as readonly unknown[]);
  if (list.length > mostClaims) throw invalid("claims", `at most ${mostClaims}`, claims);
  return list.map(checkClaim);
}

function checkData(data: unknown): Readonly<Record<string, unknown>> {
  if (typeof data !== "object" || data === null || Array.isArray(data)) throw invalid("data", "an object", data);
  return data as Record<string, unknown>;
}
