// Division of indices by a number known at launch, as multiplication (Granlund and Montgomery 1994).
#pragma once

#include <cstdint>

#include "device.h"

namespace latentwire::cuda {

// Numerators are below 2^31, and the divisor is from 1 to 2^31 - 1.
struct Divisor {
  uint32_t by = 1;
  uint32_t factor = 1;
  uint32_t shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t d) noexcept : by(d) {
    while ((uint64_t{1} << shift) < d) shift++;
    factor = static_cast<uint32_t>((((uint64_t{1} << shift) - d) << 32) / d + 1);
  }
#ifdef __CUDACC__
  __device__ uint32_t quotient(uint32_t n) const noexcept { return (__umulhi(n, factor) + n) >> shift; }
#endif
};

constexpr int64_t most_index = (int64_t{1} << 31) - 1;

}  // namespace latentwire::cuda
