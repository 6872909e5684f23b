// The tile of `gemm_kernels.h` over a vector type V, which each instruction set's translation unit supplies. Accumulators stay in
// registers: V::max_rows times `panels_for` panels, chosen so that they, one row of panels and a broadcast fill the register file.
#pragma once

#include "kernels/gemm_kernels.h"
#include "kernels/impl/unroll.h"

namespace latentwire {

// How a panel's element type becomes f32 lanes: those of the depth `within` a group of neighbouring depths that lie together.
template <class V>
struct F32Panel {
  using Element = float;
  static constexpr int group = 1;
  static typename V::F load(const float* p, int) noexcept { return V::load(p); }
};
template <class V>
struct F16Panel {
  using Element = uint16_t;
  static constexpr int group = 1;
  static typename V::F load(const uint16_t* p, int) noexcept { return V::load_f16(p); }
};
template <class V>
struct Bf16Panel {
  using Element = uint16_t;
  static constexpr int group = bf16_group;
  static typename V::F load(const uint16_t* p, int within) noexcept { return within == 0 ? V::load_bf16_even(p) : V::load_bf16_odd(p); }
};

constexpr int64_t cache_line = 16;  // f32
constexpr int64_t short_row = 1024;

// What one element of a row and one of a panel add to their sum: a product, or the distance between them.
template <class V>
struct ProductTerm {
  static typename V::F add(typename V::F x, typename V::F w, typename V::F sum) noexcept { return V::fma(x, w, sum); }
};
template <class V>
struct DistanceTerm {
  static typename V::F add(typename V::F x, typename V::F w, typename V::F sum) noexcept { return V::add(sum, V::abs(V::sub(x, w))); }
};

// Adds the terms of one depth, the one `within` the group at `k`.
template <class V, class Panel, class Term, int R, int N, int C>
LATENTWIRE_INLINE void gemm_depth(const GemmTile& t, const float* x, const typename Panel::Element* panels, int64_t k, int within,
                                  typename V::F (&sum)[R][C]) noexcept {
  constexpr int registers = C / N;
  typename V::F b[C];
  LATENTWIRE_UNROLL
  for (int p = 0; p < N; p++) {
    LATENTWIRE_UNROLL
    for (int i = 0; i < registers; i++)
      b[p * registers + i] = Panel::load(panels + p * t.panel_stride + k * panel_width + i * V::lanes * Panel::group, within);
  }
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    const typename V::F a = V::set(x[r * t.x_stride + k + within]);
    LATENTWIRE_UNROLL
    for (int c = 0; c < C; c++) sum[r][c] = Term::add(a, b[c], sum[r][c]);
  }
}

// R rows, N panels. `ahead` fetches the R rows behind these: short rows end before the processor has learned to do it.
template <class V, class Panel, class Term, int R, int N>
inline void gemm_tile(const GemmTile& t, const float* x, const typename Panel::Element* panels, float* out, bool ahead) noexcept {
  using F = typename V::F;
  constexpr int registers = static_cast<int>(panel_width) / V::lanes;
  F sum[R][N * registers];
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    LATENTWIRE_UNROLL
    for (int c = 0; c < N * registers; c++) sum[r][c] = V::zero();
  }
  for (int64_t k = 0; k < t.depth;) {
    if (ahead) {
      LATENTWIRE_UNROLL
      for (int r = 0; r < R; r++) V::prefetch(x + (R + r) * t.x_stride + k);
    }
    const int64_t end = k + cache_line < t.depth ? k + cache_line : t.depth;
    for (; k + Panel::group <= end; k += Panel::group) {
      LATENTWIRE_UNROLL
      for (int within = 0; within < Panel::group; within++) gemm_depth<V, Panel, Term, R, N>(t, x, panels, k, within, sum);
    }
    // of a pair, half
    if constexpr (Panel::group == 2) {
      if (k < end) gemm_depth<V, Panel, Term, R, N>(t, x, panels, k++, 0, sum);
    }
  }
  if (t.accumulate) {
    LATENTWIRE_UNROLL
    for (int r = 0; r < R; r++) {
      LATENTWIRE_UNROLL
      for (int c = 0; c < N * registers; c++) sum[r][c] = V::add(V::load(out + r * t.out_stride + c * V::lanes), sum[r][c]);
    }
  }
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    LATENTWIRE_UNROLL
    for (int c = 0; c < N * registers; c++) V::store(out + r * t.out_stride + c * V::lanes, sum[r][c]);
  }
}

// What instructions multiply that add the products of a group of neighbouring depths to each 32-bit lane.
struct Codes {
  using Row = uint8_t;
  using Element = int8_t;
  using Out = int32_t;
  static constexpr int group = i8_group;
};
struct Bf16Pairs {
  using Row = uint16_t;
  using Element = uint16_t;
  using Out = float;
  static constexpr int group = bf16_group;
};

// Adds the products of the group at `k`; of an odd depth's last pair of bf16 there is only `half`.
template <class W, int R, int N, bool half, int C>
LATENTWIRE_INLINE void gemm_group(const GemmTile& t, const typename W::Row* x, const typename W::Element* panels, int64_t k,
                                  typename W::I (&sum)[R][C]) noexcept {
  constexpr int registers = C / N;
  typename W::I b[C];
  LATENTWIRE_UNROLL
  for (int p = 0; p < N; p++) {
    LATENTWIRE_UNROLL
    for (int i = 0; i < registers; i++)
      b[p * registers + i] = W::load_group(panels + p * t.panel_stride + k * panel_width + i * W::lanes * W::group);
  }
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    typename W::I a;
    if constexpr (half)
      a = W::broadcast_half(x + r * t.x_stride + k);
    else
      a = W::broadcast_group(x + r * t.x_stride + k);
    LATENTWIRE_UNROLL
    for (int c = 0; c < C; c++) sum[r][c] = W::dot(sum[r][c], a, b[c]);
  }
}

// As gemm_tile for groups; W::dot adds the products of a group to each lane.
template <class W, int R, int N>
inline void gemm_tile_of_groups(const GemmTile& t, const typename W::Row* x, const typename W::Element* panels,
                                typename W::Out* out) noexcept {
  constexpr int registers = static_cast<int>(panel_width) / W::lanes;
  typename W::I sum[R][N * registers];
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    LATENTWIRE_UNROLL
    for (int c = 0; c < N * registers; c++) sum[r][c] = W::zero();
  }
  int64_t k = 0;
  for (; k + W::group <= t.depth; k += W::group) gemm_group<W, R, N, false>(t, x, panels, k, sum);
  if constexpr (W::group == bf16_group) {
    if (k < t.depth) gemm_group<W, R, N, true>(t, x, panels, k, sum);
  }
  if (t.accumulate) {
    LATENTWIRE_UNROLL
    for (int r = 0; r < R; r++) {
      LATENTWIRE_UNROLL
      for (int c = 0; c < N * registers; c++) sum[r][c] = W::add(W::load(out + r * t.out_stride + c * W::lanes), sum[r][c]);
    }
  }
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    LATENTWIRE_UNROLL
    for (int c = 0; c < N * registers; c++) W::store(out + r * t.out_stride + c * W::lanes, sum[r][c]);
  }
}

template <class V, class Panel, class Term>
struct FloatTiles {
  using Row = float;
  using Element = typename Panel::Element;
  using Out = float;
  static constexpr int max_rows = V::max_rows;
  template <int R>
  static constexpr int panels_for = V::template panels_for<R>;
  template <int R, int N>
  static void tile(const GemmTile& t, const Row* x, const Element* panels, Out* out, bool ahead) noexcept {
    gemm_tile<V, Panel, Term, R, N>(t, x, panels, out, ahead);
  }
};

template <class W>
struct GroupTiles {
  using Row = typename W::Row;
  using Element = typename W::Element;
  using Out = typename W::Out;
  static constexpr int max_rows = W::max_rows;
  template <int R>
  static constexpr int panels_for = W::template panels_for<R>;
  template <int R, int N>
  static void tile(const GemmTile& t, const Row* x, const Element* panels, Out* out, bool) noexcept {
    gemm_tile_of_groups<W, R, N>(t, x, panels, out);
  }
};

// What is left of the panels, in tiles of N and then of half as many.
template <class T, int R, int N>
inline void gemm_panels(const GemmTile& t, const typename T::Row* x, int64_t first, typename T::Out* out, bool ahead) noexcept {
  const auto* panels = static_cast<const typename T::Element*>(t.panels);
  int64_t p = first;
  // four panels are two and two, for a tile of one panel waits for its broadcasts
  for (; p + N <= t.panel_count && !(N == 3 && t.panel_count - p == 4); p += N)
    T::template tile<R, N>(t, x, panels + p * t.panel_stride, out + p * panel_width, ahead && p == 0);
  if constexpr (N > 1) gemm_panels<T, R, (N > 4 ? 4 : N > 2 ? 2 : 1)>(t, x, p, out, ahead);
}

template <class T, int R>
inline int64_t gemm_rows(const GemmTile& t, int64_t row) noexcept {
  for (; row + R <= t.rows; row += R) {
    gemm_panels<T, R, T::template panels_for<R>>(t, static_cast<const typename T::Row*>(t.x) + row * t.x_stride, 0,
                                                 static_cast<typename T::Out*>(t.out) + row * t.out_stride,
                                                 row + R < t.rows && t.x_stride <= short_row);
  }
  return row;
}

template <class T>
void gemm(const GemmTile& t) noexcept {
  int64_t row = gemm_rows<T, T::max_rows>(t, 0);
  if constexpr (T::max_rows > 4) row = gemm_rows<T, 4>(t, row);
  if constexpr (T::max_rows > 2) row = gemm_rows<T, 2>(t, row);
  if constexpr (T::max_rows > 1) gemm_rows<T, 1>(t, row);
}

template <class V>
void install_float_gemm(GemmKernels& k) noexcept {
  k.f32 = gemm<FloatTiles<V, F32Panel<V>, ProductTerm<V>>>;
  k.f16 = gemm<FloatTiles<V, F16Panel<V>, ProductTerm<V>>>;
  k.bf16 = gemm<FloatTiles<V, Bf16Panel<V>, ProductTerm<V>>>;
  k.l1_f32 = gemm<FloatTiles<V, F32Panel<V>, DistanceTerm<V>>>;
  k.l1_f16 = gemm<FloatTiles<V, F16Panel<V>, DistanceTerm<V>>>;
  k.l1_bf16 = gemm<FloatTiles<V, Bf16Panel<V>, DistanceTerm<V>>>;
}

template <class W>
void install_code_gemm(GemmKernels& k) noexcept {
  k.i8 = gemm<GroupTiles<W>>;
  k.i8_offset = W::offset;
}

template <class W>
void install_bf16_rows(GemmKernels& k) noexcept {
  k.bf16_rows = gemm<GroupTiles<W>>;
}

}  // namespace latentwire
