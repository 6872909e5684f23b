// Products of many rows by warp products, for every processor that has them and for f32: a ring of three tiles in shared memory, filled by
// asynchronous copies, and 32 columns of sums for each warp. f32 sums leave the matrix unit every 32 of depth, because it rounds towards
// zero.
#include "gemm.h"
#include "mma.cuh"
#include "product.cuh"

namespace latentwire::cuda {
namespace {

constexpr int stages = 3;
constexpr int warp_columns = 32;
constexpr int step_chunks = tile_row_bytes / 16;

// A block of side x side sums: 128 by 2 x 4 warps of 64 x 32, or 64 by 2 x 2 warps of 32 x 32. Two threads for each row.
template <int side>
struct Shape {
  static constexpr int threads = 2 * side;
  static constexpr int warp_rows = side / 2;
  static constexpr int row_tiles = warp_rows / 16;
  static constexpr int column_tiles = warp_columns / 8;
  static constexpr int tile_bytes = side * tile_row_bytes;
  static constexpr int bytes = stages * 2 * tile_bytes;
};

template <class T, int side>
__device__ inline void copy_tile(uint8_t* to, const void* from, int64_t stride, int64_t first, int64_t count, int64_t depth,
                                 int64_t k) noexcept {
  constexpr int chunk = 16 / static_cast<int>(sizeof(T));
#pragma unroll
  for (int i = 0; i < side * step_chunks / Shape<side>::threads; i++) {
    const int at = static_cast<int>(threadIdx.x) + i * Shape<side>::threads;
    const int row = at / step_chunks;
    const int c = at % step_chunks;
    const int64_t column = k + c * chunk;
    const bool valid = first + row < count && column < depth;
    const T* source = static_cast<const T*>(from) + (valid ? (first + row) * stride + column : 0);
    copy_chunk(to + chunk_at(row, c), source, valid);
  }
}

template <class T, int side, Stats kind>
__device__ inline void gather_stats(RowStats<kind>& stats, const uint8_t* rows, int64_t depth_left) noexcept {
  if constexpr (kind != Stats::none) {
    constexpr int chunk = 16 / static_cast<int>(sizeof(T));
    const int row = static_cast<int>(threadIdx.x) / 2;
    const int first = static_cast<int>(threadIdx.x % 2) * 4;
    float x[4 * chunk];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float part[chunk];
      unpack(*reinterpret_cast<const uint4*>(rows + chunk_at(row, first + i)), part, T{});
#pragma unroll
      for (int e = 0; e < chunk; e++) x[chunk * i + e] = part[e];
    }
    stats.add(x, depth_left - first * chunk);
  }
}

template <class T, int side, Stats kind, bool argmin>
__global__ void __launch_bounds__(2 * side, side == 128 && (std::is_same_v<T, float> || kind == Stats::layer) ? 1 : 2)
    mma_product(const __grid_constant__ Product p) {
  if constexpr (has_mma<T>) {
    using S = Shape<side>;
    constexpr bool promotes = std::is_same_v<T, float>;
    extern __shared__ __align__(128) uint8_t memory[];
    __shared__ RowAffine affine[side];
    __shared__ float half_squares[argmin ? side : 1];
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warp_row = warp % 2 * S::warp_rows;
    const int warp_column = warp / 2 * warp_columns;
    const int64_t row0 = static_cast<int64_t>(blockIdx.y) * side;
    const int64_t column0 = static_cast<int64_t>(blockIdx.x) * side;
    const int64_t steps = ceil_div<int64_t>(p.depth, tile_depth<T>);

    const auto fetch = [&](int64_t step) {
      if (step < steps) {
        uint8_t* to = memory + step % stages * 2 * S::tile_bytes;
        copy_tile<T, side>(to, p.x, p.x_stride, row0, p.n, p.depth, step * tile_depth<T>);
        copy_tile<T, side>(to + S::tile_bytes, p.w, p.w_stride, column0, p.outputs, p.depth, step * tile_depth<T>);
      }
      commit_copies();
    };

    float sums[S::row_tiles][S::column_tiles][4] = {};
    RowStats<kind> stats;
    for (int i = 0; i < stages - 1; i++) fetch(i);
    for (int64_t step = 0; step < steps; step++) {
      wait_copies<stages - 2>();
      __syncthreads();
      fetch(step + stages - 1);  // into the place that all have left
      const uint8_t* rows = memory + step % stages * 2 * S::tile_bytes;
      const auto rows_at = static_cast<uint32_t>(__cvta_generic_to_shared(rows));
      const uint32_t columns_at = rows_at + S::tile_bytes;
      const auto multiply_step = [&](float(&into)[S::row_tiles][S::column_tiles][4]) {
#pragma unroll
        for (int k = 0; k < step_chunks / 2; k++) {
          Fragment<T, 2> b[S::column_tiles];
#pragma unroll
          for (int j = 0; j < S::column_tiles; j += 2) {
            // matrices: outputs 0-7 and 8-15, each with both chunks
            uint32_t words[4];
            load_matrices(words, columns_at + chunk_at(warp_column + 8 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (int e = 0; e < 4; e++) b[j + e / 2].bits[e % 2] = words[e];
            b[j].prepare();
            b[j + 1].prepare();
          }
#pragma unroll
          for (int i = 0; i < S::row_tiles; i++) {
            // matrices: rows 0-7 and 8-15 of the first chunk, then of the second
            Fragment<T, 4> a;
            load_matrices(a.bits, rows_at + chunk_at(warp_row + 16 * i + lane % 16, 2 * k + lane / 16));
            a.prepare();
            multiply_fragments(into[i], 0, a, b);
          }
        }
      };
      if constexpr (promotes) {
        float part[S::row_tiles][S::column_tiles][4] = {};
        multiply_step(part);
#pragma unroll
        for (int i = 0; i < S::row_tiles; i++) {
#pragma unroll
          for (int j = 0; j < S::column_tiles; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][j][e] += part[i][j][e];
          }
        }
      } else {
        multiply_step(sums);
      }
      gather_stats<T, side>(stats, rows, p.depth - step * tile_depth<T>);
    }
    wait_copies<0>();

    if constexpr (kind != Stats::none) {
      const int row = static_cast<int>(threadIdx.x) / 2;
      stats.merge(shuffled(stats, lane ^ 1));
      if (threadIdx.x % 2 == 0 && row0 + row < p.n) affine[row] = row_affine(p, stats, row0 + row);
      __syncthreads();
    }
    const PairStore store(p);
    if constexpr (argmin) {
      for (int i = static_cast<int>(threadIdx.x); i < side; i += S::threads)
        half_squares[i] = column0 + i < p.outputs ? p.bias[column0 + i] * 0.5F : INFINITY;
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < S::row_tiles; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = warp_row + 16 * i + lane / 4 + 8 * half;
        const int column = warp_column + lane % 4 * 2;
        const auto sum = [&](int j, int e) { return sums[i][j][2 * half + e]; };
        if constexpr (argmin) {
          argmin_row<S::column_tiles>(p, row0 + row, half_squares, column, static_cast<int>(column0), sum);
        } else {
          RowAffine of_row;
          if constexpr (kind != Stats::none) of_row = affine[row];
          store_row<T, kind, S::column_tiles>(p, of_row, row0 + row, static_cast<int>(column0) + column, store, sum);
        }
      }
    }
  } else {
    __trap();  // `product` sends nothing here that the processor cannot do
  }
}

template <class T, int side, Stats kind, bool argmin>
cudaError_t launch(const Product& p, cudaStream_t stream) noexcept {
  const auto kernel = mma_product<T, side, kind, argmin>;
  LATENT_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape<side>::bytes));
  // the grid's second dimension ends at 65535
  constexpr int64_t most = int64_t{65535} * side;
  for (int64_t first = 0; first < p.n; first += most) {
    const Product part = rows_of(p, first, p.n - first < most ? p.n - first : most);
    const dim3 blocks(static_cast<unsigned>(ceil_div<int64_t>(p.outputs, side)), static_cast<unsigned>(ceil_div<int64_t>(part.n, side)));
    kernel<<<blocks, Shape<side>::threads, Shape<side>::bytes, stream>>>(part);
  }
  return cudaGetLastError();
}

template <class T, int side>
cudaError_t launch_with(const Product& p, cudaStream_t stream) noexcept {
  if (p.best != nullptr) return launch<T, side, Stats::none, true>(p, stream);
  switch (p.stats()) {
    case Stats::squares:
      return launch<T, side, Stats::squares, false>(p, stream);
    case Stats::layer:
      if constexpr (!std::is_same_v<T, float>) return launch<T, side, Stats::layer, false>(p, stream);
      return cudaErrorNotSupported;
    case Stats::none:
      break;
  }
  return launch<T, side, Stats::none, false>(p, stream);
}

}  // namespace

cudaError_t product_mma(const Product& p, bool wide, cudaStream_t stream) noexcept {
  return for_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    return wide ? launch_with<T, 128>(p, stream) : launch_with<T, 64>(p, stream);
  });
}

}  // namespace latentwire::cuda
