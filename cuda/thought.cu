// A thought step in two launches. In the first, a team of blocks reads the logits of a position once from memory and then from its caches:
// maximum, sums of exponentials, and a search for the least selected logit that tries three thresholds at a time and counts (or weighs)
// what reaches each; then the selection's ids in order and its weights. In the second, blocks sum the rows of the selection, and the last
// to finish adds the rest and brings the sum to its length. Nothing depends on the order in which blocks or threads come.
//
// A mix of the whole vocabulary needs no selection: the first launch finds the maximum and the sum, and the second, whose blocks have begun
// to bring their rows into the second-level cache meanwhile, makes the weights of its rows itself. On Hopper, thought_all.cu takes
// those whose rows bulk copies take.
//
// The second launch begins while the first one ends, and the first while what is before it on the stream does, so a graph of the two would
// save the host's time alone. They may be captured: nothing is allocated, and arguments are taken by value.
#include <cfloat>
#include <cmath>

#include "memory.h"
#include "product.cuh"
#include "team.cuh"
#include "thought.cuh"
#include "token_row.cuh"

namespace latentwire::cuda {
namespace {

constexpr int select_threads = 1024;
// Tokens that a warp looks at in one go: four neighbours for each lane.
constexpr uint32_t warp_tokens = 128;
// Shared memory that a block may keep logits in.
constexpr uint32_t most_kept_bytes = 96 * 1024;
// Selections up to here are weighed by one block.
constexpr int64_t alone_tokens = 4096;
constexpr double two_pi = 6.283185307179586;

// Rows of the table that one block sums at least, and what their sums pass through where there are more.
constexpr int64_t least_split_rows = 16;
constexpr int64_t most_splits = 256;
constexpr int64_t split_group = 16;
constexpr int most_sum_threads = 320;
constexpr int columns_each = 8;
// Bytes that a block of a mix of all rows brings into the cache ahead of time: half of the cache for all blocks.
constexpr uint32_t early_bytes = 96 * 1024;

// Of one position, between the launches.
struct Head {
  TeamRoom team;
  int64_t count;   // rows to be summed
  int32_t merged;  // E[token] is among them
  // of a mix of all rows: what weighs a row is exp((logit - max) / temperature) * factor
  float max;
  double factor;
  ThoughtFault fault;
  uint32_t done[most_splits / split_group + 1];  // of the splits in each group, and of the groups
};

struct Layout {
  int64_t splits = 1;
  size_t ids = 0;
  size_t weights = 0;
  size_t partials = 0;  // [splits + groups, width]
  size_t row_bytes = 0;
};

int64_t room_of(const ThoughtArgs& a) noexcept { return a.top_k > 0 && a.top_k < a.table.count ? a.top_k : a.table.count; }

Layout layout_of(const ThoughtArgs& a) noexcept {
  Layout l;
  const int64_t room = room_of(a);
  const int64_t wanted = ceil_div(room, least_split_rows);
  l.splits = wanted < most_splits ? wanted : most_splits;
  const auto place = [&](size_t bytes) {
    const size_t at = l.row_bytes;
    l.row_bytes += round_up<size_t>(bytes, 256);
    return at;
  };
  place(sizeof(Head));
  l.ids = place(static_cast<size_t>(room) * sizeof(int32_t));
  l.weights = place(static_cast<size_t>(room) * sizeof(float));
  const int64_t partials = l.splits == 1 ? 0 : l.splits + ceil_div(l.splits, split_group);
  l.partials = place(static_cast<size_t>(partials * a.table.width) * sizeof(float));
  return l;
}

struct Job {
  ThoughtArgs args;
  Layout layout;
  int64_t first_row;
  uint32_t team;
  float scale;      // log2(e) / temperature
  uint32_t chunks;  // of a warp
  bool kept;        // a block's logits stay in its shared memory
  bool vector;
  bool whole;  // all rows are mixed by their probabilities
};

struct Position {
  Head* head;
  int32_t* ids;
  float* weights;
  float* partials;

  __device__ Position(const Job& job, int64_t row) noexcept {
    char* at = static_cast<char*>(job.args.workspace) + static_cast<size_t>(row) * job.layout.row_bytes;
    head = reinterpret_cast<Head*>(at);
    ids = reinterpret_cast<int32_t*>(at + job.layout.ids);
    weights = reinterpret_cast<float*>(at + job.layout.weights);
    partials = reinterpret_cast<float*>(at + job.layout.partials);
  }
};

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

// --- Noise, as native/kernels/thought.cpp draws it ---------------------------------------------------------------------------------------

class Draws {
 public:
  __device__ Draws(const uint64_t* draws, uint32_t id) noexcept
      : key_{static_cast<uint32_t>(draws[0]), static_cast<uint32_t>(draws[0] >> 32)},
        counter_{id, static_cast<uint32_t>(draws[1]), static_cast<uint32_t>(draws[1] >> 32), 0} {}

  // Two uniform numbers in (0, 1), of Philox4x32-10.
  __device__ double2 uniforms() noexcept {
    uint32_t c[4] = {counter_[0], counter_[1], counter_[2], counter_[3]};
    uint32_t k[2] = {key_[0], key_[1]};
#pragma unroll
    for (int round = 0; round < 10; round++) {
      const uint64_t a = uint64_t{0xD2511F53U} * c[0];
      const uint64_t b = uint64_t{0xCD9E8D57U} * c[2];
      c[0] = static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0];
      c[1] = static_cast<uint32_t>(b);
      c[2] = static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1];
      c[3] = static_cast<uint32_t>(a);
      k[0] += 0x9E3779B9U;
      k[1] += 0xBB67AE85U;
    }
    counter_[3]++;
    return {uniform(c[0], c[1]), uniform(c[2], c[3])};
  }

 private:
  __device__ static double uniform(uint32_t high, uint32_t low) noexcept {
    return (static_cast<double>(((uint64_t{high} << 32) | low) >> 12) + 0.5) * 0x1p-52;
  }
  uint32_t key_[2];
  uint32_t counter_[4];
};

__device__ double gumbel(Draws draws) noexcept { return -log(-log(draws.uniforms().x)); }

// The logarithm of a draw from Gamma(shape, 1) (Marsaglia and Tsang 2000).
__device__ double log_gamma_draw(Draws draws, double shape) noexcept {
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / sqrt(9 * d);
  const double lift = shape < 1 ? log(draws.uniforms().x) / shape : 0;
  while (true) {
    const double2 polar = draws.uniforms();
    const double x = sqrt(-2 * log(polar.x)) * cos(two_pi * polar.y);
    const double u = draws.uniforms().x;
    const double root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (log(u) < 0.5 * x * x + d - d * v + d * log(v)) return log(d * v) + lift;
  }
}

// --- The first launch --------------------------------------------------------------------------------------------------------------------

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

// --- The second launch -------------------------------------------------------------------------------------------------------------------

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

// --- Launching ---------------------------------------------------------------------------------------------------------------------------

bool valid(const ThoughtArgs& a) noexcept {
  const auto finite = [](float x) { return std::fabs(x) <= FLT_MAX; };
  const bool noise = a.noise == ThoughtNoise::none || (a.noise_amount > 0 && finite(a.noise_amount));
  return finite(a.token) && finite(a.mix) && finite(a.extra) && a.temperature > 0 && finite(a.temperature) && a.top_k >= 0 && a.top_p > 0 &&
         a.top_p <= 1 && noise && !(a.norm > FLT_MAX) && a.norm == a.norm && a.table.count >= 1 &&
         a.table.count < (int64_t{1} << 31) - 128 && a.table.width >= 0 && a.table.width < (int64_t{1} << 30) && a.batch >= 0 &&
         a.batch <= 65535;
}

// Whether all rows are mixed by their probabilities, and nobody asks for what is selected.
bool mixes_all(const ThoughtArgs& a) noexcept {
  return a.out != nullptr && a.mix != 0 && room_of(a) == a.table.count && a.top_p >= 1 && a.noise == ThoughtNoise::none && !a.unit_mix &&
         a.ids == nullptr && a.weights == nullptr;
}

template <class T>
cudaError_t launch_select(Job job, cudaStream_t stream) noexcept {
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

template <RowFormat format>
cudaError_t launch_sum(Job job, int64_t unit, cudaStream_t stream) noexcept {
  const TokenTable& table = job.args.table;
  job.vector = unit > 0 && table.row_bytes % 16 == 0 && aligned(table.data, 16);
  // as many as go over a row in as few rounds as can be
  const int64_t wanted = ceil_div<int64_t>(table.width, columns_each);
  const int64_t rounds = ceil_div<int64_t>(wanted, most_sum_threads);
  const auto threads = static_cast<int>(round_up<int64_t>(ceil_div(wanted, rounds), 32));
  const dim3 grid(static_cast<uint32_t>(job.layout.splits), static_cast<uint32_t>(job.args.batch));
  return launch_early(sum_kernel<format>, grid, threads, 0, 1, stream, job);
}

cudaError_t launch_sum(const Job& job, cudaStream_t stream) noexcept {
  switch (job.args.table.format) {
    case RowFormat::f32:
      return launch_sum<RowFormat::f32>(job, 4, stream);
    case RowFormat::f16:
      return launch_sum<RowFormat::f16>(job, 2, stream);
    case RowFormat::bf16:
      return launch_sum<RowFormat::bf16>(job, 2, stream);
    case RowFormat::q8_0:
      return launch_sum<RowFormat::q8_0>(job, 0, stream);
    case RowFormat::q4_0:
      return launch_sum<RowFormat::q4_0>(job, 0, stream);
    case RowFormat::q4_K:
      return launch_sum<RowFormat::q4_K>(job, 0, stream);
    case RowFormat::q6_K:
      return launch_sum<RowFormat::q6_K>(job, 0, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

size_t thought_workspace(const ThoughtArgs& a) noexcept {
  const size_t bytes = static_cast<size_t>(a.batch) * layout_of(a).row_bytes;
  const size_t of_all = thought_all_workspace(a);
  return bytes > of_all ? bytes : of_all;
}

cudaError_t thought_steps(const ThoughtArgs& a, cudaStream_t stream) noexcept {
  if (!valid(a)) return cudaErrorInvalidValue;
  if (a.batch == 0) return cudaSuccess;
  RowPlan plan;
  if (mixes_all(a) && plan_rows(a, &plan)) return thought_all(a, plan, stream);
  const double scale = std::fmin(log2_e / a.temperature, static_cast<double>(FLT_MAX));
  const Job job{a, layout_of(a), 0, most_team, static_cast<float>(scale), 0, false, false, mixes_all(a)};
  LATENT_CUDA_TRY(for_dtype(a.dtype, [&](auto element) { return launch_select<decltype(element)>(job, stream); }));
  return a.out == nullptr || a.table.width == 0 ? cudaSuccess : launch_sum(job, stream);
}

}  // namespace latentwire::cuda
