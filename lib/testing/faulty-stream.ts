// A stream of bytes to which the things happen that happen to streams, at places that a seed decides.
import { createHash } from "node:crypto";
import { checkInteger, checkKeys, checkNumber, fallback } from "../check.js";
import { piecesOf, type KvSource } from "../kv/source.js";

/** Options of {@link faultyStream}. Chances are those of one piece, 0 to 1; all are 0 unless they are given. */
export interface FaultyStreamOptions {
  /** The same seed makes the same faults for the same pieces. Default 1. */
  readonly seed?: number;
  /** Cut the source anew into pieces of 1 to so many bytes, so that faults fall anywhere. Default: the pieces as they come. */
  readonly pieceBytes?: number;
  /** One bit is turned. */
  readonly flip?: number;
  /** The piece is left out. */
  readonly drop?: number;
  /** The piece comes twice. */
  readonly repeat?: number;
  /** The piece comes after the one that follows it, if one follows. */
  readonly swap?: number;
  /** The piece comes `delayMs` later. */
  readonly delay?: number;
  /** Default 20. */
  readonly delayMs?: number;
  /** The stream ends after so many bytes as if that were all. Default: never. */
  readonly endAfter?: number;
  /** The stream fails after so many bytes, with an error of code ECONNRESET. Default: never. */
  readonly failAfter?: number;
  /** The stream falls silent after so many bytes, until it is closed. Default: never. */
  readonly hangAfter?: number;
}

/** Something that was done to a stream. */
export interface Fault {
  readonly kind: "flip" | "drop" | "repeat" | "swap" | "delay" | "end" | "fail" | "hang";
  /** Bytes of the source before the place. */
  readonly at: number;
}

/** Pieces of a source, some of them spoilt. */
export interface FaultyStream extends AsyncIterable<Uint8Array> {
  /** What has been done so far. */
  readonly faults: readonly Fault[];
}

const chances = ["flip", "drop", "repeat", "swap", "delay"] as const;
const ends = ["endAfter", "failAfter", "hangAfter"] as const;

/**
 * The bytes of `source`, with faults. Iterate over it once; pass it to `importKv`, `readKv`, or `Readable.from`.
 * @throws LatentError `ERR_LATENT_INVALID_ARGUMENT`
 */
export function faultyStream(source: KvSource, options: FaultyStreamOptions = {}): FaultyStream {
  checkKeys("options", options, ["seed", "pieceBytes", "delayMs", ...chances, ...ends]);
  for (const name of chances) checkNumber(name, fallback(options[name], 0), 0, 1);
  for (const name of ends) checkInteger(name, fallback(options[name], 0), 0, Number.MAX_SAFE_INTEGER);
  checkInteger("pieceBytes", fallback(options.pieceBytes, 1), 1, 2 ** 31 - 1);
  const delayMs = checkInteger("delayMs", fallback(options.delayMs, 20), 0, 2 ** 31 - 1);
  const seed = checkInteger("seed", fallback(options.seed, 1), 0, 2 ** 32 - 1);
  const faults: Fault[] = [];
  return {
    faults,
    [Symbol.asyncIterator]: () => {
      let close = (): void => undefined;
      const closed = new Promise<void>((resolve) => (close = resolve));
      const pieces = spoil(
        cutAnew(piecesOf(source), options.pieceBytes, randomOf(seed, "piece")),
        { ...options, delayMs, seed },
        faults,
        closed,
      );
      return {
        next: () => pieces.next(),
        // a stream that has fallen silent would not hear it
        return: async () => {
          close();
          return await pieces.return();
        },
      };
    },
  };
}

async function* spoil(
  pieces: AsyncIterable<Uint8Array>,
  options: FaultyStreamOptions & { readonly delayMs: number; readonly seed: number },
  faults: Fault[],
  closed: Promise<void>,
): AsyncGenerator<Uint8Array, void, undefined> {
  // each kind draws from numbers of its own, and always, so that one option does not move the faults of another
  const draws = new Map([...chances, "bit"].map((name) => [name, randomOf(options.seed, name)]));
  const draw = (name: string): number => draws.get(name)?.() ?? 0;
  const end = firstEnd(options);
  let at = 0;
  let held: Uint8Array | undefined;
  for await (const whole of pieces) {
    const piece = end === undefined ? whole : whole.subarray(0, Math.max(0, end.after - at));
    const drawn = new Set(chances.filter((kind) => draw(kind) < (options[kind] ?? 0)));
    const bit = Math.floor(draw("bit") * piece.length * 8);
    const happens = (kind: (typeof chances)[number]): boolean => {
      if (drawn.has(kind)) faults.push({ kind, at });
      return drawn.has(kind);
    };
    if (happens("delay")) await new Promise((resolve) => setTimeout(resolve, options.delayMs));
    // nothing is left to be done to a piece that is left out
    if (piece.length > 0 && !happens("drop")) {
      const spoilt = happens("flip") ? withBitTurned(piece, bit) : piece;
      const out = happens("repeat") ? [spoilt, spoilt] : [spoilt];
      if (held === undefined && drawn.has("swap")) {
        held = Buffer.concat(out);
        faults.push({ kind: "swap", at });
      } else {
        yield* out;
        if (held !== undefined) yield held;
        held = undefined;
      }
    }
    at += whole.length;
    if (end !== undefined && at >= end.after) break;
  }
  if (held !== undefined) yield held;
  if (end === undefined || at < end.after) return;
  faults.push({ kind: end.kind, at: end.after });
  if (end.kind === "fail") throw Object.assign(new Error("read ECONNRESET (a fault on purpose)"), { code: "ECONNRESET" });
  if (end.kind === "hang") await closed;
}

function firstEnd(options: FaultyStreamOptions): { readonly kind: "end" | "fail" | "hang"; readonly after: number } | undefined {
  const all = [
    { kind: "end", after: options.endAfter },
    { kind: "fail", after: options.failAfter },
    { kind: "hang", after: options.hangAfter },
  ] as const;
  return all.reduce<{ kind: "end" | "fail" | "hang"; after: number } | undefined>(
    (first, { kind, after }) => (after !== undefined && (first === undefined || after < first.after) ? { kind, after } : first),
    undefined,
  );
}

async function* cutAnew(
  pieces: AsyncGenerator<Uint8Array, void, undefined>,
  most: number | undefined,
  random: () => number,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const piece of pieces) {
    for (let from = 0; from < piece.length;) {
      const to = most === undefined ? piece.length : Math.min(piece.length, from + 1 + Math.floor(random() * most));
      yield piece.subarray(from, to);
      from = to;
    }
  }
}

function withBitTurned(piece: Uint8Array, bit: number): Uint8Array {
  const copy = Uint8Array.from(piece);
  copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  return copy;
}

/** Numbers of [0, 1) that depend on the seed and the name alone. */
function randomOf(seed: number, name: string): () => number {
  let drawn = 0;
  return () => createHash("sha256").update(`${seed} ${name} ${drawn++}`).digest().readUInt32LE() / 2 ** 32;
}
