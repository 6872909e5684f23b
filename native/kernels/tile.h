// Rows of numbers as codes of 8 or 4 bits with a scale for each group of 32, 64 or 128 neighbours; the Walsh-Hadamard transform that
// spreads outliers before that; and packed symbols of any width. NaN and infinities are never encoded: the row that holds one is named.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/dtype.h"
#include "core/status.h"
#include "kernels/product.h"
#include "kernels/tile_kernels.h"

namespace latentwire {

struct TileFormat {
  TileCode code = TileCode::i8;
  // fp8: f32 or ue8m0; the others: f32 or f16
  TileScale scale = TileScale::f16;
  int64_t group = 128;  // 32, 64 or 128; the last group of a row may be shorter

  constexpr bool valid() const noexcept {
    const bool fits = code == TileCode::fp8 ? scale != TileScale::f16 : scale != TileScale::ue8m0;
    return fits && (group == 32 || group == 64 || group == 128);
  }
  constexpr int code_bits() const noexcept { return code == TileCode::fp8 || code == TileCode::i8 ? 8 : 4; }
  constexpr int64_t scale_bytes() const noexcept { return scale == TileScale::f32 ? 4 : scale == TileScale::f16 ? 2 : 1; }
  constexpr bool has_minima() const noexcept { return code == TileCode::i4_zero; }
  // Of a row.
  constexpr int64_t groups(int64_t columns) const noexcept { return (columns + group - 1) / group; }
  constexpr int64_t row_code_bytes(int64_t columns) const noexcept { return (columns * code_bits() + 7) / 8; }
  constexpr int64_t row_scale_bytes(int64_t columns) const noexcept { return groups(columns) * scale_bytes(); }
  constexpr int64_t row_bytes(int64_t columns) const noexcept {
    return row_code_bytes(columns) + row_scale_bytes(columns) * (has_minima() ? 2 : 1);
  }
  // Codes, scales and minima, exactly; a row of codes is padded to whole bytes.
  constexpr int64_t row_bits(int64_t columns) const noexcept {
    return columns * code_bits() + 8 * row_scale_bytes(columns) * (has_minima() ? 2 : 1);
  }
  bool operator==(const TileFormat&) const = default;
};

// Where `rows` rows go or come from, each part without gaps: codes [rows][row_code_bytes], scales and minima [rows][groups], in the type of
// the scale. Minima are used by i4_zero only. A group of zeros has the scale 0 (ue8m0: 2^-127, with codes of 0).
struct Tiles {
  uint8_t* codes = nullptr;
  void* scales = nullptr;
  void* minima = nullptr;
};
struct ConstTiles {
  const uint8_t* codes = nullptr;
  const void* scales = nullptr;
  const void* minima = nullptr;
};

// code = round(x / scale), ties to even, with scale = max |x| / 448, 127 or 7, or for i4_zero round((x - min) / scale) with scale =
// (max - min) / 15. Scales of f16 and ue8m0 are rounded up and minima of f16 down, so that no code is cut off; codes are those of scale and
// minimum as they are stored. Groups whose scale is below 2^-127 count as zeros. Fails with invalid_argument, dtype, cancelled, or
// non_finite: the first row that holds NaN or an infinity, or whose scale or minimum is too large for its type. The same bits on every
// processor.
Status quantise(const Rows& x, int64_t columns, const TileFormat& format, const Tiles& out, const std::atomic<bool>* cancel = nullptr);

// y: [rows, columns] of `dtype` (f32, f16 or bf16), rows `stride` elements apart. The fp8 codes of NaN and the ue8m0 scale of NaN give NaN.
Status dequantise(const TileFormat& format, const ConstTiles& tiles, int64_t rows, int64_t columns, Dtype dtype, void* y, int64_t stride,
                  const std::atomic<bool>* cancel = nullptr);

// The orthonormal Walsh-Hadamard transform of each row in place, its own inverse: `columns` must be a multiple of `block`, a power of two,
// and each block of a row is transformed by itself.
Status hadamard(float* x, int64_t rows, int64_t columns, int64_t stride, int64_t block);

// Symbols of `bits` bits, 1 to 16, from the lowest bit of the first byte on; higher bits of a symbol are ignored.
constexpr int64_t packed_bytes(int64_t count, int bits) noexcept { return (count * bits + 7) / 8; }
// The unused bits of the last byte are 0. False, and nothing is done, unless 1 <= bits <= 16.
bool pack_bits(const uint16_t* symbols, int64_t count, int bits, uint8_t* out) noexcept;
bool unpack_bits(const uint8_t* packed, int64_t count, int bits, uint16_t* symbols) noexcept;

}  // namespace latentwire
