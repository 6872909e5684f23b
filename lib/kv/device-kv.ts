// What a sequence holds, in the memory of the GPU: it goes from a pool to another one, of this process or of another one of this machine, without
// passing through the host.
import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import { checkKeys, checkOneOf, checkString, invalid } from "../check.js";
import { runOn } from "../devices.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import type { NativeDeviceShare } from "../native-device.js";
import { withSignal } from "../jobs.js";
import type { NativeDeviceKv, NativeKvPiece } from "../native-kv.js";
import { chunkPositions } from "./chain.js";
import { KvHandle, notesFor, recordPlan, sealOf, type KvInfo, type KvRecordsOptions } from "./handle.js";
import type { KvIdentity } from "./identity.js";
import { RecordStream } from "./records.js";
import { checkNonce, checkSignature, machineIdentity, requireSameMachine } from "./shared.js";
import { signerOf, type KvSigner } from "./signature.js";

/** Of what travels from the GPU at a time, at least a chunk. */
const pieceBytes = 16 << 20;

/** Where content lies on the GPU: a plain object of a few hundred bytes that can go by any channel. Made by {@link DeviceKv.share}. */
export interface DeviceKvReference {
  readonly kind: "kv-device";
  readonly device: "cuda";
  /** Of which machine, and of which view of its processes. */
  readonly machine: string;
  /** 64 bytes in base64: a handle of CUDA IPC. */
  readonly handle: string;
  /** Of the segment, 16 bytes in hex. */
  readonly nonce: string;
  /** Who made it, in base64; "" if nobody signed it. */
  readonly signature: string;
}

/** A copy of content on the GPU that other threads and processes of this machine can take as long as this is not disposed. */
export class DeviceKvShared {
  readonly #share: NativeDeviceShare;
  readonly reference: DeviceKvReference;

  /** @internal */
  constructor(share: NativeDeviceShare, machine: string, nonce: Uint8Array, signature: Uint8Array) {
    this.#share = share;
    const texts = {
      handle: Buffer.from(share.handle).toString("base64"),
      nonce: Buffer.from(nonce).toString("hex"),
      signature: Buffer.from(signature).toString("base64"),
    };
    this.reference = Object.freeze({ kind: "kv-device", device: "cuda", machine, ...texts });
  }

  get disposed(): boolean {
    return this.#share.disposed;
  }

  /** Nobody else can take it from now on; who has taken it by then has a copy of its own. Idempotent. */
  dispose(): void {
    this.#share.dispose();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * What a sequence holds, in the memory of the GPU. Made by {@link Sequence.exportDeviceKv}, {@link DeviceKv.of} and {@link Pool.openDeviceKv}; for
 * `sequence.importKv`.
 */
export class DeviceKv {
  readonly #handle: NativeDeviceKv;
  /** What the numbers mean; equal in every pool that can take them. */
  readonly identity: KvIdentity;
  /** What the sender called it; "" if nothing. */
  readonly label: string;
  /** How many positions, in which formats, how many bytes. */
  readonly info: KvInfo;

  /** @internal As of {@link KvHandle}. */
  readonly mixedFrom: number;

  /** @internal */
  constructor(handle: NativeDeviceKv, identity: KvIdentity, label: string, mixedFrom: number) {
    this.#handle = handle;
    this.identity = identity;
    this.label = label;
    this.mixedFrom = mixedFrom;
    this.info = Object.freeze(handle.info());
  }

  /**
   * A copy of a handle's content on the GPU.
   * @throws {@link LatentError} `ERR_LATENT_DEVICE_UNAVAILABLE`, `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_DEVICE_FAILED`, `ERR_LATENT_DEVICE_LOST`,
   * `ERR_LATENT_DISPOSED`
   */
  static async of(kv: KvHandle, options: { readonly signal?: AbortSignal } = {}): Promise<DeviceKv> {
    if (!(kv instanceof KvHandle)) throw invalid("kv", "a KvHandle", kv);
    checkKeys("options", options, ["signal"]);
    const copied = LatentError.translate(() => native().kvToDevice(kv.toNative()));
    return new DeviceKv(await runOn("cuda", copied, options.signal), kv.identity, kv.label, kv.mixedFrom);
  }

  /** Positions held. */
  get length(): number {
    return this.info.positions;
  }

  get disposed(): boolean {
    return this.#handle.disposed;
  }

  /** Token ids; -1 where a latent stands. */
  tokens(): Int32Array {
    return LatentError.translate(() => this.#handle.tokens());
  }

  /** The positions that the keys are turned to. */
  positions(): Int32Array {
    return LatentError.translate(() => this.#handle.positions());
  }

  /**
   * A copy in the memory of the host, which can be cut, joined, converted, stored and sent.
   * @throws {@link LatentError} `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_DEVICE_FAILED`, `ERR_LATENT_DEVICE_LOST`, `ERR_LATENT_DISPOSED`
   */
  async toHandle(options: { readonly signal?: AbortSignal } = {}): Promise<KvHandle> {
    checkKeys("options", options, ["signal"]);
    const copied = LatentError.translate(() => this.#handle.toHost());
    return new KvHandle(await runOn("cuda", copied, options.signal), this.identity, this.label, this.mixedFrom);
  }

  /**
   * The content as a stream of records, byte for byte that of {@link KvHandle.records}, which needs no copy of it all on the host: about 16 MB, at least
   * 256 positions, travel while those before them are encoded and written. With the codec `fp8`, keys and values that are stored as f32, f16 or bf16 are
   * encoded on the GPU, and fewer bytes travel; other codecs work on the CPU. For a plug-in it is copied as by {@link toHandle}.
   * @throws {@link LatentError} those of {@link KvHandle.records}, `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_DEVICE_FAILED`, `ERR_LATENT_DEVICE_LOST`
   */
  async *records(options: KvRecordsOptions = {}): AsyncGenerator<Uint8Array, void, undefined> {
    yield* this.recordsIn(options, false);
  }

  /** @internal As of {@link KvHandle}. */
  async *recordsIn(options: KvRecordsOptions, reuse: boolean): AsyncGenerator<Uint8Array, void, undefined> {
    const plan = recordPlan(this, options);
    if (plan.codecs.plugins.size > 0) {
      using host = await this.toHandle(withSignal(plan.signal));
      yield* host.recordsOf(plan, reuse);
      return;
    }
    const left = new AbortController();
    const signal = plan.signal === undefined ? left.signal : AbortSignal.any([plan.signal, left.signal]);
    const stream = new RecordStream(this, { ...plan.stream, reuse });
    const chunkBytes = (this.info.bytes / Math.max(1, this.length)) * chunkPositions;
    const step = Math.max(1, Math.floor(pieceBytes / Math.max(1, chunkBytes))) * chunkPositions;
    const fetch = (from: number): Promise<NativeKvPiece> | undefined => {
      const piece = from < this.length ? stream.piece(from, Math.min(from + step, this.length), signal) : undefined;
      // whether it fails is seen when it is its turn
      piece?.catch(() => undefined);
      return piece;
    };
    let coming = fetch(0);
    try {
      // the manifest
      yield* stream.write(plan.held, signal);
      for (let from = step; coming !== undefined; from += step) {
        const piece = await coming;
        coming = fetch(from);
        try {
          stream.append(piece);
        } finally {
          piece.dispose();
        }
        yield* stream.write(plan.held, signal);
      }
    } finally {
      left.abort();
      (await coming?.catch(() => undefined))?.dispose();
      stream.dispose();
    }
  }

  /**
   * Puts a copy into memory of the GPU that other threads and processes of this machine can take it from ({@link Pool.openDeviceKv},
   * {@link Sequence.importKv}), by a small reference. With `sign`, it says who made it; the seal is computed on the host.
   * @throws {@link LatentError} `ERR_LATENT_KV_UNREACHABLE` (not on this system), `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_DEVICE_FAILED`,
   * `ERR_LATENT_DEVICE_LOST`, `ERR_LATENT_DISPOSED`
   */
  async share(options: { readonly sign?: KvSigner; readonly signal?: AbortSignal } = {}): Promise<DeviceKvShared> {
    checkKeys("options", options, ["sign", "signal"]);
    const sign = options.sign === undefined ? undefined : signerOf(options.sign);
    const machine = machineIdentity();
    requireSameMachine(machine);
    const nonce = randomBytes(16);
    const notes = notesFor(this, sign !== undefined);
    const shared = LatentError.translate(() => this.#handle.share(Object.entries(this.identity), notes, nonce));
    const share = await runOn("cuda", shared, options.signal);
    try {
      let signature: Uint8Array = new Uint8Array(0);
      if (sign !== undefined) {
        using host = await this.toHandle(withSignal(options.signal));
        signature = sign(await sealOf(host, notes, options.signal));
      }
      return new DeviceKvShared(share, machine, nonce, signature);
    } catch (error) {
      share.dispose();
      throw error;
    }
  }

  /** @internal */
  toNative(): NativeDeviceKv {
    return this.#handle;
  }

  /** @internal */
  [inspect.custom](): string {
    const { positions, latents, bytes } = this.info;
    return `DeviceKv { ${positions} positions (${latents} latents), ${bytes} bytes on cuda${this.disposed ? ", disposed" : ""} }`;
  }

  /** Frees the memory. Idempotent. */
  dispose(): void {
    this.#handle.dispose();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @internal Whether it is meant to be a reference, sound or not. */
export function isDeviceReference(value: unknown): value is DeviceKvReference {
  return typeof value === "object" && value !== null && Reflect.get(value, "kind") === "kv-device";
}

/** @internal Every field is checked: references come from outside. */
export function devicePlaceOf(reference: DeviceKvReference): {
  readonly machine: string;
  readonly handle: Uint8Array;
  readonly nonce: Uint8Array;
  readonly signature: Uint8Array;
} {
  checkKeys("reference", reference, ["kind", "device", "machine", "handle", "nonce", "signature"]);
  checkOneOf("reference.kind", reference.kind, ["kv-device"]);
  checkOneOf("reference.device", reference.device, ["cuda"]);
  const handle = Buffer.from(checkString("reference.handle", reference.handle), "base64");
  if (handle.length !== 64 || handle.toString("base64") !== reference.handle)
    throw invalid("reference.handle", "64 bytes in base64", reference.handle);
  return {
    machine: checkString("reference.machine", reference.machine),
    handle: new Uint8Array(handle),
    nonce: checkNonce(reference.nonce),
    signature: checkSignature(reference.signature),
  };
}
