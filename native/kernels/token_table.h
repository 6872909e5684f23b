// A table with a row for each token, read as it lies in a tensor or in a mapped model file: plain numbers, or the blocks of ggml.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/status.h"
#include "kernels/thought_kernels.h"

namespace latentwire {

// Columns and bytes of one unit of storage: an element, or a block of ggml.
constexpr int64_t row_unit_columns(RowFormat format) noexcept {
  return format == RowFormat::q8_0 || format == RowFormat::q4_0 ? 32 : format == RowFormat::q4_K || format == RowFormat::q6_K ? 256 : 1;
}
constexpr int64_t row_unit_bytes(RowFormat format) noexcept {
  switch (format) {
    case RowFormat::f32:
      return 4;
    case RowFormat::f16:
    case RowFormat::bf16:
      return 2;
    case RowFormat::q8_0:
      return 34;
    case RowFormat::q4_0:
      return 18;
    case RowFormat::q4_K:
      return 144;
    case RowFormat::q6_K:
      break;
  }
  return 210;
}

// A table with a row for each token: the input embeddings, or the output matrix.
struct TokenTable {
  RowFormat format = RowFormat::f32;
  const void* data = nullptr;  // at a multiple of the element's size; blocks may lie anywhere
  int64_t count = 0;           // rows: the size of the vocabulary
  int64_t width = 0;           // columns: a multiple of the block's for block formats
  int64_t row_bytes = 0;       // from row to row; 0 for no gap

  // Bytes of a row without a gap behind it.
  constexpr int64_t tight_bytes() const noexcept { return width / row_unit_columns(format) * row_unit_bytes(format); }
  constexpr int64_t stride() const noexcept { return row_bytes == 0 ? tight_bytes() : row_bytes; }
};

// Fails with invalid_argument unless rows of the table can be read: its sizes fit the format and each other, and numbers are aligned.
Status check_readable(const TokenTable& table);

// Writes the rows of tokens as f32, [count, width]: of `ids`, which must be within the table, or those from `first` on where it is nullptr.
void read_rows(const TokenTable& table, const int32_t* ids, int64_t first, int64_t count, float* out) noexcept;

// "q4_K"
std::string_view row_format_name(RowFormat format) noexcept;

}  // namespace latentwire
