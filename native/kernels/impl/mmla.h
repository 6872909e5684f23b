// Tiles of the arm64 instructions that multiply 2 rows by 2 outputs, over 8 bytes of depth, into a register of 2 x 2 sums. A panel holds
// half as much of an output's depth together, in 32-bit lanes, so the lanes of two groups of depths are zipped on the way; that costs one
// zip for as many multiplications as there are pairs of rows. W supplies the instruction for the element types of `gemm.h`'s groups.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/impl/gemm.h"
#include "kernels/impl/unroll.h"

namespace latentwire {

// One group of 4 outputs, 16 bytes.
template <class W>
inline uint32x4_t mmla_outputs(const typename W::Element* p) noexcept {
  return vreinterpretq_u32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
}

// `count` elements, fewer than 8 bytes, with zeros behind them.
template <class W>
inline uint8x8_t mmla_part(const typename W::Row* x, int64_t count) noexcept {
  uint64_t bits = 0;
  __builtin_memcpy(&bits, x, static_cast<size_t>(count) * sizeof(*x));
  return vcreate_u8(bits);
}

// Adds the products of the two groups of depths at `k`, of which there are `left` elements; `whole` if these are two groups or more.
template <class W, int R, int N, bool whole, int P, int C>
LATENTWIRE_INLINE void mmla_groups(const GemmTile& t, const typename W::Row* x, const typename W::Element* panels, int64_t k, int64_t left,
                                   typename W::Sum (&sum)[P][C]) noexcept {
  uint8x16_t a[P];
  LATENTWIRE_UNROLL
  for (int p = 0; p < P; p++) {
    // an odd row is multiplied twice
    const typename W::Row* first = x + 2 * p * t.x_stride + k;
    const typename W::Row* second = 2 * p + 1 < R ? first + t.x_stride : first;
    if constexpr (whole)
      a[p] = vcombine_u8(vld1_u8(reinterpret_cast<const uint8_t*>(first)), vld1_u8(reinterpret_cast<const uint8_t*>(second)));
    else
      a[p] = vcombine_u8(mmla_part<W>(first, left), mmla_part<W>(second, left));
  }
  LATENTWIRE_UNROLL
  for (int c = 0; c < C; c += 2) {
    const typename W::Element* at = panels + c / 8 * t.panel_stride + k * panel_width + c % 8 * 2 * W::group;
    const uint32x4_t low = mmla_outputs<W>(at);
    const uint32x4_t high = whole || left > W::group ? mmla_outputs<W>(at + panel_width * W::group) : vdupq_n_u32(0);
    const uint8x16_t b = vreinterpretq_u8_u32(vzip1q_u32(low, high));
    const uint8x16_t d = vreinterpretq_u8_u32(vzip2q_u32(low, high));
    LATENTWIRE_UNROLL
    for (int p = 0; p < P; p++) {
      sum[p][c] = W::multiply(sum[p][c], a[p], b);
      sum[p][c + 1] = W::multiply(sum[p][c + 1], a[p], d);
    }
  }
}

// R rows, N panels; sum[p][c] has the rows 2 p and 2 p + 1 of the outputs 2 c and 2 c + 1.
template <class W, int R, int N>
inline void mmla_tile(const GemmTile& t, const typename W::Row* x, const typename W::Element* panels, typename W::Out* out) noexcept {
  constexpr int pairs = (R + 1) / 2;
  constexpr int columns = N * static_cast<int>(panel_width) / 2;
  constexpr int64_t step = 2 * W::group;
  typename W::Sum sum[pairs][columns];
  LATENTWIRE_UNROLL
  for (int p = 0; p < pairs; p++) {
    LATENTWIRE_UNROLL
    for (int c = 0; c < columns; c++) sum[p][c] = W::zero();
  }
  int64_t k = 0;
  for (; k + step <= t.depth; k += step) mmla_groups<W, R, N, true>(t, x, panels, k, step, sum);
  if (k < t.depth) mmla_groups<W, R, N, false>(t, x, panels, k, t.depth - k, sum);
  LATENTWIRE_UNROLL
  for (int r = 0; r < R; r++) {
    LATENTWIRE_UNROLL
    for (int c = 0; c < columns; c += 2) {
      typename W::Out* to = out + r * t.out_stride + 2 * c;
      typename W::Sum row = r % 2 == 0 ? W::first_rows(sum[r / 2][c], sum[r / 2][c + 1]) : W::second_rows(sum[r / 2][c], sum[r / 2][c + 1]);
      if (t.accumulate) row = W::add(W::load(to), row);
      W::store(to, row);
    }
  }
}

template <class W>
struct MmlaTiles {
  using Row = typename W::Row;
  using Element = typename W::Element;
  using Out = typename W::Out;
  // 16 sums, and a register for every two rows and every output pair: GCC zips the whole panel first, and would spill the sums of more
  static constexpr int max_rows = 4;
  template <int>
  static constexpr int panels_for = 1;
  template <int R, int N>
  static void tile(const GemmTile& t, const Row* x, const Element* panels, Out* out, bool) noexcept {
    mmla_tile<W, R, N>(t, x, panels, out);
  }
};

}  // namespace latentwire
