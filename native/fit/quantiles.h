// Empirical distributions: the share of a sample at or below a number, and the number that a share of it lies below.
#pragma once

#include <cstdint>
#include <vector>

#include "core/status.h"

namespace latentwire {

class EmpiricalDistribution {
 public:
  // Sorts a copy. Fails with invalid_argument (empty), non_finite (NaN; infinities are numbers like others here) or out_of_memory.
  static Status fit(const float* sample, int64_t count, EmpiricalDistribution* out);

  // The share of the sample that is <= x, in [0, 1].
  double cdf(double x) const noexcept;
  // Hyndman and Fan's type 7, which is R's and NumPy's: linear between neighbours, position p (count - 1). p is clamped to [0, 1], and NaN
  // is 0. Between an infinity and the number above it, the quantile is the infinity.
  double quantile(double p) const noexcept;

  const std::vector<float>& sorted() const noexcept { return sorted_; }

 private:
  std::vector<float> sorted_;
};

}  // namespace latentwire
