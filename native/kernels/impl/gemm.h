// The tile of `gemm_kernels.h` over a vector type V, which each instruction set's translation unit supplies. Accumulators stay in
// registers: V::max_rows times `panels_for` panels, chosen so that they, one row of panels and a broadcast fill the register file.
#pragma once

#include "kernels/gemm_kernels.h"

namespace latentwire {

// How a panel's element type becomes f32 lanes.
template <class V>
struct F32Panel {
  using Element = float;
  static typename V::F load(const float* p) noexcept { return V::load(p); }
};
template <class V>
struct F16Panel {
  using Element = uint16_t;
  static typename V::F load(const uint16_t* p) noexcept { return V::load_f16(p); }
};
template <class V>
struct Bf16Panel {
  using Element = uint16_t;
  static typename V::F load(const uint16_t* p) noexcept { return V::load_bf16(p); }
};

// Loops over accumulators must be unrolled whole, or the compiler keeps the arrays in memory.
#ifdef _MSC_VER
#define LATENTWIRE_UNROLL
#else
#define LATENTWIRE_UNROLL _Pragma("GCC unroll 64")
#endif

constexpr int64_t cache_line = 16;  // f32
constexpr int64_t short_row = 1024;

// R rows, N panels. `ahead` fetches the R rows behind these: short rows end before the processor has learned to do it.
template <class V, class Panel, int R, int N>
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
    for (const int64_t end = k + cache_line < t.depth ? k + cache_line : t.depth; k < end; k++) {
      F b[N * registers];
      LATENTWIRE_UNROLL
      for (int p = 0; p < N; p++) {
        LATENTWIRE_UNROLL
        for (int i = 0; i < registers; i++)
          b[p * registers + i] = Panel::load(panels + p * t.panel_stride + k * panel_width + i * V::lanes);
      }
      LATENTWIRE_UNROLL
      for (int r = 0; r < R; r++) {
        const F a = V::set(x[r * t.x_stride + k]);
        LATENTWIRE_UNROLL
        for (int c = 0; c < N * registers; c++) sum[r][c] = V::fma(a, b[c], sum[r][c]);
      }
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

// As gemm_tile for codes; W::dot adds the products of 4 neighbouring codes to each 32-bit lane.
template <class W, int R, int N>
inline void gemm_tile_i8(const GemmTile& t, const uint8_t* x, const int8_t* panels, int32_t* out) noexcept {
  using I = typename W::I;
  constexpr int registers = static_cast<int>(panel_width) / W::lanes;
  I sum[R][N * registers];
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    LATENTWIRE_UNROLL
    for (int c = 0; c < N * registers; c++) sum[r][c] = W::zero();
  }
  for (int64_t k = 0; k < t.depth; k += i8_group) {
    I b[N * registers];
    LATENTWIRE_UNROLL
    for (int p = 0; p < N; p++) {
      LATENTWIRE_UNROLL
      for (int i = 0; i < registers; i++)
        b[p * registers + i] = W::load_codes(panels + p * t.panel_stride + k * panel_width + i * W::lanes * i8_group);
    }
    LATENTWIRE_UNROLL
    for (int r = 0; r < R; r++) {
      const I a = W::broadcast_codes(x + r * t.x_stride + k);
      LATENTWIRE_UNROLL
      for (int c = 0; c < N * registers; c++) sum[r][c] = W::dot(sum[r][c], a, b[c]);
    }
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

template <class V, class Panel>
struct FloatTiles {
  using Row = float;
  using Element = typename Panel::Element;
  using Out = float;
  static constexpr int max_rows = V::max_rows;
  template <int R>
  static constexpr int panels_for = V::template panels_for<R>;
  template <int R, int N>
  static void tile(const GemmTile& t, const Row* x, const Element* panels, Out* out, bool ahead) noexcept {
    gemm_tile<V, Panel, R, N>(t, x, panels, out, ahead);
  }
};

template <class W>
struct CodeTiles {
  using Row = uint8_t;
  using Element = int8_t;
  using Out = int32_t;
  static constexpr int max_rows = W::max_rows;
  template <int R>
  static constexpr int panels_for = W::template panels_for<R>;
  template <int R, int N>
  static void tile(const GemmTile& t, const Row* x, const Element* panels, Out* out, bool) noexcept {
    gemm_tile_i8<W, R, N>(t, x, panels, out);
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
  k.f32 = gemm<FloatTiles<V, F32Panel<V>>>;
  k.f16 = gemm<FloatTiles<V, F16Panel<V>>>;
  k.bf16 = gemm<FloatTiles<V, Bf16Panel<V>>>;
}

template <class W>
void install_code_gemm(GemmKernels& k) noexcept {
  k.i8 = gemm<CodeTiles<W>>;
  k.i8_offset = W::offset;
}

#undef LATENTWIRE_UNROLL

}  // namespace latentwire
