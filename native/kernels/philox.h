// Philox4x32-10 (Salmon et al. 2011): random words as a function of a key and a counter. A draw depends on what it is for and not on what
// was drawn before it, so results are the same whatever the order, the thread or the instruction set.
#pragma once

#include <array>
#include <cstdint>

namespace latentwire {

using PhiloxWords = std::array<uint32_t, 4>;

constexpr PhiloxWords philox(PhiloxWords counter, std::array<uint32_t, 2> key) noexcept {
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t{0xD2511F53U} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

// Uniform in (0, 1), by the upper 52 bits of two words: never 0 nor 1.
constexpr double uniform_of(uint32_t high, uint32_t low) noexcept {
  return (static_cast<double>(((uint64_t{high} << 32) | low) >> 12) + 0.5) * 0x1p-52;
}

}  // namespace latentwire
