// Logistic regression at its optimum: the gradient by plain loops is zero, and a planted model is found again.
#include "fit/logistic.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "fit_support.h"

namespace latentwire {
namespace {

using testing::Numbers;

// The largest component of the gradient of sum(loss) + l2 / 2 |w|^2 for the class `positive` against the rest.
double gradient_of(const std::vector<float>& x, int64_t d, const std::vector<int32_t>& labels, int32_t positive, const double* w,
                   double bias, double l2) {
  std::vector<double> gradient(static_cast<size_t>(d + 1));
  for (int64_t k = 0; k < d; k++) gradient[static_cast<size_t>(k)] = l2 * w[k];
  for (size_t i = 0; i < labels.size(); i++) {
    const float* row = x.data() + static_cast<int64_t>(i) * d;
    double z = bias;
    for (int64_t k = 0; k < d; k++) z += w[k] * static_cast<double>(row[k]);
    const double error = 1 / (1 + std::exp(-z)) - (labels[i] == positive ? 1 : 0);
    for (int64_t k = 0; k < d; k++) gradient[static_cast<size_t>(k)] += error * static_cast<double>(row[k]);
    gradient[static_cast<size_t>(d)] += error;
  }
  double largest = 0;
  for (const double value : gradient) largest = std::max(largest, std::abs(value));
  return largest;
}

}  // namespace

TEST_SUITE("fits") {
  TEST_CASE("the gradient vanishes at the optimum, for one class and for many, far from the origin, and where classes are separable") {
    struct Case {
      int64_t rows, d, classes;
      float offset;
      double l2;
    };
    for (const Case& c : {Case{2, 1, 2, 0, 1}, Case{500, 8, 2, 0, 0.1}, Case{700, 20, 4, 0, 1}, Case{4000, 150, 2, 0, 1},
                          Case{600, 5, 3, 100, 1}, Case{40, 60, 2, 0, 1e-3}}) {
      CAPTURE(c.rows);
      CAPTURE(c.d);
      Numbers numbers(1);
      std::vector<float> x = numbers.normals(c.rows * c.d);
      std::vector<int32_t> labels;
      for (int64_t i = 0; i < c.rows; i++) {
        labels.push_back(static_cast<int32_t>(i < c.classes ? i : numbers.below(c.classes)));
        x[static_cast<size_t>(i * c.d)] += 1.5F * static_cast<float>(labels.back());
      }
      for (float& value : x) value += c.offset;
      LogisticFit fit;
      const Status status = logistic_regression({x.data(), c.rows, c.d}, labels.data(), c.classes, {.l2 = c.l2}, nullptr, &fit);
      REQUIRE_MESSAGE(status.ok(), status.message);
      REQUIRE(fit.w.rows == (c.classes == 2 ? 1 : c.classes));
      for (int64_t p = 0; p < fit.w.rows; p++) {
        const auto& report = fit.reports[static_cast<size_t>(p)];
        CHECK(report.converged);
        CHECK(report.iterations < 30);
        const double gradient =
            gradient_of(x, c.d, labels, static_cast<int32_t>(c.classes == 2 ? 1 : p), fit.w.row(p), fit.bias[static_cast<size_t>(p)], c.l2);
        CHECK(gradient <= 1e-5 * static_cast<double>(c.rows) * (1 + static_cast<double>(c.offset)));
        CHECK(std::abs(report.gradient - gradient) <= 1e-8 * static_cast<double>(c.rows) * (1 + static_cast<double>(c.offset)));
      }
      if (c.rows == 700) testing::print_digest("logistic", {fit.w.values, fit.bias});
    }
  }

  TEST_CASE("a planted model is found again, and labels by chance teach nothing") {
    const int64_t n = 20000, d = 4;
    const std::vector<double> planted = {1, -2, 0.5, 0};
    Numbers numbers(2);
    const std::vector<float> x = numbers.normals(n * d);
    std::vector<int32_t> labels, chance;
    for (int64_t i = 0; i < n; i++) {
      double z = 0.7;
      for (int64_t k = 0; k < d; k++) z += planted[static_cast<size_t>(k)] * static_cast<double>(x[static_cast<size_t>(i * d + k)]);
      labels.push_back(static_cast<double>(numbers.below(1 << 20)) / (1 << 20) < 1 / (1 + std::exp(-z)) ? 1 : 0);
      chance.push_back(static_cast<int32_t>(numbers.below(2)));
    }
    LogisticFit fit;
    REQUIRE(logistic_regression({x.data(), n, d}, labels.data(), 2, {.l2 = 1e-3}, nullptr, &fit).ok());
    for (int64_t k = 0; k < d; k++) CHECK(std::abs(fit.w.row(0)[k] - planted[static_cast<size_t>(k)]) < 0.1);
    CHECK(std::abs(fit.bias[0] - 0.7) < 0.1);
    REQUIRE(logistic_regression({x.data(), n, d}, chance.data(), 2, {}, nullptr, &fit).ok());
    for (int64_t k = 0; k < d; k++) CHECK(std::abs(fit.w.row(0)[k]) < 0.1);
    CHECK(fit.reports[0].loss == doctest::Approx(n * std::log(2.0)).epsilon(1e-3));
  }

  TEST_CASE("constant columns and copies of columns are no obstacle") {
    const int64_t n = 100;
    Numbers numbers(3);
    std::vector<float> x;
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < n; i++) {
      const float value = numbers.normal();
      x.insert(x.end(), {value, value, 7.0F});
      labels.push_back(value + numbers.normal() > 0 ? 1 : 0);
    }
    LogisticFit fit;
    REQUIRE(logistic_regression({x.data(), n, 3}, labels.data(), 2, {}, nullptr, &fit).ok());
    CHECK(fit.w.row(0)[0] == doctest::Approx(fit.w.row(0)[1]));
    CHECK(fit.w.row(0)[2] == doctest::Approx(0));
    CHECK(gradient_of(x, 3, labels, 1, fit.w.row(0), fit.bias[0], 1) <= 1e-4);
  }

  TEST_CASE("logistic regression refuses what it cannot fit") {
    std::vector<float> x = Numbers(4).normals(12);
    const std::vector<int32_t> labels = {0, 1, 0, 1, 1, 0};
    LogisticFit fit;
    const FloatRows rows{x.data(), 6, 2};
    const auto attempt = [&](const std::vector<int32_t>& wanted, int64_t classes, LogisticOptions options) {
      return logistic_regression(rows, wanted.data(), classes, options, nullptr, &fit).code;
    };
    CHECK(attempt(labels, 1, {}) == Code::invalid_argument);
    CHECK(attempt(labels, 3, {}) == Code::invalid_argument);
    CHECK(attempt({0, 1, 0, 1, 2, 0}, 2, {}) == Code::invalid_argument);
    CHECK(attempt({0, 1, 0, 1, -1, 0}, 2, {}) == Code::invalid_argument);
    CHECK(attempt({1, 1, 1, 1, 1, 1}, 2, {}) == Code::invalid_argument);
    CHECK(attempt(labels, 2, {.l2 = 0}) == Code::invalid_argument);
    CHECK(attempt(labels, 2, {.l2 = std::numeric_limits<double>::quiet_NaN()}) == Code::invalid_argument);
    CHECK(attempt(labels, 2, {.max_iterations = 0}) == Code::invalid_argument);
    CHECK(logistic_regression({x.data(), 0, 2}, labels.data(), 2, {}, nullptr, &fit).code == Code::invalid_argument);
    const std::atomic<bool> cancel{true};
    CHECK(logistic_regression(rows, labels.data(), 2, {}, &cancel, &fit).code == Code::cancelled);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      x[7] = bad;
      CHECK(attempt(labels, 2, {}) == Code::non_finite);
    }
    CHECK(fit.bias.empty());
  }
}

}  // namespace latentwire
