// The noise of thought steps, as native/kernels/thought.cpp draws it: of each token its own, whatever is drawn for others.
#pragma once

#include <cstdint>

namespace latentwire::cuda::thought {

constexpr double two_pi = 6.283185307179586;

class Draws {
 public:
  __device__ Draws(const uint64_t* draws, uint32_t id) noexcept
      : key_{static_cast<uint32_t>(draws[0]), static_cast<uint32_t>(draws[0] >> 32)},
        counter_{id, static_cast<uint32_t>(draws[1]), static_cast<uint32_t>(draws[1] >> 32), 0} {}

  // Two uniform numbers in (0, 1), of Philox4x32-10.
  __device__ double2 uniforms() noexcept {
    uint32_t c[4] = {counter_[0], counter_[1], counter_[2], counter_[3]};
    uint32_t k[2] = {key_[0], key_[1]};
#pragma unroll
    for (int round = 0; round < 10; round++) {
      const uint64_t a = uint64_t{0xD2511F53U} * c[0];
      const uint64_t b = uint64_t{0xCD9E8D57U} * c[2];
      c[0] = static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0];
      c[1] = static_cast<uint32_t>(b);
      c[2] = static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1];
      c[3] = static_cast<uint32_t>(a);
      k[0] += 0x9E3779B9U;
      k[1] += 0xBB67AE85U;
    }
    counter_[3]++;
    return {uniform(c[0], c[1]), uniform(c[2], c[3])};
  }

 private:
  __device__ static double uniform(uint32_t high, uint32_t low) noexcept {
    return (static_cast<double>(((uint64_t{high} << 32) | low) >> 12) + 0.5) * 0x1p-52;
  }
  uint32_t key_[2];
  uint32_t counter_[4];
};

__device__ inline double gumbel(Draws draws) noexcept { return -log(-log(draws.uniforms().x)); }

// The logarithm of a draw from Gamma(shape, 1) (Marsaglia and Tsang 2000).
__device__ inline double log_gamma_draw(Draws draws, double shape) noexcept {
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / sqrt(9 * d);
  const double lift = shape < 1 ? log(draws.uniforms().x) / shape : 0;
  while (true) {
    const double2 polar = draws.uniforms();
    const double x = sqrt(-2 * log(polar.x)) * cos(two_pi * polar.y);
    const double u = draws.uniforms().x;
    const double root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (log(u) < 0.5 * x * x + d - d * v + d * log(v)) return log(d * v) + lift;
  }
}

}  // namespace latentwire::cuda::thought
