// The inner loop of every matrix product here: a tile of rows times a few panels of a packed matrix.
#pragma once

#include <cstdint>

namespace latentwire {

// Outputs of a packed matrix lie in panels of so many, whatever the instruction set: one AVX-512 register, two of AVX2, four of NEON.
constexpr int64_t panel_width = 16;
// Consecutive depths that one 32-bit lane holds in an int8 and in a bf16 panel.
constexpr int64_t i8_group = 4;
constexpr int64_t bf16_group = 2;

struct GemmTile {
  const void* x;     // [rows, depth], f32 (bf16 for bf16_rows), or for int8 u8 codes (value + 128)
  int64_t x_stride;  // in elements
  int64_t rows;
  // f32, f16: [panels][depth][16]; bf16: [panels][depth / 2][16][2], 0 behind an odd depth; int8: [panels][depth / 4][16][4], depth a
  // multiple of 4
  const void* panels;
  int64_t panel_stride;  // in elements, from panel to panel
  int64_t panel_count;
  int64_t depth;
  void* out;           // [rows, panel_count * 16] f32, or for int8 i32
  int64_t out_stride;  // in elements
  bool accumulate;     // add to `out`
};

using GemmFunction = void (*)(const GemmTile& tile) noexcept;

// Every output is one sum in order of depth, whatever the number of rows and panels: a row's results do not depend on its neighbours.
struct GemmKernels {
  GemmFunction f32 = nullptr;
  GemmFunction f16 = nullptr;
  GemmFunction bf16 = nullptr;
  // Sums of |x - w| instead of x w: L1 distances.
  GemmFunction l1_f32 = nullptr;
  GemmFunction l1_f16 = nullptr;
  GemmFunction l1_bf16 = nullptr;
  // Rows of bf16 with panels of bf16: exact products, but what is below the normal numbers, factors, products and sums, counts as 0, and
  // the sums may be rounded in another way than those of `bf16`. nullptr where nothing is faster than widening the rows.
  GemmFunction bf16_rows = nullptr;
  // Sums of code_x * code_w, where code_x is u8 less 128 - `i8_offset`: 128 if the sums are of plain u8 codes, else 0.
  GemmFunction i8 = nullptr;
  int32_t i8_offset = 0;
};

}  // namespace latentwire
