// One sequence of a pool: what an agent holds. Its cells are fed by tokens or by input rows, continued by generating or thinking, shared by forking,
// and cut, joined, saved and restored.
import type { Duplex } from "node:stream";
import { checkArray, checkBoolean, checkCallback, checkInteger, checkKeys, checkNumber, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { run, withSignal } from "../jobs.js";
import type { NativeSequence } from "../native-engine.js";
import type { KvCodecChoice, KvPlugin } from "../kv/codec.js";
import { DeviceKv, isDeviceReference, type DeviceKvReference } from "../kv/device-kv.js";
import { checkLabel, isOfFormat, KvHandle, type KvFormat, type KvRange } from "../kv/handle.js";
import { requireSameIdentity } from "../kv/identity.js";
import type { Kvtc } from "../kv/kvtc.js";
import { receiveOptions, receiveOnce, type KvArrival, type KvReceiveOptions } from "../kv/link.js";
import { prefillRecords, type PrefillRecordsOptions, type PrefillText } from "../kv/prefill-records.js";
import type { KvSharedReference } from "../kv/shared.js";
import { signerOf, type KvSigner, type KvVerifier } from "../kv/signature.js";
import type { KvSource } from "../kv/source.js";
import { checkSpot, spotOf, type KvSpot } from "../kv/spot.js";
import { Latent } from "../spaces/latent.js";
import { requireSameSpace } from "../spaces/space.js";
import { Tensor } from "../tensor.js";
import type { ChatMessage } from "./chat.js";
import { startGeneration, type GenerateOptions, type Generation } from "./generation.js";
import type { Pool } from "./pool.js";

/** Tokens, text (special tokens are parsed), chat messages (rendered by the model's template), or input rows. */
export type PrefillInput = Int32Array | readonly number[] | string | readonly ChatMessage[] | Latent | Tensor;

/** Options of {@link Sequence.prefill}. */
export interface PrefillOptions {
  /** Which hidden states to return: none (default), the last position's, or all. `last` also makes a following think() start at once. */
  readonly hidden?: "none" | "last" | "all";
  /** -1000..1000, default 0: higher goes first when prefills compete. */
  readonly priority?: number;
  readonly signal?: AbortSignal;
}

/** One latent step, reported as it is done. */
export interface ThinkStep {
  /** From 1. */
  readonly step: number;
  /** Norm of the hidden state after the step. */
  readonly norm: number;
  /** Cosine between this latent and the one before; 0 for the first. */
  readonly cosine: number;
}

/** Options of {@link Sequence.think}. */
export interface ThinkOptions {
  /** Latent steps, 0 or more. */
  readonly steps: number;
  /** Map states through the ridge alignment of output to input embeddings. Default false: the identity. No effect on tied matrices. */
  readonly align?: boolean;
  /** Norm of a latent. Default: the mean norm of the model's input rows. */
  readonly alpha?: number;
  readonly priority?: number;
  readonly signal?: AbortSignal;
  /** Called after every step. */
  readonly onStep?: (step: ThinkStep) => void;
}

/** An abort signal; the operation then rejects with its reason and changes nothing. */
export interface SignalOption {
  readonly signal?: AbortSignal;
}

/** Options of {@link Sequence.exportKv}. */
export interface ExportKvOptions {
  /** Which positions, counted from 0. Default: all. */
  readonly range?: KvRange;
  /**
   * Only these layers, by their numbers from 0: to look at them (`tiles`), or to send them (`records`). A cache takes all layers or none, so such
   * content is not imported. Default: all.
   */
  readonly layers?: readonly number[];
  /** Convert to this format. Default: as the cache has them, bit for bit. */
  readonly format?: KvFormat;
  /** A name for people, at most 1024 characters; it travels along. */
  readonly label?: string;
  readonly signal?: AbortSignal;
}

/** Options of {@link Sequence.exportDeviceKv}. */
export type ExportDeviceKvOptions = Pick<ExportKvOptions, "range" | "label" | "signal">;

/** Options of {@link Sequence.importKv}. */
export interface ImportKvOptions {
  /** Default `append`. */
  readonly positions?: "append" | "keep" | { readonly at: number };
  /** Of a stream: the longest silence of the sender, in milliseconds. Default: no limit. */
  readonly idleMs?: number;
  /** Take only what one of these has signed. For a stream or a reference; a handle is verified when it is read ({@link Pool.readKv}). */
  readonly verify?: KvVerifier;
  /** Of a stream: what it may travel in besides the built-in codecs. Default: none. */
  readonly codecs?: readonly (Kvtc | KvPlugin)[];
  /** Read the first tokens again and compare. Default: do not. */
  readonly spot?: KvSpot;
  readonly signal?: AbortSignal;
}

/** What {@link Sequence.importKv} did. */
export interface KvImport {
  /** Positions that were added. */
  readonly positions: number;
  readonly latents: number;
  /** Of keys and values, as they came; 0 where cells are shared. */
  readonly bytes: number;
  /** Positions whose keys were turned. */
  readonly moved: number;
  /**
   * How it came: cells of the pool are shared and no bytes move; a copy on the GPU; a copy of a handle's memory; memory that another process shares; a
   * stream of records.
   */
  readonly way: KvWay;
  readonly ms: number;
}

/** From the shortest to the longest. */
export type KvWay = "cells" | "device" | "copy" | "shared-memory" | "stream";

/** Options of {@link Sequence.receiveKv}. */
export interface ReceiveKvOptions extends KvReceiveOptions, Pick<ImportKvOptions, "positions" | "verify" | "codecs" | "spot"> {}

/** What {@link Sequence.receiveKv} did. */
export interface KvReceipt extends KvImport {
  /** Why it came by this way, in a line. */
  readonly why: string;
}

/**
 * Made by {@link Pool.sequence}. One operation at a time: a second one throws `ERR_LATENT_SEQUENCE_BUSY`. A failed or aborted operation leaves the
 * sequence as it was; only generate() keeps the tokens that were consumed.
 */
export class Sequence {
  readonly #handle: NativeSequence;
  #mixedFrom = Number.POSITIVE_INFINITY;

  /** @internal */
  constructor(
    readonly pool: Pool,
    handle: NativeSequence,
  ) {
    this.#handle = handle;
  }

  /** Positions held. */
  get length(): number {
    return this.#handle.length;
  }

  /** Position of what is fed next: equal to {@link length} unless there is a gap. */
  get nextPosition(): number {
    return this.#handle.nextPosition;
  }

  /** False after {@link drop} with `positions: 'keep'`. */
  get contiguous(): boolean {
    return this.#handle.contiguous;
  }

  get disposed(): boolean {
    return this.#handle.disposed;
  }

  /**
   * @internal The first entry of which it is not known that it was made by reading the entries before it, all of them and nothing else: what was
   * moved or joined is no content of its tokens alone, and must not be found by them.
   */
  get mixedFrom(): number {
    return this.#mixedFrom;
  }

  /** Token ids by position; -1 where a latent stands. */
  log(): Int32Array {
    return LatentError.translate(() => this.#handle.log());
  }

  /** The latents in the log, in order; null if there are none. */
  latents(): Latent | null {
    const rows = LatentError.translate(() => this.#handle.rows());
    return rows === null ? null : new Latent(this.pool.model.space, "embeds", Tensor.fromNative(rows));
  }

  /**
   * Feeds input. Text and chat messages are tokenised. The model's begin token is added at position 0 to text that lacks it; where the sequence
   * begins with it, one that a chat template writes again is left out, so that nothing stands between two agents.
   * @returns the hidden states asked for, f32 `[0 | 1 | n, d]` in the model's hidden space; null with `hidden: 'none'`
   * @throws {@link LatentError} `ERR_LATENT_CONTEXT_OVERFLOW`, `ERR_LATENT_SPACE_MISMATCH`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_INVALID_ARGUMENT`
   */
  async prefill(input: PrefillInput, options: PrefillOptions = {}): Promise<Latent | null> {
    checkKeys("options", options, ["hidden", "priority", "signal"]);
    const settings = {
      hidden: checkOneOf("hidden", fallback(options.hidden, "none"), ["none", "last", "all"]),
      priority: checkInteger("priority", fallback(options.priority, 0), -1000, 1000),
    };
    const rows = input instanceof Latent ? this.#rowsOf(input) : input instanceof Tensor ? input : undefined;
    const job =
      rows === undefined
        ? LatentError.translate(() => this.#handle.prefill({ ...settings, tokens: this.tokensOf(input as Exclude<PrefillInput, Latent | Tensor>) }))
        : LatentError.translate(() => this.#handle.prefill({ ...settings, rows: rows.toNative() }));
    const states = await run(job, options.signal);
    if (settings.hidden === "none") return null;
    const d = this.pool.model.info.embeddingLength;
    const tensor = states === null ? Tensor.fromTyped("f32", [0, d], new Float32Array(0)) : Tensor.fromNative(states);
    return new Latent(this.pool.model.hiddenSpace, "hidden", tensor);
  }

  /**
   * Feeds input like {@link prefill}, and sends what is read while the rest is being read: a stream of the sequence's content as
   * {@link KvHandle.records} makes it, in which only the last part waits for the end. The prefill goes on when what was yielded is taken. When it
   * fails, is aborted, or the consumer leaves before everything was read, the sequence is as it was.
   * @throws {@link LatentError} what {@link prefill}, {@link exportKv} and {@link KvHandle.records} throw
   */
  prefillRecords(input: PrefillText, options: PrefillRecordsOptions = {}): AsyncGenerator<Uint8Array, void, undefined> {
    return prefillRecords(this, input, options);
  }

  /** @internal What {@link prefill} would feed for this input now. */
  tokensOf(input: Int32Array | readonly number[] | string | readonly ChatMessage[]): Int32Array {
    const { model } = this.pool;
    if (input instanceof Int32Array || (Array.isArray(input) && typeof input[0] !== "object")) return model.checkTokens(input as readonly number[]);
    if (typeof input !== "string" && !Array.isArray(input)) throw invalid("input", "tokens, text, chat messages, a Latent or a Tensor", input);
    const text = typeof input === "string" ? input : model.renderChat(input as readonly ChatMessage[]);
    const tokens = model.tokenize(text);
    const { addBos, bos } = model.info;
    if (typeof input !== "string" && bos >= 0 && tokens[0] === bos && this.log()[0] === bos) return tokens.subarray(1);
    if (!addBos || bos < 0 || this.length > 0 || tokens[0] === bos || tokens.length === 0) return tokens;
    return Int32Array.of(bos, ...tokens);
  }

  /**
   * Continues with sampled tokens. Iterate over the result for `{ token, text }` as they come, or await `.result`. Leaving the loop early stops the
   * engine and cuts the sequence back to the tokens that were consumed. An end-of-generation token is fed as well, so the turn is closed.
   * Ends with reason `end`, `stop`, or `length` (maxTokens, or the context is full).
   * @throws {@link LatentError} `ERR_LATENT_SEQUENCE_EMPTY`, `ERR_LATENT_CONTEXT_OVERFLOW`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_INVALID_ARGUMENT`
   */
  generate(options: GenerateOptions = {}): Generation {
    return startGeneration(this.#handle, options);
  }

  /**
   * Latent steps (LatentMAS): e = alpha * u / max(|u|, 1e-6), u = h or h W, fed as the next input row; h is the state after the final norm.
   * Deterministic: nothing is sampled. Adds exactly `steps` positions, or none if it fails.
   * @returns the rows that were fed, kind `embeds`, `[steps, d]`
   * @throws {@link LatentError} `ERR_LATENT_SEQUENCE_EMPTY`, `ERR_LATENT_CONTEXT_OVERFLOW`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_INVALID_ARGUMENT`
   */
  async think(options: ThinkOptions): Promise<Latent> {
    checkKeys("options", options, ["steps", "align", "alpha", "priority", "signal", "onStep"]);
    const { model } = this.pool;
    const steps = checkInteger("steps", options.steps, 0, (1 << 30) - 1);
    const alpha = checkNumber("alpha", fallback(options.alpha, model.info.alpha), 0, 3e38);
    const priority = checkInteger("priority", fallback(options.priority, 0), -1000, 1000);
    const { onStep, signal } = options;
    checkCallback("onStep", onStep);
    const alignment = checkBoolean("align", fallback(options.align, false)) ? await model.alignment(withSignal(signal)) : null;
    try {
      const job = LatentError.translate(() =>
        this.#handle.think({ steps, alpha, priority, alignment: alignment === null ? null : alignment.toNative() }, (step) => onStep?.(step)),
      );
      return new Latent(model.space, "embeds", Tensor.fromNative(await run(job, signal)));
    } finally {
      alignment?.dispose();
    }
  }

  /** Hidden state of the last position, after the final norm, f32 `[d]`. @throws {@link LatentError} `ERR_LATENT_SEQUENCE_EMPTY` */
  async hidden(options: SignalOption = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    return Tensor.fromNative(await run(LatentError.translate(() => this.#handle.hidden()), options.signal));
  }

  /** Logits of the last position, f32 `[vocabulary]`. @throws {@link LatentError} `ERR_LATENT_SEQUENCE_EMPTY` */
  async logits(options: SignalOption = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    return Tensor.fromNative(await run(LatentError.translate(() => this.#handle.logits()), options.signal));
  }

  /** A second sequence with the same content; the cells are shared and no bytes move. @throws {@link LatentError} `ERR_LATENT_SEQUENCE_LIMIT` */
  async fork(options: SignalOption = {}): Promise<Sequence> {
    checkKeys("options", options, ["signal"]);
    const fork = new Sequence(this.pool, await run(LatentError.translate(() => this.#handle.fork()), options.signal));
    fork.#mixedFrom = this.#mixedFrom;
    return fork;
  }

  /** Replaces the content by that of another sequence of the pool, sharing its cells. */
  async adopt(other: Sequence, options: SignalOption = {}): Promise<void> {
    checkKeys("options", options, ["signal"]);
    const source = this.#native(other);
    await run(LatentError.translate(() => this.#handle.adopt(source)), options.signal);
    this.#mixedFrom = other.#mixedFrom;
  }

  /**
   * Puts the content of another sequence of the pool behind this one's.
   * `recompute` feeds its log again at the new positions: exact. `shift` copies its cells and rotates their keys on: fast, but its positions never
   * attended to this sequence.
   * @returns positions added
   * @throws {@link LatentError} `ERR_LATENT_POSITION_SCHEME` (keys of this model cannot be moved), `ERR_LATENT_CONTEXT_OVERFLOW`; of a cache that is used in
   * place on a GPU also `ERR_LATENT_DEVICE_FAILED`
   */
  async append(other: Sequence, options: { readonly mode: "recompute" | "shift"; readonly signal?: AbortSignal }): Promise<number> {
    checkKeys("options", options, ["mode", "signal"]);
    const mode = checkOneOf("mode", options.mode, ["recompute", "shift"]);
    const source = this.#native(other);
    const before = this.length;
    const added = await run(LatentError.translate(() => this.#handle.append(source, mode)), options.signal);
    if (mode === "shift" && added > 0) this.#mix(before === 0 ? other.#mixedFrom : before);
    return added;
  }

  /** Keeps the first `length` positions. */
  async truncate(length: number, options: SignalOption = {}): Promise<void> {
    checkKeys("options", options, ["signal"]);
    checkInteger("length", length, 0, this.length);
    await run(LatentError.translate(() => this.#handle.truncate(length)), options.signal);
    this.#cut(length);
  }

  /**
   * Removes entries `[from, to)`. `reanchor` (default) moves the rest down and rotates its keys; `keep` leaves a gap, which {@link contiguous} tells.
   * @throws {@link LatentError} `ERR_LATENT_POSITION_SCHEME`; of a cache that is used in place on a GPU also `ERR_LATENT_DEVICE_FAILED`
   */
  async drop(range: { readonly from: number; readonly to: number }, options: { readonly positions?: "reanchor" | "keep"; readonly signal?: AbortSignal } = {}): Promise<void> {
    checkKeys("range", range, ["from", "to"]);
    checkKeys("options", options, ["positions", "signal"]);
    const to = checkInteger("to", range.to, 0, this.length);
    const from = checkInteger("from", range.from, 0, to);
    const positions = checkOneOf("positions", fallback(options.positions, "reanchor"), ["reanchor", "keep"]);
    await run(LatentError.translate(() => this.#handle.drop(from, to, positions === "reanchor")), options.signal);
    if (from === to) return;
    this.#cut(from);
    if (this.length > from) this.#mix(from);
  }

  /**
   * Keeps the last `count` positions, re-anchored to position 0: what {@link drop} of all before them does.
   * @throws {@link LatentError} `ERR_LATENT_POSITION_SCHEME`
   */
  async keepLast(count: number, options: SignalOption = {}): Promise<void> {
    checkInteger("count", count, 0, this.length);
    await this.drop({ from: 0, to: this.length - count }, options);
  }

  /**
   * Takes what the sequence holds, or a range of it, out of the cache: a handle to a copy in native memory. The sequence goes on as it was.
   * @throws {@link LatentError} `ERR_LATENT_KV_LAYOUT` (a cache that cannot be read: latent attention, M-RoPE, layers that share theirs),
   * `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_NON_FINITE` (a number that `format` cannot hold); of a cache in place on the GPU also
   * `ERR_LATENT_DEVICE_FAILED`, `ERR_LATENT_DEVICE_LOST`
   */
  async exportKv(options: ExportKvOptions = {}): Promise<KvHandle> {
    checkKeys("options", options, ["range", "layers", "format", "label", "signal"]);
    const layers = options.layers === undefined ? undefined : this.#checkLayers(options.layers);
    const { label, from, to, mixedFrom } = this.#part(options);
    const kv = new KvHandle(await run(LatentError.translate(() => this.#handle.exportKv(from, to)), options.signal), this.pool.kvIdentity, label, mixedFrom);
    if (layers === undefined && options.format === undefined) return kv;
    using whole = kv;
    const chosen = whole.select(layers ?? whole.info.layers.map(({ layer }) => layer));
    if (options.format === undefined) return chosen;
    using plain = chosen;
    return await plain.convert(options.format, withSignal(options.signal));
  }

  /**
   * The same of a pool whose cache is used in place on the GPU ({@link PoolOptions.inPlace}): the copy stays there.
   * @throws {@link LatentError} `ERR_LATENT_DEVICE_UNAVAILABLE` (another pool), `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_DEVICE_FAILED`,
   * `ERR_LATENT_DEVICE_LOST`
   */
  async exportDeviceKv(options: ExportDeviceKvOptions = {}): Promise<DeviceKv> {
    checkKeys("options", options, ["range", "label", "signal"]);
    const { label, from, to, mixedFrom } = this.#part(options);
    const exported = LatentError.translate(() => this.#handle.exportDeviceKv(from, to));
    return new DeviceKv(await run(exported, options.signal), this.pool.kvIdentity, label, mixedFrom);
  }

  /**
   * Adds content to the end, by the shortest way that there is from `source`: another sequence, of this pool (its cells are shared where positions allow
   * it) or of another one; a handle; content on the GPU; the reference of {@link KvHandle.share} or {@link DeviceKv.share}; or a stream of {@link KvHandle.records}. All of it is verified first; when
   * this fails or is aborted, the sequence is as it was. Numbers of another format are converted. `positions` says where the entries come to lie:
   * `append`, the default, behind what is there; `keep`, where they were; `{ at }`, from there on. Keys that move are turned to their new positions. What
   * lay in the sequence before was not read by the sender: the joint content then is an approximation of having read both.
   * @throws {@link LatentError} `ERR_LATENT_KV_MODEL_MISMATCH`, `ERR_LATENT_KV_LAYOUT` (a cache that cannot be read; content that lacks layers), `ERR_LATENT_KV_POSITION` (positions that overlap, are repeated, or
   * lie outside the context), `ERR_LATENT_POSITION_SCHEME` (keys of this model cannot move), `ERR_LATENT_CONTEXT_OVERFLOW` (no room),
   * `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; with `spot`, `ERR_LATENT_KV_FORGED` and `ERR_LATENT_SEQUENCE_LIMIT`; for a stream also what
   * {@link KvReceiver.read} throws, for a reference what {@link KvReceiver.open} throws; where the GPU takes part, `ERR_LATENT_DEVICE_FAILED`,
   * `ERR_LATENT_DEVICE_LOST`, and for content there `ERR_LATENT_DEVICE_UNAVAILABLE`
   */
  async importKv(source: Sequence | KvHandle | DeviceKv | KvSharedReference | DeviceKvReference | KvSource, options: ImportKvOptions = {}): Promise<KvImport> {
    checkKeys("options", options, ["positions", "idleMs", "verify", "codecs", "spot", "signal"]);
    if (options.spot !== undefined) spotOf(options.spot);
    if (options.verify !== undefined && (source instanceof KvHandle || source instanceof DeviceKv || source instanceof Sequence))
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "a handle or sequence carries no signature any more: verify what it is read from");
    checkPlace(options.positions);
    const started = performance.now();
    const facts = source instanceof Sequence ? await this.#importSequence(source, options) : await this.#importContent(source, options);
    return { ...facts, ms: performance.now() - started };
  }

  /**
   * Adds what {@link sendKv} sends over a link to the end, and tells the sender only then that it was taken: `positions`, `verify` and `spot` as for
   * {@link importKv}, the rest as for {@link Pool.receiveKv}.
   * @throws {@link LatentError} what {@link importKv} and {@link KvReceiver.receive} throw; the sender throws the same
   */
  async receiveKv(duplex: Duplex, options: ReceiveKvOptions = {}): Promise<KvReceipt> {
    const { positions, verify, codecs, spot, ...receiving } = options;
    checkKeys("options", receiving, receiveOptions);
    checkPlace(positions);
    if (spot !== undefined) spotOf(spot);
    const started = performance.now();
    const importing = { ...(positions !== undefined && { positions }), ...(spot !== undefined && { spot }) };
    const expected = { ...(verify !== undefined && { verify }), ...(codecs !== undefined && { codecs }) };
    const take = async (received: KvHandle | DeviceKv, { way, why }: KvArrival, signal: AbortSignal): Promise<KvReceipt> => {
      using kv = received;
      const report = await this.importKv(kv, { ...importing, signal });
      // what came on the device may have gone into the cache by the host
      return { ...report, way: way === "device" ? report.way : way, why, ms: performance.now() - started };
    };
    const takers = { host: take, ...(this.pool.info.device === "cuda" && { device: take }) };
    return await receiveOnce(duplex, () => this.pool.kvReceiver(expected), receiving, takers);
  }

  /**
   * The whole content as bytes, for {@link Pool.restore} here or in another process: {@link exportKv} and {@link KvHandle.toBytes}.
   * @throws {@link LatentError} what {@link exportKv} throws
   */
  async save(
    options: { readonly codec?: KvCodecChoice; readonly sign?: KvSigner; readonly signal?: AbortSignal } = {},
  ): Promise<Uint8Array> {
    checkKeys("options", options, ["codec", "sign", "signal"]);
    if (options.sign !== undefined) signerOf(options.sign);
    using kv = await this.exportKv(withSignal(options.signal));
    return await kv.toBytes(options);
  }

  /** Stops what runs and frees the cells; idempotent. */
  async dispose(): Promise<void> {
    if (!this.#handle.disposed) await run(this.#handle.dispose());
  }

  /** Same as {@link dispose}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #checkLayers(layers: readonly number[]): number[] {
    checkArray("layers", layers);
    if (layers.length === 0) throw invalid("layers", "the numbers of one layer or more", layers);
    for (const layer of layers) checkInteger("layers", layer, 0, this.pool.model.info.layers - 1);
    return [...new Set(layers)].sort((a, b) => a - b);
  }

  async #importContent(
    source: KvHandle | DeviceKv | KvSharedReference | DeviceKvReference | KvSource,
    options: ImportKvOptions,
  ): Promise<Omit<KvImport, "ms">> {
    const { positions: where = "append", spot, ...reading } = options;
    const received = source instanceof KvHandle || source instanceof DeviceKv ? undefined : await this.#receive(source, reading);
    const kv = received ?? (source as KvHandle | DeviceKv);
    try {
      requireSameIdentity(kv.identity, this.pool.kvIdentity);
      // of some layers only, it is refused in any case
      if (spot && !kv.info.partial) await this.#checkSpot(kv, spot, options.signal);
      const there = kv.positions();
      const base = this.#base(where);
      const positions = base < 0 ? there : there.map((_position, entry) => base + entry);
      const moved = there.reduce((count, position, entry) => count + (position === positions[entry] ? 0 : 1), 0);
      const before = this.length;
      const stayed = await this.#write(kv, positions, options.signal);
      // keys that were turned and numbers that were converted are not what was read
      const isExact = moved === 0 && isOfFormat(kv.info, this.pool.info.kvType);
      if (kv.length > 0) this.#mix(before > 0 ? before : isExact ? kv.mixedFrom : 0);
      const way = stayed ? "device" : kv instanceof DeviceKv ? "copy" : kv.isShared ? "shared-memory" : received === undefined ? "copy" : "stream";
      return { positions: kv.length, latents: kv.info.latents, bytes: kv.info.bytes, moved, way };
    } finally {
      received?.dispose();
    }
  }

  async #receive(
    source: KvSharedReference | DeviceKvReference | KvSource,
    reading: Pick<ImportKvOptions, "idleMs" | "verify" | "codecs" | "signal">,
  ): Promise<KvHandle | DeviceKv> {
    if (!isDeviceReference(source)) return await this.pool.readKv(source, reading);
    const { verify, signal } = reading;
    return await this.pool.openDeviceKv(source, { ...(verify !== undefined && { verify }), ...withSignal(signal) });
  }

  async #checkSpot(kv: KvHandle | DeviceKv, spot: KvSpot, signal: AbortSignal | undefined): Promise<void> {
    using copy = kv instanceof DeviceKv ? await kv.toHandle(withSignal(signal)) : kv.alias();
    await checkSpot(this.pool, copy, spotOf(spot), signal);
  }

  /** Whether it came and stayed on the device. */
  async #write(kv: KvHandle | DeviceKv, positions: Int32Array, signal: AbortSignal | undefined): Promise<boolean> {
    if (kv instanceof DeviceKv) return await run(LatentError.translate(() => this.#handle.importDeviceKv(kv.toNative(), positions)), signal);
    await run(LatentError.translate(() => this.#handle.importKv(kv.toNative(), positions)), signal);
    return false;
  }

  /** Shares cells if nothing has to be turned, converted or looked at; else one export and one import, on the device if both are there. */
  async #importSequence(source: Sequence, options: ImportKvOptions): Promise<Omit<KvImport, "ms">> {
    if (source === this) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "a sequence cannot be joined with itself");
    const { positions: where = "append", spot, signal } = options;
    if (source.pool === this.pool && spot === undefined) {
      const before = this.length;
      const log = source.log();
      const shared = LatentError.translate(() => this.#handle.shareCells(source.#handle, this.#base(where)));
      if (await run(shared, signal)) {
        if (log.length > 0) this.#mix(before > 0 ? before : source.#mixedFrom);
        const latents = log.reduce((sum, token) => sum + (token < 0 ? 1 : 0), 0);
        return { positions: log.length, latents, bytes: 0, moved: 0, way: "cells" };
      }
    }
    if (source.pool.info.device === "cuda" && this.pool.info.device === "cuda") {
      try {
        using there = await source.exportDeviceKv(withSignal(signal));
        return await this.#importContent(there, options);
      } catch (error) {
        // a device that is full of caches has no room for a copy; the host takes it in parts
        if (!LatentError.isInstance(error) || error.code !== "ERR_LATENT_OUT_OF_MEMORY") throw error;
      }
    }
    using kv = await source.exportKv(withSignal(signal));
    return await this.#importContent(kv, options);
  }

  /** Which entries are asked for, and what is said of them. */
  #part({ range, label }: Pick<ExportKvOptions, "range" | "label">): KvRange & { readonly label: string; readonly mixedFrom: number } {
    const name = checkLabel(fallback(label, ""));
    const asked = fallback(range, { from: 0, to: this.length });
    checkKeys("range", asked, ["from", "to"]);
    const to = checkInteger("to", asked.to, 0, this.length);
    const from = checkInteger("from", asked.from, 0, to);
    return { label: name, from, to, mixedFrom: Math.max(0, this.#mixedFrom - from) };
  }

  /** Where the first of entries comes to lie that follow each other; -1 where each stays where it is. */
  #base(where: NonNullable<ImportKvOptions["positions"]>): number {
    return where === "keep" ? -1 : where === "append" ? this.nextPosition : where.at;
  }

  #mix(from: number): void {
    this.#mixedFrom = Math.min(this.#mixedFrom, from);
  }

  #cut(length: number): void {
    if (this.#mixedFrom >= length) this.#mixedFrom = Number.POSITIVE_INFINITY;
  }

  #rowsOf(latent: Latent): Tensor {
    if (latent.kind !== "embeds") throw new LatentError("ERR_LATENT_SPACE_MISMATCH", "only latents of kind 'embeds' can be fed as input");
    requireSameSpace(latent.space, this.pool.model.space, "the latent");
    return latent.tensor();
  }

  #native(other: Sequence): NativeSequence {
    if (!(other instanceof Sequence)) throw invalid("other", "a Sequence", other);
    return other.#handle;
  }
}

function checkPlace(where: ImportKvOptions["positions"]): void {
  if (where === undefined || where === "keep" || where === "append") return;
  checkKeys("positions", where, ["at"]);
  checkInteger("positions.at", where.at, 0, 2 ** 31 - 1);
}
