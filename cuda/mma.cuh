// Products of one warp (mma.sync), for every processor from sm_75 on, with what feeds them: asynchronous copies to shared memory and loads
// of fragments. f32 is multiplied as three TF32 products of a big and a small part of each element, which keeps 21 bits of each; sums are
// f32. Tiles are rows of 128 bytes of depth, whose 16-byte chunk c of row r lies at c ^ (r % 8), so that no two lanes meet in a bank.
#pragma once

#include <cstdint>
#include <type_traits>

#include "device.h"

namespace latentwire::cuda {

constexpr int tile_row_bytes = 128;
template <class T>
constexpr int tile_depth = tile_row_bytes / static_cast<int>(sizeof(T));

// Byte offset of a chunk in a tile.
__device__ inline uint32_t chunk_at(int row, int chunk) noexcept {
  return static_cast<uint32_t>(row * tile_row_bytes + ((chunk ^ (row & 7)) << 4));
}

// Whether warp products of the type exist; before sm_80 only those of f16.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
template <class T>
constexpr bool has_mma = std::is_same_v<T, __half>;
#else
template <class T>
constexpr bool has_mma = true;
#endif

// 16 bytes to shared memory; zeros where `valid` is not set.
__device__ inline void copy_chunk(void* to, const void* from, bool valid) noexcept {
#if __CUDA_ARCH__ >= 800
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(valid ? 16 : 0) : "memory");
#else
  *static_cast<uint4*>(to) = valid ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
}
__device__ inline void commit_copies() noexcept {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int pending>
__device__ inline void wait_copies() noexcept {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// Four 8 x 16-byte matrices; lane 8 m + r names row r of matrix m and gets 4 bytes of row lane / 4 of each.
__device__ inline void load_matrices(uint32_t (&out)[4], uint32_t address) noexcept {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// sums [16, 8] += A [16, 32 bytes] B [8, 32 bytes]'. Lane l holds rows l / 4 and l / 4 + 8 of A, row l / 4 of B, and of the sums rows l / 4
// (first two) and l / 4 + 8 at columns 2 (l % 4) and one more.
__device__ inline void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half) noexcept {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int half = 0; half < 2; half++) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}
__device__ inline void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16) noexcept {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  (void)sums, (void)a, (void)b;
#endif
}

// big + small = x but for the last three bits. Both are read as TF32, which drops the 13 lowest bits.
struct TwoParts {
  uint32_t big;
  uint32_t small;
};
__device__ inline TwoParts two_parts(uint32_t x) noexcept {
  const uint32_t big = x & 0xFFFF'E000U;
  return {big, __float_as_uint(__uint_as_float(x) - __uint_as_float(big))};
}
template <int count>
__device__ inline void split(const uint32_t (&x)[count], uint32_t (&big)[count], uint32_t (&small)[count]) noexcept {
#pragma unroll
  for (int i = 0; i < count; i++) {
    const TwoParts parts = two_parts(x[i]);
    big[i] = parts.big;
    small[i] = parts.small;
  }
}
__device__ inline void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float) noexcept {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  (void)sums, (void)a, (void)b;
#endif
}

// An operand of warp products: what it is, and for f32 its two parts.
template <class T, int count>
struct Fragment {
  uint32_t bits[count];
  __device__ void prepare() noexcept {}
};
template <int count>
struct Fragment<float, count> {
  uint32_t bits[count];
  uint32_t small[count];
  __device__ void prepare() noexcept {
    uint32_t whole[count];
#pragma unroll
    for (int i = 0; i < count; i++) whole[i] = bits[i];
    split(whole, bits, small);
  }
};
// sums[first + j] += A B[j]. Products onto the same sums wait for each other, so those of f32 take turns.
template <class T, int all, int count>
__device__ inline void multiply_fragments(float (&sums)[all][4], int first, const Fragment<T, 4>& a,
                                          const Fragment<T, 2> (&b)[count]) noexcept {
  if constexpr (std::is_same_v<T, float>) {
    // the small ones first: what they add would be lost beside a large sum
#pragma unroll
    for (int j = 0; j < count; j++) multiply(sums[first + j], a.small, b[j].bits, T{});
#pragma unroll
    for (int j = 0; j < count; j++) multiply(sums[first + j], a.bits, b[j].small, T{});
  }
#pragma unroll
  for (int j = 0; j < count; j++) multiply(sums[first + j], a.bits, b[j].bits, T{});
}

}  // namespace latentwire::cuda
