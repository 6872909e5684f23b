// The KVTC codec: fitted once to a model, saved, and then used by every sender and receiver of that model.
import { inspect } from "node:util";
import { invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { run } from "../jobs.js";
import { native } from "../native.js";
import type { NativeKvtc } from "../native-kv.js";
import type { KvIdentity } from "./identity.js";

/**
 * A codec of principal components (KVTC, Staniszewski & Łańcucki 2026), made by {@link Pool.fitKvtc} and good for content of that model alone. Keys are
 * turned back to position 0; the numbers of each layer's keys and values are written in the principal components of the samples, rounded to steps
 * that a budget of bits was shared out for, and entropy coded (rANS, with frequencies from the samples). The first 4 entries of the content and its last
 * 128 stay as they are. A sender and a receiver need the same fit: {@link save} it, and {@link load} it there.
 */
export class Kvtc {
  readonly #handle: NativeKvtc;
  /** What streams call it: `kvtc-` and a digest of the fit. */
  readonly name: string;
  /** Of the content that it is for. */
  readonly identity: KvIdentity;
  /** How many components are kept of the keys and of the values of each layer. */
  readonly ranks: readonly { readonly keys: number; readonly values: number }[];

  /** @internal */
  constructor(handle: NativeKvtc) {
    this.#handle = handle;
    this.name = handle.name();
    this.identity = Object.freeze(Object.fromEntries(handle.identity()));
    const ranks = handle.ranks();
    this.ranks = Object.freeze(
      Array.from({ length: ranks.length / 2 }, (_, layer) =>
        Object.freeze({ keys: ranks[2 * layer] ?? 0, values: ranks[2 * layer + 1] ?? 0 }),
      ),
    );
  }

  /**
   * The fit that {@link save} wrote. All of it is checked; it has a digest.
   * @throws {@link LatentError} `ERR_LATENT_KV_FORMAT`, `ERR_LATENT_KV_TRUNCATED`, `ERR_LATENT_KV_CHECKSUM`, `ERR_LATENT_KV_VERSION`,
   * `ERR_LATENT_KV_LIMIT`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  static async load(bytes: Uint8Array): Promise<Kvtc> {
    if (!(bytes instanceof Uint8Array)) throw invalid("bytes", "a Uint8Array", bytes);
    return new Kvtc(await run(LatentError.translate(() => native().readKvtc(bytes))));
  }

  /**
   * The bytes of a file: two a channel and kept component, besides tables.
   * @throws {@link LatentError} `ERR_LATENT_DISPOSED`
   */
  save(): Uint8Array {
    return LatentError.translate(() => this.#handle.file());
  }

  /** @internal */
  toNative(): NativeKvtc {
    return this.#handle;
  }

  /** @internal */
  [inspect.custom](): string {
    return `Kvtc { ${this.name}, ${this.ranks.length} layers }`;
  }

  /** Frees the memory, once no stream uses it. Idempotent. */
  dispose(): void {
    this.#handle.dispose();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
