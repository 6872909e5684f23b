// The randomised branch orthonormalises between its power iterations, without which small singular values drown in rounding.
#include "fit/decompose.h"

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <utility>

#include "fit/eigen.h"
#include "fit/random.h"

namespace latentwire {
namespace {

constexpr int64_t exact_up_to = 256;
constexpr int64_t oversampling = 16;
constexpr int power_iterations = 4;
constexpr double max_whitening_condition = 1e12;
constexpr int64_t product_rows = 64;

Status not_finite() { return Status::fail(Code::non_finite, "the matrix holds NaN or an infinity"); }

// +1 or -1, so that the component of largest magnitude, the first among equals, becomes positive.
template <class Vector>
double sign_of(const Vector& v) {
  Eigen::Index largest = 0;
  for (Eigen::Index i = 1; i < v.size(); i++) {
    if (std::abs(v[i]) > std::abs(v[largest])) largest = i;
  }
  return v[largest] < 0 ? -1.0 : 1.0;
}

Svd signed_svd(const EigenColumns& u, const EigenVector& values, const EigenColumns& v) {
  Svd out;
  out.u = dense(u);
  out.v = dense(v);
  out.values.assign(values.data(), values.data() + values.size());
  for (Eigen::Index j = 0; j < values.size(); j++) {
    const double sign = sign_of(v.col(j));
    view(out.u).col(j) *= sign;
    view(out.v).col(j) *= sign;
  }
  return out;
}

// The columns of a, orthonormal.
EigenColumns orthonormal(const EigenColumns& a) {
  const Eigen::HouseholderQR<EigenColumns> qr(a);
  return qr.householderQ() * EigenColumns::Identity(a.rows(), a.cols());
}

// A B and A' B on all threads, by rows of the result.
EigenColumns times(const EigenColumns& a, const EigenColumns& b) {
  EigenColumns out(a.rows(), b.cols());
  for_blocks(a.rows(), product_rows,
             [&](int64_t begin, int64_t end) { out.middleRows(begin, end - begin).noalias() = a.middleRows(begin, end - begin) * b; });
  return out;
}

EigenColumns transposed_times(const EigenColumns& a, const EigenColumns& b) {
  EigenColumns out(a.cols(), b.cols());
  for_blocks(a.cols(), product_rows, [&](int64_t begin, int64_t end) {
    out.middleRows(begin, end - begin).noalias() = a.middleCols(begin, end - begin).transpose() * b;
  });
  return out;
}

Status check_centred(const Moments& moments) {
  if (moments.gram.rows < 1 || !(moments.weight > 1))
    return Status::fail(Code::invalid_argument, "variances need moments of rows whose weights add up to more than 1");
  return {};
}

}  // namespace

Status symmetric_eigen(const DenseMatrix& a, SymmetricEigen* out) {
  if (a.rows < 1 || a.rows != a.columns)
    return Status::fail(Code::invalid_argument, "eigenvalues need a square matrix of at least one row");
  if (!all_finite(a)) return not_finite();
  return guarded([&]() -> Status {
    const Eigen::SelfAdjointEigenSolver<EigenColumns> solver{EigenColumns(view(a))};
    if (solver.info() != Eigen::Success) return Status::fail(Code::non_finite, "the eigenvalues did not converge");
    SymmetricEigen found;
    const int64_t n = a.rows;
    found.values.resize(static_cast<size_t>(n));
    found.vectors = DenseMatrix(n, n);
    for (int64_t j = 0; j < n; j++) {
      const auto vector = solver.eigenvectors().col(n - 1 - j);
      found.values[static_cast<size_t>(j)] = solver.eigenvalues()[n - 1 - j];
      view(found.vectors).col(j) = sign_of(vector) * vector;
    }
    *out = std::move(found);
    return {};
  });
}

Status thin_svd(const DenseMatrix& a, Svd* out) {
  if (a.rows < 1 || a.columns < 1) return Status::fail(Code::invalid_argument, "singular values need at least one row and one column");
  if (!all_finite(a)) return not_finite();
  return guarded([&]() -> Status {
    const Eigen::BDCSVD<EigenColumns> svd(EigenColumns(view(a)), Eigen::ComputeThinU | Eigen::ComputeThinV);
    if (svd.info() != Eigen::Success) return Status::fail(Code::non_finite, "the singular values did not converge");
    *out = signed_svd(svd.matrixU(), svd.singularValues(), svd.matrixV());
    return {};
  });
}

Status singular_values(const DenseMatrix& a, std::vector<double>* out) {
  if (a.rows < 1 || a.columns < 1) return Status::fail(Code::invalid_argument, "singular values need at least one row and one column");
  if (!all_finite(a)) return not_finite();
  return guarded([&]() -> Status {
    const Eigen::BDCSVD<EigenColumns> svd{EigenColumns(view(a))};
    if (svd.info() != Eigen::Success) return Status::fail(Code::non_finite, "the singular values did not converge");
    out->assign(svd.singularValues().begin(), svd.singularValues().end());
    return {};
  });
}

Status truncated_svd(const DenseMatrix& a, int64_t k, uint64_t seed, const std::atomic<bool>* cancel, Svd* out) {
  const int64_t shorter = std::min(a.rows, a.columns);
  if (k < 1 || k > shorter)
    return Status::fail(Code::invalid_argument, "the number of singular values must be between 1 and the shorter side");
  if (!all_finite(a)) return not_finite();
  return guarded([&]() -> Status {
    const int64_t width = k + oversampling;
    if (shorter <= exact_up_to || 4 * width > shorter) {
      Svd all;
      if (Status status = thin_svd(a, &all); !status.ok()) return status;
      all.values.resize(static_cast<size_t>(k));
      all.u = dense(view(all.u).leftCols(k).eval());
      all.v = dense(view(all.v).leftCols(k).eval());
      *out = std::move(all);
      return {};
    }
    // Signs serve as well as normal numbers and need no logarithm, which differs between platforms.
    const CounterRandom random(seed);
    const EigenColumns matrix = view(a);
    EigenColumns sketch(a.columns, width);
    for (int64_t i = 0; i < sketch.size(); i++) sketch.data()[i] = random.sign(static_cast<uint64_t>(i));
    EigenColumns range = orthonormal(times(matrix, sketch));
    for (int i = 0; i < power_iterations; i++) {
      if (is_cancelled(cancel)) return cancelled_fit();
      range = orthonormal(times(matrix, orthonormal(transposed_times(matrix, range))));
    }
    // A is about range (A' range)'
    const Eigen::BDCSVD<EigenColumns> small(transposed_times(matrix, range), Eigen::ComputeThinU | Eigen::ComputeThinV);
    if (small.info() != Eigen::Success) return Status::fail(Code::non_finite, "the singular values did not converge");
    *out = signed_svd(range * small.matrixV().leftCols(k), small.singularValues().head(k), small.matrixU().leftCols(k));
    return {};
  });
}

Status pca(const Moments& moments, int64_t k, Pca* out) {
  if (Status status = check_centred(moments); !status.ok()) return status;
  if (k < 1 || k > moments.gram.rows)
    return Status::fail(Code::invalid_argument, "the number of components must be between 1 and the dimension");
  return guarded([&]() -> Status {
    SymmetricEigen eigen;
    if (Status status = symmetric_eigen(moments.gram, &eigen); !status.ok()) return status;
    Pca found;
    found.mean = moments.x_mean;
    for (int64_t j = 0; j < k; j++) found.variances.push_back(std::max(0.0, eigen.values[static_cast<size_t>(j)]) / (moments.weight - 1));
    found.components = dense(view(eigen.vectors).leftCols(k));
    found.total_variance = view(moments.gram).trace() / (moments.weight - 1);
    *out = std::move(found);
    return {};
  });
}

Status whitening(const Moments& moments, double shrinkage, Whitening* out) {
  if (Status status = check_centred(moments); !status.ok()) return status;
  if (!(shrinkage >= 0 && shrinkage <= 1)) return Status::fail(Code::invalid_argument, "shrinkage must be in [0, 1]");
  return guarded([&]() -> Status {
    SymmetricEigen eigen;
    if (Status status = symmetric_eigen(moments.gram, &eigen); !status.ok()) return status;
    const double mean_variance = view(moments.gram).trace() / (moments.weight - 1) / static_cast<double>(moments.gram.rows);
    const EigenVector variances =
        (view(eigen.values).cwiseMax(0.0) * ((1 - shrinkage) / (moments.weight - 1))).array() + shrinkage * mean_variance;
    const EigenColumns vectors = view(eigen.vectors);
    // what rounding alone makes of the variance along each vector
    const EigenVector rounding =
        vectors.cwiseAbs2().transpose() * view(moments.gram).diagonal() * (moments.precision * (1 - shrinkage) / (moments.weight - 1));
    if (!(variances.minCoeff() * max_whitening_condition > variances.maxCoeff()) || (variances.array() <= rounding.array()).any())
      return Status::fail(Code::invalid_argument, "the covariance is singular: whitening needs more rows or more shrinkage");
    Whitening found;
    found.mean = moments.x_mean;
    found.whiten = dense(vectors * variances.cwiseSqrt().cwiseInverse().asDiagonal() * vectors.transpose());
    found.colour = dense(vectors * variances.cwiseSqrt().asDiagonal() * vectors.transpose());
    *out = std::move(found);
    return {};
  });
}

}  // namespace latentwire
