// Who made a stream of keys and values. The signature covers its seal, a BLAKE3 digest of every record, and says what the stream is for and
// until when; a stream that was recorded and is played again later, or to somebody else, does not pass.
import { createHmac, createSecretKey, KeyObject, sign as signWithKey, timingSafeEqual, verify as verifyWithKey } from "node:crypto";
import { checkInteger, checkKeys, checkString, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";

/** What {@link KvHandle.records} signs with. */
export interface KvSigner {
  /** A secret of 16 bytes or more (HMAC-SHA-256), or a private Ed25519 key. */
  readonly key: Uint8Array | KeyObject;
  /** What the stream is for: a tenant, a request, a number that the receiver drew. At most 1024 bytes of UTF-8. Default "". */
  readonly context?: string;
  /** For how long it is valid, in milliseconds from now. Default an hour. */
  readonly validForMs?: number;
}

/** What a receiver asks of a stream before it gives its content away. */
export interface KvVerifier {
  /** Those who may have signed: secrets of 16 bytes or more (HMAC-SHA-256), or public Ed25519 keys. */
  readonly keys: readonly (Uint8Array | KeyObject)[];
  /** Must be that of the signer. Default "". */
  readonly context?: string;
}

const algorithms = { hmac: 1, ed25519: 2 } as const;
type Algorithm = (typeof algorithms)[keyof typeof algorithms];

interface Key {
  readonly object: KeyObject;
  readonly algorithm: Algorithm;
}

const fixedBytes = 11; // u8 algorithm, u64 expiry in milliseconds, u16 length of the context
const contextLimit = 1024;
const purpose = Buffer.from("latentwire kv signature 1\n");

/** @internal Checks the options at once, and signs later. */
export function signerOf(options: KvSigner): (seal: Uint8Array) => Uint8Array {
  checkKeys("sign", options, ["key", "context", "validForMs"]);
  const { object, algorithm } = keyOf("sign.key", options.key, "private");
  const context = contextOf(options.context);
  const validForMs = checkInteger("sign.validForMs", fallback(options.validForMs, 3_600_000), 1, 2 ** 48);
  return (seal) => {
    const expires = Date.now() + validForMs;
    const message = messageOf(seal, algorithm, BigInt(expires), context);
    const signature =
      algorithm === algorithms.hmac ? createHmac("sha256", object).update(message).digest() : signWithKey(null, message, object);
    const fixed = Buffer.alloc(fixedBytes);
    fixed.writeUInt8(algorithm, 0);
    fixed.writeBigUInt64LE(BigInt(expires), 1);
    fixed.writeUInt16LE(context.length, 9);
    return Buffer.concat([fixed, context, signature]);
  };
}

/**
 * @internal Throws unless one of the keys has signed this seal.
 * @throws {@link LatentError} `ERR_LATENT_KV_AUTH`
 */
export function verifierOf(options: KvVerifier): (seal: Uint8Array, signature: Uint8Array) => void {
  checkKeys("verify", options, ["keys", "context"]);
  if (!Array.isArray(options.keys) || options.keys.length === 0) throw invalid("verify.keys", "an array of at least one key", options.keys);
  const keys = options.keys.map((key) => keyOf("verify.keys", key, "public"));
  const wanted = contextOf(options.context);
  return (seal, bytes) => {
    if (bytes.length === 0) throw refused("the stream is not signed");
    const signature = Buffer.from(bytes);
    if (signature.length < fixedBytes) throw refused("the signature is cut off");
    const algorithm = signature.readUInt8(0);
    const expires = signature.readBigUInt64LE(1);
    const contextBytes = signature.readUInt16LE(9);
    const context = signature.subarray(fixedBytes, fixedBytes + contextBytes);
    const mark = signature.subarray(fixedBytes + contextBytes);
    const message = messageOf(seal, algorithm, expires, context);
    if (!keys.some((key) => key.algorithm === algorithm && holds(key, message, mark)))
      throw refused("none of the keys has signed this content");
    if (!context.equals(wanted)) throw refused("it was signed for something else");
    if (BigInt(Date.now()) >= expires) throw refused("its signature has expired");
  };
}

function holds({ object, algorithm }: Key, message: Buffer, mark: Buffer): boolean {
  if (algorithm === algorithms.ed25519) return verifyWithKey(null, message, object, mark);
  const own = createHmac("sha256", object).update(message).digest();
  return own.length === mark.length && timingSafeEqual(own, mark);
}

function messageOf(seal: Uint8Array, algorithm: number, expires: bigint, context: Buffer): Buffer {
  const fixed = Buffer.alloc(9);
  fixed.writeUInt8(algorithm, 0);
  fixed.writeBigUInt64LE(expires, 1);
  return Buffer.concat([purpose, seal, fixed, context]);
}

function keyOf(name: string, key: unknown, type: "private" | "public"): Key {
  // the text of a key in PEM, often of a public one, is no secret
  const isText = key instanceof Uint8Array && Buffer.from(key.subarray(0, 10)).toString("latin1") === "-----BEGIN";
  const object = key instanceof Uint8Array && !isText ? createSecretKey(key) : key;
  if (object instanceof KeyObject) {
    if (object.type === "secret" && (object.symmetricKeySize ?? 0) >= 16) return { object, algorithm: algorithms.hmac };
    if (object.type === type && object.asymmetricKeyType === "ed25519") return { object, algorithm: algorithms.ed25519 };
  }
  throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${name} must be a secret of 16 bytes or more, or a ${type} Ed25519 key`);
}

function contextOf(context: string | undefined): Buffer {
  const bytes = Buffer.from(checkString("context", fallback(context, "")));
  if (bytes.length > contextLimit) throw invalid("context", `at most ${contextLimit} bytes`, context);
  return bytes;
}

const refused = (why: string): LatentError => new LatentError("ERR_LATENT_KV_AUTH", why);
