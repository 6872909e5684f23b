// Hubs over several spaces, and empirical distributions.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "fit/gcca.h"
#include "fit/quantiles.h"
#include "fit_support.h"

namespace latentwire {
namespace {

using testing::identity;
using testing::largest_difference;
using testing::multiplied;
using testing::random_dense;
using testing::random_orthonormal;
using testing::transposed;

DenseMatrix side_by_side(const std::vector<DenseMatrix>& spaces) {
  int64_t width = 0;
  for (const DenseMatrix& space : spaces) width += space.columns;
  DenseMatrix out(spaces[0].rows, width);
  int64_t at = 0;
  for (const DenseMatrix& space : spaces) {
    for (int64_t i = 0; i < out.rows; i++) std::copy_n(space.row(i), space.columns, out.row(i) + at);
    at += space.columns;
  }
  return out;
}

Moments joint_moments(const std::vector<DenseMatrix>& spaces) {
  const DenseMatrix x = side_by_side(spaces);
  const std::vector<float> rows = testing::as_floats(x);
  MomentsInput input;
  input.rows = x.rows;
  input.x_columns = x.columns;
  input.x = reader_of({rows.data(), x.rows, x.columns});
  input.centred = true;
  Moments out;
  REQUIRE(accumulate_moments(input, nullptr, &out).ok());
  return out;
}

DenseMatrix into_hub(DenseMatrix x, const Hub& hub, size_t space) {
  for (int64_t i = 0; i < x.rows; i++) {
    for (int64_t j = 0; j < x.columns; j++) x.row(i)[j] -= hub.means[space][static_cast<size_t>(j)];
  }
  return multiplied(x, hub.into[space]);
}

DenseMatrix out_of_hub(const DenseMatrix& h, const Hub& hub, size_t space) {
  DenseMatrix x = multiplied(h, hub.out_of[space]);
  for (int64_t i = 0; i < x.rows; i++) {
    for (int64_t j = 0; j < x.columns; j++) x.row(i)[j] += hub.means[space][static_cast<size_t>(j)];
  }
  return x;
}

}  // namespace

TEST_SUITE("fits") {
  TEST_CASE("GCCA finds what all spaces share, and the maps through the hub are those between the spaces") {
    // three views of 4 shared factors, through any linear maps; the first has a private factor more
    const int64_t n = 800;
    const DenseMatrix shared = random_dense(n, 4, 1), own = random_dense(n, 1, 2);
    DenseMatrix first = multiplied(side_by_side({shared, own}), random_dense(5, 5, 3));
    for (double& value : first.values) value += 10;
    const std::vector<DenseMatrix> spaces = {first, multiplied(shared, random_dense(4, 4, 4)), multiplied(shared, random_dense(4, 4, 5))};
    Hub hub;
    const Status status = gcca(joint_moments(spaces), {5, 4, 4}, 4, 1e-9, nullptr, &hub);
    REQUIRE_MESSAGE(status.ok(), status.message);
    for (const double value : hub.agreement) CHECK(value == doctest::Approx(3).epsilon(1e-5));
    const DenseMatrix h = into_hub(spaces[1], hub, 1);
    CHECK(largest_difference(multiplied(transposed(h), h), identity(4)) <= 1e-4);
    CHECK(largest_difference(into_hub(spaces[0], hub, 0), h) <= 1e-4);
    CHECK(largest_difference(into_hub(spaces[2], hub, 2), h) <= 1e-4);
    CHECK(largest_difference(out_of_hub(into_hub(spaces[0], hub, 0), hub, 2), spaces[2]) <= 1e-3);
    testing::print_digest("gcca", {hub.into[0].values, hub.out_of[2].values});
  }

  TEST_CASE("GCCA of one space is its whitening; independent spaces do not agree") {
    Hub hub;
    const DenseMatrix x = multiplied(random_dense(300, 6, 6), random_dense(6, 6, 7));
    REQUIRE(gcca(joint_moments({x}), {6}, 6, 0, nullptr, &hub).ok());
    const DenseMatrix h = into_hub(x, hub, 0);
    CHECK(largest_difference(multiplied(transposed(h), h), identity(6)) <= 1e-5);
    CHECK(largest_difference(out_of_hub(h, hub, 0), x) <= 1e-4);
    REQUIRE(gcca(joint_moments({random_dense(20000, 3, 8), random_dense(20000, 3, 9)}), {3, 3}, 1, 0, nullptr, &hub).ok());
    CHECK(hub.agreement[0] < 1.1);
  }

  TEST_CASE("generalised Procrustes recovers turned copies of one space") {
    const int64_t n = 400, d = 12;
    const DenseMatrix x = random_dense(n, d, 10);
    std::vector<DenseMatrix> spaces;
    for (uint64_t seed = 11; seed < 15; seed++) spaces.push_back(multiplied(x, random_orthonormal(d, d, seed)));
    Hub hub;
    REQUIRE(generalised_procrustes(joint_moments(spaces), {d, d, d, d}, {}, nullptr, &hub).ok());
    CHECK(hub.converged);
    CHECK(hub.agreement[0] == doctest::Approx(1).epsilon(1e-6));
    for (size_t v = 0; v < spaces.size(); v++) {
      CHECK(largest_difference(multiplied(transposed(hub.into[v]), hub.into[v]), identity(d)) <= 1e-9);
      CHECK(largest_difference(out_of_hub(into_hub(spaces[0], hub, 0), hub, v), spaces[v]) <= 1e-5);
    }
    testing::print_digest("gpa", {hub.into[1].values, hub.into[3].values});
  }

  TEST_CASE("generalised Procrustes improves with every iteration and takes spaces of unequal width") {
    const DenseMatrix base = random_dense(500, 5, 16);
    std::vector<DenseMatrix> spaces = {multiplied(base, random_orthonormal(5, 5, 17)),
                                       multiplied(base, transposed(random_orthonormal(9, 5, 18)))};
    for (uint64_t v = 0; v < spaces.size(); v++) {
      const DenseMatrix noise = random_dense(500, spaces[v].columns, 19 + v);
      for (size_t i = 0; i < noise.values.size(); i++) spaces[v].values[i] += 0.3 * noise.values[i];
    }
    const Moments moments = joint_moments(spaces);
    double before = 0;
    for (const int iterations : {1, 2, 4, 8, 100}) {
      Hub hub;
      REQUIRE(generalised_procrustes(moments, {5, 9}, {.max_iterations = iterations}, nullptr, &hub).ok());
      CHECK(hub.agreement[0] >= before - 1e-12);
      before = hub.agreement[0];
      CHECK(hub.iterations <= iterations);
      CHECK(hub.into[0].columns == 9);
    }
    CHECK(before > 0.8);
    CHECK(before < 1);
  }

  TEST_CASE("hubs refuse widths that do not fit, singular spaces and a cancelled job") {
    const DenseMatrix x = random_dense(50, 4, 22);
    Moments moments = joint_moments({x, x});
    Hub hub;
    CHECK(gcca(moments, {}, 1, 0, nullptr, &hub).code == Code::invalid_argument);
    CHECK(gcca(moments, {4, 3}, 1, 0, nullptr, &hub).code == Code::invalid_argument);
    CHECK(gcca(moments, {8, 0}, 1, 0.1, nullptr, &hub).code == Code::invalid_argument);
    CHECK(gcca(moments, {4, 4}, 0, 0, nullptr, &hub).code == Code::invalid_argument);
    CHECK(gcca(moments, {4, 4}, 9, 0, nullptr, &hub).code == Code::invalid_argument);
    CHECK(gcca(moments, {4, 4}, 5, 0, nullptr, &hub).code == Code::invalid_argument);  // the copies share all 4 dimensions
    CHECK(gcca(moments, {4, 4}, 4, -1, nullptr, &hub).code == Code::invalid_argument);
    // a dimension that is the sum of two others but for the rounding of f32
    DenseMatrix dependent = random_dense(6000, 96, 31);
    for (int64_t i = 0; i < dependent.rows; i++)
      dependent.row(i)[95] = static_cast<double>(static_cast<float>(dependent.row(i)[0] + dependent.row(i)[1]));
    CHECK(gcca(joint_moments({dependent}), {96}, 1, 0, nullptr, &hub).code == Code::invalid_argument);
    CHECK(gcca(joint_moments({dependent}), {96}, 1, 1e-3, nullptr, &hub).ok());
    CHECK(gcca(moments, {8}, 4, 0, nullptr, &hub).code == Code::invalid_argument);
    CHECK(gcca(moments, {8}, 4, 0.01, nullptr, &hub).ok());
    CHECK(generalised_procrustes(moments, {4}, {}, nullptr, &hub).code == Code::invalid_argument);
    CHECK(generalised_procrustes(moments, {4, 4}, {.max_iterations = 0}, nullptr, &hub).code == Code::invalid_argument);
    CHECK(generalised_procrustes(moments, {4, 4}, {.tolerance = std::numeric_limits<double>::quiet_NaN()}, nullptr, &hub).code ==
          Code::invalid_argument);
    const std::atomic<bool> cancel{true};
    CHECK(gcca(moments, {4, 4}, 4, 0, &cancel, &hub).code == Code::cancelled);
    CHECK(generalised_procrustes(moments, {4, 4}, {}, &cancel, &hub).code == Code::cancelled);
    moments.gram.values[5] = std::numeric_limits<double>::infinity();
    CHECK(gcca(moments, {4, 4}, 4, 0, nullptr, &hub).code == Code::non_finite);
    CHECK(generalised_procrustes(moments, {4, 4}, {}, nullptr, &hub).code == Code::non_finite);
  }

  TEST_CASE("quantiles are those of numpy.quantile, shares count what is at or below") {
    const std::vector<float> sample = {3, 1, 4, 1, 5, 9, 2, 6};
    EmpiricalDistribution distribution;
    REQUIRE(EmpiricalDistribution::fit(sample.data(), 8, &distribution).ok());
    CHECK(distribution.quantile(0) == 1);
    CHECK(distribution.quantile(0.1) == doctest::Approx(1));
    CHECK(distribution.quantile(0.25) == doctest::Approx(1.75));
    CHECK(distribution.quantile(0.5) == doctest::Approx(3.5));
    CHECK(distribution.quantile(0.9) == doctest::Approx(6.9));
    CHECK(distribution.quantile(1) == 9);
    CHECK(distribution.quantile(2) == 9);
    CHECK(distribution.quantile(-1) == 1);
    CHECK(distribution.quantile(std::numeric_limits<double>::quiet_NaN()) == 1);
    CHECK(distribution.cdf(0.5) == 0);
    CHECK(distribution.cdf(1) == 0.25);
    CHECK(distribution.cdf(5.5) == 0.75);
    CHECK(distribution.cdf(9) == 1);
    CHECK(distribution.sorted().front() == 1);
    const float one = 7;
    REQUIRE(EmpiricalDistribution::fit(&one, 1, &distribution).ok());
    CHECK(distribution.quantile(0.3) == 7);
    const std::vector<float> bad = {1, std::numeric_limits<float>::quiet_NaN()};
    CHECK(EmpiricalDistribution::fit(bad.data(), 2, &distribution).code == Code::non_finite);
    CHECK(EmpiricalDistribution::fit(nullptr, 0, &distribution).code == Code::invalid_argument);
    const std::vector<float> wide = {-std::numeric_limits<float>::infinity(), 0, std::numeric_limits<float>::infinity()};
    REQUIRE(EmpiricalDistribution::fit(wide.data(), 3, &distribution).ok());
    CHECK(distribution.quantile(0.5) == 0);
    CHECK(distribution.cdf(0) == doctest::Approx(2.0 / 3));
    constexpr float endless = std::numeric_limits<float>::infinity();
    const std::vector<float> ends = {endless, -endless, 0, endless};
    REQUIRE(EmpiricalDistribution::fit(ends.data(), 4, &distribution).ok());
    CHECK(distribution.quantile(0.1) == -endless);
    CHECK(distribution.quantile(1.0 / 3) == 0);
    CHECK(distribution.quantile(0.5) == endless);
    CHECK(distribution.quantile(0.9) == endless);
  }
}

}  // namespace latentwire
