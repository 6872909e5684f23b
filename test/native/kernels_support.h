// What the tests of kernels share: seeded numbers, and the same in every dtype together with the exact values that are stored.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "core/dtype.h"

namespace latentwire::testing {

// Rounds of a test with random shapes: fewer where an emulator or a sanitizer makes each of them many times as long
// (LATENTWIRE_TEST_ROUNDS).
inline int rounds(int all) {
  static const bool few = std::getenv("LATENTWIRE_TEST_ROUNDS") != nullptr;
  return few ? (all + 4) / 5 : all;
}

inline constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
inline constexpr float infinity = std::numeric_limits<float>::infinity();
inline constexpr std::array dtypes = {Dtype::f32, Dtype::f16, Dtype::bf16};

class Numbers {
 public:
  explicit Numbers(uint64_t seed) : engine_(seed) {}

  float normal() { return normal_(engine_); }
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  std::vector<float> normals(int64_t n, float scale = 1) {
    std::vector<float> x(static_cast<size_t>(n));
    for (float& value : x) value = scale * normal();
    return x;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

// The bytes of `x` in a dtype, and `x` becomes what they stand for.
inline std::vector<uint8_t> stored(Dtype dtype, std::vector<float>* x) {
  std::vector<uint8_t> bytes(x->size() * dtype_size(dtype));
  convert_elements(Dtype::f32, x->data(), dtype, bytes.data(), x->size());
  convert_elements(dtype, bytes.data(), Dtype::f32, x->data(), x->size());
  return bytes;
}

// Rows of `columns` with `gap` elements between them, filled with a value that must never be read or written.
inline std::vector<float> with_gaps(const std::vector<float>& x, int64_t rows, int64_t columns, int64_t gap, float filler) {
  std::vector<float> out(static_cast<size_t>(rows * (columns + gap)), filler);
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t k = 0; k < columns; k++) out[static_cast<size_t>(i * (columns + gap) + k)] = x[static_cast<size_t>(i * columns + k)];
  }
  return out;
}

}  // namespace latentwire::testing
