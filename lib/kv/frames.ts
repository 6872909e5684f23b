// What the two ends of a link say to each other, as frames: u32 bytes of the payload, u8 kind, payload; little-endian. Payloads are bounded before
// they are waited for, and read strictly: a message is exactly what this file knows, or an error.
import { checkBoolean, checkInteger, checkKeys, checkString } from "../check.js";
import { LatentError } from "../errors.js";
import { devicePlaceOf, isDeviceReference, type DeviceKvReference } from "./device-kv.js";
import { placeOf, type KvSharedReference } from "./shared.js";

export const linkVersion = 2;

export type LinkMessage =
  /**
   * The receiver: where it is, whether it takes content on the GPU, what it has (`held`, a bit a record), how many bytes of records may be on their way,
   * the longest silence that it bears.
   */
  | {
      readonly kind: "hello";
      readonly machine: string;
      readonly device: boolean;
      readonly held: Uint8Array;
      readonly windowBytes: number;
      readonly idleMs: number;
    }
  /** The receiver, instead of all that: it took this content before. */
  | { readonly kind: "again" }
  /** The sender: where the content lies, or that records follow, and why not the former. */
  | { readonly kind: "share"; readonly idleMs: number; readonly reference: KvSharedReference | DeviceKvReference }
  | { readonly kind: "stream"; readonly idleMs: number; readonly why: string }
  /** The receiver: shared memory does not reach it. */
  | { readonly kind: "decline"; readonly why: string }
  | { readonly kind: "data"; readonly bytes: Uint8Array }
  | { readonly kind: "end" }
  /** The receiver: so many bytes more may follow. */
  | { readonly kind: "credit"; readonly bytes: number }
  /** Either: still there. */
  | { readonly kind: "beat" }
  /** The receiver has the content; the sender has heard it. */
  | { readonly kind: "taken" }
  | { readonly kind: "done" }
  /** Either: it ends here, and why. `code` is "" for what is no error of this package. */
  | { readonly kind: "failed"; readonly code: string; readonly message: string };

export type LinkKind = LinkMessage["kind"];

/** Bytes of the head of a frame. */
export const headBytes = 5;
/** The largest payload of `data`. */
export const dataBytes = 256 << 10;
/** The smallest window that a receiver may have. */
export const leastWindow = 64 << 10;
const textLimit = 1000;

/** In the order of their numbers on the wire, from 1 on; the most bytes of each. */
const kinds: readonly (readonly [LinkKind, number])[] = [
  // a bit for each of 8 million records
  ["hello", 2 << 20],
  ["again", 64],
  ["share", 16 << 10],
  ["stream", 8 << 10],
  ["decline", 8 << 10],
  ["data", dataBytes],
  ["end", 0],
  ["credit", 64],
  ["beat", 0],
  ["taken", 0],
  ["done", 0],
  ["failed", 8 << 10],
];

/** The frame of a message, in one or two pieces. */
export function framesOf(message: LinkMessage): readonly Uint8Array[] {
  const payload = payloadOf(message);
  const head = Buffer.alloc(headBytes);
  head.writeUInt32LE(payload.length, 0);
  head.writeUInt8(kinds.findIndex(([kind]) => kind === message.kind) + 1, 4);
  return payload.length === 0 ? [head] : [head, payload];
}

function payloadOf(message: LinkMessage): Uint8Array {
  const { kind: _kind, ...rest } = message;
  switch (message.kind) {
    case "data":
      return message.bytes;
    case "end":
    case "beat":
    case "taken":
    case "done":
      return new Uint8Array(0);
    case "hello":
      return json({ version: linkVersion, ...rest, held: Buffer.from(message.held).toString("base64") });
    case "again":
      return json({ version: linkVersion });
    case "stream":
    case "decline":
      return json({ ...rest, why: message.why.slice(0, textLimit) });
    case "failed":
      return json({ ...rest, message: message.message.slice(0, textLimit) });
    default:
      return json(rest);
  }
}

const json = (value: object): Buffer => Buffer.from(JSON.stringify(value));

/** What follows a head of {@link headBytes} bytes. @throws {@link LatentError} `ERR_LATENT_KV_FORMAT` */
export function readHead(head: Uint8Array): { readonly kind: LinkKind; readonly bytes: number } {
  const view = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  const bytes = view.readUInt32LE(0);
  const known = kinds[view.readUInt8(4) - 1];
  if (known === undefined) throw malformed(`a message of the unknown kind ${view.readUInt8(4)}`);
  const [kind, most] = known;
  if (bytes > most) throw malformed(`a message '${kind}' of ${bytes} bytes`);
  return { kind, bytes };
}

/** @throws {@link LatentError} `ERR_LATENT_KV_FORMAT`, `ERR_LATENT_KV_VERSION` */
export function readPayload(kind: LinkKind, payload: Uint8Array): LinkMessage {
  switch (kind) {
    case "data":
      if (payload.length === 0) throw malformed("data without bytes");
      return { kind, bytes: payload };
    case "end":
    case "beat":
    case "taken":
    case "done":
      return { kind };
    default:
      return readFields(kind, fieldsOf(kind, payload));
  }
}

function fieldsOf(kind: LinkKind, payload: Uint8Array): object {
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  } catch {
    // said below
  }
  throw malformed(`a message '${kind}' that is no object`);
}

type FieldKind = Exclude<LinkKind, "data" | "end" | "beat" | "taken" | "done">;

function readFields(kind: FieldKind, fields: object): LinkMessage {
  const field = (name: string): unknown => Reflect.get(fields, name);
  const has = (...names: string[]): void => {
    checkKeys(kind, fields, names);
  };
  const text = (name: string): string => checkString(name, field(name)).slice(0, textLimit);
  const idleMs = (): number => checkInteger("idleMs", field("idleMs"), 0, 2 ** 31 - 1);
  try {
    switch (kind) {
      case "hello":
        requireVersion(field("version"));
        has("version", "machine", "device", "held", "windowBytes", "idleMs");
        return {
          kind,
          machine: text("machine"),
          device: checkBoolean("device", field("device")),
          held: base64(checkString("held", field("held"))),
          windowBytes: checkInteger("windowBytes", field("windowBytes"), leastWindow, Number.MAX_SAFE_INTEGER),
          idleMs: idleMs(),
        };
      case "again":
        requireVersion(field("version"));
        has("version");
        return { kind };
      case "share": {
        has("idleMs", "reference");
        const reference = field("reference") as KvSharedReference | DeviceKvReference;
        if (isDeviceReference(reference)) devicePlaceOf(reference);
        else placeOf(reference);
        return { kind, idleMs: idleMs(), reference };
      }
      case "stream":
        has("idleMs", "why");
        return { kind, idleMs: idleMs(), why: text("why") };
      case "decline":
        has("why");
        return { kind, why: text("why") };
      case "credit":
        has("bytes");
        return { kind, bytes: checkInteger("bytes", field("bytes"), 1, Number.MAX_SAFE_INTEGER) };
      case "failed":
        has("code", "message");
        return { kind, code: text("code"), message: text("message") };
    }
  } catch (error) {
    if (LatentError.isInstance(error) && error.code === "ERR_LATENT_INVALID_ARGUMENT")
      throw malformed(`a message '${kind}' with other fields: ${error.message}`);
    throw error;
  }
}

function requireVersion(version: unknown): void {
  if (checkInteger("version", version, 1, 2 ** 31 - 1) !== linkVersion)
    throw new LatentError(
      "ERR_LATENT_KV_VERSION",
      `the other side speaks version ${String(version)} of links, this package version ${linkVersion}`,
    );
}

function base64(text: string): Uint8Array {
  const bytes = Buffer.from(text, "base64");
  if (bytes.toString("base64") !== text) throw malformed("a message with other bytes than base64");
  return bytes;
}

export function malformed(what: string): LatentError {
  return new LatentError("ERR_LATENT_KV_FORMAT", `on the link came ${what}`, {
    hint: "Both ends must be of this package: one sends with sendKv, the other one receives.",
  });
}
