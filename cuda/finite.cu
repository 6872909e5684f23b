// Rows that came from elsewhere, looked through for NaN and infinities before a cache takes them: a number is one of these when all bits of
// its exponent are set. One pass over the bytes, 16 at a time where all rows allow it.
#include <algorithm>

#include "memory.h"

namespace latentwire::cuda {
namespace {

constexpr int threads = 256;
constexpr int depth = 4;  // units of a thread that are on their way at once
constexpr int parts_at_once = 128;
constexpr int64_t most_blocks = 4096;

struct Parts {
  const void* part[parts_at_once];
};

struct Job {
  int64_t rows;
  int64_t row_bytes;
  int64_t first_part;
  int64_t* first_bad;
  int64_t units;         // of a part
  int32_t stride_bytes;  // from unit to unit
};

// Of the one or two numbers in a word.
template <uint32_t exponent>
__device__ inline bool is_bad(uint32_t word) noexcept {
  const bool low = (word & exponent) == exponent;
  return exponent > 0xFFFF ? low : low || (word >> 16 & exponent) == exponent;
}
template <uint32_t exponent>
__device__ inline bool is_bad(uint16_t number) noexcept {
  return (number & exponent) == exponent;
}
template <uint32_t exponent>
__device__ inline bool is_bad(uint4 v) noexcept {
  return is_bad<exponent>(v.x) || is_bad<exponent>(v.y) || is_bad<exponent>(v.z) || is_bad<exponent>(v.w);
}

template <class Unit>
__device__ inline Unit load_unit(const uint8_t* p) noexcept {
  if constexpr (sizeof(Unit) == 16)
    return load_once(reinterpret_cast<const uint4*>(p));
  else
    return *reinterpret_cast<const Unit*>(p);
}

// A unit lies within a row.
template <class Unit, uint32_t exponent>
__global__ void __launch_bounds__(threads) finite_kernel(const __grid_constant__ Parts parts, const __grid_constant__ Job job) {
  const auto* bytes = static_cast<const uint8_t*>(parts.part[blockIdx.y]);
  const int64_t step = int64_t{gridDim.x} * threads;
  for (int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x; first < job.units; first += depth * step) {
    Unit units[depth];
#pragma unroll
    for (int i = 0; i < depth; i++) units[i] = load_unit<Unit>(bytes + min(first + i * step, job.units - 1) * job.stride_bytes);
#pragma unroll
    for (int i = 0; i < depth; i++) {
      if (!is_bad<exponent>(units[i])) continue;
      const int64_t row = min(first + i * step, job.units - 1) * job.stride_bytes / job.row_bytes;
      atomicMin(reinterpret_cast<unsigned long long*>(job.first_bad),
                static_cast<unsigned long long>((job.first_part + blockIdx.y) * job.rows + row));
    }
  }
}

template <class Unit, uint32_t exponent>
cudaError_t find_in(const FiniteArgs& a, int32_t stride_bytes, cudaStream_t stream) noexcept {
  for (int64_t first = 0; first < a.part_count; first += parts_at_once) {
    const int64_t count = std::min<int64_t>(a.part_count - first, parts_at_once);
    Parts parts;
    for (int64_t i = 0; i < count; i++) parts.part[i] = a.parts[first + i];
    const Job job{a.rows, a.row_bytes, first, a.first_bad, a.rows * a.row_bytes / stride_bytes, stride_bytes};
    const auto blocks = std::min(ceil_div<int64_t>(job.units, threads * depth), most_blocks);
    const dim3 grid(static_cast<uint32_t>(blocks), static_cast<uint32_t>(count));
    finite_kernel<Unit, exponent><<<grid, threads, 0, stream>>>(parts, job);
    LATENT_CUDA_TRY(cudaGetLastError());
  }
  return cudaSuccess;
}

constexpr int32_t q8_0_bytes = 34;
constexpr int32_t q4_0_bytes = 18;

}  // namespace

cudaError_t find_non_finite(const FiniteArgs& a, cudaStream_t stream) noexcept {
  if (a.rows < 0 || a.row_bytes < 0 || a.part_count < 0) return cudaErrorInvalidValue;
  if (a.rows == 0 || a.row_bytes == 0) return cudaSuccess;
  const auto with = [&](int32_t unit, auto find) { return a.row_bytes % unit == 0 ? find(unit) : cudaErrorInvalidValue; };
  bool wide = a.row_bytes % 16 == 0;
  for (int64_t i = 0; i < a.part_count; i++) wide = wide && aligned(a.parts[i], 16);
  switch (a.format) {
    case RowFormat::f32:
      return wide ? find_in<uint4, 0x7F80'0000>(a, 16, stream)
                  : with(4, [&](int32_t unit) { return find_in<uint32_t, 0x7F80'0000>(a, unit, stream); });
    case RowFormat::f16:
      return wide ? find_in<uint4, 0x7C00>(a, 16, stream)
                  : with(2, [&](int32_t unit) { return find_in<uint16_t, 0x7C00>(a, unit, stream); });
    case RowFormat::bf16:
      return wide ? find_in<uint4, 0x7F80>(a, 16, stream)
                  : with(2, [&](int32_t unit) { return find_in<uint16_t, 0x7F80>(a, unit, stream); });
    // a block begins with its scale
    case RowFormat::q8_0:
      return with(q8_0_bytes, [&](int32_t unit) { return find_in<uint16_t, 0x7C00>(a, unit, stream); });
    case RowFormat::q4_0:
      return with(q4_0_bytes, [&](int32_t unit) { return find_in<uint16_t, 0x7C00>(a, unit, stream); });
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace latentwire::cuda
