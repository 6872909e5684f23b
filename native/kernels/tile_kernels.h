// Kernels that turn rows of numbers into codes with a scale per group of neighbours, and back.
#pragma once

#include <cstdint>

namespace latentwire {

enum class TileCode {
  fp8,      // e4m3 without infinities ("e4m3fn"): sign, 4 bits of exponent, 3 of fraction, up to 448
  i8,       // -127 .. 127
  i4,       // -7 .. 7, two's complement, the first of a pair in the low half of a byte
  i4_zero,  // 0 .. 15 above the group's least element, as KIVI has it
};
enum class TileScale { f32, f16, ue8m0 };  // ue8m0: a power of two, its exponent plus 127

// Rows [rows, columns] and their codes; codes, scales and minima of a row lie behind those of the row before it.
struct TileRows {
  int64_t rows;
  int64_t columns;
  int64_t stride;    // of the numbers, in elements
  int group_shift;   // groups of 32, 64 or 128: 5, 6, 7
  TileScale scale;   // of scales and minima
  int64_t code_row;  // bytes of a row of codes
  int64_t groups;    // of a row
  bool stream;       // write past the caches where the addresses allow it
};

// The first row that holds NaN or an infinity, or whose scale is no number of its type; `rows` if there is none. What belongs to rows from
// there on is unspecified. `minima` is for i4_zero.
using QuantiseTiles = int64_t (*)(const TileRows& t, const void* x, uint8_t* codes, void* scales, void* minima) noexcept;
using DequantiseTiles = void (*)(const TileRows& t, const uint8_t* codes, const void* scales, const void* minima, void* y) noexcept;

// Codes are the same bits on every instruction set.
struct TileKernels {
  QuantiseTiles quantise[3][4] = {};      // by f32, f16, bf16 (as Dtype counts) and TileCode
  DequantiseTiles dequantise[4][3] = {};  // by TileCode and dtype
  // Orthonormal Walsh-Hadamard transform of n = 2^k elements, in place; the same bits on every instruction set.
  void (*hadamard)(float* x, int64_t n) noexcept = nullptr;
};

}  // namespace latentwire
