// What all kernels share: element types and their conversions, 16-byte accesses, reductions over warps and blocks, and launching by dtype.
// Kernels compile without fast-math: denormals, NaN and the rounding of division are those of the CPU kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#define LATENT_CUDA_TRY(call)                                                    \
  do {                                                                           \
    if (const cudaError_t error_ = (call); error_ != cudaSuccess) return error_; \
  } while (false)

namespace latentwire::cuda {

enum class Dtype : int32_t { f32, f16, bf16 };

constexpr size_t dtype_size(Dtype dtype) noexcept { return dtype == Dtype::f32 ? 4 : 2; }

template <class T>
__host__ __device__ constexpr T ceil_div(T n, T by) noexcept {
  return (n + by - 1) / by;
}
template <class T>
__host__ __device__ constexpr T round_up(T n, T by) noexcept {
  return ceil_div(n, by) * by;
}
inline bool aligned(const void* p, size_t bytes) noexcept { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// Calls f with a value of the element type; cudaErrorInvalidValue for what is none.
template <class F>
cudaError_t for_dtype(Dtype dtype, F f) noexcept {
  switch (dtype) {
    case Dtype::f32:
      return f(float{});
    case Dtype::f16:
      return f(__half{});
    case Dtype::bf16:
      return f(__nv_bfloat16{});
  }
  return cudaErrorInvalidValue;
}

// Of the current device; the runtime keeps attributes, so this costs no driver call and is allowed while a stream is captured.
inline cudaError_t device_attribute(cudaDeviceAttr attribute, int* value) noexcept {
  int device = 0;
  LATENT_CUDA_TRY(cudaGetDevice(&device));
  return cudaDeviceGetAttribute(value, attribute, device);
}

__host__ __device__ inline float to_float(float x) noexcept { return x; }
__host__ __device__ inline float to_float(__half x) noexcept { return __half2float(x); }
__host__ __device__ inline float to_float(__nv_bfloat16 x) noexcept { return __bfloat162float(x); }

// To nearest, ties to even.
template <class T>
__host__ __device__ inline T from_float(float x) noexcept {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return __float2bfloat16_rn(x);
  }
}

#ifdef __CUDACC__

// 16 bytes that are read once: past the first-level cache.
__device__ inline uint4 load_once(const uint4* p) noexcept {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
__device__ inline void store_once(uint4* p, uint4 v) noexcept { __stcs(p, v); }

// Elements of 16 bytes as floats, and back.
__device__ inline void unpack(uint4 v, float (&out)[4], float) noexcept {
  out[0] = __uint_as_float(v.x);
  out[1] = __uint_as_float(v.y);
  out[2] = __uint_as_float(v.z);
  out[3] = __uint_as_float(v.w);
}
__device__ inline void unpack(uint4 v, float (&out)[8], __half) noexcept {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    __half2 pair;
    __builtin_memcpy(&pair, &words[i], sizeof(pair));
    const float2 f = __half22float2(pair);
    out[2 * i] = f.x;
    out[2 * i + 1] = f.y;
  }
}
__device__ inline void unpack(uint4 v, float (&out)[8], __nv_bfloat16) noexcept {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF'0000U);
  }
}
__device__ inline uint4 pack(const float (&x)[4], float) noexcept {
  return {__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])};
}
template <class T>
__device__ inline uint4 pack(const float (&x)[8], T) noexcept {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (std::is_same_v<T, __half>) {
      const __half2 pair = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
      __builtin_memcpy(&words[i], &pair, sizeof(pair));
    } else {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      __builtin_memcpy(&words[i], &pair, sizeof(pair));
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

constexpr uint32_t all_lanes = 0xFFFF'FFFFU;

// Over aligned runs of `width` lanes of a warp, a power of two; every lane gets the result, in an order that depends on nothing.
template <int width = 32, class T, class Op>
__device__ inline T warp_reduce(T x, Op op) noexcept {
#pragma unroll
  for (int distance = width / 2; distance > 0; distance /= 2) x = op(x, __shfl_xor_sync(all_lanes, x, distance));
  return x;
}
template <int width = 32, class T>
__device__ inline T warp_sum(T x) noexcept {
  return warp_reduce<width>(x, [](T a, T b) { return a + b; });
}
template <int width = 32, class T>
__device__ inline T warp_max(T x) noexcept {
  return warp_reduce<width>(x, [](T a, T b) { return a > b ? a : b; });
}
template <int width = 32, class T>
__device__ inline T warp_min(T x) noexcept {
  return warp_reduce<width>(x, [](T a, T b) { return a < b ? a : b; });
}

// Over a block of whole warps, of at most 1024 threads; every thread gets the result. `room` is shared memory for 32 values, which may be
// used again at once: there is a barrier before and after.
template <class T, class Op>
__device__ inline T block_reduce(T x, T* room, Op op) noexcept {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warps = static_cast<int>(blockDim.x / 32);
  x = warp_reduce(x, op);
  __syncthreads();
  if (lane == 0) room[threadIdx.x / 32] = x;
  __syncthreads();
  T all = room[0];
  for (int i = 1; i < warps; i++) all = op(all, room[i]);
  return all;
}
template <class T>
__device__ inline T block_sum(T x, T* room) noexcept {
  return block_reduce(x, room, [](T a, T b) { return a + b; });
}
template <class T>
__device__ inline T block_max(T x, T* room) noexcept {
  return block_reduce(x, room, [](T a, T b) { return a > b ? a : b; });
}

#endif  // __CUDACC__

}  // namespace latentwire::cuda
