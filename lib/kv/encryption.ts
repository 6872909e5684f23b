// A stream of bytes that only the holder of a key can read: AES-256-GCM in segments, each authenticated before any of it is passed on, in an
// order and with an end that cannot be changed. Keys and values tell the text that they were made from, so they deserve what the text does.
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { LatentError } from "../errors.js";
import { piecesOf, type KvSource } from "./source.js";

const magic = 0x454b574c; // "LWKE"
const version = 1;
const saltBytes = 16;
const headBytes = 8 + saltBytes; // u32 magic, u32 version, salt
const tagBytes = 16;
const segmentBytes = 1 << 20;
const lastSegment = 2 ** 31;

/**
 * The bytes of a source under a key. `decryptKv` has the format: a salt, from which and from the key HKDF-SHA-256 makes the key of this stream alone,
 * then segments of up to 1 MiB.
 * @param key 32 bytes, random: not a password.
 */
export async function* encryptKv(source: KvSource, key: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  const secret = checkKey(key);
  const head = Buffer.alloc(headBytes);
  head.writeUInt32LE(magic, 0);
  head.writeUInt32LE(version, 4);
  randomBytes(saltBytes).copy(head, 8);
  const streamKey = streamKeyOf(secret, head);
  yield head;
  let count = 0;
  const seal = (plain: Uint8Array, last: boolean): Buffer => {
    const size = Buffer.alloc(4);
    size.writeUInt32LE(plain.length + (last ? lastSegment : 0));
    const cipher = createCipheriv("aes-256-gcm", streamKey, nonceOf(count++), { authTagLength: tagBytes });
    cipher.setAAD(size);
    return Buffer.concat([size, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  };
  for await (const piece of piecesOf(source)) {
    for (let at = 0; at < piece.length; at += segmentBytes) {
      yield seal(piece.subarray(at, at + segmentBytes), false);
      await setImmediate();
    }
  }
  yield seal(new Uint8Array(0), true);
}

/**
 * What {@link encryptKv} was given. Rejects before it passes on a byte that is not authentic.
 * @throws {@link LatentError} `ERR_LATENT_KV_AUTH` (another key, or a segment that was changed, moved or left out), `ERR_LATENT_KV_TRUNCATED`,
 * `ERR_LATENT_KV_FORMAT`, `ERR_LATENT_KV_VERSION`, `ERR_LATENT_KV_LIMIT` (a segment of more than 1 MiB)
 */
export async function* decryptKv(source: KvSource, key: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  const secret = checkKey(key);
  const reader = new ExactReader(source);
  try {
    const head = await reader.take(headBytes);
    if (head.readUInt32LE(0) !== magic) throw new LatentError("ERR_LATENT_KV_FORMAT", "not an encrypted KV stream");
    if (head.readUInt32LE(4) !== version)
      throw new LatentError("ERR_LATENT_KV_VERSION", `an encrypted KV stream of version ${head.readUInt32LE(4)}`);
    const streamKey = streamKeyOf(secret, head);
    for (let count = 0, last = false; !last; count++) {
      const size = await reader.take(4);
      const word = size.readUInt32LE(0);
      last = word >= lastSegment;
      const length = last ? word - lastSegment : word;
      if (length > segmentBytes) throw new LatentError("ERR_LATENT_KV_LIMIT", `an encrypted segment of ${length} bytes`);
      const segment = await reader.take(length + tagBytes);
      const cipher = createDecipheriv("aes-256-gcm", streamKey, nonceOf(count), { authTagLength: tagBytes });
      cipher.setAAD(size);
      cipher.setAuthTag(segment.subarray(length));
      const plain = cipher.update(segment.subarray(0, length));
      try {
        cipher.final();
      } catch (cause) {
        throw new LatentError("ERR_LATENT_KV_AUTH", "an encrypted segment is not authentic, or the key is another", { cause });
      }
      if (plain.length > 0) yield plain;
      await setImmediate();
    }
    if (!(await reader.ended())) throw new LatentError("ERR_LATENT_KV_FORMAT", "bytes after the end of the encrypted stream");
  } finally {
    await reader.close();
  }
}

/** Pieces of any size, taken so many bytes at a time. */
class ExactReader {
  readonly #pieces: AsyncGenerator<Uint8Array, void, undefined>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(source: KvSource) {
    this.#pieces = piecesOf(source);
  }

  async take(bytes: number): Promise<Buffer> {
    const out = Buffer.allocUnsafe(bytes);
    for (let filled = 0; filled < bytes;) {
      if (this.#rest.length === 0 && !(await this.#refill()))
        throw new LatentError("ERR_LATENT_KV_TRUNCATED", "the encrypted stream ended before its last segment");
      const part = this.#rest.subarray(0, bytes - filled);
      out.set(part, filled);
      filled += part.length;
      this.#rest = this.#rest.subarray(part.length);
    }
    return out;
  }

  async ended(): Promise<boolean> {
    return this.#rest.length === 0 && !(await this.#refill());
  }

  async close(): Promise<void> {
    await this.#pieces.return();
  }

  async #refill(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const next = await this.#pieces.next();
      if (next.done === true) return false;
      this.#rest = next.value;
    }
    return true;
  }
}

function streamKeyOf(key: Uint8Array, head: Buffer): Buffer {
  return Buffer.from(hkdfSync("sha256", key, head.subarray(8), "latentwire kv encryption 1", 32));
}

// Unique within the stream, whose key is its own.
function nonceOf(count: number): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeBigUInt64LE(BigInt(count));
  return nonce;
}

function checkKey(key: unknown): Uint8Array {
  if (key instanceof Uint8Array && key.length === 32) return key;
  throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "key must be a Uint8Array of 32 bytes");
}
