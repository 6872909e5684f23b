// The Cholesky factorisation against a plain inverse, for sizes around those of its tiles and blocks, and for matrices that have none. In
// the suite of the kernels: its product is one.
#include "fit/cholesky.h"

#include <doctest/doctest.h>

#include <limits>

#include "fit_support.h"

using namespace latentwire;
using testing::identity;
using testing::inverse;
using testing::multiplied;
using testing::norm;
using testing::plus;
using testing::transposed;

namespace {

// X'X of `rows` rows, exactly symmetric.
DenseMatrix gram_of(int64_t rows, int64_t d, uint64_t seed) {
  const DenseMatrix x = testing::random_dense(rows, d, seed);
  DenseMatrix gram = multiplied(transposed(x), x);
  for (int64_t i = 0; i < d; i++) {
    for (int64_t j = 0; j < i; j++) gram.row(j)[i] = gram.row(i)[j];
  }
  return gram;
}

// The largest sum of a column's magnitudes.
double one_norm(const DenseMatrix& a) {
  double most = 0;
  for (int64_t j = 0; j < a.columns; j++) {
    double sum = 0;
    for (int64_t i = 0; i < a.rows; i++) sum += std::abs(a.row(i)[j]);
    most = std::max(most, sum);
  }
  return most;
}

DenseMatrix column(const DenseMatrix& a, int64_t j) {
  DenseMatrix out(a.rows, 1);
  for (int64_t i = 0; i < a.rows; i++) out.values[static_cast<size_t>(i)] = a.row(i)[j];
  return out;
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("cholesky: solves and its condition against a plain inverse") {
    for (const int64_t d : {1, 2, 7, 8, 9, 63, 127, 128, 129, 200, 261}) {
      for (const double shift : {0.0, 3.0}) {
        CAPTURE(d);
        CAPTURE(shift);
        const DenseMatrix a = gram_of(2 * d + 3, d, 1);
        const DenseMatrix c = testing::random_dense(d, d == 261 ? 130 : 11, 2);
        const DenseMatrix shifted = plus(a, shift, identity(d));
        const DenseMatrix inverted = inverse(shifted);
        Cholesky cholesky;
        REQUIRE(cholesky.factor(a, shift, nullptr));
        const DenseMatrix w = cholesky.solve(c, nullptr);
        const double truth = one_norm(shifted) * one_norm(inverted);
        CHECK(norm(plus(w, -1, multiplied(inverted, c))) <= 1e-14 * truth * norm(w));
        CHECK(norm(plus(multiplied(shifted, w), -1, c)) <= 1e-12 * norm(shifted) * norm(w));
        CHECK(cholesky.condition() <= truth * (1 + 1e-6));
        CHECK(cholesky.condition() >= truth / 3);
        // a column does not depend on the others, however they are shared out
        for (const int64_t j : {int64_t{0}, c.columns - 1}) {
          const DenseMatrix alone = cholesky.solve(column(c, j), nullptr);
          REQUIRE(alone.values == column(w, j).values);
        }
        if (d == 261) testing::print_digest("cholesky", {w.values});
      }
    }
  }

  TEST_CASE("cholesky: nothing, the nearly singular, and what is not positive definite") {
    Cholesky cholesky;
    REQUIRE(cholesky.factor(DenseMatrix(0, 0), 1, nullptr));
    CHECK(cholesky.solve(DenseMatrix(0, 5), nullptr).columns == 5);
    CHECK(cholesky.condition() == 1);
    REQUIRE(cholesky.factor(gram_of(9, 9, 3), 0, nullptr));
    CHECK(cholesky.solve(DenseMatrix(9, 0), nullptr).values.empty());

    // of rank 40, and only the shift makes it definite
    const DenseMatrix a = gram_of(40, 150, 4);
    const DenseMatrix c = multiplied(a, testing::random_dense(150, 20, 5));
    REQUIRE(cholesky.factor(a, 1e-7, nullptr));
    const DenseMatrix w = cholesky.solve(c, nullptr);
    CHECK(norm(plus(plus(multiplied(a, w), 1e-7, w), -1, c)) <= 1e-9 * norm(c));
    CHECK(cholesky.condition() > 1e8);

    CHECK_FALSE(cholesky.factor(DenseMatrix(3, 3), 0, nullptr));
    CHECK_FALSE(cholesky.factor(a, -1, nullptr));
    for (const int64_t at : {0, 100, 149}) {
      DenseMatrix bad = gram_of(300, 150, 6);
      bad.row(at)[at] = -1;
      CHECK_FALSE(cholesky.factor(bad, 0, nullptr));
      bad.row(at)[at] = std::numeric_limits<double>::quiet_NaN();
      CHECK_FALSE(cholesky.factor(bad, 0, nullptr));
    }
    const std::atomic<bool> cancel{true};
    CHECK_FALSE(cholesky.factor(gram_of(20, 9, 7), 0, &cancel));
  }
}
