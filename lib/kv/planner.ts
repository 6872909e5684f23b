// Which way a hand-over should take: send keys and values, read the same tokens again, or write a text about them and read that. The answer is
// arithmetic on rates that were measured, and it says what it was made of.
import { checkArray, checkInteger, checkKeys, checkNumber, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { kvFormats, type KvFormat } from "./handle.js";

/** What a {@link KvMeter} measures, each as an amount a second. */
export interface KvRates {
  /** Positions that the receiver prefills. */
  readonly prefill?: number;
  /** Tokens that the sender writes. */
  readonly decode?: number;
  /** Bytes that arrive, from the sender's handle to the receiver's sequence. */
  readonly transfer?: number;
  /** Bytes of keys and values that the sender converts to another format. */
  readonly convert?: number;
}

const measures = ["prefill", "decode", "transfer", "convert"] as const;
/** What an earlier observation counts for when the next one comes. */
const memory = 0.8;

/** Rates of this machine and of one way to a receiver, as they were lately: larger observations count for more, later ones too. */
export class KvMeter {
  readonly #sums = new Map<keyof KvRates, { amount: number; ms: number }>();

  /**
   * Something took so long: positions prefilled, tokens written, bytes sent or converted, and milliseconds.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
   */
  observe(what: keyof KvRates, amount: number, ms: number): void {
    checkOneOf("what", what, measures);
    checkNumber("amount", amount, 0, Number.MAX_VALUE);
    checkNumber("ms", ms, 0, Number.MAX_VALUE);
    // nothing took place, or it took no time that a clock can tell
    if (amount === 0 || ms === 0) return;
    const before = this.#sums.get(what) ?? { amount: 0, ms: 0 };
    this.#sums.set(what, { amount: memory * before.amount + amount, ms: memory * before.ms + ms });
  }

  /** What has been observed, in amounts a second; without what has not. */
  rates(): KvRates {
    return Object.fromEntries([...this.#sums].map(([what, { amount, ms }]) => [what, (1000 * amount) / ms]));
  }
}

/** Options of {@link planHandOver}. */
export interface HandOverOptions {
  /** Of {@link KvMeter.rates}, or of anywhere else. A way whose rates are not known is not taken by itself. */
  readonly rates: KvRates;
  /** Before the first byte or token arrives, in milliseconds, whatever the way. Default 0. */
  readonly latencyMs?: number;
  /** Formats that may be sent instead of the cache's own, if the receiver's outputs may change a little (`latentwire kv quality`). Default: none. */
  readonly formats?: readonly Exclude<KvFormat, "f32">[];
  /** Tokens of a text that would do instead: the sender has to write them. Default: no text would do. */
  readonly textTokens?: number;
  /** Go this way whatever it costs. */
  readonly way?: HandOverWay;
}

/** What {@link planHandOver} chooses from. */
export type HandOverWay = "transfer" | "recompute" | "text";

/** One way and what it is expected to take. */
export interface HandOverCost {
  readonly way: HandOverWay;
  /** What is sent; absent where the cache's own format is, or nothing. */
  readonly format?: KvFormat;
  /** Bytes of keys and values that are sent. */
  readonly bytes: number;
  /** Expected milliseconds until the receiver can go on; null where a rate is not known. */
  readonly ms: number | null;
}

/** A choice, and what it was made of. */
export interface HandOverPlan extends HandOverCost {
  /** All ways, the chosen one too, the quickest first and those that cannot be told last. */
  readonly costs: readonly HandOverCost[];
  /** For people: the ways and their times in one line. */
  readonly why: string;
}

const bits: Readonly<Record<KvFormat, number>> = { f32: 32, f16: 16, bf16: 16, q8_0: 8.5, q4_0: 4.5 };

/**
 * The quickest way for `content` to get to a receiver. Nothing is done yet. Transfers are linear in bytes and recomputing is taken to be linear in
 * positions, which long contexts make worse than that: it is the lower bound.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (no rate of any way is known, and no `way` is given)
 */
export function planHandOver(
  content: { readonly positions: number; readonly bytes: number; readonly format: KvFormat },
  options: HandOverOptions,
): HandOverPlan {
  checkKeys("content", content, ["positions", "bytes", "format"]);
  const positions = checkInteger("content.positions", content.positions, 0, Number.MAX_SAFE_INTEGER);
  const bytes = checkInteger("content.bytes", content.bytes, 0, Number.MAX_SAFE_INTEGER);
  checkOneOf("content.format", content.format, kvFormats);
  checkKeys("options", options, ["rates", "latencyMs", "formats", "textTokens", "way"]);
  checkKeys("rates", options.rates, measures);
  for (const name of measures)
    if (options.rates[name] !== undefined) checkNumber(`rates.${name}`, options.rates[name], Number.MIN_VALUE, Number.MAX_VALUE);
  const latencyMs = checkNumber("latencyMs", fallback(options.latencyMs, 0), 0, Number.MAX_VALUE);
  const textTokens =
    options.textTokens === undefined ? undefined : checkInteger("textTokens", options.textTokens, 0, Number.MAX_SAFE_INTEGER);
  if (options.way !== undefined) checkOneOf("way", options.way, ["transfer", "recompute", "text"]);
  if (options.way === "text" && textTokens === undefined) throw invalid("textTokens", "given for the way 'text'", textTokens);

  const formats = checkArray("formats", fallback(options.formats, []));
  const { prefill, decode, transfer, convert } = options.rates;
  /** Of amounts at rates; null if one of the rates is not known. */
  const time = (...parts: readonly (readonly [number, number | undefined])[]): number | null =>
    parts.reduce<number | null>(
      (sum, [amount, rate]) => (sum === null || rate === undefined ? null : sum + (1000 * amount) / rate),
      latencyMs,
    );
  const costs: HandOverCost[] = [
    { way: "transfer", bytes, ms: time([bytes, transfer]) },
    { way: "recompute", bytes: 0, ms: time([positions, prefill]) },
  ];
  for (const format of formats) {
    checkOneOf("formats", format, kvFormats);
    const sent = Math.round((bytes * bits[format]) / bits[content.format]);
    if (sent < bytes) costs.push({ way: "transfer", format, bytes: sent, ms: time([bytes, convert], [sent, transfer]) });
  }
  if (textTokens !== undefined) costs.push({ way: "text", bytes: 0, ms: time([textTokens, decode], [textTokens, prefill]) });
  costs.sort((a, b) => (a.ms ?? Infinity) - (b.ms ?? Infinity));

  const chosen = costs.find((cost) => (options.way === undefined ? cost.ms !== null : cost.way === options.way));
  if (chosen === undefined)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "nothing is known of any way: measure one of prefill and transfer, or name a way");
  const name = ({ way, format }: HandOverCost): string => (format === undefined ? way : `${way} as ${format}`);
  const list = costs
    .map((cost) => `${name(cost)} ${cost.ms === null ? "not measured" : `${Number(cost.ms.toPrecision(3))} ms`}`)
    .join(", ");
  const why = `${name(chosen)}, ${options.way === undefined ? "the quickest" : "as asked for"}: ${list}`;
  return { ...chosen, costs, why };
}
