// Content on a bus: cut into pieces that are named by their digests, so that each is checked when it comes, what is there already is not sent again, and
// a transfer that broke off goes on where it was. With a salt, which each piece then begins with, the names tell nobody else what the content is.
import { LatentError } from "../errors.js";
import { blake3 } from "../kernels/statistics.js";
import { pieceBytes, type Broker } from "./brokers/broker.js";
import { mostPieces } from "./claim.js";

/** So many pieces are on their way at a time. */
const ahead = 8;
const digestBytes = 32;

/** Where pieces are kept. */
export type PieceKeeper = Pick<Broker, "put" | "get" | "touch" | "drop" | "countsPieces">;

export interface PieceList {
  readonly root: string;
  readonly pieces: number;
}

/** A list that was put, and how to say that nobody needs it any more. */
export interface PutPieces extends PieceList {
  readonly drop: () => void;
}

/** What pieces begin with: nothing, or 32 bytes that only those can know who have the salt. Whoever has another one finds none of them. */
export function saltBytes(salt: string | undefined): Uint8Array {
  return salt === undefined ? new Uint8Array(0) : Buffer.from(blake3(Buffer.from(salt)), "hex");
}

/** Puts content there, piece by piece, the list of them last: who has the root has all of it. */
export async function putPieces(
  keeper: PieceKeeper,
  content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  options: { readonly salt: Uint8Array; readonly keptMs: number; readonly signal: AbortSignal },
): Promise<PutPieces> {
  const { salt, keptMs, signal } = options;
  const names: string[] = [];
  const going = new Set<Promise<void>>();
  let failure: Error | undefined;
  const put = async (piece: Uint8Array): Promise<string> => {
    const name = blake3(piece);
    while (going.size >= ahead && failure === undefined) await Promise.race(going);
    if (failure !== undefined) throw failure;
    const one: Promise<void> = keeper
      .put(name, piece, keptMs, signal)
      .catch((error: unknown) => {
        failure ??= error instanceof Error ? error : new Error(String(error));
      })
      .finally(() => going.delete(one));
    going.add(one);
    return name;
  };
  for await (const piece of cut(content, salt)) {
    if (names.length === mostPieces)
      throw new LatentError("ERR_LATENT_BUS_LIMIT", `content is larger than ${mostPieces * pieceBytes} bytes`, {
        details: { limit: mostPieces * pieceBytes },
      });
    names.push(await put(piece));
  }
  await Promise.all(going);
  // `failure` is set by promises that have settled by now
  throwIf(failure);
  const [first = ""] = names;
  const drop = (): void => {
    if (keeper.countsPieces) for (const name of names) void keeper.drop(name).catch(() => undefined);
  };
  if (names.length === 1) return { root: first, pieces: 1, drop };
  const list = Buffer.concat([salt, Buffer.from(names.join(""), "hex")]);
  const root = blake3(list);
  await keeper.put(root, list, keptMs, signal);
  const pieces = names.length;
  names.push(root);
  return { root, pieces, drop };
}

function throwIf(error: Error | undefined): void {
  if (error !== undefined) throw error;
}

/** The content, piece by piece, each as it has been checked. */
export async function* getPieces(
  keeper: Pick<PieceKeeper, "get">,
  list: PieceList,
  options: { readonly salt: Uint8Array; readonly signal: AbortSignal },
): AsyncGenerator<Uint8Array, void, undefined> {
  const { salt, signal } = options;
  const fetch = async (name: string): Promise<Uint8Array> => {
    const piece = await keeper.get(name, signal);
    if (piece === undefined) throw new LatentError("ERR_LATENT_BUS_GONE", `piece ${name} is not kept any more`);
    if (blake3(piece) !== name) throw new LatentError("ERR_LATENT_BUS_DIGEST", `piece ${name} has another digest`);
    if (Buffer.compare(piece.subarray(0, salt.length), salt) !== 0)
      throw new LatentError("ERR_LATENT_BUS_DIGEST", `piece ${name} was made with another salt`);
    return piece.subarray(salt.length);
  };
  const names = list.pieces === 1 ? [list.root] : namesIn(await fetch(list.root), list);
  const coming: Promise<Uint8Array>[] = [];
  const order = (name: string): void => {
    const piece = fetch(name);
    // what fails is seen when it is its turn
    piece.catch(() => undefined);
    coming.push(piece);
  };
  for (const name of names.slice(0, ahead)) order(name);
  for (let next = ahead; coming.length > 0; next++) {
    const piece = await coming.shift();
    if (piece === undefined) return;
    const name = names[next];
    if (name !== undefined) order(name);
    yield piece;
  }
}

function namesIn(list: Uint8Array, { root, pieces }: PieceList): readonly string[] {
  if (list.length !== pieces * digestBytes) throw new LatentError("ERR_LATENT_BUS_DIGEST", `${root} is no list of ${pieces} pieces`);
  const hex = Buffer.from(list.buffer, list.byteOffset, list.length).toString("hex");
  return Array.from({ length: pieces }, (_, i) => hex.slice(64 * i, 64 * (i + 1)));
}

/** Keeps all of it for a while longer; false if some of it is gone. */
export async function touchPieces(
  keeper: PieceKeeper,
  list: PieceList,
  { salt, keptMs, signal }: { readonly salt: Uint8Array; readonly keptMs: number; readonly signal: AbortSignal },
): Promise<boolean> {
  if (!(await keeper.touch(list.root, keptMs))) return false;
  if (list.pieces === 1) return true;
  const names = await keeper.get(list.root, signal);
  if (names === undefined) return false;
  const there = await Promise.all(namesIn(names.subarray(salt.length), list).map((name) => keeper.touch(name, keptMs)));
  return there.every(Boolean);
}

/** The same bytes in pieces of `pieceBytes`, the salt in front of each, in memory of their own; one piece of nothing. */
async function* cut(
  content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  salt: Uint8Array,
): AsyncGenerator<Uint8Array, void, undefined> {
  const fresh = (): Buffer => {
    const buffer = Buffer.allocUnsafeSlow(pieceBytes);
    buffer.set(salt);
    return buffer;
  };
  let piece = fresh();
  let filled = salt.length;
  let any = false;
  for await (const bytes of content) {
    for (let at = 0; at < bytes.length;) {
      const part = bytes.subarray(at, at + pieceBytes - filled);
      piece.set(part, filled);
      at += part.length;
      filled += part.length;
      if (filled < pieceBytes) continue;
      any = true;
      yield piece;
      piece = fresh();
      filled = salt.length;
    }
  }
  // what is kept for a while is not kept in a larger buffer
  if (filled > salt.length || !any) yield new Uint8Array(piece.subarray(0, filled));
}
