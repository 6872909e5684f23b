// Blocks that work on one thing together and agree on numbers in between: a cluster where there are clusters (Hopper and later), else
// blocks of a cooperative launch that meet at a counter. What they tell each other passes through slots in device memory, in an order that
// does not depend on timing.
#pragma once

#include "device.h"

namespace latentwire::cuda {

constexpr uint32_t most_team = 8;
constexpr int slot_words = 8;
constexpr int most_warps = 32;
constexpr int shared_words = 2 * most_warps * slot_words;

// Of one team, in device memory. `arrived` is 0 before a launch without clusters.
struct TeamRoom {
  uint64_t slots[2][most_team][slot_words];  // in turns: who writes a slot again has seen all others read the other one
  uint32_t arrived;
};

#ifdef __CUDACC__

__device__ inline uint64_t word_of(double x) noexcept { return static_cast<uint64_t>(__double_as_longlong(x)); }
__device__ inline uint64_t word_of(uint64_t x) noexcept { return x; }
__device__ inline void from_word(uint64_t word, double* x) noexcept { *x = __longlong_as_double(static_cast<long long>(word)); }
__device__ inline void from_word(uint64_t word, uint64_t* x) noexcept { *x = word; }

class Team {
 public:
  // `shared` is of the block, for shared_words words.
  __device__ Team(TeamRoom* room, uint32_t size, uint64_t* shared) noexcept
      : room_(room), shared_(shared), size_(size), rank_(blockIdx.x % size) {}

  __device__ uint32_t size() const noexcept { return size_; }
  __device__ uint32_t rank() const noexcept { return rank_; }
  // Of all its threads.
  __device__ uint32_t thread() const noexcept { return rank_ * blockDim.x + threadIdx.x; }
  __device__ uint32_t threads() const noexcept { return size_ * blockDim.x; }

  // All threads of all blocks meet, and see what was written before.
  __device__ void meet() noexcept {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n"
        "barrier.cluster.wait.acquire.aligned;"
        :
        :
        : "memory");
#else
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      expected_ += size_;
      atomicAdd(&room_->arrived, 1U);
      while (*const_cast<volatile uint32_t*>(&room_->arrived) < expected_) {
      }
      __threadfence();
    }
    __syncthreads();
#endif
  }

  // x[i] of all threads of the team, put together by `op`; every thread gets the result.
  template <int n, class T, class Op>
  __device__ void reduce(T (&x)[n], T neutral, Op op) noexcept {
    static_assert(n <= slot_words && sizeof(T) == sizeof(uint64_t));
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    // in turns as well: one barrier is enough
    uint64_t* of_warps = shared_ + turn_ * (shared_words / 2);
#pragma unroll
    for (int i = 0; i < n; i++) {
      x[i] = warp_reduce(x[i], op);
      if (lane == 0) of_warps[warp * slot_words + i] = word_of(x[i]);
    }
    __syncthreads();
    if (warp == 0) {
#pragma unroll
      for (int i = 0; i < n; i++) {
        T of_warp = neutral;
        if (lane < blockDim.x / 32) from_word(of_warps[lane * slot_words + i], &of_warp);
        of_warp = warp_reduce(of_warp, op);
        if (lane == 0) __stcg(slot(rank_, i), word_of(of_warp));
      }
    }
    gather(x, neutral);
#pragma unroll
    for (int i = 0; i < n; i++) x[i] = warp_reduce(x[i], op);
  }

  // Lane b of every warp gets what block b has in thread 0; lanes without a block get `neutral`.
  template <int n, class T>
  __device__ void tell(T (&x)[n], T neutral) noexcept {
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < n; i++) __stcg(slot(rank_, i), word_of(x[i]));
    }
    gather(x, neutral);
  }

 private:
  __device__ unsigned long long* slot(uint32_t block, int i) noexcept {
    return reinterpret_cast<unsigned long long*>(&room_->slots[turn_][block][i]);
  }
  template <int n, class T>
  __device__ void gather(T (&x)[n], T neutral) noexcept {
    meet();
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < n; i++) {
      x[i] = neutral;
      if (lane < size_) from_word(__ldcg(slot(lane, i)), &x[i]);
    }
    turn_ ^= 1U;
  }

  TeamRoom* room_;
  uint64_t* shared_;
  uint32_t size_;
  uint32_t rank_;
  uint32_t turn_ = 0;
#if __CUDA_ARCH__ < 900
  uint32_t expected_ = 0;
#endif
};

#endif  // __CUDACC__

}  // namespace latentwire::cuda
