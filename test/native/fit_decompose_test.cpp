// Eigenvalues, singular values, principal components, whitening, Procrustes and Parseval frames, by the identities that define them and by
// planted answers.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "fit/decompose.h"
#include "fit/procrustes.h"
#include "fit_support.h"

namespace latentwire {
namespace {

using testing::as_floats;
using testing::identity;
using testing::largest_difference;
using testing::multiplied;
using testing::random_dense;
using testing::random_orthonormal;
using testing::transposed;

DenseMatrix scaled_columns(DenseMatrix a, const std::vector<double>& factors) {
  for (int64_t i = 0; i < a.rows; i++) {
    for (int64_t j = 0; j < a.columns; j++) a.row(i)[j] *= factors[static_cast<size_t>(j)];
  }
  return a;
}

// The largest component of every column is positive.
bool signs_are_fixed(const DenseMatrix& vectors) {
  for (int64_t j = 0; j < vectors.columns; j++) {
    double largest = 0;
    for (int64_t i = 0; i < vectors.rows; i++) {
      if (std::abs(vectors.row(i)[j]) > std::abs(largest)) largest = vectors.row(i)[j];
    }
    if (largest < 0) return false;
  }
  return true;
}

Moments moments_of(const DenseMatrix& x, const DenseMatrix& y, bool centred) {
  const std::vector<float> xs = as_floats(x), ys = as_floats(y);
  MomentsInput input;
  input.rows = x.rows;
  input.x_columns = x.columns;
  input.x = reader_of({xs.data(), x.rows, x.columns});
  input.y_columns = y.columns;
  input.y = reader_of({ys.data(), y.rows, y.columns});
  input.centred = centred;
  Moments out;
  REQUIRE(accumulate_moments(input, nullptr, &out).ok());
  return out;
}

DenseMatrix shifted(DenseMatrix a, double offset) {
  for (double& value : a.values) value += offset;
  return a;
}

}  // namespace

TEST_SUITE("fits") {
  TEST_CASE("eigenvectors satisfy their equation, in order and with their signs") {
    for (const int64_t n : {1, 2, 7, 64}) {
      const DenseMatrix root = random_dense(n, n, 1);
      DenseMatrix a = multiplied(root, transposed(root));
      SymmetricEigen eigen;
      REQUIRE(symmetric_eigen(a, &eigen).ok());
      CHECK(largest_difference(multiplied(a, eigen.vectors), scaled_columns(eigen.vectors, eigen.values)) <= 1e-9 * eigen.values[0]);
      CHECK(largest_difference(multiplied(transposed(eigen.vectors), eigen.vectors), identity(n)) <= 1e-12);
      CHECK(std::is_sorted(eigen.values.rbegin(), eigen.values.rend()));
      CHECK(signs_are_fixed(eigen.vectors));
    }
    SymmetricEigen eigen;
    REQUIRE(symmetric_eigen(DenseMatrix(3, 3), &eigen).ok());
    CHECK(eigen.values == std::vector<double>{0, 0, 0});
    CHECK(symmetric_eigen(DenseMatrix(2, 3), &eigen).code == Code::invalid_argument);
    CHECK(symmetric_eigen(DenseMatrix(0, 0), &eigen).code == Code::invalid_argument);
    DenseMatrix bad(2, 2);
    bad.values[2] = std::numeric_limits<double>::quiet_NaN();
    CHECK(symmetric_eigen(bad, &eigen).code == Code::non_finite);
  }

  TEST_CASE("a thin SVD is its matrix again, of any shape and rank") {
    for (const auto& [n, d, rank] :
         {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {1, 9, 1}, {9, 1, 1}, {40, 25, 25}, {25, 40, 25}, {60, 30, 4}}) {
      CAPTURE(n);
      CAPTURE(d);
      const DenseMatrix a = multiplied(random_dense(n, rank, 2), random_dense(rank, d, 3));
      Svd svd;
      REQUIRE(thin_svd(a, &svd).ok());
      const int64_t k = std::min(n, d);
      CHECK(largest_difference(multiplied(scaled_columns(svd.u, svd.values), transposed(svd.v)), a) <= 1e-10 * svd.values[0]);
      CHECK(largest_difference(multiplied(transposed(svd.u), svd.u), identity(k)) <= 1e-12);
      CHECK(largest_difference(multiplied(transposed(svd.v), svd.v), identity(k)) <= 1e-12);
      CHECK(std::is_sorted(svd.values.rbegin(), svd.values.rend()));
      CHECK(signs_are_fixed(svd.v));
      if (rank < k) CHECK(svd.values[static_cast<size_t>(rank)] <= 1e-12 * svd.values[0]);
    }
  }

  TEST_CASE("a truncated SVD finds the leading values, exactly and by projection") {
    const int64_t n = 500, d = 400, k = 10;
    std::vector<double> spectrum;
    for (int i = 0; i < 300; i++) spectrum.push_back(100 * std::pow(0.9, i));
    const DenseMatrix v = random_orthonormal(d, 300, 5);
    const DenseMatrix a = multiplied(scaled_columns(random_orthonormal(n, 300, 4), spectrum), transposed(v));
    for (const bool wide : {false, true}) {
      Svd svd, again, other;
      const DenseMatrix& matrix = wide ? transposed(a) : a;
      REQUIRE(truncated_svd(matrix, k, 7, nullptr, &svd).ok());
      REQUIRE(truncated_svd(matrix, k, 7, nullptr, &again).ok());
      REQUIRE(truncated_svd(matrix, k, 8, nullptr, &other).ok());
      REQUIRE(svd.values.size() == k);
      CHECK(svd.u.values == again.u.values);
      CHECK(svd.u.values != other.u.values);
      for (int64_t i = 0; i < k; i++)
        CHECK(svd.values[static_cast<size_t>(i)] == doctest::Approx(spectrum[static_cast<size_t>(i)]).epsilon(1e-4));
      CHECK(largest_difference(multiplied(transposed(svd.v), svd.v), identity(k)) <= 1e-10);
      CHECK(signs_are_fixed(svd.v));
      testing::print_digest("truncated svd", {svd.u.values, svd.v.values, svd.values});
    }
    Svd whole, part;
    REQUIRE(thin_svd(random_dense(30, 20, 6), &whole).ok());
    REQUIRE(truncated_svd(random_dense(30, 20, 6), 5, 0, nullptr, &part).ok());
    CHECK(part.values == std::vector<double>(whole.values.begin(), whole.values.begin() + 5));
    CHECK(part.u.columns == 5);
    CHECK(truncated_svd(a, 0, 0, nullptr, &part).code == Code::invalid_argument);
    CHECK(truncated_svd(a, d + 1, 0, nullptr, &part).code == Code::invalid_argument);
    CHECK(truncated_svd(DenseMatrix(0, 4), 1, 0, nullptr, &part).code == Code::invalid_argument);
    const std::atomic<bool> cancel{true};
    CHECK(truncated_svd(a, k, 0, &cancel, &part).code == Code::cancelled);
  }

  TEST_CASE("principal components of planted axes") {
    const int64_t n = 4000, d = 12;
    const DenseMatrix axes = random_orthonormal(d, d, 9);
    std::vector<double> deviations;
    for (int64_t j = 0; j < d; j++) deviations.push_back(static_cast<double>(2 * (d - j)));
    const DenseMatrix x = shifted(multiplied(scaled_columns(random_dense(n, d, 10), deviations), transposed(axes)), 50);
    Pca found;
    REQUIRE(pca(moments_of(x, DenseMatrix(n, 0), true), 3, &found).ok());
    for (int64_t j = 0; j < 3; j++) {
      CHECK(found.variances[static_cast<size_t>(j)] ==
            doctest::Approx(deviations[static_cast<size_t>(j)] * deviations[static_cast<size_t>(j)]).epsilon(0.1));
      double dot = 0;
      for (int64_t i = 0; i < d; i++) dot += found.components.row(i)[j] * axes.row(i)[j];
      CHECK(std::abs(dot) > 0.9);
    }
    CHECK(largest_difference(multiplied(transposed(found.components), found.components), identity(3)) <= 1e-12);
    CHECK(found.mean[0] == doctest::Approx(50).epsilon(0.1));
    double total = 0;
    for (const double deviation : deviations) total += deviation * deviation;
    CHECK(found.total_variance == doctest::Approx(total).epsilon(0.1));
    const Moments moments = moments_of(x, DenseMatrix(n, 0), true);
    CHECK(pca(moments, 0, &found).code == Code::invalid_argument);
    CHECK(pca(moments, d + 1, &found).code == Code::invalid_argument);
    CHECK(pca({}, 1, &found).code == Code::invalid_argument);
    CHECK(pca(moments_of(random_dense(1, 3, 1), DenseMatrix(1, 0), true), 1, &found).code == Code::invalid_argument);
  }

  TEST_CASE("whitened rows have the identity for covariance, and colour undoes it") {
    const int64_t n = 600, d = 9;
    const DenseMatrix x = multiplied(random_dense(n, d, 11), random_dense(d, d, 12));
    const Moments moments = moments_of(x, DenseMatrix(n, 0), true);
    Whitening fit;
    REQUIRE(whitening(moments, 0, &fit).ok());
    DenseMatrix covariance = multiplied(multiplied(fit.whiten, moments.gram), fit.whiten);
    for (double& value : covariance.values) value /= static_cast<double>(n - 1);
    CHECK(largest_difference(covariance, identity(d)) <= 1e-9);
    CHECK(largest_difference(multiplied(fit.whiten, fit.colour), identity(d)) <= 1e-9);
    REQUIRE(whitening(moments, 1, &fit).ok());
    CHECK(std::abs(fit.whiten.row(0)[1]) <= 1e-12);
    // a constant column has no variance: only shrinkage helps
    DenseMatrix constant = x;
    for (int64_t i = 0; i < n; i++) constant.row(i)[4] = 7;
    const Moments singular = moments_of(constant, DenseMatrix(n, 0), true);
    CHECK(whitening(singular, 0, &fit).code == Code::invalid_argument);
    CHECK(whitening(singular, 0.1, &fit).ok());
    // a column that is the sum of two others has a variance of its own only by rounding; a column that is small has one
    DenseMatrix dependent = random_dense(6000, 96, 30), uneven = dependent;
    for (int64_t i = 0; i < dependent.rows; i++) {
      dependent.row(i)[95] = static_cast<double>(static_cast<float>(dependent.row(i)[0] + dependent.row(i)[1]));
      uneven.row(i)[95] *= 1e-2;
      uneven.row(i)[94] += 1e-3 * uneven.row(i)[3];
      uneven.row(i)[93] *= 1e2;
    }
    CHECK(whitening(moments_of(dependent, DenseMatrix(6000, 0), true), 0, &fit).code == Code::invalid_argument);
    CHECK(whitening(moments_of(dependent, DenseMatrix(6000, 0), true), 0.01, &fit).ok());
    CHECK(whitening(moments_of(uneven, DenseMatrix(6000, 0), true), 0, &fit).ok());
    CHECK(whitening(moments, -0.1, &fit).code == Code::invalid_argument);
    CHECK(whitening(moments, std::numeric_limits<double>::quiet_NaN(), &fit).code == Code::invalid_argument);
    CHECK(whitening(moments_of(shifted(DenseMatrix(5, 2), 1), DenseMatrix(5, 0), true), 0.5, &fit).code == Code::invalid_argument);
  }

  TEST_CASE("Procrustes recovers a planted rotation, scale and shift") {
    for (const auto& [n, d] : {std::pair<int64_t, int64_t>{40, 16}, {300, 64}, {5000, 128}, {3, 1}}) {
      CAPTURE(d);
      const DenseMatrix x = shifted(random_dense(n, d, 13), 3), q = random_orthonormal(d, d, 14);
      DenseMatrix y = multiplied(x, q);
      for (double& value : y.values) value = 2.5 * value - 8;
      const Moments moments = moments_of(x, y, true);
      ProcrustesFit fit;
      REQUIRE(procrustes(moments, {.scaled = true}, &fit).ok());
      CHECK(largest_difference(fit.rotation, q) <= 1e-6);
      CHECK(fit.scale == doctest::Approx(2.5).epsilon(1e-6));
      CHECK(fit.residual <= 1e-6);
      CHECK(largest_difference(multiplied(transposed(fit.rotation), fit.rotation), identity(d)) <= 1e-12);
      // y = 2.5 x Q - 8
      for (int64_t j = 0; j < d; j++) CHECK(fit.bias[static_cast<size_t>(j)] == doctest::Approx(-8).epsilon(1e-4));
      // and back again is the transpose
      ProcrustesFit back;
      REQUIRE(procrustes(moments_of(y, x, true), {}, &back).ok());
      CHECK(largest_difference(back.rotation, transposed(fit.rotation)) <= 1e-6);
    }
  }

  TEST_CASE("the residual of Procrustes is that of the rows, and no worse than the identity's") {
    const int64_t n = 200, d = 10;
    const DenseMatrix x = random_dense(n, d, 15), y = random_dense(n, d, 16);
    for (const bool rotation_only : {false, true}) {
      for (const bool scaled : {false, true}) {
        ProcrustesFit fit;
        REQUIRE(procrustes(moments_of(x, y, false), {rotation_only, scaled}, &fit).ok());
        double missed = 0, untouched = 0, total = 0;
        const DenseMatrix mapped = multiplied(x, fit.rotation);
        for (size_t i = 0; i < y.values.size(); i++) {
          missed += std::pow(y.values[i] - fit.scale * mapped.values[i], 2);
          untouched += std::pow(y.values[i] - x.values[i], 2);
          total += y.values[i] * y.values[i];
        }
        CHECK(fit.residual == doctest::Approx(missed / total).epsilon(1e-6));
        CHECK(missed <= untouched);
        if (!scaled) CHECK(fit.scale == 1);
      }
    }
  }

  TEST_CASE("a reflection is allowed unless a rotation is asked for") {
    const int64_t d = 5;
    const DenseMatrix x = random_dense(60, d, 17);
    DenseMatrix mirror = identity(d);
    mirror.row(2)[2] = -1;
    const Moments moments = moments_of(x, multiplied(x, mirror), false);
    ProcrustesFit fit;
    REQUIRE(procrustes(moments, {}, &fit).ok());
    CHECK(largest_difference(fit.rotation, mirror) <= 1e-6);
    REQUIRE(procrustes(moments, {.rotation_only = true}, &fit).ok());
    CHECK(fit.residual > 0.01);
    // determinant by elimination
    DenseMatrix a = fit.rotation;
    double determinant = 1;
    for (int64_t i = 0; i < d; i++) {
      determinant *= a.row(i)[i];
      for (int64_t r = i + 1; r < d; r++) {
        const double factor = a.row(r)[i] / a.row(i)[i];
        for (int64_t c = i; c < d; c++) a.row(r)[c] -= factor * a.row(i)[c];
      }
    }
    CHECK(determinant == doctest::Approx(1));
  }

  TEST_CASE("Procrustes between unequal dimensions, and what it refuses") {
    const DenseMatrix x = random_dense(100, 4, 18), up = transposed(random_orthonormal(7, 4, 19));
    ProcrustesFit fit, back;
    REQUIRE(procrustes(moments_of(x, multiplied(x, up), false), {.scaled = true}, &fit).ok());
    CHECK(largest_difference(fit.rotation, up) <= 1e-6);
    CHECK(fit.scale == doctest::Approx(1));
    REQUIRE(procrustes(moments_of(multiplied(x, up), x, false), {.scaled = true}, &back).ok());
    CHECK(largest_difference(back.rotation, transposed(up)) <= 1e-6);
    CHECK(back.scale == doctest::Approx(1));
    CHECK(back.residual <= 1e-6);
    CHECK(procrustes(moments_of(x, multiplied(x, up), false), {.rotation_only = true}, &fit).code == Code::invalid_argument);
    CHECK(procrustes({}, {}, &fit).code == Code::invalid_argument);
    Moments bad = moments_of(x, x, false);
    bad.cross.values[3] = std::numeric_limits<double>::quiet_NaN();
    CHECK(procrustes(bad, {}, &fit).code == Code::non_finite);
  }

  TEST_CASE("a Parseval frame has singular values 1, keeps its row space and is a fixed point") {
    for (const auto& [k, d] : {std::pair<int64_t, int64_t>{30, 12}, {12, 30}, {12, 12}, {1, 5}, {5, 1}}) {
      CAPTURE(k);
      CAPTURE(d);
      const DenseMatrix f = random_dense(k, d, 20);
      ParsevalFrame fit, again;
      REQUIRE(parseval_frame(f, &fit).ok());
      CHECK(fit.rank == std::min(k, d));
      const DenseMatrix small = k >= d ? multiplied(transposed(fit.frame), fit.frame) : multiplied(fit.frame, transposed(fit.frame));
      CHECK(largest_difference(small, identity(std::min(k, d))) <= 1e-12);
      // F (F'F)^(-1/2) and F are related by a symmetric positive matrix: frame' F is symmetric
      const DenseMatrix related = multiplied(transposed(fit.frame), f);
      CHECK(largest_difference(related, transposed(related)) <= 1e-9);
      REQUIRE(parseval_frame(fit.frame, &again).ok());
      CHECK(largest_difference(again.frame, fit.frame) <= 1e-12);
    }
    ParsevalFrame fit;
    const DenseMatrix low = multiplied(random_dense(10, 2, 21), random_dense(2, 6, 22));
    REQUIRE(parseval_frame(low, &fit).ok());
    CHECK(fit.rank == 2);
    const DenseMatrix projector = multiplied(transposed(fit.frame), fit.frame);
    CHECK(largest_difference(multiplied(low, projector), low) <= 1e-9);
    // what f32 leaves of a dependence is no dimension, where rcond says so
    DenseMatrix rounded = low;
    for (double& value : rounded.values) value = static_cast<double>(static_cast<float>(value));
    REQUIRE(parseval_frame(rounded, &fit, 1e-6).ok());
    CHECK(fit.rank == 2);
    CHECK(parseval_frame(low, &fit, -1).code == Code::invalid_argument);
    CHECK(parseval_frame(low, &fit, 1).code == Code::invalid_argument);
    CHECK(parseval_frame(DenseMatrix(3, 3), &fit).code == Code::invalid_argument);
    CHECK(parseval_frame(DenseMatrix(0, 3), &fit).code == Code::invalid_argument);
  }
}

}  // namespace latentwire
