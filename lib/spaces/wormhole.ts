// Messages between models that have a codec each: into the hub's coordinates and out of them by affine maps, two a model, that are fitted on messages
// about the same texts.
import { checkInteger, checkKeys, checkNumber, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkCount, checkMatrix } from "../fits/input.js";
import { accumulateMoments } from "../fits/moments.js";
import { withSignal } from "../jobs.js";
import { Tensor } from "../tensor.js";
import { splitPairs } from "./fit.js";
import { SpaceHub } from "./hub.js";
import { predictionError } from "./metrics.js";
import { selectRows, stackRows } from "./rows.js";
import { linear } from "./stages.js";
import { Translator, type TranslatorCard } from "./translator.js";
import { WormholeCodec, wormholeFields, type WormholeDelta } from "./wormhole-codec.js";

/** Options of {@link fitHubMaps}. */
export interface FitHubMapsOptions {
  /** Rows of a message; row k of one is paired with row k of the other. Whole messages are kept apart. */
  readonly slots: number;
  /** Added to the diagonal of the centred Gram matrix, 0 or more; the bias is not penalised. Default 1e-3. */
  readonly lambda?: number;
  /** Share of the messages by which the quality is measured, above 0 and below 1, with maps fitted on the others; the maps themselves are fitted on all. Default 0.2. */
  readonly holdout?: number;
  /** Of what is kept apart. Default 0. */
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

/** Of rows that were kept apart. */
export interface HubMapQuality {
  readonly r2: number;
  readonly cosine: number;
}

/** The two maps between a model's messages and the hub. The caller disposes them, or gives them to {@link SpaceHub.of}. */
export interface HubMaps {
  readonly into: Translator;
  readonly outOf: Translator;
  readonly heldOut: { readonly into: HubMapQuality; readonly outOf: HubMapQuality };
}

/**
 * Fits the maps of one model by the messages of a reference model about the same texts, in the same order, each way on its own: W = (X₀ᵀX₀ + λI)⁻¹ X₀ᵀY₀,
 * b = ȳ - x̄ W (Vision Wormhole, arXiv 2602.15382). They stand on the supposition that token k means about the same in every model, which nothing in
 * the training of a codec demands: look at `heldOut` first. The maps of one model do not depend on those of any other.
 *
 * ```ts
 * const maps = await fitHubMaps(messagesOfWren, messagesOfFinch, { slots: codec.config.tokens + 2 });
 * ```
 * @param own `[M · slots, D]`
 * @param reference `[M · slots, D]`
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also: fewer than 8 messages), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function fitHubMaps(own: Tensor, reference: Tensor, options: FitHubMapsOptions): Promise<HubMaps> {
  checkKeys("options", options, ["slots", "lambda", "holdout", "seed", "signal"]);
  const x = checkMatrix("own", own);
  const y = checkMatrix("reference", reference);
  checkCount("reference", "rows", y.rows, x.rows);
  checkCount("reference", "columns", y.columns, x.columns);
  const slots = checkInteger("slots", options.slots, 1, 1 << 20);
  const lambda = checkNumber("lambda", fallback(options.lambda, 1e-3), 0, Number.MAX_VALUE);
  const holdout = checkNumber("holdout", fallback(options.holdout, 0.2), Number.EPSILON, 1 - Number.EPSILON);
  const seed = checkInteger("seed", fallback(options.seed, 0), 0, Number.MAX_SAFE_INTEGER);
  const messages = x.rows / slots;
  if (!Number.isInteger(messages) || messages < 8) throw invalid("the rows", `those of at least 8 whole messages of ${slots}`, x.rows);
  const { signal } = options;
  const split = splitPairs(messages, holdout, undefined, seed);
  const rowsOf = (ids: Int32Array): Int32Array =>
    Int32Array.from({ length: ids.length * slots }, (_, i) => (ids[Math.floor(i / slots)] ?? 0) * slots + (i % slots));
  const [fitted, kept] = [rowsOf(split.fit), rowsOf(split.heldOut)];
  const qualityOf = async (from: Tensor, to: Tensor): Promise<HubMapQuality> => {
    using a = await selectRows(from, fitted, signal);
    using b = await selectRows(to, fitted, signal);
    using map = await ridgeMap("measured", a, b, lambda, signal);
    using c = await selectRows(from, kept, signal);
    using d = await selectRows(to, kept, signal);
    using there = await map.apply(c, withSignal(signal));
    const { r2, cosine } = await predictionError(there, d, withSignal(signal));
    return { r2, cosine };
  };
  const heldOut = { into: await qualityOf(own, reference), outOf: await qualityOf(reference, own) };
  const into = await ridgeMap("into the hub", own, reference, lambda, signal);
  try {
    const outOf = await ridgeMap("out of the hub", reference, own, lambda, signal);
    return { into, outOf, heldOut };
  } catch (error) {
    into.dispose();
    throw error;
  }
}

async function ridgeMap(name: string, x: Tensor, y: Tensor, lambda: number, signal: AbortSignal | undefined): Promise<Translator> {
  using moments = await accumulateMoments({ x, y, ...withSignal(signal) });
  const { weights, bias } = await moments.ridge({ lambda, relative: false, ...withSignal(signal) });
  const dimensions = [moments.xColumns, moments.yColumns] as const;
  const card: TranslatorCard = { method: `ridge ${name}`, dimensions, onWeak: "apply", storage: "f32" };
  return await Translator.make(card, [linear(weights, { bias })], signal);
}

/** Options of {@link Wormhole.of}. */
export interface WormholeOptions {
  /** By the name of their model. */
  readonly codecs: Readonly<Record<string, WormholeCodec>>;
  /** Has the maps of each of them. */
  readonly hub: SpaceHub;
}

/** Models that can send each other messages. It owns neither codecs nor hub. */
export class Wormhole {
  readonly #codecs: ReadonlyMap<string, WormholeCodec>;
  readonly #hub: SpaceHub;

  private constructor(codecs: ReadonlyMap<string, WormholeCodec>, hub: SpaceHub) {
    this.#codecs = codecs;
    this.#hub = hub;
  }

  /**
   * Codecs and their hub, as one.
   *
   * ```ts
   * using hub = SpaceHub.of({ wren: mapsOfWren, finch: mapsOfFinch });
   * const wormhole = Wormhole.of({ codecs: { wren, finch }, hub });
   * using note = await wormhole.send("wren", latents);
   * const { delta, gate } = await wormhole.receive("finch", [note]);
   * ```
   * @throws {@link LatentError} `ERR_LATENT_SPACE_MISMATCH` (codecs that differ in one of the seven fields of their configs; `details` has which),
   * `ERR_LATENT_INVALID_ARGUMENT` (a codec without maps, or maps of another dimension)
   */
  static of(options: WormholeOptions): Wormhole {
    checkKeys("options", options, ["codecs", "hub"]);
    const { hub } = options;
    const given: unknown = options.codecs;
    if (typeof given !== "object" || given === null) throw invalid("codecs", "an object of codecs by name", given);
    if (!((hub as unknown) instanceof SpaceHub)) throw invalid("hub", "a SpaceHub", hub);
    const codecs = new Map(Object.entries(options.codecs));
    const [first] = codecs;
    if (first === undefined) throw invalid("codecs", "at least one codec", 0);
    for (const [name, codec] of codecs) {
      const value: unknown = codec;
      if (!(value instanceof WormholeCodec)) throw invalid(`codecs.${name}`, "a WormholeCodec", value);
      const field = wormholeFields.find((one) => codec.config[one] !== first[1].config[one]);
      if (field !== undefined)
        throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `the codecs of ${name} and ${first[0]} differ: ${field}`, {
          details: { field, have: codec.config[field], want: first[1].config[field] },
        });
      if (!hub.names.includes(name)) throw invalid("hub", `a hub that has the maps of ${name}`, hub.names.join(", "));
      const [width] = hub.into(name).card.dimensions;
      if (width !== codec.config.dimension) throw invalid(`the maps of ${name}`, `of ${codec.config.dimension} dimensions`, width);
    }
    return new Wormhole(codecs, hub);
  }

  /**
   * What a sender says, in the hub's coordinates: f32 `[tokens + 2, D]`.
   * @param latents `[T, H]`, the rows of its thought; T may be 0.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also: no codec of that name), and what {@link WormholeCodec.encode} throws
   */
  async send(name: string, latents: Tensor, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    using own = await this.#codec(name).encode(latents, options);
    return await this.#hub.into(name).apply(own, options);
  }

  /**
   * What a receiver makes of the messages of some senders, for {@link injectSpan}. They are read as one set: neither their order nor that of the senders
   * enters. No message gives zeros and a gate of 0.
   * @param memory Messages in the hub's coordinates.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also: no codec of that name), and what {@link WormholeCodec.decode} throws
   */
  async receive(
    name: string,
    memory: readonly Tensor[],
    options: { readonly chunks?: number; readonly signal?: AbortSignal } = {},
  ): Promise<WormholeDelta> {
    checkKeys("options", options, ["chunks", "signal"]);
    const codec = this.#codec(name);
    const { dimension } = codec.config;
    const given: unknown = memory;
    if (!Array.isArray(given)) throw invalid("memory", "an array of messages", given);
    for (const [i, message] of memory.entries())
      if (checkMatrix(`memory[${i}]`, message).columns !== dimension)
        throw invalid(`memory[${i}]`, `of ${dimension} columns`, message.shape[1]);
    if (memory.length === 0) {
      using nothing = Tensor.zeros([0, dimension]);
      return await codec.decode(nothing, options);
    }
    using together = stackRows(memory);
    using own = await this.#hub.outOf(name).apply(together, withSignal(options.signal));
    return await codec.decode(own, options);
  }

  #codec(name: string): WormholeCodec {
    const codec = this.#codecs.get(name);
    if (codec === undefined) throw invalid("the model", `one of ${[...this.#codecs.keys()].join(", ")}`, name);
    return codec;
  }
}
