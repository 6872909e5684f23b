// The tile kernels of `tile_kernels.h` over a vector type V. A row passes in spans that stay in the first-level cache: the first look at a
// span finds each group's largest magnitude, by integer comparison of the bits, which finds NaN and infinities as well; then come all the
// scales of the span, lane by lane; the second look makes codes, four vectors to one register of bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tile_kernels.h"

namespace latentwire {

constexpr int64_t tile_span = 2048;
constexpr int64_t tile_span_groups = tile_span / 32;
constexpr int64_t tile_ahead = 2048;

// How the numbers of a dtype are read, written and compared: magnitudes by their bits, and all numbers by keys, the bits with those below
// the sign of a negative number turned round. `largest` and `extremes` take a multiple of 32.
template <class V>
struct TileF32 {
  using Element = float;
  using Key = int32_t;
  static typename V::F load(const float* p) noexcept { return V::load(p); }
  static void store(float* p, typename V::F x) noexcept { V::store(p, x); }
  static uint32_t largest(const float* p, int64_t n) noexcept { return V::max_bits32(p, n); }
  static void extremes(const float* p, int64_t n, int32_t* low, int32_t* high) noexcept { V::extremes32(p, n, low, high); }
  static int32_t key(float x) noexcept { return turn(__builtin_bit_cast(int32_t, x)); }
  static float of_key(int32_t key) noexcept { return __builtin_bit_cast(float, turn(key)); }
  static int32_t turn(int32_t bits) noexcept { return bits ^ ((bits >> 31) & 0x7FFF'FFFF); }
  static uint32_t magnitude(float x) noexcept { return __builtin_bit_cast(uint32_t, x) & 0x7FFF'FFFFU; }
  static constexpr uint32_t infinity = 0x7F80'0000U;
};
// What both 16-bit floats share: their order is that of their bits.
template <class V, uint32_t Infinity>
struct Tile16 {
  using Element = uint16_t;
  using Key = int16_t;
  static uint32_t largest(const uint16_t* p, int64_t n) noexcept { return V::max_bits16(p, n); }
  static void extremes(const uint16_t* p, int64_t n, int32_t* low, int32_t* high) noexcept { V::extremes16(p, n, low, high); }
  static int32_t key(uint16_t x) noexcept { return turn(static_cast<int16_t>(x)); }
  static uint16_t of_key(int32_t key) noexcept { return static_cast<uint16_t>(turn(key)); }
  static int32_t turn(int32_t bits) noexcept { return bits ^ ((bits >> 31) & 0x7FFF); }
  static uint32_t magnitude(uint16_t x) noexcept { return x & 0x7FFFU; }
  static constexpr uint32_t infinity = Infinity;
};
template <class V>
struct TileF16 : Tile16<V, 0x7C00U> {
  static typename V::F load(const uint16_t* p) noexcept { return V::load_f16(p); }
  static void store(uint16_t* p, typename V::F x) noexcept { V::store_f16(p, x); }
};
template <class V>
struct TileBf16 : Tile16<V, 0x7F80U> {
  static typename V::F load(const uint16_t* p) noexcept { return V::load_bf16(p); }
  static void store(uint16_t* p, typename V::F x) noexcept { V::store_bf16(p, x); }
};

// |y| <= 448 to e4m3, to nearest, ties to even, as signed bytes. Adding a power of two whose last place is that of the result rounds; the
// exponents below that of 2^-6 share its last place. The summand also holds, in its last places, the code of the exponent less the leading
// bit, so the last places of the sum are the code.
template <class V>
inline typename V::I e4m3_of(typename V::F y) noexcept {
  using I = typename V::I;
  const I bits = V::bits(y);
  const I exponent = V::max_int(V::and_int(bits, V::set_int(0x7F80'0000)), V::set_int(121 << 23));
  const I code = V::add_int(V::template shift_right<20>(exponent), V::set_int((20 << 23) - (121 << 3)));
  const I sum = V::bits(V::add(V::abs(y), V::from_bits(V::add_int(exponent, code))));
  return V::select_bits(V::set_int(127), sum, V::template shift_right_signed<24>(bits));
}

// What the codes of a kind are: bits each, the largest, and how a vector of scaled numbers becomes codes and how codes are read. Scales are
// never rounded down, nor minima up, by so much that a code could leave its range.
template <class V>
struct TileFp8 {
  using F = typename V::F;
  static constexpr int bits = 8;
  static constexpr float levels = 448;
  static constexpr bool zero_point = false;
  static typename V::I code(F y) noexcept { return e4m3_of<V>(y); }
  static void load2(const uint8_t* p, F* a, F* b) noexcept {
    if constexpr (requires { V::load2_e4m3(p, a, b); }) {
      V::load2_e4m3(p, a, b);
    } else {
      *a = V::load_e4m3(p);
      *b = V::load_e4m3(p + V::lanes);
    }
  }
};
template <class V>
struct TileI8 {
  using F = typename V::F;
  static constexpr int bits = 8;
  static constexpr float levels = 127;
  static constexpr bool zero_point = false;
  static typename V::I code(F y) noexcept { return V::to_int(y); }
  static void load2(const uint8_t* p, F* a, F* b) noexcept {
    *a = V::load_i8(p);
    *b = V::load_i8(p + V::lanes);
  }
};
template <class V>
struct TileI4 {
  using F = typename V::F;
  static constexpr int bits = 4;
  static constexpr float levels = 7;
  static constexpr bool zero_point = false;
  static typename V::I code(F y) noexcept { return V::to_int(y); }
  static void load2(const uint8_t* p, F* a, F* b) noexcept {
    V::load_u4(p, 0x88, a, b);  // with the top bit flipped: 8 too many
    *a = V::sub(*a, V::set(8.0F));
    *b = V::sub(*b, V::set(8.0F));
  }
};
template <class V>
struct TileI4Zero {
  using F = typename V::F;
  static constexpr int bits = 4;
  static constexpr float levels = 15;
  static constexpr bool zero_point = true;
  static typename V::I code(F y) noexcept { return V::to_int(y); }
  static void load2(const uint8_t* p, F* a, F* b) noexcept { V::load_u4(p, 0, a, b); }
};

// A span's groups: where their numbers are, and what was found of them.
template <class V>
struct TileGroups {
  alignas(64) float ranges[tile_span_groups];  // what `levels` steps cover
  alignas(64) float inverses[tile_span_groups];
  alignas(64) float minima[tile_span_groups];
};

// Stores `count` numbers in the type of the scales, and leaves in `values` what was stored: for f16 the next number up (scales), or down
// (minima). False if one is too large for it.
template <class V, bool up>
inline bool store_scales(TileScale type, float* values, int64_t count, void* out, int64_t at) noexcept {
  if (type == TileScale::f32) {
    __builtin_memcpy(static_cast<float*>(out) + at, values, static_cast<size_t>(count) * sizeof(float));
    return true;
  }
  if (type == TileScale::ue8m0) {
    auto* codes = static_cast<uint8_t*>(out) + at;
    for (int64_t g = 0; g < count; g++) {
      // the exponent rounded up; a denormal takes the least normal one
      codes[g] = static_cast<uint8_t>((__builtin_bit_cast(uint32_t, values[g]) + 0x7F'FFFFU) >> 23);
      values[g] = __builtin_bit_cast(float, static_cast<uint32_t>(codes[g]) << 23);
    }
    return true;
  }
  alignas(64) uint16_t halves[tile_span_groups] = {};
  alignas(64) float nearest[tile_span_groups] = {};
  for (int64_t g = 0; g < count; g += V::lanes) {
    V::store_f16(halves + g, V::load(values + g));
    V::store(nearest + g, V::load_f16(halves + g));
  }
  uint32_t bad = 0;
  for (int64_t g = 0; g < count; g++) {
    // Scales are not negative: one up in the bits. Down is one up in the bits of a negative number, whose sign even -0 has. No branches:
    // they would go either way.
    const int bits = halves[g];
    if constexpr (up)
      halves[g] = static_cast<uint16_t>(bits + static_cast<int>(nearest[g] < values[g]));
    else
      halves[g] = static_cast<uint16_t>(bits + static_cast<int>(nearest[g] > values[g]) * (2 * (bits >> 15) - 1));
    bad |= static_cast<uint32_t>((halves[g] & 0x7C00U) == 0x7C00U);
  }
  __builtin_memcpy(static_cast<uint16_t*>(out) + at, halves, static_cast<size_t>(count) * sizeof(uint16_t));
  for (int64_t g = 0; g < count; g += V::lanes) V::store(values + g, V::load_f16(halves + g));
  return bad == 0;
}

// The first look at a span, of groups of `width`: magnitudes, or minima and maxima. False if a number is not finite.
template <class V, class In, bool zero_point, int64_t width>
inline bool tile_ranges(const typename In::Element* x, int64_t n, int64_t count, TileGroups<V>* groups) noexcept {
  // Keys or magnitudes, judged and turned back into numbers all at once.
  alignas(64) typename In::Key low[tile_span_groups] = {};
  alignas(64) typename In::Key high[tile_span_groups] = {};
  for (int64_t g = 0; (g + 1) * width <= n; g++) {
    const auto* from = x + g * width;
    // the processor's own prefetching stops at page ends
    for (int64_t i = 0; i < width; i += 32) __builtin_prefetch(from + i + tile_ahead);
    if constexpr (zero_point) {
      int32_t least, most;
      In::extremes(from, width, &least, &most);
      low[g] = static_cast<typename In::Key>(least);
      high[g] = static_cast<typename In::Key>(most);
    } else {
      high[g] = static_cast<typename In::Key>(In::largest(from, width));
    }
  }
  if (n % width != 0) {
    const auto* from = x + n / width * width;
    uint32_t found = 0;
    int32_t least = In::key(from[0]);
    int32_t most = least;
    for (int64_t i = 0; i < n % width; i++) {
      const uint32_t m = In::magnitude(from[i]);
      const int32_t k = In::key(from[i]);
      found = m > found ? m : found;
      least = k < least ? k : least;
      most = k > most ? k : most;
    }
    low[n / width] = static_cast<typename In::Key>(least);
    high[n / width] = static_cast<typename In::Key>(zero_point ? most : static_cast<int32_t>(found));
  }
  alignas(64) typename In::Element least[tile_span_groups];
  alignas(64) typename In::Element most[tile_span_groups];
  uint32_t bad = 0;
  for (int64_t g = 0; g < tile_span_groups; g++) {
    bad |= static_cast<uint32_t>(high[g] >= static_cast<typename In::Key>(In::infinity));
    most[g] = In::of_key(high[g]);
    if constexpr (zero_point) {
      bad |= static_cast<uint32_t>(low[g] < -static_cast<int32_t>(In::infinity));
      least[g] = In::of_key(low[g]);
    }
  }
  if (bad != 0) return false;
  for (int64_t g = 0; g < count; g += V::lanes) {
    V::store(groups->ranges + g, In::load(most + g));
    if constexpr (zero_point) V::store(groups->minima + g, In::load(least + g));
  }
  return true;
}

template <class V, class In, bool zero_point>
inline bool tile_ranges(const typename In::Element* x, int64_t n, int shift, int64_t count, TileGroups<V>* groups) noexcept {
  switch (shift) {
    case 5:
      return tile_ranges<V, In, zero_point, 32>(x, n, count, groups);
    case 6:
      return tile_ranges<V, In, zero_point, 64>(x, n, count, groups);
    default:
      return tile_ranges<V, In, zero_point, 128>(x, n, count, groups);
  }
}

// 4 vectors of numbers to 4 * lanes codes. `at` is their first element within the span; `one` if they are of one group.
template <class V, class In, class Code, bool one>
inline void tile_codes(const typename In::Element* x, int64_t at, int shift, const TileGroups<V>& groups, uint8_t* out) noexcept {
  typename V::I codes[4];
  for (int j = 0; j < 4; j++) {
    const int64_t g = (one ? at : at + j * V::lanes) >> shift;
    typename V::F v = In::load(x + j * V::lanes);
    if constexpr (Code::zero_point) v = V::sub(v, V::set(groups.minima[g]));
    codes[j] = Code::code(V::mul(v, V::set(groups.inverses[g])));
  }
  if constexpr (Code::bits == 8)
    V::store_i8(out, codes[0], codes[1], codes[2], codes[3]);
  else
    V::store_i4(out, codes[0], codes[1], codes[2], codes[3]);
}

template <class V, class In, class Code, bool one>
inline void tile_span_codes(const typename In::Element* x, int64_t n, int shift, const TileGroups<V>& groups, uint8_t* out) noexcept {
  constexpr int64_t step = 4 * V::lanes;
  int64_t i = 0;
  for (; i + step <= n; i += step) tile_codes<V, In, Code, one>(x + i, i, shift, groups, out + i * Code::bits / 8);
  if (i == n) return;
  typename In::Element buffer[step] = {};
  alignas(64) uint8_t codes[step];
  __builtin_memcpy(buffer, x + i, static_cast<size_t>(n - i) * sizeof(buffer[0]));
  tile_codes<V, In, Code, one>(buffer, i, shift, groups, codes);
  const int64_t bytes = ((n - i) * Code::bits + 7) / 8;
  if (Code::bits == 4 && (n - i) % 2 == 1) codes[bytes - 1] &= 15;  // the padding of a zero point is no zero
  __builtin_memcpy(out + i * Code::bits / 8, codes, static_cast<size_t>(bytes));
}

// False if the row is bad.
template <class V, class In, class Code>
inline bool quantise_row(const TileRows& t, int64_t row, const typename In::Element* x, TileGroups<V>* groups, uint8_t* codes, void* scales,
                         void* minima) noexcept {
  using F = typename V::F;
  const int64_t span_groups = tile_span >> t.group_shift;
  const bool stream = t.stream && reinterpret_cast<uintptr_t>(codes) % 64 == 0;
  for (int64_t begin = 0, first = 0; begin < t.columns; begin += tile_span, first += span_groups) {
    const int64_t n = t.columns - begin < tile_span ? t.columns - begin : tile_span;
    const int64_t count = t.groups - first < span_groups ? t.groups - first : span_groups;
    if (!tile_ranges<V, In, Code::zero_point>(x + begin, n, t.group_shift, count, groups)) return false;
    if constexpr (Code::zero_point) {
      if (!store_scales<V, false>(t.scale, groups->minima, count, minima, row * t.groups + first)) return false;
      for (int64_t g = 0; g < count; g += V::lanes)
        V::store(groups->ranges + g, V::sub(V::load(groups->ranges + g), V::load(groups->minima + g)));
    }
    // A scale below 2^-127 has no inverse in f32: its group counts as zeros.
    for (int64_t g = 0; g < count; g += V::lanes) {
      const F scale = V::div(V::load(groups->ranges + g), V::set(Code::levels));
      V::store(groups->ranges + g, V::select(V::less(scale, V::set(0x1p-127F)), V::zero(), scale));
    }
    // What the largest code gives back may lie beyond f32: scales are rounded up, and codes of fp8 to the nearest of 8 an octave.
    constexpr float slack = Code::levels > 127 ? 1.0625F : 1.000001F;
    bool finite = true;
    for (int64_t g = 0; g < count; g++) {
      float most = groups->ranges[g] * (Code::levels * slack);
      if constexpr (Code::zero_point) most += groups->minima[g];
      finite &= most <= 0x1.fffffep127F;
    }
    if (!finite || !store_scales<V, true>(t.scale, groups->ranges, count, scales, row * t.groups + first)) return false;
    for (int64_t g = 0; g < count; g += V::lanes) {
      const F scale = V::load(groups->ranges + g);
      V::store(groups->inverses + g, V::select(V::less(V::zero(), scale), V::div(V::set(1.0F), scale), V::zero()));
    }
    const auto encode = [&](uint8_t* out) {
      if ((int64_t{1} << t.group_shift) >= 4 * V::lanes)
        tile_span_codes<V, In, Code, true>(x + begin, n, t.group_shift, *groups, out);
      else
        tile_span_codes<V, In, Code, false>(x + begin, n, t.group_shift, *groups, out);
    };
    uint8_t* out = codes + begin * Code::bits / 8;
    if (!stream) {
      encode(out);
      continue;
    }
    // whole lines at once, or the processor writes parts of them
    alignas(64) uint8_t block[tile_span];
    encode(block);
    const int64_t bytes = (n * Code::bits + 7) / 8;
    const int64_t lines = bytes & ~int64_t{63};
    V::stream_copy(out, block, lines);
    __builtin_memcpy(out + lines, block + lines, static_cast<size_t>(bytes - lines));
  }
  return true;
}

template <class V, class In, class Code>
int64_t quantise_tiles(const TileRows& t, const void* x, uint8_t* codes, void* scales, void* minima) noexcept {
  // groups beyond the last are read by whole vectors: never uninitialised, never used
  TileGroups<V> groups = {};
  int64_t row = 0;
  const auto* from = static_cast<const typename In::Element*>(x);
  while (row < t.rows && quantise_row<V, In, Code>(t, row, from + row * t.stride, &groups, codes + row * t.code_row, scales, minima)) row++;
  if (t.stream) V::fence();
  return row;
}

template <class V>
inline void load_scales(TileScale type, const void* scales, int64_t at, int64_t count, float* values) noexcept {
  switch (type) {
    case TileScale::f32:
      __builtin_memcpy(values, static_cast<const float*>(scales) + at, static_cast<size_t>(count) * sizeof(float));
      break;
    case TileScale::f16: {
      uint16_t halves[tile_span_groups] = {};
      __builtin_memcpy(halves, static_cast<const uint16_t*>(scales) + at, static_cast<size_t>(count) * sizeof(uint16_t));
      for (int64_t g = 0; g < count; g += V::lanes) V::store(values + g, V::load_f16(halves + g));
      break;
    }
    case TileScale::ue8m0:
      for (int64_t g = 0; g < count; g++) {
        const uint32_t code = static_cast<const uint8_t*>(scales)[at + g];
        // 255 is NaN, 0 is 2^-127
        values[g] = __builtin_bit_cast(float, code == 255 ? 0x7FC0'0000U : code == 0 ? 0x40'0000U : code << 23);
      }
      break;
  }
}

template <class V, class Out, class Code>
inline void tile_span_numbers(const uint8_t* codes, int64_t n, int shift, const float* scales, const float* minima,
                              typename Out::Element* y) noexcept {
  using F = typename V::F;
  constexpr int64_t step = 2 * V::lanes;
  const auto two = [&](const uint8_t* p, int64_t at, F* a, F* b) {
    const int64_t g = at >> shift;
    const int64_t h = (at + V::lanes) >> shift;
    Code::load2(p, a, b);
    if constexpr (Code::zero_point) {
      *a = V::fma(*a, V::set(scales[g]), V::set(minima[g]));
      *b = V::fma(*b, V::set(scales[h]), V::set(minima[h]));
    } else {
      *a = V::mul(*a, V::set(scales[g]));
      *b = V::mul(*b, V::set(scales[h]));
    }
  };
  int64_t i = 0;
  F a, b;
  for (; i + step <= n; i += step) {
    two(codes + i * Code::bits / 8, i, &a, &b);
    Out::store(y + i, a);
    Out::store(y + i + V::lanes, b);
  }
  if (i == n) return;
  uint8_t tail[step] = {};
  typename Out::Element numbers[step];
  __builtin_memcpy(tail, codes + i * Code::bits / 8, static_cast<size_t>(((n - i) * Code::bits + 7) / 8));
  two(tail, i, &a, &b);
  Out::store(numbers, a);
  Out::store(numbers + V::lanes, b);
  __builtin_memcpy(y + i, numbers, static_cast<size_t>(n - i) * sizeof(numbers[0]));
}

template <class V, class Code, class Out>
void dequantise_tiles(const TileRows& t, const uint8_t* codes, const void* scales, const void* minima, void* y) noexcept {
  const int64_t span_groups = tile_span >> t.group_shift;
  alignas(64) float scale[tile_span_groups] = {};
  alignas(64) float minimum[tile_span_groups] = {};
  for (int64_t row = 0; row < t.rows; row++) {
    const uint8_t* from = codes + row * t.code_row;
    auto* to = static_cast<typename Out::Element*>(y) + row * t.stride;
    const bool stream = t.stream && reinterpret_cast<uintptr_t>(to) % 64 == 0;
    for (int64_t begin = 0, first = 0; begin < t.columns; begin += tile_span, first += span_groups) {
      const int64_t n = t.columns - begin < tile_span ? t.columns - begin : tile_span;
      const int64_t count = t.groups - first < span_groups ? t.groups - first : span_groups;
      load_scales<V>(t.scale, scales, row * t.groups + first, count, scale);
      if constexpr (Code::zero_point) load_scales<V>(t.scale, minima, row * t.groups + first, count, minimum);
      const uint8_t* in = from + begin * Code::bits / 8;
      if (!stream) {
        tile_span_numbers<V, Out, Code>(in, n, t.group_shift, scale, minimum, to + begin);
        continue;
      }
      // as for codes: stores of half a line past the caches cost more than they save
      alignas(64) typename Out::Element block[tile_span];
      tile_span_numbers<V, Out, Code>(in, n, t.group_shift, scale, minimum, block);
      const int64_t whole = n & ~int64_t{31};
      V::stream_copy(reinterpret_cast<uint8_t*>(to + begin), reinterpret_cast<const uint8_t*>(block),
                     whole * static_cast<int64_t>(sizeof(block[0])));
      __builtin_memcpy(to + begin + whole, block + whole, static_cast<size_t>(n - whole) * sizeof(block[0]));
    }
  }
  if (t.stream) V::fence();
}

// One or two stages of butterflies between elements `h` (and `2 h`) apart.
template <class V, bool two>
inline void hadamard_pass(float* x, int64_t n, int64_t h, typename V::F factor, bool last) noexcept {
  using F = typename V::F;
  for (int64_t i = 0; i < n; i += (two ? 4 : 2) * h) {
    for (int64_t j = i; j < i + h; j += V::lanes) {
      F a = V::load(x + j);
      F b = V::load(x + j + h);
      const auto put = [&](int64_t at, F v) { V::store(x + j + at, last ? V::mul(v, factor) : v); };
      F sum = V::add(a, b);
      F difference = V::sub(a, b);
      if constexpr (two) {
        a = V::load(x + j + 2 * h);
        b = V::load(x + j + 3 * h);
        const F sum2 = V::add(a, b);
        const F difference2 = V::sub(a, b);
        put(2 * h, V::sub(sum, sum2));
        put(3 * h, V::sub(difference, difference2));
        sum = V::add(sum, sum2);
        difference = V::add(difference, difference2);
      }
      put(0, sum);
      put(h, difference);
    }
  }
}

// The sums are in order of distance and the factor comes last, so the result is the same for every V.
template <class V>
void row_hadamard(float* x, int64_t n) noexcept {
  const float factor = 1 / __builtin_sqrtf(static_cast<float>(n));
  if (n < V::lanes) {
    for (int64_t h = 1; h < n; h *= 2) {
      for (int64_t i = 0; i < n; i++) {
        if ((i & h) != 0) continue;
        const float a = x[i];
        const float b = x[i + h];
        x[i] = a + b;
        x[i + h] = a - b;
      }
    }
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
    return;
  }
  const auto f = V::set(factor);
  for (int64_t i = 0; i < n; i += V::lanes) {
    const auto v = V::hadamard(V::load(x + i));
    V::store(x + i, n == V::lanes ? V::mul(v, f) : v);
  }
  int64_t h = V::lanes;
  for (; h * 4 <= n; h *= 4) hadamard_pass<V, true>(x, n, h, f, h * 4 == n);
  if (h < n) hadamard_pass<V, false>(x, n, h, f, true);
}

template <class V, template <class> class Code>
void install_tile_code(TileKernels& k, int code) noexcept {
  k.quantise[0][code] = quantise_tiles<V, TileF32<V>, Code<V>>;
  k.quantise[1][code] = quantise_tiles<V, TileF16<V>, Code<V>>;
  k.quantise[2][code] = quantise_tiles<V, TileBf16<V>, Code<V>>;
  k.dequantise[code][0] = dequantise_tiles<V, Code<V>, TileF32<V>>;
  k.dequantise[code][1] = dequantise_tiles<V, Code<V>, TileF16<V>>;
  k.dequantise[code][2] = dequantise_tiles<V, Code<V>, TileBf16<V>>;
}

template <class V>
void install_tiles(TileKernels& k) noexcept {
  install_tile_code<V, TileFp8>(k, static_cast<int>(TileCode::fp8));
  install_tile_code<V, TileI8>(k, static_cast<int>(TileCode::i8));
  install_tile_code<V, TileI4>(k, static_cast<int>(TileCode::i4));
  install_tile_code<V, TileI4Zero>(k, static_cast<int>(TileCode::i4_zero));
  k.hadamard = row_hadamard<V>;
}

}  // namespace latentwire
