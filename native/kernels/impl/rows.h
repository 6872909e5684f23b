// The row kernels of `row_kernels.h` over a vector type V. Tails are partial loads and stores of V, so no element is touched beyond the
// row.
#pragma once

#include "kernels/impl/math.h"
#include "kernels/row_kernels.h"

namespace latentwire {

// Folds a row with four independent accumulators; `step(accumulator, vector)`.
template <class V, class Step, class Join>
inline typename V::F fold(const float* x, int64_t n, typename V::F start, Step step, Join join) noexcept {
  typename V::F a[4] = {start, start, start, start};
  int64_t i = 0;
  for (; i + 4 * V::lanes <= n; i += 4 * V::lanes) {
    for (int j = 0; j < 4; j++) a[j] = step(a[j], V::load(x + i + j * V::lanes));
  }
  for (; i + V::lanes <= n; i += V::lanes) a[0] = step(a[0], V::load(x + i));
  if (i < n) a[1] = step(a[1], V::load_part(x + i, n - i));  // missing lanes are 0
  return join(join(a[0], a[1]), join(a[2], a[3]));
}

// Calls `at(i, count)` for every vector of a row: whole ones, then the tail of fewer than V::lanes.
template <class V, class At>
inline void each_vector(int64_t n, At at) noexcept {
  int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) at(i, int64_t{V::lanes});
  if (i < n) at(i, n - i);
}
template <class V>
inline typename V::F load_some(const float* p, int64_t count) noexcept {
  return count == V::lanes ? V::load(p) : V::load_part(p, count);
}
template <class V>
inline void store_some(float* p, typename V::F x, int64_t count) noexcept {
  if (count == V::lanes)
    V::store(p, x);
  else
    V::store_part(p, x, count);
}

// Maps a row; `f(vector)` gives the result of each vector.
template <class V, class F>
inline void map_row(const float* x, int64_t n, float* out, F f) noexcept {
  each_vector<V>(n, [&](int64_t i, int64_t count) { store_some<V>(out + i, f(load_some<V>(x + i, count)), count); });
}

template <class V>
float row_sum_of_squares(const float* x, int64_t n) noexcept {
  using F = typename V::F;
  return V::reduce_add(fold<V>(
      x, n, V::zero(), [](F a, F v) { return V::fma(v, v, a); }, [](F a, F b) { return V::add(a, b); }));
}

template <class V>
float row_sum(const float* x, int64_t n) noexcept {
  using F = typename V::F;
  return V::reduce_add(fold<V>(
      x, n, V::zero(), [](F a, F v) { return V::add(a, v); }, [](F a, F b) { return V::add(a, b); }));
}

// A NaN would slip through max, but not through the sum of squares; neither does an infinity, though it may be finite numbers that
// overflowed.
template <class V>
float row_max_abs_and_squares(const float* x, int64_t n, float* squares) noexcept {
  using F = typename V::F;
  F largest[2] = {V::zero(), V::zero()};
  F sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int64_t i = 0;
  for (; i + 4 * V::lanes <= n; i += 4 * V::lanes) {
    for (int j = 0; j < 4; j++) {
      const F v = V::load(x + i + j * V::lanes);
      largest[j % 2] = V::max(largest[j % 2], V::abs(v));
      sum[j] = V::fma(v, v, sum[j]);
    }
  }
  const auto take = [&](F v, int j) {
    largest[0] = V::max(largest[0], V::abs(v));
    sum[j] = V::fma(v, v, sum[j]);
  };
  for (; i + V::lanes <= n; i += V::lanes) take(V::load(x + i), 0);
  if (i < n) take(V::load_part(x + i, n - i), 1);
  *squares = V::reduce_add(V::add(V::add(sum[0], sum[1]), V::add(sum[2], sum[3])));
  const float found = V::reduce_max(V::max(largest[0], largest[1]));
  return *squares == *squares ? found : *squares;
}

template <class V>
float row_max_abs(const float* x, int64_t n) noexcept {
  float squares;
  return row_max_abs_and_squares<V>(x, n, &squares);
}

template <class V>
bool row_all_finite(const float* x, int64_t n) noexcept {
  using F = typename V::F;
  const float poison = V::reduce_add(fold<V>(
      x, n, V::zero(), [](F a, F v) { return V::fma(v, V::zero(), a); }, [](F a, F b) { return V::add(a, b); }));
  return poison == 0;
}

template <class V>
void row_affine(const float* x, int64_t n, float scale, float shift, float* out) noexcept {
  const auto a = V::set(scale);
  const auto b = V::set(shift);
  map_row<V>(x, n, out, [&](typename V::F v) { return V::fma(v, a, b); });
}

template <class V>
void row_affine_by_column(const float* x, int64_t n, const float* weight, const float* bias, float* out) noexcept {
  each_vector<V>(n, [&](int64_t i, int64_t count) {
    typename V::F v = load_some<V>(x + i, count);
    if (weight != nullptr) v = V::mul(v, load_some<V>(weight + i, count));
    if (bias != nullptr) v = V::add(v, load_some<V>(bias + i, count));
    store_some<V>(out + i, v, count);
  });
}

template <class V>
void row_add(const float* x, const float* y, int64_t n, float* out) noexcept {
  row_affine_by_column<V>(x, n, nullptr, y, out);
}

template <class V>
void row_activate(Activation activation, float* x, int64_t n) noexcept {
  using F = typename V::F;
  switch (activation) {
    case Activation::identity:
      break;
    case Activation::gelu:
      map_row<V>(x, n, x, [](F v) {
        const F half = V::mul(v, V::set(0.5F));
        return V::fma(half, erf_of<V>(V::mul(v, V::set(0.70710678118654752F))), half);
      });
      break;
    case Activation::silu:
      map_row<V>(x, n, x, [](F v) { return V::div(v, V::add(V::set(1.0F), exp_of<V>(V::sub(V::zero(), v)))); });
      break;
    case Activation::tanh:
      map_row<V>(x, n, x, [](F v) { return tanh_of<V>(v); });
      break;
  }
}

template <class V>
void row_quantise_u8(const float* x, int64_t n, float inverse_scale, uint8_t* out) noexcept {
  const auto scale = V::set(inverse_scale);
  const auto centre = V::set(128.0F);
  each_vector<V>(n, [&](int64_t i, int64_t count) { V::store_u8(out + i, V::fma(load_some<V>(x + i, count), scale, centre), count); });
}

template <class V>
void row_dequantise(const int32_t* dot, int64_t n, int32_t offset, const int32_t* sums, float row_scale, const float* scales,
                    float* out) noexcept {
  const auto scale = V::set(row_scale);
  each_vector<V>(n, [&](int64_t i, int64_t count) {
    // both below 2^31 / 255 * depth 2^16: exact as integers, rounded once
    const auto corrected = V::from_i32_difference(dot + i, sums + i, offset, count);
    store_some<V>(out + i, V::mul(corrected, V::mul(scale, load_some<V>(scales + i, count))), count);
  });
}

// The 16-bit types: whole vectors, and the tail through a buffer of one.
template <class V, class Load>
inline void widen(const uint16_t* x, int64_t n, float* out, Load load) noexcept {
  int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) V::store(out + i, load(x + i));
  if (i == n) return;
  uint16_t buffer[V::lanes] = {};
  for (int64_t j = i; j < n; j++) buffer[j - i] = x[j];
  V::store_part(out + i, load(buffer), n - i);
}
template <class V, class Store>
inline void narrow(const float* x, int64_t n, uint16_t* out, Store store) noexcept {
  int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) store(out + i, V::load(x + i));
  if (i == n) return;
  uint16_t buffer[V::lanes];
  store(buffer, V::load_part(x + i, n - i));
  for (int64_t j = i; j < n; j++) out[j] = buffer[j - i];
}
template <class V>
void row_from_f16(const uint16_t* x, int64_t n, float* out) noexcept {
  widen<V>(x, n, out, [](const uint16_t* p) { return V::load_f16(p); });
}
template <class V>
void row_from_bf16(const uint16_t* x, int64_t n, float* out) noexcept {
  widen<V>(x, n, out, [](const uint16_t* p) { return V::load_bf16(p); });
}
template <class V>
void row_to_f16(const float* x, int64_t n, uint16_t* out) noexcept {
  narrow<V>(x, n, out, [](uint16_t* p, typename V::F v) { V::store_f16(p, v); });
}
template <class V>
void row_to_bf16(const float* x, int64_t n, uint16_t* out) noexcept {
  narrow<V>(x, n, out, [](uint16_t* p, typename V::F v) { V::store_bf16(p, v); });
}

template <class V>
void install_rows(RowKernels& k) noexcept {
  k.sum_of_squares = row_sum_of_squares<V>;
  k.sum = row_sum<V>;
  k.max_abs = row_max_abs<V>;
  k.max_abs_and_squares = row_max_abs_and_squares<V>;
  k.all_finite = row_all_finite<V>;
  k.affine = row_affine<V>;
  k.affine_by_column = row_affine_by_column<V>;
  k.add = row_add<V>;
  k.activate = row_activate<V>;
  k.quantise_u8 = row_quantise_u8<V>;
  k.dequantise = row_dequantise<V>;
  k.from_f16 = row_from_f16<V>;
  k.from_bf16 = row_from_bf16<V>;
  k.to_f16 = row_to_f16<V>;
  k.to_bf16 = row_to_bf16<V>;
}

}  // namespace latentwire
