// The kernels of `thought_kernels.h` over a vector type V.
#pragma once

#include <math.h>

#include "kernels/thought_kernels.h"

namespace latentwire {

// 2^y for y <= 0 by 2^n * 2^f, |f| <= 1/2, and a polynomial of degree 5 that is exact at 0; relative error 1.2e-7 with rounding. y is not
// taken below -126; NaN stays NaN.
template <class V>
inline typename V::F power_of_two(typename V::F y) noexcept {
  using F = typename V::F;
  const F n = V::round(y);
  const F f = V::sub(y, n);
  F p = V::set(0.00132647273F);
  p = V::fma(p, f, V::set(0.00967151299F));
  p = V::fma(p, f, V::set(0.05550733581F));
  p = V::fma(p, f, V::set(0.24022242426F));
  p = V::fma(p, f, V::set(0.69314700365F));
  p = V::fma(p, f, V::set(1.0F));
  return V::scale(p, n);
}

// Fewer logits than lanes, with -infinity behind them.
template <class V>
inline typename V::F load_logits(const float* z, int64_t n) noexcept {
  float buffer[V::lanes];
  for (int64_t i = 0; i < V::lanes; i++) buffer[i] = i < n ? z[i] : -INFINITY;
  return V::load(buffer);
}

// Calls f(block, first, count) for each block of the logits.
template <class F>
inline void for_blocks(int64_t n, F f) noexcept {
  for (int64_t first = 0; first < n; first += logit_block) f(first / logit_block, first, n - first < logit_block ? n - first : logit_block);
}

// Calls take(accumulator, vector) with four accumulators in turn.
template <class V, class Take>
inline void over_logits(const float* z, int64_t n, Take take) noexcept {
  int64_t i = 0;
  for (; i + 4 * V::lanes <= n; i += 4 * V::lanes) {
    for (int j = 0; j < 4; j++) take(j, V::load(z + i + j * V::lanes));
  }
  for (; i + V::lanes <= n; i += V::lanes) take(0, V::load(z + i));
  if (i < n) take(1, load_logits<V>(z + i, n - i));
}

template <class V>
bool thought_maxima(const float* z, int64_t n, float* out) noexcept {
  using F = typename V::F;
  const F lowest = V::set(-INFINITY);
  const F infinity = V::set(INFINITY);
  const F one = V::set(1.0F);
  F bad[2] = {V::zero(), V::zero()};
  for_blocks(n, [&](int64_t block, int64_t first, int64_t count) {
    F a[4] = {lowest, lowest, lowest, lowest};
    over_logits<V>(z + first, count, [&](int j, F v) {
      a[j] = V::max(v, a[j]);
      bad[j & 1] = V::select(V::less(v, infinity), bad[j & 1], one);  // false for NaN as well
    });
    out[block] = V::reduce_max(V::max(V::max(a[0], a[1]), V::max(a[2], a[3])));
  });
  return V::reduce_max(V::max(bad[0], bad[1])) == 0;
}

template <class V>
void thought_exp_sums(const float* z, int64_t n, const float* maxima, float floor, float max, float scale, double* sum,
                      double* weighted) noexcept {
  using F = typename V::F;
  const F top = V::set(max);
  const F factor = V::set(scale);
  const F least = V::set(-126.0F);
  F s[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  F w[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for_blocks(n, [&](int64_t block, int64_t first, int64_t count) {
    if (maxima[block] >= floor) {
      over_logits<V>(z + first, count, [&](int j, F v) {
        const F y = V::max(least, V::mul(V::sub(v, top), factor));
        const F q = power_of_two<V>(y);
        s[j] = V::add(s[j], q);
        w[j] = V::fma(q, y, w[j]);
      });
    }
    // short sums in f32, long ones in f64
    if (block % 4 == 3 || first + count == n) {
      *sum += static_cast<double>(V::reduce_add(V::add(V::add(s[0], s[1]), V::add(s[2], s[3]))));
      *weighted += static_cast<double>(V::reduce_add(V::add(V::add(w[0], w[1]), V::add(w[2], w[3]))));
      for (int j = 0; j < 4; j++) s[j] = w[j] = V::zero();
    }
  });
}

template <class V>
int64_t thought_collect(const float* z, int64_t n, const float* maxima, float threshold, int64_t first_id, int32_t* ids) noexcept {
  const auto bound = V::set(threshold);
  int64_t found = 0;
  for_blocks(n, [&](int64_t block, int64_t first, int64_t count) {
    if (!(maxima[block] >= threshold)) return;
    const auto take = [&](int64_t at, typename V::F v) {
      for (uint32_t left = V::mask_bits(V::less_equal(bound, v)); left != 0; left &= left - 1)
        ids[found++] = static_cast<int32_t>(first_id + first + at + __builtin_ctz(left));
    };
    int64_t i = 0;
    for (; i + V::lanes <= count; i += V::lanes) take(i, V::load(z + first + i));
    if (i < count) take(i, load_logits<V>(z + first + i, count - i));
  });
  return found;
}

template <class V>
void thought_exponentials(const float* z, int64_t n, float max, float scale, float factor, float* out) noexcept {
  using F = typename V::F;
  const F top = V::set(max);
  const F by = V::set(scale);
  const F least = V::set(-126.0F);
  const F times = V::set(factor);
  const auto f = [&](F v) {
    const F y = V::mul(V::sub(v, top), by);
    return V::select(V::less(y, least), V::zero(), V::mul(power_of_two<V>(V::max(least, y)), times));
  };
  int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) V::store(out + i, f(V::load(z + i)));
  if (i < n) V::store_part(out + i, f(load_logits<V>(z + i, n - i)), n - i);
}

// Functions here that are no templates over V are static: linked weakly, the one of another instruction set might be taken.

// --- Rows as they are stored. A plain format loads vectors at any column; a block format unpacks columns into f32 first. -------------

template <class V>
struct F32Row {
  using Element = float;
  static typename V::F load(const float* p) noexcept { return V::load(p); }
};
template <class V>
struct F16Row {
  using Element = uint16_t;
  static typename V::F load(const uint16_t* p) noexcept { return V::load_f16(p); }
};
template <class V>
struct Bf16Row {
  using Element = uint16_t;
  static typename V::F load(const uint16_t* p) noexcept { return V::load_bf16(p); }
};

static inline uint16_t half_at(const uint8_t* p) noexcept {
  uint16_t half;
  __builtin_memcpy(&half, p, sizeof(half));
  return half;
}

// f16 scale, 32 signed codes: scale * code.
template <class V>
struct Q8Block {
  static constexpr int64_t columns = 32;
  static constexpr int64_t bytes = 34;
  static void unpack(const uint8_t* block, float* out) noexcept {
    const auto scale = V::set(V::from_half(half_at(block)));
    for (int i = 0; i < 32; i += V::lanes) V::store(out + i, V::mul(scale, V::load_i8(block + 2 + i)));
  }
};

// f16 scale, 16 bytes: column i in the low half of byte i, column i + 16 in the high one; scale * (code - 8).
template <class V>
struct Q4Block {
  static constexpr int64_t columns = 32;
  static constexpr int64_t bytes = 18;
  static void unpack(const uint8_t* block, float* out) noexcept {
    const auto scale = V::set(V::from_half(half_at(block)));
    const auto eight = V::set(8.0F);
    for (int i = 0; i < 16; i += V::lanes) {
      const auto codes = V::load_u8(block + 2 + i);
      V::store(out + i, V::mul(scale, V::sub(V::from_i32(V::template field<0, 4>(codes)), eight)));
      V::store(out + 16 + i, V::mul(scale, V::sub(V::from_i32(V::template field<4, 4>(codes)), eight)));
    }
  }
};

// f16 scale and f16 minimum, 12 bytes of 8 pairs of 6-bit factors, 128 bytes of codes. Columns 64 g to 64 g + 31 are the low halves of
// the bytes 32 g to 32 g + 31, and the next 32 columns their high halves. 32 columns share a pair: scale * factor * code - minimum *
// factor. The factors 0 to 3 are the low 6 bits of the bytes 0 to 3 (of 4 to 7 for minima); of the factors 4 to 7 the low 4 bits are the
// low (minima: high) half of the bytes 8 to 11 and the upper 2 bits those of the bytes 0 to 3 (minima: 4 to 7).
template <class V>
struct Q4KBlock {
  static constexpr int64_t columns = 256;
  static constexpr int64_t bytes = 144;
  static void unpack(const uint8_t* block, float* out) noexcept {
    const float scale = V::from_half(half_at(block));
    const float minimum = V::from_half(half_at(block + 2));
    const uint8_t* packed = block + 4;
    const uint8_t* codes = block + 16;
    for (int pair = 0; pair < 8; pair++) {
      const int j = pair & 3;
      const int of_scale = pair < 4 ? packed[j] & 63 : (packed[8 + j] & 15) | ((packed[j] >> 6) << 4);
      const int of_minimum = pair < 4 ? packed[4 + j] & 63 : (packed[8 + j] >> 4) | ((packed[4 + j] >> 6) << 4);
      const auto a = V::set(scale * static_cast<float>(of_scale));
      const auto b = V::set(-(minimum * static_cast<float>(of_minimum)));
      for (int i = 0; i < 32; i += V::lanes) {
        const auto both = V::load_u8(codes + (pair >> 1) * 32 + i);
        const auto code = (pair & 1) == 0 ? V::template field<0, 4>(both) : V::template field<4, 4>(both);
        V::store(out + pair * 32 + i, V::fma(a, V::from_i32(code), b));
      }
    }
  }
};

// 128 bytes of low halves, 64 of high pairs of bits, 16 signed factors (one for 16 columns), f16 scale: scale * factor * (code - 32). In
// each 128 columns, 64 and 32 bytes of the two: column 32 g + i has the low half of byte i + 32 (g & 1) for g < 2 and the high half for
// g >= 2, and the bits 2 g and 2 g + 1 of byte i.
template <class V>
struct Q6KBlock {
  static constexpr int64_t columns = 256;
  static constexpr int64_t bytes = 210;
  template <int G>
  static void group(const uint8_t* low, const uint8_t* high, const int8_t* factors, float scale, float* out) noexcept {
    for (int half = 0; half < 2; half++) {
      const auto a = V::set(scale * static_cast<float>(factors[2 * G + half]));
      for (int i = half * 16; i < half * 16 + 16; i += V::lanes) {
        const auto l = V::from_i32(V::template field<(G / 2) * 4, 4>(V::load_u8(low + (G & 1) * 32 + i)));
        const auto h = V::from_i32(V::template field<G * 2, 2>(V::load_u8(high + i)));
        V::store(out + G * 32 + i, V::mul(a, V::sub(V::fma(h, V::set(16.0F), l), V::set(32.0F))));
      }
    }
  }
  static void unpack(const uint8_t* block, float* out) noexcept {
    const float scale = V::from_half(half_at(block + 208));
    for (int part = 0; part < 2; part++) {
      const uint8_t* low = block + part * 64;
      const uint8_t* high = block + 128 + part * 32;
      const auto* factors = reinterpret_cast<const int8_t*>(block + 192 + part * 8);
      float* to = out + part * 128;
      group<0>(low, high, factors, scale, to);
      group<1>(low, high, factors, scale, to);
      group<2>(low, high, factors, scale, to);
      group<3>(low, high, factors, scale, to);
    }
  }
};

// Rows taken together: their sum is added to `out` once.
constexpr int rows_together = 8;

static inline const uint8_t* row_at(const RowSum& s, int64_t i) noexcept {
  return s.rows + (s.ids != nullptr ? s.ids[i] : s.first + i) * s.row_bytes;
}

// Adds the R rows from row `i` of the sum on; rows[r] holds the columns [column, column + columns) of them, `ahead` those to be fetched.
template <class V, class Row, int R>
inline void add_rows(const RowSum& s, int64_t i, const typename Row::Element* const* rows, const uint8_t* const* ahead, int64_t column,
                     int64_t columns) noexcept {
  using F = typename V::F;
  using Element = typename Row::Element;
  constexpr int64_t step = 64 / static_cast<int64_t>(sizeof(Element));
  const auto at = [&](int64_t j, int64_t count) {
    F e[R];
    for (int r = 0; r < R; r++) {
      if (count == V::lanes) {
        e[r] = Row::load(rows[r] + j);
      } else {
        Element buffer[V::lanes] = {};
        for (int64_t l = 0; l < count; l++) buffer[l] = rows[r][j + l];
        e[r] = Row::load(buffer);
      }
    }
    for (int64_t b = 0; b < s.batch; b++) {
      const float* w = s.weights + b * s.weight_stride + i;
      float* to = s.out + b * s.out_stride + column + j;
      F sum = count == V::lanes ? V::load(to) : V::load_part(to, count);
      for (int r = 0; r < R; r++) sum = V::fma(V::set(w[r]), e[r], sum);
      if (count == V::lanes)
        V::store(to, sum);
      else
        V::store_part(to, sum, count);
    }
  };
  int64_t j = 0;
  for (; j + V::lanes <= columns; j += V::lanes) {
    if (ahead != nullptr && j % step == 0) {
      for (int r = 0; r < R; r++) __builtin_prefetch(ahead[r] + j * static_cast<int64_t>(sizeof(Element)));
    }
    at(j, V::lanes);
  }
  if (j < columns) at(j, columns - j);
}

template <class V, class Row, int R>
inline int64_t sum_plain(const RowSum& s, int64_t i) noexcept {
  for (; i + R <= s.count; i += R) {
    const typename Row::Element* rows[R];
    const uint8_t* ahead[R];
    const bool more = i + 2 * R <= s.count;
    for (int r = 0; r < R; r++) {
      rows[r] = reinterpret_cast<const typename Row::Element*>(row_at(s, i + r));
      ahead[r] = more ? row_at(s, i + R + r) : nullptr;
    }
    add_rows<V, Row, R>(s, i, rows, more ? ahead : nullptr, 0, s.width);
  }
  return i;
}

template <class V, class Block, int R>
inline int64_t sum_blocks(const RowSum& s, int64_t i) noexcept {
  constexpr int64_t tile = 512;
  float unpacked[R][tile];
  const float* rows[R];
  for (int r = 0; r < R; r++) rows[r] = unpacked[r];
  for (; i + R <= s.count; i += R) {
    for (int64_t column = 0; column < s.width; column += tile) {
      const int64_t columns = s.width - column < tile ? s.width - column : tile;
      for (int r = 0; r < R; r++) {
        const uint8_t* block = row_at(s, i + r) + column / Block::columns * Block::bytes;
        for (int64_t j = 0; j < columns; j += Block::columns, block += Block::bytes) Block::unpack(block, unpacked[r] + j);
      }
      add_rows<V, F32Row<V>, R>(s, i, rows, nullptr, column, columns);
    }
  }
  return i;
}

template <class V>
void thought_sum_rows(const RowSum& s) noexcept {
  const auto plain = [&]<class Row>() { sum_plain<V, Row, 1>(s, sum_plain<V, Row, rows_together>(s, 0)); };
  const auto blocks = [&]<class Block>() { sum_blocks<V, Block, 1>(s, sum_blocks<V, Block, rows_together>(s, 0)); };
  switch (s.format) {
    case RowFormat::f32:
      return plain.template operator()<F32Row<V>>();
    case RowFormat::f16:
      return plain.template operator()<F16Row<V>>();
    case RowFormat::bf16:
      return plain.template operator()<Bf16Row<V>>();
    case RowFormat::q8_0:
      return blocks.template operator()<Q8Block<V>>();
    case RowFormat::q4_0:
      return blocks.template operator()<Q4Block<V>>();
    case RowFormat::q4_K:
      return blocks.template operator()<Q4KBlock<V>>();
    case RowFormat::q6_K:
      return blocks.template operator()<Q6KBlock<V>>();
  }
}

template <class V>
void install_thought(ThoughtKernels& k) noexcept {
  k.maxima = thought_maxima<V>;
  k.exp_sums = thought_exp_sums<V>;
  k.collect = thought_collect<V>;
  k.exponentials = thought_exponentials<V>;
  k.sum_rows = thought_sum_rows<V>;
}

}  // namespace latentwire
