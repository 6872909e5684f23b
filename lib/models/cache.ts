// Results that are slow to compute and follow from a file alone, kept under the user's cache folder. Every entry carries a digest: one that was cut
// off or altered is computed again, never used.
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import path from "node:path";

const magic = "LWCACHE1";
const digestBytes = 32;

/** `$XDG_CACHE_HOME/latentwire`, or `~/.cache/latentwire`. */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const base = environment["XDG_CACHE_HOME"];
  return path.join(base !== undefined && path.isAbsolute(base) ? base : path.join(homedir(), ".cache"), "latentwire");
}

/** The bytes stored under `name`, or undefined if there are none or they are damaged. */
export async function readCache(name: string): Promise<Buffer | undefined> {
  let file: Buffer;
  try {
    file = await readFile(path.join(cacheFolder(), name));
  } catch {
    return undefined;
  }
  const header = magic.length + digestBytes;
  if (file.length < header || file.toString("latin1", 0, magic.length) !== magic) return undefined;
  const body = file.subarray(header);
  const digest = createHash("sha256").update(body).digest();
  return digest.equals(file.subarray(magic.length, header)) ? body : undefined;
}

/** Stores bytes so that a reader sees all of them or none. A cache that cannot be written is no error: the result is computed again next time. */
export async function writeCache(name: string, body: Uint8Array): Promise<void> {
  const target = path.join(cacheFolder(), name);
  const temporary = `${target}.${randomUUID()}`;
  try {
    await mkdir(path.dirname(target), { recursive: true, mode: 0o700 });
    await writeFile(temporary, [Buffer.from(magic, "latin1"), createHash("sha256").update(body).digest(), body], { mode: 0o600 });
    await rename(temporary, target);
  } catch {
    await rm(temporary, { force: true }).catch(() => undefined);
  }
}
