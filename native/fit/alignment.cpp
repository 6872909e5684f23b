// Accumulates Wo'Wo and Wo'Wi block by block of rows, then solves the normal equations by Cholesky. With lambda = 1e-5
// the Gram matrix of a vocabulary smaller than d is barely definite; LDLT takes over where rounding makes Cholesky
// fail, and the residual decides in any case.
#include "fit/alignment.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <string>

namespace latentwire {
namespace {

using Matrix = Eigen::MatrixXd;
using RowBlock = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int64_t kMaxDimension = 1 << 16;
constexpr double kMaxResidual = 1e-6;

// Rows a block: enough for the product to run from cache-sized panels, few enough that a cancel is noticed within tens
// of milliseconds.
int64_t block_rows(int64_t rows, int64_t d) {
  return std::clamp<int64_t>((1 << 18) / std::max<int64_t>(d, 1), 1, std::max<int64_t>(rows, 1));
}

Status cancelled() { return Status::fail(Code::cancelled, "the alignment was cancelled"); }

}  // namespace

Status solve_alignment(int64_t vocab, int64_t d, const RowReader& output, const RowReader& input, double lambda,
                       const std::atomic<bool>& cancel, std::vector<float>* w) {
  if (vocab < 1 || d < 1 || d > kMaxDimension)
    return Status::fail(Code::invalid_argument, "an alignment needs at least one row and one dimension");
  if (!(lambda > 0.0) || !std::isfinite(lambda)) return Status::fail(Code::invalid_argument, "lambda must be a positive number");
  try {
    Matrix gram = Matrix::Zero(d, d);   // Wo' Wo + lambda I, lower triangle until the end of the pass
    Matrix cross = Matrix::Zero(d, d);  // Wo' Wi
    const int64_t step = block_rows(vocab, d);
    RowBlock rows(step, d);
    Matrix out_block(step, d), in_block(step, d);
    for (int64_t first = 0; first < vocab; first += step) {
      if (cancel.load(std::memory_order_relaxed)) return cancelled();
      const int64_t count = std::min(step, vocab - first);
      output(first, count, rows.data());
      out_block.topRows(count) = rows.topRows(count).cast<double>();
      input(first, count, rows.data());
      in_block.topRows(count) = rows.topRows(count).cast<double>();
      gram.selfadjointView<Eigen::Lower>().rankUpdate(out_block.topRows(count).transpose());
      cross.noalias() += out_block.topRows(count).transpose() * in_block.topRows(count);
    }
    gram.triangularView<Eigen::StrictlyUpper>() = gram.transpose();
    gram.diagonal().array() += lambda;
    if (!gram.allFinite() || !cross.allFinite())
      return Status::fail(Code::non_finite, "the input or output matrix holds NaN or an infinity");
    if (cancel.load(std::memory_order_relaxed)) return cancelled();

    Matrix solution;
    const auto residual = [&] { return (gram * solution - cross).norm() / std::max(cross.norm(), std::numeric_limits<double>::min()); };
    const Eigen::LLT<Matrix> cholesky(gram);
    const bool definite = cholesky.info() == Eigen::Success;
    if (definite) solution = cholesky.solve(cross);
    if (!definite || !(residual() <= kMaxResidual)) {
      if (cancel.load(std::memory_order_relaxed)) return cancelled();
      solution = gram.ldlt().solve(cross);
    }
    const RowBlock rounded = solution.cast<float>();
    if (const double found = residual(); !(found <= kMaxResidual) || !rounded.allFinite()) {
      return Status::fail(Code::non_finite, "the alignment could not be solved: relative residual " + std::to_string(found));
    }
    w->assign(rounded.data(), rounded.data() + rounded.size());
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for the Gram matrices of an alignment of dimension " + std::to_string(d));
  }
}

double mean_row_norm(int64_t rows, int64_t d, const RowReader& matrix) {
  if (rows < 1) return 0.0;
  const int64_t step = block_rows(rows, d);
  RowBlock block(step, d);
  double sum = 0.0;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    matrix(first, count, block.data());
    sum += block.topRows(count).cast<double>().rowwise().norm().sum();
  }
  return sum / static_cast<double>(rows);
}

}  // namespace latentwire
