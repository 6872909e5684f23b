// In which codecs keys and values travel: the built-in ones by their names, fitted ones, and those of the user, chosen for each layer. What is
// encoded is decoded on arrival, so handles, caches and stores do not know of codecs.
import { checkArray, checkOneOf, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import type { NativeKvCodec, NativeKvPlace } from "../native-kv.js";
import { requireSameIdentity, type KvIdentity } from "./identity.js";
import { Kvtc } from "./kvtc.js";

/**
 * A built-in codec:
 *
 * - `q8_0`, `q4_0`: ggml's blocks of 32 neighbours, rotated (Walsh-Hadamard) where rows are multiples of 64; 8.5 and 4.5 bits a number.
 * - `fp8`: e4m3 with one f32 scale for each 128 neighbours; 8.25 bits.
 * - `kivi4`, `kivi2`: KIVI (Liu et al. 2024), codes above the least number of a group of 32, keys grouped along the entries of a channel, values along
 *   the channels of an entry; 5 and 3 bits. The first 4 entries of the content and its last 128 stay as they are.
 */
export type KvCodecName = "q8_0" | "q4_0" | "fp8" | "kivi4" | "kivi2";

/** @internal */
export const kvCodecNames: readonly KvCodecName[] = ["q8_0", "q4_0", "fp8", "kivi4", "kivi2"];

/** Keys or values of a layer. */
export interface KvPart {
  /** From 0 on. */
  readonly layer: number;
  /** How many the model has. */
  readonly layers: number;
  readonly part: "keys" | "values";
}

/** What a {@link KvPlugin} encodes at a time: the entries [from, to) of a part, at most 256, as `[to - from, channels]`. */
export interface KvTileShape extends KvPart {
  readonly from: number;
  readonly to: number;
  readonly channels: number;
}

/**
 * A codec of your own. Both ends need it, under the same name. The same numbers must give the same bytes each time, or a stream that broke off cannot
 * be resumed.
 */
export interface KvPlugin {
  /**
   * What streams call it: 1 to 100 letters, digits, dots, dashes and underscores, with a version if the bytes may change one day. No name of a built-in
   * codec, and none that begins with `kvtc-`.
   */
  readonly name: string;
  /** `numbers` `[to - from, channels]` as bytes, at most 1024 and 8 a number. What it throws reaches whoever reads the records. */
  encode(numbers: Float32Array, tile: KvTileShape): Uint8Array;
  /** The numbers of a tile, all of them and finite. The bytes are those that were sent, but who sent them may lie: throw for what makes no sense. */
  decode(bytes: Uint8Array, tile: KvTileShape): Float32Array;
}

/** One codec. */
export type KvCodec = KvCodecName | Kvtc | KvPlugin;

/** One codec for everything, or what a function says for the keys and the values of each layer; undefined leaves them as they are. */
export type KvCodecChoice = KvCodec | ((part: KvPart) => KvCodec | undefined);

const pluginName = /^[A-Za-z0-9._-]{1,100}$/;

function checkPlugin(name: string, value: unknown): KvPlugin {
  const plugin = value as KvPlugin;
  const sound = typeof value === "object" && value !== null && typeof plugin.encode === "function" && typeof plugin.decode === "function";
  if (!sound) throw invalid(name, "the name of a codec, a Kvtc, or a plug-in { name, encode, decode }", value);
  if (
    typeof plugin.name !== "string" ||
    !pluginName.test(plugin.name) ||
    plugin.name.startsWith("kvtc-") ||
    kvCodecNames.some((own) => own === plugin.name)
  )
    throw invalid(`${name}.name`, "a name of its own: 1 to 100 letters, digits, dots, dashes and underscores", plugin.name);
  return plugin;
}

/** @internal The codecs of a stream: one a part, as native code takes them, and the plug-ins among them by name. */
export interface ResolvedCodecs {
  readonly native: readonly NativeKvCodec[];
  readonly plugins: ReadonlyMap<string, KvPlugin>;
}

function resolve(name: string, codec: KvCodec, identity: KvIdentity, plugins: Map<string, KvPlugin>): NativeKvCodec {
  if (typeof codec === "string") return checkOneOf(name, codec, kvCodecNames);
  if (codec instanceof Kvtc) {
    requireSameIdentity(codec.identity, identity);
    return codec.toNative();
  }
  const plugin = checkPlugin(name, codec);
  if ((plugins.get(plugin.name) ?? plugin) !== plugin)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${name}: two plug-ins are called '${plugin.name}'`);
  plugins.set(plugin.name, plugin);
  return { outside: plugin.name };
}

/** @internal */
export function codecsOf(choice: KvCodecChoice | undefined, layers: number, identity: KvIdentity): ResolvedCodecs {
  const plugins = new Map<string, KvPlugin>();
  if (choice === undefined) return { native: [], plugins };
  const native = Array.from({ length: 2 * layers }, (_, index): NativeKvCodec => {
    const codec = typeof choice === "function" ? choice(partOf(index, layers)) : choice;
    return codec === undefined ? null : resolve("codec", codec, identity, plugins);
  });
  return { native, plugins };
}

/** @internal What a receiver knows besides the built-in codecs. */
export function knownCodecs(codecs: readonly (Kvtc | KvPlugin)[] | undefined, identity: KvIdentity): ResolvedCodecs {
  const plugins = new Map<string, KvPlugin>();
  const list = codecs === undefined ? [] : checkArray("codecs", codecs);
  return { native: list.map((codec) => resolve("codecs", codec, identity, plugins)), plugins };
}

/** @internal Of 2 * layer, plus 1 for values. */
export function partOf(index: number, layers: number): KvPart {
  return { layer: index >> 1, layers, part: index % 2 === 0 ? "keys" : "values" };
}

function shapeOf({ part, from, to, channels }: NativeKvPlace, layers: number): KvTileShape {
  return { ...partOf(part, layers), from, to, channels };
}

/** @internal */
export function encodeOutside(plugin: KvPlugin | undefined, numbers: Float32Array, place: NativeKvPlace, layers: number): Uint8Array {
  const bytes: unknown = plugin?.encode(numbers, shapeOf(place, layers));
  if (!(bytes instanceof Uint8Array)) throw invalid(`what the codec '${plugin?.name}' encodes`, "a Uint8Array", bytes);
  return bytes;
}

/**
 * @internal
 * @throws {@link LatentError} `ERR_LATENT_KV_FORMAT` (the plug-in threw, which is the cause, or gave no numbers)
 */
export function decodeOutside(plugin: KvPlugin | undefined, bytes: Uint8Array, place: NativeKvPlace, layers: number): Float32Array {
  const shape = shapeOf(place, layers);
  const where = `the ${shape.part} of layer ${shape.layer} from entry ${shape.from} on`;
  let numbers: unknown;
  try {
    numbers = plugin?.decode(bytes, shape);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LatentError("ERR_LATENT_KV_FORMAT", `the codec '${plugin?.name}' refuses ${where}: ${why}`, { cause });
  }
  if (!(numbers instanceof Float32Array))
    throw new LatentError("ERR_LATENT_KV_FORMAT", `the codec '${plugin?.name}' made no Float32Array of ${where}`);
  return numbers;
}
