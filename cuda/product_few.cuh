// What the kernels for few rows share. The blocks of a cluster share the depth of a tile of outputs: each leaves its sums and its rows'
// statistics in its shared memory, all meet, and every block puts together and stores a share of the tile, adding block by block. So a
// split costs no second launch and no memory, and sums are in an order that depends on the sizes alone.
#pragma once

#include <algorithm>

#include "product.cuh"

namespace latentwire::cuda {

// Blocks of a cluster for each tile: as many as `most` and room for `at_once` allow.
inline int few_blocks(int64_t tiles, int64_t most, int64_t at_once) noexcept {
  for (const int blocks : {8, 4, 3, 2}) {
    if (blocks <= most && blocks * tiles <= at_once) return blocks;
  }
  return 1;
}

#ifdef __CUDACC__

// All threads of all blocks of the cluster meet; what was written to shared memory before can be read by all.
__device__ inline void meet_blocks(uint32_t blocks) noexcept {
#if __CUDA_ARCH__ >= 900
  if (blocks > 1) {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
    return;
  }
#endif
  (void)blocks;
  __syncthreads();
}
// Four numbers at a place in shared memory, in another block of the cluster.
__device__ inline float4 load_from_block(const void* place, uint32_t block) noexcept {
#if __CUDA_ARCH__ >= 900
  uint32_t there;
  float4 v;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(place))), "r"(block));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(there));
  return v;
#else
  (void)block;
  return *static_cast<const float4*>(place);
#endif
}

// Finished sums of four neighbouring outputs, of which `count` are there.
template <Stats kind>
__device__ inline void store_four(const Product& p, const RowStats<kind>& stats, int64_t row, int64_t column, int count,
                                  const float (&sum)[4]) noexcept {
  float bias[4] = {0, 0, 0, 0}, of_sums[4] = {0, 0, 0, 0}, residual[4] = {0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < 4; e++) {
    if (e >= count) continue;
    if (p.bias != nullptr) bias[e] = p.bias[column + e];
    if constexpr (kind == Stats::layer) of_sums[e] = p.sums[column + e];
    if (p.residual != nullptr) residual[e] = load_float(p.dtype, p.residual, row * p.residual_stride + column + e);
  }
  const RowAffine a = row_affine(p, stats, row);
  float v[4];
  bool bad = false;
#pragma unroll
  for (int e = 0; e < 4; e++) {
    v[e] = sum[e] * a.factor + a.base;
    if constexpr (kind == Stats::layer) v[e] = fmaf(a.of_sums, of_sums[e], v[e]);
    v[e] += bias[e];
    bad |= e < count && !isfinite(v[e]);
    v[e] = finished(p.finish, v[e]) + residual[e];
  }
  report_bad(p, bad, row);
  const int64_t at = row * p.out_stride + column;
  const bool wide = p.out_dtype == Dtype::f32;
  if (count < 4 || p.out_stride % 4 != 0 || reinterpret_cast<uintptr_t>(p.out) % (wide ? 16 : 8) != 0) {
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

// This block's share of a tile, once all blocks have left `sums` [rows, pitch] and `stats` [rows] at the same places. Called by the first
// `threads` threads of each block, whole warps.
template <Stats kind, int outputs, int pitch, int threads>
__device__ inline void finish_tile(const Product& p, const float* sums, const float4* stats, int64_t tile, uint32_t rank,
                                   uint32_t blocks) noexcept {
  static_assert(pitch % 4 == 0);
  constexpr int of_row = outputs / 4;  // threads that hold a row
  const int64_t column0 = tile * outputs;
  const auto units = static_cast<int>(p.n) * of_row;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  for (int first = static_cast<int>(rank * threads + threadIdx.x) - lane; first < units; first += static_cast<int>(blocks) * threads) {
    const int at = first + lane;
    const bool valid = at < units;
    const int row = valid ? at / of_row : 0;
    const int c = at % of_row * 4;
    float sum[4] = {0, 0, 0, 0};
    RowStats<kind> of_all;
#pragma unroll 4
    for (uint32_t block = 0; block < blocks; block++) {
      const float4 part = load_from_block(sums + row * pitch + c, block);
      sum[0] += part.x;
      sum[1] += part.y;
      sum[2] += part.z;
      sum[3] += part.w;
      if constexpr (kind != Stats::none) of_all.merge(stats_of<kind>(load_from_block(stats + row, block)));
    }
    const int64_t column = column0 + c;
    const int64_t left = p.outputs - column;
    const int count = !valid || left < 0 ? 0 : left < 4 ? static_cast<int>(left) : 4;
    if (p.best == nullptr) {
      if (count > 0) store_four(p, of_all, row, column, count, sum);
      continue;
    }
    unsigned long long key = no_argmin;
    bool bad = false;
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if (e >= count) continue;
      const float v = p.bias[column + e] * 0.5F - sum[e];
      bad |= !isfinite(v);
      if (v < INFINITY) key = min(key, argmin_key(v, column + e));
    }
    report_bad(p, bad, row);
    key = warp_min<of_row>(key);
    if (valid && c == 0) p.best[tile * p.n + row] = key;
  }
}

#endif  // __CUDACC__

}  // namespace latentwire::cuda
