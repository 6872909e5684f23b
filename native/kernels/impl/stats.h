// The kernels of `stats_kernels.h` over a vector type V.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/impl/tile.h"
#include "kernels/stats_kernels.h"

namespace latentwire {

template <class V, class In>
bool stats_finite(const void* x, int64_t n) noexcept {
  const auto* p = static_cast<const typename In::Element*>(x);
  // in blocks, so that what is not finite near the beginning is found soon
  constexpr int64_t block = 4096;
  for (; n >= block; n -= block, p += block) {
    if (In::largest(p, block) >= In::infinity) return false;
  }
  const int64_t whole = n & ~int64_t{31};
  uint32_t found = whole > 0 ? In::largest(p, whole) : 0;
  for (int64_t i = whole; i < n; i++) {
    const uint32_t m = In::magnitude(p[i]);
    found = m > found ? m : found;
  }
  return found < In::infinity;
}

// The elements from `i` on, fewer than lanes, with zeros behind them.
template <class V, class In>
inline typename V::F load_rest(const typename In::Element* p, int64_t n) noexcept {
  typename In::Element buffer[V::lanes] = {};
  __builtin_memcpy(buffer, p, static_cast<size_t>(n) * sizeof(buffer[0]));
  return In::load(buffer);
}

template <class V, class In>
void stats_dots(const void* x, const void* a, const void* b, int64_t n, float* out) noexcept {
  using F = typename V::F;
  using Element = typename In::Element;
  const auto* p = static_cast<const Element*>(x);
  const auto* q = static_cast<const Element*>(a);
  const auto* r = static_cast<const Element*>(b);
  F sums[3][2] = {{V::zero(), V::zero()}, {V::zero(), V::zero()}, {V::zero(), V::zero()}};
  const auto take = [&](int j, F v, F w, F u) {
    sums[0][j] = V::fma(v, v, sums[0][j]);
    sums[1][j] = V::fma(v, w, sums[1][j]);
    sums[2][j] = V::fma(v, u, sums[2][j]);
  };
  int64_t i = 0;
  for (; i + 2 * V::lanes <= n; i += 2 * V::lanes) {
    take(0, In::load(p + i), In::load(q + i), In::load(r + i));
    take(1, In::load(p + i + V::lanes), In::load(q + i + V::lanes), In::load(r + i + V::lanes));
  }
  for (; i + V::lanes <= n; i += V::lanes) take(0, In::load(p + i), In::load(q + i), In::load(r + i));
  if (i < n) take(1, load_rest<V, In>(p + i, n - i), load_rest<V, In>(q + i, n - i), load_rest<V, In>(r + i, n - i));
  for (int k = 0; k < 3; k++) out[k] = V::reduce_add(V::add(sums[k][0], sums[k][1]));
}

template <class V, class In>
void stats_blend(const void* x, int64_t n, float weight, float* mean) noexcept {
  using F = typename V::F;
  const auto* p = static_cast<const typename In::Element*>(x);
  const F w = V::set(weight);
  int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    const F m = V::load(mean + i);
    V::store(mean + i, V::fma(V::sub(In::load(p + i), m), w, m));
  }
  if (i == n) return;
  const F m = V::load_part(mean + i, n - i);
  V::store_part(mean + i, V::fma(V::sub(load_rest<V, In>(p + i, n - i), m), w, m), n - i);
}

// log2(x) for normal x > 0: the exponent, and 2 atanh((m - 1) / (m + 1)) / ln 2 of a fraction m between sqrt(1/2) and sqrt(2).
template <class V>
inline typename V::F log2_of(typename V::F x) noexcept {
  using F = typename V::F;
  const auto bits = V::bits(x);
  F m = V::from_bits(V::select_bits(V::set_int(0x7F'FFFF), bits, V::set_int(0x3F80'0000)));
  F e = V::to_float(V::sub_int(V::template shift_right<23>(bits), V::set_int(127)));
  const auto low = V::less(m, V::set(1.41421356F));
  m = V::select(low, m, V::mul(m, V::set(0.5F)));
  e = V::select(low, e, V::add(e, V::set(1.0F)));
  const F s = V::div(V::sub(m, V::set(1.0F)), V::add(m, V::set(1.0F)));
  const F q = V::mul(s, s);
  F p = V::set(2.88539008F / 9);
  p = V::fma(p, q, V::set(2.88539008F / 7));
  p = V::fma(p, q, V::set(2.88539008F / 5));
  p = V::fma(p, q, V::set(2.88539008F / 3));
  p = V::fma(p, q, V::set(2.88539008F));
  return V::fma(p, s, e);
}

template <class V>
float stats_entropy(const float* p, int64_t n) noexcept {
  using F = typename V::F;
  // short sums in f32, long ones in f64
  constexpr int64_t block = 1024;
  double total = 0;
  F poison = V::zero();
  for (int64_t first = 0; first < n; first += block) {
    const int64_t count = n - first < block ? n - first : block;
    F sum = V::zero();
    const auto take = [&](F v) {
      // 0 for finite v, and a negative one may not hide
      poison = V::fma(V::select(V::less(v, V::zero()), V::set(__builtin_inff()), v), V::zero(), poison);
      // what is denormal adds less than 1e-36
      const F normal = V::max(v, V::set(0x1p-126F));
      sum = V::sub(sum, V::select(V::less(v, V::set(0x1p-126F)), V::zero(), V::mul(normal, log2_of<V>(normal))));
    };
    int64_t i = 0;
    for (; i + V::lanes <= count; i += V::lanes) take(V::load(p + first + i));
    if (i < count) take(V::load_part(p + first + i, count - i));
    total += static_cast<double>(V::reduce_add(sum));
  }
  const float bad = V::reduce_add(poison);
  return bad == 0 ? static_cast<float>(total) : bad;
}

constexpr int64_t copy_ahead = 16384;
constexpr int64_t copy_chunk = 1024;

template <class V>
void stats_stream_copy(const void* from, void* to, int64_t n) noexcept {
  const auto* p = static_cast<const uint8_t*>(from);
  auto* q = static_cast<uint8_t*>(to);
  const auto head = static_cast<int64_t>((64 - reinterpret_cast<uintptr_t>(q) % 64) % 64);
  if (n < head + 64) {
    __builtin_memcpy(q, p, static_cast<size_t>(n));
    return;
  }
  __builtin_memcpy(q, p, static_cast<size_t>(head));
  const int64_t lines = (n - head) & ~int64_t{63};
  for (int64_t i = head; i < head + lines; i += copy_chunk) {
    const int64_t bytes = head + lines - i < copy_chunk ? head + lines - i : copy_chunk;
    // what is read next comes while this is written
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(p + i + line + copy_ahead);
    V::stream_copy(q + i, p + i, bytes);
  }
  __builtin_memcpy(q + head + lines, p + head + lines, static_cast<size_t>(n - head - lines));
}

template <class V, template <class> class In>
void install_stats_of(StatsKernels& k, int dtype) noexcept {
  k.finite[dtype] = stats_finite<V, In<V>>;
  k.dots[dtype] = stats_dots<V, In<V>>;
  k.blend[dtype] = stats_blend<V, In<V>>;
}

template <class V>
void install_stats(StatsKernels& k) noexcept {
  install_stats_of<V, TileF32>(k, 0);
  install_stats_of<V, TileF16>(k, 1);
  install_stats_of<V, TileBf16>(k, 2);
  k.entropy = stats_entropy<V>;
  k.stream_copy = stats_stream_copy<V>;
  k.fence = V::fence;
}

}  // namespace latentwire
