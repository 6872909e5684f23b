// Content in memory that processes of one host share. Node cannot pass open files between processes, so what travels is a small reference: the
// receiver looks into the sender's process, which needs the same user and the same view of processes, and no more rights than a debugger has.
import { readFileSync, readlinkSync } from "node:fs";
import { checkInteger, checkKeys, checkOneOf, checkString, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import type { NativeKvSegment, NativeSegmentName } from "../native-kv.js";

/** Where content lies: a plain object of a few hundred bytes that can go by any channel. Made by {@link KvHandle.share}. */
export interface KvSharedReference extends NativeSegmentName {
  readonly kind: "kv-shared";
  /** Of which machine, and of which view of its processes. */
  readonly machine: string;
  /** Of the segment, 16 bytes in hex. */
  readonly nonce: string;
  /** Who made it, in base64; "" if nobody signed it. */
  readonly signature: string;
}

const fields = ["process", "descriptor", "device", "inode", "bytes"] as const;
const signatureLimit = 4096;

/** Content that other processes of this host can take as long as this is not disposed; who has taken it by then keeps it. */
export class KvShared {
  readonly #segment: NativeKvSegment;
  readonly reference: KvSharedReference;

  /** @internal */
  constructor(segment: NativeKvSegment, machine: string, nonce: Uint8Array, signature: Uint8Array) {
    this.#segment = segment;
    const texts = { nonce: Buffer.from(nonce).toString("hex"), signature: Buffer.from(signature).toString("base64") };
    this.reference = Object.freeze({ kind: "kv-shared", machine, ...segment.name(), ...texts });
  }

  get disposed(): boolean {
    return this.#segment.disposed;
  }

  /** Nobody else can take it from now on. Idempotent. */
  dispose(): void {
    this.#segment.dispose();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @internal */
export interface SegmentPlace {
  readonly machine: string;
  readonly name: NativeSegmentName;
  readonly nonce: Uint8Array;
  readonly signature: Uint8Array;
}

/** @internal Whether it is meant to be a reference, sound or not. */
export function isSharedReference(value: unknown): value is KvSharedReference {
  return typeof value === "object" && value !== null && Reflect.get(value, "kind") === "kv-shared";
}

/** @internal Every field is checked: references come from outside. */
export function placeOf(reference: KvSharedReference): SegmentPlace {
  checkKeys("reference", reference, ["kind", "machine", "nonce", "signature", ...fields]);
  checkOneOf("reference.kind", reference.kind, ["kv-shared"]);
  const number = (name: (typeof fields)[number], low: number, high: number): number =>
    checkInteger(`reference.${name}`, reference[name], low, high);
  return {
    machine: checkString("reference.machine", reference.machine),
    name: {
      process: number("process", 1, 2 ** 31 - 1),
      descriptor: number("descriptor", 0, 2 ** 31 - 1),
      device: number("device", 0, Number.MAX_SAFE_INTEGER),
      inode: number("inode", 0, Number.MAX_SAFE_INTEGER),
      bytes: number("bytes", 1, Number.MAX_SAFE_INTEGER),
    },
    nonce: checkNonce(reference.nonce),
    signature: checkSignature(reference.signature),
  };
}

/** @internal */
export function checkNonce(nonce: unknown): Uint8Array {
  const text = checkString("reference.nonce", nonce);
  if (!/^[0-9a-f]{32}$/.test(text)) throw invalid("reference.nonce", "16 bytes in hex", text);
  return Buffer.from(text, "hex");
}

/** @internal */
export function checkSignature(signature: unknown): Uint8Array {
  const text = checkString("reference.signature", signature);
  const bytes = Buffer.from(text, "base64");
  if (bytes.length > signatureLimit || bytes.toString("base64") !== text)
    throw invalid("reference.signature", `at most ${signatureLimit} bytes in base64`, text);
  return bytes;
}

let here: string | undefined;

/**
 * @internal What two processes have in common that can look into each other: the start of the kernel and the numbering of processes. "" where
 * memory is not shared.
 */
export function machineIdentity(): string {
  here ??= readIdentity();
  return here;
}

function readIdentity(): string {
  try {
    return `${readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim()} ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return "";
  }
}

/** @internal @throws {@link LatentError} `ERR_LATENT_KV_UNREACHABLE` */
export function requireSameMachine(machine: string): void {
  const own = machineIdentity();
  if (own === "") throw new LatentError("ERR_LATENT_KV_UNREACHABLE", "memory is shared between processes on Linux only");
  if (machine !== own) throw new LatentError("ERR_LATENT_KV_UNREACHABLE", "it lies in the memory of another machine or container");
}
