// Attention against the same sums in f64, on shapes around the widths of vectors and panels.
#include "kernels/attention.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "kernels_support.h"

namespace latentwire {
namespace {

std::vector<double> reference(const Attention& input) {
  const auto& [q, n, k, v, m, columns, heads] = input;
  const int64_t width = columns / heads;
  std::vector<double> out(static_cast<size_t>(n * columns));
  for (int64_t i = 0; i < n; i++) {
    for (int64_t first = 0; first < columns; first += width) {
      std::vector<double> weights(static_cast<size_t>(m));
      double largest = -1e300, sum = 0;
      for (int64_t j = 0; j < m; j++) {
        double dot = 0;
        for (int64_t c = first; c < first + width; c++) dot += static_cast<double>(q[i * columns + c]) * k[j * columns + c];
        weights[static_cast<size_t>(j)] = dot / std::sqrt(static_cast<double>(width));
        largest = std::max(largest, weights[static_cast<size_t>(j)]);
      }
      for (double& weight : weights) sum += weight = std::exp(weight - largest);
      for (int64_t j = 0; j < m; j++) {
        for (int64_t c = first; c < first + width; c++)
          out[static_cast<size_t>(i * columns + c)] += weights[static_cast<size_t>(j)] / sum * static_cast<double>(v[j * columns + c]);
      }
    }
  }
  return out;
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("attention is that of f64, whatever the shape") {
    testing::Numbers numbers(1);
    for (const auto& [n, m, columns, heads] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{1, 1, 1, 1},
                                               {0, 3, 4, 2},
                                               {5, 1, 8, 8},
                                               {7, 17, 24, 3},
                                               {33, 65, 64, 4},
                                               {16, 16, 16, 1},
                                               {3, 300, 96, 6}}) {
      CAPTURE(n);
      CAPTURE(m);
      CAPTURE(columns);
      const std::vector<float> q = numbers.normals(n * columns, 3), k = numbers.normals(m * columns, 3), v = numbers.normals(m * columns);
      const Attention input{q.data(), n, k.data(), v.data(), m, columns, heads};
      std::vector<float> out(static_cast<size_t>(n * columns), testing::not_a_number);
      REQUIRE(attend(input, nullptr, out.data()).ok());
      const std::vector<double> expected = reference(input);
      for (size_t i = 0; i < out.size(); i++) CHECK(std::abs(static_cast<double>(out[i]) - expected[i]) <= 1e-5);
    }
  }

  TEST_CASE("attention holds where scores are far apart") {
    // the second row is out of reach: its weight is 0, and nothing overflows
    const std::vector<float> q{1e4F}, k{1e4F, -1e4F}, v{2, 5};
    float out = 0;
    REQUIRE(attend({q.data(), 1, k.data(), v.data(), 2, 1, 1}, nullptr, &out).ok());
    CHECK(out == 2);
  }

  TEST_CASE("attention refuses what it cannot do") {
    std::vector<float> x(12, 1), out(12);
    const auto code = [&](int64_t m, int64_t columns, int64_t heads) {
      return attend({x.data(), 1, x.data(), x.data(), m, columns, heads}, nullptr, out.data()).code;
    };
    CHECK(code(0, 4, 2) == Code::invalid_argument);
    CHECK(code(1, 4, 3) == Code::invalid_argument);
    CHECK(code(1, 4, 0) == Code::invalid_argument);
    CHECK(code(1, 0, 1) == Code::invalid_argument);
    const std::atomic<bool> cancel{true};
    CHECK(attend({x.data(), 3, x.data(), x.data(), 3, 4, 2}, &cancel, out.data()).code == Code::cancelled);
    x[1] = testing::not_a_number;
    CHECK(code(1, 4, 2) == Code::non_finite);
  }
}

}  // namespace latentwire
