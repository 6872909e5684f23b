// LDLT takes over where rounding makes Cholesky fail, as it does for a Gram matrix of few rows with a small lambda; the residual decides in
// any case.
#include "fit/ridge.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "fit/decompose.h"
#include "fit/eigen.h"
#include "fit/random.h"

namespace latentwire {
namespace {

constexpr double max_residual = 1e-6;
constexpr int64_t solve_columns = 64;
constexpr int64_t probes = 16;

// Solves by columns on all threads; returns |(A W - C) Z| / |C Z|, which for the random signs Z is about |A W - C| / |C| and costs next to
// nothing.
template <class Factor>
double solve_columnwise(const Factor& factor, const EigenColumns& a, const EigenColumns& c, EigenColumns* w) {
  w->resize(a.rows(), c.cols());
  for_blocks(c.cols(), solve_columns,
             [&](int64_t begin, int64_t end) { w->middleCols(begin, end - begin) = factor.solve(c.middleCols(begin, end - begin)); });
  const CounterRandom random(0);
  EigenColumns signs(c.cols(), probes);
  for (int64_t i = 0; i < signs.size(); i++) signs.data()[i] = random.sign(static_cast<uint64_t>(i));
  const EigenColumns wanted = c * signs;
  return (a * (*w * signs) - wanted).norm() / std::max(wanted.norm(), std::numeric_limits<double>::min());
}

double condition_of(double rcond) { return rcond > 0 ? 1 / rcond : std::numeric_limits<double>::infinity(); }

}  // namespace

Status solve_ridge(const Moments& moments, const RidgeOptions& options, const std::atomic<bool>* cancel, LinearFit* out) {
  const int64_t d = moments.gram.rows;
  if (d < 1 || moments.cross.columns < 1) return Status::fail(Code::invalid_argument, "a ridge fit needs the moments of an X and of a Y");
  if (!(options.lambda >= 0) || !std::isfinite(options.lambda))
    return Status::fail(Code::invalid_argument, "lambda must be a finite number, not negative");
  return guarded([&]() -> Status {
    LinearFit fit;
    fit.lambda = options.relative ? options.lambda * view(moments.gram).trace() / static_cast<double>(d) : options.lambda;
    EigenColumns a = view(moments.gram);
    a.diagonal().array() += fit.lambda;
    const EigenColumns c = view(moments.cross);
    EigenColumns w;
    double residual = std::numeric_limits<double>::infinity();
    const Eigen::LLT<EigenColumns> cholesky(a);
    if (is_cancelled(cancel)) return cancelled_fit();
    if (cholesky.info() == Eigen::Success) {
      residual = solve_columnwise(cholesky, a, c, &w);
      fit.condition = condition_of(cholesky.rcond());
    }
    if (!(residual <= max_residual)) {
      if (is_cancelled(cancel)) return cancelled_fit();
      const Eigen::LDLT<EigenColumns> pivoted(a);
      residual = solve_columnwise(pivoted, a, c, &w);
      // its solve() leaves out pivots of 0, and then so does its estimate
      const EigenVector pivots = pivoted.vectorD().cwiseAbs();
      const double zero = std::numeric_limits<double>::epsilon() * static_cast<double>(d) * pivots.maxCoeff();
      fit.condition = pivots.minCoeff() > zero ? condition_of(pivoted.rcond()) : std::numeric_limits<double>::infinity();
    }
    if (is_cancelled(cancel)) return cancelled_fit();
    if (!(residual <= max_residual) || !w.allFinite())
      return Status::fail(Code::non_finite, "the normal equations could not be solved: relative residual " + std::to_string(residual));
    fit.w = dense(w);
    fit.bias.resize(static_cast<size_t>(c.cols()));
    view(fit.bias) = view(moments.y_mean) - w.transpose() * view(moments.x_mean);
    const double explained = w.cwiseProduct(c).sum() + fit.lambda * w.squaredNorm();
    fit.unexplained = moments.y_squares > 0 ? std::max(0.0, 1 - explained / moments.y_squares) : 0;
    *out = std::move(fit);
    return {};
  });
}

Status solve_least_squares(const DenseMatrix& x, const DenseMatrix& y, const LeastSquaresOptions& options, const std::atomic<bool>* cancel,
                           LinearFit* out) {
  if (x.rows < 1 || x.columns < 1 || y.columns < 1 || x.rows != y.rows)
    return Status::fail(Code::invalid_argument, "least squares need as many rows of Y as of X, and at least one row and column of each");
  if (!(options.rcond >= 0) || !(options.rcond < 1)) return Status::fail(Code::invalid_argument, "rcond must be in [0, 1)");
  if (!all_finite(x) || !all_finite(y)) return Status::fail(Code::non_finite, "X or Y holds NaN or an infinity");
  return guarded([&]() -> Status {
    EigenMatrix target = view(y);
    DenseMatrix centred = x;
    EigenVector x_mean = EigenVector::Zero(x.columns), y_mean = EigenVector::Zero(y.columns);
    if (options.centred) {
      x_mean = view(x).colwise().mean();
      y_mean = view(y).colwise().mean();
      view(centred).rowwise() -= x_mean.transpose();
      target.rowwise() -= y_mean.transpose();
    }
    Svd svd;
    if (Status status = thin_svd(centred, &svd); !status.ok()) return status;
    if (is_cancelled(cancel)) return cancelled_fit();
    int64_t kept = 0;
    while (kept < static_cast<int64_t>(svd.values.size()) && svd.values[static_cast<size_t>(kept)] > options.rcond * svd.values[0]) kept++;
    LinearFit fit;
    const EigenMatrix projected = view(svd.u).leftCols(kept).transpose() * target;
    const EigenVector inverse = view(svd.values).head(kept).cwiseInverse();
    fit.w = dense(view(svd.v).leftCols(kept) * inverse.asDiagonal() * projected);
    fit.bias.resize(static_cast<size_t>(y.columns));
    view(fit.bias) = y_mean - view(fit.w).transpose() * x_mean;
    fit.condition = kept > 0 ? svd.values[0] / svd.values[static_cast<size_t>(kept - 1)] : std::numeric_limits<double>::infinity();
    const double total = target.squaredNorm();
    fit.unexplained = total > 0 ? std::max(0.0, (target - view(centred) * view(fit.w)).squaredNorm() / total) : 0;
    if (!all_finite(fit.w)) return Status::fail(Code::non_finite, "the least squares solution overflows: raise rcond");
    *out = std::move(fit);
    return {};
  });
}

}  // namespace latentwire
