// Clusters, medoids and far points, against plain loops; random numbers against published ones.
#include "fit/kmeans.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <tuple>

#include "fit/random.h"
#include "fit_support.h"

namespace latentwire {
namespace {

using testing::Numbers;

double square_between(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t k = 0; k < n; k++) sum += std::pow(static_cast<double>(a[k]) - static_cast<double>(b[k]), 2);
  return sum;
}

// `per` rows around each of `centres` far corners.
std::vector<float> blobs(int64_t centres, int64_t per, int64_t d, uint64_t seed) {
  Numbers numbers(seed);
  std::vector<float> corners = numbers.normals(centres * d, 20), rows;
  for (int64_t i = 0; i < centres * per; i++) {
    for (int64_t k = 0; k < d; k++) rows.push_back(corners[static_cast<size_t>(i % centres * d + k)] + numbers.normal());
  }
  return rows;
}

void check_consistent(const std::vector<float>& rows, int64_t d, int64_t k, const Kmeans& fit) {
  const auto n = static_cast<int64_t>(rows.size()) / d;
  double inertia = 0;
  std::vector<int64_t> counts(static_cast<size_t>(k));
  std::vector<double> best(static_cast<size_t>(k), INFINITY);
  for (int64_t i = 0; i < n; i++) {
    const auto label = static_cast<size_t>(fit.labels[static_cast<size_t>(i)]);
    REQUIRE(label < static_cast<size_t>(k));
    counts[label]++;
    const double own = square_between(rows.data() + i * d, fit.centres.data() + static_cast<int64_t>(label) * d, d);
    inertia += own;
    best[label] = std::min(best[label], own);
    double nearest = INFINITY;
    for (int64_t c = 0; c < k; c++) nearest = std::min(nearest, square_between(rows.data() + i * d, fit.centres.data() + c * d, d));
    CHECK(own <= nearest + 1e-4 * (1 + nearest));
  }
  CHECK(inertia == doctest::Approx(fit.inertia.back()).epsilon(1e-6));
  for (int64_t c = 0; c < k; c++) {
    CHECK(counts[static_cast<size_t>(c)] > 0);
    const int64_t medoid = fit.medoids[static_cast<size_t>(c)];
    REQUIRE(fit.labels[static_cast<size_t>(medoid)] == c);
    CHECK(square_between(rows.data() + medoid * d, fit.centres.data() + c * d, d) == doctest::Approx(best[static_cast<size_t>(c)]));
  }
  for (size_t i = 1; i < fit.inertia.size(); i++) CHECK(fit.inertia[i] <= fit.inertia[i - 1] * (1 + 1e-6) + 1e-9);
}

}  // namespace

TEST_SUITE("fits") {
  TEST_CASE("random numbers are those of SplitMix64") {
    CounterRandom random(1234567);
    CHECK(random.next() == 6457827717110365317U);
    CHECK(random.next() == 3203168211198807973U);
    CHECK(random.next() == 9817491932198370423U);
    CHECK(random.at(1) == 3203168211198807973U);
    std::vector<int> counts(7);
    for (int i = 0; i < 70000; i++) {
      const double u = random.uniform();
      REQUIRE(u >= 0);
      REQUIRE(u < 1);
      counts[static_cast<size_t>(random.below(7))]++;
    }
    for (const int count : counts) CHECK(std::abs(count - 10000) < 500);
    CHECK(random.below(1) == 0);
  }

  TEST_CASE("k-means finds planted clusters, whatever the seed") {
    const int64_t centres = 8, per = 50, d = 16;
    const std::vector<float> rows = blobs(centres, per, d, 1);
    for (uint64_t seed = 0; seed < 5; seed++) {
      Kmeans fit;
      REQUIRE(kmeans({rows.data(), centres * per, d}, {.clusters = centres, .seed = seed}, nullptr, &fit).ok());
      check_consistent(rows, d, centres, fit);
      CHECK(fit.converged);
      std::set<std::pair<int64_t, int32_t>> pairs;
      for (int64_t i = 0; i < centres * per; i++) pairs.insert({i % centres, fit.labels[static_cast<size_t>(i)]});
      // k-means++ may, seldom, put two seeds into one blob
      CHECK(pairs.size() <= static_cast<size_t>(centres) + 6);
      if (seed == 0) {
        testing::print_digest("kmeans", {fit.inertia, {fit.centres.begin(), fit.centres.end()}, {fit.medoids.begin(), fit.medoids.end()}});
      }
    }
  }

  TEST_CASE("k-means is consistent without clusters, at the smallest and the largest k, and with copies") {
    for (const auto& [n, d, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {5, 3, 5}, {700, 5, 1}, {700, 33, 40}, {513, 1, 13}}) {
      CAPTURE(n);
      CAPTURE(k);
      const std::vector<float> rows = Numbers(2).normals(n * d);
      Kmeans fit, again, other;
      REQUIRE(kmeans({rows.data(), n, d}, {.clusters = k, .seed = 3}, nullptr, &fit).ok());
      check_consistent(rows, d, k, fit);
      REQUIRE(kmeans({rows.data(), n, d}, {.clusters = k, .seed = 3}, nullptr, &again).ok());
      CHECK(fit.labels == again.labels);
      CHECK(fit.centres == again.centres);
      if (n == k) CHECK(fit.inertia.back() == doctest::Approx(0));
      if (k == 40) {
        REQUIRE(kmeans({rows.data(), n, d}, {.clusters = k, .seed = 4}, nullptr, &other).ok());
        CHECK(fit.labels != other.labels);
      }
    }
    // three distinct rows and five clusters: none may be empty
    std::vector<float> rows;
    for (int i = 0; i < 12; i++) rows.insert(rows.end(), {static_cast<float>(i % 3), 1.0F});
    Kmeans fit;
    REQUIRE(kmeans({rows.data(), 12, 2}, {.clusters = 5, .seed = 1}, nullptr, &fit).ok());
    check_consistent(rows, 2, 5, fit);
    CHECK(fit.inertia.back() == doctest::Approx(0));
  }

  TEST_CASE("spherical k-means does not see the length of rows") {
    const int64_t n = 300, d = 10;
    const std::vector<float> rows = Numbers(5).normals(n * d);
    std::vector<float> longer = rows, unit = rows;
    for (int64_t i = 0; i < n; i++) {
      double squares = 0;
      for (int64_t k = 0; k < d; k++) squares += std::pow(static_cast<double>(rows[static_cast<size_t>(i * d + k)]), 2);
      for (int64_t k = 0; k < d; k++) {
        longer[static_cast<size_t>(i * d + k)] *= static_cast<float>(1 << (i % 5));
        unit[static_cast<size_t>(i * d + k)] /= static_cast<float>(std::sqrt(squares));
      }
    }
    Kmeans fit, same;
    REQUIRE(kmeans({rows.data(), n, d}, {.clusters = 7, .distance = RowDistance::cosine}, nullptr, &fit).ok());
    REQUIRE(kmeans({longer.data(), n, d}, {.clusters = 7, .distance = RowDistance::cosine}, nullptr, &same).ok());
    CHECK(fit.labels == same.labels);
    check_consistent(unit, d, 7, fit);
    for (int64_t c = 0; c < 7; c++) {
      double squares = 0;
      for (int64_t k = 0; k < d; k++) squares += std::pow(static_cast<double>(fit.centres[static_cast<size_t>(c * d + k)]), 2);
      CHECK(squares == doctest::Approx(1).epsilon(1e-5));
    }
  }

  TEST_CASE("far points are those of a plain loop, each call a prefix of the next") {
    const int64_t n = 400, d = 7;
    const std::vector<float> rows = Numbers(6).normals(n * d);
    std::vector<int64_t> points, more;
    REQUIRE(farthest_points({rows.data(), n, d}, 20, RowDistance::euclidean, 9, nullptr, &points).ok());
    REQUIRE(farthest_points({rows.data(), n, d}, 60, RowDistance::euclidean, 9, nullptr, &more).ok());
    CHECK(std::equal(points.begin(), points.end(), more.begin()));
    std::vector<double> nearest(static_cast<size_t>(n), INFINITY);
    for (size_t m = 0; m + 1 < points.size(); m++) {
      for (int64_t i = 0; i < n; i++) {
        double& value = nearest[static_cast<size_t>(i)];
        value = std::min(value, square_between(rows.data() + i * d, rows.data() + points[m] * d, d));
      }
      const double farthest = *std::max_element(nearest.begin(), nearest.end());
      CHECK(nearest[static_cast<size_t>(points[m + 1])] >= farthest * (1 - 1e-5));
    }
    // by direction: of four rows on two axes the two directions come first
    const std::vector<float> axes = {1, 0, 5, 0, 0, 2, 0, 9};
    REQUIRE(farthest_points({axes.data(), 4, 2}, 2, RowDistance::cosine, 0, nullptr, &points).ok());
    CHECK(points[0] / 2 != points[1] / 2);
    REQUIRE(farthest_points({axes.data(), 4, 2}, 4, RowDistance::cosine, 0, nullptr, &points).ok());
    CHECK(std::set<int64_t>(points.begin(), points.end()).size() == 4);
    testing::print_digest("far points", {{more.begin(), more.end()}});
  }

  TEST_CASE("representatives are refused where there are none") {
    std::vector<float> rows = Numbers(7).normals(20);
    Kmeans fit;
    std::vector<int64_t> points;
    const FloatRows x{rows.data(), 10, 2};
    for (const int64_t wanted : {-1, 0, 11}) {
      CHECK(kmeans(x, {.clusters = wanted}, nullptr, &fit).code == Code::invalid_argument);
      CHECK(farthest_points(x, wanted, RowDistance::euclidean, 0, nullptr, &points).code == Code::invalid_argument);
    }
    CHECK(kmeans(x, {.clusters = 2, .max_iterations = 0}, nullptr, &fit).code == Code::invalid_argument);
    CHECK(kmeans(x, {.clusters = 2, .tolerance = std::numeric_limits<double>::quiet_NaN()}, nullptr, &fit).code == Code::invalid_argument);
    CHECK(kmeans({nullptr, 0, 2}, {}, nullptr, &fit).code == Code::invalid_argument);
    CHECK(kmeans({rows.data(), 10, 0}, {}, nullptr, &fit).code == Code::invalid_argument);
    const std::atomic<bool> cancel{true};
    CHECK(kmeans(x, {.clusters = 2}, &cancel, &fit).code == Code::cancelled);
    CHECK(farthest_points(x, 2, RowDistance::euclidean, 0, &cancel, &points).code == Code::cancelled);
    rows[4] = rows[5] = 0;
    CHECK(kmeans(x, {.clusters = 2, .distance = RowDistance::cosine}, nullptr, &fit).code == Code::invalid_argument);
    CHECK(farthest_points(x, 2, RowDistance::cosine, 0, nullptr, &points).code == Code::invalid_argument);
    rows[4] = 3e38F;
    rows[6] = -3e38F;
    CHECK(kmeans(x, {.clusters = 2}, nullptr, &fit).code == Code::non_finite);
    CHECK(farthest_points(x, 3, RowDistance::euclidean, 0, nullptr, &points).code == Code::non_finite);
    rows[4] = std::numeric_limits<float>::quiet_NaN();
    CHECK(kmeans(x, {.clusters = 2}, nullptr, &fit).code == Code::non_finite);
    CHECK(farthest_points(x, 2, RowDistance::euclidean, 0, nullptr, &points).code == Code::non_finite);
    CHECK(fit.labels.empty());
    CHECK(points.empty());
  }
}

}  // namespace latentwire
