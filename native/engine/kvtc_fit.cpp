#include "engine/kvtc_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "fit/decompose.h"
#include "fit/eigen.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

constexpr int64_t group_components = kvtc_group_components;
// Codes of a group go from -half to half. Fine steps for large budgets, and as coarse ones as still tell something.
constexpr int32_t halves[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 127};
// Other texts have larger numbers than the samples, and what is beyond the range of the codes is cut off.
constexpr float headroom = 1.25F;
// A component that varies by less than this share of the largest is rounding.
constexpr double least_share = 1e-10;

// Rows of the samples of one part, keys at position 0: [n, channels].
std::vector<float> numbers_of(const KvtcFit& fit, int64_t part) {
  std::vector<float> numbers;
  for (const auto& sample : fit.samples) {
    const CacheRows& rows = sample->layout.parts[static_cast<size_t>(part)];
    const Rope* rope = part % 2 == 0 ? fit.ropes[static_cast<size_t>(part / 2)].get() : nullptr;
    int64_t entry = std::min(exact_first_entries, sample->size());
    sample->for_pieces(part, entry, sample->size(), [&](const uint8_t* at, int64_t count) {
      const size_t before = numbers.size();
      numbers.resize(before + static_cast<size_t>(count * rows.channels));
      float* to = numbers.data() + before;
      decode(rows, at, count, to);
      turn_keys(rope, sample->positions.data() + entry, true, to, count, rows.channels);
      entry += count;
    });
  }
  return numbers;
}

// What a group costs and what it gets wrong with one of the steps, for a row of the samples.
struct Choice {
  float step = 0;
  double bits = 0;
  double squared_error = 0;
  std::vector<uint16_t> frequencies;
};

// coordinates: [rows, columns], of which the group has [from, from + components).
std::vector<Choice> choices_of(const std::vector<float>& coordinates, int64_t rows, int64_t columns, int64_t from, int64_t components) {
  float largest = 0;
  double squares = 0;
  const auto for_each = [&](const auto& body) {
    for (int64_t i = 0; i < rows; i++) {
      const float* row = coordinates.data() + i * columns + from;
      for (int64_t k = 0; k < components; k++) body(row[k]);
    }
  };
  for_each([&](float x) {
    largest = std::max(largest, std::abs(x));
    squares += static_cast<double>(x) * static_cast<double>(x);
  });
  std::vector<Choice> choices{{0, 0, squares / static_cast<double>(rows), {}}};
  if (largest == 0) return choices;
  for (const int32_t half : halves) {
    Choice choice;
    choice.step = headroom * largest / static_cast<float>(half);
    const float inverse = 1 / choice.step;
    std::vector<int64_t> counts(static_cast<size_t>(2 * half + 1));
    double error = 0;
    for_each([&](float x) {
      const float code = std::nearbyint(x * inverse);
      const auto off = static_cast<double>(x - code * choice.step);
      error += off * off;
      counts[static_cast<size_t>(static_cast<int64_t>(code) + half)]++;
    });
    choice.frequencies = frequencies_of(counts);
    double bits = 0;
    for (size_t i = 0; i < counts.size(); i++)
      bits += static_cast<double>(counts[i]) * (SymbolTable::frequency_bits - std::log2(static_cast<double>(choice.frequencies[i])));
    choice.bits = bits / static_cast<double>(rows);
    choice.squared_error = error / static_cast<double>(rows);
    choices.push_back(std::move(choice));
  }
  return choices;
}

// Which choice of each group, for the least error within `budget` bits a row.
std::vector<size_t> allot(const std::vector<std::vector<Choice>>& groups, double budget) {
  const auto units = static_cast<size_t>(budget);  // of a bit a row
  constexpr double never = std::numeric_limits<double>::infinity();
  std::vector<double> best(units + 1, 0);
  std::vector<std::vector<uint8_t>> taken;
  for (const auto& choices : groups) {
    std::vector<double> next(units + 1, never);
    std::vector<uint8_t>& pick = taken.emplace_back(units + 1);
    for (size_t c = 0; c < choices.size(); c++) {
      const auto cost = static_cast<size_t>(std::ceil(choices[c].bits));
      for (size_t u = cost; u <= units; u++) {
        const double error = best[u - cost] + choices[c].squared_error;
        if (error >= next[u]) continue;
        next[u] = error;
        pick[u] = static_cast<uint8_t>(c);
      }
    }
    best = std::move(next);
  }
  std::vector<size_t> chosen(groups.size());
  size_t left = units;
  for (size_t g = groups.size(); g-- > 0;) {
    chosen[g] = taken[g][left];
    left -= static_cast<size_t>(std::ceil(groups[g][chosen[g]].bits));
  }
  return chosen;
}

Status fit_part(const KvtcFit& fit, int64_t part, const std::atomic<bool>* cancel, KvtcPart* out) {
  const int64_t channels = fit.samples.front()->layout.parts[static_cast<size_t>(part)].channels;
  std::vector<float> numbers = numbers_of(fit, part);
  const int64_t rows = static_cast<int64_t>(numbers.size()) / channels;
  MomentsInput input;
  input.rows = rows;
  input.x_columns = channels;
  input.x = reader_of({numbers.data(), rows, channels});
  input.centred = true;
  Moments moments;
  if (Status status = accumulate_moments(input, cancel, &moments); !status.ok()) return status;
  SymmetricEigen eigen;
  if (Status status = symmetric_eigen(moments.gram, &eigen); !status.ok()) return status;
  KvtcPart made;
  made.channels = static_cast<int32_t>(channels);
  for (const double mean : moments.x_mean) made.mean.push_back(static_cast<float>(mean));
  int64_t rank = 0;
  while (rank < std::min(channels, rows) && eigen.values[static_cast<size_t>(rank)] > least_share * eigen.values.front()) rank++;

  std::vector<float> basis(static_cast<size_t>(rank * channels));
  for (int64_t k = 0; k < rank; k++) {
    for (int64_t c = 0; c < channels; c++) basis[static_cast<size_t>(k * channels + c)] = static_cast<float>(eigen.vectors.row(c)[k]);
  }
  Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> x(numbers.data(), rows, channels);
  const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> b(basis.data(), rank, channels);
  x.rowwise() -= Eigen::Map<const Eigen::RowVectorXf>(made.mean.data(), channels);
  std::vector<float> coordinates(static_cast<size_t>(rows * rank));
  Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(coordinates.data(), rows, rank) = x * b.transpose();

  std::vector<std::vector<Choice>> groups;
  for (int64_t from = 0; from < rank; from += group_components)
    groups.push_back(choices_of(coordinates, rows, rank, from, std::min(group_components, rank - from)));
  const std::vector<size_t> chosen = allot(groups, fit.bits[static_cast<size_t>(part)] * static_cast<double>(channels));
  for (size_t g = 0; g < groups.size(); g++) {
    Choice& choice = groups[g][chosen[g]];
    if (chosen[g] == 0) continue;
    KvtcGroup group;
    const int64_t from = static_cast<int64_t>(g) * group_components;
    group.components = static_cast<int32_t>(std::min(group_components, rank - from));
    group.step = choice.step;
    group.table.assign(std::move(choice.frequencies));
    made.groups.push_back(std::move(group));
    const size_t before = made.basis.size();
    const int64_t count = made.groups.back().components * channels;
    made.basis.resize(before + static_cast<size_t>(count));
    kernels().rows.to_f16(basis.data() + from * channels, count, made.basis.data() + before);
  }
  *out = std::move(made);
  return {};
}

}  // namespace

Status fit_kvtc(const KvtcFit& fit, const std::atomic<bool>* cancel, std::shared_ptr<const Kvtc>* out) {
  return guarded([&]() -> Status {
    const auto refuse = [](const char* why) { return Status::fail(Code::invalid_argument, why); };
    if (fit.samples.empty()) return refuse("a codec is fitted to at least one sample");
    const CacheLayout& layout = fit.samples.front()->layout;
    int64_t rows = 0;
    for (const auto& sample : fit.samples) {
      if (sample->layout != layout) return refuse("the samples store keys and values differently; convert them first");
      if (Status status = require_finite(*sample, cancel); !status.ok()) return status;
      rows += std::max<int64_t>(0, sample->size() - exact_first_entries);
    }
    if (rows < 2) return refuse("a codec is fitted to at least 2 entries behind the first four of a sample");
    if (fit.bits.size() != layout.parts.size() || static_cast<int64_t>(fit.ropes.size()) != layout.layers())
      return refuse("a codec has one number of bits and at most one rotation for the keys and values of each layer");
    KvtcModel model;
    model.identity = fit.identity;
    model.key_head = layout.key_head;
    model.ropes = fit.ropes;
    model.parts.resize(layout.parts.size());
    for (int64_t part = 0; part < static_cast<int64_t>(layout.parts.size()); part++) {
      if (is_cancelled(cancel)) return cancelled_fit();
      if (Status status = fit_part(fit, part, cancel, &model.parts[static_cast<size_t>(part)]); !status.ok()) return status;
    }
    return Kvtc::make(std::move(model), out);
  });
}

}  // namespace latentwire
