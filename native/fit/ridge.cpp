// LDLT takes over where rounding makes Cholesky fail, as it does for a Gram matrix of few rows with a small lambda; the residual decides in
// any case.
#include "fit/ridge.h"

#include <Eigen/Cholesky>
#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "fit/cholesky.h"
#include "fit/decompose.h"
#include "fit/eigen.h"
#include "fit/random.h"

namespace latentwire {
namespace {

constexpr double max_residual = 1e-6;
constexpr int64_t solve_columns = 64;
constexpr int64_t probes = 16;

// |(A W - C) Z| / |C Z| with A = G + lambda I, which for the random signs Z is about |A W - C| / |C| and costs next to nothing.
double residual_of(const DenseMatrix& gram, double lambda, const DenseMatrix& w, const DenseMatrix& c) {
  const CounterRandom random(0);
  EigenMatrix signs(c.columns, probes);
  for (int64_t i = 0; i < signs.size(); i++) signs.data()[i] = random.sign(static_cast<uint64_t>(i));
  const EigenMatrix wanted = view(c) * signs;
  const EigenMatrix solution = view(w) * signs;
  return (view(gram) * solution + lambda * solution - wanted).norm() / std::max(wanted.norm(), std::numeric_limits<double>::min());
}

// By columns on all threads.
DenseMatrix solve_columnwise(const Eigen::LDLT<EigenColumns>& factor, const DenseMatrix& c) {
  DenseMatrix w(c.rows, c.columns);
  for_blocks(c.columns, solve_columns, [&](int64_t begin, int64_t end) {
    view(w).middleCols(begin, end - begin) = factor.solve(view(c).middleCols(begin, end - begin));
  });
  return w;
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
    const DenseMatrix& c = moments.cross;
    double residual = std::numeric_limits<double>::infinity();
    {
      Cholesky cholesky;
      if (cholesky.factor(moments.gram, fit.lambda, cancel)) {
        fit.w = cholesky.solve(c, cancel);
        fit.condition = cholesky.condition();
        residual = residual_of(moments.gram, fit.lambda, fit.w, c);
      }
    }
    if (is_cancelled(cancel)) return cancelled_fit();
    if (!(residual <= max_residual)) {
      EigenColumns a = view(moments.gram);
      a.diagonal().array() += fit.lambda;
      const Eigen::LDLT<EigenColumns> pivoted(a);
      fit.w = solve_columnwise(pivoted, c);
      // its solve() leaves out pivots of 0, and then so does its estimate
      const EigenVector pivots = pivoted.vectorD().cwiseAbs();
      const double zero = std::numeric_limits<double>::epsilon() * static_cast<double>(d) * pivots.maxCoeff();
      fit.condition = pivots.minCoeff() > zero ? condition_of(pivoted.rcond()) : std::numeric_limits<double>::infinity();
      residual = residual_of(moments.gram, fit.lambda, fit.w, c);
    }
    if (is_cancelled(cancel)) return cancelled_fit();
    // f64 cannot tell it from a singular matrix, whose last pivot may come out as a rounding error
    if (fit.condition > 1 / std::numeric_limits<double>::epsilon()) fit.condition = std::numeric_limits<double>::infinity();
    if (!(residual <= max_residual) || !all_finite(fit.w))
      return Status::fail(Code::non_finite, "the normal equations could not be solved: relative residual " + std::to_string(residual));
    const auto w = view(fit.w);
    fit.bias.resize(static_cast<size_t>(c.columns));
    view(fit.bias) = view(moments.y_mean) - w.transpose() * view(moments.x_mean);
    const double explained = w.cwiseProduct(view(c)).sum() + fit.lambda * w.squaredNorm();
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
    // R of X = QR has the singular values of X: of a tall X little is left to decompose, and nothing where all of them count
    const bool is_tall = x.rows > x.columns;
    EigenColumns reduced = view(centred);
    EigenColumns wanted = target;
    if (is_tall) {
      const Eigen::HouseholderQR<EigenColumns> qr(reduced);
      wanted = (qr.householderQ().adjoint() * wanted).topRows(x.columns).eval();
      reduced = EigenColumns(qr.matrixQR().topRows(x.columns).triangularView<Eigen::Upper>());
    }
    if (is_cancelled(cancel)) return cancelled_fit();
    LinearFit fit;
    std::vector<double> values{0};
    if (is_tall) {
      if (Status status = singular_values(dense(reduced), &values); !status.ok()) return status;
    }
    if (values.back() > options.rcond * values.front()) {
      fit.w = dense(reduced.triangularView<Eigen::Upper>().solve(wanted));
      fit.condition = values.front() / values.back();
    } else {
      Svd svd;
      if (Status status = thin_svd(dense(reduced), &svd); !status.ok()) return status;
      if (is_cancelled(cancel)) return cancelled_fit();
      int64_t kept = 0;
      while (kept < static_cast<int64_t>(svd.values.size()) && svd.values[static_cast<size_t>(kept)] > options.rcond * svd.values[0])
        kept++;
      const EigenMatrix projected = view(svd.u).leftCols(kept).transpose() * wanted;
      const EigenVector inverse = view(svd.values).head(kept).cwiseInverse();
      fit.w = dense(view(svd.v).leftCols(kept) * inverse.asDiagonal() * projected);
      fit.condition = kept > 0 ? svd.values[0] / svd.values[static_cast<size_t>(kept - 1)] : std::numeric_limits<double>::infinity();
    }
    fit.bias.resize(static_cast<size_t>(y.columns));
    view(fit.bias) = y_mean - view(fit.w).transpose() * x_mean;
    const double total = target.squaredNorm();
    fit.unexplained = total > 0 ? std::max(0.0, (target - view(centred) * view(fit.w)).squaredNorm() / total) : 0;
    if (!all_finite(fit.w)) return Status::fail(Code::non_finite, "the least squares solution overflows: raise rcond");
    *out = std::move(fit);
    return {};
  });
}

}  // namespace latentwire
