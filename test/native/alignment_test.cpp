// The alignment operator and the latent step against float64 references (conformance 1 to 5 of LatentMAS: operator,
// tied matrices, default off, norm, degenerate input), and the shapes at which blocked code goes wrong.
#include "fit/alignment.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "fit/decompose.h"
#include "fit_support.h"
#include "kernels/latent_step.h"

namespace latentwire {
namespace {

using testing::identity;
using testing::inverse;
using testing::largest_difference;
using testing::multiplied;
using testing::plus;
using testing::transposed;
const std::atomic<bool> kNoCancel{false};

std::vector<float> random_matrix(int64_t rows, int64_t d, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(rows * d));
  for (float& value : values) value = normal(engine);
  return values;
}

RowReader reader_of(const std::vector<float>& matrix, int64_t d) {
  return [&matrix, d](int64_t first, int64_t count, float* out) { std::copy_n(matrix.begin() + first * d, count * d, out); };
}

DenseMatrix as_f64(const std::vector<float>& values, int64_t d) {
  DenseMatrix out(static_cast<int64_t>(values.size()) / d, d);
  std::copy(values.begin(), values.end(), out.values.begin());
  return out;
}

std::vector<float> solve(const std::vector<float>& output, const std::vector<float>& input, int64_t d, double lambda = kAlignmentLambda) {
  std::vector<float> w;
  const Status status =
      solve_alignment(static_cast<int64_t>(output.size()) / d, d, reader_of(output, d), reader_of(input, d), lambda, kNoCancel, &w);
  REQUIRE_MESSAGE(status.ok(), status.message);
  return w;
}

double norm(const DenseMatrix& a) { return testing::norm(a); }
double norm(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("the operator matches a float64 solve and its normal equations") {
  const int64_t vocab = 2048, d = 200;
  const std::vector<float> output = random_matrix(vocab, d, 1), input = random_matrix(vocab, d, 2);
  const DenseMatrix w = as_f64(solve(output, input, d), d);
  const DenseMatrix wo = as_f64(output, d), wi = as_f64(input, d);
  const DenseMatrix gram = plus(multiplied(transposed(wo), wo), kAlignmentLambda, identity(d));
  const DenseMatrix cross = multiplied(transposed(wo), wi);
  const DenseMatrix reference = multiplied(inverse(gram), cross);
  CHECK(norm(plus(w, -1, reference)) / norm(reference) <= 1e-4);
  CHECK(norm(plus(multiplied(gram, w), -1, cross)) / norm(cross) <= 1e-5);
}

TEST_CASE("tied matrices give the identity within the shrinkage of lambda") {
  const int64_t d = 64;
  const std::vector<float> tied = random_matrix(300, d, 3);
  const DenseMatrix w = as_f64(solve(tied, tied, d), d);
  Svd svd;
  REQUIRE(thin_svd(as_f64(tied, d), &svd).ok());
  const double smallest = svd.values.back();
  CHECK(largest_difference(w, identity(d)) <= kAlignmentLambda / (smallest * smallest + kAlignmentLambda) + 1e-4);
}

TEST_CASE("a vocabulary smaller than the dimension gives the projector on its rows") {
  const int64_t vocab = 20, d = 48;
  const std::vector<float> tied = random_matrix(vocab, d, 4);
  const DenseMatrix w = as_f64(solve(tied, tied, d), d);
  double trace = 0;
  for (int64_t i = 0; i < d; i++) trace += w.row(i)[i];
  CHECK(trace == doctest::Approx(vocab).epsilon(1e-4));
  CHECK(norm(plus(multiplied(w, w), -1, w)) / norm(w) <= 1e-3);
}

TEST_CASE("shapes of one, odd sizes and sizes around a block") {
  for (const auto& [vocab, d] : {std::pair<int64_t, int64_t>{1, 1}, {2, 1}, {1, 3}, {7, 5}, {33, 17}, {37451, 7}, {262145, 1}}) {
    CAPTURE(vocab);
    CAPTURE(d);
    const std::vector<float> output = random_matrix(vocab, d, 5), input = random_matrix(vocab, d, 6);
    const DenseMatrix w = as_f64(solve(output, input, d, 1e-3), d);
    const DenseMatrix wo = as_f64(output, d);
    const DenseMatrix gram = plus(multiplied(transposed(wo), wo), 1e-3, identity(d));
    const DenseMatrix cross = multiplied(transposed(wo), as_f64(input, d));
    CHECK(norm(plus(multiplied(gram, w), -1, cross)) <= 1e-5 * norm(cross));
  }
}

TEST_CASE("what cannot be solved is an error and leaves the result alone") {
  const int64_t d = 4;
  std::vector<float> output = random_matrix(16, d, 7);
  const std::vector<float> input = random_matrix(16, d, 8);
  std::vector<float> w = {42.0f};
  const auto attempt = [&](int64_t vocab, double lambda, const std::atomic<bool>& cancel) {
    return solve_alignment(vocab, d, reader_of(output, d), reader_of(input, d), lambda, cancel, &w).code;
  };
  CHECK(attempt(0, kAlignmentLambda, kNoCancel) == Code::invalid_argument);
  CHECK(attempt(16, 0.0, kNoCancel) == Code::invalid_argument);
  CHECK(attempt(16, std::numeric_limits<double>::quiet_NaN(), kNoCancel) == Code::invalid_argument);
  CHECK(attempt(16, kAlignmentLambda, std::atomic<bool>(true)) == Code::cancelled);
  output[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(attempt(16, kAlignmentLambda, kNoCancel) == Code::non_finite);
  output[5] = std::numeric_limits<float>::infinity();
  CHECK(attempt(16, kAlignmentLambda, kNoCancel) == Code::non_finite);
  CHECK(w == std::vector<float>{42.0f});
}

TEST_CASE("the mean row norm agrees with float64, over all rows") {
  for (const auto& [rows, d] : {std::pair<int64_t, int64_t>{4096, 256}, {1, 1}, {37451, 7}}) {
    const std::vector<float> matrix = random_matrix(rows, d, 9);
    double sum = 0;
    for (int64_t i = 0; i < rows; i++) sum += norm(std::vector<float>(matrix.begin() + i * d, matrix.begin() + (i + 1) * d));
    CHECK(mean_row_norm(rows, d, reader_of(matrix, d)) == doctest::Approx(sum / static_cast<double>(rows)).epsilon(1e-9));
  }
  CHECK(mean_row_norm(0, 4, [](int64_t, int64_t, float*) {}) == 0.0);
}

TEST_CASE("a latent step without an operator only rescales") {
  const float alpha = 3.25f;
  for (const int64_t d : {1, 2, 3, 31, 257}) {
    const std::vector<float> h = random_matrix(1, d, 10);
    std::vector<float> e(h.size());
    REQUIRE(latent_step(h.data(), nullptr, d, alpha, e.data()));
    CHECK(std::abs(norm(e) - alpha) / alpha <= 1e-5);
    double dot = 0.0;
    for (size_t i = 0; i < h.size(); ++i) dot += static_cast<double>(e[i]) * h[i];
    CHECK(dot / (norm(e) * norm(h)) >= 1.0 - 1e-6);
  }
}

TEST_CASE("a latent step with an operator is the rescaled product") {
  const int64_t d = 129;
  const float alpha = 0.7f;
  const std::vector<float> h = random_matrix(1, d, 11), w = random_matrix(d, d, 12);
  std::vector<float> e(h.size());
  REQUIRE(latent_step(h.data(), w.data(), d, alpha, e.data()));
  const DenseMatrix u = multiplied(as_f64(h, d), as_f64(w, d));
  for (size_t i = 0; i < e.size(); i++) CHECK(std::abs(e[i] - alpha * u.values[i] / norm(u)) <= 1e-6);
  CHECK(std::abs(norm(e) - alpha) / alpha <= 1e-5);
}

TEST_CASE("an identity operator is the step without one") {
  const int64_t d = 33;
  const std::vector<float> h = random_matrix(1, d, 13);
  std::vector<float> identity(static_cast<size_t>(d * d), 0.0f), with(h.size()), without(h.size());
  for (size_t i = 0; i < h.size(); ++i) identity[i * h.size() + i] = 1.0f;
  REQUIRE(latent_step(h.data(), identity.data(), d, 2.0f, with.data()));
  REQUIRE(latent_step(h.data(), nullptr, d, 2.0f, without.data()));
  CHECK(with == without);
}

TEST_CASE("degenerate hidden states") {
  std::vector<float> h(5, 0.0f), e(5, 1.0f);
  CHECK(latent_step(h.data(), nullptr, 5, 2.0f, e.data()));
  CHECK(e == std::vector<float>(5, 0.0f));
  CHECK(latent_step(h.data(), nullptr, 0, 2.0f, e.data()));
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    h[3] = bad;
    CHECK_FALSE(latent_step(h.data(), nullptr, 5, 2.0f, e.data()));
  }
  // an overflow of the product is found too
  h.assign(5, 3e38f);
  const std::vector<float> w(25, 3e38f);
  CHECK_FALSE(latent_step(h.data(), w.data(), 5, 2.0f, e.data()));
  // the largest finite state still has a norm in f64
  CHECK(latent_step(h.data(), nullptr, 5, 2.0f, e.data()));
  CHECK(norm(e) == doctest::Approx(2.0).epsilon(1e-5));
}

}  // namespace latentwire
