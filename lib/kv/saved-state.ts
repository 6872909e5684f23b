// The saved form of a sequence: a header that names everything the cells depend on, the log of what was fed, and the engine's cells. A digest
// covers all of it, and the header must match the reading pool field by field, so a foreign or damaged state is refused before it is used.
//
//   "LWSTATE1"  u32 header length  header (JSON)  log i32[n]  rows f32[latents, d]  cells
import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { LatentError } from "../errors.js";
import type { Pool } from "../models/pool.js";

const magic = "LWSTATE1";
const version = 1;
const prefixBytes = magic.length + 4;
const headerLimit = 1 << 16;
/**
 * @internal
 * What this package reserves for prefix and header; a shorter header is filled up with spaces.
 */
export const headerBytes = 2048;
/** So much is hashed at a time, a few milliseconds; the event loop runs in between. */
const digestStep = 4 << 20;

/** What the cells of a state depend on. */
interface Provenance {
  readonly model: string;
  readonly architecture: string;
  readonly layers: number;
  readonly kvHeads: number;
  readonly dimension: number;
  readonly vocabulary: number;
  readonly rope: string;
  readonly kvType: string;
  readonly llama: string;
}

interface Header extends Provenance {
  readonly version: number;
  readonly positions: number;
  readonly latents: number;
  readonly cellBytes: number;
  /** SHA-256 over everything after the header, hex. */
  readonly sha256: string;
}

/** @internal */
export interface SavedState {
  readonly log: Int32Array;
  /** `[latents, d]` */
  readonly rows: Float32Array;
  readonly cells: Uint8Array;
}

function provenance(pool: Pool): Provenance {
  const { info } = pool.model;
  return {
    model: info.fingerprint,
    architecture: info.architecture,
    layers: info.layers,
    kvHeads: info.kvHeads,
    dimension: info.embeddingLength,
    vocabulary: info.vocabularySize,
    rope: `${info.rope}/${info.ropeScaling}`,
    kvType: pool.info.kvType,
    llama: "0.5.0",
  };
}

/**
 * @internal
 * Writes the header into the room that `state.bytes` begins with.
 */
export async function sealState(
  pool: Pool,
  state: { bytes: Uint8Array; positions: number; latents: number },
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const { bytes, positions, latents } = state;
  const body = bytes.subarray(headerBytes);
  const header: Header = {
    version,
    ...provenance(pool),
    positions,
    latents,
    cellBytes: body.length - 4 * positions - 4 * latents * pool.model.info.embeddingLength,
    sha256: await digest(body, signal),
  };
  const text = Buffer.from(JSON.stringify(header), "utf8");
  if (prefixBytes + text.length > headerBytes)
    throw malformed(`its header would take ${prefixBytes + text.length} of ${headerBytes} bytes`);
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, headerBytes);
  head.fill(" ", head.write(magic, "latin1"));
  head.writeUInt32LE(headerBytes - prefixBytes, magic.length);
  head.set(text, prefixBytes);
  return bytes;
}

/** SHA-256, hex. The bytes may be hundreds of megabytes, so the event loop gets its turns. */
async function digest(bytes: Uint8Array, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for (let offset = 0; offset < bytes.length; offset += digestStep) {
    if (offset > 0) await setImmediate();
    signal?.throwIfAborted();
    hash.update(bytes.subarray(offset, offset + digestStep));
  }
  return hash.digest("hex");
}

/**
 * @internal
 * @throws {@link LatentError} `ERR_LATENT_STATE_FORMAT`, `ERR_LATENT_STATE_DIGEST`, `ERR_LATENT_STATE_MISMATCH`
 */
export async function readSavedState(bytes: Uint8Array, pool: Pool, signal?: AbortSignal): Promise<SavedState> {
  if (!(bytes instanceof Uint8Array)) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "a saved state must be a Uint8Array");
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (file.length < prefixBytes || file.toString("latin1", 0, magic.length) !== magic)
    throw malformed("it does not begin as a saved state");
  const textBytes = file.readUInt32LE(magic.length);
  if (textBytes > headerLimit || prefixBytes + textBytes > file.length) throw malformed("its header is cut off");
  const header = parseHeader(file.toString("utf8", prefixBytes, prefixBytes + textBytes));
  if (header.version !== version)
    throw new LatentError("ERR_LATENT_STATE_FORMAT", `the state has version ${header.version}, this package reads ${version}`);

  const local = provenance(pool);
  for (const key of Object.keys(local) as (keyof Provenance)[]) {
    if (header[key] !== local[key]) {
      throw new LatentError(
        "ERR_LATENT_STATE_MISMATCH",
        `the state was made with another ${key}: ${String(header[key])}, here ${String(local[key])}`,
        {
          details: { key, state: header[key], local: local[key] },
        },
      );
    }
  }
  const logBytes = header.positions * 4;
  const rowBytes = header.latents * header.dimension * 4;
  const body = file.subarray(prefixBytes + textBytes);
  if (body.length !== logBytes + rowBytes + header.cellBytes) {
    throw malformed(`it has ${body.length} bytes after the header, which announces ${logBytes + rowBytes + header.cellBytes}`);
  }
  if ((await digest(body, signal)) !== header.sha256) {
    throw new LatentError("ERR_LATENT_STATE_DIGEST", "the state was altered after it was saved");
  }
  const log = new Int32Array(header.positions);
  bytesOf(log).set(body.subarray(0, logBytes));
  // the digest finds damage and not forgery: the log must fit the vocabulary and the rows
  if (log.some((token) => token < -1 || token >= header.vocabulary)) throw malformed("its log has tokens that the vocabulary lacks");
  const latents = log.reduce((count, token) => count + (token === -1 ? 1 : 0), 0);
  if (latents !== header.latents) throw malformed(`its log has ${latents} latents, the header announces ${header.latents}`);
  const rows = new Float32Array(header.latents * header.dimension);
  bytesOf(rows).set(body.subarray(logBytes, logBytes + rowBytes));
  return { log, rows, cells: body.subarray(logBytes + rowBytes) };
}

function bytesOf(array: Int32Array | Float32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function malformed(why: string): LatentError {
  return new LatentError("ERR_LATENT_STATE_FORMAT", `not a whole saved state: ${why}`);
}

function parseHeader(text: string): Header {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new LatentError("ERR_LATENT_STATE_FORMAT", "the header of the state is not JSON", { cause });
  }
  const counts = ["version", "positions", "latents", "cellBytes", "layers", "kvHeads", "dimension", "vocabulary"] as const;
  const texts = ["model", "architecture", "rope", "kvType", "llama", "sha256"] as const;
  const record = value as Record<string, unknown>;
  const whole = (key: string): boolean => Number.isSafeInteger(record[key]) && Number(record[key]) >= 0;
  if (typeof value !== "object" || value === null || !counts.every(whole) || !texts.every((key) => typeof record[key] === "string")) {
    throw malformed("its header lacks fields");
  }
  return value as Header;
}
