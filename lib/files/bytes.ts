// What the readers of files have in common: a file as its size and pieces of it, numbers as the tensors that they become, and writing that never leaves
// half a file.
import { randomUUID } from "node:crypto";
import { open, rename, rm, type FileHandle } from "node:fs/promises";
import { checkString } from "../check.js";
import { LatentError } from "../errors.js";
import { Tensor, type Dtype } from "../tensor.js";

export function damaged(what: string, reason: string): LatentError {
  return new LatentError("ERR_LATENT_FILE_FORMAT", `${what}: ${reason}`);
}

/** Bytes that can be read in pieces: a file, or memory. */
export interface ByteSource {
  readonly size: number;
  /** Exactly `length` bytes from `offset`, which the caller knows to be inside, in memory of their own. */
  read(offset: number, length: number): Promise<Uint8Array>;
}

export function memorySource(bytes: Uint8Array): ByteSource {
  // a Buffer's own slice would share its memory
  return { size: bytes.byteLength, read: (offset, length) => Promise.resolve(new Uint8Array(bytes.subarray(offset, offset + length))) };
}

async function openFile(path: string, flags: string): Promise<FileHandle> {
  try {
    return await open(path, flags);
  } catch (cause) {
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `cannot open ${path}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}

/** Calls `use` with the file at `path`, and closes it. */
export async function withFile<T>(path: string, use: (source: ByteSource) => Promise<T>): Promise<T> {
  const file = await openFile(checkString("path", path), "r");
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${path} is not a file`);
    return await use({
      size: stat.size,
      async read(offset, length) {
        const bytes = allocate(length);
        let done = 0;
        while (done < length) {
          const { bytesRead } = await file.read(bytes, done, Math.min(length - done, 2 ** 30), offset + done);
          if (bytesRead === 0) throw damaged(path, "it became shorter while it was read");
          done += bytesRead;
        }
        return bytes;
      },
    });
  } finally {
    await file.close();
  }
}

/** Writes the pieces to a file beside `path` and moves it there: whatever happens, `path` is the old file or the new one. */
export async function writeWhole(path: string, pieces: readonly Uint8Array[]): Promise<void> {
  const temporary = `${checkString("path", path)}.${randomUUID()}.tmp`;
  const file = await openFile(temporary, "wx");
  try {
    try {
      for (const piece of pieces) await file.writeFile(piece);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

function allocate(length: number): Uint8Array {
  try {
    return new Uint8Array(length);
  } catch (cause) {
    throw new LatentError("ERR_LATENT_OUT_OF_MEMORY", `no memory for ${length} bytes`, { cause });
  }
}

/** Types of numbers in files. What is f64 becomes f32. */
export type FileDtype = Dtype | "f64";

export const fileBytes: Readonly<Record<FileDtype, number>> = { f64: 8, f32: 4, f16: 2, bf16: 2, i8: 1, i32: 4 };

/** Little-endian numbers as a tensor; `bytes` begin their own memory and are exactly those of the shape. */
export function tensorOf(dtype: FileDtype, shape: readonly number[], bytes: Uint8Array): Tensor {
  const { buffer } = bytes;
  switch (dtype) {
    case "f64":
      return Tensor.fromTyped("f32", shape, Float32Array.from(new Float64Array(buffer)));
    case "f32":
      return Tensor.fromTyped("f32", shape, new Float32Array(buffer));
    case "i8":
      return Tensor.fromTyped("i8", shape, new Int8Array(buffer));
    case "i32":
      return Tensor.fromTyped("i32", shape, new Int32Array(buffer));
    case "f16":
    case "bf16":
      return Tensor.fromTyped(dtype, shape, new Uint16Array(buffer));
  }
}

/** The bytes of a tensor's numbers. */
export function bytesOf(tensor: Tensor): Uint8Array {
  const data = tensor.toTyped();
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Bytes of a shape, or undefined where it has more than 8 dimensions or is too large to be one. */
export function shapeBytes(shape: readonly number[], dtype: FileDtype): number | undefined {
  if (shape.length > 8) return undefined;
  const bytes = shape.reduce((product, extent) => product * extent, fileBytes[dtype]);
  return Number.isSafeInteger(bytes) && shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0) ? bytes : undefined;
}
