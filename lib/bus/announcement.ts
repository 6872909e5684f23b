// What agents and inboxes say of themselves to everybody on the bus: where they are and what they can use. It lets a sender choose a form before anything
// moves; whether what comes is of use is checked again by the receiver.
import { createHash } from "node:crypto";
import { hostname } from "node:os";
import process from "node:process";
import { checkArray, checkInteger, checkKeys, checkOneOf, checkString, invalid } from "../check.js";
import { kvCodecNames } from "../kv/codec.js";
import type { KvIdentity } from "../kv/identity.js";
import { machineIdentity } from "../kv/shared.js";
import type { Model } from "../models/model.js";
import { Pool } from "../models/pool.js";
import type { Translator } from "../spaces/translator.js";
import { checkName } from "./envelope.js";

/** What a receiver can use. Text it can always use. */
export interface Accepts {
  /** Whose latents it reads: ids of spaces. */
  readonly spaces: readonly string[];
  /** Whose keys and values it continues from: digests of {@link KvIdentity}. */
  readonly kv: readonly string[];
  /** In which codecs keys and values may come, besides as they are. */
  readonly codecs: readonly string[];
  /** The largest content, in bytes. */
  readonly bytes: number;
}

/** Who is there; see {@link Bus.agents}. */
export interface Announcement {
  readonly role: "agent" | "inbox";
  readonly name: string;
  /** Name of the bus that serves it, and where that one listens. */
  readonly bus: string;
  readonly peer: string;
  /** Digests: equal for those who can share memory, and for those who are threads of one process. */
  readonly machine: string;
  readonly process: string;
  readonly accepts: Accepts;
}

/** What decides how few bytes have to move. */
export type Whereabouts = Pick<Announcement, "machine" | "process">;

/** The largest content that a receiver takes unless it says otherwise. */
export const contentBytes = 4 * 2 ** 30;
const listLimit = 256;

export const nothingButText: Accepts = Object.freeze({ spaces: [], kv: [], codecs: [], bytes: contentBytes });

/** What a model or a pool of it can use; `translators` take latents of other spaces over. */
export function acceptsOf(target: Model | Pool, translators: readonly Translator[] = []): Accepts {
  const pool = target instanceof Pool ? target : undefined;
  const model = target instanceof Pool ? target.model : target;
  const taken = translators.filter(({ card }) => card.to?.id === model.space.id).flatMap(({ card }) => card.from?.id ?? []);
  return {
    spaces: [model.space.id, ...taken],
    kv: pool === undefined ? [] : [identityDigest(pool.kvIdentity)],
    codecs: pool === undefined ? [] : kvCodecNames,
    bytes: contentBytes,
  };
}

export function identityDigest(identity: KvIdentity): string {
  const fields = Object.entries(identity).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash("sha256").update(JSON.stringify(fields)).digest("hex");
}

const digestOf = (text: string): string => createHash("sha256").update(text).digest("hex").slice(0, 32);

let machine: string | undefined;
let own: string | undefined;

/** "" where memory is not shared. Digests, because what a machine is called is nobody's business. */
export function ownMachine(): string {
  return (machine ??= machineIdentity() === "" ? "" : digestOf(machineIdentity()));
}

export function ownProcess(): string {
  return (own ??= digestOf(`${machineIdentity()} ${hostname()} ${process.pid}`));
}

export function encodeAnnouncement(announcement: Announcement): string {
  return JSON.stringify({ v: 1, ...announcement });
}

/** Undefined for what is none, or of another version: it is left out, as if it were not there. */
export function decodeAnnouncement(json: string): Announcement | undefined {
  try {
    const value: unknown = JSON.parse(json);
    checkKeys("announcement", value, ["v", "role", "name", "bus", "peer", "machine", "process", "accepts"]);
    const fields = value as Readonly<Record<keyof Announcement | "v", unknown>>;
    checkInteger("v", fields.v, 1, 1);
    return {
      role: checkOneOf("role", fields.role, ["agent", "inbox"]),
      name: checkName("name", fields.name),
      bus: checkName("bus", fields.bus),
      peer: checkName("peer", fields.peer),
      machine: checkString("machine", fields.machine),
      process: checkString("process", fields.process),
      accepts: checkAccepts(fields.accepts),
    };
  } catch {
    return undefined;
  }
}

function checkAccepts(value: unknown): Accepts {
  checkKeys("accepts", value, ["spaces", "kv", "codecs", "bytes"]);
  const fields = value as Readonly<Record<keyof Accepts, unknown>>;
  return {
    spaces: checkTexts("spaces", fields.spaces),
    kv: checkTexts("kv", fields.kv),
    codecs: checkTexts("codecs", fields.codecs),
    bytes: checkInteger("bytes", fields.bytes, 0, Number.MAX_SAFE_INTEGER),
  };
}

function checkTexts(name: string, value: unknown): readonly string[] {
  const list = checkArray(name, value as readonly unknown[]);
  if (list.length > listLimit) throw invalid(name, `at most ${listLimit} texts`, value);
  return list.map((one) => checkString(name, one));
}
