// Measures of likeness against their definitions by plain loops, the values that latentis stores, invariances; maps of rows, retrieval and
// channels against float64.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "fit/retrieval.h"
#include "fit/row_maps.h"
#include "fit/similarity.h"
#include "fit_support.h"

namespace latentwire {
namespace {

using testing::as_floats;
using testing::multiplied;
using testing::Numbers;
using testing::random_dense;
using testing::random_orthonormal;
using testing::transposed;

DenseMatrix matrix(int64_t rows, int64_t columns, const std::vector<double>& values) {
  DenseMatrix out(rows, columns);
  out.values = values;
  return out;
}

// latentis' test matrices: 0 to 31 in order, and in another.
DenseMatrix in_order() {
  DenseMatrix out(8, 4);
  for (size_t i = 0; i < 32; i++) out.values[i] = static_cast<double>(i);
  return out;
}

DenseMatrix shuffled() {
  return matrix(8, 4,
                {1, 2, 27, 22, 0, 28, 15, 18, 12, 9, 14, 8, 11, 19, 16, 13, 31, 20, 10, 3, 24, 5, 7, 29, 4, 30, 21, 6, 26, 17, 23, 25});
}

DenseMatrix affine(const DenseMatrix& x, const DenseMatrix& map, double scale, double shift) {
  DenseMatrix out = multiplied(x, map);
  for (double& value : out.values) value = scale * value + shift;
  return out;
}

template <class Measure, class... More>
double value_of(const Measure& measure, const DenseMatrix& x, const DenseMatrix& y, More... more) {
  double out = NAN;
  const Status status = measure(x, y, more..., nullptr, &out);
  REQUIRE_MESSAGE(status.ok(), status.message);
  return out;
}

template <class Measure, class... More>
Code code_of(const Measure& measure, const DenseMatrix& x, const DenseMatrix& y, More... more) {
  double out = 7;
  const Status status = measure(x, y, more..., nullptr, &out);
  CHECK(out == 7);
  return status.code;
}

DenseMatrix centred_gram(const DenseMatrix& x) {
  DenseMatrix k = multiplied(x, transposed(x));
  const int64_t n = k.rows;
  std::vector<double> rows(static_cast<size_t>(n));
  double all = 0;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) rows[static_cast<size_t>(i)] += k.row(i)[j] / static_cast<double>(n);
    all += rows[static_cast<size_t>(i)] / static_cast<double>(n);
  }
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) k.row(i)[j] += all - rows[static_cast<size_t>(i)] - rows[static_cast<size_t>(j)];
  }
  return k;
}

double dot(const DenseMatrix& a, const DenseMatrix& b) {
  double sum = 0;
  for (size_t i = 0; i < a.values.size(); i++) sum += a.values[i] * b.values[i];
  return sum;
}

// Song et al. 2012, equation 5, term by term.
double unbiased_reference(DenseMatrix k, DenseMatrix l) {
  const auto n = static_cast<double>(k.rows);
  double trace = 0, k_sum = 0, l_sum = 0, paths = 0;
  for (int64_t i = 0; i < k.rows; i++) k.row(i)[i] = l.row(i)[i] = 0;
  const DenseMatrix product = multiplied(k, l);
  for (int64_t i = 0; i < k.rows; i++) {
    trace += product.row(i)[i];
    for (int64_t j = 0; j < k.rows; j++) {
      k_sum += k.row(i)[j];
      l_sum += l.row(i)[j];
      paths += product.row(i)[j];
    }
  }
  return (trace + k_sum * l_sum / ((n - 1) * (n - 2)) - 2 * paths / (n - 2)) / (n * (n - 3));
}

FloatRows rows_of(const std::vector<float>& values, int64_t columns) {
  return {values.data(), static_cast<int64_t>(values.size()) / columns, columns};
}

}  // namespace

TEST_CASE("likeness: the values that latentis stores") {
  CHECK(value_of(linear_cka, in_order(), shuffled()) == doctest::Approx(0.2815).epsilon(1e-4));
  CHECK(value_of(rbf_cka, in_order(), shuffled()) == doctest::Approx(0.3945).epsilon(2e-4));
  std::vector<double> correlations;
  REQUIRE(canonical_correlations(in_order(), shuffled(), 1e-6, nullptr, &correlations).ok());
  CHECK(correlations[0] == doctest::Approx(0.8125).epsilon(1e-4));
  CHECK(correlations[1] < 1e-6);
}

TEST_CASE("likeness: linear CKA is its definition in both forms") {
  for (int round = 0; round < testing::rounds(20); round++) {
    Numbers numbers(static_cast<uint64_t>(round) + 1);
    const int64_t n = 3 + numbers.below(30), dx = 1 + numbers.below(20), dy = 1 + numbers.below(20);
    const DenseMatrix x = random_dense(n, dx, 10 + static_cast<uint64_t>(round)),
                      y = random_dense(n, dy, 90 + static_cast<uint64_t>(round));
    const DenseMatrix k = centred_gram(x), l = centred_gram(y);
    CAPTURE(n);
    CAPTURE(dx);
    CHECK(value_of(linear_cka, x, y) == doctest::Approx(dot(k, l) / std::sqrt(dot(k, k) * dot(l, l))).epsilon(1e-10));
  }
}

TEST_CASE("likeness: 1 or 0 on the same rows turned, scaled and moved, and symmetric") {
  const DenseMatrix x = random_dense(40, 9, 1), y = random_dense(40, 6, 2);
  const DenseMatrix moved = affine(x, random_orthonormal(9, 9, 3), 3.7, 20);
  for (const auto measure : {linear_cka, unbiased_cka, rbf_cka}) {
    CHECK(value_of(measure, x, moved) == doctest::Approx(1).epsilon(1e-9));
    CHECK(value_of(measure, moved, y) == doctest::Approx(value_of(measure, x, y)).epsilon(1e-9));
    CHECK(value_of(measure, y, x) == doctest::Approx(value_of(measure, x, y)).epsilon(1e-12));
  }
  CHECK(value_of(procrustes_distance, x, moved) < 1e-9);
  CHECK(value_of(procrustes_distance, x, y) == doctest::Approx(value_of(procrustes_distance, y, x)).epsilon(1e-12));
  CHECK(value_of(procrustes_distance, x, y) > 0.1);
  CHECK(value_of(procrustes_distance, x, y) <= 2);
  CHECK(value_of(cknna, x, multiplied(x, random_orthonormal(9, 9, 3)), 5) == doctest::Approx(1).epsilon(1e-9));
}

TEST_CASE("likeness: the unbiased estimate is its definition, and about 0 for independent rows where the biased one is not") {
  const DenseMatrix x = random_dense(25, 4, 5), y = random_dense(25, 7, 6);
  const DenseMatrix k = multiplied(x, transposed(x)), l = multiplied(y, transposed(y));
  const double expected = unbiased_reference(k, l) / std::sqrt(unbiased_reference(k, k) * unbiased_reference(l, l));
  CHECK(value_of(unbiased_cka, x, y) == doctest::Approx(expected).epsilon(1e-9));
  // all pairs are among the nearest of all
  CHECK(value_of(cknna, x, y, 24) == doctest::Approx(expected).epsilon(1e-9));
  const DenseMatrix a = random_dense(100, 200, 7), b = random_dense(100, 200, 8);
  CHECK(std::abs(value_of(unbiased_cka, a, b)) < 0.05);
  CHECK(value_of(linear_cka, a, b) > 0.5);
}

TEST_CASE("likeness: Procrustes distance is the least squared distance over turns, seen in the plane") {
  const DenseMatrix x = random_dense(12, 2, 11), y = random_dense(12, 2, 12);
  const auto prepared = [](DenseMatrix m) {
    for (int64_t k = 0; k < 2; k++) {
      double mean = 0;
      for (int64_t i = 0; i < 12; i++) mean += m.row(i)[k] / 12;
      for (int64_t i = 0; i < 12; i++) m.row(i)[k] -= mean;
    }
    const double norm = std::sqrt(testing::squared_norm(m));
    for (double& value : m.values) value /= norm;
    return m;
  };
  const DenseMatrix a = prepared(x), b = prepared(y);
  double least = INFINITY;
  for (int step = 0; step < 20000; step++) {
    const double angle = step * 2 * 3.14159265358979 / 10000, flip = step < 10000 ? 1 : -1;
    const DenseMatrix turn = matrix(2, 2, {std::cos(angle), flip * std::sin(angle), -std::sin(angle), flip * std::cos(angle)});
    double distance = 0;
    const DenseMatrix turned = multiplied(a, turn);
    for (size_t i = 0; i < b.values.size(); i++) distance += (turned.values[i] - b.values[i]) * (turned.values[i] - b.values[i]);
    least = std::min(least, distance);
  }
  CHECK(value_of(procrustes_distance, x, y) == doctest::Approx(least).epsilon(1e-5));
}

TEST_CASE("likeness: canonical correlations do not change under invertible maps, and count what is shared") {
  const DenseMatrix x = random_dense(200, 5, 21);
  DenseMatrix y = random_dense(200, 6, 22);
  for (int64_t i = 0; i < 200; i++) {
    y.row(i)[0] = x.row(i)[3];
    y.row(i)[1] = x.row(i)[1] - x.row(i)[2];
  }
  std::vector<double> before;
  std::vector<double> after;
  REQUIRE(canonical_correlations(x, y, 1e-10, nullptr, &before).ok());
  REQUIRE(canonical_correlations(affine(x, random_dense(5, 5, 23), 2, -4), y, 1e-10, nullptr, &after).ok());
  REQUIRE(before.size() == 5);
  for (size_t i = 0; i < 5; i++) CHECK(after[i] == doctest::Approx(before[i]).epsilon(1e-5));
  CHECK(before[1] == doctest::Approx(1).epsilon(1e-6));
  CHECK(before[2] < 0.5);
}

TEST_CASE("likeness: singular values of centred rows") {
  const DenseMatrix turned = affine(matrix(4, 2, {3, 0, -3, 0, 0, 1, 0, -1}), random_orthonormal(2, 2, 4), 1, 100);
  std::vector<double> values;
  REQUIRE(centred_singular_values(turned, &values).ok());
  CHECK(values[0] == doctest::Approx(std::sqrt(18.0)));
  CHECK(values[1] == doctest::Approx(std::sqrt(2.0)));
}

TEST_CASE("likeness: what has none is refused") {
  const DenseMatrix x = random_dense(10, 3, 1);
  DenseMatrix constant(10, 3);
  std::fill(constant.values.begin(), constant.values.end(), 0.1);
  for (const auto measure : {linear_cka, unbiased_cka, rbf_cka, procrustes_distance}) {
    CHECK(code_of(measure, x, constant) == Code::invalid_argument);
    CHECK(code_of(measure, constant, x) == Code::invalid_argument);
    CHECK(code_of(measure, x, random_dense(9, 3, 2)) == Code::invalid_argument);
    DenseMatrix broken = x;
    broken.values[4] = NAN;
    CHECK(code_of(measure, x, broken) == Code::non_finite);
  }
  CHECK(code_of(unbiased_cka, random_dense(3, 3, 2), random_dense(3, 3, 3)) == Code::invalid_argument);
  CHECK(code_of(cknna, x, x, 10) == Code::invalid_argument);
  CHECK(code_of(cknna, x, x, 0) == Code::invalid_argument);
  std::vector<double> correlations;
  CHECK(canonical_correlations(random_dense(5, 5, 1), x, 1e-6, nullptr, &correlations).code == Code::invalid_argument);
  CHECK(canonical_correlations(random_dense(5, 5, 1), random_dense(5, 2, 2), 1e-6, nullptr, &correlations).code == Code::invalid_argument);
  const std::atomic<bool> cancel{true};
  double out = 0;
  CHECK(linear_cka(x, x, &cancel, &out).code == Code::cancelled);
  CHECK(cknna(x, x, 3, &cancel, &out).code == Code::cancelled);
}

TEST_CASE("retrieval: ranks and errors against plain loops") {
  for (int round = 0; round < testing::rounds(10); round++) {
    Numbers numbers(static_cast<uint64_t>(round) + 40);
    const int64_t n = 1 + numbers.below(70), d = 1 + numbers.below(40);
    const std::vector<float> p = numbers.normals(n * d), t = numbers.normals(n * d);
    std::vector<int64_t> ranks;
    REQUIRE(paired_ranks(rows_of(p, d), rows_of(t, d), nullptr, &ranks).ok());
    const auto cosine = [&](int64_t i, int64_t j) {
      double inner = 0, a = 0, b = 0;
      for (int64_t k = 0; k < d; k++) {
        const double u = p[static_cast<size_t>(i * d + k)], v = t[static_cast<size_t>(j * d + k)];
        inner += u * v;
        a += u * u;
        b += v * v;
      }
      return inner / std::sqrt(a * b);
    };
    double mean = 0, squared = 0;
    for (int64_t i = 0; i < n; i++) {
      // f32 may not tell apart what is closer than its rounding
      int64_t least = 1, most = 1;
      for (int64_t j = 0; j < n; j++) {
        least += cosine(i, j) > cosine(i, i) + 1e-6 ? 1 : 0;
        most += j != i && cosine(i, j) > cosine(i, i) - 1e-6 ? 1 : 0;
      }
      CHECK(ranks[static_cast<size_t>(i)] >= least);
      CHECK(ranks[static_cast<size_t>(i)] <= most);
      mean += cosine(i, i) / static_cast<double>(n);
    }
    for (size_t i = 0; i < p.size(); i++) squared += (static_cast<double>(p[i]) - t[i]) * (static_cast<double>(p[i]) - t[i]);
    PairedErrors errors;
    REQUIRE(paired_errors(rows_of(p, d), rows_of(t, d), nullptr, &errors).ok());
    CHECK(errors.cosine == doctest::Approx(mean).epsilon(1e-10));
    CHECK(errors.squared_error == doctest::Approx(squared).epsilon(1e-10));
  }
}

TEST_CASE("retrieval: equals do not count against the right one, and NaN is refused") {
  const std::vector<float> t = {1, 0, 1, 0, 0, 1};
  std::vector<int64_t> ranks;
  REQUIRE(paired_ranks(rows_of(t, 2), rows_of(t, 2), nullptr, &ranks).ok());
  CHECK(ranks == std::vector<int64_t>{1, 1, 1});
  const std::vector<float> broken = {1, 0, testing::not_a_number, 0, 0, 1};
  PairedErrors errors;
  CHECK(paired_ranks(rows_of(broken, 2), rows_of(t, 2), nullptr, &ranks).code == Code::non_finite);
  CHECK(paired_errors(rows_of(broken, 2), rows_of(t, 2), nullptr, &errors).code == Code::non_finite);
  CHECK(paired_errors(rows_of(t, 3), rows_of(t, 2), nullptr, &errors).code == Code::invalid_argument);
}

TEST_CASE("rows: statistics far from zero, and of columns that do not vary") {
  Numbers numbers(3);
  std::vector<float> x;
  for (int i = 0; i < 50; i++) {
    x.push_back(1000 + numbers.normal());
    x.push_back(0.1F);
    x.push_back(0);
  }
  ColumnStatistics found;
  REQUIRE(column_statistics(rows_of(x, 3), nullptr, &found).ok());
  double mean = 0, squares = 0;
  for (size_t i = 0; i < 50; i++) mean += static_cast<double>(x[3 * i]) / 50;
  for (size_t i = 0; i < 50; i++) squares += (x[3 * i] - mean) * (x[3 * i] - mean);
  CHECK(found.mean[0] == doctest::Approx(mean).epsilon(1e-12));
  CHECK(found.deviation[0] == doctest::Approx(std::sqrt(squares / 49)).epsilon(1e-9));
  CHECK(found.deviation[1] == 0);
  CHECK(found.deviation[2] == 0);
  CHECK(found.centred_norm == doctest::Approx(std::sqrt(squares / 50)).epsilon(1e-6));
  REQUIRE(column_statistics({x.data(), 1, 3}, nullptr, &found).ok());
  CHECK(found.deviation[0] == 0);
  CHECK(column_statistics({x.data(), 0, 3}, nullptr, &found).code == Code::invalid_argument);
}

TEST_CASE("rows: maps, means and combinations") {
  const std::vector<float> x = {3, 4, 0, 0}, one = {1, 1}, two = {2, 2};
  std::vector<float> out(4);
  REQUIRE(map_rows(rows_of(x, 2), {nullptr, nullptr, true, nullptr}, nullptr, out.data()).ok());
  CHECK(out == std::vector<float>{0.6F, 0.8F, 0, 0});
  REQUIRE(map_rows(rows_of(x, 2), {one.data(), two.data(), false, one.data()}, nullptr, out.data()).ok());
  CHECK(out == std::vector<float>{5, 7, -1, -1});
  const std::vector<float> huge = {3e38F, 3e38F};
  CHECK(map_rows(rows_of(huge, 2), {nullptr, two.data(), false, nullptr}, nullptr, out.data()).code == Code::non_finite);

  REQUIRE(average_rows(rows_of(x, 2), {0, 1, 0, 0}, 2, nullptr, out.data()).ok());
  CHECK(out == std::vector<float>{1.5F, 2, 3, 4});
  CHECK(average_rows(rows_of(x, 2), {0, 2}, 2, nullptr, out.data()).code == Code::invalid_argument);
  CHECK(average_rows(rows_of(x, 2), {0, -1}, 2, nullptr, out.data()).code == Code::invalid_argument);
  CHECK(average_rows(rows_of(x, 2), {0, 1, 1}, 2, nullptr, out.data()).code == Code::invalid_argument);

  const std::vector<float> y = {1, 2};
  std::vector<float> wide(6);
  REQUIRE(combine_rows({rows_of(x, 2), rows_of(y, 1)}, Combination::concat, nullptr, wide.data()).ok());
  CHECK(wide == std::vector<float>{3, 4, 1, 0, 0, 2});
  REQUIRE(combine_rows({rows_of(x, 2), rows_of(x, 2)}, Combination::sum, nullptr, out.data()).ok());
  CHECK(out == std::vector<float>{6, 8, 0, 0});
  REQUIRE(combine_rows({rows_of(x, 2), rows_of(x, 2)}, Combination::mean, nullptr, out.data()).ok());
  CHECK(out == x);
  CHECK(combine_rows({rows_of(x, 2), rows_of(y, 1)}, Combination::sum, nullptr, out.data()).code == Code::invalid_argument);
  CHECK(combine_rows({}, Combination::sum, nullptr, out.data()).code == Code::invalid_argument);
}

TEST_CASE("rows: noise has the power it should, the same for a seed, and none at infinity") {
  Numbers numbers(9);
  const int64_t n = testing::rounds(5) == 5 ? 1000 : 100;
  const std::vector<float> x = numbers.normals(n * 1000, 3);
  std::vector<float> noisy(x.size()), again(x.size());
  double sigma = 0;
  for (const double snr : {-10.0, 0.0, 20.0}) {
    REQUIRE(add_noise(rows_of(x, 1000), snr, 5, nullptr, noisy.data(), &sigma).ok());
    double signal = 0, noise = 0;
    for (size_t i = 0; i < x.size(); i++) {
      signal += static_cast<double>(x[i]) * x[i];
      noise += (static_cast<double>(noisy[i]) - x[i]) * (static_cast<double>(noisy[i]) - x[i]);
    }
    CHECK(std::abs(10 * std::log10(signal / noise) - snr) < 0.1);
    CHECK(sigma == doctest::Approx(std::sqrt(noise / static_cast<double>(x.size()))).epsilon(0.02));
  }
  REQUIRE(add_noise(rows_of(x, 1000), 20, 5, nullptr, again.data(), &sigma).ok());
  CHECK(again == noisy);
  REQUIRE(add_noise(rows_of(x, 1000), 20, 6, nullptr, again.data(), &sigma).ok());
  CHECK(again != noisy);
  REQUIRE(add_noise(rows_of(x, 1000), INFINITY, 5, nullptr, again.data(), &sigma).ok());
  CHECK(again == x);
  CHECK(sigma == 0);
  CHECK(add_noise(rows_of(x, 1000), NAN, 5, nullptr, again.data(), &sigma).code == Code::invalid_argument);
}

TEST_CASE("rows: a quantiser is off by half a step at most") {
  Numbers numbers(10);
  std::vector<float> x = numbers.normals(20 * 33);
  std::fill_n(x.begin(), 33, 0.0F);
  std::vector<float> out(x.size());
  for (int bits = 1; bits <= 16; bits++) {
    REQUIRE(quantise_rows(rows_of(x, 33), bits, nullptr, out.data()).ok());
    for (size_t row = 0; row < 20; row++) {
      float largest = 0;
      for (size_t k = 0; k < 33; k++) largest = std::max(largest, std::abs(x[row * 33 + k]));
      const double half = std::ldexp(static_cast<double>(largest), -bits);
      for (size_t k = 0; k < 33; k++) CHECK(std::abs(static_cast<double>(out[row * 33 + k]) - x[row * 33 + k]) <= half + 1e-7 * largest);
    }
  }
  CHECK(quantise_rows(rows_of(x, 33), 0, nullptr, out.data()).code == Code::invalid_argument);
  CHECK(quantise_rows(rows_of(x, 33), 17, nullptr, out.data()).code == Code::invalid_argument);
}

TEST_CASE("rows: codes are read from the lowest bits on, and nothing behind a row") {
  const std::vector<uint8_t> codes = {0x81, 0x7f, 0x00};
  std::vector<float> out(5, 9);
  REQUIRE(decode_codes(codes.data(), 1, 3, 8, nullptr, out.data()).ok());
  CHECK(out == std::vector<float>{-1, 1, 0, 9, 9});
  const std::vector<uint8_t> halves = {0x97, 0x01};  // 7, -7, 1
  REQUIRE(decode_codes(halves.data(), 1, 3, 4, nullptr, out.data()).ok());
  CHECK(out == std::vector<float>{1, -1, 1.0F / 7, 9, 9});
  const std::vector<uint8_t> signs = {0x05, 0x00};
  REQUIRE(decode_codes(signs.data(), 2, 2, 1, nullptr, out.data()).ok());
  CHECK(out == std::vector<float>{1, -1, -1, -1, 9});
  CHECK(decode_codes(signs.data(), 1, 2, 2, nullptr, out.data()).code == Code::invalid_argument);
}

TEST_CASE("rows: Lp distances, also of numbers whose powers f64 does not hold") {
  Numbers numbers(12);
  const std::vector<float> x = numbers.normals(7 * 5), a = numbers.normals(4 * 5);
  std::vector<float> out(28);
  for (const double p : {1.0, 1.5, 2.0, 3.0, 40.0}) {
    REQUIRE(lp_distances(rows_of(x, 5), rows_of(a, 5), p, nullptr, out.data()).ok());
    for (size_t i = 0; i < 7; i++) {
      for (size_t j = 0; j < 4; j++) {
        double sum = 0;
        for (size_t k = 0; k < 5; k++) sum += std::pow(std::abs(static_cast<double>(x[i * 5 + k]) - a[j * 5 + k]), p);
        CHECK(out[i * 4 + j] == doctest::Approx(std::pow(sum, 1 / p)).epsilon(1e-6));
      }
    }
  }
  const std::vector<float> far = {3e30F, 3e30F}, zero = {0, 0};
  REQUIRE(lp_distances(rows_of(far, 2), rows_of(zero, 2), 20, nullptr, out.data()).ok());
  CHECK(out[0] == doctest::Approx(3e30 * std::pow(2.0, 0.05)));
  REQUIRE(lp_distances(rows_of(far, 2), rows_of(far, 2), 3, nullptr, out.data()).ok());
  CHECK(out[0] == 0);
  for (const double p : {0.5, static_cast<double>(NAN), static_cast<double>(INFINITY)})
    CHECK(lp_distances(rows_of(x, 5), rows_of(a, 5), p, nullptr, out.data()).code == Code::invalid_argument);
  CHECK(lp_distances(rows_of(x, 5), rows_of(zero, 2), 2, nullptr, out.data()).code == Code::invalid_argument);
}

}  // namespace latentwire
