// The inner loop of XXH3 over a type W of 64-bit lanes, 8 in all: blocks of 16 stripes of 64 bytes, with a scramble behind each. What is
// shorter, and how a digest ends, stays with xxHash itself.
#pragma once

#include <cstdint>

namespace latentwire {

template <class W>
void xxh3_blocks(uint64_t* sums, const void* data, int64_t blocks, const uint8_t* secret) noexcept {
  using I = typename W::I;
  constexpr int registers = 8 / W::lanes;
  constexpr int bytes = 8 * W::lanes;
  const auto* p = static_cast<const uint8_t*>(data);
  I sum[registers];
  for (int r = 0; r < registers; r++) sum[r] = W::load(sums + r * W::lanes);
  for (int64_t block = 0; block < blocks; block++) {
    for (int stripe = 0; stripe < 16; stripe++, p += 64) {
      for (int r = 0; r < registers; r++) {
        const I x = W::load(p + r * bytes);
        const I key = W::exclusive_or(x, W::load(secret + 8 * stripe + r * bytes));
        sum[r] = W::add(W::add(sum[r], W::swap_lanes(x)), W::multiply(key, W::high_halves(key)));
      }
    }
    for (int r = 0; r < registers; r++) {
      I x = W::exclusive_or(sum[r], W::template shift_right<47>(sum[r]));
      x = W::exclusive_or(x, W::load(secret + 128 + r * bytes));
      // times a 32-bit prime
      const I prime = W::set(0x9E3779B1U);
      sum[r] = W::add(W::multiply(x, prime), W::template shift_left<32>(W::multiply(W::high_halves(x), prime)));
    }
  }
  for (int r = 0; r < registers; r++) W::store(sums + r * W::lanes, sum[r]);
}

}  // namespace latentwire
