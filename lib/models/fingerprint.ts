// The identity of a model: SHA-256 over its whole file (header, tensor table, tensor data). Streamed, so that the event loop stays free, and cached
// by device, inode, size and time of change.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { LatentError } from "../errors.js";
import { readCache, writeCache } from "./cache.js";

const chunk = 1 << 20;

/**
 * @param onProgress ratio 0..1
 * @returns 64 hex digits
 * @throws {@link LatentError} `ERR_LATENT_MODEL_NOT_FOUND`
 */
export async function fingerprintFile(path: string, signal?: AbortSignal, onProgress?: (ratio: number) => void): Promise<string> {
  let facts;
  try {
    facts = await stat(path, { bigint: true });
  } catch (cause) {
    throw new LatentError("ERR_LATENT_MODEL_NOT_FOUND", `cannot read ${path}`, { cause });
  }
  const key = createHash("sha256").update(`${facts.dev}:${facts.ino}:${facts.size}:${facts.mtimeNs}`).digest("hex");
  const known = await readCache(`fingerprints/${key}`);
  if (known !== undefined) return known.toString("latin1");

  const hash = createHash("sha256");
  const total = Number(facts.size);
  let done = 0;
  for await (const piece of createReadStream(path, { highWaterMark: chunk, signal }) as AsyncIterable<Buffer>) {
    hash.update(piece);
    done += piece.length;
    onProgress?.(total === 0 ? 1 : done / total);
  }
  const digest = hash.digest("hex");
  await writeCache(`fingerprints/${key}`, Buffer.from(digest, "latin1"));
  return digest;
}
