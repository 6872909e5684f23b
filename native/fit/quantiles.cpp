// Sorted once, so that both questions are a search.
#include "fit/quantiles.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "fit/eigen.h"

namespace latentwire {

Status EmpiricalDistribution::fit(const float* sample, int64_t count, EmpiricalDistribution* out) {
  if (count < 1) return Status::fail(Code::invalid_argument, "a distribution needs at least one number");
  for (int64_t i = 0; i < count; i++) {
    if (std::isnan(sample[i])) return Status::fail(Code::non_finite, "the sample holds NaN at " + std::to_string(i));
  }
  return guarded([&]() -> Status {
    std::vector<float> sorted(sample, sample + count);
    std::sort(sorted.begin(), sorted.end());
    out->sorted_ = std::move(sorted);
    return {};
  });
}

double EmpiricalDistribution::cdf(double x) const noexcept {
  const auto above = std::upper_bound(sorted_.begin(), sorted_.end(), x, [](double value, float element) { return value < element; });
  return static_cast<double>(above - sorted_.begin()) / static_cast<double>(sorted_.size());
}

double EmpiricalDistribution::quantile(double p) const noexcept {
  const double position = (p > 0 ? std::min(p, 1.0) : 0.0) * static_cast<double>(sorted_.size() - 1);
  const auto below = static_cast<size_t>(position);
  const double low = sorted_[below];
  const double part = position - static_cast<double>(below);
  // not low + part * (high - low): from an infinity that is no number
  return part > 0 && std::isfinite(low) ? low + part * (static_cast<double>(sorted_[below + 1]) - low) : low;
}

}  // namespace latentwire
