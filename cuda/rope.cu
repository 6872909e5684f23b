// Cached keys moved to other positions, as native/kv/rope.cpp moves them: angles in f64, cosines and sines rounded to f32, the turn in f32.
// Layers with the same frequencies share the table; a thread reads its pairs of it once for all heads of a row.
#include "index.cuh"
#include "memory.h"

namespace latentwire::cuda {
namespace {

constexpr int threads = 256;
constexpr int parts_at_once = 128;

struct Parts {
  void* rows[parts_at_once];
};

struct Job {
  const float2* turns;    // [count, pairs]: cosine and sine
  const int32_t* shifts;  // [count]
  const int32_t* cells;
  int64_t stride;
  int64_t head_dim;
  uint32_t count;
  uint32_t heads;
  uint32_t pairs;
  Divisor units;        // of a row: runs of neighbouring pairs
  Divisor head_groups;  // runs of heads that one thread turns
  uint32_t heads_each;
  uint32_t items;
};

__global__ void __launch_bounds__(threads)
    angles_kernel(const double* frequencies, const int32_t* shifts, int64_t count, uint32_t pairs, float2* turns) {
  const int64_t at = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (at >= count * pairs) return;
  const int64_t row = at / pairs;
  double sine, cosine;
  sincos(frequencies[at - row * pairs] * shifts[row], &sine, &cosine);
  turns[at] = {static_cast<float>(cosine), static_cast<float>(sine)};
}

// x' = x cos - y sin, y' = x sin + y cos, each product rounded as the CPU's.
__device__ inline void turn(float& x, float& y, float2 t) noexcept {
  const float moved = __fsub_rn(__fmul_rn(x, t.x), __fmul_rn(y, t.y));
  y = __fadd_rn(__fmul_rn(x, t.y), __fmul_rn(y, t.x));
  x = moved;
}

// What a thread holds of a row: for neox `run` numbers of each half of the rotated part, for norm `run / 2` pairs side by side.
template <class T, RopePairs kind, bool vector>
__global__ void __launch_bounds__(threads) rope_kernel(const __grid_constant__ Parts parts, const __grid_constant__ Job job) {
  constexpr int run = vector ? static_cast<int>(16 / sizeof(T)) : kind == RopePairs::neox ? 1 : 2;
  constexpr int pairs = kind == RopePairs::neox ? run : run / 2;
  const uint32_t item = blockIdx.x * threads + threadIdx.x;
  if (item >= job.items) return;
  const uint32_t group = job.units.quotient(item);
  const uint32_t unit = item - group * job.units.by;
  const uint32_t row = job.head_groups.quotient(group);
  const uint32_t first_head = (group - row * job.head_groups.by) * job.heads_each;
  if (job.shifts[row] == 0) return;
  float2 t[pairs];
  const float2* turns = job.turns + int64_t{row} * job.pairs + unit * pairs;
#pragma unroll
  for (int i = 0; i < pairs; i++) t[i] = turns[i];
  const int64_t cell = job.cells == nullptr ? row : job.cells[row];
  T* base = static_cast<T*>(parts.rows[blockIdx.y]) + cell * job.stride + unit * run;
  const uint32_t last = min(first_head + job.heads_each, job.heads);
  const auto load = [](const T* p, float(&x)[run]) {
    if constexpr (vector)
      unpack(*reinterpret_cast<const uint4*>(p), x, T{});
    else
#pragma unroll
      for (int i = 0; i < run; i++) x[i] = to_float(p[i]);
  };
  const auto store = [](T* p, const float(&x)[run]) {
    if constexpr (vector)
      *reinterpret_cast<uint4*>(p) = pack(x, T{});
    else
#pragma unroll
      for (int i = 0; i < run; i++) p[i] = from_float<T>(x[i]);
  };
#pragma unroll 4
  for (uint32_t head = first_head; head < last; head++) {
    T* at = base + head * job.head_dim;
    float x[run];
    load(at, x);
    if constexpr (kind == RopePairs::neox) {
      float y[run];
      load(at + job.pairs, y);
#pragma unroll
      for (int i = 0; i < run; i++) turn(x[i], y[i], t[i]);
      store(at + job.pairs, y);
    } else {
#pragma unroll
      for (int i = 0; i < pairs; i++) turn(x[2 * i], x[2 * i + 1], t[i]);
    }
    store(at, x);
  }
}

template <class T>
cudaError_t turn_rows(const RopeArgs& a, cudaStream_t stream) noexcept {
  const auto pairs = static_cast<uint32_t>(a.rotated / 2);
  constexpr int64_t wide = 16 / sizeof(T);
  const int64_t run_pairs = a.pairs == RopePairs::neox ? wide : wide / 2;
  for (int64_t first = 0; first < a.part_count; first += parts_at_once) {
    const int64_t count = a.part_count - first < parts_at_once ? a.part_count - first : parts_at_once;
    Parts parts;
    bool vector = pairs % run_pairs == 0 && a.head_dim % wide == 0 && a.stride % wide == 0;
    for (int64_t i = 0; i < count; i++) {
      parts.rows[i] = a.rows[first + i];
      vector = vector && aligned(parts.rows[i], 16);
    }
    Job job;
    job.turns = static_cast<const float2*>(a.workspace);
    job.shifts = a.shifts;
    job.cells = a.cells;
    job.stride = a.stride;
    job.head_dim = a.head_dim;
    job.count = static_cast<uint32_t>(a.count);
    job.heads = static_cast<uint32_t>(a.heads);
    job.pairs = pairs;
    job.heads_each = 4;
    job.units = Divisor(vector ? pairs / static_cast<uint32_t>(run_pairs) : pairs);
    job.head_groups = Divisor(ceil_div(job.heads, job.heads_each));
    job.items = job.count * job.units.by * job.head_groups.by;
    const dim3 grid(ceil_div<uint32_t>(job.items, threads), static_cast<uint32_t>(count));
    const auto launch = [&](auto kind) {
      if (vector)
        rope_kernel<T, decltype(kind)::value, true><<<grid, threads, 0, stream>>>(parts, job);
      else
        rope_kernel<T, decltype(kind)::value, false><<<grid, threads, 0, stream>>>(parts, job);
    };
    if (a.pairs == RopePairs::neox)
      launch(std::integral_constant<RopePairs, RopePairs::neox>{});
    else
      launch(std::integral_constant<RopePairs, RopePairs::norm>{});
    LATENT_CUDA_TRY(cudaGetLastError());
  }
  return cudaSuccess;
}

}  // namespace

size_t rope_workspace(const RopeArgs& a) noexcept { return static_cast<size_t>(a.count * (a.rotated / 2)) * sizeof(float2); }

cudaError_t rope_shift(const RopeArgs& a, cudaStream_t stream) noexcept {
  if (a.count < 0 || a.heads < 0 || a.rotated < 2 || a.rotated % 2 != 0 || a.rotated > a.head_dim || a.part_count < 0)
    return cudaErrorInvalidValue;
  // items are counted in 32 bits
  const int64_t pairs = a.rotated / 2;
  if (a.heads > most_index || a.count > most_index || (a.heads > 0 && a.count > most_index / pairs / a.heads)) return cudaErrorInvalidValue;
  if (a.count == 0 || a.heads == 0 || a.part_count == 0) return cudaSuccess;
  const auto blocks = static_cast<uint32_t>(ceil_div<int64_t>(a.count * pairs, threads));
  angles_kernel<<<blocks, threads, 0, stream>>>(a.frequencies, a.shifts, a.count, static_cast<uint32_t>(pairs),
                                                static_cast<float2*>(a.workspace));
  LATENT_CUDA_TRY(cudaGetLastError());
  return for_dtype(a.dtype, [&](auto element) { return turn_rows<decltype(element)>(a, stream); });
}

}  // namespace latentwire::cuda
