// The names of stored chunks: a hash over everything that their keys and values depend on, each built on the name of the chunk before it. Equal
// names mean equal content; a chunk whose name is known was preceded by exactly the chunks whose names lead to it.
import { createHash } from "node:crypto";
import type { KvFormat } from "./handle.js";
import type { KvIdentity } from "./identity.js";

/** Positions of a stored chunk: those of a chunk of the stream, so that a stored chunk is whole tiles. */
export const chunkPositions = 256;

/**
 * What the first name builds on. The number format is part of it, so that an answer does not depend on which pool came first; the salt is, so that
 * whoever does not know it finds nothing.
 */
export function chainRoot(identity: KvIdentity, format: KvFormat, salt: string): Buffer {
  const fields = ["latentwire chunk 1", "positions from 0", format, salt, ...Object.entries(identity).flat()];
  return sha256(Buffer.from(JSON.stringify(fields), "utf8"));
}

/** The names of the whole chunks of `tokens`, in hex: h(i) = SHA-256(h(i - 1), the token ids of chunk i as i32). */
export function chainKeys(root: Buffer, tokens: Int32Array): readonly string[] {
  const keys: string[] = [];
  let last = root;
  for (let from = 0; from + chunkPositions <= tokens.length; from += chunkPositions) {
    const chunk = tokens.subarray(from, from + chunkPositions);
    last = sha256(last, new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength));
    keys.push(last.toString("hex"));
  }
  return keys;
}

/** How the share of a store that belongs to a salt is called, without telling the salt. */
export function tenantOf(salt: string): string {
  return sha256(Buffer.from(JSON.stringify(["latentwire tenant 1", salt]), "utf8"))
    .subarray(0, 8)
    .toString("hex");
}

function sha256(...parts: readonly Uint8Array[]): Buffer {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}
