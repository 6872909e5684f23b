// The second launch of a thought step (thought.cu): the rows of a selection, or of the whole table, are summed, and the sum is finished.
#include <cfloat>
#include <cmath>

#include "product.cuh"
#include "thought_job.cuh"
#include "token_row.cuh"

namespace latentwire::cuda::thought {
namespace {

constexpr int most_sum_threads = 320;
constexpr int columns_each = 8;
// Bytes that a block of a mix of all rows brings into the cache ahead of time: half of the cache for all blocks.
constexpr uint32_t early_bytes = 96 * 1024;

// Whether the block is the last of `count` to come here; what the others wrote before can then be read.
__device__ inline bool is_last(uint32_t* done, uint32_t count, uint32_t* shared) noexcept {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) *shared = atomicAdd(done, 1U);
  __syncthreads();
  const bool last = *shared == count - 1;
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// Calls f(column, left) for the columns of a thread, eight at a time.
template <class F>
__device__ inline void each_columns(uint32_t width, F f) noexcept {
  for (uint32_t column = threadIdx.x * columns_each; column < width; column += blockDim.x * columns_each)
    f(column, static_cast<int>(min(width - column, static_cast<uint32_t>(columns_each))));
}

// `left` of eight neighbours, which threads have one beside the other.
__device__ inline void load_columns(const float* p, int left, float (&x)[columns_each]) noexcept {
  if (left == columns_each && reinterpret_cast<uintptr_t>(p) % sizeof(float4) == 0) {
#pragma unroll
    for (int i = 0; i < columns_each; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(p + i);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < columns_each; i++) x[i] = i < left ? p[i] : 0.0F;
  }
}
__device__ inline void store_columns(float* p, int left, const float (&x)[columns_each]) noexcept {
  if (left == columns_each && reinterpret_cast<uintptr_t>(p) % sizeof(float4) == 0) {
#pragma unroll
    for (int i = 0; i < columns_each; i += 4) *reinterpret_cast<float4*>(p + i) = {x[i], x[i + 1], x[i + 2], x[i + 3]};
  } else {
#pragma unroll
    for (int i = 0; i < columns_each; i++) {
      if (i < left) p[i] = x[i];
    }
  }
}

// out = sum of `count` rows of partials, one after another.
__device__ void add_partials(const float* partials, uint32_t count, uint32_t width, float* out) noexcept {
  if (width % 4 == 0 && reinterpret_cast<uintptr_t>(out) % sizeof(float4) == 0) {
    for (uint32_t column = threadIdx.x * 4; column < width; column += blockDim.x * 4) {
      float4 sum = {0, 0, 0, 0};
#pragma unroll 8
      for (uint32_t i = 0; i < count; i++) {
        const float4 four = __ldcg(reinterpret_cast<const float4*>(partials + int64_t{i} * width + column));
        sum.x += four.x;
        sum.y += four.y;
        sum.z += four.z;
        sum.w += four.w;
      }
      *reinterpret_cast<float4*>(out + column) = sum;
    }
  } else {
    for (uint32_t column = threadIdx.x; column < width; column += blockDim.x) {
      float sum = 0;
#pragma unroll 8
      for (uint32_t i = 0; i < count; i++) sum += __ldcg(partials + int64_t{i} * width + column);
      out[column] = sum;
    }
  }
  __syncthreads();
}

// E[token] unless it was part of the mix, the extra vector and the length, once the mix is in `out`.
template <RowFormat format>
__device__ void finish(const Job& job, int64_t row, bool merged, double* shared) {
  const ThoughtArgs& a = job.args;
  const auto width = static_cast<uint32_t>(a.table.width);
  float* out = a.out + row * width;
  const bool adds_token = a.token != 0 && !merged;
  const int32_t token = adds_token ? a.tokens[row] : 0;
  if (token < 0 || token >= a.table.count) {
    if (threadIdx.x == 0) a.faults[row] = ThoughtFault::bad_sum;
    return;
  }
  const uint8_t* token_row = static_cast<const uint8_t*>(a.table.data) + token * a.table.row_bytes;
  double square = 0;
  bool finite = true;
  each_columns(width, [&](uint32_t column, int left) {
    float e[columns_each];
    load_columns(out + column, left, e);
    if (adds_token) {
      float x[columns_each];
      TokenRow<format>::numbers(TokenRow<format>::load(token_row, column, left, job.vector && left == columns_each), x);
#pragma unroll
      for (int i = 0; i < columns_each; i++) e[i] = fmaf(a.token, x[i], e[i]);
    }
    if (a.extra != 0) {
      float x[columns_each];
      load_columns(a.extras + row * width + column, left, x);
#pragma unroll
      for (int i = 0; i < columns_each; i++) e[i] += a.extra * x[i];
    }
    store_columns(out + column, left, e);
#pragma unroll
    for (int i = 0; i < columns_each; i++) {
      if (i >= left) continue;
      finite = finite && fabsf(e[i]) <= FLT_MAX;
      square += static_cast<double>(e[i]) * static_cast<double>(e[i]);
    }
  });
  finite = __syncthreads_and(finite) != 0;
  if (finite && a.norm >= 0) {
    square = block_sum(square, shared);
    if (square > 0) {
      const double factor = a.norm / sqrt(square);
      each_columns(width, [&](uint32_t column, int left) {
        float e[columns_each];
        load_columns(out + column, left, e);
#pragma unroll
        for (int i = 0; i < columns_each; i++) {
          e[i] = factor <= 1e38 ? e[i] * static_cast<float>(factor) : static_cast<float>(e[i] * factor);
          finite = finite && (i >= left || fabsf(e[i]) <= FLT_MAX);
        }
        store_columns(out + column, left, e);
      });
      finite = __syncthreads_and(finite) != 0;
    }
  }
  if (!finite && threadIdx.x == 0) a.faults[row] = ThoughtFault::bad_sum;
}

// What weighs a row in a mix of all.
__device__ inline float weight_of(const Job& job, int64_t row, const Head& head, int64_t id) noexcept {
  const ThoughtArgs& a = job.args;
  const float z = load_float(a.dtype, a.logits, row * a.logit_stride + id);
  const bool masked = a.masked != nullptr && (a.masked[id / 32] >> (id % 32) & 1U) != 0;
  if (masked || z == -INFINITY) return 0;
  const double weight = exp((static_cast<double>(z) - head.max) / a.temperature) * head.factor;
  return static_cast<float>(head.merged != 0 && id == a.tokens[row] ? a.token + weight : weight);
}

// Rows of a block of the second launch.
__device__ inline int64_t rows_of_split(const Job& job, int64_t count) noexcept {
  return max(ceil_div<int64_t>(count, job.layout.splits), least_split_rows);
}

template <RowFormat format>
__global__ void __launch_bounds__(most_sum_threads, 2) sum_kernel(const __grid_constant__ Job job) {
  constexpr bool plain = format == RowFormat::f32 || format == RowFormat::f16 || format == RowFormat::bf16;
  constexpr int together = !plain ? 1 : format == RowFormat::f32 ? 4 : 8;
  __shared__ int32_t ids[most_sum_threads];
  __shared__ float weights[most_sum_threads];
  __shared__ double shared[32];
  __shared__ uint32_t arrival;
  const ThoughtArgs& a = job.args;
  const int64_t row = blockIdx.y;
  const Position position(job, row);
  const auto width = static_cast<uint32_t>(a.table.width);
  const auto* table = static_cast<const uint8_t*>(a.table.data);
  let_next_begin();
  // a row into the second-level cache
  const auto bring = [&](int64_t id) {
    const uint32_t bytes = width * (format == RowFormat::f32 ? 4U : 2U) / 16 * 16;
    if (plain && job.vector && bytes > 0) prefetch_to_cache(table + id * a.table.row_bytes, bytes);
  };
  if (job.whole) {
    const int64_t rows = rows_of_split(job, a.table.count);
    const int64_t first = blockIdx.x * rows + threadIdx.x;
    if (threadIdx.x < min(rows, early_bytes / max(a.table.row_bytes, int64_t{1})) && first < a.table.count) bring(first);
  }
  wait_for_previous();
  if (position.head->fault != ThoughtFault::none) return;
  const int64_t count = position.head->count;
  const int64_t split_rows = rows_of_split(job, count);
  const auto splits = static_cast<uint32_t>(max(ceil_div(count, split_rows), int64_t{1}));
  const uint32_t split = blockIdx.x;
  if (split >= splits) return;
  const int64_t first = split * split_rows;
  const int64_t last = min(first + split_rows, count);
  float* out = splits == 1 ? a.out + row * width : position.partials + int64_t{split} * width;
  // thread by thread the same columns in every round: what was written is read by its writer
  for (int64_t begin = first; begin < last || begin == first; begin += blockDim.x) {
    const int here = static_cast<int>(max(min(last - begin, int64_t{blockDim.x}), int64_t{0}));
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < here) {
      const int64_t at = begin + threadIdx.x;
      ids[threadIdx.x] = job.whole ? static_cast<int32_t>(at) : position.ids[at];
      weights[threadIdx.x] = job.whole ? weight_of(job, row, *position.head, at) : position.weights[at];
    }
    __syncthreads();
    const auto add_rows = [&](auto whole, uint32_t column, int left) {
      constexpr bool vector = decltype(whole)::value;
      float sum[columns_each] = {};
      if (begin > first) load_columns(out + column, left, sum);
      const auto load = [&](int i) { return TokenRow<format>::load(table + ids[i] * a.table.row_bytes, column, left, vector); };
      const auto add = [&](const typename TokenRow<format>::Raw& raw, float weight) {
        float x[columns_each];
        TokenRow<format>::numbers(raw, x);
#pragma unroll
        for (int k = 0; k < columns_each; k++) sum[k] = fmaf(weight, x[k], sum[k]);
      };
      int i = 0;
      for (; i + together <= here; i += together) {
        // loads into registers alone leave the memory idle while those are added up
        const int later = i + 2 * together + static_cast<int>(threadIdx.x);
        if (threadIdx.x < together && column < blockDim.x * columns_each) {
          if (job.whole ? begin + later < last : later < here) bring(job.whole ? begin + later : ids[later]);
        }
        typename TokenRow<format>::Raw raw[together];
#pragma unroll
        for (int j = 0; j < together; j++) raw[j] = load(i + j);
#pragma unroll
        for (int j = 0; j < together; j++) add(raw[j], weights[i + j]);
      }
      for (; i < here; i++) add(load(i), weights[i]);
      store_columns(out + column, left, sum);
    };
    each_columns(width, [&](uint32_t column, int left) {
      if (job.vector && left == columns_each)
        add_rows(std::true_type{}, column, left);
      else
        add_rows(std::false_type{}, column, left);
    });
  }
  if (splits > 1) {
    // sums of up to 16 splits, then of up to 16 such sums
    const uint32_t groups = ceil_div<uint32_t>(splits, split_group);
    const uint32_t group = split / split_group;
    const uint32_t first_split = group * split_group;
    const uint32_t of_group = min(splits - first_split, static_cast<uint32_t>(split_group));
    uint32_t* done = position.head->done;
    if (!is_last(done + group, of_group, &arrival)) return;
    float* sums = position.partials + job.layout.splits * width;
    const float* partials = position.partials + int64_t{first_split} * width;
    if (groups == 1) {
      add_partials(partials, of_group, width, a.out + row * width);
    } else {
      add_partials(partials, of_group, width, sums + int64_t{group} * width);
      if (!is_last(done + most_splits / split_group, groups, &arrival)) return;
      add_partials(sums, groups, width, a.out + row * width);
    }
  }
  finish<format>(job, row, position.head->merged != 0, shared);
}

template <RowFormat format>
cudaError_t launch_for(Job job, int64_t unit, cudaStream_t stream) noexcept {
  const TokenTable& table = job.args.table;
  job.vector = unit > 0 && table.row_bytes % 16 == 0 && aligned(table.data, 16);
  // as many as go over a row in as few rounds as can be
  const int64_t wanted = ceil_div<int64_t>(table.width, columns_each);
  const int64_t rounds = ceil_div<int64_t>(wanted, most_sum_threads);
  const auto threads = static_cast<int>(round_up<int64_t>(ceil_div(wanted, rounds), 32));
  const dim3 grid(static_cast<uint32_t>(job.layout.splits), static_cast<uint32_t>(job.args.batch));
  return launch_early(sum_kernel<format>, grid, threads, 0, 1, stream, job);
}

}  // namespace

cudaError_t launch_sum(const Job& job, cudaStream_t stream) noexcept {
  switch (job.args.table.format) {
    case RowFormat::f32:
      return launch_for<RowFormat::f32>(job, 4, stream);
    case RowFormat::f16:
      return launch_for<RowFormat::f16>(job, 2, stream);
    case RowFormat::bf16:
      return launch_for<RowFormat::bf16>(job, 2, stream);
    case RowFormat::q8_0:
      return launch_for<RowFormat::q8_0>(job, 0, stream);
    case RowFormat::q4_0:
      return launch_for<RowFormat::q4_0>(job, 0, stream);
    case RowFormat::q4_K:
      return launch_for<RowFormat::q4_K>(job, 0, stream);
    case RowFormat::q6_K:
      return launch_for<RowFormat::q6_K>(job, 0, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace latentwire::cuda::thought
