// Products of many rows of 16-bit floats on Hopper; product_wgmma_f16.cu and product_wgmma_bf16.cu compile them, which takes a while. One
// thread copies boxes of 128 rows and up to 256 outputs by 64 of depth into a ring in shared memory; two warpgroups multiply 64 rows each,
// and while their products run gather the statistics of their rows from the same ring. Blocks stay and take tile after tile, so that copies
// for the next run ahead while a tile is stored.
//
// Per 64 of depth a 128 x 256 tile is 1024 cycles of products, 640 of reading shared memory and 48 KB, which is more than the second-level
// cache delivers to all processors in that time. So two blocks, one row tile below the other, each copy half of the outputs' box into both:
// 32 KB.
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
constexpr int row_bytes = step_depth * 2;
constexpr int row_tile_bytes = tile_rows * row_bytes;
// Neighbouring tiles share rows and outputs in the second-level cache: they go down this many rows before they go right.
constexpr int tall_rows = 2048;

// Finished sums go through shared memory, 64 x 64 of a warpgroup at a time, so that whole lines are stored by little code: done where the
// sums lie, unrolled over the registers, it would not fit the instruction cache.
constexpr int part_columns = 64;
constexpr int part_bytes = 64 * part_columns * static_cast<int>(sizeof(float));

template <int columns>
struct Ring {
  static constexpr int stage_bytes = row_tile_bytes + columns * row_bytes;
  static constexpr int stages = columns == 256 ? 4 : columns == 128 ? 6 : 8;
  // with the parts of tiles that are stored, and room to begin at a multiple of 1024
  static constexpr int bytes = stages * stage_bytes + 2 * part_bytes + 1024;
};

// Tiles of `blocks` row tiles by one column tile: what a cluster does together.
struct TileGrid {
  int rows;
  int columns;
  int tall;

  int count() const noexcept { return rows * columns; }
};

#ifdef LATENT_WGMMA

__device__ inline void locate(const TileGrid& grid, int tile, int* row, int* column) noexcept {
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

// Two lanes share a row: 32 elements each.
template <class T, Stats kind>
__device__ inline void gather_stats(RowStats<kind>& stats, const uint4* rows, int64_t depth_left) noexcept {
  if constexpr (kind != Stats::none) {
    const int row = static_cast<int>(threadIdx.x % group_threads) / 2;
    const int first = static_cast<int>(threadIdx.x % 2) * 4;
    float x[32];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float eight[8];
      unpack(rows[row * 8 + ((first + i) ^ (row % 8))], eight, T{});
#pragma unroll
      for (int e = 0; e < 8; e++) x[8 * i + e] = eight[e];
    }
    stats.add(x, depth_left - first * 8);
  }
}

// Where column `c` of a row's part lies, so that no two lanes meet in a bank.
__device__ inline int part_at(int row, int c) noexcept { return row * part_columns + (c ^ ((row & 3) << 3)); }

// A part of a tile: rows from `row0` on, outputs from `column0` on. A thread has 4 outputs of every eighth row.
template <class T, Stats kind>
__device__ inline void store_part(const Product& p, const float* part, const RowAffine* affine, int64_t row0, int column0) noexcept {
  const int thread = static_cast<int>(threadIdx.x % group_threads);
  const int c = thread % 16 * 4;
  const int column = column0 + c;
  const auto outputs = static_cast<int>(p.outputs);
  if (column >= outputs) return;
  const int count = min(4, outputs - column);
  float bias[4] = {0, 0, 0, 0}, sums[4] = {0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < 4; e++) {
    if (e >= count) continue;
    if (p.bias != nullptr) bias[e] = p.bias[column + e];
    if constexpr (kind == Stats::layer) sums[e] = p.sums[column + e];
  }
  const bool wide = p.out_dtype == Dtype::f32;
  const bool whole = count == 4 && p.out_stride % 4 == 0 && reinterpret_cast<uintptr_t>(p.out) % (wide ? 16 : 8) == 0;
#pragma unroll 2
  for (int r = thread / 16; r < 64; r += 8) {
    const int64_t row = row0 + r;
    if (row >= p.n) break;
    const float4 four = *reinterpret_cast<const float4*>(part + part_at(r, c));
    float v[4] = {four.x, four.y, four.z, four.w};
    RowAffine a;
    if constexpr (kind != Stats::none) a = affine[r];
    bool bad = false;
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if constexpr (kind != Stats::none) v[e] = v[e] * a.factor + a.base;
      if constexpr (kind == Stats::layer) v[e] = fmaf(a.of_sums, sums[e], v[e]);
      v[e] += bias[e];
      bad |= e < count && !isfinite(v[e]);
    }
    report_bad(p, bad, row);
    if (p.finish != Finish::identity) {
#pragma unroll
      for (int e = 0; e < 4; e++) v[e] = finished(p.finish, v[e]);
    }
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

#endif  // LATENT_WGMMA

template <class T, int columns, int blocks, Stats kind, bool argmin>
__global__ void __launch_bounds__(block_threads, 1)
    wgmma_product(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map, const __grid_constant__ Product p,
                  const TileGrid grid) {
#ifdef LATENT_WGMMA
  using R = Ring<columns>;
  extern __shared__ uint8_t memory[];
  __shared__ uint64_t full[R::stages];
  __shared__ uint64_t empty[R::stages];
  __shared__ RowAffine affine[kind == Stats::none ? 1 : tile_rows];
  uint8_t* ring = memory + ((1024 - shared_address(memory) % 1024) % 1024);
  const auto steps = static_cast<int>(ceil_div<int64_t>(p.depth, step_depth));
  const auto cluster = static_cast<int>(blockIdx.x / blocks);
  const auto clusters = static_cast<int>(gridDim.x / blocks);
  const int tiles = grid.rows * grid.columns;
  const auto rank = static_cast<int>(blockIdx.x % blocks);  // in the cluster

  if (threadIdx.x == 0) {
    prefetch_map(&x_map);
    prefetch_map(&w_map);
    for (int i = 0; i < R::stages; i++) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], 8 * blocks);  // the warps that multiply
    }
    barrier_init_fence();
  }
  if constexpr (blocks > 1) cluster_barrier();
  __syncthreads();
  let_next_begin();
  wait_for_previous();

  if (threadIdx.x < group_threads) {
    give_registers<56>();
    if (threadIdx.x == 0) {
      Place<R::stages> place;
      for (int tile = cluster; tile < tiles; tile += clusters) {
        int row_tile, column_tile;
        locate(grid, tile, &row_tile, &column_tile);
        const int row = (row_tile * blocks + rank) * tile_rows;
        const int output = column_tile * columns + rank * (columns / blocks);
        for (int step = 0; step < steps; step++) {
          // in all blocks, because what is copied goes to all
          barrier_wait(&empty[place.stage], place.phase ^ 1);
          uint8_t* to = ring + place.stage * R::stage_bytes;
          uint64_t* barrier = &full[place.stage];
          barrier_expect(barrier, R::stage_bytes);
          const int k = step * step_depth;
          load_box(&x_map, to, barrier, k, row);
          uint8_t* outputs = to + row_tile_bytes + rank * (columns / blocks) * row_bytes;
          if constexpr (blocks > 1) {
            load_box_for(&w_map, outputs, barrier, k, output, (1 << blocks) - 1);
          } else {
            load_box(&w_map, outputs, barrier, k, output);
          }
          place.next();
        }
      }
    }
  } else {
    take_registers<224>();
    const int group = static_cast<int>(threadIdx.x / group_threads) - 1;
    const int thread = static_cast<int>(threadIdx.x % group_threads);
    const int warp = thread / 32;
    float* part = reinterpret_cast<float*>(ring + R::stages * R::stage_bytes + group * part_bytes);
    const int lane = static_cast<int>(threadIdx.x % 32);
    const auto release = [&](int stage) {
      __syncwarp();
      if constexpr (blocks > 1) {
        if (lane < blocks) barrier_arrive_at(&empty[stage], static_cast<uint32_t>(lane));
      } else {
        if (lane == 0) barrier_arrive(&empty[stage]);
      }
    };
    Place<R::stages> place;
    for (int tile = cluster; tile < tiles; tile += clusters) {
      int row_tile, column_tile;
      locate(grid, tile, &row_tile, &column_tile);
      float sums[columns / 2];
#pragma unroll
      for (int i = 0; i < columns / 2; i++) sums[i] = 0;
      hold(sums);
      RowStats<kind> stats;
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
        gather_stats<T>(stats, reinterpret_cast<const uint4*>(rows), static_cast<int>(p.depth) - step * step_depth);
        if (previous >= 0) {
          wgmma_wait<1>();
          release(previous);
        }
        previous = place.stage;
        place.next();
      }
      wgmma_wait<0>();
      hold(sums);
      release(previous);

      const int64_t row0 = static_cast<int64_t>(row_tile * blocks + rank) * tile_rows + group * 64;
      const int column0 = column_tile * columns;
      if constexpr (argmin) {
        warpgroup_barrier(1 + group);
        for (int i = thread; i < columns; i += group_threads) part[i] = column0 + i < p.outputs ? p.bias[column0 + i] * 0.5F : INFINITY;
        warpgroup_barrier(1 + group);
        const int64_t row = row0 + warp * 16 + lane / 4;
        const int column = lane % 4 * 2;
        argmin_row<columns / 8>(p, row, part, column, column0, [&](int i, int e) { return sums[4 * i + e]; });
        argmin_row<columns / 8>(p, row + 8, part, column, column0, [&](int i, int e) { return sums[4 * i + 2 + e]; });
      } else {
        if constexpr (kind != Stats::none) {
          stats.merge(shuffled(stats, lane ^ 1));
          const int r = warp * 16 + lane / 2;
          if (lane % 2 == 0 && row0 + r < p.n) affine[group * 64 + r] = row_affine(p, stats, row0 + r);
        }
#pragma unroll 1
        for (int c0 = 0; c0 < columns; c0 += part_columns) {
          if (c0 > 0) warpgroup_barrier(1 + group);
#pragma unroll
          for (int which = 0; which < columns / part_columns; which++) {
            if (c0 != which * part_columns) continue;
#pragma unroll
            for (int i = 0; i < part_columns / 8; i++) {
              const int at = which * part_columns / 2 + 4 * i;
              const int r = warp * 16 + lane / 4;
              const int c = 8 * i + lane % 4 * 2;
              *reinterpret_cast<float2*>(part + part_at(r, c)) = make_float2(sums[at], sums[at + 1]);
              *reinterpret_cast<float2*>(part + part_at(r + 8, c)) = make_float2(sums[at + 2], sums[at + 3]);
            }
          }
          warpgroup_barrier(1 + group);
          store_part<T, kind>(p, part, affine + group * 64, row0, column0 + c0);
        }
        warpgroup_barrier(1 + group);  // before the next tile's sums and rows come here
      }
    }
  }
  // no block may leave while another copies or arrives there
  if constexpr (blocks > 1) cluster_barrier();
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

// A matrix [rows, depth] in boxes of `box_rows` by 64.
inline cudaError_t make_map(Dtype dtype, const void* data, int64_t rows, int64_t depth, int64_t stride, int box_rows,
                            CUtensorMap* map) noexcept {
  const auto encode = encode_function();
  if (encode == nullptr) return cudaErrorNotSupported;
  const CUtensorMapDataType type = dtype == Dtype::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(depth), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t box[2] = {step_depth, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result = encode(map, type, 2, const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <class T, int columns, int blocks, Stats kind, bool argmin>
cudaError_t launch(const Product& p, int processors, cudaStream_t stream) noexcept {
  const auto kernel = wgmma_product<T, columns, blocks, kind, argmin>;
  CUtensorMap x_map, w_map;
  LATENT_CUDA_TRY(make_map(p.dtype, p.x, p.n, p.depth, p.x_stride, tile_rows, &x_map));
  LATENT_CUDA_TRY(make_map(p.dtype, p.w, p.outputs, p.depth, p.w_stride, columns / blocks, &w_map));
  LATENT_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Ring<columns>::bytes));
  const int64_t rows = ceil_div<int64_t>(p.n, tile_rows * blocks), across = ceil_div<int64_t>(p.outputs, columns);
  if (p.depth > INT32_MAX || rows * across > INT32_MAX / 2) return cudaErrorInvalidValue;
  const TileGrid grid{static_cast<int>(rows), static_cast<int>(across), tall_rows / (tile_rows * blocks)};
  const int clusters = std::min(grid.count(), processors / blocks);
  return launch_early(kernel, dim3(static_cast<unsigned>(clusters * blocks)), block_threads, Ring<columns>::bytes, blocks, stream, x_map,
                      w_map, p, grid);
}

template <class T, int columns, int blocks>
cudaError_t launch_with(const Product& p, int processors, cudaStream_t stream) noexcept {
  if (p.best != nullptr) return launch<T, columns, blocks, Stats::none, true>(p, processors, stream);
  switch (p.stats()) {
    case Stats::squares:
      return launch<T, columns, blocks, Stats::squares, false>(p, processors, stream);
    case Stats::layer:
      return launch<T, columns, blocks, Stats::layer, false>(p, processors, stream);
    case Stats::none:
      break;
  }
  return launch<T, columns, blocks, Stats::none, false>(p, processors, stream);
}

// Cycles that tiles of so many columns take: each is bound by its products, or by the second-level cache with all that run beside it.
inline int64_t cycles_of(const Product& p, int64_t columns, int64_t blocks, int64_t processors) noexcept {
  constexpr int64_t cache_bytes = 4300;                                                             // a cycle
  const int64_t tiles = ceil_div<int64_t>(p.n, tile_rows * blocks) * ceil_div(p.outputs, columns);  // of clusters
  const int64_t at_once = std::min(tiles, processors / blocks);
  const int64_t step = std::max(4 * columns, at_once * blocks * (row_tile_bytes + columns * row_bytes / blocks) / cache_bytes);
  const int64_t stored = 500 + 12 * columns;
  return ceil_div(tiles, at_once) * (ceil_div<int64_t>(p.depth, step_depth) * step + stored);
}

template <class T>
cudaError_t launch_tile(const Product& p, int columns, int blocks, int processors, cudaStream_t stream) noexcept {
  const auto of = [&](auto count) {
    constexpr int width = decltype(count)::value;
    return blocks == 2 ? launch_with<T, width, 2>(p, processors, stream) : launch_with<T, width, 1>(p, processors, stream);
  };
  if (columns == 256) return of(std::integral_constant<int, 256>());
  return columns == 128 ? of(std::integral_constant<int, 128>()) : of(std::integral_constant<int, 64>());
}

template <class T>
cudaError_t launch_of(const Product& p, Tile tile, cudaStream_t stream) noexcept {
  int processors = 0;
  LATENT_CUDA_TRY(device_attribute(cudaDevAttrMultiProcessorCount, &processors));
  if (tile.blocks == 0) tile.blocks = p.n > tile_rows ? 2 : 1;
  if (tile.columns == 0) {
    tile.columns = 64;
    for (const int columns : {128, 256}) {
      if (cycles_of(p, columns, tile.blocks, processors) <= cycles_of(p, tile.columns, tile.blocks, processors)) tile.columns = columns;
    }
  }
  return launch_tile<T>(p, tile.columns, tile.blocks, processors, stream);
}

}  // namespace latentwire::cuda::hopper
