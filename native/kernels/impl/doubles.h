// The product of `double_kernels.h` over a type V of f64 lanes: V::rows times V::panels sums stay in registers.
#pragma once

#include "kernels/double_kernels.h"
#include "kernels/impl/unroll.h"

namespace latentwire {

template <class V, int R, int N>
inline void double_tile(const PanelProduct& t, int row, int64_t panel) noexcept {
  using D = typename V::D;
  constexpr int registers = static_cast<int>(double_panel) / V::lanes;
  const double* a = t.a + row;
  const double* from = t.b + panel * t.b_stride;
  double* out = t.out + panel * t.out_stride + row * double_panel;
  D sum[R][N * registers];
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    LATENTWIRE_UNROLL
    for (int c = 0; c < N * registers; c++) sum[r][c] = V::set(0);
  }
  for (int64_t k = 0; k < t.depth; k++) {
    D b[N * registers];
    LATENTWIRE_UNROLL
    for (int p = 0; p < N; p++) {
      LATENTWIRE_UNROLL
      for (int i = 0; i < registers; i++) b[p * registers + i] = V::load(from + p * t.b_stride + k * double_panel + i * V::lanes);
    }
    LATENTWIRE_UNROLL
    for (int r = 0; r < R; r++) {
      const D x = V::set(a[k * double_panel + r]);
      LATENTWIRE_UNROLL
      for (int c = 0; c < N * registers; c++) sum[r][c] = V::fma(x, b[c], sum[r][c]);
    }
  }
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    LATENTWIRE_UNROLL
    for (int p = 0; p < N; p++) {
      LATENTWIRE_UNROLL
      for (int i = 0; i < registers; i++) {
        double* to = out + p * t.out_stride + r * double_panel + i * V::lanes;
        V::store(to, V::sub(V::load(to), sum[r][p * registers + i]));
      }
    }
  }
}

template <class V, int N>
inline void double_panels(const PanelProduct& t, int64_t panel) noexcept {
  for (int row = 0; row < double_panel; row += V::rows) double_tile<V, V::rows, N>(t, row, panel);
}

template <class V>
void subtract_product(const PanelProduct& t) noexcept {
  int64_t panel = 0;
  for (; panel + V::panels <= t.panels; panel += V::panels) double_panels<V, V::panels>(t, panel);
  for (; panel < t.panels; panel++) double_panels<V, 1>(t, panel);
}

template <class V>
void install_doubles(DoubleKernels& k) noexcept {
  k.subtract_product = subtract_product<V>;
}

}  // namespace latentwire
