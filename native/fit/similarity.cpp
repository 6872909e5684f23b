#include "fit/similarity.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "fit/decompose.h"
#include "fit/eigen.h"

namespace latentwire {
namespace {

Status no_spread(const char* name) {
  return Status::fail(Code::invalid_argument, std::string("the rows of ") + name + " are all equal: they have no similarity to anything");
}

Status check(const DenseMatrix& x, const DenseMatrix& y, int64_t least_rows) {
  if (x.rows != y.rows) return Status::fail(Code::invalid_argument, "x and y must have one row each for every thing");
  if (x.rows < least_rows || x.columns < 1 || y.columns < 1)
    return Status::fail(Code::invalid_argument,
                        "at least " + std::to_string(least_rows) + " rows are needed, got " + std::to_string(x.rows));
  if (!all_finite(x) || !all_finite(y)) return Status::fail(Code::non_finite, "the rows hold NaN or an infinity");
  return {};
}

// False if what is left of the rows is no more than the rounding of their mean.
bool centre(EigenMatrix* rows) {
  const double before = rows->squaredNorm();
  rows->rowwise() -= rows->colwise().mean().eval();
  return rows->squaredNorm() > 1e-24 * before;
}

Status centred(const DenseMatrix& x, const char* name, EigenMatrix* out) {
  *out = view(x);
  return centre(out) ? Status{} : no_spread(name);
}

// x x', whose n^2 d products are the work here. Blocks of rows do not depend on the number of threads.
EigenMatrix gram_of(const EigenMatrix& x) {
  EigenMatrix gram(x.rows(), x.rows());
  for_blocks(x.rows(), 64, [&](int64_t begin, int64_t end) {
    gram.middleRows(begin, end - begin).noalias() = x.middleRows(begin, end - begin) * x.transpose();
  });
  return gram;
}

double dot(const EigenMatrix& a, const EigenMatrix& b) { return a.cwiseProduct(b).sum(); }

// For kernels with zeros on their diagonals, and masked ones, which need not be symmetric.
double unbiased_hsic(const EigenMatrix& k, const EigenMatrix& l) {
  const auto n = static_cast<double>(k.rows());
  const double pairs = k.cwiseProduct(l.transpose()).sum();
  const double sums = k.sum() * l.sum() / ((n - 1) * (n - 2));
  const double paths = k.colwise().sum().dot(l.rowwise().sum().transpose());
  return (pairs + sums - 2 * paths / (n - 2)) / (n * (n - 3));
}

Status unbiased_alignment(double both, double xs, double ys, double* out) {
  if (!(xs > 0 && ys > 0)) return Status::fail(Code::invalid_argument, "the unbiased alignment is not defined for so few or so equal rows");
  *out = both / std::sqrt(xs * ys);
  return {};
}

EigenMatrix inner_products(const DenseMatrix& x) {
  EigenMatrix gram = gram_of(view(x));
  gram.diagonal().setZero();
  return gram;
}

// 1 where column j is among the k largest of row i, the lower index first among equals; never on the diagonal.
EigenMatrix nearest_mask(const EigenMatrix& gram, int64_t k) {
  EigenMatrix mask = EigenMatrix::Zero(gram.rows(), gram.cols());
  for_blocks(gram.rows(), 64, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> order;
    for (int64_t i = begin; i < end; i++) {
      order.resize(static_cast<size_t>(gram.cols()));
      std::iota(order.begin(), order.end(), int64_t{0});
      order.erase(order.begin() + i);
      std::partial_sort(order.begin(), order.begin() + k, order.end(),
                        [&](int64_t a, int64_t b) { return gram(i, a) != gram(i, b) ? gram(i, a) > gram(i, b) : a < b; });
      for (int64_t j = 0; j < k; j++) mask(i, order[static_cast<size_t>(j)]) = 1;
    }
  });
  return mask;
}

// Centred in both directions: H K H.
Status gaussian_kernel(const DenseMatrix& x, const char* name, EigenMatrix* out) {
  EigenMatrix rows;
  if (Status status = centred(x, name, &rows); !status.ok()) return status;
  EigenMatrix kernel = gram_of(rows);
  const EigenVector squares = kernel.diagonal();
  std::vector<double> distances;
  for (int64_t i = 0; i < kernel.rows(); i++) {
    for (int64_t j = 0; j < kernel.cols(); j++) {
      const double both = squares(i) + squares(j);
      const double distance = both - 2 * kernel(i, j);
      // copies of a row differ by rounding only
      kernel(i, j) = distance > 1e-12 * both ? distance : 0;
      if (j > i && kernel(i, j) > 0) distances.push_back(kernel(i, j));
    }
  }
  if (distances.empty()) return no_spread(name);
  const auto middle = distances.begin() + static_cast<int64_t>((distances.size() - 1) / 2);
  std::nth_element(distances.begin(), middle, distances.end());
  kernel = (kernel.array() / (-2 * *middle)).exp().matrix();
  kernel.rowwise() -= kernel.colwise().mean().eval();
  kernel.colwise() -= kernel.rowwise().mean().eval();
  *out = std::move(kernel);
  return {};
}

// S^(-1/2) of the columns that vary, in `kept`.
struct InverseRoot {
  std::vector<int64_t> kept;
  EigenMatrix root;
};

Status inverse_root(const EigenMatrix& covariance, double epsilon, InverseRoot* out) {
  for (int64_t i = 0; i < covariance.rows(); i++) {
    if (covariance(i, i) >= epsilon) out->kept.push_back(i);
  }
  EigenMatrix used = covariance(out->kept, out->kept);
  used.diagonal().array() += epsilon;
  SymmetricEigen eigen;
  if (Status status = symmetric_eigen(dense(used), &eigen); !status.ok()) return status;
  const EigenVector inverse = view(eigen.values).cwiseMax(epsilon * 0x1p-40).cwiseSqrt().cwiseInverse();
  out->root = view(eigen.vectors) * inverse.asDiagonal() * view(eigen.vectors).transpose();
  return {};
}

// body(a, b) with the rows of both sides centred.
template <class Body>
Status of_centred(const DenseMatrix& x, const DenseMatrix& y, const std::atomic<bool>* cancel, const Body& body) {
  return guarded([&]() -> Status {
    EigenMatrix a;
    EigenMatrix b;
    if (Status status = centred(x, "x", &a); !status.ok()) return status;
    if (Status status = centred(y, "y", &b); !status.ok()) return status;
    if (is_cancelled(cancel)) return cancelled_fit();
    return body(a, b);
  });
}

}  // namespace

Status linear_cka(const DenseMatrix& x, const DenseMatrix& y, const std::atomic<bool>* cancel, double* out) {
  if (Status status = check(x, y, 2); !status.ok()) return status;
  return of_centred(x, y, cancel, [&](const EigenMatrix& a, const EigenMatrix& b) -> Status {
    if (x.rows > std::max(x.columns, y.columns)) {
      const EigenMatrix cross = a.transpose() * b;
      if (is_cancelled(cancel)) return cancelled_fit();
      const EigenMatrix xx = a.transpose() * a;
      if (is_cancelled(cancel)) return cancelled_fit();
      const EigenMatrix yy = b.transpose() * b;
      *out = cross.squaredNorm() / (xx.norm() * yy.norm());
    } else {
      const EigenMatrix k = gram_of(a);
      if (is_cancelled(cancel)) return cancelled_fit();
      const EigenMatrix l = gram_of(b);
      *out = dot(k, l) / (k.norm() * l.norm());
    }
    return {};
  });
}

Status unbiased_cka(const DenseMatrix& x, const DenseMatrix& y, const std::atomic<bool>* cancel, double* out) {
  if (Status status = check(x, y, 4); !status.ok()) return status;
  // the estimate does not change when rows move, its rounding does
  return of_centred(x, y, cancel, [&](const EigenMatrix& a, const EigenMatrix& b) -> Status {
    EigenMatrix k = gram_of(a);
    if (is_cancelled(cancel)) return cancelled_fit();
    EigenMatrix l = gram_of(b);
    k.diagonal().setZero();
    l.diagonal().setZero();
    return unbiased_alignment(unbiased_hsic(k, l), unbiased_hsic(k, k), unbiased_hsic(l, l), out);
  });
}

Status rbf_cka(const DenseMatrix& x, const DenseMatrix& y, const std::atomic<bool>* cancel, double* out) {
  if (Status status = check(x, y, 2); !status.ok()) return status;
  return guarded([&]() -> Status {
    EigenMatrix k;
    if (Status status = gaussian_kernel(x, "x", &k); !status.ok()) return status;
    if (is_cancelled(cancel)) return cancelled_fit();
    EigenMatrix l;
    if (Status status = gaussian_kernel(y, "y", &l); !status.ok()) return status;
    *out = dot(k, l) / (k.norm() * l.norm());
    return {};
  });
}

Status cknna(const DenseMatrix& x, const DenseMatrix& y, int64_t k, const std::atomic<bool>* cancel, double* out) {
  if (Status status = check(x, y, 4); !status.ok()) return status;
  if (k < 1 || k >= x.rows) return Status::fail(Code::invalid_argument, "k must be from 1 to the number of other rows");
  return guarded([&]() -> Status {
    const EigenMatrix a = inner_products(x);
    if (is_cancelled(cancel)) return cancelled_fit();
    const EigenMatrix b = inner_products(y);
    if (is_cancelled(cancel)) return cancelled_fit();
    const EigenMatrix of_a = nearest_mask(a, k);
    const EigenMatrix of_b = nearest_mask(b, k);
    const auto alignment = [](const EigenMatrix& mask, const EigenMatrix& p, const EigenMatrix& q) {
      return unbiased_hsic(mask.cwiseProduct(p), mask.cwiseProduct(q));
    };
    return unbiased_alignment(alignment(of_a.cwiseProduct(of_b), a, b), alignment(of_a, a, a), alignment(of_b, b, b), out);
  });
}

Status procrustes_distance(const DenseMatrix& x, const DenseMatrix& y, const std::atomic<bool>* cancel, double* out) {
  if (Status status = check(x, y, 2); !status.ok()) return status;
  return of_centred(x, y, cancel, [&](const EigenMatrix& a, const EigenMatrix& b) -> Status {
    const EigenMatrix cross = a.transpose() * b;
    Svd svd;
    if (Status status = thin_svd(dense(cross), &svd); !status.ok()) return status;
    *out = std::max(0.0, 2 - 2 * view(svd.values).sum() / (a.norm() * b.norm()));
    return {};
  });
}

Status canonical_correlations(const DenseMatrix& x, const DenseMatrix& y, double epsilon, const std::atomic<bool>* cancel,
                              std::vector<double>* out) {
  if (Status status = check(x, y, 2); !status.ok()) return status;
  if (!(epsilon > 0 && epsilon < 1)) return Status::fail(Code::invalid_argument, "epsilon must be between 0 and 1");
  if (x.rows <= std::max(x.columns, y.columns))
    return Status::fail(Code::invalid_argument, "canonical correlations need more rows than columns, or all of them are 1: got " +
                                                    std::to_string(x.rows) + " rows");
  return of_centred(x, y, cancel, [&](const EigenMatrix& a, const EigenMatrix& b) -> Status {
    EigenMatrix xx = a.transpose() * a;
    EigenMatrix yy = b.transpose() * b;
    if (is_cancelled(cancel)) return cancelled_fit();
    // the divisor n - 1 cancels out
    const double x_largest = xx.cwiseAbs().maxCoeff();
    const double y_largest = yy.cwiseAbs().maxCoeff();
    xx /= x_largest;
    yy /= y_largest;
    EigenMatrix cross = a.transpose() * b / std::sqrt(x_largest * y_largest);
    InverseRoot of_x;
    InverseRoot of_y;
    if (Status status = inverse_root(xx, epsilon, &of_x); !status.ok()) return status;
    if (is_cancelled(cancel)) return cancelled_fit();
    if (Status status = inverse_root(yy, epsilon, &of_y); !status.ok()) return status;
    if (is_cancelled(cancel)) return cancelled_fit();
    Svd svd;
    const EigenMatrix used = cross(of_x.kept, of_y.kept);
    if (Status status = thin_svd(dense(of_x.root * used * of_y.root), &svd); !status.ok()) return status;
    svd.values.resize(static_cast<size_t>(std::min(x.columns, y.columns)));
    *out = std::move(svd.values);
    return {};
  });
}

Status centred_singular_values(const DenseMatrix& x, std::vector<double>* out) {
  if (Status status = check(x, x, 1); !status.ok()) return status;
  return guarded([&]() -> Status {
    EigenMatrix a = view(x);
    a.rowwise() -= a.colwise().mean().eval();
    Svd svd;
    if (Status status = thin_svd(dense(a), &svd); !status.ok()) return status;
    *out = std::move(svd.values);
    return {};
  });
}

}  // namespace latentwire
