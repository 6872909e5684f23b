// The fuser of Cache-to-Cache: what another model made of the same text, projected into the receiver's keys and values and added there. Inference only; a
// fuser is trained elsewhere, for one pair of models.
//
//   e = E(W [s ; t] + b);  p = Wp F(e) + bp;  w = sigmoid(Ww G(e) + bw), one a head;  t' = t + w p
//
// E, F and G are blocks x + W2 gelu(W1 RMSNorm(x)); s and t are the rows of all heads of both models, keys as they lie in the cache, turned to their positions.
import { checkArray, checkInteger, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { damaged } from "../files/bytes.js";
import { readSafetensors } from "../files/safetensors.js";
import { withSignal } from "../jobs.js";
import { checkStorage, type Storage } from "../kernels/input.js";
import type { PackProjectionOptions, Projection } from "../kernels/projection.js";
import type { Model } from "../models/model.js";
import type { Pool } from "../models/pool.js";
import { ModuleTensors, packed } from "../spaces/module-tensors.js";
import { combineRows } from "../spaces/rows.js";
import type { Tensor } from "../tensor.js";
import type { KvPlugin } from "./codec.js";
import { KvHandle, type KvRange, type KvTile } from "./handle.js";

type Part = "keys" | "values";

/** Facts of a {@link C2cFuser}. */
export interface C2cInfo {
  /** For each layer of the receiver the layer of the sharer that is fused into it, or null. */
  readonly sharerLayers: readonly (number | null)[];
  /** Numbers of a row of the sharer, and of the receiver, all heads. */
  readonly channels: readonly [number, number];
  /** Key and value heads of the receiver. */
  readonly heads: number;
  /** Numbers that were trained. */
  readonly parameters: number;
  /** Layers whose keys, and whose values, are changed: their gate is open. */
  readonly open: { readonly keys: readonly number[]; readonly values: readonly number[] };
}

/** Options of {@link C2cFuser.fuse}. */
export interface C2cFuseOptions {
  /** What the receiver holds. */
  readonly receiver: KvHandle;
  /** What the sharer holds of the same text, position for position; {@link alignTokens} gives the tokens. */
  readonly sharer: KvHandle;
  /** A pool of the receiver's model, which takes the result. */
  readonly pool: Pool;
  /** Which entries are changed. Default: all. */
  readonly spans?: readonly KvRange[];
  readonly signal?: AbortSignal;
}

interface PartFuser {
  readonly input: Projection;
  readonly embed: Projection;
  readonly project: readonly Projection[];
  readonly output: Projection;
  readonly weigh: readonly Projection[];
  readonly head: Projection;
}

const parts = ["keys", "values"] as const;
const rmsEpsilon = 1e-6;

/** Made by {@link C2cFuser.load}; holds native memory. */
export class C2cFuser {
  readonly #layers: ReadonlyMap<string, PartFuser>;
  #disposed = false;

  private constructor(
    readonly info: C2cInfo,
    layers: ReadonlyMap<string, PartFuser>,
  ) {
    this.#layers = layers;
  }

  /**
   * Reads a fuser from a safetensors file (`docs/kv-transfer.md` has the names). A gate that is not above 0 is closed, as it is after training: what lies behind it
   * is read and not kept.
   * @throws {@link LatentError} `ERR_LATENT_FILE_FORMAT`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's
   * reason on abort
   */
  static async load(path: string, options: { readonly storage?: Storage; readonly signal?: AbortSignal } = {}): Promise<C2cFuser> {
    checkKeys("options", options, ["storage", "signal"]);
    const storage = checkStorage(options.storage);
    const { tensors, metadata } = await readSafetensors(path);
    const layers = new Map<string, PartFuser>();
    try {
      const { sharerLayers, channels, heads, hidden, blocks } = readConfig(path, metadata.get("config"));
      const file = new ModuleTensors(path, tensors, "", options.signal);
      const open: Record<Part, number[]> = { keys: [], values: [] };
      for (const [layer, sharer] of sharerLayers.entries()) {
        if (sharer === null) continue;
        for (const part of parts) {
          const name = `layers.${layer}.${part}`;
          const fuser = await loadPart(file, name, { channels, heads, hidden, blocks }, storage);
          const [gate = 0] = file.floats(`${name}.gate`, [1]);
          if (gate > 0) {
            open[part].push(layer);
            layers.set(placeOf(layer, part), fuser);
          } else disposePart(fuser);
        }
      }
      file.requireAllUsed();
      return new C2cFuser(Object.freeze({ sharerLayers, channels, heads, parameters: file.parameters, open }), layers);
    } catch (error) {
      for (const fuser of layers.values()) disposePart(fuser);
      throw error;
    } finally {
      for (const tensor of tensors.values()) tensor.dispose();
    }
  }

  /** Whether {@link C2cFuser.dispose} was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * The receiver's content with the sharer's in it, for {@link Sequence.importKv}. Layers whose gate is closed keep their bits, and so do entries outside of the
   * spans where the cache holds floats. Both models must have read the same text: the fuser enriches what the receiver knows of it, and delivers no other.
   *
   * ```ts
   * using fused = await fuser.fuse({ receiver: own, sharer: theirs, pool });
   * await sequence.importKv(fused, { positions: "keep" });
   * ```
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (not as many entries, spans that are not there), `ERR_LATENT_KV_LAYOUT` (layers or channels that
   * are not those of the fuser's models), `ERR_LATENT_KV_MODEL_MISMATCH` (a pool of another model), `ERR_LATENT_NON_FINITE`, `ERR_LATENT_DISPOSED`,
   * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async fuse(options: C2cFuseOptions): Promise<KvHandle> {
    checkKeys("options", options, ["receiver", "sharer", "pool", "spans", "signal"]);
    if (this.#disposed) throw new LatentError("ERR_LATENT_DISPOSED", "the fuser was disposed");
    const { receiver, sharer, pool, signal } = options;
    for (const [name, kv] of Object.entries({ receiver, sharer }) as [string, unknown][])
      if (!(kv instanceof KvHandle)) throw invalid(name, "a KvHandle", kv);
    if (sharer.length !== receiver.length)
      throw invalid("the entries of the sharer", `${receiver.length}, as many as the receiver has`, sharer.length);
    const isIn = checkSpans(options.spans, receiver.length);
    this.#requireLayout("receiver", receiver, this.info.sharerLayers.length, this.info.channels[1]);
    const highest = Math.max(0, ...this.info.sharerLayers.map((layer) => layer ?? 0));
    this.#requireLayout("sharer", sharer, highest + 1, this.info.channels[0]);
    const theirs = new Map([...sharer.tiles()].map((tile) => [tileOf(tile.layer, tile.part, tile.from), tile]));
    const fused = new Map<string, Float32Array>();
    for (const tile of receiver.tiles()) {
      const fuser = this.#layers.get(placeOf(tile.layer, tile.part));
      const other = theirs.get(tileOf(this.info.sharerLayers[tile.layer] ?? -1, tile.part, tile.from));
      if (fuser === undefined || other === undefined) continue;
      signal?.throwIfAborted();
      fused.set(tileOf(tile.layer, tile.part, tile.from), await this.#fuseTile(fuser, tile, other, isIn, signal));
    }
    // what leaves by this codec is what was fused, and arrives in the receiver's own formats
    const codec: KvPlugin = {
      name: "c2c-fused",
      encode: (numbers, { layer, part, from }) => {
        const rows = fused.get(tileOf(layer, part, from)) ?? numbers;
        return new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength);
      },
      decode: (bytes) => new Float32Array(Uint8Array.from(bytes).buffer),
    };
    const choice = ({ layer, part }: { readonly layer: number; readonly part: Part }): KvPlugin | undefined =>
      this.#layers.has(placeOf(layer, part)) ? codec : undefined;
    return await pool.readKv(receiver.records({ codec: choice, ...withSignal(signal) }), { codecs: [codec], ...withSignal(signal) });
  }

  async #fuseTile(
    fuser: PartFuser,
    own: KvTile,
    other: KvTile,
    isIn: (entry: number) => boolean,
    signal: AbortSignal | undefined,
  ): Promise<Float32Array> {
    const one = withSignal(signal);
    using t = await own.tensor();
    using s = await other.tensor();
    using both = await combineRows([s, t], "concat", signal);
    using entered = await fuser.input.apply(both, one);
    using e = await fuser.embed.apply(entered, one);
    using projected = await runAll([...fuser.project, fuser.output], e, signal);
    using logits = await runAll([...fuser.weigh, fuser.head], e, signal);
    const [rows, added, weights] = [t.toFloat32(), projected.toFloat32(), logits.toFloat32()];
    const { heads, channels } = this.info;
    const width = channels[1] / heads;
    for (const [i, value] of added.entries()) {
      const row = Math.floor(i / channels[1]);
      if (!isIn(own.from + row)) continue;
      const logit = weights[row * heads + Math.floor((i % channels[1]) / width)] ?? Number.NaN;
      rows[i] = (rows[i] ?? 0) + value / (1 + Math.exp(-logit));
    }
    return rows;
  }

  #requireLayout(name: string, kv: KvHandle, layers: number, channels: number): void {
    const { info } = kv;
    const fits = !info.partial && (name === "receiver" ? info.layers.length === layers : info.layers.length >= layers);
    const odd = info.layers.find(({ keys, values }) => keys.channels !== channels || values.channels !== channels);
    if (fits && odd === undefined) return;
    const found = `${info.layers.length} layers${odd === undefined ? "" : `, of ${odd.keys.channels} channels`}`;
    throw new LatentError("ERR_LATENT_KV_LAYOUT", `the ${name} has ${found}, the fuser wants ${layers} of ${channels} channels`);
  }

  /** Frees the memory; idempotent. */
  dispose(): void {
    this.#disposed = true;
    for (const fuser of this.#layers.values()) disposePart(fuser);
  }

  /** Same as {@link C2cFuser.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * For each token of the receiver one of the sharer, so that both caches have the same entries: the token of the same string, or else the `first` or the
 * `longest` of those that spell it. Tokens that begin or end a text stand for each other.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also: a token that the sharer cannot spell)
 */
export function alignTokens(
  receiver: Model,
  sharer: Model,
  tokens: Int32Array | readonly number[],
  options: { readonly pick?: "first" | "longest" } = {},
): Int32Array {
  checkKeys("options", options, ["pick"]);
  const pick = checkOneOf("pick", fallback(options.pick, "longest"), ["first", "longest"]);
  return receiver.checkTokens(tokens).map((token) => {
    if (token === receiver.info.bos && sharer.info.bos >= 0) return sharer.info.bos;
    if (token === receiver.info.eos && sharer.info.eos >= 0) return sharer.info.eos;
    const found = [...sharer.tokenize(receiver.piece(token))];
    const [first] = found;
    if (first === undefined) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `the sharer has no token for token ${token}`);
    const lengthOf = (one: number): number => sharer.piece(one).length;
    return pick === "first" ? first : found.reduce((best, one) => (lengthOf(one) > lengthOf(best) ? one : best), first);
  });
}

const placeOf = (layer: number, part: Part): string => `${layer} ${part}`;
const tileOf = (layer: number, part: Part, from: number): string => `${layer} ${part} ${from}`;

async function runAll(projections: readonly Projection[], x: Tensor, signal: AbortSignal | undefined): Promise<Tensor> {
  let rows = await x.convert("f32", withSignal(signal));
  for (const projection of projections) {
    using before = rows;
    rows = await projection.apply(before, withSignal(signal));
  }
  return rows;
}

function checkSpans(spans: readonly KvRange[] | undefined, length: number): (entry: number) => boolean {
  if (spans === undefined) return () => true;
  const chosen = new Uint8Array(length);
  for (const span of checkArray("spans", spans)) {
    checkKeys("spans", span, ["from", "to"]);
    const to = checkInteger("to", span.to, 0, length);
    chosen.fill(1, checkInteger("from", span.from, 0, to), to);
  }
  return (entry) => chosen[entry] === 1;
}

interface Shape {
  readonly channels: readonly [number, number];
  readonly heads: number;
  readonly hidden: number;
  /** Of the projection, and of the weights. */
  readonly blocks: number;
}

function readConfig(path: string, text: string | undefined): Shape & { readonly sharerLayers: readonly (number | null)[] } {
  try {
    const given = JSON.parse(text ?? "") as Record<string, unknown>;
    checkKeys("config", given, ["sharer_layers", "sharer_channels", "receiver_channels", "receiver_heads", "hidden", "blocks"]);
    const count = (name: string, least = 1): number => checkInteger(name, given[name], least, 1 << 20);
    const sharerLayers = checkArray("sharer_layers", given["sharer_layers"] as readonly unknown[]).map((layer) =>
      layer === null ? null : checkInteger("sharer_layers", layer, 0, 1 << 16),
    );
    const channels = [count("sharer_channels"), count("receiver_channels")] as const;
    const heads = count("receiver_heads");
    if (channels[1] % heads !== 0) throw new Error(`${channels[1]} channels are not divided by ${heads} heads`);
    return { sharerLayers, channels, heads, hidden: count("hidden"), blocks: count("blocks", 0) };
  } catch (error) {
    throw damaged(path, `its metadata has no sound config: ${error instanceof Error ? error.message : String(error)}`);
  }
}

async function loadPart(file: ModuleTensors, name: string, shape: Shape, storage: Storage): Promise<PartFuser> {
  const { channels, heads, hidden, blocks } = shape;
  const done: Projection[] = [];
  const pack = async (options: PackProjectionOptions): Promise<Projection> => {
    const projection = await packed({ ...options, storage, ...withSignal(file.signal) });
    done.push(projection);
    return projection;
  };
  const block = async (one: string): Promise<Projection> =>
    pack({
      layers: [
        await file.layer(`${one}.0`, hidden, hidden, { bias: false }),
        await file.layer(`${one}.2`, hidden, hidden, { bias: false }),
      ],
      norm: { kind: "rms", epsilon: rmsEpsilon, weight: file.floats(`${one}.norm.weight`, [hidden]) },
      activation: "gelu",
      rescale: "residual",
    });
  const stack = async (one: string): Promise<Projection[]> => {
    const all: Projection[] = [];
    for (let i = 0; i < blocks; i++) all.push(await block(`${one}.${i}`));
    return all;
  };
  try {
    return {
      input: await pack({ layers: [await file.layer(`${name}.in`, channels[0] + channels[1], hidden)] }),
      embed: await block(`${name}.embed`),
      project: await stack(`${name}.project`),
      output: await pack({ layers: [await file.layer(`${name}.out`, hidden, channels[1])] }),
      weigh: await stack(`${name}.weigh`),
      head: await pack({ layers: [await file.layer(`${name}.head`, hidden, heads)] }),
    };
  } catch (error) {
    for (const projection of done) projection.dispose();
    throw error;
  }
}

function disposePart({ input, embed, project, output, weigh, head }: PartFuser): void {
  for (const projection of [input, embed, ...project, output, ...weigh, head]) projection.dispose();
}
