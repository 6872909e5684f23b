// A content on its way out: the stream of records of what a handle holds, or of what a sequence is still reading or the GPU still sends.
import { native } from "../native.js";
import type { NativeDeviceKv, NativeFields, NativeKv, NativeKvCodec, NativeKvPiece, NativeKvWriter } from "../native-kv.js";
import { runOn } from "../devices.js";
import { LatentError } from "../errors.js";
import { run } from "../jobs.js";
import type { KvIdentity } from "./identity.js";
import { signerOf, type KvSigner } from "./signature.js";

/** @internal What is written of it. */
export interface RecordStreamOptions {
  /** Positions of the whole content; those that the first handle lacks are appended. */
  readonly entries: number;
  readonly notes: NativeFields;
  readonly sign: KvSigner | undefined;
  readonly bufferBytes: number;
  /** One a part, or none at all. */
  readonly codecs: readonly NativeKvCodec[];
  /** Provides what JavaScript has to encode of the records [from, to). */
  readonly encode?: (writer: NativeKvWriter, from: number, to: number) => Promise<void>;
  /**
   * Whether the memory of a buffer is used again, from when the third one after it is asked for. Buffers that are left to the garbage collector make it
   * collect the whole heap for every 64 MB of them.
   */
  readonly reuse?: boolean;
}

/**
 * @internal What travels along, beside what it is. `asRead`: how many of the first positions were made by reading the ones before them, all of them and
 * nothing else; a word that nobody would believe without a signature.
 */
export function notesOf(label: string, asRead: number | undefined): NativeFields {
  return [...(asRead === undefined ? [] : [["asRead", String(asRead)] as const]), ["label", label]];
}

/** @internal */
export class RecordStream {
  readonly #writer: NativeKvWriter;
  readonly #sign: ((seal: Uint8Array) => Uint8Array) | undefined;
  readonly #bufferBytes: number;
  readonly #encode: RecordStreamOptions["encode"];
  readonly #staging: Uint8Array[] = [];
  readonly #reuse: boolean;
  #next = 0;
  #written = 0;

  constructor(kv: { readonly identity: KvIdentity; toNative(): NativeKv | NativeDeviceKv }, options: RecordStreamOptions) {
    this.#sign = options.sign === undefined ? undefined : signerOf(options.sign);
    this.#bufferBytes = options.bufferBytes;
    this.#encode = options.encode;
    this.#reuse = options.reuse === true;
    this.#writer = LatentError.translate(() =>
      native().kvWriter(
        kv.toNative(),
        Object.entries(kv.identity),
        options.notes,
        this.#sign !== undefined,
        options.entries,
        options.codecs,
      ),
    );
  }

  /** The next positions. */
  append(next: NativeKv | NativeKvPiece): void {
    LatentError.translate(() => {
      this.#writer.append(next);
    });
  }

  /** Positions [from, to) of content on the device, from a multiple of 256 on; for {@link append}. */
  async piece(from: number, to: number, signal: AbortSignal | undefined): Promise<NativeKvPiece> {
    const piece = LatentError.translate(() => this.#writer.piece(from, to));
    return await runOn("cuda", piece, signal);
  }

  /** The records that are ready and were not written yet, without those whose bits are set in `held`. */
  async *write(held: Uint8Array, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array, void, undefined> {
    const sizes = this.#writer.sizes();
    const root = this.#writer.records - 1;
    // the manifest and the root are always sent, and the digests of what is left out are needed for the root
    const skips = (record: number): boolean => record > 0 && record < root && (((held[record >> 3] ?? 0) >> (record & 7)) & 1) === 1;
    // the root alone, if a signature comes before it
    const ends = (record: number): boolean => record === sizes.length || (this.#sign !== undefined && record === root);
    while (this.#next < sizes.length) {
      // what is small may be written before a job hears of it
      signal?.throwIfAborted();
      const from = this.#next;
      if (this.#sign && from === root) yield native().kvSignature(this.#sign(this.#writer.seal()));
      let to = from;
      let bytes = 0;
      while (to === from || (!ends(to) && skips(to) === skips(from) && bytes + (sizes[to] ?? 0) <= this.#bufferBytes))
        bytes += sizes[to++] ?? 0;
      this.#next = to;
      await this.#encode?.(this.#writer, from, to);
      if (skips(from)) {
        const passed = LatentError.translate(() => this.#writer.passOver(from, to));
        await run(passed, signal);
      } else {
        yield await this.#write(from, to, bytes, sizes, signal);
      }
    }
  }

  /** `most`: what the records may take. */
  async #write(from: number, to: number, most: number, sizes: Float64Array, signal: AbortSignal | undefined): Promise<Uint8Array> {
    // of the manifest alone it is not known how large records are
    const place = this.#reuse && sizes.length > 1 ? this.#written++ % 3 : -1;
    if (this.#staging.length === place) {
      // not spread into a call: a long content has more records than that can have arguments
      const largest = sizes.reduce((most, bytes) => Math.max(most, bytes), this.#bufferBytes);
      const staging = LatentError.translate(() => this.#writer.staging(largest));
      if (staging !== null) this.#staging.push(staging);
    }
    const staging = this.#staging[place];
    // of what came since it was made, a record may be larger
    if (staging === undefined || staging.length < most)
      return await run(
        LatentError.translate(() => this.#writer.write(from, to)),
        signal,
      );
    const bytes = await run(
      LatentError.translate(() => this.#writer.writeTo(place, from, to)),
      signal,
    );
    return staging.subarray(0, bytes);
  }

  dispose(): void {
    this.#writer.dispose();
  }
}
