// A number is infinite or NaN when all its exponent bits are set. The loops have no early exit, so that they vectorise.
#include "kv/finite.h"

#include <cstddef>
#include <cstring>

namespace latentwire {
namespace {

template <typename T>
bool all_finite(const uint8_t* at, size_t blocks, size_t stride, uint32_t numbers, T exponent) noexcept {
  T bad = 0;
  for (uint32_t i = 0; i < numbers; ++i) {
    const uint8_t* number = at + i * sizeof(T);
    for (size_t block = 0; block < blocks; ++block) {
      T bits;
      std::memcpy(&bits, number + block * stride, sizeof bits);
      bad |= (bits & exponent) == exponent;
    }
  }
  return bad == 0;
}

}  // namespace

bool all_finite(const uint8_t* at, uint64_t bytes, const NumberLayout& layout) noexcept {
  const size_t blocks = static_cast<size_t>(bytes / layout.block_bytes);
  switch (layout.number) {
    case NumberLayout::Number::f32:
      return all_finite<uint32_t>(at, blocks, sizeof(uint32_t), layout.numbers, 0x7f800000);
    case NumberLayout::Number::bf16:
      return all_finite<uint16_t>(at, blocks, sizeof(uint16_t), layout.numbers, 0x7f80);
    case NumberLayout::Number::f16:
      // two calls: with a constant stride the one that matters vectorises
      return layout.block_bytes == sizeof(uint16_t) ? all_finite<uint16_t>(at, blocks, sizeof(uint16_t), layout.numbers, 0x7c00)
                                                    : all_finite<uint16_t>(at, blocks, layout.block_bytes, layout.numbers, 0x7c00);
  }
  return false;
}

}  // namespace latentwire
