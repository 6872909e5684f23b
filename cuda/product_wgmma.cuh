// Products of many rows of 16-bit floats on Hopper; product_wgmma_f16.cu and product_wgmma_bf16.cu compile them, which takes a while. One
// thread copies boxes of 128 rows and up to 256 outputs by 64 of depth into a ring in shared memory; two warpgroups multiply 64 rows each,
// and while their products run gather the statistics of their rows from the same ring. Blocks stay and take tile after tile, and results
// leave by bulk stores, which nobody waits for.
//
// Per 64 of depth a 128 x 256 tile is 1024 cycles of products, as many of shared memory, which is written once and of which both warpgroups
// read all outputs, and 48 KB, which is more than the second-level cache delivers to all processors in that time. So two blocks, one row
// tile below the other, each copy half of the outputs' box into both: 32 KB. Statistics read rows once more, 128 cycles.
//
// Where there are fewer tiles than processors, the blocks of a cluster share the depth of a tile as well, and each adds up and finishes a
// part of its columns, out of the shared memory of all, in the order of the depth. The same, as a second launch, is done with the tiles
// that are left over when all processors have taken equally many.
#pragma once

#include <cudaTypedefs.h>

#include <algorithm>

#include "gemm.h"
#include "product.cuh"
#include "wgmma.cuh"

namespace latentwire::cuda::hopper {

constexpr int tile_rows = 128;
constexpr int step_depth = 64;
constexpr int group_threads = 128;
constexpr int block_threads = 3 * group_threads;
constexpr int lane_depth = step_depth / 2;  // of a step: two lanes gather the statistics of a row
constexpr int row_bytes = step_depth * 2;
constexpr int row_tile_bytes = tile_rows * row_bytes;
// Neighbouring tiles share rows and outputs in the second-level cache: they go down this many rows before they go right.
constexpr int tall_rows = 2048;

// Values go through shared memory on their way out, 64 rows by 32 columns of a warpgroup at a time in boxes for bulk stores, or 64 by 64
// of f32.
constexpr int box_columns = 32;
constexpr int part_columns = 64;
constexpr int part_bytes = 64 * part_columns * static_cast<int>(sizeof(float));
// Columns behind a tile's that are finished with the last where the depth was shared, and dropped.
constexpr int spare_columns = 64;

template <int columns>
struct Ring {
  static constexpr int stage_bytes = row_tile_bytes + columns * row_bytes;
  static constexpr int barrier_bytes = 128;
  static constexpr int most_bytes = 227 * 1024;
  static constexpr int fitting = (most_bytes - 2 * part_bytes - barrier_bytes) / stage_bytes;
  static constexpr int stages = fitting < 8 ? fitting : 8;
  static constexpr int parts_at = stages * stage_bytes;
  static constexpr int barriers_at = parts_at + 2 * part_bytes;
  static constexpr int bytes = barriers_at + barrier_bytes;
  static_assert(2 * bytes > most_bytes);  // a block has a processor of its own
};

// Tiles of `blocks` row tiles by one column tile: what a cluster of blocks * splits blocks does together.
struct Cut {
  int rows;     // of tiles
  int columns;  // of tiles
  int tall;
  int blocks;  // share the copies of outputs
  int splits;  // share the depth; more than one only where every tile has a cluster of its own
  int first;   // the tiles of this launch, up to `last`
  int last;
  bool streams;  // results are stored in bulk
};

#ifdef LATENT_WGMMA

__device__ inline void locate(const Cut& grid, int tile, int* row, int* column) noexcept {
  const int group = tile / (grid.tall * grid.columns);
  const int in_group = tile - group * grid.tall * grid.columns;
  const int height = min(grid.tall, grid.rows - group * grid.tall);
  *row = group * grid.tall + in_group % height;
  *column = in_group / height;
}

// A place in the ring, and how often it has been around.
template <int stages>
struct Place {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void next() noexcept {
    if (++stage < stages) return;
    stage = 0;
    phase ^= 1;
  }
};

// Sums over what a lane has seen of its row. Those for LayerNorm are of differences from a pivot, the mean of the first elements: one pass,
// and no more than (elements / 32) times the rounding of the variance, because a pivot far off the mean is part of that.
template <Stats kind>
struct LaneStats {
  float pivot = 0;
  float sum = 0;
  float squares = 0;

  __device__ void add(const float (&x)[lane_depth], int valid, bool first) noexcept {
    if constexpr (kind == Stats::layer) {
      if (first) {
        float all = 0;
#pragma unroll
        for (int i = 0; i < lane_depth; i++) all += x[i];  // what is beyond the valid ones is zero
        pivot = valid > 0 ? all / static_cast<float>(min(valid, lane_depth)) : 0;
      }
      float sums[4] = {}, squared[4] = {};
      if (valid >= lane_depth) {
#pragma unroll
        for (int i = 0; i < lane_depth; i++) {
          const float d = x[i] - pivot;
          sums[i % 4] += d;
          squared[i % 4] = fmaf(d, d, squared[i % 4]);
        }
      } else {
#pragma unroll
        for (int i = 0; i < lane_depth; i++) {
          const float d = i < valid ? x[i] - pivot : 0.0F;
          sums[i % 4] += d;
          squared[i % 4] = fmaf(d, d, squared[i % 4]);
        }
      }
      sum += (sums[0] + sums[1]) + (sums[2] + sums[3]);
      squares += (squared[0] + squared[1]) + (squared[2] + squared[3]);
    } else if constexpr (kind == Stats::squares) {
      float squared[4] = {};
#pragma unroll
      for (int i = 0; i < lane_depth; i++) squared[i % 4] = fmaf(x[i], x[i], squared[i % 4]);
      squares += (squared[0] + squared[1]) + (squared[2] + squared[3]);
    }
  }
  // Of `count` elements.
  __device__ RowStats<kind> row_stats(int count) const noexcept {
    RowStats<kind> s;
    if constexpr (kind == Stats::squares) s.squares = squares;
    if constexpr (kind == Stats::layer) {
      if (count <= 0) return s;
      const auto n = static_cast<float>(count);
      const float shift = sum / n;
      s.count = n;
      s.mean = pivot + shift;
      const float deviation = squares - sum * shift;
      s.deviation = deviation < 0 ? 0.0F : deviation;  // NaN stays
    }
    return s;
  }
};

__device__ inline int first_of_lane() noexcept { return static_cast<int>(threadIdx.x % 2) * lane_depth; }

template <class T, Stats kind>
__device__ inline void gather_stats(LaneStats<kind>& stats, const uint4* rows, int depth_left, bool first_step) noexcept {
  if constexpr (kind != Stats::none) {
    const int row = static_cast<int>(threadIdx.x % group_threads) / 2;
    const int first = first_of_lane() / 8;
    float x[lane_depth];
#pragma unroll
    for (int i = 0; i < lane_depth / 8; i++) {
      float eight[8];
      unpack(rows[row * 8 + ((first + i) ^ (row % 8))], eight, T{});
#pragma unroll
      for (int e = 0; e < 8; e++) x[8 * i + e] = eight[e];
    }
    stats.add(x, depth_left - first_of_lane(), first_step);
  }
}

// What becomes of the sums of rows `row` and `row` + 8, which a lane holds, given what two lanes have gathered of a row: of the lane / 2-th
// of the warp's. All lanes must call it.
template <Stats kind>
__device__ inline void affine_of_rows(const Product& p, const RowStats<kind>& stats, int64_t row, RowAffine (&rows)[2]) noexcept {
  if constexpr (kind != Stats::none) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int64_t of = row - lane / 4 + lane / 2;
    RowAffine own;
    if (of < p.n) own = row_affine(p, stats, of);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int from = lane / 4 * 2 + half * 16;  // the first of the two, which merge in different orders
      rows[half].factor = __shfl_sync(all_lanes, own.factor, from);
      if constexpr (kind == Stats::layer) rows[half].of_sums = __shfl_sync(all_lanes, own.of_sums, from);
      if constexpr (kind == Stats::squares) rows[half].base = __shfl_sync(all_lanes, own.base, from);
    }
  }
}

// GELU by erf(t) = 1 - 1 / (1 + a1 t + ... + a6 t^6)^16 for t >= 0 (Abramowitz and Stegun 7.1.28), which is 8e-7 off at most.
__device__ inline float gelu_of(float x) noexcept {
  const float t = fabsf(x);
  float y = 5.382974905e-06F;
  y = fmaf(y, t, 4.889063712e-05F);
  y = fmaf(y, t, 3.800357445e-05F);
  y = fmaf(y, t, 3.277626354e-03F);
  y = fmaf(y, t, 2.114100568e-02F);
  y = fmaf(y, t, 4.986734688e-02F);
  y = fmaf(y, t, 1.0F);
  y *= y;
  y *= y;
  y *= y;
  y *= y;
  float rest;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(rest) : "f"(y));
  return fmaf(-0.5F * t, rest, fmaxf(x, 0.0F));
}
__device__ inline float root_of(float x) noexcept {
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(fmaxf(x, 0.0F)));
  return root;
}

// Sums to values, where they lie: rows `row` and `row` + 8, columns 8 i + 2 (lane % 4) and one more of those whose biases and sums of
// weights are given.
template <Stats kind, int count>
__device__ inline void finish_sums(const Product& p, float (&sums)[count], const RowAffine (&affine)[2], const float* bias,
                                   const float* weight_sums, int64_t row) noexcept {
  const int first = static_cast<int>(threadIdx.x % 4) * 2;
  float finite[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < count / 4; i++) {
    const float2 b = *reinterpret_cast<const float2*>(bias + 8 * i + first);
    float2 w = {0, 0};
    if constexpr (kind == Stats::layer) w = *reinterpret_cast<const float2*>(weight_sums + 8 * i + first);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float& v = sums[4 * i + e];
      const RowAffine& a = affine[e / 2];
      const float of_column = e % 2 == 0 ? b.x : b.y;
      if constexpr (kind == Stats::none) v += of_column;
      if constexpr (kind == Stats::squares) v = fmaf(v, a.factor, of_column + a.base);
      if constexpr (kind == Stats::layer) v = fmaf(v, a.factor, fmaf(a.of_sums, e % 2 == 0 ? w.x : w.y, of_column));
      finite[e / 2] = fmaf(v, 0.0F, finite[e / 2]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int64_t of_half = row + 8 * half;
    report_bad(p, finite[half] != 0 && of_half < p.n, of_half);  // NaN
  }
  if (p.finish == Finish::gelu) {
#pragma unroll
    for (int i = 0; i < count; i++) sums[i] = gelu_of(sums[i]);
  }
  if constexpr (kind == Stats::squares) {
    if (p.finish == Finish::floor) {
#pragma unroll
      for (int i = 0; i < count; i++) sums[i] = fmaxf(sums[i], 0.0F);
    }
    if (p.finish == Finish::root) {
#pragma unroll
      for (int i = 0; i < count; i++) sums[i] = root_of(sums[i]);
    }
  }
}

// Values of a warpgroup's 64 rows to the results, in bulk, by two halves of its part in turns: one fills while the copy engine reads the
// other. Boxes of 32 columns are swizzled, rows of 128 bytes of f32 or of 64 bytes.
template <class T, int columns>
__device__ inline void stream_values(const CUtensorMap* map, bool wide, const float (&values)[columns / 2], uint8_t* part, int name,
                                     int64_t row0, int column0) noexcept {
  const int thread = static_cast<int>(threadIdx.x % group_threads);
  const int lane = thread % 32;
  const int warp_row = thread / 32 * 16;
  const auto room = [&](int round) {
    if (thread == 0) store_wait_read<1>();
    warpgroup_barrier(name);
    return part + round % 2 * (part_bytes / 2);
  };
  const auto store = [&](const uint8_t* from, int column, int boxes) {
    store_fence();
    warpgroup_barrier(name);
    if (thread != 0) return;
    for (int i = 0; i < boxes; i++)
      store_box(map, from + i * 64 * box_columns * 2, column0 + column + i * box_columns, static_cast<int32_t>(row0));
    store_commit();
  };
  if (wide) {
#pragma unroll
    for (int round = 0; round < columns / box_columns; round++) {
      uint8_t* to = room(round);
#pragma unroll
      for (int i = 0; i < box_columns / 16; i++) {
        const int at = (round * (box_columns / 8) + i) * 4;
        const int chunk = 2 * i + lane % 4 / 2;
        // lanes of odd rows take the other half of the box first, so that no two lanes meet in a bank
        const bool odd = lane / 4 % 2 != 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float2 near = make_float2(values[at + 2 * half], values[at + 2 * half + 1]);
          const float2 far = make_float2(values[at + 8 + 2 * half], values[at + 8 + 2 * half + 1]);
          const int row = warp_row + half * 8 + lane / 4;
          uint8_t* const of_row = to + row * 128 + lane % 2 * 8;
          *reinterpret_cast<float2*>(of_row + (((odd ? chunk + 4 : chunk) ^ (row % 8)) << 4)) = odd ? far : near;
          *reinterpret_cast<float2*>(of_row + (((odd ? chunk : chunk + 4) ^ (row % 8)) << 4)) = odd ? near : far;
        }
      }
      store(to, round * box_columns, 1);
    }
  } else {
    constexpr Dtype dtype = std::is_same_v<T, __half> ? Dtype::f16 : Dtype::bf16;
#pragma unroll
    for (int round = 0; round < ceil_div(columns, 2 * box_columns); round++) {
      uint8_t* to = room(round);
      constexpr int most = 2 * box_columns / 8;
#pragma unroll
      for (int i = 0; i < most; i += 2) {  // groups of 8 columns
        const int at = (round * most + i) * 4;
        if (at >= columns / 2) continue;
        const uint32_t bits[4] = {pair_bits(dtype, values[at], values[at + 1]), pair_bits(dtype, values[at + 2], values[at + 3]),
                                  pair_bits(dtype, values[at + 4], values[at + 5]), pair_bits(dtype, values[at + 6], values[at + 7])};
        const int row = warp_row + lane % 16;
        const int chunk = i % 4 + lane / 16;
        store_matrices(to + i / 4 * 64 * box_columns * 2 + row * 64 + ((chunk ^ (row / 2 % 4)) << 4), bits);
      }
      store(to, round * 2 * box_columns, min(2, (columns - round * 2 * box_columns) / box_columns));
    }
  }
}

// Where column `c` of a row's part lies, so that no two lanes meet in a bank.
__device__ inline int part_at(int row, int c) noexcept { return row * part_columns + (c ^ ((row & 3) << 3)); }

// Values of a part of a tile, rows from `row0` on, `most` outputs from `column0` on, where they cannot leave in bulk. A thread has 4
// outputs of every eighth row.
template <class T>
__device__ inline void store_part(const Product& p, const float* part, int64_t row0, int column0, int most) noexcept {
  const int thread = static_cast<int>(threadIdx.x % group_threads);
  const int c = thread % 16 * 4;
  const int column = column0 + c;
  const int count = min(4, min(most, static_cast<int>(p.outputs) - column0) - c);
  if (count <= 0) return;
  const bool wide = p.out_dtype == Dtype::f32;
  const bool whole = count == 4 && p.out_stride % 4 == 0 && reinterpret_cast<uintptr_t>(p.out) % (wide ? 16 : 8) == 0;
#pragma unroll 2
  for (int r = thread / 16; r < 64; r += 8) {
    const int64_t row = row0 + r;
    if (row >= p.n) break;
    const float4 four = *reinterpret_cast<const float4*>(part + part_at(r, c));
    float v[4] = {four.x, four.y, four.z, four.w};
    if (p.residual != nullptr) {
      const T* residual = static_cast<const T*>(p.residual) + row * p.residual_stride + column;
#pragma unroll
      for (int e = 0; e < 4; e++) v[e] += e < count ? to_float(residual[e]) : 0.0F;
    }
    const int64_t at = row * p.out_stride + column;
    if (!whole) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        if (e < count) store_float(p.out_dtype, p.out, at + e, v[e]);
      }
    } else if (wide) {
      *reinterpret_cast<float4*>(static_cast<float*>(p.out) + at) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.out) + at) =
          make_uint2(pair_bits(p.out_dtype, v[0], v[1]), pair_bits(p.out_dtype, v[2], v[3]));
    }
  }
}

// Values of a warpgroup's 64 rows to the results by way of its part.
template <class T, int columns>
__device__ inline void store_values(const Product& p, const float (&values)[columns / 2], float* part, int name, int64_t row0,
                                    int column0) noexcept {
  const int thread = static_cast<int>(threadIdx.x % group_threads);
  const int lane = thread % 32;
#pragma unroll 1
  for (int c0 = 0; c0 < columns; c0 += part_columns) {
    warpgroup_barrier(name);
#pragma unroll
    for (int which = 0; which < ceil_div(columns, part_columns); which++) {
      if (c0 != which * part_columns) continue;
#pragma unroll
      for (int i = 0; i < part_columns / 8; i++) {
        const int at = which * part_columns / 2 + 4 * i;
        if (at >= columns / 2) continue;
        const int r = thread / 32 * 16 + lane / 4;
        const int c = 8 * i + lane % 4 * 2;
        *reinterpret_cast<float2*>(part + part_at(r, c)) = make_float2(values[at], values[at + 1]);
        *reinterpret_cast<float2*>(part + part_at(r + 8, c)) = make_float2(values[at + 2], values[at + 3]);
      }
    }
    warpgroup_barrier(name);
    store_part<T>(p, part, row0, column0 + c0, min(part_columns, columns - c0));
  }
}

// Two values of a row that lie beside each other.
template <class T>
__device__ inline void store_pair(const Product& p, const PairStore& store, int64_t row, int column, float a, float b) noexcept {
  const auto outputs = static_cast<int>(p.outputs);
  if (row >= p.n || column >= outputs) return;
  const bool both = column + 1 < outputs;
  if (p.residual != nullptr) {
    const T* residual = static_cast<const T*>(p.residual) + row * p.residual_stride + column;
    a += to_float(residual[0]);
    if (both) b += to_float(residual[1]);
  }
  const int64_t at = row * p.out_stride + column;
  if (!store.pairs || !both) {
    store_float(p.out_dtype, p.out, at, a);
    if (both) store_float(p.out_dtype, p.out, at + 1, b);
  } else if (store.wide) {
    *reinterpret_cast<float2*>(static_cast<float*>(p.out) + at) = make_float2(a, b);
  } else {
    *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p.out) + at) = pair_bits(p.out_dtype, a, b);
  }
}

// The sums of a tile whose depth the `splits` blocks of a cluster have shared: each puts what it has into its ring, and finishes groups of
// 8 columns from `begin` to `end`. `row` is the first of the two that a lane holds. All threads that multiply must call it, once.
template <class T, int columns, Stats kind, bool argmin>
__device__ inline void finish_together(const Product& p, const Cut& cut, const float (&sums)[columns / 2], const RowStats<kind>& stats,
                                       float4* ring, const float* bias, const float* weight_sums, int64_t row, int column0, int row_rank,
                                       int begin, int end) noexcept {
  constexpr int groups = columns / 8;
  constexpr int at_once = spare_columns / 8;
  constexpr int threads = 2 * group_threads;
  const int thread = static_cast<int>(threadIdx.x) - group_threads;
  const int lane = thread % 32;
  float4* const own = ring + thread;
  const auto block = [&](int share) { return static_cast<uint32_t>(share * cut.blocks + row_rank); };

  warpgroups_barrier(3);  // nobody reads rows or outputs there any more
#pragma unroll
  for (int i = 0; i < groups; i++) own[i * threads] = make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
  if constexpr (kind != Stats::none) own[groups * threads] = stats_word(stats);
  cluster_barrier();

  RowAffine affine[2];
  if constexpr (kind != Stats::none) {
    RowStats<kind> all;
    for (int i = 0; i < cut.splits; i++) all.merge(stats_of<kind>(load_from(own + groups * threads, block(i))));
    affine_of_rows(p, all, row, affine);
  }
  const PairStore store(p);
#pragma unroll 1
  for (int g = begin; g < end; g += at_once) {
    float all[4 * at_once] = {};
#pragma unroll 2
    for (int i = 0; i < cut.splits; i++) {
#pragma unroll
      for (int j = 0; j < at_once; j++) {
        const float4 of_block = load_from(own + min(g + j, end - 1) * threads, block(i));  // beyond the last, the last again
        all[4 * j] += of_block.x;
        all[4 * j + 1] += of_block.y;
        all[4 * j + 2] += of_block.z;
        all[4 * j + 3] += of_block.w;
      }
    }
    const int first = 8 * g + lane % 4 * 2;
    if constexpr (argmin) {
      argmin_row<at_once>(p, row, bias, first, column0, [&](int i, int e) { return all[4 * i + e]; });
      argmin_row<at_once>(p, row + 8, bias, first, column0, [&](int i, int e) { return all[4 * i + 2 + e]; });
    } else {
      finish_sums<kind>(p, all, affine, bias + 8 * g, weight_sums + 8 * g, row);
#pragma unroll
      for (int j = 0; j < at_once; j++) {
        if (g + j >= end) continue;
        store_pair<T>(p, store, row, column0 + first + 8 * j, all[4 * j], all[4 * j + 1]);
        store_pair<T>(p, store, row + 8, column0 + first + 8 * j, all[4 * j + 2], all[4 * j + 3]);
      }
    }
  }
}

#endif  // LATENT_WGMMA

template <class T, int columns, Stats kind, bool argmin>
__global__ void __launch_bounds__(block_threads, 1)
    wgmma_product(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                  const __grid_constant__ CUtensorMap y_map, const __grid_constant__ Product p, const Cut cut) {
#ifdef LATENT_WGMMA
  using R = Ring<columns>;
  extern __shared__ __align__(1024) uint8_t memory[];
  uint8_t* const ring = memory;
  uint64_t* const full = reinterpret_cast<uint64_t*>(memory + R::barriers_at);
  uint64_t* const empty = full + R::stages;
  const int blocks = cut.blocks;
  const int size = blocks * cut.splits;
  const int cluster = static_cast<int>(blockIdx.x) / size;
  const int clusters = static_cast<int>(gridDim.x) / size;
  const int first_tile = cut.first + cluster;
  const int rank = static_cast<int>(blockIdx.x) % size;  // in the cluster
  const int row_rank = rank % blocks;
  const int share = rank / blocks;  // of the depth
  const auto all_steps = static_cast<int>(ceil_div<int64_t>(p.depth, step_depth));
  const int begin = all_steps * share / cut.splits;
  const int steps = all_steps * (share + 1) / cut.splits - begin;

  if (threadIdx.x == 0) {
    if (shared_address(memory) % 1024 != 0) __trap();  // swizzles count on it
    for (int i = 0; i < R::stages; i++) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], 8 * static_cast<uint32_t>(blocks));  // the warps that multiply
    }
    barrier_init_fence();
    prefetch_map(&x_map);
    prefetch_map(&w_map);
    if (cut.streams) prefetch_map(&y_map);
  }
  if (size > 1) cluster_start();
  __syncthreads();
  let_next_begin();

  if (threadIdx.x < group_threads) {
    give_registers<40>();
    if (threadIdx.x == 0) {
      const int share_columns = columns / blocks;
      const auto mask = static_cast<uint16_t>(((1 << blocks) - 1) << (share * blocks));
      const auto load_rows = [&](int stage, int step, int row) {
        load_box(&x_map, ring + stage * R::stage_bytes, &full[stage], (begin + step) * step_depth, row);
      };
      const auto load_outputs = [&](int stage, int step, int column_tile) {
        barrier_expect(&full[stage], R::stage_bytes);
        uint8_t* to = ring + stage * R::stage_bytes + row_tile_bytes + row_rank * share_columns * row_bytes;
        const int k = (begin + step) * step_depth;
        const int output = column_tile * columns + row_rank * share_columns;
        if (blocks > 1) {
          load_box_for(&w_map, to, &full[stage], k, output, mask);
        } else {
          load_box(&w_map, to, &full[stage], k, output);
        }
      };
      Place<R::stages> place;
      // the packed matrix does not wait for the kernel before: it fills the ring's first round
      int early = 0;
      if (first_tile < cut.last) {
        int row_tile, column_tile;
        locate(cut, first_tile, &row_tile, &column_tile);
        early = min(steps, R::stages);
        for (int step = 0; step < early; step++) load_outputs(step, step, column_tile);
      }
      wait_for_previous();
      for (int tile = first_tile; tile < cut.last; tile += clusters) {
        int row_tile, column_tile;
        locate(cut, tile, &row_tile, &column_tile);
        const int row = (row_tile * blocks + row_rank) * tile_rows;
        for (int step = 0; step < steps; step++) {
          if (early > 0) {
            early--;
          } else {
            barrier_wait(&empty[place.stage], place.phase ^ 1);  // in all blocks, because what is copied goes to all
            load_outputs(place.stage, step, column_tile);
          }
          load_rows(place.stage, step, row);
          place.next();
        }
      }
    }
    __syncwarp();
    if (cut.splits > 1) cluster_barrier();  // of finish_together
  } else {
    take_registers<232>();
    wait_for_previous();
    const int group = static_cast<int>(threadIdx.x / group_threads) - 1;
    const int thread = static_cast<int>(threadIdx.x % group_threads);
    const int warp = thread / 32;
    const int lane = thread % 32;
    const int name = 1 + group;
    float* const part = reinterpret_cast<float*>(ring + R::parts_at + group * part_bytes);
    const auto release = [&](int stage) {
      __syncwarp();
      if (blocks > 1) {
        if (lane < blocks) barrier_arrive_at(&empty[stage], static_cast<uint32_t>(share * blocks + lane));
      } else {
        if (lane == 0) barrier_arrive(&empty[stage]);
      }
    };
    // groups of 8 columns that this block finishes
    const int first_group = columns / 8 * share / cut.splits;
    const int last_group = columns / 8 * (share + 1) / cut.splits;
    Place<R::stages> place;
    for (int tile = first_tile; tile < cut.last; tile += clusters) {
      int row_tile, column_tile;
      locate(cut, tile, &row_tile, &column_tile);
      const int64_t row0 = static_cast<int64_t>(row_tile * blocks + row_rank) * tile_rows + group * 64;
      const int column0 = column_tile * columns;
      // what the end needs of the outputs comes while the products run
      constexpr int each = ceil_div(columns, group_threads);
      float bias[each], weight_sums[each];
#pragma unroll
      for (int i = 0; i < each; i++) {
        const int column = column0 + thread + i * group_threads;
        bias[i] = p.bias != nullptr && column < p.outputs ? p.bias[column] : argmin ? INFINITY : 0.0F;
        if constexpr (kind == Stats::layer) weight_sums[i] = column < p.outputs ? p.sums[column] : 0.0F;
      }
      float sums[columns / 2];
#pragma unroll
      for (int i = 0; i < columns / 2; i++) sums[i] = 0;
      hold(sums);
      LaneStats<kind> gathered;
      int previous = -1;
      for (int step = 0; step < steps; step++) {
        const uint8_t* rows = ring + place.stage * R::stage_bytes + group * (row_tile_bytes / 2);
        barrier_wait(&full[place.stage], place.phase);
        const uint64_t a = tile_descriptor(rows);
        const uint64_t b = tile_descriptor(ring + place.stage * R::stage_bytes + row_tile_bytes);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < step_depth / 16; i++) Wgmma<T, columns>::multiply(sums, a + i * descriptor_step, b + i * descriptor_step);
        wgmma_commit();
        if (previous >= 0) {
          wgmma_wait<1>();
          release(previous);
        }
        // behind a branch, or the assembler puts all of it before the last of the products
        const int depth_left = static_cast<int>(p.depth) - (begin + step) * step_depth;
        gather_stats<T>(gathered, reinterpret_cast<const uint4*>(rows), depth_left, step == 0);
        previous = place.stage;
        place.next();
      }
      wgmma_wait<0>();
      hold(sums);
      release(previous);

      const int depth = min(static_cast<int>(p.depth) - begin * step_depth, steps * step_depth);
      // of the elements of each 64 that are this lane's
      const int seen = depth / step_depth * lane_depth + min(max(depth % step_depth - first_of_lane(), 0), lane_depth);
      RowStats<kind> stats;
      if constexpr (kind != Stats::none) {
        stats = gathered.row_stats(seen);
        stats.merge(shuffled(stats, lane ^ 1));
      }
      const int64_t row = row0 + warp * 16 + lane / 4;
      float* const told_sums = part + columns + spare_columns;
      if (thread == 0) store_wait_read<0>();
      warpgroup_barrier(name);
#pragma unroll
      for (int i = 0; i < each; i++) {
        const int c = thread + i * group_threads;
        if (c >= columns) continue;
        const bool own = c >= 8 * first_group && c < 8 * last_group;
        part[c] = !argmin ? bias[i] : own ? bias[i] * 0.5F : INFINITY;
        if constexpr (kind == Stats::layer) told_sums[c] = weight_sums[i];
      }
      if (thread < spare_columns) {
        part[columns + thread] = argmin ? INFINITY : 0.0F;
        if constexpr (kind == Stats::layer) told_sums[columns + thread] = 0;
      }
      warpgroup_barrier(name);
      if (cut.splits > 1) {
        finish_together<T, columns, kind, argmin>(p, cut, sums, stats, reinterpret_cast<float4*>(ring), part, told_sums, row, column0,
                                                  row_rank, first_group, last_group);
        break;
      }
      if constexpr (argmin) {
        const int first = lane % 4 * 2;
        argmin_row<columns / 8>(p, row, part, first, column0, [&](int i, int e) { return sums[4 * i + e]; });
        argmin_row<columns / 8>(p, row + 8, part, first, column0, [&](int i, int e) { return sums[4 * i + 2 + e]; });
      } else {
        RowAffine affine[2];
        affine_of_rows(p, stats, row, affine);
        finish_sums<kind>(p, sums, affine, part, told_sums, row);
        if (cut.streams) {
          stream_values<T, columns>(&y_map, p.out_dtype == Dtype::f32, sums, reinterpret_cast<uint8_t*>(part), name, row0, column0);
        } else {
          store_values<T, columns>(p, sums, part, name, row0, column0);
        }
      }
    }
    if (thread == 0) store_wait();
  }
  // no block may leave while another copies, arrives or reads there
  if (size > 1) cluster_barrier();
#else
  __trap();  // there is code for sm_90a in every library that is built as it should be
#endif
}

// The driver's, because the runtime has none; nullptr where the driver is too old.
inline PFN_cuTensorMapEncodeTiled_v12000 encode_function() noexcept {
  static const PFN_cuTensorMapEncodeTiled_v12000 function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found)
                                                                         : nullptr;
  }();
  return function;
}

// A matrix [rows, columns] of rows `stride` elements apart in boxes of `box_rows` by `box_width`, whose rows are 128 or 64 bytes.
inline cudaError_t make_map(Dtype dtype, const void* data, int64_t rows, int64_t columns, int64_t stride, int box_rows, int box_width,
                            CUtensorMap* map) noexcept {
  const auto encode = encode_function();
  if (encode == nullptr) return cudaErrorNotSupported;
  const CUtensorMapDataType type = dtype == Dtype::f32   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                   : dtype == Dtype::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                         : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const auto size = static_cast<int>(dtype_size(dtype));
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * static_cast<cuuint64_t>(size)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_width), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUtensorMapSwizzle swizzle = box_width * size == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
  const CUresult result = encode(map, type, 2, const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

constexpr int most_blocks = 8;  // of a cluster

// How many clusters of how many blocks, 1, 2, 4 or 8, the device holds at once. A block takes a processor; groups of processors, across
// which no cluster reaches, are of different sizes on different devices.
struct Room {
  int clusters[most_blocks + 1] = {};
};

// Asks the runtime once for each device.
cudaError_t room_of_device(Room* room) noexcept;

// Whether results can leave in bulk, which writes whole 16 bytes.
inline bool streams(const Product& p) noexcept {
  if (p.best != nullptr || p.residual != nullptr || (p.out_dtype != Dtype::f32 && p.out_dtype != p.dtype)) return false;
  const auto whole = [&](int64_t columns) { return columns * static_cast<int64_t>(dtype_size(p.out_dtype)) % 16 == 0; };
  return p.out_stride >= p.outputs && whole(p.outputs) && whole(p.out_stride) && aligned(p.out, 16);
}

template <class T, int columns, Stats kind, bool argmin>
cudaError_t launch(const Product& p, Tile tile, const Room& room, cudaStream_t stream) noexcept {
  const auto kernel = wgmma_product<T, columns, kind, argmin>;
  const int64_t rows = ceil_div<int64_t>(p.n, tile_rows * tile.blocks), across = ceil_div<int64_t>(p.outputs, columns);
  if (p.depth > INT32_MAX - step_depth || rows * across > INT32_MAX / 2) return cudaErrorInvalidValue;
  const auto total = static_cast<int>(rows * across);
  const int64_t steps = ceil_div<int64_t>(p.depth, step_depth);
  const int most = std::max(tile.splits, tile.rest);
  if (most > steps || tile.blocks * most > most_blocks || rows * across * tile.blocks * tile.splits > INT32_MAX)
    return cudaErrorInvalidValue;
  CUtensorMap x_map, w_map, y_map{};
  LATENT_CUDA_TRY(make_map(p.dtype, p.x, p.n, p.depth, p.x_stride, tile_rows, step_depth, &x_map));
  LATENT_CUDA_TRY(make_map(p.dtype, p.w, p.outputs, p.depth, p.w_stride, columns / tile.blocks, step_depth, &w_map));
  const bool bulk = streams(p);
  if (bulk) LATENT_CUDA_TRY(make_map(p.out_dtype, p.out, p.n, p.outputs, p.out_stride, 64, box_columns, &y_map));
  LATENT_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Ring<columns>::bytes));
  const auto launch_some = [&](int first, int last, int splits) {
    const int size = tile.blocks * splits;
    const int clusters = splits > 1 ? last - first : std::min(last - first, room.clusters[size]);
    const Cut cut{
        static_cast<int>(rows), static_cast<int>(across), tall_rows / (tile_rows * tile.blocks), tile.blocks, splits, first, last, bulk};
    return launch_early(kernel, dim3(static_cast<unsigned>(clusters * size)), block_threads, Ring<columns>::bytes,
                        static_cast<unsigned>(size), stream, x_map, w_map, y_map, p, cut);
  };
  if (tile.rest <= 1) return launch_some(0, total, tile.splits);
  const int whole = total - total % room.clusters[tile.blocks];
  if (whole > 0) LATENT_CUDA_TRY(launch_some(0, whole, 1));
  return whole == total ? cudaSuccess : launch_some(whole, total, tile.rest);
}

template <class T, int columns>
cudaError_t launch_with(const Product& p, Tile tile, const Room& room, cudaStream_t stream) noexcept {
  if (p.best != nullptr) return launch<T, columns, Stats::none, true>(p, tile, room, stream);
  switch (p.stats()) {
    case Stats::squares:
      return launch<T, columns, Stats::squares, false>(p, tile, room, stream);
    case Stats::layer:
      return launch<T, columns, Stats::layer, false>(p, tile, room, stream);
    case Stats::none:
      break;
  }
  return launch<T, columns, Stats::none, false>(p, tile, room, stream);
}

// Cycles that a cut takes, beside what all have in common: a step of a tile is bound by shared memory or by the second-level cache with all
// that run beside it. Constants by measurements on an H100 and an H200.
inline int64_t cycles_of(const Product& p, const Tile& tile, const Room& room) noexcept {
  constexpr int64_t cache_bytes = 5000;  // a cycle
  constexpr int64_t meeting = 150;       // of a cluster's blocks, before and after
  constexpr int64_t between_launches = 8000;
  constexpr int64_t never = INT64_MAX / 2;
  const int64_t columns = tile.columns;
  const int64_t tiles = ceil_div<int64_t>(p.n, tile_rows * tile.blocks) * ceil_div(p.outputs, columns);
  const int64_t all_steps = ceil_div<int64_t>(p.depth, step_depth);
  const int64_t copied = (std::min<int64_t>(p.n, tile_rows) + columns / tile.blocks) * row_bytes;  // by a block for a step
  const bool reads_again = p.best == nullptr && p.stats() != Stats::none;
  const auto products = [&](int64_t at_once, int64_t splits) {
    return ceil_div(all_steps, splits) *
           std::max((reads_again ? 384 : 256) + 3 * columns, at_once * tile.blocks * splits * copied / cache_bytes);
  };
  const int64_t finished = 500 + 4 * columns;
  const auto together = [&](int64_t count, int splits) {
    if (count > room.clusters[tile.blocks * splits] || splits > all_steps) return never;
    return products(count, splits) + finished + 3000 + 14 * columns + 800 * (splits - 1);
  };
  if (tile.splits > 1) return together(tiles, tile.splits);
  const int64_t at_once = room.clusters[tile.blocks];
  if (at_once == 0) return never;
  const int64_t waves = tiles / at_once, rest = tiles % at_once;
  const int64_t each = tiles > at_once ? finished / 2 : finished;  // half of it beside the products of another tile
  const int64_t whole = waves * (products(at_once, 1) + each) + (tile.blocks > 1 ? meeting : 0);
  if (rest == 0) return tile.rest > 1 ? never : whole;
  if (tile.rest > 1) return waves == 0 ? never : whole + between_launches + together(rest, tile.rest);
  return whole + products(waves > 0 ? at_once : rest, 1) + each;
}

// The fastest cut, of those that `tile` leaves open.
inline Tile choose(const Product& p, const Tile& tile, const Room& room) noexcept {
  Tile best;
  int64_t least = INT64_MAX / 2;
  const auto open = [](int asked, int one) { return asked == 0 || asked == one; };
  for (const int columns : {256, 192, 128, 64}) {
    if (!open(tile.columns, columns)) continue;
    for (const int blocks : {2, 1}) {
      if (!open(tile.blocks, blocks) || (tile.blocks == 0 && (blocks - 1) * tile_rows >= p.n)) continue;
      for (const int splits : {1, 2, 4, 8}) {
        if (!open(tile.splits, splits) || blocks * splits > most_blocks) continue;
        for (const int rest : {1, 2}) {
          if (!open(tile.rest, rest) || (rest > 1 && splits > 1)) continue;
          const Tile one{columns, blocks, splits, rest};
          const int64_t cycles = cycles_of(p, one, room);
          if (cycles >= least) continue;
          least = cycles;
          best = one;
        }
      }
    }
  }
  return best;
}

template <class T>
cudaError_t launch_of(const Product& p, Tile tile, cudaStream_t stream) noexcept {
  Room room;
  LATENT_CUDA_TRY(room_of_device(&room));
  if (tile.columns == 0 || tile.blocks == 0 || tile.splits == 0 || tile.rest == 0) tile = choose(p, tile, room);
  switch (tile.columns) {
    case 64:
      return launch_with<T, 64>(p, tile, room, stream);
    case 128:
      return launch_with<T, 128>(p, tile, room, stream);
    case 192:
      return launch_with<T, 192>(p, tile, room, stream);
    case 256:
      return launch_with<T, 256>(p, tile, room, stream);
    default:
      return cudaErrorInvalidValue;  // there is no such cut
  }
}

}  // namespace latentwire::cuda::hopper
