// The ridge of output rows on input rows. With lambda = 1e-5 the Gram matrix of a vocabulary smaller than d is barely definite, which is
// why moments of few rows are f64 throughout.
#include "fit/alignment.h"

#include <algorithm>
#include <cmath>

#include "fit/eigen.h"
#include "fit/ridge.h"

namespace latentwire {

Status solve_alignment(int64_t vocab, int64_t d, const RowReader& output, const RowReader& input, double lambda,
                       const std::atomic<bool>& cancel, std::vector<float>* w) {
  if (vocab < 1 || d < 1 || d > max_fit_columns)
    return Status::fail(Code::invalid_argument, "an alignment needs at least one row and one dimension");
  if (!(lambda > 0.0) || !std::isfinite(lambda)) return Status::fail(Code::invalid_argument, "lambda must be a positive number");
  return guarded([&]() -> Status {
    LinearFit fit;
    {
      Moments moments;
      MomentsInput rows;
      rows.rows = vocab;
      rows.x_columns = d;
      rows.x = output;
      rows.y_columns = d;
      rows.y = input;
      if (Status status = accumulate_moments(rows, &cancel, &moments); !status.ok()) return status;
      if (Status status = solve_ridge(moments, {.lambda = lambda, .relative = false}, &cancel, &fit); !status.ok()) return status;
    }
    std::vector<float> rounded(fit.w.values.size());
    std::transform(fit.w.values.begin(), fit.w.values.end(), rounded.begin(), [](double value) { return static_cast<float>(value); });
    for (const float value : rounded) {
      if (!std::isfinite(value)) return Status::fail(Code::non_finite, "the alignment overflows f32");
    }
    *w = std::move(rounded);
    return {};
  });
}

double mean_row_norm(int64_t rows, int64_t d, const RowReader& matrix) {
  if (rows < 1) return 0.0;
  const int64_t step = std::clamp<int64_t>((1 << 18) / std::max<int64_t>(d, 1), 1, rows);
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> block(step, d);
  double sum = 0.0;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    matrix(first, count, block.data());
    sum += block.topRows(count).cast<double>().rowwise().norm().sum();
  }
  return sum / static_cast<double>(rows);
}

}  // namespace latentwire
