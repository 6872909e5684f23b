// Rows of numbers that commands read: `rows.npy`, `rows.safetensors` with one tensor in it, or `many.safetensors#name`.
import { invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { readNpy } from "../files/npy.js";
import { readSafetensors } from "../files/safetensors.js";
import type { Tensor } from "../tensor.js";

export async function readRows(file: string): Promise<Tensor> {
  const tensor = await readTensor(file);
  if (tensor.shape.length !== 2)
    throw new LatentError("ERR_LATENT_FILE_FORMAT", `${file}: rows have a shape [n, d], got [${tensor.shape.join(", ")}]`);
  return tensor;
}

async function readTensor(file: string): Promise<Tensor> {
  const [path = "", name] = file.split("#");
  if (path.endsWith(".npy")) return readNpy(path);
  if (!path.endsWith(".safetensors")) throw invalid("the file", "a .npy or .safetensors file", file);
  const { tensors } = await readSafetensors(path);
  const names = [...tensors.keys()];
  const wanted = name ?? (names.length === 1 ? names[0] : undefined);
  const found = wanted === undefined ? undefined : tensors.get(wanted);
  for (const tensor of tensors.values()) if (tensor !== found) tensor.dispose();
  if (found === undefined) throw invalid("the tensor", `one of ${names.map((one) => `${path}#${one}`).join(", ")}`, file);
  return found;
}

/** Two files. */
export async function readPair(files: readonly string[]): Promise<[Tensor, Tensor]> {
  const [a, b, another] = files;
  if (a === undefined || b === undefined || another !== undefined)
    throw invalid("the files", "two: rows of A and rows of B", files.join(" "));
  return [await readRows(a), await readRows(b)];
}
