// The kernels of `block_kernels.h` over a vector type V of at most 8 lanes. A product is never the operand of a sum: compilers would make
// one rounding of the two where the processor can, and other bits.
#pragma once

#include <cstdint>

#include "kernels/block_kernels.h"
#include "kernels/impl/thought.h"

namespace latentwire {

// False if the scale is too large for f16.
template <class V>
inline bool store_block_scale(float scale, uint8_t* out) noexcept {
  uint16_t halves[V::lanes];
  V::store_f16(halves, V::set(scale));
  __builtin_memcpy(out, halves, sizeof(halves[0]));
  return (halves[0] & 0x7C00U) != 0x7C00U;
}

// 0 where there is none in f32.
static inline float inverse_of_scale(float scale) noexcept {
  const float inverse = 1.0F / scale;
  return __builtin_fabsf(inverse) <= 0x1.fffffep127F ? inverse : 0.0F;
}

// 32 numbers to as many bytes.
template <class V, class Code>
inline void store_block_codes(const float* x, uint8_t* out, Code code) noexcept {
  static_assert(32 % (4 * V::lanes) == 0);
  for (int i = 0; i < 32; i += 4 * V::lanes) {
    typename V::I codes[4];
    for (int j = 0; j < 4; j++) codes[j] = code(V::load(x + i + j * V::lanes));
    V::store_i8(out + i, codes[0], codes[1], codes[2], codes[3]);
  }
}

// scale = max |x| / 127, code = x / scale to nearest, ties away from zero.
template <class V>
int64_t block_encode_q8_0(const float* x, int64_t blocks, uint8_t* out) noexcept {
  using F = typename V::F;
  for (int64_t block = 0; block < blocks; block++, x += 32, out += Q8Block<V>::bytes) {
    const uint32_t most = V::max_bits32(x, 32);
    const float scale = __builtin_bit_cast(float, most) / 127.0F;
    if (most >= 0x7F80'0000U || !store_block_scale<V>(scale, out)) return block;
    const F inverse = V::set(inverse_of_scale(scale));
    const F below_half = V::set(0x1.fffffep-2F);  // with 1/2 the numbers just below a tie would be rounded up twice
    store_block_codes<V>(x, out + 2, [&](F v) {
      const F y = V::mul(v, inverse);
      return V::truncate(V::copy_sign(V::add(V::abs(y), below_half), y));
    });
  }
  return blocks;
}

// The first of 32 numbers with this magnitude.
template <class V>
inline float first_of_magnitude(const float* x, uint32_t bits) noexcept {
  const auto magnitude = V::set(__builtin_bit_cast(float, bits));
  for (int i = 0; i < 32; i += V::lanes) {
    const uint32_t found = V::mask_bits(V::less_equal(magnitude, V::abs(V::load(x + i))));
    if (found != 0) return x[i + __builtin_ctz(found)];
  }
  return 0;
}

// scale = the number of the largest magnitude / -8, code = x / scale + 8 rounded, 15 for all that is above. The second half of a block is
// in the high halves of the bytes.
template <class V>
int64_t block_encode_q4_0(const float* x, int64_t blocks, uint8_t* out) noexcept {
  using F = typename V::F;
  for (int64_t block = 0; block < blocks; block++, x += 32, out += Q4Block<V>::bytes) {
    const uint32_t most = V::max_bits32(x, 32);
    if (most >= 0x7F80'0000U) return block;
    const float scale = (most == 0 ? 0.0F : first_of_magnitude<V>(x, most)) / -8.0F;
    if (!store_block_scale<V>(scale, out)) return block;
    const F inverse = V::set(inverse_of_scale(scale));
    uint8_t codes[32];
    store_block_codes<V>(x, codes, [&](F v) { return V::truncate(V::add(V::min(V::mul(v, inverse), V::set(6.5F)), V::set(8.5F))); });
    uint64_t halves[4];
    __builtin_memcpy(halves, codes, sizeof(codes));
    for (int i = 0; i < 2; i++) halves[i] |= halves[i + 2] << 4;
    __builtin_memcpy(out + 2, halves, 16);
  }
  return blocks;
}

template <class V, class Block>
void decode_blocks(const uint8_t* in, int64_t blocks, float* x) noexcept {
  for (int64_t block = 0; block < blocks; block++) Block::unpack(in + block * Block::bytes, x + block * Block::columns);
}

template <class V>
void install_blocks(BlockKernels& k) noexcept {
  k.encode_q8_0 = block_encode_q8_0<V>;
  k.encode_q4_0 = block_encode_q4_0<V>;
  k.decode_q8_0 = decode_blocks<V, Q8Block<V>>;
  k.decode_q4_0 = decode_blocks<V, Q4Block<V>>;
}

}  // namespace latentwire
