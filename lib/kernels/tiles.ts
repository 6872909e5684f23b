// How rows of numbers become few bytes: codes of 8 or 4 bits with a scale for each group of neighbours, the transform that spreads outliers before
// that, and symbols of any width packed without a gap.
import { checkInteger, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import type { NativeTileCodec } from "../native-kernels.js";
import { Tensor, type Dtype } from "../tensor.js";
import { array, columnsOf, nativeRows, output, rowCount, settled, type Rows } from "./input.js";

/** Options of a {@link TileCodec}. */
export interface TileCodecOptions {
  /**
   * `fp8`: e4m3, x / s with s = max |x| / 448. `i8`, `i4`: round(x / s) with s = max |x| / 127 or 7. `i4-zero`: round((x - min) / s) with s =
   * (max - min) / 15. Ties go to even. Default `i8`.
   */
  readonly code?: "fp8" | "i8" | "i4" | "i4-zero";
  /** Of scales and minima: `f32` or, for fp8, `ue8m0` (powers of two, a byte); for the others `f32` or `f16`. Default `f32` for fp8, else `f16`. */
  readonly scale?: "f32" | "f16" | "ue8m0";
  /** Numbers that share a scale: 32, 64 or 128; the last group of a row may be shorter. Default 128. */
  readonly group?: 32 | 64 | 128;
}

/** Bytes of a payload: a Uint8Array, or the tensor that {@link TileCodec.quantise} returns. */
export type TilePayload = Uint8Array | Tensor;

/**
 * Rows as codes with a scale for each group of neighbours, the same bits on every processor. A payload is one run of bytes: scales `[n, groups]`,
 * minima `[n, groups]` for `i4-zero`, then codes, a row padded to whole bytes (of two codes in a byte the first is in the low half).
 *
 * ```ts
 * const codec = new TileCodec({ code: "i8", scale: "f16", group: 32 }); // 8.5 bits a number
 * const payload = codec.quantiseSync(x, { columns: 128 });
 * const y = codec.dequantiseSync(payload, { rows: x.length / 128, columns: 128 });
 * ```
 * fp8 with groups of 128 is the tile of DeepSeek-V3, ue8m0 scales and groups of 32 are those of OCP's MX formats.
 */
export class TileCodec {
  readonly #native: NativeTileCodec;
  readonly code: "fp8" | "i8" | "i4" | "i4-zero";
  readonly scale: "f32" | "f16" | "ue8m0";
  readonly group: 32 | 64 | 128;

  /** @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` */
  constructor(options: TileCodecOptions = {}) {
    checkKeys("options", options, ["code", "scale", "group"]);
    this.code = checkOneOf("code", fallback(options.code, "i8"), ["fp8", "i8", "i4", "i4-zero"]);
    const scales = this.code === "fp8" ? (["f32", "ue8m0"] as const) : (["f16", "f32"] as const);
    this.scale = checkOneOf(`scale of ${this.code}`, fallback(options.scale, scales[0]), scales);
    const group: unknown = fallback(options.group, 128);
    if (group !== 32 && group !== 64 && group !== 128) throw invalid("group", "32, 64 or 128", group);
    this.group = group;
    this.#native = LatentError.translate(() => native().createTileCodec({ code: this.code, scale: this.scale, group }));
  }

  /**
   * Bytes of the payload of `rows` rows of `columns` numbers, exactly.
   * @param rows At most 2⁴⁰ numbers in all.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
   */
  byteLength(rows: number, columns: number): number {
    checkShape({ rows, columns });
    return LatentError.translate(() => this.#native.byteLength(rows, columns));
  }

  /**
   * The payload of x, computed before it returns. For some thousand numbers; large inputs hold up the event loop.
   * @param options `columns`: numbers of a row, needed for a Float32Array. `out`: filled and returned, exactly {@link TileCodec.byteLength} bytes, from
   * a multiple of the scale's size on in its buffer; default a new array.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (the first row that
   * holds NaN or an infinity, or whose scale its type cannot hold; what `out` holds is undefined then)
   */
  quantiseSync(x: Rows, options: { readonly columns?: number; readonly out?: Uint8Array } = {}): Uint8Array {
    checkKeys("options", options, ["columns", "out"]);
    const rows = nativeRows("x", x);
    const columns = columnsOf(x, options.columns);
    const payload = output("out", options.out, Uint8Array, this.byteLength(rowCount(x, columns), columns));
    LatentError.translate(() => {
      this.#native.quantiseSync(rows, columns, payload);
    });
    return payload;
  }

  /**
   * The payload of x, i8 `[bytes]`. Below about 300 000 numbers it is computed before the call returns.
   * @throws {@link LatentError} as {@link TileCodec.quantiseSync}, and `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async quantise(x: Rows, options: { readonly columns?: number; readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["columns", "signal"]);
    const rows = nativeRows("x", x);
    const columns = columnsOf(x, options.columns);
    return Tensor.fromNative(await settled(() => this.#native.quantise(rows, columns), options.signal));
  }

  /**
   * The numbers of a payload, `[rows, columns]`, computed before it returns.
   * @param options `out`: filled and returned, exactly rows · columns numbers; it must not overlap the payload. Default a new array.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (a payload of another size), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`
   */
  dequantiseSync(
    payload: TilePayload,
    options: { readonly rows: number; readonly columns: number; readonly out?: Float32Array },
  ): Float32Array {
    checkKeys("options", options, ["rows", "columns", "out"]);
    const bytes = nativePayload(payload);
    const { rows, columns } = checkShape(options);
    // before anything is made that a wrong shape would make too large
    const want = this.byteLength(rows, columns);
    if (payload.byteLength !== want) throw invalid("payload", `of ${want} bytes, as rows of this shape need`, payload.byteLength);
    const result = output("out", options.out, Float32Array, rows * columns);
    LatentError.translate(() => {
      this.#native.dequantiseSync(bytes, rows, columns, result);
    });
    return result;
  }

  /**
   * The numbers of a payload, `[rows, columns]`. Below about 300 000 numbers they are computed before the call returns.
   * @param options `dtype`: f32 (default), f16 or bf16.
   * @throws {@link LatentError} as {@link TileCodec.dequantiseSync}, and `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async dequantise(
    payload: TilePayload,
    options: { readonly rows: number; readonly columns: number; readonly dtype?: Dtype; readonly signal?: AbortSignal },
  ): Promise<Tensor> {
    checkKeys("options", options, ["rows", "columns", "dtype", "signal"]);
    const bytes = nativePayload(payload);
    const { rows, columns } = checkShape(options);
    const dtype = fallback(options.dtype, "f32");
    return Tensor.fromNative(await settled(() => this.#native.dequantise(bytes, rows, columns, dtype), options.signal));
  }
}

function checkShape({ rows, columns }: { readonly rows: number; readonly columns: number }): { rows: number; columns: number } {
  checkInteger("rows", rows, 0, 2 ** 31);
  checkInteger("columns", columns, 1, 2 ** 31);
  if (rows * columns > 2 ** 40) throw invalid("rows * columns", `at most ${2 ** 40}`, rows * columns);
  return { rows, columns };
}

function nativePayload(payload: TilePayload): Uint8Array | ReturnType<Tensor["toNative"]> {
  const given: unknown = payload;
  if (given instanceof Tensor) return given.toNative();
  if (given instanceof Uint8Array) return given;
  throw invalid("payload", "a Uint8Array or a Tensor", given);
}

/**
 * The orthonormal Walsh-Hadamard transform of each row, in place; it is its own inverse. It spreads outliers over their block, which makes codes of 4
 * bits usable (QuIP#, QuaRot).
 * @param options `columns`: numbers of a row. `block`: a power of two that divides it; each block is transformed by itself. Default `columns`.
 * @returns x
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
 */
export function hadamardTransform(x: Float32Array, options: { readonly columns: number; readonly block?: number }): Float32Array {
  checkKeys("options", options, ["columns", "block"]);
  array("x", x, Float32Array);
  const columns = checkInteger("columns", options.columns, 1, 2 ** 31);
  const block = checkInteger("block", fallback(options.block, columns), 1, columns);
  LatentError.translate(() => {
    native().hadamard(x, columns, block);
  });
  return x;
}

/**
 * Symbols of `bits` bits, from the lowest bit of the first byte on, in ceil(n · bits / 8) bytes; the last byte is filled with zeros. Higher bits of a
 * symbol are dropped.
 * @param bits From 1 to 16.
 * @param out Filled and returned; default a new array.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
 */
export function packBits(symbols: Uint16Array, bits: number, out?: Uint8Array): Uint8Array {
  array("symbols", symbols, Uint16Array);
  checkInteger("bits", bits, 1, 16);
  const packed = output("out", out, Uint8Array, Math.ceil((symbols.length * bits) / 8));
  LatentError.translate(() => {
    native().packBits(symbols, bits, packed);
  });
  return packed;
}

/**
 * The `count` symbols that {@link packBits} packed.
 * @param out Filled and returned; default a new array.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (bytes that are not those of so many symbols)
 */
export function unpackBits(packed: Uint8Array, count: number, bits: number, out?: Uint16Array): Uint16Array {
  array("packed", packed, Uint8Array);
  checkInteger("count", count, 0, 2 ** 32);
  checkInteger("bits", bits, 1, 16);
  if (packed.length !== Math.ceil((count * bits) / 8)) {
    throw invalid("packed", `${Math.ceil((count * bits) / 8)} bytes, as ${count} symbols of ${bits} bits are`, packed.length);
  }
  const symbols = output("out", out, Uint16Array, count);
  if (symbols.length !== count) throw invalid("out", `of ${count} symbols`, symbols.length);
  LatentError.translate(() => {
    native().unpackBits(packed, bits, symbols);
  });
  return symbols;
}
