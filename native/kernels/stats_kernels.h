// Kernels that look at rows as they pass by: whether they are finite, how long they are, where they drift, what a distribution holds.
#pragma once

#include <cstdint>

namespace latentwire {

// Arrays of three are by f32, f16 and bf16, as Dtype counts.
struct StatsKernels {
  bool (*finite[3])(const void* x, int64_t n) noexcept = {};
  // out: <x, x>, <x, a>, <x, b>, in one pass; f32 sums. `a` and `b` are of the same type.
  void (*dots[3])(const void* x, const void* a, const void* b, int64_t n, float* out) noexcept = {};
  // mean += (x - mean) * weight
  void (*blend[3])(const void* x, int64_t n, float weight, float* mean) noexcept = {};
  // The sum of -p log2 p; NaN if an element is negative or not finite.
  float (*entropy)(const float* p, int64_t n) noexcept = nullptr;
  // Copies n bytes past the caches; other threads may read them only after a call of `fence`.
  void (*stream_copy)(const void* from, void* to, int64_t n) noexcept = nullptr;
  void (*fence)() noexcept = nullptr;
  // XXH3's sums after so many more whole blocks of 1024 bytes, with its 192 bytes of secret; nullptr where xxHash does it as well itself.
  void (*xxh3_blocks)(uint64_t* sums, const void* data, int64_t blocks, const uint8_t* secret) noexcept = nullptr;
};

}  // namespace latentwire
