// Two passes over the logits, which lie in the second-level cache: maxima of blocks, then the sums of exponentials. The k-th largest of the
// block maxima bounds the k-th largest logit from below, so only blocks that reach it are searched, and what is found there, little more
// than k, is partitioned by keys of 64 bits (the logit's order, then the id's). Nothing is sorted but the ids of the selection.
#include "kernels/thought.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <numbers>
#include <string>

#include "core/atomic_least.h"
#include "core/thread_pool.h"
#include "kernels/philox.h"
#include "kernels/scratch.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

// Logits looked at to guess a threshold for a large k, and the least number of logits worth guessing for.
constexpr int64_t sample_size = 8192;
constexpr int64_t sample_from = 4 * sample_size;
// Rows summed in one go; sums of sums keep the error of f32 small.
constexpr int64_t chunk_rows = 512;
// A mix of the whole vocabulary: inputs that share a pass over the table, and the most parts of it that threads share.
constexpr int64_t group_inputs = 16;
constexpr int64_t most_segments = 32;
// Waking a thread costs what about as many logits take.
constexpr int64_t parallel_from = 1 << 15;
// Blocks of logits whose largest p is 2^-58 of max p change no digit of the sums.
constexpr float negligible_bits = 58;

thread_local Scratch scratch;

int64_t ceil_div(int64_t n, int64_t by) noexcept { return (n + by - 1) / by; }

// Greater for a larger logit, and for the lower id among equals.
uint64_t key_of(float logit, int32_t id) noexcept {
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0F);  // -0 becomes 0
  const uint32_t order = (bits & 0x8000'0000U) != 0 ? ~bits : bits | 0x8000'0000U;
  return (uint64_t{order} << 32) | (0xFFFF'FFFFU - static_cast<uint32_t>(id));
}
int32_t id_of(uint64_t key) noexcept { return static_cast<int32_t>(0xFFFF'FFFFU - static_cast<uint32_t>(key)); }

// Draws for one token: a block of random words at each call.
class Draws {
 public:
  Draws(const ThoughtInput& in, int32_t id) noexcept
      : key_{static_cast<uint32_t>(in.seed), static_cast<uint32_t>(in.seed >> 32)},
        counter_{static_cast<uint32_t>(id), static_cast<uint32_t>(in.step), static_cast<uint32_t>(in.step >> 32), 0} {}

  struct Pair {
    double first, second;
  };
  Pair uniforms() noexcept {
    const PhiloxWords words = philox(counter_, key_);
    counter_[3]++;
    return {uniform_of(words[0], words[1]), uniform_of(words[2], words[3])};
  }

 private:
  std::array<uint32_t, 2> key_;
  PhiloxWords counter_;
};

double gumbel(Draws draws) noexcept { return -std::log(-std::log(draws.uniforms().first)); }

// The logarithm of a draw from Gamma(shape, 1), by Marsaglia and Tsang (2000). In logarithms, because a small shape gives numbers that no
// double holds: Gamma(s) = Gamma(s + 1) U^(1 / s).
double log_gamma_draw(Draws draws, double shape) noexcept {
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  const double lift = shape < 1 ? std::log(draws.uniforms().first) / shape : 0;
  while (true) {
    const Draws::Pair polar = draws.uniforms();
    const double x = std::sqrt(-2 * std::log(polar.first)) * std::cos(2 * std::numbers::pi * polar.second);
    const double u = draws.uniforms().first;
    const double root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return std::log(d * v) + lift;
  }
}

enum class Fault : int { none, bad_logit, no_token, bad_sum, no_memory, cancelled };

// What one call is about.
struct Call {
  const ThoughtRecipe& recipe;
  const TokenTable& table;
  const Kernels& kernels;
  int64_t row_bytes;
  int64_t limit;  // tokens that top_k lets through, at most the vocabulary
  bool whole;     // the mix is of all tokens
  float scale;    // log2(e) / temperature

  int64_t blocks() const noexcept { return ceil_div(table.count, logit_block); }
};

// Cuts arrays from a piece of memory; without one it only measures.
class Arena {
 public:
  explicit Arena(char* memory) noexcept : memory_(memory) {}
  template <class T>
  T* take(int64_t n) noexcept {
    char* at = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(at);
  }
  size_t used() const noexcept { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

// The logits of one input, and what is made of them.
class Position {
 public:
  Position(const Call& call, const ThoughtInput& in) noexcept : call_(call), in_(in), z_(in.logits), mask_(call.recipe.masked) {
    Arena sizes(nullptr);
    lay_out(sizes);
    char* memory = scratch.reserve(sizes.used());
    ready_ = memory != nullptr;
    Arena arena(memory);
    if (ready_) lay_out(arena);
  }

  // The whole step, but for a mix of the whole vocabulary.
  Fault run() noexcept {
    if (const Fault fault = measure(); fault != Fault::none) return fault;
    // nothing is mixed, and nobody asks of what it would be
    int64_t count = 0;
    if (call_.recipe.mix != 0 || in_.ids != nullptr || in_.weights != nullptr) {
      count = call_.whole ? list_all() : select();
      weigh(count);
    }
    publish(count);
    if (in_.out == nullptr) return Fault::none;
    const double a = call_.recipe.token;
    const double b = call_.recipe.mix;
    bool merged = false;
    if (b != 0) {
      const double factor = call_.recipe.unit_mix ? b / length(count) : b;
      for (int64_t i = 0; i < count; i++) weights_[i] = static_cast<float>(p_[i] * factor);
      // a token that is in the mix takes its own weight in: no digits are lost where b p is nearly -a
      const int32_t* at = std::lower_bound(ids_, ids_ + count, in_.token);
      if (a != 0 && at != ids_ + count && *at == in_.token) {
        weights_[at - ids_] = static_cast<float>(a + p_[at - ids_] * factor);
        merged = true;
      }
    } else {
      count = 0;
    }
    std::fill_n(in_.out, call_.table.width, 0.0F);
    sum_chunks(call_, {ids_, 0, count, weights_, count, 1}, in_.out, partial_);
    return finish(merged);
  }

  // The weights of all tokens as they enter the sum, for a mix of the whole vocabulary; E[token] is among them.
  Fault weigh_all(float* weights) noexcept {
    if (const Fault fault = measure(); fault != Fault::none) return fault;
    const ThoughtRecipe& recipe = call_.recipe;
    const RowKernels& rows = call_.kernels.rows;
    const int64_t n = call_.table.count;
    if (recipe.noise == ThoughtNoise::none) {
      const auto factor = static_cast<float>(1 / sum_);
      over_runs([&](const float* z, int64_t first, int64_t length) {
        call_.kernels.thought.exponentials(z, length, max_, call_.scale, factor, weights + first);
      });
      if (in_.ids == nullptr && in_.weights == nullptr) {
        publish(count_all());
      } else {
        const int64_t count = list_all();
        for (int64_t i = 0; i < count; i++) p_[i] = static_cast<double>(weights[ids_[i]]);
        publish(count);
      }
    } else {
      const int64_t count = list_all();
      weigh(count);
      publish(count);
      std::fill_n(weights, n, 0.0F);
      for (int64_t i = 0; i < count; i++) weights[ids_[i]] = static_cast<float>(p_[i]);
    }
    const bool adds_token = recipe.token != 0;
    double factor = recipe.mix;
    if (recipe.unit_mix) factor /= std::sqrt(static_cast<double>(rows.sum_of_squares(weights, n)));
    double of_token = adds_token ? static_cast<double>(weights[in_.token]) : 0;
    if (adds_token && recipe.noise == ThoughtNoise::none && of_token > 0) of_token = exponential(in_.token) / sum_;  // more digits
    if (factor != 1) rows.affine(weights, n, static_cast<float>(factor), 0, weights);
    if (adds_token) weights[in_.token] = static_cast<float>(recipe.token + of_token * factor);
    return Fault::none;
  }

  // E[token] unless it was part of the mix, A(h) and the length, once the mix is in `out`.
  Fault finish(bool has_token) noexcept {
    const ThoughtRecipe& recipe = call_.recipe;
    const int64_t width = call_.table.width;
    float* e = in_.out;
    if (recipe.token != 0 && !has_token) sum_chunks(call_, {&in_.token, 0, 1, &recipe.token, 1, 1}, e, nullptr);
    if (recipe.extra != 0) {
      for (int64_t j = 0; j < width; j++) e[j] += recipe.extra * in_.extra[j];
    }
    // the length of what is not finite is neither
    if (recipe.norm && call_.kernels.rows.all_finite(e, width)) rescale(*recipe.norm);
    return call_.kernels.rows.all_finite(e, width) ? Fault::none : Fault::bad_sum;
  }

  struct Terms {
    const int32_t* ids;  // or nullptr for the rows from `first` on
    int64_t first;
    int64_t count;
    const float* weights;
    int64_t weight_stride;
    int64_t batch;
  };
  // out[b] += sum of weights[b, i] E[ids[i]], in chunks of fixed size; `partial` is needed for more than one.
  static void sum_chunks(const Call& call, const Terms& t, float* out, float* partial) noexcept {
    const int64_t width = call.table.width;
    for (int64_t i = 0; i < t.count; i += chunk_rows) {
      float* to = i == 0 ? out : partial;
      if (i > 0) std::fill_n(partial, t.batch * width, 0.0F);
      call.kernels.thought.sum_rows({call.table.format, static_cast<const uint8_t*>(call.table.data), call.row_bytes, width,
                                     t.ids == nullptr ? nullptr : t.ids + i, t.first + i, std::min(chunk_rows, t.count - i), t.weights + i,
                                     t.weight_stride, t.batch, to, width});
      if (i > 0) call.kernels.rows.add(out, partial, t.batch * width, out);
    }
  }

 private:
  void lay_out(Arena& arena) noexcept {
    const int64_t n = call_.table.count;
    maxima_ = arena.take<float>(call_.blocks());
    ordered_ = arena.take<float>(std::max(call_.blocks(), sample_size));
    patched_ = arena.take<float>(logit_block);
    partial_ = arena.take<float>(call_.table.width);
    ids_ = arena.take<int32_t>(n);
    weights_ = arena.take<float>(n);
    keys_ = arena.take<uint64_t>(n);
    p_ = arena.take<double>(n);
  }

  // Calls f(z, first, count) for runs of whole blocks that cover the logits, with the masked ones at -infinity.
  template <class F>
  void over_runs(F f) noexcept {
    const int64_t n = call_.table.count;
    int64_t next = 0;  // the first logit not yet given out
    for (size_t i = 0; i < mask_.size();) {
      const int64_t begin = mask_[i] / logit_block * logit_block;
      const int64_t length = std::min(logit_block, n - begin);
      if (begin > next) f(z_ + next, next, begin - next);
      std::copy_n(z_ + begin, length, patched_);
      for (; i < mask_.size() && mask_[i] < begin + length; i++) patched_[mask_[i] - begin] = -std::numeric_limits<float>::infinity();
      f(patched_, begin, length);
      next = begin + length;
    }
    if (next < n) f(z_ + next, next, n - next);
  }

  Fault measure() noexcept {
    if (!ready_) return Fault::no_memory;
    const ThoughtKernels& kernels = call_.kernels.thought;
    bool good = true;
    over_runs([&](const float* z, int64_t first, int64_t n) { good &= kernels.maxima(z, n, maxima_ + first / logit_block); });
    if (!good) return Fault::bad_logit;
    const float* top = std::max_element(maxima_, maxima_ + call_.blocks());
    max_ = *top;
    if (max_ == -std::numeric_limits<float>::infinity()) return Fault::no_token;
    int64_t at = (top - maxima_) * logit_block;
    // bounded: logits in shared memory may have changed since
    const int64_t block_end = std::min(at + logit_block, call_.table.count);
    while (at < block_end && (z_[at] != max_ || is_masked(at))) at++;
    if (at == block_end) return Fault::bad_logit;
    // The largest term is added last: what is left is small where p is nearly 1, and must not drown in it.
    const float floor = max_ - negligible_bits / call_.scale;
    double weighted = 0;
    const auto add = [&](const float* z, int64_t first, int64_t n) {
      if (n > 0) kernels.exp_sums(z, n, maxima_ + first / logit_block, floor, max_, call_.scale, &sum_, &weighted);
    };
    over_runs([&](const float* z, int64_t first, int64_t n) {
      if (at < first || at >= first + n) return add(z, first, n);
      const int64_t begin = at / logit_block * logit_block;
      const int64_t end = std::min(begin + logit_block, first + n);
      add(z, first, begin - first);
      if (z != patched_) std::copy(z + (begin - first), z + (end - first), patched_);
      patched_[at - begin] = -std::numeric_limits<float>::infinity();
      add(patched_, begin, end - begin);
      add(z + (end - first), end, first + n - end);
    });
    sum_ += 1;
    if (in_.stats != nullptr) {
      in_.stats->entropy_bits = std::max(0.0, std::log1p(sum_ - 1) * std::numbers::log2e - weighted / sum_);
      in_.stats->max_p = 1 / sum_;
      in_.stats->n_eff = std::exp2(in_.stats->entropy_bits);
      in_.stats->argmax = static_cast<int32_t>(at);
    }
    return Fault::none;
  }

  bool is_masked(int64_t id) const noexcept { return std::binary_search(mask_.begin(), mask_.end(), static_cast<int32_t>(id)); }

  double exponential(int32_t id) const noexcept { return std::exp((static_cast<double>(z_[id]) - max_) / call_.recipe.temperature); }

  // A number that about `wanted` logits reach, or a few more, or all.
  float threshold(int64_t wanted) noexcept {
    const int64_t n = call_.table.count;
    float* const end_of_maxima = maxima_ + call_.blocks();
    if (2 * wanted <= call_.blocks()) {
      std::copy(maxima_, end_of_maxima, ordered_);
      float* const at = ordered_ + wanted - 1;
      std::nth_element(ordered_, at, ordered_ + call_.blocks(), std::greater<>());
      return std::max(*at, -FLT_MAX);
    }
    if (n < sample_from) return -FLT_MAX;
    const auto share = static_cast<double>(wanted) / static_cast<double>(n);
    const auto rank = static_cast<int64_t>(1.25 * share * static_cast<double>(sample_size)) + 32;
    if (rank >= sample_size) return -FLT_MAX;
    const int64_t stride = n / sample_size;
    for (int64_t i = 0; i < sample_size; i++) ordered_[i] = z_[i * stride];
    std::nth_element(ordered_, ordered_ + rank, ordered_ + sample_size, std::greater<>());
    return std::max(ordered_[rank], -FLT_MAX);
  }

  // The ids of all logits from `least` on, ascending.
  int64_t collect(float least) noexcept {
    int64_t found = 0;
    over_runs([&](const float* z, int64_t first, int64_t n) {
      found += call_.kernels.thought.collect(z, n, maxima_ + first / logit_block, least, first, ids_ + found);
    });
    return found;
  }
  int64_t count_all() noexcept {
    int64_t count = 0;
    over_runs([&](const float* z, int64_t, int64_t n) { count += std::count_if(z, z + n, [](float v) { return v >= -FLT_MAX; }); });
    return count;
  }
  int64_t list_all() noexcept { return collect(-FLT_MAX); }

  // The tokens that top_k and top_p let through, ascending in ids_; returns how many.
  int64_t select() noexcept {
    const ThoughtRecipe& recipe = call_.recipe;
    const int64_t n = call_.table.count;
    const bool bounded = call_.limit < n;
    const bool nucleus = recipe.top_p < 1;
    // without a top_k, a nucleus is first sought among few
    const int64_t tries[3] = {bounded ? call_.limit : std::max<int64_t>(call_.blocks() / 2, 1), n / 16, n};
    int64_t count = 0;
    for (const int64_t wanted : tries) {
      float least = threshold(std::max<int64_t>(wanted, 1));
      count = collect(least);
      if (count < wanted && least > -FLT_MAX) {
        least = -FLT_MAX;
        count = collect(least);
      }
      if (!nucleus && count <= call_.limit) return count;
      for (int64_t i = 0; i < count; i++) keys_[i] = key_of(z_[ids_[i]], ids_[i]);
      if (count > call_.limit) {
        std::nth_element(keys_, keys_ + call_.limit, keys_ + count, std::greater<>());
        count = call_.limit;
      }
      if (!nucleus) break;
      const double target = recipe.top_p * sum_;
      if (bounded || least == -FLT_MAX || mass(0, count) >= target) {
        count = smallest_with(target, count);
        break;
      }
    }
    for (int64_t i = 0; i < count; i++) ids_[i] = id_of(keys_[i]);
    std::sort(ids_, ids_ + count);
    return count;
  }

  double mass(int64_t begin, int64_t end) const noexcept {
    double sum = 0;
    for (int64_t i = begin; i < end; i++) sum += exponential(id_of(keys_[i]));
    return sum;
  }

  // Partitions the keys so that the first of them, as few as can be, have the mass; returns how many, or all if all have less.
  int64_t smallest_with(double target, int64_t count) noexcept {
    int64_t begin = 0, end = count;
    double before = 0;
    while (end - begin > 64) {
      const int64_t middle = begin + (end - begin) / 2;
      std::nth_element(keys_ + begin, keys_ + middle, keys_ + end, std::greater<>());
      const double upper = mass(begin, middle);
      if (before + upper >= target) {
        end = middle;
      } else {
        before += upper;
        begin = middle;
      }
    }
    std::sort(keys_ + begin, keys_ + end, std::greater<>());
    for (; begin < end; begin++) {
      before += mass(begin, begin + 1);
      if (before >= target) return begin + 1;
    }
    return end;
  }

  // The weights of the selection in p_, with noise, summing to 1.
  void weigh(int64_t count) noexcept {
    for (int64_t i = 0; i < count; i++) p_[i] = exponential(ids_[i]);
    normalise(count);
    const double amount = call_.recipe.noise_amount;
    switch (call_.recipe.noise) {
      case ThoughtNoise::none:
        return;
      case ThoughtNoise::gumbel:
        // from the logits: p may have come out as 0
        for (int64_t i = 0; i < count; i++) {
          const double log_p = (static_cast<double>(z_[ids_[i]]) - max_) / call_.recipe.temperature;
          p_[i] = (log_p + gumbel(Draws(in_, ids_[i]))) / amount;
        }
        break;
      case ThoughtNoise::dirichlet:
        for (int64_t i = 0; i < count; i++) {
          const double shape = amount * p_[i];
          p_[i] = shape > 0 ? log_gamma_draw(Draws(in_, ids_[i]), shape) : -std::numeric_limits<double>::infinity();
        }
        break;
    }
    const double largest = *std::max_element(p_, p_ + count);
    for (int64_t i = 0; i < count; i++) p_[i] = std::exp(p_[i] - largest);
    normalise(count);
  }

  void normalise(int64_t count) noexcept {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += p_[i];
    for (int64_t i = 0; i < count; i++) p_[i] /= sum;
  }

  double length(int64_t count) const noexcept {
    double square = 0;
    for (int64_t i = 0; i < count; i++) square += p_[i] * p_[i];
    return std::sqrt(square);
  }

  void publish(int64_t count) noexcept {
    if (in_.stats != nullptr) in_.stats->selected = count;
    if (in_.ids != nullptr) std::copy_n(ids_, count, in_.ids);
    if (in_.weights != nullptr) std::transform(p_, p_ + count, in_.weights, [](double p) { return static_cast<float>(p); });
  }

  void rescale(float norm) noexcept {
    const RowKernels& rows = call_.kernels.rows;
    const int64_t width = call_.table.width;
    float* e = in_.out;
    double square = rows.sum_of_squares(e, width);
    // squares of extreme sizes would vanish or overflow
    if (!(square >= 1e-30 && square <= 1e30)) {
      square = 0;
      for (int64_t j = 0; j < width; j++) square += static_cast<double>(e[j]) * e[j];
    }
    if (square == 0) return;
    const double factor = norm / std::sqrt(square);
    if (factor <= 1e38) {
      rows.affine(e, width, static_cast<float>(factor), 0, e);
    } else {
      for (int64_t j = 0; j < width; j++) e[j] = static_cast<float>(e[j] * factor);
    }
  }

  const Call& call_;
  const ThoughtInput& in_;
  const float* z_;
  std::span<const int32_t> mask_;
  bool ready_ = false;
  float max_ = 0;
  double sum_ = 0;  // of exp((z - max) / temperature)
  float* maxima_ = nullptr;
  float* ordered_ = nullptr;
  float* patched_ = nullptr;
  float* partial_ = nullptr;
  int32_t* ids_ = nullptr;
  float* weights_ = nullptr;
  uint64_t* keys_ = nullptr;
  double* p_ = nullptr;
};

// The first input that went wrong, and how.
class Faults {
 public:
  void note(int64_t row, Fault fault) noexcept { keep_least(first_, row * 8 + static_cast<int>(fault)); }
  bool any() const noexcept { return first_.load(std::memory_order_relaxed) != nothing; }
  Status status() const {
    const int64_t mark = first_.load(std::memory_order_relaxed);
    if (mark == nothing) return {};
    const std::string row = "input " + std::to_string(mark / 8);
    switch (static_cast<Fault>(mark % 8)) {
      case Fault::bad_logit:
        return Status::fail(Code::non_finite, "the logits of " + row + " hold NaN or +infinity");
      case Fault::no_token:
        return Status::fail(Code::invalid_argument, row + " has no token with a logit above -infinity that is not masked");
      case Fault::bad_sum:
        return Status::fail(Code::non_finite, "the embedding of " + row + " is not finite: its rows, its extra vector or its size are not");
      case Fault::cancelled:
        return Status::fail(Code::cancelled, "the thought step was cancelled");
      case Fault::no_memory:
      case Fault::none:
        break;
    }
    return Status::fail(Code::out_of_memory, "no memory for a thought step");
  }

 private:
  static constexpr int64_t nothing = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first_{nothing};
};

// Calls f(i) for i in [0, n), on all threads if there is work for them, until a cancel. A fault ends nothing: one of a lower row may
// follow, and the lowest is the one that is told.
template <class F>
void for_each(int64_t n, bool parallel, const std::atomic<bool>* cancel, Faults& faults, F f) {
  const auto work = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return faults.note(0, Fault::cancelled);
      f(i);
    }
  };
  if (parallel && n > 1)
    ThreadPool::get().parallel_for(n, 1, work);
  else
    work(0, n);
}

// A mix of the whole vocabulary for up to `group_inputs` inputs. The table is cut into parts by its size alone, so that the sums are the
// same for any number of threads.
void mix_whole(const Call& call, std::span<const ThoughtInput> inputs, int64_t first_row, const std::atomic<bool>* cancel, Faults& faults) {
  const int64_t n = call.table.count;
  const int64_t width = call.table.width;
  const auto batch = static_cast<int64_t>(inputs.size());
  const bool parallel = batch * n >= parallel_from;
  const int64_t rows_each = ceil_div(std::max(ceil_div(n, most_segments), chunk_rows), chunk_rows) * chunk_rows;
  const int64_t segments = ceil_div(n, rows_each);
  const int64_t part = batch * width;
  const auto new_floats = [](int64_t count) {
    return std::unique_ptr<float[]>(new (std::nothrow) float[static_cast<size_t>(std::max<int64_t>(count, 1))]);
  };
  const auto weights = new_floats(batch * n);
  const auto sums = new_floats(segments * part);
  if (!weights || !sums) {
    faults.note(first_row, Fault::no_memory);
    return;
  }
  for_each(batch, parallel, cancel, faults, [&](int64_t i) {
    const Fault fault = Position(call, inputs[static_cast<size_t>(i)]).weigh_all(weights.get() + i * n);
    if (fault != Fault::none) faults.note(first_row + i, fault);
  });
  if (faults.any()) return;
  for_each(segments, parallel, cancel, faults, [&](int64_t segment) {
    auto* partial = reinterpret_cast<float*>(scratch.reserve(static_cast<size_t>(part) * sizeof(float)));
    if (partial == nullptr) {
      faults.note(first_row, Fault::no_memory);
      return;
    }
    const int64_t first = segment * rows_each;
    float* to = sums.get() + segment * part;
    std::fill_n(to, part, 0.0F);
    Position::sum_chunks(call, {nullptr, first, std::min(rows_each, n - first), weights.get() + first, n, batch}, to, partial);
  });
  if (faults.any()) return;
  for_each(batch, false, cancel, faults, [&](int64_t i) {
    const ThoughtInput& in = inputs[static_cast<size_t>(i)];
    std::copy_n(sums.get() + i * width, width, in.out);
    for (int64_t s = 1; s < segments; s++) call.kernels.rows.add(in.out, sums.get() + s * part + i * width, width, in.out);
    const Fault fault = Position(call, in).finish(true);
    if (fault != Fault::none) faults.note(first_row + i, fault);
  });
}

Status refuse(std::string why) { return Status::fail(Code::invalid_argument, std::move(why)); }

Status check(const ThoughtRecipe& r, const TokenTable& table) {
  for (const float x : {r.token, r.mix, r.extra}) {
    if (!std::isfinite(x)) return refuse("the coefficients of a thought must be finite");
  }
  if (!(r.temperature > 0) || !std::isfinite(r.temperature)) return refuse("the temperature must be a number above 0");
  if (r.top_k < 0) return refuse("top_k must be 0 or more");
  if (!(r.top_p > 0 && r.top_p <= 1)) return refuse("top_p must be above 0 and at most 1");
  if (r.noise != ThoughtNoise::none && (!(r.noise_amount > 0) || !std::isfinite(r.noise_amount)))
    return refuse("the amount of noise must be a number above 0");
  if (r.norm && (!(*r.norm >= 0) || !std::isfinite(*r.norm))) return refuse("the norm must be a number from 0 on");
  if (table.count < 1 || table.count > std::numeric_limits<int32_t>::max())
    return refuse("a table of tokens has from 1 to 2^31 - 1 rows, not " + std::to_string(table.count));
  if (table.width < 0) return refuse("a table of tokens cannot have " + std::to_string(table.width) + " columns");
  for (size_t i = 0; i < r.masked.size(); i++) {
    if (r.masked[i] < 0 || r.masked[i] >= table.count)
      return refuse("masked token " + std::to_string(r.masked[i]) + " is not in a vocabulary of " + std::to_string(table.count));
    if (i > 0 && r.masked[i] < r.masked[i - 1]) return refuse("masked tokens must be in ascending order");
  }
  return {};
}

}  // namespace

Status thought_steps(const ThoughtRecipe& recipe, const TokenTable& table, std::span<const ThoughtInput> inputs,
                     const std::atomic<bool>* cancel) {
  if (Status status = check(recipe, table); !status.ok()) return status;
  bool any_out = false;
  for (size_t i = 0; i < inputs.size(); i++) {
    const ThoughtInput& in = inputs[i];
    const std::string row = "input " + std::to_string(i);
    if (in.logits == nullptr) return refuse(row + " has no logits");
    if (in.out == nullptr) continue;
    any_out = true;
    if (recipe.token != 0 && (in.token < 0 || in.token >= table.count))
      return refuse("token " + std::to_string(in.token) + " of " + row + " is not in a vocabulary of " + std::to_string(table.count));
    if (recipe.extra != 0 && in.extra == nullptr) return refuse(row + " has no extra vector");
  }
  if (any_out) {
    if (Status status = check_readable(table); !status.ok()) return status;
  }
  const auto count = static_cast<int64_t>(inputs.size());
  const int64_t limit = recipe.top_k == 0 ? table.count : std::min(recipe.top_k, table.count);
  const double scale = std::min(std::numbers::log2e / recipe.temperature, static_cast<double>(FLT_MAX));
  const Call call{recipe, table, kernels(), table.stride(), limit, limit == table.count && recipe.top_p >= 1, static_cast<float>(scale)};
  Faults faults;
  if (call.whole && recipe.mix != 0 && any_out) {
    // inputs without an output leave the groups
    for (int64_t i = 0; i < count && !faults.any();) {
      int64_t end = i;
      while (end < count && end - i < group_inputs && inputs[static_cast<size_t>(end)].out != nullptr) end++;
      if (end > i) {
        mix_whole(call, inputs.subspan(static_cast<size_t>(i), static_cast<size_t>(end - i)), i, cancel, faults);
        i = end;
      } else {
        if (const Fault fault = Position(call, inputs[static_cast<size_t>(i)]).run(); fault != Fault::none) faults.note(i, fault);
        i++;
      }
    }
  } else {
    for_each(count, count * table.count >= parallel_from, cancel, faults, [&](int64_t i) {
      if (const Fault fault = Position(call, inputs[static_cast<size_t>(i)]).run(); fault != Fault::none) faults.note(i, fault);
    });
  }
  return faults.status();
}

}  // namespace latentwire
