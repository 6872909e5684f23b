// Bytes that come in pieces, from wherever a program gets them.
import { invalid } from "../check.js";

/** Bytes in any pieces: a Buffer, a Readable, a fetch body, {@link KvHandle.records}. */
export type KvSource = Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/** @internal */
export function iteratorOf(source: unknown): AsyncIterator<unknown> | Iterator<unknown> {
  if (source instanceof Uint8Array) return [source][Symbol.iterator]();
  if (typeof source === "object" && source !== null) {
    if (Symbol.asyncIterator in source) return (source as AsyncIterable<unknown>)[Symbol.asyncIterator]();
    if (Symbol.iterator in source) return (source as Iterable<unknown>)[Symbol.iterator]();
  }
  throw invalid("source", "a Uint8Array or an iterable of them", source);
}

/** @internal */
export function requirePiece(piece: unknown): Uint8Array {
  if (!(piece instanceof Uint8Array)) throw invalid("source", "a source of Uint8Arrays", piece);
  return piece;
}

/** @internal The same pieces; the source is told when nobody wants more. */
export async function* piecesOf(source: KvSource): AsyncGenerator<Uint8Array, void, undefined> {
  const pieces = iteratorOf(source);
  let ended = false;
  try {
    for (;;) {
      const piece = await pieces.next();
      ended = piece.done === true;
      if (ended) return;
      yield requirePiece(piece.value);
    }
  } finally {
    if (!ended) await pieces.return?.();
  }
}
