// What a number format of the cache, or a codec on the way, costs: how far the model's next words move when it goes on from what comes of them.
import { checkArray, checkInteger, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { withSignal } from "../jobs.js";
import type { Pool } from "../models/pool.js";
import type { Sequence } from "../models/sequence.js";
import type { KvCodecChoice, KvPlugin } from "./codec.js";
import { kvFormats, type KvFormat, type KvHandle } from "./handle.js";
import type { Kvtc } from "./kvtc.js";

/** Options of {@link kvQuality}. */
export interface KvQualityOptions {
  /** What is held in another format. Default: `q8_0` and `q4_0`, or none if there are `codecs`. */
  readonly formats?: readonly KvFormat[];
  /** What is sent in a codec, by the names that results shall have. Default: none. */
  readonly codecs?: Readonly<Record<string, KvCodecChoice>>;
  /** The fitted codecs and plug-ins among them. Default: none. */
  readonly known?: readonly (Kvtc | KvPlugin)[];
  /** How many tokens at the end are predicted; those before them are what is converted. Default 64, or half of the tokens if that is less. */
  readonly predicted?: number;
  readonly signal?: AbortSignal;
}

/** What {@link kvQuality} found of one format or codec. */
export interface KvQuality {
  /** The format, or the name of the codec. */
  readonly format: string;
  /** Of keys and values, exactly: as they are held in a format, or on the wire in a codec. */
  readonly bytes: number;
  /** Bytes as the cache has them over these. */
  readonly ratio: number;
  /** Kullback-Leibler divergence of the next token's distribution from that of the unconverted cache, in nats. */
  readonly kl: { readonly mean: number; readonly max: number };
  /** Share of the predicted tokens at which the most likely one is the same. */
  readonly top1Agreement: number;
  readonly converted: number;
  readonly predicted: number;
}

/**
 * Reads the first tokens, converts what the cache holds to each format and back into the pool's, or sends it in each codec, feeds the rest token by
 * token, and compares each distribution with that of the same continuation without a conversion. Needs two free sequences, and cells for the tokens twice.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (fewer than 2 tokens), `ERR_LATENT_CONTEXT_OVERFLOW`, `ERR_LATENT_SEQUENCE_LIMIT`,
 * `ERR_LATENT_KV_LAYOUT`
 */
export async function kvQuality(pool: Pool, tokens: Int32Array, options: KvQualityOptions = {}): Promise<readonly KvQuality[]> {
  checkKeys("options", options, ["formats", "codecs", "known", "predicted", "signal"]);
  const standard = options.codecs === undefined ? (["q8_0", "q4_0"] as const) : [];
  const formats = checkArray("formats", fallback(options.formats, standard));
  for (const format of formats) checkOneOf("formats", format, kvFormats);
  if (!(tokens instanceof Int32Array) || tokens.length < 2) throw invalid("tokens", "an Int32Array of at least 2 tokens", tokens);
  const half = Math.floor(tokens.length / 2);
  const predicted = checkInteger("predicted", fallback(options.predicted, Math.min(64, half)), 1, tokens.length - 1);
  const signal = withSignal(options.signal);
  const head = tokens.subarray(0, tokens.length - predicted);
  const tail = tokens.subarray(tokens.length - predicted);

  await using plain = pool.sequence();
  await plain.prefill(head, signal);
  using kv = await plain.exportKv(signal);
  const wanted: Float64Array[] = [];
  await predict(plain, tail, signal, (logits) => wanted.push(logProbabilities(logits)));
  const found: KvQuality[] = [];
  const take = async (format: string, converted: KvHandle, bytes: number): Promise<void> => {
    await using sequence = pool.sequence();
    await sequence.importKv(converted, { positions: "keep", ...signal });
    let [sum, max, agree, at] = [0, 0, 0, 0];
    await predict(sequence, tail, signal, (logits) => {
      const p = wanted[at++] ?? new Float64Array(0);
      const q = logProbabilities(logits);
      const kl = divergence(p, q);
      sum += kl;
      max = Math.max(max, kl);
      if (argmax(p) === argmax(q)) agree++;
    });
    found.push({
      format,
      bytes,
      ratio: kv.info.bytes / bytes,
      kl: { mean: sum / predicted, max },
      top1Agreement: agree / predicted,
      converted: head.length,
      predicted,
    });
  };
  for (const format of formats) {
    using converted = await kv.convert(format, signal);
    await take(format, converted, converted.info.bytes);
  }
  for (const [name, codec] of Object.entries(options.codecs ?? {})) {
    using receiver = pool.kvReceiver({ codecs: options.known ?? [] });
    using arrived = await receiver.read(kv.records({ codec, ...signal }), signal);
    await take(name, arrived, receiver.tileBytes);
  }
  return found;
}

/** The logits before each token of `tail`, which is fed one by one. */
async function predict(
  sequence: Sequence,
  tail: Int32Array,
  signal: { readonly signal?: AbortSignal },
  take: (logits: Float32Array) => void,
): Promise<void> {
  for (let i = 0; i < tail.length; i++) {
    using logits = await sequence.logits(signal);
    take(logits.toFloat32());
    if (i + 1 < tail.length) await sequence.prefill(tail.subarray(i, i + 1), signal);
  }
}

function logProbabilities(logits: Float32Array): Float64Array {
  const top = logits.reduce((most, x) => Math.max(most, x), -Infinity);
  if (!Number.isFinite(top)) throw new LatentError("ERR_LATENT_NON_FINITE", "the logits are not finite");
  const shift = top + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - top), 0));
  return Float64Array.from(logits, (x) => x - shift);
}

function divergence(p: Float64Array, q: Float64Array): number {
  return p.reduce((sum, log, i) => sum + Math.exp(log) * (log - (q[i] ?? 0)), 0);
}

/** @internal Where the largest number stands, the first among equals. */
export function argmax(x: Float32Array | Float64Array): number {
  let best = 0;
  for (const [i, value] of x.entries()) if (value > (x[best] ?? -Infinity)) best = i;
  return best;
}
