// Second moments, ridge and least squares against plain float64, at the shapes where blocked code goes wrong; the bits do not depend on the
// division of work, which the test of the whole binary under LATENTWIRE_THREADS=1 and 4 shows by the digests that it prints.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "fit/decompose.h"
#include "fit/gram.h"
#include "fit/ridge.h"
#include "fit_support.h"
#include "kernels_support.h"

namespace latentwire {
namespace {

using testing::Numbers;

MomentsInput input_of(const std::vector<float>& x, int64_t d, const std::vector<float>& y, int64_t m) {
  MomentsInput input;
  input.rows = static_cast<int64_t>(x.size()) / d;
  input.x_columns = d;
  input.x = reader_of({x.data(), input.rows, d});
  input.y_columns = m;
  input.y = reader_of({y.data(), input.rows, m});
  return input;
}

// The largest error of an element, against sum w |x_i| |y_j|.
double worst_error(const MomentsInput& input, const std::vector<float>& x, const std::vector<float>& y, const std::vector<double>& x_mean,
                   const std::vector<double>& y_mean, const DenseMatrix& found) {
  const auto d = static_cast<int64_t>(x_mean.size()), m = static_cast<int64_t>(y_mean.size());
  double worst = 0;
  for (int64_t i = 0; i < d; i++) {
    for (int64_t j = 0; j < m; j++) {
      double sum = 0, size = 0;
      for (int64_t k = 0; k < input.rows; k++) {
        const double w = input.weights == nullptr ? 1.0 : static_cast<double>(input.weights[k]);
        const double product = w * (static_cast<double>(x[static_cast<size_t>(k * d + i)]) - x_mean[static_cast<size_t>(i)]) *
                               (static_cast<double>(y[static_cast<size_t>(k * m + j)]) - y_mean[static_cast<size_t>(j)]);
        sum += product;
        size += std::abs(product);
      }
      if (size > 0) worst = std::max(worst, std::abs(sum - found.row(i)[j]) / size);
    }
  }
  return worst;
}

std::vector<double> mean_of(const std::vector<float>& x, int64_t d, const float* weights) {
  std::vector<double> mean(static_cast<size_t>(d));
  double total = 0;
  for (size_t k = 0; k < x.size() / static_cast<size_t>(d); k++) {
    const double w = weights == nullptr ? 1.0 : static_cast<double>(weights[k]);
    total += w;
    for (size_t i = 0; i < mean.size(); i++) mean[i] += w * static_cast<double>(x[k * mean.size() + i]);
  }
  for (double& value : mean) value /= total;
  return mean;
}

}  // namespace

TEST_SUITE("fits") {
  TEST_CASE("moments agree with float64, of few rows in f64 and of many in f32 tiles") {
    struct Shape {
      int64_t rows, d, m;
      double tolerance;
    };
    for (const auto& [rows, d, m, tolerance] : {Shape{1, 1, 1, 1e-12},
                                                {2, 3, 1, 1e-12},
                                                {511, 5, 2, 1e-12},
                                                {513, 17, 0, 1e-12},
                                                {40, 200, 3, 1e-12},
                                                {1200, 200, 150, 1e-6},
                                                {4097, 131, 30, 1e-6},
                                                {9001, 33, 1, 1e-6},
                                                {1025, 255, 49, 1e-6}}) {
      for (const int variant : {0, 1, 2, 3}) {
        // the reference takes its time
        if (rows > 1000 && (variant == 1 || variant == 2 || (variant == 0 && testing::rounds(10) < 10))) continue;
        CAPTURE(rows);
        CAPTURE(d);
        CAPTURE(variant);
        Numbers numbers(static_cast<uint64_t>(rows + variant));
        std::vector<float> x = numbers.normals(rows * d), y = numbers.normals(rows * m);
        std::vector<float> weights;
        for (int64_t i = 0; i < rows; i++) weights.push_back(static_cast<float>(1 + i % 3) / 2);
        MomentsInput input = input_of(x, d, y, m);
        input.centred = (variant & 1) != 0;
        input.weights = (variant & 2) != 0 ? weights.data() : nullptr;
        Moments found;
        REQUIRE(accumulate_moments(input, nullptr, &found).ok());
        const std::vector<double> zeros_x(static_cast<size_t>(d)), zeros_y(static_cast<size_t>(m));
        const std::vector<double> x_mean = input.centred ? mean_of(x, d, input.weights) : zeros_x;
        const std::vector<double> y_mean = input.centred && m > 0 ? mean_of(y, m, input.weights) : zeros_y;
        CHECK(worst_error(input, x, x, x_mean, x_mean, found.gram) <= tolerance);
        CHECK(worst_error(input, x, y, x_mean, y_mean, found.cross) <= tolerance);
        double squares = 0;
        for (int64_t k = 0; k < rows; k++) {
          for (int64_t j = 0; j < m; j++) {
            const double value = static_cast<double>(y[static_cast<size_t>(k * m + j)]) - y_mean[static_cast<size_t>(j)];
            squares += (input.weights == nullptr ? 1.0 : static_cast<double>(input.weights[k])) * value * value;
          }
        }
        CHECK(found.y_squares == doctest::Approx(squares).epsilon(1e-6));
        for (int64_t i = 0; i < d; i++) {
          CHECK(std::abs(found.x_mean[static_cast<size_t>(i)] - x_mean[static_cast<size_t>(i)]) <= 1e-6);
          for (int64_t j = 0; j < i; j++) REQUIRE(found.gram.row(i)[j] == found.gram.row(j)[i]);
        }
      }
    }
  }

  TEST_CASE("centred moments keep their digits under a large mean") {
    const int64_t rows = 20000, d = 40;
    Numbers numbers(3);
    std::vector<float> x = numbers.normals(rows * d);
    for (float& value : x) value += 1000;
    MomentsInput input = input_of(x, d, x, d);
    input.centred = true;
    Moments found;
    REQUIRE(accumulate_moments(input, nullptr, &found).ok());
    const std::vector<double> mean = mean_of(x, d, nullptr);
    CHECK(worst_error(input, x, x, mean, mean, found.gram) <= 1e-6);
    CHECK(worst_error(input, x, x, mean, mean, found.cross) <= 1e-6);
  }

  TEST_CASE("moments are the same bits run after run") {
    const int64_t rows = 5000, d = 150, m = 33;
    Numbers numbers(4);
    const std::vector<float> x = numbers.normals(rows * d), y = numbers.normals(rows * m);
    MomentsInput input = input_of(x, d, y, m);
    input.centred = true;
    Moments first, second;
    LinearFit fit;
    REQUIRE(accumulate_moments(input, nullptr, &first).ok());
    REQUIRE(accumulate_moments(input, nullptr, &second).ok());
    CHECK(first.gram.values == second.gram.values);
    CHECK(first.cross.values == second.cross.values);
    REQUIRE(solve_ridge(first, {.lambda = 1e-3}, nullptr, &fit).ok());
    testing::print_digest("moments", {first.gram.values, first.cross.values, first.x_mean, {first.y_squares}});
    testing::print_digest("ridge", {fit.w.values, fit.bias});
  }

  TEST_CASE("moments refuse what they cannot use") {
    Numbers numbers(5);
    std::vector<float> x = numbers.normals(12), y = numbers.normals(6);
    Moments found;
    found.weight = 42;
    const auto attempt = [&](auto change) {
      MomentsInput input = input_of(x, 4, y, 2);
      change(input);
      return accumulate_moments(input, nullptr, &found).code;
    };
    CHECK(attempt([](MomentsInput& input) { input.rows = 0; }) == Code::invalid_argument);
    CHECK(attempt([](MomentsInput& input) { input.x_columns = 0; }) == Code::invalid_argument);
    CHECK(attempt([](MomentsInput& input) { input.x_columns = max_fit_columns + 1; }) == Code::invalid_argument);
    CHECK(attempt([](MomentsInput& input) { input.y_columns = -1; }) == Code::invalid_argument);
    for (const float bad : {-1.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 0.0F}) {
      const std::vector<float> weights = {0, bad, 0};
      CHECK(attempt([&](MomentsInput& input) { input.weights = weights.data(); }) == Code::invalid_argument);
    }
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      for (std::vector<float>* rows : {&x, &y}) {
        const float kept = std::exchange((*rows)[3], bad);
        CHECK(attempt([](MomentsInput&) {}) == Code::non_finite);
        CHECK(attempt([](MomentsInput& input) { input.centred = true; }) == Code::non_finite);
        (*rows)[3] = kept;
      }
    }
    const std::atomic<bool> cancel{true};
    CHECK(accumulate_moments(input_of(x, 4, y, 2), &cancel, &found).code == Code::cancelled);
    CHECK(found.weight == 42);
  }

  TEST_CASE("NaN and infinities are found in f32 tiles too, and what a reader throws comes through") {
    const int64_t rows = 5000, d = 128;
    Numbers numbers(6);
    std::vector<float> x = numbers.normals(rows * d);
    Moments found;
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30F}) {
      const float kept = std::exchange(x[2900 * 128 + 127], bad);
      CHECK(accumulate_moments(input_of(x, d, {}, 0), nullptr, &found).code == Code::non_finite);
      x[2900 * 128 + 127] = kept;
    }
    MomentsInput input = input_of(x, d, {}, 0);
    input.x = [](int64_t first, int64_t count, float* out) {
      if (first > 1000) throw std::runtime_error("unreadable");
      std::fill_n(out, count * 128, 1.0F);
    };
    CHECK_THROWS_AS((void)accumulate_moments(input, nullptr, &found), std::runtime_error);
  }

  TEST_CASE("a ridge satisfies its normal equations and recovers an affine map") {
    for (const auto& [rows, d, m] : {std::tuple<int64_t, int64_t, int64_t>{500, 20, 7}, {1, 1, 1}, {4000, 130, 70}, {30, 60, 4}}) {
      CAPTURE(rows);
      CAPTURE(d);
      Numbers numbers(7);
      const std::vector<float> x = numbers.normals(rows * d);
      std::vector<float> y = numbers.normals(rows * m);
      MomentsInput input = input_of(x, d, y, m);
      Moments moments;
      LinearFit fit;
      REQUIRE(accumulate_moments(input, nullptr, &moments).ok());
      const Status status = solve_ridge(moments, {.lambda = 0.1}, nullptr, &fit);
      REQUIRE_MESSAGE(status.ok(), status.message);
      double trace = 0, error = 0;
      for (int64_t i = 0; i < d; i++) trace += moments.gram.row(i)[i];
      CHECK(fit.lambda == doctest::Approx(0.1 * trace / static_cast<double>(d)));
      for (int64_t i = 0; i < d; i++) {
        for (int64_t j = 0; j < m; j++) {
          double sum = fit.lambda * fit.w.row(i)[j] - moments.cross.row(i)[j];
          for (int64_t k = 0; k < d; k++) sum += moments.gram.row(i)[k] * fit.w.row(k)[j];
          error = std::max(error, std::abs(sum));
        }
      }
      CHECK(error <= 1e-8 * trace);
      CHECK(fit.condition >= 1);
    }
    const int64_t rows = 3000, d = 64, m = 50;
    Numbers numbers(8);
    std::vector<float> x = numbers.normals(rows * d), w = numbers.normals(d * m), y(static_cast<size_t>(rows * m));
    for (float& value : x) value += 5;
    for (int64_t i = 0; i < rows; i++) {
      for (int64_t j = 0; j < m; j++) {
        double sum = static_cast<double>(j);
        for (int64_t k = 0; k < d; k++)
          sum += static_cast<double>(x[static_cast<size_t>(i * d + k)]) * static_cast<double>(w[static_cast<size_t>(k * m + j)]);
        y[static_cast<size_t>(i * m + j)] = static_cast<float>(sum);
      }
    }
    MomentsInput input = input_of(x, d, y, m);
    input.centred = true;
    Moments moments;
    LinearFit fit;
    REQUIRE(accumulate_moments(input, nullptr, &moments).ok());
    REQUIRE(solve_ridge(moments, {.lambda = 1e-9}, nullptr, &fit).ok());
    for (size_t i = 0; i < w.size(); i++) REQUIRE(std::abs(fit.w.values[i] - static_cast<double>(w[i])) <= 1e-5);
    for (int64_t j = 0; j < m; j++) CHECK(std::abs(fit.bias[static_cast<size_t>(j)] - static_cast<double>(j)) <= 1e-3);
    CHECK(fit.unexplained <= 1e-6);
  }

  TEST_CASE("a relative ridge does not depend on the scale of X; a condition is about the true one") {
    const int64_t rows = 200, d = 2;
    Numbers numbers(9);
    std::vector<float> x = numbers.normals(rows * d), y = numbers.normals(rows);
    for (size_t i = 0; i < x.size(); i += 2) x[i] *= 100;
    Moments moments;
    LinearFit fit, scaled;
    REQUIRE(accumulate_moments(input_of(x, d, y, 1), nullptr, &moments).ok());
    REQUIRE(solve_ridge(moments, {.lambda = 0.01}, nullptr, &fit).ok());
    for (float& value : x) value *= 64;
    REQUIRE(accumulate_moments(input_of(x, d, y, 1), nullptr, &moments).ok());
    REQUIRE(solve_ridge(moments, {.lambda = 0.01}, nullptr, &scaled).ok());
    CHECK(scaled.w.row(0)[0] * 64 == doctest::Approx(fit.w.row(0)[0]).epsilon(1e-9));
    REQUIRE(solve_ridge(moments, {}, nullptr, &fit).ok());
    CHECK(fit.condition > 3000);
    CHECK(fit.condition < 40000);
  }

  TEST_CASE("a ridge refuses a singular matrix, bad lambdas and a cancelled job") {
    const std::vector<float> x = {1, 1, 2, 2, 3, 3}, y = {1, 0, 1};
    Moments moments;
    LinearFit fit;
    REQUIRE(accumulate_moments(input_of(x, 2, y, 1), nullptr, &moments).ok());
    CHECK(solve_ridge(moments, {.lambda = -1}, nullptr, &fit).code == Code::invalid_argument);
    CHECK(solve_ridge(moments, {.lambda = std::numeric_limits<double>::quiet_NaN()}, nullptr, &fit).code == Code::invalid_argument);
    CHECK(solve_ridge({}, {.lambda = 1}, nullptr, &fit).code == Code::invalid_argument);
    const std::atomic<bool> cancel{true};
    CHECK(solve_ridge(moments, {.lambda = 1}, &cancel, &fit).code == Code::cancelled);
    REQUIRE(solve_ridge(moments, {}, nullptr, &fit).ok());
    CHECK(fit.condition == std::numeric_limits<double>::infinity());
    moments.cross.row(0)[0] += 1;  // now no W solves it
    CHECK(solve_ridge(moments, {}, nullptr, &fit).code == Code::non_finite);
    CHECK(solve_ridge(moments, {.lambda = 1e-3}, nullptr, &fit).ok());
  }

  TEST_CASE("least squares of many rows leave nothing that X explains, and know its condition") {
    for (const auto& [rows, d] : {std::pair<int64_t, int64_t>{60, 7}, {25, 24}, {24, 24}, {300, 1}}) {
      CAPTURE(rows);
      CAPTURE(d);
      DenseMatrix x = testing::random_dense(rows, d, 20);
      for (int64_t i = 0; i < rows; i++) x.row(i)[0] *= 1e4;
      const DenseMatrix y = testing::random_dense(rows, 3, 21);
      LinearFit fit;
      REQUIRE(solve_least_squares(x, y, {.rcond = 0}, nullptr, &fit).ok());
      DenseMatrix left = testing::multiplied(x, fit.w);
      for (size_t i = 0; i < left.values.size(); i++) left.values[i] -= y.values[i];
      for (const double product : testing::multiplied(testing::transposed(x), left).values) CHECK(std::abs(product) <= 1e-6);
      Svd svd;
      REQUIRE(thin_svd(x, &svd).ok());
      CHECK(fit.condition == doctest::Approx(svd.values.front() / svd.values.back()).epsilon(1e-9));
      // a limit above the least value drops that direction, however X was decomposed
      REQUIRE(solve_least_squares(x, y, {.rcond = d > 1 ? 1.001 / fit.condition : 0}, nullptr, &fit).ok());
      const size_t last = svd.values.size() - (d > 1 ? 2 : 1);
      CHECK(fit.condition == doctest::Approx(svd.values.front() / svd.values[last]).epsilon(1e-9));
    }
  }

  TEST_CASE("least squares are of least norm, and rcond drops directions") {
    for (const auto& [rows, d, rank] :
         {std::tuple<int64_t, int64_t, int64_t>{40, 10, 10}, {10, 40, 10}, {30, 20, 5}, {1, 1, 1}, {1, 6, 1}}) {
      CAPTURE(rows);
      CAPTURE(d);
      const DenseMatrix x = testing::multiplied(testing::random_dense(rows, rank, 10), testing::random_dense(rank, d, 11));
      const DenseMatrix w = testing::random_dense(d, 3, 12);
      const DenseMatrix y = testing::multiplied(x, w);
      LinearFit fit;
      REQUIRE(solve_least_squares(x, y, {}, nullptr, &fit).ok());
      CHECK(testing::largest_difference(testing::multiplied(x, fit.w), y) <= 1e-9);
      CHECK(testing::squared_norm(fit.w) <= testing::squared_norm(w) * (1 + 1e-9));
      CHECK(fit.unexplained <= 1e-12);
      // of least norm: W lies in the row space of X, so X'(X X')^+ X W = W; that is to fit X to X and apply it
      LinearFit projector;
      REQUIRE(solve_least_squares(x, x, {}, nullptr, &projector).ok());
      CHECK(testing::largest_difference(testing::multiplied(projector.w, fit.w), fit.w) <= 1e-9);
    }
    DenseMatrix x(3, 2), y(3, 1);
    x.values = {1, 0, 0, 1e-6, 0, 0};
    y.values = {1, 1, 1};
    LinearFit fit;
    REQUIRE(solve_least_squares(x, y, {.rcond = 1e-3}, nullptr, &fit).ok());
    CHECK(fit.w.values[1] == doctest::Approx(0));
    CHECK(fit.condition == doctest::Approx(1));
    REQUIRE(solve_least_squares(x, y, {.rcond = 0}, nullptr, &fit).ok());
    CHECK(fit.w.values[1] == doctest::Approx(1e6));
    REQUIRE(solve_least_squares(x, y, {.centred = true}, nullptr, &fit).ok());
    CHECK(fit.bias[0] == doctest::Approx(1));
    CHECK(solve_least_squares(x, y, {.rcond = 1}, nullptr, &fit).code == Code::invalid_argument);
    CHECK(solve_least_squares(x, DenseMatrix(2, 1), {}, nullptr, &fit).code == Code::invalid_argument);
    CHECK(solve_least_squares(DenseMatrix(0, 2), DenseMatrix(0, 1), {}, nullptr, &fit).code == Code::invalid_argument);
    const std::atomic<bool> cancel{true};
    CHECK(solve_least_squares(x, y, {}, &cancel, &fit).code == Code::cancelled);
    y.values[1] = std::numeric_limits<double>::infinity();
    CHECK(solve_least_squares(x, y, {}, nullptr, &fit).code == Code::non_finite);
    // nothing but zeros: nothing to see, and the least W is 0
    REQUIRE(solve_least_squares(DenseMatrix(3, 2), DenseMatrix(3, 1), {}, nullptr, &fit).ok());
    CHECK(fit.w.values == std::vector<double>{0, 0});
  }
}

}  // namespace latentwire
