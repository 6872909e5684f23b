// Random numbers by counter (SplitMix64): the n-th number of a seed is a function of both, in integers, so it is the same on every platform
// and for any division of work.
#pragma once

#include <cstdint>

namespace latentwire {

class CounterRandom {
 public:
  explicit CounterRandom(uint64_t seed) noexcept : seed_(seed) {}

  // Number `counter` of this seed, wherever the sequence is.
  uint64_t at(uint64_t counter) const noexcept {
    uint64_t z = seed_ + (counter + 1) * 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31U);
  }

  // Number `counter` as 1 or -1.
  double sign(uint64_t counter) const noexcept { return (at(counter) >> 63U) != 0 ? 1.0 : -1.0; }

  uint64_t next() noexcept { return at(counter_++); }

  // In [0, 1), all 53 bits.
  double uniform() noexcept { return static_cast<double>(next() >> 11U) * 0x1p-53; }

  // In [0, n), n > 0, without bias.
  int64_t below(int64_t n) noexcept {
    const auto bound = static_cast<uint64_t>(n);
    const uint64_t refused = (0 - bound) % bound;
    uint64_t x = next();
    while (x < refused) x = next();
    return static_cast<int64_t>(x % bound);
  }

 private:
  uint64_t seed_;
  uint64_t counter_ = 0;
};

}  // namespace latentwire
