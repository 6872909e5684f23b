// Blocks that work on one thing together and agree on numbers in between: a cluster where there are clusters (Hopper and later), else
// blocks of a cooperative launch that meet at a counter. What they tell each other passes through each other's shared memory, or through
// slots in device memory, in an order that does not depend on timing.
#pragma once

#include "device.h"

namespace latentwire::cuda {

constexpr uint32_t most_team = 8;
constexpr uint32_t slot_words = 8;
constexpr uint32_t most_warps = 32;

// Of one team before Hopper, in device memory. `arrived` is 0 before a launch.
struct TeamRoom {
  uint64_t slots[2][most_team][slot_words];  // in turns: who writes a slot again has seen all others read the other one
  uint32_t arrived;
};

// Of one block, in shared memory; in turns as well, so that one barrier is enough.
struct TeamShared {
  uint64_t of_warps[2][slot_words][most_warps];
  uint64_t of_blocks[2][slot_words][most_team];
  uint64_t all[2][slot_words];
};

#ifdef __CUDACC__

__device__ inline uint64_t word_of(double x) noexcept { return static_cast<uint64_t>(__double_as_longlong(x)); }
__device__ inline uint64_t word_of(uint64_t x) noexcept { return x; }
__device__ inline void from_word(uint64_t word, double* x) noexcept { *x = __longlong_as_double(static_cast<long long>(word)); }
__device__ inline void from_word(uint64_t word, uint64_t* x) noexcept { *x = word; }

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const noexcept {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const noexcept {
    return a > b ? a : b;
  }
};

class Team {
 public:
  __device__ Team(TeamRoom* room, uint32_t size, TeamShared* shared) noexcept
      : room_(room), shared_(shared), size_(size), rank_(blockIdx.x % size) {}

  __device__ uint32_t rank() const noexcept { return rank_; }
  // Of all its threads.
  __device__ uint32_t thread() const noexcept { return rank_ * blockDim.x + threadIdx.x; }
  __device__ uint32_t threads() const noexcept { return size_ * blockDim.x; }

  // The others are left out from here on; this block goes on as a team of its own.
  __device__ void go_alone() noexcept {
    size_ = 1;
    rank_ = 0;
  }

  // All threads of all blocks meet, and see what was written before. The first time, before anything is told: all blocks are there.
  __device__ void meet() noexcept {
    if (size_ == 1) {
      __syncthreads();
      return;
    }
#if __CUDA_ARCH__ >= 900
    __syncwarp();
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

  // Puts in x of this thread as value `i` of what is agreed on next. Numbers of 32 bits are put together as such within a warp.
  template <class T, class W, class Op>
  __device__ void put(uint32_t i, W x, Op op) noexcept {
#if __CUDA_ARCH__ >= 800
    if constexpr (std::is_same_v<W, uint32_t> && std::is_same_v<Op, Add>)
      x = __reduce_add_sync(all_lanes, x);
    else
#endif
      x = warp_reduce(x, op);
    if (threadIdx.x % 32 == 0) shared_->of_warps[turn_][i][threadIdx.x / 32] = word_of(static_cast<T>(x));
  }

  // What all threads of the team put in as values 0 to n - 1, put together by `op`.
  template <uint32_t n, class T, class Op>
  __device__ void agree(T (&all)[n], T neutral, Op op) noexcept {
    static_assert(n <= slot_words && sizeof(T) == sizeof(uint64_t));
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    __syncthreads();
    // a warp for each value
    if (warp < n) {
      T x = neutral;
      if (lane < blockDim.x / 32) from_word(shared_->of_warps[turn_][warp][lane], &x);
      x = warp_reduce(x, op);
      if (size_ == 1) {
        if (lane == 0) shared_->all[turn_][warp] = word_of(x);
      } else {
        tell(warp, word_of(x));
      }
    }
    if (size_ > 1) {
      meet();
      if (warp < n) {
        T x = neutral;
        if (lane < size_) from_word(told(warp, lane), &x);
        x = warp_reduce<most_team>(x, op);
        if (lane == 0) shared_->all[turn_][warp] = word_of(x);
      }
    }
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < n; i++) from_word(shared_->all[turn_][i], &all[i]);
    turn_ ^= 1U;
  }

  // What the blocks before this one have put together.
  __device__ uint64_t before(uint64_t of_block) noexcept {
    if (threadIdx.x < 32) tell(0, of_block);
    meet();
    uint64_t sum = 0;
    for (uint32_t block = 0; block < rank_; block++) sum += told(0, block);
    turn_ ^= 1U;
    return sum;
  }

 private:
  // One warp tells the others of value `i`.
  __device__ void tell(uint32_t i, uint64_t word) noexcept {
    const uint32_t lane = threadIdx.x % 32;
#if __CUDA_ARCH__ >= 900
    if (lane >= size_) return;
    const auto own = static_cast<uint32_t>(__cvta_generic_to_shared(&shared_->of_blocks[turn_][i][rank_]));
    uint32_t other;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(other) : "r"(own), "r"(lane));
    asm volatile("st.shared::cluster.u64 [%0], %1;" : : "r"(other), "l"(word) : "memory");
#else
    if (lane == 0) __stcg(reinterpret_cast<unsigned long long*>(&room_->slots[turn_][rank_][i]), static_cast<unsigned long long>(word));
#endif
  }
  __device__ uint64_t told(uint32_t i, uint32_t block) const noexcept {
#if __CUDA_ARCH__ >= 900
    return shared_->of_blocks[turn_][i][block];
#else
    return __ldcg(reinterpret_cast<const unsigned long long*>(&room_->slots[turn_][block][i]));
#endif
  }

  TeamRoom* room_;
  TeamShared* shared_;
  uint32_t size_;
  uint32_t rank_;
  uint32_t turn_ = 0;
#if __CUDA_ARCH__ < 900
  uint32_t expected_ = 0;
#endif
};

#endif  // __CUDACC__

}  // namespace latentwire::cuda
