// Several sequences of one pool read texts, each the next one that nobody reads yet, until all are read or one of them fails.
import { LatentError } from "../errors.js";
import { withSignal } from "../jobs.js";
import { range } from "../spaces/random.js";
import type { Model } from "./model.js";
import type { Sequence } from "./sequence.js";

/** How {@link readEach} reads. */
export interface Reading {
  /** Rows of each text. */
  readonly slots: number;
  /** Positions that a text needs behind its own tokens. */
  readonly room: number;
  /** `[slots, d]` of a text, by a sequence that is empty. */
  readonly read: (sequence: Sequence, text: number, signal: AbortSignal) => Promise<Float32Array>;
  /** Called with how many texts have been read. */
  readonly onText: (done: number) => void;
  readonly signal: AbortSignal | undefined;
}

// positions that the sequences of one reading share at most, unless one text needs more
const mostPositions = 16_384;
const mostReaders = 8;

/**
 * What `read` makes of texts of so many tokens each, f32 `[texts · slots, d]` in their order.
 * @throws LatentError `ERR_LATENT_CONTEXT_OVERFLOW`, before anything is read
 */
export async function readEach(model: Model, lengths: readonly number[], reading: Reading): Promise<Float32Array> {
  const { slots, signal } = reading;
  const most = mostNeeded(model, lengths, reading.room);
  const readers = Math.max(1, Math.min(mostReaders, lengths.length, Math.floor(mostPositions / most)));
  await using pool = await model.createPool({ contextLength: readers * most, maxSequences: readers, ...withSignal(signal) });
  const d = model.info.embeddingLength;
  const rows = new Float32Array(lengths.length * slots * d);
  const stop = new AbortController();
  const both = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
  let next = 0;
  let done = 0;
  const read = async (): Promise<void> => {
    for (let i = next++; i < lengths.length; i = next++) {
      await using sequence = pool.sequence();
      rows.set(await reading.read(sequence, i, both), i * slots * d);
      reading.onText(++done);
    }
  };
  // all of them have stopped before their pool goes
  const ends = await Promise.allSettled(
    range(readers).map(() =>
      read().catch((error: unknown) => {
        stop.abort(error);
        throw error;
      }),
    ),
  );
  signal?.throwIfAborted();
  if (stop.signal.aborted && ends.some((end) => end.status === "rejected")) throw stop.signal.reason;
  return rows;
}

function mostNeeded(model: Model, lengths: readonly number[], room: number): number {
  const have = model.info.contextLength;
  for (const [text, length] of lengths.entries()) {
    const need = length + room;
    if (need > have)
      throw new LatentError("ERR_LATENT_CONTEXT_OVERFLOW", `text ${text} needs ${need} positions, the model has ${have}`, {
        details: { text, need, have },
      });
  }
  return lengths.reduce((most, length) => Math.max(most, length + room), 1);
}
