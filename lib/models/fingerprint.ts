// The identity of a model: SHA-256 over its whole file (header, tensor table, tensor data). Streamed, so that the event loop stays free, and cached
// by device, inode, size and time of change.
import { createHash } from "node:crypto";
import { open, stat } from "node:fs/promises";
import { LatentError } from "../errors.js";
import { readCache, writeCache } from "./cache.js";

const chunk = 1 << 20;

/**
 * @param onProgress ratio 0..1
 * @returns 64 hex digits
 * @throws {@link LatentError} `ERR_LATENT_MODEL_NOT_FOUND`; `signal.reason` when aborted
 */
export async function fingerprintFile(path: string, signal?: AbortSignal, onProgress?: (ratio: number) => void): Promise<string> {
  let facts;
  try {
    facts = await stat(path, { bigint: true });
  } catch (cause) {
    throw new LatentError("ERR_LATENT_MODEL_NOT_FOUND", `cannot read ${path}`, { cause });
  }
  if (!facts.isFile()) throw new LatentError("ERR_LATENT_MODEL_NOT_FOUND", `${path} is not a file`);
  const key = createHash("sha256").update(`${facts.dev}:${facts.ino}:${facts.size}:${facts.mtimeNs}`).digest("hex");
  const known = await readCache(`fingerprints/${key}`);
  if (known !== undefined) return known.toString("latin1");

  const hash = createHash("sha256");
  const total = Number(facts.size);
  let done = 0;
  try {
    await using file = await open(path);
    const buffer = Buffer.allocUnsafe(chunk);
    for (;;) {
      signal?.throwIfAborted();
      const { bytesRead } = await file.read(buffer, 0, chunk);
      if (bytesRead === 0) break;
      hash.update(buffer.subarray(0, bytesRead));
      done += bytesRead;
      onProgress?.(done / total);
    }
  } catch (error) {
    // the signal's reason and errors of a listener stay what they are
    if (!(error instanceof Error) || !("syscall" in error)) throw error;
    throw new LatentError("ERR_LATENT_MODEL_NOT_FOUND", `cannot read ${path}`, { cause: error });
  }
  const digest = hash.digest("hex");
  await writeCache(`fingerprints/${key}`, Buffer.from(digest, "latin1"));
  return digest;
}
