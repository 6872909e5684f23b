// A mix of all rows of the table by their probabilities, on Hopper. The table is a stream: each processor has a block with a run of rows,
// which one of its warps brings through a ring in shared memory while the others sum columns. What weighs a row is relative to the largest
// logit and the sum of the block's own run, so no block waits for the others; a second launch, of one cluster for each position, weighs the
// blocks' sums by what their logits come to among all. The cut into runs and the order of all sums are fixed.
#include <cfloat>
#include <cmath>

#include "product.cuh"
#include "team.cuh"
#include "thought.cuh"
#include "token_row.cuh"
#include "wgmma.cuh"

namespace latentwire::cuda {
namespace {

constexpr int columns_each = 8;
// Times that the columns of all threads fit into a row, at most.
constexpr int most_rounds = 2;
constexpr int most_summing = 512;
constexpr int64_t most_columns = int64_t{most_rounds} * most_summing * columns_each;
// A block of mix_kernel leaves the registers of another, so that one of gather_kernel begins beside it; elsewhere it is empty, and small
// processors refuse the number.
#ifdef LATENT_WGMMA
constexpr int most_together = 2;
#else
constexpr int most_together = 1;
#endif
constexpr uint32_t least_stages = 3;
constexpr uint32_t most_stages = 16;
constexpr int64_t least_rows = 16;
constexpr int64_t most_rows = 4096;
constexpr int64_t most_splits = 256;
// Rows that are waited for at a time come to about this much.
constexpr int64_t stage_bytes = 40960;
constexpr int gather_threads = 512;
// Shared memory of a processor that is left to a block of gather_kernel, and of a block of mix_kernel that is not the ring's or its
// weights'.
constexpr int gather_shared = 16 * 1024;
constexpr int other_shared = 2 * 1024;

// What a block knows of its logits z. y is (z - their largest) / temperature.
struct Part {
  uint64_t top;     // the largest, the first of equals: order_of(z), then ~id; all ones if a logit is bad
  double rest;      // sum of exp(y) but for the largest
  double weighted;  // sum of y exp(y)
  uint64_t finite;  // tokens above -infinity
};

struct Job {
  ThoughtArgs args;
  RowPlan plan;
};

#ifdef LATENT_WGMMA

__device__ inline Part* parts_of(const Job& job, int64_t row) noexcept {
  return reinterpret_cast<Part*>(static_cast<char*>(job.args.workspace) + static_cast<size_t>(row) * job.plan.position_bytes);
}
__device__ inline float* partials_of(const Job& job, int64_t row) noexcept {
  return reinterpret_cast<float*>(reinterpret_cast<char*>(parts_of(job, row)) + job.plan.partials);
}

// -infinity for a masked token.
__device__ inline float logit_at(const ThoughtArgs& a, int64_t row, int64_t id) noexcept {
  const bool masked = a.masked != nullptr && (a.masked[id / 32] >> (id % 32) & 1U) != 0;
  return masked ? -INFINITY : load_float(a.dtype, a.logits, row * a.logit_stride + id);
}

// A multiple of 16 bytes to shared memory, both at multiples of 16.
__device__ inline void copy_row(const void* from, void* to, uint32_t bytes, uint64_t* barrier) noexcept {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// Eight columns of a row in shared memory.
template <RowFormat format>
__device__ inline void near_columns(const uint8_t* row, uint32_t column, float (&x)[columns_each]) noexcept {
  typename TokenRow<format>::Raw raw;
  if constexpr (format == RowFormat::f32 || format == RowFormat::f16 || format == RowFormat::bf16) {
    constexpr uint32_t size = format == RowFormat::f32 ? 4 : 2;
    const auto* words = reinterpret_cast<const uint4*>(row + column * size);
#pragma unroll
    for (uint32_t i = 0; i < size / 2; i++) raw.words[i] = words[i];
  } else {
    raw = TokenRow<format>::load(row, column, columns_each, false);
  }
  TokenRow<format>::numbers(raw, x);
}

#endif  // LATENT_WGMMA

// Block x sums run x of the rows for position y: the last warp brings rows, the others sum.
template <RowFormat format>
__global__ void __launch_bounds__(most_summing + 32, most_together) mix_kernel(const __grid_constant__ Job job) {
#ifdef LATENT_WGMMA
  extern __shared__ uint4 dynamic[];
  __shared__ uint64_t full[most_stages];
  __shared__ uint64_t empty[most_stages];
  __shared__ uint64_t room[32];
  const ThoughtArgs& a = job.args;
  const RowPlan& plan = job.plan;
  auto* ring = reinterpret_cast<uint8_t*>(dynamic);                                                 // [stages, stage_rows, row_bytes]
  auto* weights = reinterpret_cast<float*>(ring + plan.stages * plan.stage_rows * plan.row_bytes);  // [rows]
  const uint32_t summing = blockDim.x - 32;
  const bool brings = threadIdx.x >= summing;
  const uint32_t lane = threadIdx.x % 32;
  const int64_t position = blockIdx.y;
  const int64_t first = int64_t{blockIdx.x} * plan.rows;
  const auto rows = static_cast<uint32_t>(min(int64_t{plan.rows}, a.table.count - first));
  const uint32_t pieces = ceil_div(rows, plan.stage_rows);
  const uint8_t* table = static_cast<const uint8_t*>(a.table.data) + first * a.table.row_bytes;
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < plan.stages; i++) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, summing / 32);
    }
    barrier_init_fence();
  }
  let_next_begin();
  // who fills the ring knows only later that all is written; the cache may be filled at once
  if (brings) {
    for (uint32_t i = lane; i < min(rows, plan.stages * plan.stage_rows); i += 32)
      prefetch_to_cache(table + i * a.table.row_bytes, plan.row_bytes);
  }
  __syncthreads();
  wait_for_previous();

  const auto bring = [&](uint32_t piece) {
    const uint32_t stage = piece % plan.stages;
    const uint32_t begin = piece * plan.stage_rows;
    const uint32_t here = min(plan.stage_rows, rows - begin);
    if (lane == 0) barrier_expect(full + stage, here * plan.row_bytes);
    __syncwarp();
    if (lane < here)
      copy_row(table + (begin + lane) * a.table.row_bytes, ring + (stage * plan.stage_rows + lane) * plan.row_bytes, plan.row_bytes,
               full + stage);
  };
  if (brings) {
    for (uint32_t piece = 0; piece < min(pieces, plan.stages); piece++) bring(piece);
  }

  // What weighs the rows, while the first of them come. Thread by thread the same ones in every loop.
  const auto each = [&](auto f) {
    for (uint32_t i = threadIdx.x; i < rows; i += blockDim.x) f(i, static_cast<uint32_t>(first) + i);
  };
  uint64_t top = 0;
  each([&](uint32_t i, uint32_t id) {
    const float z = logit_at(a, position, id);
    weights[i] = z;
    top = max(top, z < INFINITY ? (uint64_t{order_of(z)} << 32) | (0xFFFF'FFFFU - id) : ~uint64_t{0});
  });
  top = block_max(top, room);
  const double largest = logit_of(static_cast<uint32_t>(top >> 32));
  const uint32_t argmax = 0xFFFF'FFFFU - static_cast<uint32_t>(top);
  const double temperature = a.temperature;
  double rest = 0;
  double weighted = 0;
  uint64_t finite = 0;
  each([&](uint32_t i, uint32_t id) {
    const float z = weights[i];
    double q = 0;
    if (z > -INFINITY) {
      const double y = (z - largest) / temperature;
      q = exp(y);
      if (id != argmax) rest += q;
      weighted += q * y;
      finite++;
    }
    weights[i] = static_cast<float>(q);
  });
  rest = block_sum(rest, reinterpret_cast<double*>(room));
  weighted = block_sum(weighted, reinterpret_cast<double*>(room));
  finite = block_sum(finite, room);
  // The row of the token is added in the end, with all that weighs it: no digits are lost where b p is nearly -a.
  const int32_t token = a.token != 0 ? a.tokens[position] : -1;
  const double factor = 1 / (rest + 1);
  each([&](uint32_t i, uint32_t id) { weights[i] = static_cast<int32_t>(id) == token ? 0 : static_cast<float>(weights[i] * factor); });
  if (threadIdx.x == 0) parts_of(job, position)[blockIdx.x] = {top, rest, weighted, finite};
  __syncthreads();

  if (brings) {
    for (uint32_t piece = plan.stages; piece < pieces; piece++) {
      barrier_wait(empty + piece % plan.stages, (piece / plan.stages - 1) & 1U);
      bring(piece);
    }
    return;
  }
  const auto width = static_cast<uint32_t>(a.table.width);
  float sums[most_rounds][columns_each] = {};
  for (uint32_t piece = 0; piece < pieces; piece++) {
    const uint32_t stage = piece % plan.stages;
    const uint32_t begin = piece * plan.stage_rows;
    const uint32_t here = min(plan.stage_rows, rows - begin);
    const uint8_t* near = ring + stage * plan.stage_rows * plan.row_bytes;
    barrier_wait(full + stage, piece / plan.stages & 1U);
#pragma unroll
    for (uint32_t r = 0; r < most_rounds; r++) {
      const uint32_t column = (r * summing + threadIdx.x) * columns_each;
      if (column >= width) continue;
#pragma unroll 4
      for (uint32_t i = 0; i < here; i++) {
        float x[columns_each];
        near_columns<format>(near + i * plan.row_bytes, column, x);
        const float weight = weights[begin + i];
#pragma unroll
        for (int k = 0; k < columns_each; k++) sums[r][k] = fmaf(weight, x[k], sums[r][k]);
      }
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(empty + stage);
  }
#pragma unroll
  for (uint32_t r = 0; r < most_rounds; r++) {
    const uint32_t column = (r * summing + threadIdx.x) * columns_each;
    if (column >= width) continue;
    auto* out = reinterpret_cast<float4*>(partials_of(job, position) + int64_t{blockIdx.x} * width + column);
    out[0] = {sums[r][0], sums[r][1], sums[r][2], sums[r][3]};
    out[1] = {sums[r][4], sums[r][5], sums[r][6], sums[r][7]};
  }
#else
  (void)job;
#endif
}

// A cluster puts together what the blocks of a position have found, each of its blocks a run of the columns.
template <RowFormat format>
__global__ void __launch_bounds__(gather_threads) gather_kernel(const __grid_constant__ Job job) {
#ifdef LATENT_WGMMA
  __shared__ TeamShared shared;
  __shared__ float shares[most_splits];
  __shared__ float4 groups_sums[gather_threads];
  __shared__ uint64_t room[32];
  const ThoughtArgs& a = job.args;
  const uint32_t splits = job.plan.splits;
  const auto width = static_cast<uint32_t>(a.table.width);
  const int64_t position = blockIdx.x / most_team;
  Team team(nullptr, most_team, &shared);
  const bool speaks = team.thread() == 0;
  let_next_begin();
  wait_for_previous();
  team.meet();

  const Part* parts = parts_of(job, position);
  uint64_t top = 0;
  for (uint32_t i = threadIdx.x; i < splits; i += blockDim.x) top = max(top, parts[i].top);
  top = block_max(top, room);
  const double largest = logit_of(static_cast<uint32_t>(top >> 32));
  if (top == ~uint64_t{0} || largest == -INFINITY) {
    if (speaks) a.faults[position] = top == ~uint64_t{0} ? ThoughtFault::bad_logit : ThoughtFault::no_token;
    return;
  }
  const double temperature = a.temperature;
  double rest = 0;
  double weighted = 0;
  uint64_t finite = 0;
  for (uint32_t i = threadIdx.x; i < splits; i += blockDim.x) {
    const Part part = parts[i];
    const double own = logit_of(static_cast<uint32_t>(part.top >> 32));
    const double shift = own == -INFINITY ? 0 : (own - largest) / temperature;
    const double mass = own == -INFINITY ? 0 : exp(shift) * (part.rest + 1);
    // The largest term is added last: what is left is small where p is nearly 1, and must not drown in it.
    rest += part.top == top ? part.rest : mass;
    weighted += exp(shift) * part.weighted + mass * shift;
    finite += part.finite;
    shares[i] = static_cast<float>(mass);
  }
  rest = block_sum(rest, reinterpret_cast<double*>(room));
  weighted = block_sum(weighted, reinterpret_cast<double*>(room));
  finite = block_sum(finite, room);
  const double sum = rest + 1;
  const double factor = a.mix / sum;
  for (uint32_t i = threadIdx.x; i < splits; i += blockDim.x) shares[i] = static_cast<float>(shares[i] * factor);
  if (speaks) {
    a.faults[position] = ThoughtFault::none;
    if (a.stats != nullptr) {
      const double entropy = fmax(0.0, (log1p(rest) - weighted / sum) * log2_e);
      const auto argmax = static_cast<int32_t>(0xFFFF'FFFFU - static_cast<uint32_t>(top));
      a.stats[position] = {entropy, 1 / sum, exp2(entropy), static_cast<int64_t>(finite), argmax, 0};
    }
  }
  __syncthreads();

  // a thread has four columns, and every `groups`-th split
  const uint32_t quads = ceil_div(width, most_team * 4);
  const uint32_t groups = min(16U, blockDim.x / quads);
  const uint32_t group = threadIdx.x / quads;
  const uint32_t column = (team.rank() * quads + threadIdx.x % quads) * 4;
  float4 e = {0, 0, 0, 0};
  if (group < groups && column < width) {
    const float* partials = partials_of(job, position) + column;
#pragma unroll 8
    for (uint32_t i = group; i < splits; i += groups) {
      const float4 x = __ldcg(reinterpret_cast<const float4*>(partials + int64_t{i} * width));
      e.x = fmaf(shares[i], x.x, e.x);
      e.y = fmaf(shares[i], x.y, e.y);
      e.z = fmaf(shares[i], x.z, e.z);
      e.w = fmaf(shares[i], x.w, e.w);
    }
  }
  groups_sums[threadIdx.x] = e;
  __syncthreads();
  const int32_t token = a.token != 0 ? a.tokens[position] : 0;
  if (token < 0 || token >= a.table.count) {
    if (speaks) a.faults[position] = ThoughtFault::bad_sum;
    return;
  }
  const bool owns = group == 0 && column < width;
  float numbers[4] = {};
  double square = 0;
  double bad = 0;
  if (owns) {
    for (uint32_t i = 1; i < groups; i++) {
      const float4 x = groups_sums[i * quads + threadIdx.x];
      e.x += x.x, e.y += x.y, e.z += x.z, e.w += x.w;
    }
    numbers[0] = e.x, numbers[1] = e.y, numbers[2] = e.z, numbers[3] = e.w;
    if (a.token != 0) {
      const float z = logit_at(a, position, token);
      const auto weight = static_cast<float>(z > -INFINITY ? a.token + exp((z - largest) / temperature) * factor : double{a.token});
      const uint8_t* of_token = static_cast<const uint8_t*>(a.table.data) + token * a.table.row_bytes;
      float x[columns_each];
      near_columns<format>(of_token, column / columns_each * columns_each, x);
#pragma unroll
      for (int i = 0; i < 4; i++) numbers[i] = fmaf(weight, column % columns_each == 0 ? x[i] : x[i + 4], numbers[i]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (a.extra != 0) numbers[i] += a.extra * a.extras[position * width + column + i];
      square += static_cast<double>(numbers[i]) * static_cast<double>(numbers[i]);
      if (!(fabsf(numbers[i]) <= FLT_MAX)) bad = 1;
    }
  }
  double all[2];
  team.put<double>(0, square, Add{});
  team.put<double>(1, bad, Add{});
  team.agree(all, 0.0, Add{});
  // who finds a number that is none after its scaling says so after the first thread has said that all is well
  const double scale = all[1] == 0 && a.norm >= 0 && all[0] > 0 ? a.norm / sqrt(all[0]) : 1;
  bool good = all[1] == 0;
  if (owns) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float scaled = scale <= 1e38 ? numbers[i] * static_cast<float>(scale) : static_cast<float>(numbers[i] * scale);
      good = good && fabsf(scaled) <= FLT_MAX;
      a.out[position * width + column + i] = scaled;
    }
    if (!good) a.faults[position] = ThoughtFault::bad_sum;
  }
#else
  (void)job;
#endif
}

// Bytes that `width` columns take.
int64_t bytes_of(RowFormat format, int64_t width) noexcept {
  switch (format) {
    case RowFormat::f32:
      return width * 4;
    case RowFormat::f16:
    case RowFormat::bf16:
      return width * 2;
    case RowFormat::q8_0:
      return width / 32 * 34;
    case RowFormat::q4_0:
      return width / 32 * 18;
    case RowFormat::q4_K:
      return width / 256 * 144;
    case RowFormat::q6_K:
      return width / 256 * 210;
  }
  return 0;
}

// What does not depend on where the table lies: the splits and the workspace.
bool plan_splits(const ThoughtArgs& a, RowPlan* plan) noexcept {
  int major = 0;
  int processors = 0;
  if (device_attribute(cudaDevAttrComputeCapabilityMajor, &major) != cudaSuccess || major != 9 ||
      device_attribute(cudaDevAttrMultiProcessorCount, &processors) != cudaSuccess)
    return false;
  if (a.table.width % columns_each != 0 || a.table.width < 1 || a.table.width > most_columns) return false;
  int64_t rows = ceil_div(a.table.count, processors < most_splits ? processors : most_splits);
  if (rows < least_rows) rows = least_rows;
  if (rows > most_rows) return false;
  plan->rows = static_cast<uint32_t>(rows);
  plan->splits = static_cast<uint32_t>(ceil_div(a.table.count, rows));
  plan->partials = round_up<size_t>(plan->splits * sizeof(Part), 256);
  plan->position_bytes = plan->partials + round_up<size_t>(static_cast<size_t>(plan->splits * a.table.width) * sizeof(float), 256);
  return true;
}

size_t ring_bytes(const RowPlan& plan) noexcept { return size_t{plan.stages} * plan.stage_rows * plan.row_bytes; }

template <RowFormat format>
cudaError_t launch(const Job& job, cudaStream_t stream) noexcept {
  const auto mix = mix_kernel<format>;
  const auto groups = static_cast<int>(job.args.table.width / columns_each);
  const int threads = round_up(ceil_div(groups, ceil_div(groups, most_summing)), 32) + 32;
  const size_t shared_bytes = ring_bytes(job.plan) + job.plan.rows * sizeof(float);
  const auto batch = static_cast<uint32_t>(job.args.batch);
  LATENT_CUDA_TRY(cudaFuncSetAttribute(mix, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  // both lie on a processor at a time, so neither may want more of its memory as cache than the other
  for (const auto kernel : {mix, gather_kernel<format>})
    LATENT_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
  LATENT_CUDA_TRY(launch_early(mix, dim3(job.plan.splits, batch), threads, shared_bytes, 1, stream, job));
  return launch_early(gather_kernel<format>, dim3(batch * most_team), gather_threads, 0, most_team, stream, job);
}

}  // namespace

bool plan_rows(const ThoughtArgs& a, RowPlan* plan) noexcept {
  if (!plan_splits(a, plan)) return false;
  const int64_t row_bytes = bytes_of(a.table.format, a.table.width);
  if (row_bytes % 16 != 0 || a.table.row_bytes % 16 != 0 || !aligned(a.table.data, 16)) return false;
  int of_processor = 0;
  if (device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, &of_processor) != cudaSuccess) return false;
  const int64_t ring = of_processor - gather_shared - other_shared - plan->rows * int64_t{sizeof(float)};
  const int64_t stage_rows = stage_bytes / row_bytes;
  plan->row_bytes = static_cast<uint32_t>(row_bytes);
  plan->stage_rows = static_cast<uint32_t>(stage_rows < 1 ? 1 : stage_rows > 32 ? 32 : stage_rows);
  const int64_t stages = ring / (plan->stage_rows * row_bytes);
  if (stages < least_stages) return false;
  plan->stages = stages < most_stages ? static_cast<uint32_t>(stages) : most_stages;
  return true;
}

size_t thought_all_workspace(const ThoughtArgs& a) noexcept {
  RowPlan plan;
  return plan_splits(a, &plan) ? static_cast<size_t>(a.batch) * plan.position_bytes : 0;
}

cudaError_t thought_all(const ThoughtArgs& a, const RowPlan& plan, cudaStream_t stream) noexcept {
  const Job job{a, plan};
  switch (a.table.format) {
    case RowFormat::f32:
      return launch<RowFormat::f32>(job, stream);
    case RowFormat::f16:
      return launch<RowFormat::f16>(job, stream);
    case RowFormat::bf16:
      return launch<RowFormat::bf16>(job, stream);
    case RowFormat::q8_0:
      return launch<RowFormat::q8_0>(job, stream);
    case RowFormat::q4_0:
      return launch<RowFormat::q4_0>(job, stream);
    case RowFormat::q4_K:
      return launch<RowFormat::q4_K>(job, stream);
    case RowFormat::q6_K:
      return launch<RowFormat::q6_K>(job, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace latentwire::cuda
