// The first launch of a thought step (thought.cu): what is selected of the logits of a position, and what it weighs.
#include <cfloat>
#include <cmath>

#include "product.cuh"
#include "thought_job.cuh"
#include "thought_noise.cuh"

namespace latentwire::cuda::thought {
namespace {

constexpr int select_threads = 1024;
// Tokens that a warp looks at in one go: four neighbours for each lane.
constexpr uint32_t warp_tokens = 128;
// Shared memory that a block may keep logits in.
constexpr uint32_t most_kept_bytes = 96 * 1024;
// Selections up to here are weighed by one block.
constexpr int64_t alone_tokens = 4096;

// The logits of a position as one warp of the team sees them: its run of neighbours. What a lane looks at nobody else does, so nobody
// waits.
template <class T>
class Logits {
 public:
  __device__ Logits(const Job& job, int64_t row, const Team& team, float4* kept) noexcept
      : z_(static_cast<const T*>(job.args.logits) + row * job.args.logit_stride),
        masked_(job.args.masked),
        count_(static_cast<uint32_t>(job.args.table.count)),
        kept_(job.kept ? kept + threadIdx.x / 32 * job.chunks * 32 + threadIdx.x % 32 : nullptr),
        vector_(job.vector) {
    const uint32_t chunks = ceil_div(count_, warp_tokens);
    first_ = min(team.thread() / 32 * job.chunks, chunks);
    last_ = min(first_ + job.chunks, chunks);
    if (kept_ == nullptr) return;
#pragma unroll 4
    for (uint32_t chunk = first_; chunk < last_; chunk++) {
      float z[4];
      load(chunk * warp_tokens + threadIdx.x % 32 * 4, z);
      kept_[(chunk - first_) * 32] = {z[0], z[1], z[2], z[3]};
    }
  }

  // Calls f(id, z) for four neighbours at a time, z of masked and missing ones -infinity. All lanes of a warp come together.
  template <class F>
  __device__ void each(F f) const noexcept {
#pragma unroll 2
    for (uint32_t chunk = first_; chunk < last_; chunk++) {
      const uint32_t id = chunk * warp_tokens + threadIdx.x % 32 * 4;
      float z[4];
      if (kept_ != nullptr) {
        const float4 four = kept_[(chunk - first_) * 32];
        z[0] = four.x, z[1] = four.y, z[2] = four.z, z[3] = four.w;
      } else {
        load(id, z);
      }
      f(id, z);
    }
  }
  __device__ float at(uint32_t id) const noexcept { return to_float(z_[id]); }
  __device__ bool counts(uint32_t id) const noexcept {
    return at(id) > -INFINITY && (masked_ == nullptr || (masked_[id / 32] >> (id % 32) & 1U) == 0);
  }

 private:
  __device__ void load(uint32_t id, float (&z)[4]) const noexcept {
    if (vector_ && id + 4 <= count_) {
      if constexpr (sizeof(T) == 4) {
        unpack(*reinterpret_cast<const uint4*>(z_ + id), z, float{});
      } else {
        const uint2 half = *reinterpret_cast<const uint2*>(z_ + id);
        float wide[8];
        unpack({half.x, half.y, 0, 0}, wide, T{});
#pragma unroll
        for (int i = 0; i < 4; i++) z[i] = wide[i];
      }
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 4; i++) z[i] = id + i < count_ ? to_float(z_[id + i]) : -INFINITY;
    }
    if (masked_ == nullptr || id >= count_) return;
    const uint32_t bits = masked_[id / 32] >> (id % 32);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if ((bits >> i & 1U) != 0) z[i] = -INFINITY;
    }
  }

  const T* z_;
  const uint32_t* masked_;
  uint32_t count_;
  float4* kept_;
  bool vector_;
  uint32_t first_;
  uint32_t last_;
};

// What is selected: logits from `least` on, and of those equal to `tie` the first `ties`.
struct Selection {
  float least;
  float tie;
  uint32_t ties;
  int64_t count;
};

struct Sums {
  float max;
  double sum;
  uint32_t finite;  // tokens above -infinity
};

// 2^y for y from -126 on.
__device__ inline float power_of_two(float y) noexcept {
  float q;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(q) : "f"(y));
  return q;
}
__device__ inline float exponent(float z, float max, float scale) noexcept { return fmaxf(-126.0F, __fmul_rn(__fsub_rn(z, max), scale)); }

template <class T>
__device__ Selection select(const Job& job, const Logits<T>& logits, Team& team, const Sums& sums) {
  const ThoughtArgs& a = job.args;
  const auto limit = static_cast<double>(a.top_k > 0 ? a.top_k : a.table.count);
  const bool nucleus = a.top_p < 1;
  const double target = a.top_p * sums.sum;
  // Enough reaches `low`, not enough `high`; how many do, and what they weigh.
  uint32_t low = order_of(-FLT_MAX);
  uint32_t high = order_of(sums.max) + 1;
  double low_count = sums.finite;
  double high_count = 0;
  double high_mass = 0;
  if (low_count <= limit && (!nucleus || sums.sum <= target)) return {-FLT_MAX, NAN, 0, static_cast<int64_t>(sums.finite)};
  // The first thresholds are where the logits of models lie.
  uint32_t tries[3] = {order_of(sums.max - 24), order_of(sums.max - 12), order_of(sums.max - 6)};
  while (high - low > 1 && low_count - high_count > 1 && (nucleus || low_count != limit)) {
    const float bounds[3] = {logit_of(tries[0]), logit_of(tries[1]), logit_of(tries[2])};
    uint32_t found[3] = {};
    float masses[3] = {};
    logits.each([&](uint32_t, const float(&z)[4]) {
      // most reach none of the thresholds
      if (fmaxf(fmaxf(z[0], z[1]), fmaxf(z[2], z[3])) < bounds[0]) return;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float q = nucleus ? power_of_two(exponent(z[i], sums.max, job.scale)) : 0;
#pragma unroll
        for (int j = 0; j < 3; j++) {
          const bool reaches = z[i] >= bounds[j];
          found[j] += static_cast<uint32_t>(reaches);
          masses[j] += reaches ? q : 0;
        }
      }
    });
    double counts[6];
#pragma unroll
    for (uint32_t j = 0; j < 3; j++) {
      team.put<double>(j, found[j], Add{});
      if (nucleus) team.put<double>(3 + j, masses[j], Add{});
    }
    team.agree(counts, 0.0, Add{});
#pragma unroll
    for (int j = 0; j < 3; j++) {
      const bool enough = counts[j] >= limit || (nucleus && counts[3 + j] >= target);
      if (enough && tries[j] > low) {
        low = tries[j];
        low_count = counts[j];
      } else if (!enough && tries[j] < high) {
        high = tries[j];
        high_count = counts[j];
        high_mass = counts[3 + j];
      }
    }
#pragma unroll
    for (uint32_t j = 0; j < 3; j++) tries[j] = low + static_cast<uint32_t>(uint64_t{high - low} * (j + 1) / 4);
  }
  if (low_count - high_count <= 1 || (!nucleus && low_count == limit)) return {logit_of(low), NAN, 0, static_cast<int64_t>(low_count)};
  // equal logits, of which the first ones are taken
  double ties = limit - high_count;
  if (nucleus) {
    const auto each = static_cast<double>(power_of_two(exponent(logit_of(low), sums.max, job.scale)));
    ties = fmin(ties, ceil((target - high_mass) / each));
  }
  ties = fmax(1.0, fmin(ties, low_count - high_count));
  return {logit_of(high), logit_of(low), static_cast<uint32_t>(ties), static_cast<int64_t>(high_count + ties)};
}

// Writes the ids of the selection in ascending order.
template <class T>
__device__ void list(const Logits<T>& logits, Team& team, const Selection& s, uint64_t* counts, int32_t* ids, int32_t* also) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t before_lane = (1U << lane) - 1;
  uint32_t taken = 0;
  uint32_t tied = 0;
  const float lowest = fminf(s.least, s.tie);
  const auto none = [&](const float(&z)[4]) {
    return __ballot_sync(all_lanes, fmaxf(fmaxf(z[0], z[1]), fmaxf(z[2], z[3])) >= lowest) == 0;
  };
  logits.each([&](uint32_t, const float(&z)[4]) {
    if (none(z)) return;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      taken += static_cast<uint32_t>(__popc(__ballot_sync(all_lanes, z[i] >= s.least)));
      tied += static_cast<uint32_t>(__popc(__ballot_sync(all_lanes, z[i] == s.tie)));
    }
  });
  // both in one word: of the warps before in this block, and of the blocks before
  if (lane == 0) counts[warp] = (uint64_t{tied} << 32) | taken;
  __syncthreads();
  const uint64_t of_warp = lane < blockDim.x / 32 ? counts[lane] : 0;
  uint64_t before = warp_sum(lane < warp ? of_warp : uint64_t{0});
  before += team.before(warp_sum(of_warp));
  taken = static_cast<uint32_t>(before);
  tied = static_cast<uint32_t>(before >> 32);
  logits.each([&](uint32_t id, const float(&z)[4]) {
    if (none(z)) return;
    uint32_t takes[4];
    uint32_t ties[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      takes[i] = __ballot_sync(all_lanes, z[i] >= s.least);
      ties[i] = __ballot_sync(all_lanes, z[i] == s.tie);
    }
    uint32_t take_at = taken;
    uint32_t tie_at = tied;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      take_at += static_cast<uint32_t>(__popc(takes[i] & before_lane));
      tie_at += static_cast<uint32_t>(__popc(ties[i] & before_lane));
      taken += static_cast<uint32_t>(__popc(takes[i]));
      tied += static_cast<uint32_t>(__popc(ties[i]));
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const bool take = (takes[i] >> lane & 1U) != 0;
      const bool tie = (ties[i] >> lane & 1U) != 0;
      if (take || (tie && tie_at < s.ties)) {
        const uint32_t at = take_at + min(tie_at, s.ties);
        ids[at] = static_cast<int32_t>(id) + i;
        if (also != nullptr) also[at] = static_cast<int32_t>(id) + i;
      }
      take_at += static_cast<uint32_t>(take);
      tie_at += static_cast<uint32_t>(tie);
    }
  });
}

// The weights of the selection: with noise, summing to 1, and as they enter the sum of rows.
template <class T>
__device__ void weigh(const Job& job, int64_t row, const Logits<T>& logits, Team& team, const Sums& sums, int64_t count,
                      const Position& position) {
  const ThoughtArgs& a = job.args;
  const double temperature = a.temperature;
  const double amount = a.noise_amount;
  const auto each = [&](auto f) {
    for (int64_t i = team.thread(); i < count; i += team.threads()) f(i, static_cast<uint32_t>(__ldcg(position.ids + i)));
  };
  const auto logarithm = [&](uint32_t id) { return (static_cast<double>(logits.at(id)) - sums.max) / temperature; };
  const auto agreed = [&](double x, double neutral, auto op) {
    double all[1];
    team.put<double>(0, x, op);
    team.agree(all, neutral, op);
    return all[0];
  };
  double total = 0;
  double largest = 0;
  const auto noisy = [&](uint32_t id) {
    const double log_p = logarithm(id);
    if (a.noise == ThoughtNoise::gumbel) return (log_p + gumbel(Draws(a.draws + 2 * row, id))) / amount;
    const double shape = amount * (exp(log_p) / total);
    return shape > 0 ? log_gamma_draw(Draws(a.draws + 2 * row, id), shape) : -INFINITY;
  };
  const auto numerator = [&](uint32_t id) { return a.noise == ThoughtNoise::none ? exp(logarithm(id)) : exp(noisy(id) - largest); };
  if (a.noise == ThoughtNoise::dirichlet) {
    each([&](int64_t, uint32_t id) { total += exp(logarithm(id)); });
    total = agreed(total, 0.0, Add{});
  }
  if (a.noise != ThoughtNoise::none) {
    double most = -INFINITY;
    each([&](int64_t, uint32_t id) { most = fmax(most, noisy(id)); });
    largest = agreed(most, static_cast<double>(-INFINITY), Larger{});
  }
  double sum = 0;
  double square = 0;
  each([&](int64_t, uint32_t id) {
    const double e = numerator(id);
    sum += e;
    square += e * e;
  });
  sum = agreed(sum, 0.0, Add{});
  const double factor = a.unit_mix ? a.mix / (sqrt(agreed(square, 0.0, Add{})) / sum) : a.mix;
  const int64_t room = a.top_k > 0 && a.top_k < a.table.count ? a.top_k : a.table.count;
  const bool adds_token = a.token != 0 && a.out != nullptr && a.mix != 0;
  const int32_t token = adds_token ? a.tokens[row] : -1;
  each([&](int64_t i, uint32_t id) {
    const double p = numerator(id) / sum;
    if (a.weights != nullptr) a.weights[row * room + i] = static_cast<float>(p);
    // a token that is in the mix takes its own weight in: no digits are lost where b p is nearly -a
    const bool own = static_cast<int32_t>(id) == token;
    position.weights[i] = static_cast<float>(own ? a.token + p * factor : p * factor);
    if (own) position.head->merged = 1;
  });
}

template <class T>
__global__ void __launch_bounds__(select_threads) select_kernel(const __grid_constant__ Job job) {
  extern __shared__ float4 kept[];
  __shared__ TeamShared shared;
  __shared__ uint64_t counts[most_warps];
  let_next_begin();
  wait_for_previous();
  const ThoughtArgs& a = job.args;
  const int64_t row = job.first_row + blockIdx.x / job.team;
  const Position position(job, row);
  Team team(&position.head->team, job.team, &shared);
  const Logits<T> logits(job, row, team, kept);
  team.meet();
  const bool speaks = team.thread() == 0;

  // the largest, the first of equals; all ones if a logit is bad
  float best = -INFINITY;
  uint32_t best_id = 0xFFFF'FFFFU;
  bool bad = false;
  logits.each([&](uint32_t id, const float(&z)[4]) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
      bad |= !(z[i] < INFINITY);
      if (z[i] > best) {
        best = z[i];
        best_id = id + i;
      }
    }
  });
  uint64_t top[1];
  team.put<uint64_t>(0, bad ? ~uint64_t{0} : (uint64_t{order_of(best)} << 32) | (0xFFFF'FFFFU - best_id), Larger{});
  team.agree(top, uint64_t{0}, Larger{});
  Sums sums;
  sums.max = logit_of(static_cast<uint32_t>(top[0] >> 32));
  const uint32_t argmax = 0xFFFF'FFFFU - static_cast<uint32_t>(top[0]);
  const ThoughtFault fault = top[0] == ~uint64_t{0}  ? ThoughtFault::bad_logit
                             : sums.max == -INFINITY ? ThoughtFault::no_token
                                                     : ThoughtFault::none;
  if (speaks) {
    position.head->fault = fault;
    position.head->count = 0;
    position.head->merged = 0;
    for (uint32_t& done : position.head->done) done = 0;
    a.faults[row] = fault;
  }
  if (fault != ThoughtFault::none) return;

  // The largest term is added last: what is left is small where p is nearly 1, and must not drown in it.
  double sum = 0;
  double weighted = 0;
  uint32_t finite = 0;
  logits.each([&](uint32_t id, const float(&z)[4]) {
    float q_sum = 0;
    float y_sum = 0;
    const bool has_largest = id == (argmax & ~3U);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
      const float y = exponent(z[i], sums.max, job.scale);
      const float q = has_largest && id + i == argmax ? 0.0F : power_of_two(y);
      q_sum += q;
      y_sum += q * y;
      finite += z[i] >= -FLT_MAX ? 1U : 0U;
    }
    sum += static_cast<double>(q_sum);
    weighted += static_cast<double>(y_sum);
  });
  // short sums in f32, long ones in f64
  double totals[3];
  team.put<double>(0, static_cast<float>(sum), Add{});
  team.put<double>(1, static_cast<float>(weighted), Add{});
  team.put<double>(2, finite, Add{});
  team.agree(totals, 0.0, Add{});
  sums.sum = totals[0] + 1;
  sums.finite = static_cast<uint32_t>(totals[2]);

  Selection selection{-FLT_MAX, NAN, 0, 0};
  const bool mixes = a.mix != 0 && a.out != nullptr;
  if (job.whole) {
    selection.count = sums.finite;
    if (speaks) {
      const int32_t token = a.token != 0 ? a.tokens[row] : -1;
      position.head->merged = token >= 0 && token < a.table.count && logits.counts(static_cast<uint32_t>(token)) ? 1 : 0;
      position.head->max = sums.max;
      position.head->factor = a.mix / sums.sum;
    }
  } else if (a.mix != 0 || a.ids != nullptr || a.weights != nullptr) {
    selection = select(job, logits, team, sums);
    const int64_t room = a.top_k > 0 && a.top_k < a.table.count ? a.top_k : a.table.count;
    list(logits, team, selection, counts, position.ids, a.ids == nullptr ? nullptr : a.ids + row * room);
    if (mixes || a.weights != nullptr) {
      team.meet();
      // what one block does in a few rounds is not worth the others' time
      if (selection.count <= alone_tokens) {
        if (team.rank() != 0) return;
        team.go_alone();
      }
      weigh(job, row, logits, team, sums, selection.count, position);
    }
  }
  if (!speaks) return;
  if (mixes) position.head->count = job.whole ? a.table.count : selection.count;
  if (a.stats == nullptr) return;
  const double entropy = fmax(0.0, log1p(totals[0]) * log2_e - totals[1] / sums.sum);
  a.stats[row] = {entropy, 1 / sums.sum, exp2(entropy), selection.count, static_cast<int32_t>(argmax), 0};
}

template <class T>
cudaError_t launch_for(Job job, cudaStream_t stream) noexcept {
  const ThoughtArgs& a = job.args;
  const auto kernel = select_kernel<T>;
  cudaFuncAttributes attributes;
  LATENT_CUDA_TRY(cudaFuncGetAttributes(&attributes, kernel));
  int major = 0;
  LATENT_CUDA_TRY(device_attribute(cudaDevAttrComputeCapabilityMajor, &major));
  // less what is static
  int most_shared = 0;
  LATENT_CUDA_TRY(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, &most_shared));
  most_shared = most_shared - static_cast<int>(attributes.sharedSizeBytes);
  if (most_shared > static_cast<int>(most_kept_bytes)) most_shared = static_cast<int>(most_kept_bytes);
  LATENT_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared));
  job.vector = aligned(a.logits, 4 * sizeof(T)) && a.logit_stride % 4 == 0;
  cudaLaunchAttribute launch_attributes[2] = {};
  uint32_t launch_attribute_count = 1;
  int64_t rows_at_once = a.batch;
  if (major >= 9 && attributes.ptxVersion >= 90) {
    job.team = most_team;
    launch_attributes[0].id = cudaLaunchAttributeClusterDimension;
    launch_attributes[0].val.clusterDim = {most_team, 1, 1};
    launch_attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    launch_attributes[1].val.programmaticStreamSerializationAllowed = 1;
    launch_attribute_count = 2;
  } else {
    int multiprocessors = 0;
    int blocks = 0;
    LATENT_CUDA_TRY(device_attribute(cudaDevAttrMultiProcessorCount, &multiprocessors));
    LATENT_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, select_threads, static_cast<size_t>(most_shared)));
    const int together = multiprocessors * blocks;
    if (together < 1) return cudaErrorInvalidConfiguration;
    job.team = together < static_cast<int>(most_team) ? static_cast<uint32_t>(together) : most_team;
    rows_at_once = together / static_cast<int>(job.team);
    launch_attributes[0].id = cudaLaunchAttributeCooperative;
    launch_attributes[0].val.cooperative = 1;
    LATENT_CUDA_TRY(cudaMemset2DAsync(static_cast<char*>(a.workspace) + offsetof(Head, team) + offsetof(TeamRoom, arrived),
                                      job.layout.row_bytes, 0, sizeof(uint32_t), static_cast<size_t>(a.batch), stream));
  }
  const uint32_t chunks = ceil_div(static_cast<uint32_t>(a.table.count), warp_tokens);
  job.chunks = ceil_div(chunks, job.team * (select_threads / 32));
  const uint64_t kept_bytes = uint64_t{job.chunks} * select_threads * sizeof(float4);
  job.kept = kept_bytes <= static_cast<uint64_t>(most_shared);
  for (int64_t row = 0; row < a.batch; row += rows_at_once) {
    const int64_t rows = a.batch - row < rows_at_once ? a.batch - row : rows_at_once;
    job.first_row = row;
    cudaLaunchConfig_t config = {};
    config.dynamicSmemBytes = job.kept ? kept_bytes : 0;
    config.gridDim = dim3(static_cast<uint32_t>(rows) * job.team);
    config.blockDim = dim3(select_threads);
    config.stream = stream;
    config.attrs = launch_attributes;
    config.numAttrs = launch_attribute_count;
    LATENT_CUDA_TRY(cudaLaunchKernelEx(&config, kernel, job));
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t launch_select(const Job& job, cudaStream_t stream) noexcept {
  return for_dtype(job.args.dtype, [&](auto element) { return launch_for<decltype(element)>(job, stream); });
}

}  // namespace latentwire::cuda::thought
