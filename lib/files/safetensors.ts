// Safetensors files: named tensors and texts about them. Their header is JSON from a stranger, so all of it is checked: the tensors must cover the rest of
// the file without gaps or overlaps, and nothing is allocated that is not in the file.
import { checkString, invalid } from "../check.js";
import type { LatentError } from "../errors.js";
import { Tensor, type Dtype } from "../tensor.js";
import { bytesOf, damaged, memorySource, shapeBytes, tensorOf, withFile, writeWhole, type ByteSource, type FileDtype } from "./bytes.js";

const mostHeader = 16 * 2 ** 20;
const dtypes: ReadonlyMap<string, FileDtype> = new Map([
  ["F64", "f64"],
  ["F32", "f32"],
  ["F16", "f16"],
  ["BF16", "bf16"],
  ["I8", "i8"],
  ["I32", "i32"],
]);

/** What a safetensors file holds. */
export interface Safetensors {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * All tensors of a safetensors file, of f64 (rounded to f32), f32, f16, bf16, i8 or i32.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (no such file), `ERR_LATENT_FILE_FORMAT`, `ERR_LATENT_OUT_OF_MEMORY`
 */
export async function readSafetensors(path: string): Promise<Safetensors> {
  return withFile(path, (source) => parse(source, path));
}

/**
 * The same of the bytes of a file.
 * @throws {@link LatentError} `ERR_LATENT_FILE_FORMAT`, `ERR_LATENT_OUT_OF_MEMORY`
 */
export async function parseSafetensors(bytes: Uint8Array): Promise<Safetensors> {
  const given: unknown = bytes;
  if (!(given instanceof Uint8Array)) throw invalid("bytes", "a Uint8Array", given);
  return parse(memorySource(given), "the tensors");
}

interface Entry {
  readonly name: string;
  readonly dtype: FileDtype;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

async function parse(source: ByteSource, what: string): Promise<Safetensors> {
  if (source.size < 8) throw damaged(what, "it is cut short");
  const start = await source.read(0, 8);
  const length = new DataView(start.buffer).getBigUint64(0, true);
  if (length > mostHeader || 8 + Number(length) > source.size) throw damaged(what, `its header is said to have ${length} bytes`);
  const first = 8 + Number(length);
  const { entries, metadata } = parseHeader(await source.read(8, Number(length)), what);
  let covered = 0;
  for (const { name, begin, end } of entries) {
    if (begin !== covered) throw damaged(what, `tensor ${JSON.stringify(name)} does not begin where the one before it ends`);
    covered = end;
  }
  if (first + covered !== source.size) throw damaged(what, `its tensors have ${covered} bytes, there are ${source.size - first}`);
  const tensors = new Map<string, Tensor>();
  for (const { name, dtype, shape, begin, end } of entries)
    tensors.set(name, tensorOf(dtype, shape, await source.read(first + begin, end - begin)));
  return { tensors, metadata };
}

function parseHeader(bytes: Uint8Array, what: string): { entries: Entry[]; metadata: Map<string, string> } {
  let header: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.startsWith("{")) throw new Error("it does not begin with {");
    header = JSON.parse(text);
  } catch (error) {
    throw damaged(what, `its header is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  const metadata = new Map<string, string>();
  const entries: Entry[] = [];
  for (const [name, value] of Object.entries(header as object) as [string, unknown][]) {
    if (name !== "__metadata__") {
      entries.push(parseEntry(name, value, what));
      continue;
    }
    if (typeof value !== "object" || value === null) throw damaged(what, "its metadata is no object");
    for (const [key, text] of Object.entries(value) as [string, unknown][]) {
      if (typeof text !== "string") throw damaged(what, `its metadata ${JSON.stringify(key)} is no text`);
      metadata.set(key, text);
    }
  }
  // empty tensors go before what begins where they are
  return { entries: entries.sort((a, b) => a.begin - b.begin || a.end - b.end), metadata };
}

function parseEntry(name: string, value: unknown, what: string): Entry {
  const fail = (reason: string): LatentError => damaged(what, `tensor ${JSON.stringify(name.slice(0, 80))} ${reason}`);
  if (typeof value !== "object" || value === null) throw fail("is no object");
  const code: unknown = Reflect.get(value, "dtype");
  const dtype = typeof code === "string" ? dtypes.get(code) : undefined;
  if (dtype === undefined) throw fail(`has numbers that are not one of ${[...dtypes.keys()].join(", ")}`);
  const shape: unknown = Reflect.get(value, "shape");
  const bytes = isCounts(shape) ? shapeBytes(shape, dtype) : undefined;
  if (!isCounts(shape) || bytes === undefined) throw fail("has no sound shape");
  const offsets: unknown = Reflect.get(value, "data_offsets");
  const [begin, end] = isCounts(offsets) && offsets.length === 2 ? offsets : [];
  if (begin === undefined || end === undefined || end - begin !== bytes) throw fail("has not the bytes of its shape");
  return { name, dtype, shape, begin, end };
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((one) => Number.isSafeInteger(one) && one >= 0);
}

const codes: Readonly<Record<Dtype, string>> = { f32: "F32", f16: "F16", bf16: "BF16", i8: "I8", i32: "I32" };

/**
 * Writes tensors and texts as a safetensors file, in the order of their names: the same content gives the same bytes. The file appears whole or not at
 * all.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (the path cannot be written), `ERR_LATENT_DISPOSED`
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  metadata: ReadonlyMap<string, string> = new Map(),
): Promise<void> {
  await writeWhole(path, safetensorsOf(tensors, metadata));
}

/** @internal The bytes of such a file, in pieces. */
export function safetensorsOf(tensors: ReadonlyMap<string, Tensor>, metadata: ReadonlyMap<string, string>): readonly Uint8Array[] {
  const given: unknown = tensors;
  if (!(given instanceof Map)) throw invalid("tensors", "a Map of tensors by name", given);
  const sorted = [...tensors].sort(([a], [b]) => (a < b ? -1 : 1));
  const texts = [...metadata].sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [key, text] of texts) checkString(`metadata ${key}`, text);
  let offset = 0;
  const header: [string, object][] = texts.length === 0 ? [] : [["__metadata__", Object.fromEntries(texts)]];
  for (const [name, tensor] of sorted) {
    const value: unknown = tensor;
    if (!(value instanceof Tensor) || name === "__metadata__") throw invalid(`tensors ${JSON.stringify(name)}`, "a Tensor", value);
    header.push([name, { dtype: codes[value.dtype], shape: value.shape, data_offsets: [offset, offset + value.byteLength] }]);
    offset += value.byteLength;
  }
  const text = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  const start = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, " ");
  start.writeBigUInt64LE(BigInt(start.length - 8), 0);
  start.set(text, 8);
  return [start, ...sorted.map(([, tensor]) => bytesOf(tensor))];
}
