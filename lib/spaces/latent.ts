// The handle that agents hand over: vectors in native memory with the name of their space. Frameworks may pass, log and checkpoint it freely,
// because it turns into a small reference and never into a million numbers.
import { randomUUID } from "node:crypto";
import type { Tensor, Dtype } from "../tensor.js";
import type { Space } from "./space.js";

/** `embeds`: rows that can be fed as input. `hidden`: states after the final norm. `relative`: similarities to anchors. `pooled`: one row a text. */
export type LatentKind = "embeds" | "hidden" | "relative" | "pooled";

/** What a {@link Latent} becomes in JSON: enough to find and check it, not its contents. */
export interface LatentReference {
  readonly $latent: string;
  readonly space: string;
  readonly kind: LatentKind;
  readonly shape: readonly [number, number];
  readonly dtype: Dtype;
  readonly bytes: number;
}

/** A sequence of `n` vectors of dimension `d` in one {@link Space}; the data stays in native memory until {@link Latent.tensor} is called. */
export class Latent {
  readonly id = randomUUID();
  readonly #tensor: Tensor;

  constructor(
    readonly space: Space,
    readonly kind: LatentKind,
    tensor: Tensor,
  ) {
    this.#tensor = tensor;
  }

  /** `[n, d]` */
  get shape(): readonly [number, number] {
    const [n = 0, d = 0] = this.#tensor.shape;
    return [n, d];
  }

  get dtype(): Dtype {
    return this.#tensor.dtype;
  }

  /** Size of the vectors in bytes. */
  get bytes(): number {
    return this.#tensor.byteLength;
  }

  get disposed(): boolean {
    return this.#tensor.disposed;
  }

  /** The native tensor, shape `[n, d]`. Shared, not copied: disposing it disposes this latent. */
  tensor(): Tensor {
    return this.#tensor;
  }

  /** @internal One more handle to the same vectors, for another owner; no bytes move. */
  alias(): Latent {
    return new Latent(this.space, this.kind, this.#tensor.alias());
  }

  /** The small reference; called by JSON.stringify. */
  toJSON(): LatentReference {
    return { $latent: this.id, space: this.space.id, kind: this.kind, shape: this.shape, dtype: this.dtype, bytes: this.bytes };
  }

  /** Frees the native memory; idempotent. */
  dispose(): void {
    this.#tensor.dispose();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
