// Whether stored numbers are finite, judged by their bits in place: all numbers of a plain type, the scales and minima of a quantised one.
#pragma once

#include <cstdint>

namespace latentwire {

// Where the floating-point numbers of a type are: `numbers` of them at the start of each block.
struct NumberLayout {
  enum class Number { f32, f16, bf16 };
  uint32_t block_bytes = 0;
  Number number = Number::f32;
  uint32_t numbers = 1;
};

// False if a number of the `bytes` bytes, which are whole blocks, is NaN or an infinity.
bool all_finite(const uint8_t* at, uint64_t bytes, const NumberLayout& layout) noexcept;

}  // namespace latentwire
