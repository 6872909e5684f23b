#include "fit/retrieval.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "fit/eigen.h"
#include "kernels/cosine.h"

namespace latentwire {
namespace {

constexpr int64_t block_rows = 256;

Status check(const FloatRows& a, const FloatRows& b) {
  if (a.rows != b.rows || a.columns != b.columns || a.rows < 1 || a.columns < 1)
    return Status::fail(Code::invalid_argument, "both sides must have the same shape, with at least one row");
  return {};
}

}  // namespace

Status paired_errors(const FloatRows& predicted, const FloatRows& target, const std::atomic<bool>* cancel, PairedErrors* out) {
  if (Status status = check(predicted, target); !status.ok()) return status;
  return guarded([&]() -> Status {
    const int64_t n = target.rows;
    const int64_t d = target.columns;
    std::vector<double> mean(static_cast<size_t>(d));
    for (int64_t i = 0; i < n; i++) {
      for (int64_t k = 0; k < d; k++) mean[static_cast<size_t>(k)] += static_cast<double>(target.data[i * d + k]) / static_cast<double>(n);
    }
    const int64_t blocks = (n + block_rows - 1) / block_rows;
    std::vector<PairedErrors> parts(static_cast<size_t>(blocks));
    for_blocks(n, block_rows, [&](int64_t begin, int64_t end) {
      if (is_cancelled(cancel)) return;
      PairedErrors& part = parts[static_cast<size_t>(begin / block_rows)];
      for (int64_t i = begin; i < end; i++) {
        double inner = 0, squares = 0, target_squares = 0;
        for (int64_t k = 0; k < d; k++) {
          const double p = predicted.data[i * d + k], t = target.data[i * d + k];
          const double about_mean = t - mean[static_cast<size_t>(k)];
          part.squared_error += (p - t) * (p - t);
          part.target_spread += about_mean * about_mean;
          inner += p * t;
          squares += p * p;
          target_squares += t * t;
        }
        part.target_squares += target_squares;
        const double lengths = std::sqrt(squares) * std::sqrt(target_squares);
        part.cosine += lengths > 0 ? inner / lengths : 0;
      }
    });
    if (is_cancelled(cancel)) return cancelled_fit();
    PairedErrors sum;
    for (const PairedErrors& part : parts) {
      sum.squared_error += part.squared_error;
      sum.target_spread += part.target_spread;
      sum.target_squares += part.target_squares;
      sum.cosine += part.cosine;
    }
    sum.cosine /= static_cast<double>(n);
    if (!std::isfinite(sum.squared_error + sum.target_squares + sum.target_spread))
      return Status::fail(Code::non_finite, "the rows hold NaN or an infinity");
    *out = sum;
    return {};
  });
}

Status paired_ranks(const FloatRows& queries, const FloatRows& candidates, const std::atomic<bool>* cancel, std::vector<int64_t>* ranks) {
  if (Status status = check(queries, candidates); !status.ok()) return status;
  return guarded([&]() -> Status {
    const int64_t n = queries.rows;
    const int64_t d = queries.columns;
    std::shared_ptr<const PackedAnchors> packed;
    if (Status status = PackedAnchors::pack({Dtype::f32, candidates.data, n, d, 0}, d, {}, &packed); !status.ok()) return status;
    // about 16 MiB of cosines
    const int64_t step = std::clamp<int64_t>((int64_t{1} << 22) / n, 1, n);
    std::vector<float> cosines(static_cast<size_t>(step * n));
    std::vector<int64_t> found(static_cast<size_t>(n));
    for (int64_t first = 0; first < n; first += step) {
      const int64_t count = std::min(step, n - first);
      const Rows rows{Dtype::f32, queries.data + first * d, count, d, first};
      if (Status status = relative(rows, *packed, cosines.data(), n, cancel); !status.ok()) return status;
      for_blocks(count, 8, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const float* row = cosines.data() + i * n;
          const float own = row[first + i];
          found[static_cast<size_t>(first + i)] = 1 + std::count_if(row, row + n, [own](float other) { return other > own; });
        }
      });
    }
    *ranks = std::move(found);
    return {};
  });
}

}  // namespace latentwire
