// Iteratively reweighted least squares. The Hessian comes from the moments of the rows under the weights p (1 - p), centred: about the
// weighted mean the bias separates from w, and a large mean costs no digits. Loss and gradient are f64, so f32 in the Hessian only turns
// the step a little; a step that does not lower the loss enough is halved.
#include "fit/logistic.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "fit/eigen.h"
#include "fit/gram.h"

namespace latentwire {
namespace {

constexpr int64_t block_rows = 256;
constexpr int max_halvings = 40;
// Where all rows are certain the Hessian vanishes, and the step with it would have no bound.
constexpr double least_weight = 1e-10;

class Binary {
 public:
  Binary(const FloatRows& x, const int32_t* labels, int32_t positive, const LogisticOptions& options)
      : x_(x), labels_(labels), positive_(positive), options_(options), weights_(static_cast<size_t>(x.rows)) {
    w_ = EigenVector::Zero(x.columns);
  }

  Status run(const std::atomic<bool>* cancel, LogisticFit::Report* report) {
    double loss = evaluate(w_, bias_, true);
    if (!std::isfinite(loss) || !gradient_.allFinite()) return Status::fail(Code::non_finite, "the rows hold NaN or an infinity");
    while (!report->converged && report->iterations < options_.max_iterations) {
      if (is_cancelled(cancel)) return cancelled_fit();
      report->iterations++;
      EigenVector step;
      double bias_step = 0;
      if (Status status = newton_step(cancel, &step, &bias_step); !status.ok()) return status;
      const double slope = gradient_.dot(step) + bias_gradient_ * bias_step;
      report->converged = -slope <= options_.tolerance * loss;
      double length = 1, next = evaluate(w_ + step, bias_ + bias_step, false);
      for (int i = 0; i < max_halvings && !(next <= loss + 1e-4 * length * slope); i++) {
        length /= 2;
        next = evaluate(w_ + length * step, bias_ + length * bias_step, false);
      }
      // at the optimum rounding may hide the last decrease
      if (!(next <= loss)) break;
      w_ += length * step;
      bias_ += length * bias_step;
      loss = evaluate(w_, bias_, true);
    }
    report->loss = loss;
    report->gradient = std::max(gradient_.cwiseAbs().maxCoeff(), std::abs(bias_gradient_));
    return {};
  }

  const EigenVector& w() const noexcept { return w_; }
  double bias() const noexcept { return bias_; }

 private:
  // The loss; with `derivatives` also the gradient and the weights of the Hessian.
  double evaluate(const EigenVector& w, double bias, bool derivatives) {
    const int64_t blocks = (x_.rows + block_rows - 1) / block_rows;
    std::vector<double> losses(static_cast<size_t>(blocks));
    EigenColumns gradients;  // [columns + 1, blocks]
    if (derivatives) gradients = EigenColumns::Zero(x_.columns + 1, blocks);
    for_blocks(x_.rows, block_rows, [&](int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t i = begin; i < end; i++) {
        const Eigen::Map<const Eigen::VectorXf> row(x_.data + i * x_.columns, x_.columns);
        const double z = row.cast<double>().dot(w) + bias;
        const bool positive = labels_[i] == positive_;
        const double margin = positive ? z : -z;
        sum += std::max(-margin, 0.0) + std::log1p(std::exp(-std::abs(margin)));
        if (!derivatives) continue;
        const double p = z >= 0 ? 1 / (1 + std::exp(-z)) : std::exp(z) / (1 + std::exp(z));
        weights_[static_cast<size_t>(i)] = static_cast<float>(std::max(p * (1 - p), least_weight));
        const double error = positive ? p - 1 : p;
        auto gradient = gradients.col(begin / block_rows);
        gradient.head(x_.columns) += error * row.cast<double>();
        gradient[x_.columns] += error;
      }
      losses[static_cast<size_t>(begin / block_rows)] = sum;
    });
    double loss = options_.l2 / 2 * w.squaredNorm();
    for (const double value : losses) loss += value;
    if (derivatives) {
      gradient_ = options_.l2 * w;
      bias_gradient_ = 0;
      for (int64_t b = 0; b < blocks; b++) {
        gradient_ += gradients.col(b).head(x_.columns);
        bias_gradient_ += gradients(x_.columns, b);
      }
    }
    return loss;
  }

  Status newton_step(const std::atomic<bool>* cancel, EigenVector* step, double* bias_step) const {
    MomentsInput input;
    input.rows = x_.rows;
    input.x_columns = x_.columns;
    input.x = reader_of(x_);
    input.weights = weights_.data();
    input.centred = true;
    Moments moments;
    if (Status status = accumulate_moments(input, cancel, &moments); !status.ok()) return status;
    EigenColumns hessian = view(moments.gram);
    hessian.diagonal().array() += options_.l2;
    const auto mean = view(moments.x_mean);
    // in the coordinates w and bias + mean w the Hessian is block diagonal
    *step = -hessian.ldlt().solve(gradient_ - bias_gradient_ * mean);
    *bias_step = -bias_gradient_ / moments.weight - mean.dot(*step);
    if (!step->allFinite() || !std::isfinite(*bias_step))
      return Status::fail(Code::non_finite, "the logistic regression could not be solved: it needs a larger l2");
    return {};
  }

  const FloatRows& x_;
  const int32_t* labels_;
  const int32_t positive_;
  const LogisticOptions& options_;
  EigenVector w_;
  double bias_ = 0;
  EigenVector gradient_;
  double bias_gradient_ = 0;
  std::vector<float> weights_;
};

Status check(const FloatRows& x, const int32_t* labels, int64_t classes, const LogisticOptions& options) {
  if (x.rows < 1 || x.columns < 1 || x.columns > max_fit_columns || classes < 2 || classes > x.rows)
    return Status::fail(Code::invalid_argument, "logistic regression needs rows and columns, and at least two classes that all occur");
  if (!(options.l2 > 0) || !std::isfinite(options.l2) || options.max_iterations < 1 || !(options.tolerance >= 0))
    return Status::fail(Code::invalid_argument, "l2 must be a positive number, and there must be at least one iteration");
  std::vector<bool> seen(static_cast<size_t>(classes));
  for (int64_t i = 0; i < x.rows; i++) {
    if (labels[i] < 0 || labels[i] >= classes)
      return Status::fail(Code::invalid_argument, "label " + std::to_string(i) + " is not in [0, " + std::to_string(classes) + ")");
    seen[static_cast<size_t>(labels[i])] = true;
  }
  const auto missing = std::find(seen.begin(), seen.end(), false);
  if (missing != seen.end()) return Status::fail(Code::invalid_argument, "no row has label " + std::to_string(missing - seen.begin()));
  return {};
}

}  // namespace

Status logistic_regression(const FloatRows& x, const int32_t* labels, int64_t classes, const LogisticOptions& options,
                           const std::atomic<bool>* cancel, LogisticFit* out) {
  return guarded([&]() -> Status {
    if (Status status = check(x, labels, classes, options); !status.ok()) return status;
    LogisticFit fit;
    const int64_t problems = classes == 2 ? 1 : classes;
    fit.w = DenseMatrix(problems, x.columns);
    fit.reports.resize(static_cast<size_t>(problems));
    for (int64_t c = 0; c < problems; c++) {
      Binary binary(x, labels, static_cast<int32_t>(classes == 2 ? 1 : c), options);
      if (Status status = binary.run(cancel, &fit.reports[static_cast<size_t>(c)]); !status.ok()) return status;
      view(fit.w).row(c) = binary.w();
      fit.bias.push_back(binary.bias());
    }
    *out = std::move(fit);
    return {};
  });
}

}  // namespace latentwire
