// What the kernels of a product share: rows [n, depth] times a packed matrix [outputs, depth], both with the depth contiguous, the
// statistics of rows that are taken on the way, and what becomes of a finished sum before it is stored.
//
// Norms cost no pass of their own: a row's factor multiplies its finished sums, and LayerNorm's mean is taken off them as mean * sum of the
// output's weights.
#pragma once

#include <climits>
#include <cmath>
#include <cstdint>

#include "device.h"
#include "gemm.h"

namespace latentwire::cuda {

// What a kernel gathers of each row while the row passes.
enum class Stats : int32_t { none, squares, layer };
// What a row's statistics do to its sums.
enum class RowScale : int32_t { none, l2, rms, layer, euclidean };
// What is left to do with a value. The other activations and the angle are a pass behind the product.
enum class Finish : int32_t { identity, gelu, floor, root };

struct Product {
  Dtype dtype = Dtype::f32;  // of rows and matrix
  // [n, depth], 16-byte aligned rows; a depth that is no multiple of 16 bytes is followed by zeros up to one
  const void* x = nullptr;
  int64_t n = 0;
  int64_t x_stride = 0;
  const void* w = nullptr;  // [outputs, depth], as `pack` leaves it
  int64_t outputs = 0;
  int64_t w_stride = 0;
  int64_t depth = 0;

  RowScale scale = RowScale::none;
  float epsilon = 0;
  const float* sums = nullptr;  // [outputs] for RowScale::layer
  const float* bias = nullptr;  // [outputs] or none
  Finish finish = Finish::identity;
  const void* residual = nullptr;  // [n, outputs] of `dtype`, or none
  int64_t residual_stride = 0;
  void* out = nullptr;  // [n, outputs]
  Dtype out_dtype = Dtype::f32;
  int64_t out_stride = 0;
  // Instead of `out`: the least half_squares[j] - dot with the lowest j, as keys of `argmin_key`; [n], all ones before. Of few rows
  // [few_tiles, n] for each tile of outputs, whatever was there.
  unsigned long long* best = nullptr;
  int32_t* bad_row = nullptr;
  int32_t first_row = 0;  // what bad_row calls the first row

  // few rows, before Hopper: the depth is shared by `splits` blocks whose sums meet in `partial` [splits, n, outputs] and `partial_stats`
  // [splits, n]; clusters share it without them
  int splits = 1;
  float* partial = nullptr;
  float* partial_stats = nullptr;

  constexpr Stats stats() const noexcept {
    return scale == RowScale::none ? Stats::none : scale == RowScale::layer ? Stats::layer : Stats::squares;
  }
};

// Rows [first, first + count) of a product.
inline Product rows_of(Product p, int64_t first, int64_t count) noexcept {
  const auto offset = [first](const void* data, int64_t stride, Dtype dtype) -> const void* {
    return data == nullptr ? nullptr : static_cast<const char*>(data) + static_cast<size_t>(first * stride) * dtype_size(dtype);
  };
  p.x = offset(p.x, p.x_stride, p.dtype);
  p.residual = offset(p.residual, p.residual_stride, p.dtype);
  p.out = const_cast<void*>(offset(p.out, p.out_stride, p.out_dtype));
  if (p.best != nullptr) p.best += first;
  p.first_row += static_cast<int32_t>(first);
  p.n = count;
  return p;
}

// Outputs of a block of product_few.
constexpr int64_t few_outputs(int64_t n) noexcept { return n <= 16 ? 16 : 32; }

// The current device, as far as the choice of kernels goes.
struct Device {
  int version = 0;  // 90 for 9.0
  int processors = 0;
};

inline cudaError_t this_device(Device* device) noexcept {
  int major = 0, minor = 0;
  LATENT_CUDA_TRY(device_attribute(cudaDevAttrComputeCapabilityMajor, &major));
  LATENT_CUDA_TRY(device_attribute(cudaDevAttrComputeCapabilityMinor, &minor));
  device->version = major * 10 + minor;
  return device_attribute(cudaDevAttrMultiProcessorCount, &device->processors);
}

// The launchers: the caller has seen to alignment, dtype and device.

// How the depth of few rows is shared, by how many blocks of a cluster (0: as suits), and whether warp products are to be taken where
// warpgroup products are possible.
struct Few {
  int blocks = 0;
  bool warps = false;
};
cudaError_t product_few(Product p, cudaStream_t stream, Few few = {}) noexcept;
// Tiles of outputs of product_few; 0 where it cannot be used.
int64_t few_tiles(Dtype dtype, int64_t n, int64_t outputs, int64_t depth) noexcept;
cudaError_t product_few_wgmma(const Product& p, const Few& few, cudaStream_t stream) noexcept;
// How the Hopper kernel cuts a product up: the outputs of 128 rows that a block takes at a time (64, 128, 192 or 256), how many blocks
// share their copies of outputs (1 or 2), and how many share the depth (1, 2, 4 or 8, at most 8 blocks in all), of all tiles or of the rest
// that is left when every processor has taken equally many. 0: the fastest.
struct Tile {
  int columns = 0;
  int blocks = 0;
  int splits = 0;
  int rest = 0;
};
cudaError_t product_wgmma_f16(const Product& p, Tile tile, cudaStream_t stream) noexcept;
cudaError_t product_wgmma_bf16(const Product& p, Tile tile, cudaStream_t stream) noexcept;
// Clusters of `size` blocks of that kernel, 1, 2, 4 or 8, that the device holds at once.
cudaError_t wgmma_clusters(int size, int* count) noexcept;
cudaError_t product_mma(const Product& p, bool wide, cudaStream_t stream) noexcept;
cudaError_t product_simple(const Product& p, bool l1, cudaStream_t stream) noexcept;

#ifdef __CUDACC__

// A kernel of this file may begin while the one before it on the stream ends, where the processor can do that. Until it has waited it
// touches nothing but packed matrices, which `pack` has written and `pack` lets nobody begin early.
__device__ inline void let_next_begin() noexcept {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_previous() noexcept {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Starts bringing a multiple of 16 bytes into the second-level cache.
__device__ inline void prefetch_to_cache(const void* from, uint32_t bytes) noexcept {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)), "r"(bytes) : "memory");
#else
  (void)from, (void)bytes;
#endif
}
template <class... Parameters, class... Arguments>
cudaError_t launch_early(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, unsigned cluster, cudaStream_t stream,
                         const Arguments&... arguments) noexcept {
  int major = 0;
  LATENT_CUDA_TRY(device_attribute(cudaDevAttrComputeCapabilityMajor, &major));
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (major >= 9) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {cluster, 1, 1};
  }
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Count, mean and sum of squared deviations; or the sum of squares alone.
template <Stats kind>
struct RowStats;

template <>
struct RowStats<Stats::none> {
  template <int count>
  __device__ void add(const float (&)[count], int64_t) noexcept {}
};

template <>
struct RowStats<Stats::squares> {
  float squares = 0;

  // Elements beyond the `valid` first are zeros.
  template <int count>
  __device__ void add(const float (&x)[count], int64_t) noexcept {
    float sum[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < count; i++) sum[i % 2] = fmaf(x[i], x[i], sum[i % 2]);
    squares += sum[0] + sum[1];
  }
  __device__ void merge(const RowStats& other) noexcept { squares += other.squares; }
};

template <>
struct RowStats<Stats::layer> {
  float count = 0;
  float mean = 0;
  float deviation = 0;

  template <int size>
  __device__ void add(const float (&x)[size], int64_t valid) noexcept {
    RowStats part;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < size; i++) sum += x[i];  // what is beyond the valid ones is zero
    part.count = static_cast<float>(valid < 0 ? 0 : valid < size ? valid : size);
    if (part.count == 0) return;
    part.mean = sum / part.count;
#pragma unroll
    for (int i = 0; i < size; i++) {
      const float d = i < valid ? x[i] - part.mean : 0.0F;
      part.deviation = fmaf(d, d, part.deviation);
    }
    merge(part);
  }
  __device__ void merge(const RowStats& other) noexcept {
    const float all = count + other.count;
    if (all == 0) return;
    const float delta = other.mean - mean;
    const float share = other.count / all;
    mean = fmaf(delta, share, mean);
    deviation += other.deviation + delta * delta * count * share;
    count = all;
  }
};

template <Stats kind>
__device__ inline RowStats<kind> shuffled(const RowStats<kind>& s, int lane) noexcept {
  RowStats<kind> other;
  if constexpr (kind == Stats::squares) other.squares = __shfl_sync(all_lanes, s.squares, lane);
  if constexpr (kind == Stats::layer) {
    other.count = __shfl_sync(all_lanes, s.count, lane);
    other.mean = __shfl_sync(all_lanes, s.mean, lane);
    other.deviation = __shfl_sync(all_lanes, s.deviation, lane);
  }
  return other;
}

// Statistics as they lie in shared memory.
template <Stats kind>
__device__ inline float4 stats_word(const RowStats<kind>& s) noexcept {
  if constexpr (kind == Stats::squares) return {s.squares, 0, 0, 0};
  if constexpr (kind == Stats::layer) return {s.count, s.mean, s.deviation, 0};
  return {0, 0, 0, 0};
}
template <Stats kind>
__device__ inline RowStats<kind> stats_of(const float4& word) noexcept {
  RowStats<kind> s;
  if constexpr (kind == Stats::squares) s.squares = word.x;
  if constexpr (kind == Stats::layer) {
    s.count = word.x;
    s.mean = word.y;
    s.deviation = word.z;
  }
  return s;
}

// value = sum * factor + sums[j] * of_sums + base + bias[j]
struct RowAffine {
  float factor = 1;
  float of_sums = 0;
  float base = 0;
};

// The sum of squares of a row of extreme size, which f32 cannot hold.
__device__ inline double squares_of_row(const Product& p, int64_t row) noexcept {
  double sum = 0;
  for (int64_t k = 0; k < p.depth; k++) {
    const int64_t at = row * p.x_stride + k;
    const float x = p.dtype == Dtype::f32   ? static_cast<const float*>(p.x)[at]
                    : p.dtype == Dtype::f16 ? to_float(static_cast<const __half*>(p.x)[at])
                                            : to_float(static_cast<const __nv_bfloat16*>(p.x)[at]);
    sum += static_cast<double>(x) * x;
  }
  return sum;
}

template <Stats kind>
__device__ inline RowAffine row_affine(const Product& p, const RowStats<kind>& s, int64_t row) noexcept {
  RowAffine a;
  if constexpr (kind == Stats::squares) {
    if (p.scale == RowScale::euclidean) return {-2, 0, s.squares};
    const bool rms = p.scale == RowScale::rms;
    const auto depth = static_cast<float>(p.depth);
    const bool ordinary = s.squares >= 1e-30F && s.squares <= 1e30F;
    if (ordinary || (rms && s.squares < 1 && p.epsilon > 0)) {
      a.factor = s.squares == 0 ? 0.0F : 1 / sqrtf(rms ? s.squares / depth + p.epsilon : s.squares);
    } else {
      const double squares = squares_of_row(p, row);
      a.factor = squares == 0 ? 0.0F : static_cast<float>(1 / sqrt(rms ? squares / depth + p.epsilon : squares));
    }
  }
  if constexpr (kind == Stats::layer) {
    const float variance = s.deviation / static_cast<float>(p.depth);
    a.factor = variance > 0 ? 1 / sqrtf(variance + p.epsilon) : variance == 0 ? 0.0F : variance;  // NaN stays
    a.of_sums = -s.mean * a.factor;
  }
  return a;
}

__device__ inline float gelu(float x) noexcept { return 0.5F * x * (1 + erff(x * 0.70710678118654752F)); }

__device__ inline float finished(Finish finish, float v) noexcept {
  switch (finish) {
    case Finish::gelu:
      return gelu(v);
    case Finish::floor:
      return fmaxf(v, 0.0F);
    case Finish::root:
      return sqrtf(fmaxf(v, 0.0F));
    case Finish::identity:
      break;
  }
  return v;
}

__device__ inline float load_float(Dtype dtype, const void* data, int64_t at) noexcept {
  switch (dtype) {
    case Dtype::f16:
      return to_float(static_cast<const __half*>(data)[at]);
    case Dtype::bf16:
      return to_float(static_cast<const __nv_bfloat16*>(data)[at]);
    case Dtype::f32:
      break;
  }
  return static_cast<const float*>(data)[at];
}

__device__ inline void store_float(Dtype dtype, void* data, int64_t at, float v) noexcept {
  switch (dtype) {
    case Dtype::f16:
      static_cast<__half*>(data)[at] = __float2half_rn(v);
      return;
    case Dtype::bf16:
      static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(v);
      return;
    case Dtype::f32:
      break;
  }
  static_cast<float*>(data)[at] = v;
}

__device__ inline void report_bad(const Product& p, bool bad, int64_t row) noexcept {
  if (bad && p.bad_row != nullptr) atomicMin(p.bad_row, p.first_row + static_cast<int32_t>(row));
}

// One value, wherever it comes from.
__device__ inline void store_value(const Product& p, const RowAffine& a, int64_t row, int64_t column, float sum) noexcept {
  float v = sum * a.factor + a.base;
  if (p.scale == RowScale::layer) v = fmaf(a.of_sums, p.sums[column], v);
  if (p.bias != nullptr) v += p.bias[column];
  report_bad(p, !isfinite(v), row);
  v = finished(p.finish, v);
  if (p.residual != nullptr) v += load_float(p.dtype, p.residual, row * p.residual_stride + column);
  store_float(p.out_dtype, p.out, row * p.out_stride + column, v);
}

// Two values as 16-bit floats.
__device__ inline uint32_t pair_bits(Dtype dtype, float a, float b) noexcept {
  const __half2 half = __floats2half2_rn(a, b);
  const __nv_bfloat162 brain = __floats2bfloat162_rn(a, b);
  uint32_t half_bits, brain_bits;
  __builtin_memcpy(&half_bits, &half, sizeof(half));
  __builtin_memcpy(&brain_bits, &brain, sizeof(brain));
  return dtype == Dtype::f16 ? half_bits : brain_bits;
}

// Where a thread of a warp product stores.
struct PairStore {
  bool wide;   // f32
  bool pairs;  // pairs at even columns can be stored as one

  __device__ explicit PairStore(const Product& p) noexcept
      : wide(p.out_dtype == Dtype::f32),
        pairs(p.out_stride % 2 == 0 && reinterpret_cast<uintptr_t>(p.out) % (p.out_dtype == Dtype::f32 ? 8 : 4) == 0) {}
};

// The sums of one row that a thread of a warp product holds: columns first + 8 i and the one beside it. `sum(i, e)` gives them. T is what a
// residual is of.
template <class T, Stats kind, int groups, class Sum>
__device__ inline void store_row(const Product& p, const RowAffine& a, int64_t row, int first, const PairStore& store, Sum sum) noexcept {
  if (row >= p.n) return;
  bool bad = false;
  const auto outputs = static_cast<int>(p.outputs);
  float* const wide = static_cast<float*>(p.out) + row * p.out_stride;
  uint16_t* const narrow = static_cast<uint16_t*>(p.out) + row * p.out_stride;
  const T* const residual = static_cast<const T*>(p.residual) + row * p.residual_stride;
#pragma unroll
  for (int i = 0; i < groups; i++) {
    const int column = first + 8 * i;
    if (column >= outputs) continue;
    const bool both = column + 1 < outputs;
    const int beside = both ? column + 1 : column;
    float v[2] = {sum(i, 0) * a.factor + a.base, sum(i, 1) * a.factor + a.base};
    if constexpr (kind == Stats::layer) {
      v[0] = fmaf(a.of_sums, __ldg(p.sums + column), v[0]);
      v[1] = fmaf(a.of_sums, __ldg(p.sums + beside), v[1]);
    }
    if (p.bias != nullptr) {
      v[0] += __ldg(p.bias + column);
      v[1] += __ldg(p.bias + beside);
    }
    bad |= !isfinite(v[0]) || (both && !isfinite(v[1]));
    if (p.finish == Finish::gelu) {
      v[0] = gelu(v[0]);
      v[1] = gelu(v[1]);
    }
    if constexpr (kind == Stats::squares) {
      if (p.finish == Finish::floor || p.finish == Finish::root) {
        v[0] = finished(p.finish, v[0]);
        v[1] = finished(p.finish, v[1]);
      }
    }
    if (p.residual != nullptr) {
      v[0] += to_float(residual[column]);
      v[1] += to_float(residual[beside]);
    }
    if (store.wide) {
      if (store.pairs && both) {
        *reinterpret_cast<float2*>(wide + column) = make_float2(v[0], v[1]);
      } else {
        wide[column] = v[0];
        if (both) wide[column + 1] = v[1];
      }
    } else {
      const uint32_t bits = pair_bits(p.out_dtype, v[0], v[1]);
      if (store.pairs && both) {
        *reinterpret_cast<uint32_t*>(narrow + column) = bits;
      } else {
        narrow[column] = static_cast<uint16_t>(bits);
        if (both) narrow[column + 1] = static_cast<uint16_t>(bits >> 16);
      }
    }
  }
  report_bad(p, bad, row);
}

// Orders by value, then by index; -0 and 0 are equal. All ones is more than any key.
constexpr unsigned long long no_argmin = ~0ULL;
__device__ inline unsigned long long argmin_key(float value, int64_t index) noexcept {
  const uint32_t bits = __float_as_uint(value + 0.0F);
  const uint32_t ordered = bits ^ ((bits >> 31) != 0 ? 0xFFFF'FFFFU : 0x8000'0000U);
  return (static_cast<unsigned long long>(ordered) << 32) | static_cast<uint32_t>(index);
}
__device__ inline float argmin_value(unsigned long long key) noexcept {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered ^ ((ordered >> 31) != 0 ? 0x8000'0000U : 0xFFFF'FFFFU));
}

// The least of the values that a quad of lanes holds of one row: columns first + 8 i and the one beside it of those from `column0` on,
// whose half squares are given, infinite beyond the last. All lanes of the warp must call it.
template <int groups, class Sum>
__device__ inline void argmin_row(const Product& p, int64_t row, const float* half_squares, int first, int column0, Sum sum) noexcept {
  float least = INFINITY;
  int index = -1;
  float finite = 0;
#pragma unroll
  for (int i = 0; i < groups; i++) {
    const float2 halves = *reinterpret_cast<const float2*>(half_squares + first + 8 * i);
#pragma unroll
    for (int e = 0; e < 2; e++) {
      finite = fmaf(sum(i, e), 0.0F, finite);
      const float v = (e == 0 ? halves.x : halves.y) - sum(i, e);
      if (v < least) {
        least = v;
        index = first + 8 * i + e;
      }
    }
  }
  const bool valid = row < p.n;
  report_bad(p, valid && finite != 0, row);  // NaN
  unsigned long long key = !valid || index < 0 ? no_argmin : argmin_key(least, column0 + index);
  key = warp_min<4>(key);
  if (threadIdx.x % 4 == 0 && key != no_argmin) atomicMin(p.best + row, key);
}

#endif  // __CUDACC__

}  // namespace latentwire::cuda
