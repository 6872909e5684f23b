// What can be set of a bus, checked once.
import { checkArray, checkBoolean, checkInteger, checkKeys, checkString, fallback, invalid } from "../check.js";
import { randomBytes } from "node:crypto";
import type { KvCodecChoice } from "../kv/codec.js";
import type { KvSigner } from "../kv/signature.js";
import { Translator } from "../spaces/translator.js";
import { entryBytes } from "./brokers/broker.js";
import { checkName, longestMs } from "./envelope.js";
import type { BusTrust } from "./notary.js";

/** Options of {@link connect} that are the same for every kind of bus. */
export interface BusSettings {
  /** Who this side is to others: letters, digits, `_` and `-`. Default: a random name. */
  readonly name?: string;
  /** Sign everything that is sent, keys and values too. `validForMs`: so long a receiver believes it, by the clocks of both; default an hour. */
  readonly sign?: Omit<KvSigner, "context">;
  /** Believe only what the key of the bus that it names has signed; who is not in it cannot send. Default: believe what comes. */
  readonly trust?: BusTrust;
  /** Take messages from these buses only, and content of these spaces only (ids; of keys and values the model's `weights`). Default: from all, of all. */
  readonly allow?: { readonly peers?: readonly string[]; readonly spaces?: readonly string[] };
  /** Part of all content that is kept on the bus: who has another salt cannot find it by its digest, or learn that it is there. Default: none. */
  readonly salt?: string;
  /** Take over latents for receivers of other spaces. The caller disposes them. Default: none. */
  readonly translators?: readonly Translator[];
  /** In which codec keys and values travel where they are sent as a stream. Default: as they are. */
  readonly codec?: KvCodecChoice;
  /** Default true: share memory with receivers on this machine. */
  readonly sharedMemory?: boolean;
  /** Latents of at most so many bytes go along with their message. Default 256 KiB, at most 512 KiB. */
  readonly inlineBytes?: number;
  /** How many bytes of content this side keeps at most for receivers that have not taken it; then sending waits. Default 1 GiB. */
  readonly windowBytes?: number;
  /** How long content is kept for a receiver, in milliseconds. Default ten minutes. */
  readonly keptMs?: number;
}

/** @internal */
export interface BusOptions {
  readonly name: string;
  readonly sign: Omit<KvSigner, "context"> | undefined;
  readonly trust: BusTrust | undefined;
  readonly allow: { readonly peers: readonly string[] | undefined; readonly spaces: readonly string[] | undefined };
  readonly salt: string | undefined;
  readonly translators: readonly Translator[];
  readonly codec: KvCodecChoice | undefined;
  readonly sharedMemory: boolean;
  readonly inlineBytes: number;
  readonly windowBytes: number;
  readonly keptMs: number;
}

/** @internal */
export const busSettings = [
  "name",
  "sign",
  "trust",
  "allow",
  "salt",
  "translators",
  "codec",
  "sharedMemory",
  "inlineBytes",
  "windowBytes",
  "keptMs",
] as const;

const mostInline = 512 << 10;

/** @internal */
export function checkBusSettings(settings: BusSettings): BusOptions {
  const allow = fallback(settings.allow, {});
  checkKeys("allow", allow, ["peers", "spaces"]);
  const translators = checkArray("translators", fallback(settings.translators, []));
  for (const one of translators as readonly unknown[]) {
    if (!(one instanceof Translator)) throw invalid("translators", "an array of Translators", one);
  }
  return {
    name: settings.name === undefined ? `bus-${randomBytes(6).toString("hex")}` : checkName("name", settings.name),
    sign: settings.sign,
    trust: settings.trust,
    allow: { peers: checkList("allow.peers", allow.peers), spaces: checkList("allow.spaces", allow.spaces) },
    salt: settings.salt === undefined ? undefined : checkString("salt", settings.salt),
    translators,
    codec: settings.codec,
    sharedMemory: checkBoolean("sharedMemory", fallback(settings.sharedMemory, true)),
    inlineBytes: checkInteger("inlineBytes", fallback(settings.inlineBytes, 256 << 10), 0, Math.min(mostInline, entryBytes)),
    windowBytes: checkInteger("windowBytes", fallback(settings.windowBytes, 1 << 30), 0, Number.MAX_SAFE_INTEGER),
    keptMs: checkInteger("keptMs", fallback(settings.keptMs, 600_000), 1, longestMs),
  };
}

function checkList(name: string, list: readonly string[] | undefined): readonly string[] | undefined {
  return list === undefined ? undefined : checkArray(name, list).map((one) => checkString(name, one));
}
