// Who a message is from. Heads may be signed by their sender's bus and are believed only if the key of the name that they bear has signed them; what was
// seen before, or is too old, is refused.
import type { KeyObject } from "node:crypto";
import { checkKeys, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { blake3 } from "../kernels/statistics.js";
import { signerOf, verifierOf, type KvSigner } from "../kv/signature.js";
import { checkName, decodeEnvelope, encodeEnvelope, type Envelope } from "./envelope.js";

/** Secrets of 16 bytes or more (HMAC-SHA-256) or Ed25519 keys, public ones to verify. */
export type BusKey = Uint8Array | KeyObject;

/** Keys by the names of the buses that may send. */
export type BusTrust = Readonly<Record<string, BusKey>>;

const context = "latentwire bus";

export class Notary {
  readonly #sign: ((seal: Uint8Array) => Uint8Array) | undefined;
  readonly #verifiers: ReadonlyMap<string, (seal: Uint8Array, signature: Uint8Array) => void> | undefined;

  /** @throws LatentError `ERR_LATENT_INVALID_ARGUMENT` */
  constructor(sign: Omit<KvSigner, "context"> | undefined, trust: BusTrust | undefined) {
    if (sign !== undefined) {
      checkKeys("sign", sign, ["key", "validForMs"]);
      this.#sign = signerOf({ ...sign, context });
    }
    if (trust !== undefined) {
      const given: unknown = trust;
      if (typeof given !== "object" || given === null) throw invalid("trust", "an object of keys by name", given);
      this.#verifiers = new Map(
        Object.entries(trust).map(([name, key]) => [checkName("trust", name), verifierOf({ keys: [key], context })] as const),
      );
    }
  }

  /** Whether others are asked to sign. */
  get isStrict(): boolean {
    return this.#verifiers !== undefined;
  }

  headOf(envelope: Envelope): string {
    const json = encodeEnvelope(envelope);
    return this.#sign === undefined ? json : `${json}\n${Buffer.from(this.#sign(sealOf(json))).toString("base64")}`;
  }

  /**
   * What the head says, if it is from whom it says.
   * @throws LatentError `ERR_LATENT_BUS_ENVELOPE`, `ERR_LATENT_BUS_FORGED`
   */
  read(head: string): Envelope {
    const end = head.indexOf("\n");
    const json = end < 0 ? head : head.slice(0, end);
    const envelope = decodeEnvelope(json);
    if (this.#verifiers === undefined) return envelope;
    const verify = this.#verifiers.get(envelope.from);
    if (verify === undefined) throw forged(`nobody has said which key '${envelope.from}' signs with`);
    try {
      verify(sealOf(json), end < 0 ? new Uint8Array(0) : Buffer.from(head.slice(end + 1), "base64"));
    } catch (error) {
      if (LatentError.isInstance(error)) throw forged(error.message);
      throw error;
    }
    return envelope;
  }
}

const sealOf = (json: string): Uint8Array => Buffer.from(blake3(Buffer.from(json)), "hex");
const forged = (why: string): LatentError => new LatentError("ERR_LATENT_BUS_FORGED", `a message was refused: ${why}`);
