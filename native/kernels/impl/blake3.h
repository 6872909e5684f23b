// The kernels of `blake3_kernels.h` over a type W of 32-bit lanes, one for each input: the 16 words of the state, and of a block, are a
// register each. Written from the specification (O'Connor, Aumasson, Neves, Wilcox-O'Hearn: BLAKE3, one function, fast everywhere).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/blake3_kernels.h"
#include "kernels/impl/transpose.h"
#include "kernels/impl/unroll.h"

namespace latentwire {

// One lane, for what comes alone. Of W only so that each instruction set has its own.
template <class W>
struct Blake3Lane {
  using I = uint32_t;
  static constexpr int lanes = 1;
  static I set(uint32_t x) noexcept { return x; }
  static I load(const uint32_t* p) noexcept { return *p; }
  static I add(I a, I b) noexcept { return a + b; }
  static I exclusive_or(I a, I b) noexcept { return a ^ b; }
  template <int n>
  static I rotate_right(I a) noexcept {
    return a >> n | a << (32 - n);
  }
};

// Which word of a block each round takes next: every round permutes the order of the one before it.
struct Blake3Schedule {
  int word[7][16] = {};
  constexpr Blake3Schedule() noexcept {
    constexpr int permutation[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
    for (int i = 0; i < 16; i++) word[0][i] = i;
    for (int round = 1; round < 7; round++) {
      for (int i = 0; i < 16; i++) word[round][i] = word[round - 1][permutation[i]];
    }
  }
};
constexpr Blake3Schedule blake3_schedule;

template <class W>
LATENTWIRE_INLINE void blake3_mix(typename W::I& a, typename W::I& b, typename W::I& c, typename W::I& d, typename W::I x,
                                  typename W::I y) noexcept {
  a = W::add(W::add(a, x), b);
  d = W::template rotate_right<16>(W::exclusive_or(d, a));
  c = W::add(c, d);
  b = W::template rotate_right<12>(W::exclusive_or(b, c));
  a = W::add(W::add(a, y), b);
  d = W::template rotate_right<8>(W::exclusive_or(d, a));
  c = W::add(c, d);
  b = W::template rotate_right<7>(W::exclusive_or(b, c));
}

// One block of every lane, `m`, onto the chaining values `h`.
template <class W>
LATENTWIRE_INLINE void blake3_compress(typename W::I (&h)[8], const typename W::I (&m)[16], typename W::I counter_low,
                                       typename W::I counter_high, uint32_t length, uint32_t flags) noexcept {
  using I = typename W::I;
  I v[16];
  LATENTWIRE_UNROLL
  for (int i = 0; i < 8; i++) v[i] = h[i];
  LATENTWIRE_UNROLL
  for (int i = 0; i < 4; i++) v[8 + i] = W::set(blake3_initial[i]);
  v[12] = counter_low;
  v[13] = counter_high;
  v[14] = W::set(length);
  v[15] = W::set(flags);
  LATENTWIRE_UNROLL
  for (int round = 0; round < 7; round++) {
    const auto& word = blake3_schedule.word[round];
    // columns, then diagonals
    blake3_mix<W>(v[0], v[4], v[8], v[12], m[word[0]], m[word[1]]);
    blake3_mix<W>(v[1], v[5], v[9], v[13], m[word[2]], m[word[3]]);
    blake3_mix<W>(v[2], v[6], v[10], v[14], m[word[4]], m[word[5]]);
    blake3_mix<W>(v[3], v[7], v[11], v[15], m[word[6]], m[word[7]]);
    blake3_mix<W>(v[0], v[5], v[10], v[15], m[word[8]], m[word[9]]);
    blake3_mix<W>(v[1], v[6], v[11], v[12], m[word[10]], m[word[11]]);
    blake3_mix<W>(v[2], v[7], v[8], v[13], m[word[12]], m[word[13]]);
    blake3_mix<W>(v[3], v[4], v[9], v[14], m[word[14]], m[word[15]]);
  }
  LATENTWIRE_UNROLL
  for (int i = 0; i < 8; i++) h[i] = W::exclusive_or(v[i], v[8 + i]);
}

template <class W>
void blake3_compress_one(uint32_t* value, const uint8_t* block, uint32_t length, uint64_t counter, uint32_t flags) noexcept {
  uint32_t h[8], m[16];
  __builtin_memcpy(h, value, sizeof(h));
  __builtin_memcpy(m, block, sizeof(m));
  blake3_compress<Blake3Lane<W>>(h, m, static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), length, flags);
  __builtin_memcpy(value, h, sizeof(h));
}

static inline uint32_t blake3_flags(const Blake3Inputs& inputs, int64_t block) noexcept {
  return inputs.flags | (block == 0 ? inputs.first_flags : 0) | (block == inputs.blocks - 1 ? inputs.last_flags : 0);
}

// The input at `data`.
template <class W>
void blake3_hash_one(const Blake3Inputs& inputs, const uint8_t* data, uint64_t counter, uint8_t* out) noexcept {
  uint32_t value[8];
  __builtin_memcpy(value, inputs.key, sizeof(value));
  for (int64_t block = 0; block < inputs.blocks; block++)
    blake3_compress_one<W>(value, data + block * blake3_block, blake3_block, counter, blake3_flags(inputs, block));
  __builtin_memcpy(out, value, sizeof(value));
}

// `count` inputs from `data` on, at least one and at most one a lane; lanes that are left repeat the last.
template <class W>
void blake3_hash_lanes(const Blake3Inputs& inputs, const uint8_t* data, int64_t count, uint64_t counter, uint8_t* out) noexcept {
  using I = typename W::I;
  const int64_t bytes = inputs.blocks * blake3_block;
  const uint8_t* at[W::lanes];
  uint32_t low[W::lanes], high[W::lanes];
  for (int lane = 0; lane < W::lanes; lane++) {
    const int64_t input = lane < count ? lane : count - 1;
    const uint64_t number = counter + static_cast<uint64_t>(input) * inputs.counter_step;
    at[lane] = data + input * bytes;
    low[lane] = static_cast<uint32_t>(number);
    high[lane] = static_cast<uint32_t>(number >> 32);
  }
  I h[8];
  for (int i = 0; i < 8; i++) h[i] = W::set(inputs.key[i]);
  for (int64_t block = 0; block < inputs.blocks; block++) {
    I m[16];
    for (int word = 0; word < 16; word += 4) {
      I four[4];
      LATENTWIRE_UNROLL
      for (int i = 0; i < 4; i++)
        four[i] = W::load_parts([&](int part) { return at[4 * part + i] + block * blake3_block + word * sizeof(uint32_t); });
      transpose_parts<W>(four);
      LATENTWIRE_UNROLL
      for (int i = 0; i < 4; i++) m[word + i] = four[i];
    }
    // the inputs of the next call; the processor follows fewer streams than there are lanes
    for (int lane = 0; lane < W::lanes; lane++) __builtin_prefetch(at[lane] + block * blake3_block + W::lanes * bytes);
    blake3_compress<W>(h, m, W::load(low), W::load(high), blake3_block, blake3_flags(inputs, block));
  }
  alignas(64) uint8_t values[32 * W::lanes];
  for (int word = 0; word < 8; word += 4) {
    I four[4];
    LATENTWIRE_UNROLL
    for (int i = 0; i < 4; i++) four[i] = h[word + i];
    transpose_parts<W>(four);
    LATENTWIRE_UNROLL
    for (int i = 0; i < 4; i++) W::store_parts(four[i], [&](int part) { return values + 32 * (4 * part + i) + word * sizeof(uint32_t); });
  }
  __builtin_memcpy(out, values, static_cast<size_t>(count) * 32);
}

template <class W>
void blake3_hash(const Blake3Inputs& inputs, uint8_t* out) noexcept {
  const int64_t bytes = inputs.blocks * blake3_block;
  int64_t done = 0;
  const auto counter = [&] { return inputs.counter + static_cast<uint64_t>(done) * inputs.counter_step; };
  if constexpr (W::lanes > 1) {
    // two take as long in a register of lanes as one after the other, more take less
    for (int64_t count; inputs.count - done > 1; done += count) {
      count = inputs.count - done < W::lanes ? inputs.count - done : W::lanes;
      blake3_hash_lanes<W>(inputs, inputs.data + done * bytes, count, counter(), out + done * 32);
    }
  }
  for (; done < inputs.count; done++) blake3_hash_one<W>(inputs, inputs.data + done * bytes, counter(), out + done * 32);
}

template <class W>
void install_blake3(Blake3Kernels& k) noexcept {
  k.hash = blake3_hash<W>;
  k.compress = blake3_compress_one<W>;
}

}  // namespace latentwire
