// How a row of cached keys or values is stored, and the way from there to f32 and back. Blocks are ggml's, bit for bit as its reference
// quantisers write them; a quantised cache of llama.cpp holds its rows rotated, which its states do not say. One thread: callers share out
// layers and tiles. Rows of f16 and bf16 lie at even addresses, the others anywhere.
#pragma once

#include <cstdint>
#include <optional>

#include "core/dtype.h"
#include "core/status.h"
#include "kernels/thought_kernels.h"
#include "kernels/token_table.h"

namespace latentwire {

struct CacheRows {
  RowFormat format = RowFormat::f16;  // f32, f16, bf16, q8_0 or q4_0
  int32_t channels = 0;               // of all heads
  // Rows are stored as the orthonormal Walsh-Hadamard transform of each `rotation` neighbours, a power of two; 0 for as they are.
  int32_t rotation = 0;

  constexpr int64_t row_bytes() const noexcept { return channels / row_unit_columns(format) * row_unit_bytes(format); }
  // Of the numbers, where rows are nothing but these, one after the other.
  constexpr std::optional<Dtype> dtype() const noexcept {
    if (rotation != 0) return std::nullopt;
    if (format == RowFormat::f32) return Dtype::f32;
    if (format == RowFormat::f16) return Dtype::f16;
    if (format == RowFormat::bf16) return Dtype::bf16;
    return std::nullopt;
  }
  bool operator==(const CacheRows&) const = default;
};

constexpr int32_t largest_rotation = 2048;

// invalid_argument unless there can be such rows: a format of caches, channels in whole blocks and rotations. The functions below rely on
// it.
Status check_rows(const CacheRows& rows);

// f32 [count, channels], rotation undone.
void decode(const CacheRows& from, const uint8_t* rows, int64_t count, float* out) noexcept;

// The inverse, from f32 [count, channels]. Error: non_finite, with the first row that holds NaN, an infinity or a number too large for its
// type or for the type of its scale; what belongs to rows from there on is unspecified.
Status encode(const CacheRows& to, const float* in, int64_t count, uint8_t* out);

// Rows of one kind as rows of another with as many channels; of the same kind they are copied as they are. Error: non_finite, as above.
Status transcode(const CacheRows& from, const CacheRows& to, const uint8_t* rows, int64_t count, uint8_t* out);

// The first row that holds NaN or an infinity (quantised: as a scale); `count` if there is none.
int64_t first_non_finite_row(const CacheRows& kind, const uint8_t* rows, int64_t count) noexcept;

}  // namespace latentwire
