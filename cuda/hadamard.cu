// The Walsh-Hadamard transform, with the sums in order of distance and the factor last, as on the CPU: the same bits. A thread holds four
// neighbours, a warp 128: up to there partners are in registers and lanes, beyond in shared memory.
#include <cmath>

#include "index.cuh"
#include "memory.h"

namespace latentwire::cuda {
namespace {

constexpr int threads = 256;
constexpr uint32_t of_warp = 128;
constexpr uint32_t least_tile = threads * 4;

struct Job {
  float* x;
  int64_t stride;
  Divisor columns;
  uint32_t total;  // elements of this launch
  uint32_t tile;   // elements of a block of threads: whole blocks of the transform
  uint32_t block;
  float factor;
  bool vector;  // four neighbours lie in one row, at a multiple of 16
};

__device__ inline float* address(const Job& job, uint32_t at) noexcept {
  const uint32_t row = job.columns.quotient(at);
  return job.x + row * job.stride + (at - row * job.columns.by);
}

__device__ inline void butterfly(float& a, float& b) noexcept {
  const float sum = __fadd_rn(a, b);
  b = __fsub_rn(a, b);
  a = sum;
}

__global__ void __launch_bounds__(threads) hadamard_kernel(const __grid_constant__ Job job) {
  __shared__ float room[largest_hadamard];
  const uint32_t base = blockIdx.x * job.tile;
  for (uint32_t at = threadIdx.x * 4; at < job.tile; at += least_tile) {
    const uint32_t index = base + at;
    float v[4] = {};
    if (index < job.total) {
      if (job.vector) {
        const float4 f = *reinterpret_cast<const float4*>(address(job, index));
        v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
      } else {
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
          if (index + i < job.total) v[i] = *address(job, index + i);
        }
      }
    }
    if (job.block >= 2) butterfly(v[0], v[1]), butterfly(v[2], v[3]);
    if (job.block >= 4) butterfly(v[0], v[2]), butterfly(v[1], v[3]);
#pragma unroll
    for (uint32_t h = 4; h < of_warp; h *= 2) {
      if (h >= job.block) break;
      const bool upper = (threadIdx.x & (h / 4)) != 0;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float partner = __shfl_xor_sync(all_lanes, v[i], static_cast<int>(h / 4));
        v[i] = upper ? __fsub_rn(partner, v[i]) : __fadd_rn(v[i], partner);
      }
    }
    *reinterpret_cast<float4*>(room + at) = {v[0], v[1], v[2], v[3]};
  }
  // two distances at a time where there are two left
  uint32_t h = of_warp;
  for (; h * 2 < job.block; h *= 4) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < job.tile / 4; i += threads) {
      float* low = room + (i & ~(h - 1)) * 4 + (i & (h - 1));
      float v[4] = {low[0], low[h], low[2 * h], low[3 * h]};
      butterfly(v[0], v[1]), butterfly(v[2], v[3]);
      butterfly(v[0], v[2]), butterfly(v[1], v[3]);
      low[0] = v[0], low[h] = v[1], low[2 * h] = v[2], low[3 * h] = v[3];
    }
  }
  if (h < job.block) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < job.tile / 2; i += threads) {
      float* low = room + (i & ~(h - 1)) * 2 + (i & (h - 1));
      butterfly(low[0], low[h]);
    }
  }
  __syncthreads();
  for (uint32_t at = threadIdx.x * 4; at < job.tile; at += least_tile) {
    const uint32_t index = base + at;
    if (index >= job.total) continue;
    const float4 f = *reinterpret_cast<const float4*>(room + at);
    const float v[4] = {__fmul_rn(f.x, job.factor), __fmul_rn(f.y, job.factor), __fmul_rn(f.z, job.factor), __fmul_rn(f.w, job.factor)};
    if (job.vector) {
      *reinterpret_cast<float4*>(address(job, index)) = {v[0], v[1], v[2], v[3]};
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 4; i++) {
        if (index + i < job.total) *address(job, index + i) = v[i];
      }
    }
  }
}

}  // namespace

cudaError_t hadamard(const HadamardArgs& a, cudaStream_t stream) noexcept {
  const bool power = a.block >= 1 && (a.block & (a.block - 1)) == 0;
  if (!power || a.block > largest_hadamard || a.rows < 0 || a.columns < 0 || a.columns > most_index / 4 || a.columns % a.block != 0)
    return cudaErrorInvalidValue;
  if (a.rows == 0 || a.columns == 0) return cudaSuccess;
  Job job;
  job.stride = a.stride;
  job.columns = Divisor(static_cast<uint32_t>(a.columns));
  job.block = static_cast<uint32_t>(a.block);
  job.tile = job.block > least_tile ? job.block : least_tile;
  job.factor = 1 / std::sqrt(static_cast<float>(a.block));
  job.vector = a.columns % 4 == 0 && a.stride % 4 == 0 && aligned(a.x, 16);
  const int64_t rows_at_once = most_index / 2 / a.columns;
  for (int64_t row = 0; row < a.rows; row += rows_at_once) {
    job.x = a.x + row * a.stride;
    const int64_t rows = a.rows - row < rows_at_once ? a.rows - row : rows_at_once;
    job.total = static_cast<uint32_t>(rows * a.columns);
    hadamard_kernel<<<ceil_div(job.total, job.tile), threads, 0, stream>>>(job);
    LATENT_CUDA_TRY(cudaGetLastError());
  }
  return cudaSuccess;
}

}  // namespace latentwire::cuda
