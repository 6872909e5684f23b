// Products of at most 64 rows, which are bound by reading the matrix: it goes straight from memory into the registers of warp products, 16
// bytes a lane and several loads ahead, once. Which elements of the depth meet in a product does not matter as long as both operands agree,
// so lane t of a quad takes 16 bytes beside each other where the product's layout would have it pick pairs.
//
// The warps of a block share the depth of 16 or 32 outputs; where that would leave processors idle, so do several blocks, whose sums a
// second kernel adds. Sums are added in an order that depends on the sizes alone.
#include "gemm.h"
#include "mma.cuh"
#include "product.cuh"

namespace latentwire::cuda {
namespace {

constexpr int warps = 8;
constexpr int group_bytes = 128;  // of the depth of each output that a warp loads at once, as two steps of 64
constexpr int steps = 2;

// Statistics as three numbers, to lie in memory.
template <Stats kind>
__device__ inline void write_stats(float* to, const RowStats<kind>& s) noexcept {
  if constexpr (kind == Stats::squares) to[0] = s.squares;
  if constexpr (kind == Stats::layer) {
    to[0] = s.count;
    to[1] = s.mean;
    to[2] = s.deviation;
  }
}
template <Stats kind>
__device__ inline RowStats<kind> read_stats(const float* from) noexcept {
  RowStats<kind> s;
  if constexpr (kind == Stats::squares) s.squares = from[0];
  if constexpr (kind == Stats::layer) {
    s.count = from[0];
    s.mean = from[1];
    s.deviation = from[2];
  }
  return s;
}

// A finished sum; 16 neighbouring lanes hold outputs of one row. All lanes of the warp must call it.
template <Stats kind>
__device__ inline void finish_sum(const Product& p, const RowStats<kind>& stats, int64_t row, int64_t column, bool valid,
                                  float sum) noexcept {
  if (p.best == nullptr) {
    if (valid) store_value(p, row_affine(p, stats, row), row, column, sum);
    return;
  }
  unsigned long long key = no_argmin;
  if (valid) {
    const float v = p.bias[column] * 0.5F - sum;
    if (v < INFINITY) key = argmin_key(v, column);
    report_bad(p, !isfinite(v), row);
  }
  key = warp_min<16>(key);
  if (threadIdx.x % 16 == 0 && key != no_argmin) atomicMin(p.best + row, key);
}

// Lane l of a warp loads 16 of every 64 bytes, at l % 4, of outputs l / 4, l / 4 + 8, … and of rows l / 4, ….
template <class T, int row_tiles, int output_tiles, Stats kind>
__global__ void __launch_bounds__(warps * 32, row_tiles <= 2 ? 2 : 1) few_product(const __grid_constant__ Product p) {
  if constexpr (has_mma<T>) {
    constexpr int chunk = 16 / static_cast<int>(sizeof(T));
    constexpr int group = group_bytes / static_cast<int>(sizeof(T));
    constexpr bool promotes = std::is_same_v<T, float>;  // the matrix unit rounds towards zero
    constexpr int ahead = row_tiles == 1 ? 4 : promotes && row_tiles > 4 ? 1 : 2;
    // rows come a group ahead too, or a step, where there are registers for it
    constexpr bool early_rows = row_tiles <= 2 || (row_tiles == 4 && !promotes);
    constexpr bool early_steps = !early_rows && !promotes;
    constexpr int at_once = row_tiles < 4 ? row_tiles : 4;
    constexpr int rows = row_tiles * 8;
    constexpr int outputs = output_tiles * 16;
    __shared__ float shared_sums[warps / 2][rows][outputs];
    __shared__ float shared_stats[warps][rows][3];
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int g = lane / 4;
    const int t = lane % 4;
    const int64_t column0 = static_cast<int64_t>(blockIdx.x) * outputs;

    // groups of this block, then every eighth for this warp
    const int64_t groups = ceil_div<int64_t>(p.depth, group);
    const int64_t begin = groups * blockIdx.y / gridDim.y;
    const int64_t end = groups * (blockIdx.y + 1) / gridDim.y;

    const T* w[output_tiles][2];
#pragma unroll
    for (int i = 0; i < output_tiles; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int64_t output = column0 + i * 16 + half * 8 + g;  // beyond the last, the last again
        w[i][half] = static_cast<const T*>(p.w) + (output < p.outputs ? output : p.outputs - 1) * p.w_stride + t * chunk;
      }
    }
    const T* x = static_cast<const T*>(p.x) + g * p.x_stride + t * chunk;

    uint4 loaded[ahead][output_tiles][2][steps];
    const auto load = [&](int64_t at, uint4(&to)[output_tiles][2][steps]) {
      if (at >= end) return;
#pragma unroll
      for (int i = 0; i < output_tiles; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
          for (int s = 0; s < steps; s++)
            to[i][half][s] = load_once(reinterpret_cast<const uint4*>(w[i][half] + at * group + s * (group / steps)));
        }
      }
    };

    float sums[output_tiles][row_tiles][4] = {};
    RowStats<kind> stats[row_tiles];
    // not by __ldg, which would let the compiler load them before the wait
    const auto load_rows = [&](int64_t at, int s, uint4(&to)[row_tiles]) {
      const int64_t k = at * group + s * (group / steps);
#pragma unroll
      for (int j = 0; j < row_tiles; j++) {
        const bool valid = at < end && j * 8 + g < p.n && k + t * chunk < p.depth;
        to[j] = valid ? *reinterpret_cast<const uint4*>(x + j * 8 * p.x_stride + k) : make_uint4(0, 0, 0, 0);
      }
    };
    const auto use = [&](int64_t at, const uint4(&matrix)[output_tiles][2][steps], uint4(&rows_of)[steps][row_tiles]) {
      if (at >= end) return;
      const auto multiply_group = [&](float(&into)[output_tiles][row_tiles][4]) {
#pragma unroll
        for (int s = 0; s < steps; s++) {
          const int64_t k = at * group + s * (group / steps);
          uint4(&of_rows)[row_tiles] = rows_of[s];
          if constexpr (early_steps) {
            load_rows(s == 0 ? at : at + warps, 1 - s, rows_of[1 - s]);
          } else if constexpr (!early_rows) {
            load_rows(at, s, of_rows);
          }
#pragma unroll
          for (int half = 0; half < 2; half++) {  // the first and the last 8 bytes of each 16
            Fragment<T, 4> a[output_tiles];
#pragma unroll
            for (int i = 0; i < output_tiles; i++) {
              const uint4 upper = matrix[i][0][s], lower = matrix[i][1][s];
              a[i].bits[0] = half == 0 ? upper.x : upper.z;
              a[i].bits[1] = half == 0 ? lower.x : lower.z;
              a[i].bits[2] = half == 0 ? upper.y : upper.w;
              a[i].bits[3] = half == 0 ? lower.y : lower.w;
              a[i].prepare();
            }
#pragma unroll
            for (int first = 0; first < row_tiles; first += at_once) {
              Fragment<T, 2> b[at_once];
#pragma unroll
              for (int j = 0; j < at_once; j++) {
                b[j].bits[0] = half == 0 ? of_rows[first + j].x : of_rows[first + j].z;
                b[j].bits[1] = half == 0 ? of_rows[first + j].y : of_rows[first + j].w;
                b[j].prepare();
              }
#pragma unroll
              for (int i = 0; i < output_tiles; i++) multiply_fragments(into[i], first, a[i], b);
            }
          }
          if constexpr (kind != Stats::none) {
#pragma unroll
            for (int j = 0; j < row_tiles; j++) {
              float values[chunk];
              unpack(of_rows[j], values, T{});
              stats[j].add(values, p.depth - k - t * chunk);
            }
          }
        }
      };
      if constexpr (promotes) {
        float part[output_tiles][row_tiles][4] = {};
        multiply_group(part);
#pragma unroll
        for (int i = 0; i < output_tiles; i++) {
#pragma unroll
          for (int j = 0; j < row_tiles; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][j][e] += part[i][j][e];
          }
        }
      } else {
        multiply_group(sums);
      }
    };

    let_next_begin();
    // all that the block will read of the matrix: loads alone wait for the kernel before
    if (const int64_t output = column0 + threadIdx.x; threadIdx.x < outputs && output < p.outputs && begin < end)
      prefetch_to_cache(static_cast<const T*>(p.w) + output * p.w_stride + begin * group,
                        static_cast<uint32_t>((end - begin) * group_bytes));
#pragma unroll
    for (int i = 0; i < ahead; i++) load(begin + warp + i * warps, loaded[i]);
    wait_for_previous();
    uint4 of_rows[early_rows ? 2 : 1][steps][row_tiles];
    const auto load_group_rows = [&](int64_t at, uint4(&to)[steps][row_tiles]) {
      if constexpr (early_rows) {
#pragma unroll
        for (int s = 0; s < steps; s++) load_rows(at, s, to[s]);
      }
    };
    load_group_rows(begin + warp, of_rows[0]);
    if constexpr (early_steps) load_rows(begin + warp, 0, of_rows[0][0]);
    for (int64_t at = begin + warp; at < end; at += ahead * warps) {
#pragma unroll
      for (int i = 0; i < ahead; i++) {
        load_group_rows(at + (i + 1) * warps, of_rows[early_rows ? (i + 1) % 2 : 0]);
        use(at + i * warps, loaded[i], of_rows[early_rows ? i % 2 : 0]);
        load(at + (i + ahead) * warps, loaded[i]);
      }
    }

    // the warps' sums, in a fixed order: 4 to 7 onto 0 to 3, then those four
    const auto each = [&](auto f) {
#pragma unroll
      for (int i = 0; i < output_tiles; i++) {
#pragma unroll
        for (int j = 0; j < row_tiles; j++) {
#pragma unroll
          for (int e = 0; e < 4; e++) f(shared_sums[warp % (warps / 2)][j * 8 + t * 2 + e % 2][i * 16 + g + e / 2 * 8], sums[i][j][e]);
        }
      }
    };
    if (warp >= warps / 2) each([](float& shared, float own) { shared = own; });
    if constexpr (kind != Stats::none) {
#pragma unroll
      for (int j = 0; j < row_tiles; j++) {
        stats[j].merge(shuffled(stats[j], lane ^ 1));
        stats[j].merge(shuffled(stats[j], lane ^ 2));
        if (t == 0) write_stats(shared_stats[warp][j * 8 + g], stats[j]);
      }
    }
    __syncthreads();
    if (warp < warps / 2) each([](float& shared, float own) { shared += own; });
    __syncthreads();

    for (int at = static_cast<int>(threadIdx.x); at < rows * outputs; at += warps * 32) {
      const int row = at / outputs;
      const int64_t column = column0 + at % outputs;
      const bool valid = row < p.n && column < p.outputs;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < warps / 2; i++) sum += shared_sums[i][row][at % outputs];
      RowStats<kind> of_row;
      if constexpr (kind != Stats::none) {
#pragma unroll
        for (int i = 0; i < warps; i++) of_row.merge(read_stats<kind>(shared_stats[i][row]));
      }
      if (gridDim.y == 1) {
        finish_sum(p, of_row, row, column, valid, sum);
      } else if (valid) {
        p.partial[(blockIdx.y * p.n + row) * p.outputs + column] = sum;
        if (kind != Stats::none && column == 0) write_stats(p.partial_stats + (blockIdx.y * p.n + row) * 3, of_row);
      }
    }
  } else {
    __trap();  // `product` sends nothing here that the processor cannot do
  }
}

template <Stats kind>
__global__ void __launch_bounds__(256) add_splits(const __grid_constant__ Product p) {
  const int64_t columns = round_up<int64_t>(p.outputs, 16);
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = at / columns;
  const int64_t column = at % columns;
  const bool valid = row < p.n && column < p.outputs;
  float sum = 0;
  RowStats<kind> stats;
  for (int i = 0; valid && i < p.splits; i++) {
    sum += p.partial[(i * p.n + row) * p.outputs + column];
    if constexpr (kind != Stats::none) stats.merge(read_stats<kind>(p.partial_stats + (i * p.n + row) * 3));
  }
  finish_sum(p, stats, row, column, valid, sum);
}

template <class T, int row_tiles, Stats kind>
cudaError_t launch(const Product& p, cudaStream_t stream) noexcept {
  const dim3 blocks(static_cast<unsigned>(ceil_div<int64_t>(p.outputs, few_outputs(p.n))), static_cast<unsigned>(p.splits));
  LATENT_CUDA_TRY(launch_early(few_product<T, row_tiles, (row_tiles > 2 ? 2 : 1), kind>, blocks, warps * 32, 0, 1, stream, p));
  if (p.splits == 1) return cudaSuccess;
  const int64_t values = p.n * round_up<int64_t>(p.outputs, 16);
  add_splits<kind><<<static_cast<unsigned>(ceil_div<int64_t>(values, 256)), 256, 0, stream>>>(p);
  return cudaGetLastError();
}

template <class T, Stats kind>
cudaError_t launch_with(const Product& p, cudaStream_t stream) noexcept {
  if (p.n <= 8) return launch<T, 1, kind>(p, stream);
  if (p.n <= 16) return launch<T, 2, kind>(p, stream);
  return p.n <= 32 ? launch<T, 4, kind>(p, stream) : launch<T, 8, kind>(p, stream);
}

}  // namespace

cudaError_t product_few(const Product& p, cudaStream_t stream) noexcept {
  return for_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    switch (p.stats()) {
      case Stats::squares:
        return launch_with<T, Stats::squares>(p, stream);
      case Stats::layer:
        if constexpr (!std::is_same_v<T, float>) return launch_with<T, Stats::layer>(p, stream);
        return cudaErrorNotSupported;
      case Stats::none:
        break;
    }
    return launch_with<T, Stats::none>(p, stream);
  });
}

}  // namespace latentwire::cuda
