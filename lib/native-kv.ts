// The typed view of the native keys and values: content outside of a cache, and the stream of records that carries it.
import type { NativeJob, NativeTensor } from "./native.js";
import type { NativeDeviceShare } from "./native-device.js";

export interface NativeCacheRows {
  readonly format: "f32" | "f16" | "bf16" | "q8_0" | "q4_0";
  readonly channels: number;
  readonly rotation: number;
}

export interface NativeKvInfo {
  readonly positions: number;
  readonly latents: number;
  readonly bytes: number;
  readonly partial: boolean;
  readonly layers: readonly { readonly layer: number; readonly keys: NativeCacheRows; readonly values: NativeCacheRows }[];
}

export interface NativeKv {
  info(): NativeKvInfo;
  tokens(): Int32Array;
  positions(): Int32Array;
  /** [latents, d] f32 */
  rows(): NativeTensor | null;
  /** `part`: 2 * place of the layer in {@link NativeKvInfo.layers}, plus 1 for values. [to - from, channels] f32. */
  part(part: number, from: number, to: number): NativeJob<NativeTensor>;
  slice(from: number, to: number): NativeKv;
  concat(next: NativeKv): NativeKv;
  /** The layers of these numbers, ascending. */
  select(layers: Int32Array): NativeKv;
  convert(format: string): NativeJob<NativeKv>;
  /** A name for {@link NativeKvModule.kvOfTicket} on any thread of this process, as long as this object is not disposed. */
  ticket(): string;
  readonly disposed: boolean;
  dispose(): void;
}

/** Content on the device. */
export interface NativeDeviceKv {
  info(): NativeKvInfo;
  tokens(): Int32Array;
  positions(): Int32Array;
  toHost(): NativeJob<NativeKv>;
  /** `nonce`: 16 bytes. */
  share(identity: NativeFields, notes: NativeFields, nonce: Uint8Array): NativeJob<NativeDeviceShare>;
  readonly disposed: boolean;
  dispose(): void;
}

export type NativeFields = readonly (readonly [string, string])[];

/** A codec that was fitted to a model. */
export interface NativeKvtc {
  name(): string;
  identity(): NativeFields;
  /** [2 * layers] */
  ranks(): Int32Array;
  file(): Uint8Array;
  dispose(): void;
}

/** Of one part: a built-in one by its name, a fitted one, one that JavaScript works, or none. */
export type NativeKvCodec = string | NativeKvtc | { readonly outside: string } | null;

/** `part`: 2 * layer, plus 1 for values; entries [from, to). */
export interface NativeKvPlace {
  readonly part: number;
  readonly from: number;
  readonly to: number;
  readonly channels: number;
}

/** Some chunks of content on the device, on the host; for the writer that made it. */
export interface NativeKvPiece {
  dispose(): void;
}

export interface NativeKvWriter {
  /** Of the whole content. */
  readonly records: number;
  /** The next entries. Not while records are being written. Rows before a piece are let go. */
  append(next: NativeKv | NativeKvPiece): void;
  /** Entries [from, to) of the content on the device that this writes; whole chunks, up to the last. */
  piece(from: number, to: number): NativeJob<NativeKvPiece>;
  /**
   * Bytes of each record that can be written by now: those of whole chunks, and all of them once every entry is there; of an encoded tile the most
   * that it can have.
   */
  sizes(): Float64Array;
  /** The records [from, to). */
  write(from: number, to: number): NativeJob<Uint8Array>;
  /**
   * Memory of `bytes` that records can be written to, again and again; its number is how many of them there were before. Null where the runtime has
   * no Buffers over foreign memory.
   */
  staging(bytes: number): Uint8Array | null;
  /** Writes the records [from, to) to the start of a staging; the bytes that they took. */
  writeTo(staging: number, from: number, to: number): NativeJob<number>;
  /** Takes the records [from, to) into the root without writing them. */
  passOver(from: number, to: number): NativeJob<void>;
  /** The tiles among the records [from, to) that JavaScript encodes. */
  outside(from: number, to: number): readonly (NativeKvPlace & { readonly record: number })[];
  /** Such a tile, before it is written or passed over. */
  provide(record: number, bytes: Uint8Array): void;
  /** What a signature signs, 32 bytes, once all but the root were written or passed over; of a writer that was made `sealed`. */
  seal(): Uint8Array;
  dispose(): void;
}

export interface NativeKvReader {
  feed(bytes: Uint8Array): void;
  restart(): void;
  /** A bit a record, from the lowest of the first byte on. */
  held(): Uint8Array;
  /** `seal` is of use if the reader was made `sealed`; `signature` is empty if there was none. */
  finish(): { readonly kv: NativeKv; readonly notes: NativeFields; readonly seal: Uint8Array; readonly signature: Uint8Array };
  readonly done: boolean;
  readonly bytes: number;
  /** Those of `bytes` that are keys and values. */
  readonly tileBytes: number;
  /** The first tile that JavaScript must decode, before anything else is fed. */
  outside(): (NativeKvPlace & { readonly codec: string; readonly bytes: Uint8Array }) | null;
  /** [to - from, channels] of that tile. */
  decoded(numbers: Float32Array): void;
  dispose(): void;
}

/** Where a process keeps a segment. */
export interface NativeSegmentName {
  readonly process: number;
  readonly descriptor: number;
  readonly device: number;
  readonly inode: number;
  readonly bytes: number;
}

/** Sealed memory with a content, for other processes of this host; they find it until it is disposed. */
export interface NativeKvSegment {
  name(): NativeSegmentName;
  readonly disposed: boolean;
  dispose(): void;
}

export interface NativeKvModule {
  /** `nonce`: 16 bytes. */
  kvSegment(kv: NativeKv, identity: NativeFields, notes: NativeFields, nonce: Uint8Array): NativeJob<NativeKvSegment>;
  /** Of a content of `entries`, of which `kv` holds the first; content on the device comes in pieces. `codecs`: one a part, or none at all. */
  kvWriter(
    kv: NativeKv | NativeDeviceKv,
    identity: NativeFields,
    notes: NativeFields,
    sealed: boolean,
    entries: number,
    codecs: readonly NativeKvCodec[],
  ): NativeKvWriter;
  kvToDevice(kv: NativeKv): NativeJob<NativeDeviceKv>;
  readKvtc(bytes: Uint8Array): NativeJob<NativeKvtc>;
  kvOfTicket(ticket: string): NativeKv;
  /** The record that carries a signature. */
  kvSignature(signature: Uint8Array): Uint8Array;
}
