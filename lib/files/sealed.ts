// Safetensors files of fitted objects, with a digest of all that they say: a map with one wrong bit would translate everything a little wrong, and nobody
// would notice.
import { LatentError } from "../errors.js";
import { blake3, digest128 } from "../kernels/statistics.js";
import type { Tensor } from "../tensor.js";
import { damaged } from "./bytes.js";
import { readSafetensors, writeSafetensors, type Safetensors } from "./safetensors.js";

/** BLAKE3 over the texts, and over names, types, shapes and digests of the tensors, in the order of their names. */
function sealOf(tensors: ReadonlyMap<string, Tensor>, metadata: ReadonlyMap<string, string>): string {
  const sorted = <T>(map: ReadonlyMap<string, T>): [string, T][] => [...map].sort(([a], [b]) => (a < b ? -1 : 1));
  const facts = sorted(tensors).map(([name, tensor]) => [name, tensor.dtype, tensor.shape, digest128(tensor)]);
  return blake3(Buffer.from(JSON.stringify([sorted(metadata), facts])));
}

/** Writes an object of a named format; the file appears whole or not at all. */
export async function writeSealed(
  path: string,
  format: string,
  tensors: ReadonlyMap<string, Tensor>,
  metadata: ReadonlyMap<string, string>,
): Promise<void> {
  const texts = new Map([...metadata, ["format", format]]);
  await writeSafetensors(path, tensors, new Map([...texts, ["seal", sealOf(tensors, texts)]]));
}

/** Reads what {@link writeSealed} wrote, or fails with ERR_LATENT_FILE_FORMAT. */
export async function readSealed(path: string, format: string): Promise<Safetensors> {
  const { tensors, metadata } = await readSafetensors(path);
  const texts = new Map(metadata);
  const seal = texts.get("seal");
  texts.delete("seal");
  try {
    if (texts.get("format") !== format) throw damaged(path, `it is not a ${format}`);
    if (seal !== sealOf(tensors, texts)) throw damaged(path, "it was changed or damaged: its seal is that of something else");
    return { tensors, metadata: texts };
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    throw error;
  }
}

/** What is thrown for content that is sealed and still not sound: it was written so. */
export function unsound(path: string, cause: unknown): LatentError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new LatentError("ERR_LATENT_FILE_FORMAT", `${path}: it is unsound: ${reason}`, { cause });
}
