// NumPy's .npy files, versions 1 to 3: one array of f16, f32 or f64, little-endian, in C order. The header is read as what NumPy writes, not as Python:
// anything else is refused, and its sizes must be those of the file.
import { LatentError } from "../errors.js";
import { Tensor } from "../tensor.js";
import { invalid } from "../check.js";
import { bytesOf, damaged, memorySource, shapeBytes, tensorOf, withFile, writeWhole, type ByteSource, type FileDtype } from "./bytes.js";

const magic = Uint8Array.of(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59); // \x93NUMPY
const mostHeader = 65_536;
const dtypes: Readonly<Record<string, FileDtype>> = { "<f2": "f16", "<f4": "f32", "<f8": "f64" };
const header =
  /^\{\s*'descr':\s*'([^']{1,16})'\s*,\s*'fortran_order':\s*(True|False)\s*,\s*'shape':\s*\(([0-9, ]{0,200})\)\s*,?\s*\}[ \n]*$/;

/**
 * The array of a .npy file as a tensor of f16 or f32; f64 is rounded to f32.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (no such file), `ERR_LATENT_FILE_FORMAT`, `ERR_LATENT_OUT_OF_MEMORY`
 */
export async function readNpy(path: string): Promise<Tensor> {
  return withFile(path, (source) => parse(source, path));
}

/**
 * The same of the bytes of a file.
 * @throws {@link LatentError} `ERR_LATENT_FILE_FORMAT`, `ERR_LATENT_OUT_OF_MEMORY`
 */
export async function parseNpy(bytes: Uint8Array): Promise<Tensor> {
  const given: unknown = bytes;
  if (!(given instanceof Uint8Array)) throw invalid("bytes", "a Uint8Array", given);
  return parse(memorySource(given), "the array");
}

async function parse(source: ByteSource, what: string): Promise<Tensor> {
  const start = await source.read(0, Math.min(source.size, 12));
  if (start.length < 10 || !magic.every((byte, i) => start[i] === byte)) throw damaged(what, "it is no .npy file");
  const view = new DataView(start.buffer);
  const version = view.getUint8(6);
  if (version < 1 || version > 3 || view.getUint8(7) !== 0 || (version > 1 && start.length < 12))
    throw damaged(what, `its version is ${version}.${view.getUint8(7)}`);
  const first = version === 1 ? 10 : 12;
  const length = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > mostHeader || first + length > source.size) throw damaged(what, "its header is cut short");
  const text = Buffer.from(await source.read(first, length)).toString("latin1");
  const [, descr = "", order, extents = ""] = header.exec(text) ?? [];
  if (order === undefined) throw damaged(what, "its header is not one that NumPy writes");
  const dtype = Object.hasOwn(dtypes, descr) ? dtypes[descr] : undefined;
  if (dtype === undefined) throw damaged(what, `its numbers are ${JSON.stringify(descr)}; read are ${Object.keys(dtypes).join(", ")}`);
  if (order === "True") throw damaged(what, "it is in Fortran order; numpy.ascontiguousarray gives C order");
  const shape = parseShape(extents);
  const bytes = shape === undefined ? undefined : shapeBytes(shape, dtype);
  if (shape === undefined || bytes === undefined) throw damaged(what, `its shape is (${extents})`);
  if (first + length + bytes !== source.size)
    throw damaged(what, `a shape of (${extents}) has ${bytes} bytes, there are ${source.size - first - length}`);
  return tensorOf(dtype, shape, await source.read(first + length, bytes));
}

/** `3, 4`, `3,` or nothing at all for a scalar. */
function parseShape(text: string): number[] | undefined {
  const parts = text.split(",").map((part) => part.trim());
  if (parts.at(-1) === "") parts.pop();
  return parts.every((part) => /^\d{1,15}$/.test(part)) ? parts.map(Number) : undefined;
}

/**
 * Writes a tensor of f32 or f16 as a .npy file of version 1. The file appears whole or not at all.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (the path cannot be written), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`
 */
export async function writeNpy(path: string, tensor: Tensor): Promise<void> {
  const given: unknown = tensor;
  if (!(given instanceof Tensor)) throw invalid("tensor", "a Tensor", given);
  if (given.dtype !== "f32" && given.dtype !== "f16")
    throw new LatentError("ERR_LATENT_DTYPE", `a .npy file takes f32 and f16, got ${given.dtype}`);
  const extents = given.shape.length === 1 ? `${given.shape[0] ?? 0},` : given.shape.join(", ");
  const text = `{'descr': '${given.dtype === "f32" ? "<f4" : "<f2"}', 'fortran_order': False, 'shape': (${extents}), }`;
  const padded = Math.ceil((10 + text.length + 1) / 64) * 64;
  const start = Buffer.alloc(padded, " ");
  start.set(magic);
  start.writeUInt16LE(1, 6); // version 1.0
  start.writeUInt16LE(padded - 10, 8);
  start.write(text, 10, "latin1");
  start.write("\n", padded - 1);
  await writeWhole(path, [start, bytesOf(given)]);
}
