// Products in f32 arithmetic for what has no matrix units: f32 and bf16 before sm_80, and sums of |x - w| on every processor. Also what the
// other kernels are checked against. Blocks of 64 x 64 sums, 4 x 4 a thread, 16 of depth at a time.
#include "gemm.h"
#include "product.cuh"

namespace latentwire::cuda {
namespace {

constexpr int side = 64;
constexpr int step = 16;
constexpr int threads = 256;
constexpr int each = 4;  // sums of a thread in both directions

template <class T>
__device__ inline void copy_tile(float (&to)[step][side + 4], const void* from, int64_t stride, int64_t first, int64_t count, int64_t depth,
                                 int64_t k) noexcept {
#pragma unroll
  for (int i = 0; i < side * step / threads; i++) {
    const int at = static_cast<int>(threadIdx.x) + i * threads;
    const int row = at / step;
    const int column = at % step;
    const bool valid = first + row < count && k + column < depth;
    to[column][row] = valid ? to_float(static_cast<const T*>(from)[(first + row) * stride + k + column]) : 0.0F;
  }
}

template <class T, Stats kind, bool l1>
__global__ void __launch_bounds__(threads) simple_product(const __grid_constant__ Product p) {
  __shared__ __align__(16) float rows[step][side + 4];
  __shared__ __align__(16) float outputs[step][side + 4];
  __shared__ RowAffine affine[side];
  const int ty = static_cast<int>(threadIdx.x) / 16;
  const int tx = static_cast<int>(threadIdx.x) % 16;
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * side;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * side;
  float sums[each][each] = {};
  RowStats<kind> stats;  // of row threadIdx.x / 4, a quarter of each step
  for (int64_t k = 0; k < p.depth; k += step) {
    copy_tile<T>(rows, p.x, p.x_stride, row0, p.n, p.depth, k);
    copy_tile<T>(outputs, p.w, p.w_stride, column0, p.outputs, p.depth, k);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < step; d++) {
      float x[each], w[each];
#pragma unroll
      for (int i = 0; i < each; i++) {
        x[i] = rows[d][ty * each + i];
        w[i] = outputs[d][tx * each + i];
      }
#pragma unroll
      for (int i = 0; i < each; i++) {
#pragma unroll
        for (int j = 0; j < each; j++) sums[i][j] = l1 ? sums[i][j] + fabsf(x[i] - w[j]) : fmaf(x[i], w[j], sums[i][j]);
      }
    }
    if constexpr (kind != Stats::none) {
      const int first = static_cast<int>(threadIdx.x % 4) * 4;
      float x[4];
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] = rows[first + i][threadIdx.x / 4];
      stats.add(x, p.depth - k - first);
    }
    __syncthreads();
  }
  if constexpr (kind != Stats::none) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row = static_cast<int>(threadIdx.x) / 4;
    stats.merge(shuffled(stats, lane ^ 1));
    stats.merge(shuffled(stats, lane ^ 2));
    if (threadIdx.x % 4 == 0 && row0 + row < p.n) affine[row] = row_affine(p, stats, row0 + row);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < each; i++) {
    const int64_t row = row0 + ty * each + i;
    if (row >= p.n) continue;
    RowAffine of_row;
    if constexpr (kind != Stats::none) of_row = affine[ty * each + i];
    for (int j = 0; j < each; j++) {
      const int64_t column = column0 + tx * each + j;
      if (column >= p.outputs) continue;
      if (p.best == nullptr) {
        store_value(p, of_row, row, column, sums[i][j]);
        continue;
      }
      const float v = p.bias[column] * 0.5F - sums[i][j];
      report_bad(p, !isfinite(v), row);
      if (v < INFINITY) atomicMin(p.best + row, argmin_key(v, column));
    }
  }
}

template <class T, Stats kind, bool l1>
cudaError_t launch(const Product& p, cudaStream_t stream) noexcept {
  // the grid's second dimension ends at 65535
  constexpr int64_t most = int64_t{65535} * side;
  for (int64_t first = 0; first < p.n; first += most) {
    const Product part = rows_of(p, first, p.n - first < most ? p.n - first : most);
    const dim3 blocks(static_cast<unsigned>(ceil_div<int64_t>(p.outputs, side)), static_cast<unsigned>(ceil_div<int64_t>(part.n, side)));
    simple_product<T, kind, l1><<<blocks, threads, 0, stream>>>(part);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t product_simple(const Product& p, bool l1, cudaStream_t stream) noexcept {
  return for_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    if (l1) return p.scale == RowScale::none && p.best == nullptr ? launch<T, Stats::none, true>(p, stream) : cudaErrorNotSupported;
    switch (p.stats()) {
      case Stats::squares:
        return launch<T, Stats::squares, false>(p, stream);
      case Stats::layer:
        return launch<T, Stats::layer, false>(p, stream);
      case Stats::none:
        break;
    }
    return launch<T, Stats::none, false>(p, stream);
  });
}

}  // namespace latentwire::cuda
