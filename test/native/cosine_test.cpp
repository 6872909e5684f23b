// Relative representations and projections end to end against plain float64: conformance 1 to 12 of relative representations, extreme
// sizes, and that a row's result depends on nothing but the row.
#include "kernels/cosine.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "kernels/project.h"
#include "kernels_support.h"

using namespace latentwire;
using latentwire::testing::Numbers;

namespace {

using Matrix = std::vector<float>;

std::shared_ptr<const PackedAnchors> pack(const Matrix& anchors, int64_t depth, PackedAnchors::Options options = {}) {
  std::shared_ptr<const PackedAnchors> packed;
  const auto count = static_cast<int64_t>(anchors.size()) / std::max<int64_t>(depth, 1);
  REQUIRE(PackedAnchors::pack({Dtype::f32, anchors.data(), count, depth}, depth, std::move(options), &packed).ok());
  return packed;
}

Matrix relative_of(const Matrix& x, int64_t depth, const PackedAnchors& anchors) {
  const auto n = static_cast<int64_t>(x.size()) / depth;
  Matrix r(static_cast<size_t>(n * anchors.count()));
  REQUIRE(relative({Dtype::f32, x.data(), n, depth}, anchors, r.data(), anchors.count()).ok());
  return r;
}

double similarity(Similarity kind, const float* x, const float* a, int64_t depth) {
  double dot = 0, xx = 0, aa = 0, distance = 0, steps = 0;
  for (int64_t k = 0; k < depth; k++) {
    const double u = x[k], v = a[k];
    dot += u * v;
    xx += u * u;
    aa += v * v;
    distance += (u - v) * (u - v);
    steps += std::fabs(u - v);
  }
  const double cosine = xx > 0 && aa > 0 ? std::clamp(dot / std::sqrt(xx) / std::sqrt(aa), -1.0, 1.0) : 0;
  switch (kind) {
    case Similarity::cosine:
      return cosine;
    case Similarity::angular:
      return std::acos(cosine) / std::numbers::pi;
    case Similarity::inner:
      return dot;
    case Similarity::squared_euclidean:
      return distance;
    case Similarity::euclidean:
      return std::sqrt(distance);
    case Similarity::l1:
      break;
  }
  return steps;
}

// About which distances are computed; zeros for other similarities.
Matrix centre_of(Similarity kind, const Matrix& anchors, int64_t depth) {
  Matrix centre(static_cast<size_t>(depth));
  if (kind != Similarity::squared_euclidean && kind != Similarity::l1) return centre;
  for (size_t i = 0; i < anchors.size(); i++)
    centre[i % centre.size()] += anchors[i] * static_cast<float>(depth) / static_cast<float>(anchors.size());
  return centre;
}

// What rounding errors are relative to.
double size_of(Similarity kind, const float* x, const float* a, const Matrix& centre) {
  if (kind == Similarity::cosine || kind == Similarity::angular) return 1;
  const auto depth = static_cast<int64_t>(centre.size());
  const Matrix zeros(centre.size());
  const auto size = [&](const float* v) {
    return kind == Similarity::l1 ? similarity(kind, v, zeros.data(), depth) : similarity(Similarity::inner, v, v, depth);
  };
  return size(x) + size(a) + 2 * size(centre.data());
}

// What a storage loses of that.
double loss_of(Dtype storage) { return storage == Dtype::f32 ? 3e-6 : storage == Dtype::f16 ? 5e-4 : storage == Dtype::bf16 ? 4e-3 : 2e-2; }

constexpr std::array similarities = {Similarity::cosine, Similarity::angular, Similarity::inner, Similarity::squared_euclidean,
                                     Similarity::l1};
constexpr std::array storages = {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i8};
bool exists(Similarity kind, Dtype storage) { return kind != Similarity::l1 || storage != Dtype::i8; }

double largest_difference(const Matrix& a, const Matrix& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); i++) largest = std::max(largest, std::fabs(static_cast<double>(a[i]) - b[i]));
  return largest;
}

// A random orthogonal matrix, by Gram and Schmidt.
std::vector<double> rotation(Numbers& numbers, int64_t d) {
  std::vector<double> q(static_cast<size_t>(d * d));
  for (double& value : q) value = numbers.normal();
  for (int64_t i = 0; i < d; i++) {
    double* row = q.data() + i * d;
    for (int pass = 0; pass < 2; pass++) {
      for (int64_t j = 0; j < i; j++) {
        const double* other = q.data() + j * d;
        const double dot = std::inner_product(row, row + d, other, 0.0);
        for (int64_t k = 0; k < d; k++) row[k] -= dot * other[k];
      }
    }
    const double norm = std::sqrt(std::inner_product(row, row + d, row, 0.0));
    for (int64_t k = 0; k < d; k++) row[k] /= norm;
  }
  return q;
}

Matrix rotated(const Matrix& x, int64_t d, const std::vector<double>& q, double scale) {
  Matrix y(x.size());
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(d)) {
    for (int64_t j = 0; j < d; j++) {
      double sum = 0;
      for (int64_t k = 0; k < d; k++) sum += x[row + static_cast<size_t>(k)] * q[static_cast<size_t>(k * d + j)];
      y[row + static_cast<size_t>(j)] = static_cast<float>(scale * sum);
    }
  }
  return y;
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("relative: every similarity, dtype and shape") {
    Numbers numbers(11);
    const std::array dtypes = {Dtype::f32, Dtype::f16, Dtype::bf16};
    for (int round = 0; round < testing::rounds(400); round++) {
      const int64_t n = numbers.below(round % 10 == 0 ? 200 : 12);
      const int64_t m = numbers.below(round % 7 == 0 ? 400 : 40);
      const int64_t d = numbers.below(round % 5 == 0 ? 1300 : 60);
      const auto kind = similarities[static_cast<size_t>(numbers.below(5))];
      const Dtype in = dtypes[static_cast<size_t>(numbers.below(3))];
      const Dtype storage = storages[static_cast<size_t>(numbers.below(4))];
      if (!exists(kind, storage)) continue;
      const int64_t gap = numbers.below(3);
      CAPTURE(n);
      CAPTURE(m);
      CAPTURE(d);
      CAPTURE(static_cast<int>(kind));
      CAPTURE(dtype_name(storage));
      Matrix x = numbers.normals(n * d);
      if (n > 2) std::fill_n(x.begin() + d, d, 0.0F);
      const Matrix a = numbers.normals(m * d);
      Matrix spaced = testing::with_gaps(x, n, d, gap, std::numeric_limits<float>::quiet_NaN());
      const std::vector<uint8_t> bytes = testing::stored(in, &spaced);
      PackedAnchors::Options options;
      options.similarity = kind;
      options.storage = storage;
      std::shared_ptr<const PackedAnchors> anchors;
      REQUIRE(PackedAnchors::pack({Dtype::f32, a.data(), m, d}, d, options, &anchors).ok());
      Matrix r(static_cast<size_t>(n * (m + gap)), 9.0F);
      REQUIRE(relative({in, bytes.data(), n, d + gap}, *anchors, r.data(), m + gap).ok());
      const double loss = loss_of(storage);
      const Matrix centre = centre_of(kind, a, d);
      for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < m; j++) {
          const float* row = spaced.data() + i * (d + gap);
          const double want = similarity(kind, row, a.data() + j * d, d);
          const double size = size_of(kind, row, a.data() + j * d, centre);
          REQUIRE(std::fabs(r[static_cast<size_t>(i * (m + gap) + j)] - want) <=
                  loss * std::max(size, 1e-3) * (kind == Similarity::angular ? 3 : 1));
        }
        for (int64_t j = m; j < m + gap; j++) REQUIRE(r[static_cast<size_t>(i * (m + gap) + j)] == 9.0F);
      }
    }
  }

  TEST_CASE("relative: rotation, scale, permutation (1-3, 5)") {
    Numbers numbers(12);
    const int64_t d = 96, n = 70, m = 50;
    const Matrix x = numbers.normals(n * d), a = numbers.normals(m * d);
    const Matrix r = relative_of(x, d, *pack(a, d));
    std::vector<double> q = rotation(numbers, d);
    CHECK(largest_difference(r, relative_of(rotated(x, d, q, 3.7), d, *pack(rotated(a, d, q, 3.7), d))) <= 1e-6);
    for (int64_t k = 0; k < d; k++) q[static_cast<size_t>(k)] = -q[static_cast<size_t>(k)];  // a reflection
    CHECK(largest_difference(r, relative_of(rotated(x, d, q, 0.01), d, *pack(rotated(a, d, q, 0.01), d))) <= 1e-6);
    Matrix scaled = x;
    for (int64_t i = 0; i < n; i++) {
      const auto factor = static_cast<float>(std::pow(10.0, static_cast<double>(numbers.below(8)) - 4));
      for (int64_t k = 0; k < d; k++) scaled[static_cast<size_t>(i * d + k)] *= factor;
    }
    CHECK(largest_difference(r, relative_of(scaled, d, *pack(a, d))) <= 1e-6);
    const auto reversed = [&](Matrix rows) {
      for (size_t i = 0; i < rows.size(); i += static_cast<size_t>(d))
        std::reverse(rows.begin() + static_cast<int64_t>(i), rows.begin() + static_cast<int64_t>(i) + d);
      return rows;
    };
    CHECK(largest_difference(r, relative_of(reversed(x), d, *pack(reversed(a), d))) <= 5e-7);
    Matrix anchors_reversed;
    for (int64_t j = m - 1; j >= 0; j--) anchors_reversed.insert(anchors_reversed.end(), a.begin() + j * d, a.begin() + (j + 1) * d);
    const Matrix permuted = relative_of(x, d, *pack(anchors_reversed, d));
    for (int64_t i = 0; i < n; i++) {
      for (int64_t j = 0; j < m; j++) REQUIRE(permuted[static_cast<size_t>(i * m + j)] == r[static_cast<size_t>(i * m + m - 1 - j)]);
    }
  }

  TEST_CASE("relative: translation changes it, unless anchors and rows are centred (4)") {
    Numbers numbers(13);
    const int64_t d = 64, n = 40, m = 48;
    const Matrix x = numbers.normals(n * d), a = numbers.normals(m * d);
    const auto moved = [](Matrix rows) {
      for (float& value : rows) value += 20;
      return rows;
    };
    const auto centred = [&](const Matrix& anchors) {
      PackedAnchors::Options options;
      options.centre.resize(static_cast<size_t>(d));
      for (size_t i = 0; i < anchors.size(); i++) options.centre[i % static_cast<size_t>(d)] += anchors[i] / static_cast<float>(m);
      return pack(anchors, d, options);
    };
    CHECK(largest_difference(relative_of(x, d, *pack(a, d)), relative_of(moved(x), d, *pack(moved(a), d))) > 0.1);
    CHECK(largest_difference(relative_of(x, d, *centred(a)), relative_of(moved(x), d, *centred(moved(a)))) <= 2e-6);
  }

  TEST_CASE("relative: bounds, symmetry, zero rows (6, 7, 10)") {
    Numbers numbers(14);
    for (const int64_t d : {int64_t{1}, int64_t{25}, int64_t{300}, int64_t{4096}}) {
      const int64_t m = 33;
      Matrix a = numbers.normals(m * d);
      std::fill_n(a.begin() + 5 * d, d, 0.0F);
      const Matrix r = relative_of(a, d, *pack(a, d));
      for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < m; j++) {
          const float value = r[static_cast<size_t>(i * m + j)];
          REQUIRE(std::fabs(value) <= 1 + 1e-6F);
          REQUIRE(std::fabs(value - r[static_cast<size_t>(j * m + i)]) <= 1e-6);
          if (i == 5 || j == 5) REQUIRE(value == 0);
        }
        if (i != 5) REQUIRE(std::fabs(r[static_cast<size_t>(i * m + i)] - 1) <= 1e-6);
      }
      PackedAnchors::Options angular;
      angular.similarity = Similarity::angular;
      for (const float value : relative_of(a, d, *pack(a, d, angular))) REQUIRE((value >= 0 && value <= 1));
    }
  }

  TEST_CASE("relative: rows of extreme size have the cosines of their directions") {
    Numbers numbers(15);
    const int64_t d = 37, m = 20;
    const Matrix a = numbers.normals(m * d), direction = numbers.normals(d);
    const Matrix want = relative_of(direction, d, *pack(a, d));
    for (const Dtype storage : {Dtype::f32, Dtype::i8}) {
      PackedAnchors::Options options;
      options.storage = storage;
      const auto anchors = pack(a, d, options);
      const double tolerance = storage == Dtype::i8 ? 2e-2 : 2e-6;
      for (const float size : {1e-38F, 1e-30F, 1e-20F, 1e20F, 1e30F, 1e38F}) {
        Matrix x = direction;
        for (float& value : x) value *= size / 3;
        CHECK(largest_difference(want, relative_of(x, d, *anchors)) <= tolerance);
      }
      // denormals have lost bits, but not their direction
      Matrix tiny = direction;
      for (float& value : tiny) value *= 1e-42F;
      const Matrix r = relative_of(tiny, d, *anchors);
      for (int64_t j = 0; j < m; j++)
        REQUIRE(std::fabs(r[static_cast<size_t>(j)] - similarity(Similarity::cosine, tiny.data(), a.data() + j * d, d)) <= tolerance);
    }
  }

  TEST_CASE("relative: bf16 rows and anchors lose nothing but what they were stored with, at any size") {
    Numbers numbers(20);
    const auto of_size = [&](int64_t count, float size) {
      Matrix v = numbers.normals(count);
      for (float& value : v) value *= size;
      return v;
    };
    for (const auto kind : {Similarity::inner, Similarity::squared_euclidean}) {
      for (const float anchor_size : {1.0F, 1e-12F, 1e-40F}) {
        const int64_t d = 1 + numbers.below(700), m = 40;
        // between ordinary rows: denormals, denormals in an ordinary row, zeros, and rows whose squares overflow
        Matrix x = of_size(5 * d, 1);
        for (const Matrix& rows : {of_size(d, 1e-40F), of_size(d, 1e-25F), of_size(d, 1e20F), of_size(d, 0), of_size(3 * d, 1)})
          x.insert(x.end(), rows.begin(), rows.end());
        for (int64_t k = 0; k + 1 < d; k += 2) x[static_cast<size_t>(3 * d + k)] = 1e-40F * numbers.normal();
        const auto n = static_cast<int64_t>(x.size()) / d;
        Matrix a = of_size(m * d, anchor_size);
        std::fill_n(a.begin() + 3 * d, d, 0.0F);
        const std::vector<uint8_t> rows = testing::stored(Dtype::bf16, &x), stored = testing::stored(Dtype::bf16, &a);
        PackedAnchors::Options options;
        options.similarity = kind;
        options.storage = Dtype::bf16;
        options.centre.assign(kind == Similarity::inner ? 0 : static_cast<size_t>(d), 0.0F);
        std::shared_ptr<const PackedAnchors> anchors;
        REQUIRE(PackedAnchors::pack({Dtype::bf16, stored.data(), m, d}, d, options, &anchors).ok());
        Matrix r(static_cast<size_t>(n * m));
        REQUIRE(relative({Dtype::bf16, rows.data(), n, d}, *anchors, r.data(), m).ok());
        for (int64_t i = 0; i < n; i++) {
          CAPTURE(i);
          Matrix alone(static_cast<size_t>(m));
          REQUIRE(relative({Dtype::bf16, rows.data() + static_cast<size_t>(i * d) * 2, 1, d}, *anchors, alone.data(), m).ok());
          REQUIRE(std::equal(alone.begin(), alone.end(), r.begin() + i * m));
          for (int64_t j = 0; j < m; j++) {
            const float* u = x.data() + i * d;
            const float* v = a.data() + j * d;
            const double want = similarity(kind, u, v, d);
            const double uu = similarity(Similarity::inner, u, u, d), vv = similarity(Similarity::inner, v, v, d);
            const double size = kind == Similarity::inner ? std::sqrt(uu * vv) : uu + vv;
            if (size > 1e38) continue;
            REQUIRE(std::fabs(r[static_cast<size_t>(i * m + j)] - want) <= 2e-6 * size + 1e-42);
          }
        }
      }
    }
  }

  TEST_CASE("relative: what is not finite is refused by its row (6)") {
    Numbers numbers(16);
    const int64_t d = 20, n = 150, m = 30;
    const Matrix a = numbers.normals(m * d);
    for (const auto kind : similarities) {
      for (const Dtype storage : {Dtype::f32, Dtype::i8}) {
        if (!exists(kind, storage)) continue;
        PackedAnchors::Options options;
        options.similarity = kind;
        options.storage = storage;
        const auto anchors = pack(a, d, options);
        for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
          Matrix x = numbers.normals(n * d);
          const int64_t row = numbers.below(n);
          x[static_cast<size_t>(row * d + numbers.below(d))] = bad;
          Matrix r(static_cast<size_t>(n * m));
          const Status status = relative({Dtype::f32, x.data(), n, d}, *anchors, r.data(), m);
          CHECK(status.code == Code::non_finite);
          CHECK(status.message.find("row " + std::to_string(row) + " ") != std::string::npos);
        }
      }
    }
  }

  TEST_CASE("relative: a row's result is the same alone, in a batch and on any number of threads (5, 9)") {
    Numbers numbers(17);
    for (const auto& [kind, storage] : {std::pair{Similarity::cosine, Dtype::f32},
                                        {Similarity::cosine, Dtype::f16},
                                        {Similarity::cosine, Dtype::bf16},
                                        {Similarity::cosine, Dtype::i8},
                                        {Similarity::l1, Dtype::f32},
                                        {Similarity::l1, Dtype::bf16}}) {
      for (const int64_t d : {int64_t{300}, int64_t{1100}}) {
        const int64_t n = testing::rounds(150), m = 210;
        const Matrix x = numbers.normals(n * d);
        PackedAnchors::Options options;
        options.similarity = kind;
        options.storage = storage;
        const auto anchors = pack(numbers.normals(m * d), d, options);
        const Matrix all = relative_of(x, d, *anchors);
        for (int64_t i = 0; i < n; i++) {
          const Matrix row(x.begin() + i * d, x.begin() + (i + 1) * d);
          const Matrix alone = relative_of(row, d, *anchors);
          REQUIRE(std::equal(alone.begin(), alone.end(), all.begin() + i * m));
        }
        // the same of rows that are stored as bf16
        Matrix held = x;
        const std::vector<uint8_t> bytes = testing::stored(Dtype::bf16, &held);
        Matrix together(all.size()), alone(static_cast<size_t>(m));
        REQUIRE(relative({Dtype::bf16, bytes.data(), n, d}, *anchors, together.data(), m).ok());
        for (int64_t i = 0; i < n; i++) {
          REQUIRE(relative({Dtype::bf16, bytes.data() + static_cast<size_t>(i * d) * 2, 1, d}, *anchors, alone.data(), m).ok());
          REQUIRE(std::equal(alone.begin(), alone.end(), together.begin() + i * m));
        }
      }
    }
  }

  TEST_CASE("relative: distances far from the origin (11)") {
    Numbers numbers(18);
    const int64_t d = 48, n = 30, m = 25;
    Matrix x = numbers.normals(n * d), a = numbers.normals(m * d);
    for (float& value : x) value += 1000;
    for (float& value : a) value += 1000;
    PackedAnchors::Options options;
    options.similarity = Similarity::squared_euclidean;
    const Matrix r = relative_of(x, d, *pack(a, d, options));
    for (int64_t i = 0; i < n; i++) {
      for (int64_t j = 0; j < m; j++) {
        const double want = similarity(Similarity::squared_euclidean, x.data() + i * d, a.data() + j * d, d);
        REQUIRE(std::fabs(r[static_cast<size_t>(i * m + j)] - want) <= 1e-5 * want);
      }
    }
    options.similarity = Similarity::euclidean;
    const Matrix roots = relative_of(x, d, *pack(a, d, options));
    for (size_t i = 0; i < roots.size(); i++) REQUIRE(roots[i] == std::sqrt(r[i]));
    const Matrix own = relative_of(a, d, *pack(a, d, options));
    for (int64_t j = 0; j < m; j++) REQUIRE(own[static_cast<size_t>(j * m + j)] < 0.01F);
    CHECK(is_distance(Similarity::euclidean));
  }

  TEST_CASE("relative: L1 distances stay under translation and permutation, not under rotation (12)") {
    Numbers numbers(23);
    const int64_t d = 75, n = 40, m = 30;
    const Matrix x = numbers.normals(n * d), a = numbers.normals(m * d);
    PackedAnchors::Options options;
    options.similarity = Similarity::l1;
    const auto distances = [&](const Matrix& rows, const Matrix& anchors) { return relative_of(rows, d, *pack(anchors, d, options)); };
    const auto changed = [&](Matrix rows, auto change) {
      for (size_t i = 0; i < rows.size(); i += static_cast<size_t>(d)) change(rows.begin() + static_cast<int64_t>(i));
      return rows;
    };
    const auto reverse = [&](auto row) { std::reverse(row, row + d); };
    const auto move = [&](auto row) {
      for (int64_t k = 0; k < d; k++) row[k] += static_cast<float>(4 * k) - 100;
    };
    const Matrix r = distances(x, a);
    const double size = *std::max_element(r.begin(), r.end());
    CHECK(largest_difference(r, distances(changed(x, reverse), changed(a, reverse))) <= 1e-6 * size);
    CHECK(largest_difference(r, distances(changed(x, move), changed(a, move))) <= 1e-5 * size);
    const std::vector<double> q = rotation(numbers, d);
    CHECK(largest_difference(r, distances(rotated(x, d, q, 1), rotated(a, d, q, 1))) > 0.05 * size);
    for (const float distance : distances(a, a)) REQUIRE(distance >= 0);
    for (int64_t j = 0; j < m; j++) REQUIRE(distances(a, a)[static_cast<size_t>(j * m + j)] == 0);
    // 16 bits hold the anchors relative to their mean
    for (const Dtype storage : {Dtype::f16, Dtype::bf16}) {
      options.storage = storage;
      CHECK(largest_difference(r, distances(changed(x, move), changed(a, move))) <= loss_of(storage) * size);
    }
    options.storage = Dtype::i8;
    std::shared_ptr<const PackedAnchors> refused;
    CHECK(PackedAnchors::pack({Dtype::f32, a.data(), m, d}, d, options, &refused).code == Code::invalid_argument);
  }

  TEST_CASE("relative: L1 distances of any size") {
    Numbers numbers(24);
    const int64_t d = 37, m = 20;
    PackedAnchors::Options options;
    options.similarity = Similarity::l1;
    for (const float anchor_size : {0.0F, 1e-40F, 1e-20F, 1.0F, 1e36F}) {
      const Matrix a = numbers.normals(m * d, anchor_size);
      for (const float size : {0.0F, 1e-40F, 1e-20F, 1.0F, 1e36F}) {
        const Matrix x = numbers.normals(d, size);
        const Matrix r = relative_of(x, d, *pack(a, d, options));
        for (int64_t j = 0; j < m; j++) {
          const float* anchor = a.data() + j * d;
          REQUIRE(std::fabs(r[static_cast<size_t>(j)] - similarity(Similarity::l1, x.data(), anchor, d)) <=
                  1e-6 * size_of(Similarity::l1, x.data(), anchor, Matrix(static_cast<size_t>(d))));
        }
      }
    }
  }

  TEST_CASE("relative: a whitening comes before every similarity, in every storage") {
    Numbers numbers(25);
    for (int round = 0; round < testing::rounds(200); round++) {
      // more than 512 rows are whitened part by part
      const int64_t n = round % 20 == 0 ? 500 + numbers.below(700) : numbers.below(12), m = numbers.below(round % 7 == 0 ? 200 : 40);
      const int64_t d = 1 + numbers.below(60), width = 1 + numbers.below(60), gap = numbers.below(3);
      const auto kind = similarities[static_cast<size_t>(numbers.below(5))];
      const Dtype in = testing::dtypes[static_cast<size_t>(numbers.below(3))];
      const Dtype storage = storages[static_cast<size_t>(numbers.below(4))];
      if (!exists(kind, storage)) continue;
      CAPTURE(n);
      CAPTURE(m);
      CAPTURE(d);
      CAPTURE(width);
      CAPTURE(static_cast<int>(kind));
      CAPTURE(dtype_name(storage));
      const Matrix w = numbers.normals(d * width), mean = numbers.normals(d), a = numbers.normals(m * d);
      Matrix x = testing::with_gaps(numbers.normals(n * d), n, d, gap, testing::not_a_number);
      const std::vector<uint8_t> bytes = testing::stored(in, &x);
      PackedAnchors::Options options;
      options.similarity = kind;
      options.storage = storage;
      options.whitening.mean = mean;
      options.whitening.matrix = {Dtype::f32, w.data(), width, d, 1, width};
      if (numbers.below(2) == 1) options.centre = numbers.normals(width);
      if (numbers.below(2) == 1) options.scale = numbers.normals(width);
      const auto anchors = pack(a, d, options);
      CHECK(anchors->depth() == d);
      // inner products with f32 may have the whitening in the anchors
      const bool foldable = kind == Similarity::inner && storage == Dtype::f32 && options.centre.empty() && options.scale.empty();
      const int64_t work = m * width + d * width;
      CHECK(anchors->multiplications() == (foldable ? std::min(work, m * d) : work));
      const auto white = [&](const Matrix& rows, int64_t count, int64_t stride) {
        Matrix out(static_cast<size_t>(count * width));
        for (int64_t i = 0; i < count; i++) {
          for (int64_t j = 0; j < width; j++) {
            double sum = 0;
            for (int64_t k = 0; k < d; k++)
              sum += (static_cast<double>(rows[static_cast<size_t>(i * stride + k)]) - mean[static_cast<size_t>(k)]) *
                     w[static_cast<size_t>(k * width + j)];
            if (!options.centre.empty()) sum -= options.centre[static_cast<size_t>(j)];
            if (!options.scale.empty()) sum *= options.scale[static_cast<size_t>(j)];
            out[static_cast<size_t>(i * width + j)] = static_cast<float>(sum);
          }
        }
        return out;
      };
      const Matrix white_x = white(x, n, d + gap), white_a = white(a, m, d), centre = centre_of(kind, white_a, width);
      Matrix r(static_cast<size_t>(n * (m + gap)), 9.0F);
      REQUIRE(relative({in, bytes.data(), n, d + gap}, *anchors, r.data(), m + gap).ok());
      const int64_t k = std::min<int64_t>(m, 3);
      std::vector<int32_t> ids(static_cast<size_t>(n * k));
      Matrix values(static_cast<size_t>(n * k));
      if (k > 0) REQUIRE(relative_top_k({in, bytes.data(), n, d + gap}, *anchors, k, ids.data(), values.data()).ok());
      for (int64_t i = 0; i < n; i++) {
        const float* row = r.data() + i * (m + gap);
        const float* white_row = white_x.data() + i * width;
        for (int64_t j = 0; j < m; j++) {
          const float* anchor = white_a.data() + j * width;
          // a row near the mean is small beside what it is the difference of
          const double size = size_of(kind, white_row, anchor, centre),
                       length = std::sqrt(similarity(Similarity::inner, white_row, white_row, width));
          const bool bounded = kind == Similarity::cosine || kind == Similarity::angular;
          const double doubt = bounded ? std::max(1.0, 20 / std::max(length, 1e-3)) : size + 30;
          REQUIRE(std::fabs(row[j] - similarity(kind, white_row, anchor, width)) <=
                  loss_of(storage) * doubt * (kind == Similarity::angular ? 100 : 1));
        }
        for (int64_t j = m; j < m + gap; j++) REQUIRE(row[j] == 9.0F);
        for (int64_t at = 0; at < k; at++) {
          const float best = values[static_cast<size_t>(i * k + at)];
          REQUIRE(best == row[ids[static_cast<size_t>(i * k + at)]]);
          const auto better = [&](float value) { return is_distance(kind) ? value < best : value > best; };
          REQUIRE(std::count_if(row, row + m, better) <= at);
        }
        Matrix alone(static_cast<size_t>(m));
        const Rows one = Rows{in, bytes.data(), n, d + gap}.part(i, 1);
        REQUIRE(relative(one, *anchors, alone.data(), m).ok());
        REQUIRE(std::equal(alone.begin(), alone.end(), row));
      }
    }
  }

  TEST_CASE("relative: what a whitening refuses") {
    Numbers numbers(26);
    const int64_t d = 6, n = 1200, m = 5;
    const Matrix a = numbers.normals(m * d), w = numbers.normals(d * d);
    PackedAnchors::Options options;
    options.whitening.mean.resize(static_cast<size_t>(d));
    options.whitening.matrix = {Dtype::f32, w.data(), d, d, 1, d};
    const auto anchors = pack(a, d, options);
    CHECK(anchors->bytes() > pack(a, d)->bytes());
    // the first row that is not finite, wherever the parts begin
    for (const int64_t row : {int64_t{0}, int64_t{511}, int64_t{512}, int64_t{1199}}) {
      Matrix x = numbers.normals(n * d), r(static_cast<size_t>(n * m));
      x[static_cast<size_t>(row * d + 2)] = testing::not_a_number;
      x.back() = testing::infinity;
      const Status status = relative({Dtype::f32, x.data(), n, d}, *anchors, r.data(), m);
      CHECK(status.code == Code::non_finite);
      CHECK(status.message.find("row " + std::to_string(row) + " ") != std::string::npos);
    }
    std::atomic<bool> cancel{true};
    Matrix x = numbers.normals(n * d), r(static_cast<size_t>(n * m));
    CHECK(relative({Dtype::f32, x.data(), n, d}, *anchors, r.data(), m, &cancel).code == Code::cancelled);

    std::shared_ptr<const PackedAnchors> refused;
    const auto code = [&](const Matrix& rows, int64_t depth, PackedAnchors::Options wrong) {
      return PackedAnchors::pack({Dtype::f32, rows.data(), static_cast<int64_t>(rows.size()) / depth, depth}, depth, std::move(wrong),
                                 &refused)
          .code;
    };
    CHECK(code(numbers.normals(10), 5, options) == Code::invalid_argument);
    PackedAnchors::Options no_mean = options, narrow = options;
    no_mean.whitening.mean.clear();
    CHECK(code(a, d, no_mean) == Code::invalid_argument);
    narrow.centre.resize(5);
    CHECK(code(a, d, narrow) == Code::invalid_argument);
    CHECK(code(Matrix(static_cast<size_t>(d), testing::not_a_number), d, options) == Code::non_finite);
  }

  TEST_CASE("relative: the k best, by value and then by index") {
    Numbers numbers(19);
    for (int round = 0; round < testing::rounds(60); round++) {
      const int64_t d = 1 + numbers.below(40), n = numbers.below(round % 6 == 0 ? 900 : 30),
                    m = 1 + numbers.below(round % 3 == 0 ? 500 : 40);
      const int64_t k = 1 + numbers.below(m);
      const auto kind = similarities[static_cast<size_t>(numbers.below(5))];
      CAPTURE(n);
      CAPTURE(m);
      CAPTURE(k);
      Matrix a = numbers.normals(m * d);
      if (m > 20) std::copy_n(a.begin(), d, a.begin() + 17 * d);  // equals
      const Matrix x = numbers.normals(n * d);
      PackedAnchors::Options options;
      options.similarity = kind;
      const auto anchors = pack(a, d, options);
      const Matrix r = relative_of(x, d, *anchors);
      std::vector<int32_t> ids(static_cast<size_t>(n * k));
      Matrix values(static_cast<size_t>(n * k));
      REQUIRE(relative_top_k({Dtype::f32, x.data(), n, d}, *anchors, k, ids.data(), values.data()).ok());
      const bool smallest = is_distance(kind);
      for (int64_t i = 0; i < n; i++) {
        const float* row = r.data() + i * m;
        std::vector<int32_t> order(static_cast<size_t>(m));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int32_t p, int32_t q) { return smallest ? row[p] < row[q] : row[p] > row[q]; });
        for (int64_t at = 0; at < k; at++) {
          REQUIRE(ids[static_cast<size_t>(i * k + at)] == order[static_cast<size_t>(at)]);
          REQUIRE(values[static_cast<size_t>(i * k + at)] == row[order[static_cast<size_t>(at)]]);
        }
      }
    }
    const auto anchors = pack(numbers.normals(12), 3);
    for (const int64_t k : {int64_t{0}, int64_t{-1}, int64_t{5}})
      CHECK(relative_top_k({}, *anchors, k, nullptr, nullptr).code == Code::invalid_argument);
  }

  TEST_CASE("relative: codes of 8, 4 and 1 bits") {
    Numbers numbers(20);
    for (int round = 0; round < testing::rounds(40); round++) {
      const int64_t d = 1 + numbers.below(40), n = numbers.below(100), m = numbers.below(round % 3 == 0 ? 400 : 30);
      const auto anchors = pack(numbers.normals(m * d), d);
      const Matrix x = numbers.normals(n * d);
      const Matrix r = relative_of(x, d, *anchors);
      for (const int bits : {8, 4, 1}) {
        const int64_t row_bytes = code_row_bytes(m, bits);
        std::vector<uint8_t> codes(static_cast<size_t>(n * row_bytes), 0xEE);
        REQUIRE(relative_codes({Dtype::f32, x.data(), n, d}, *anchors, bits, codes.data()).ok());
        for (int64_t i = 0; i < n; i++) {
          const uint8_t* row = codes.data() + i * row_bytes;
          for (int64_t j = 0; j < m; j++) {
            const double value = r[static_cast<size_t>(i * m + j)];
            if (bits == 1) {
              REQUIRE(((row[j / 8] >> (j % 8)) & 1) == (value >= 0 ? 1 : 0));
            } else {
              const int code = bits == 8 ? static_cast<int8_t>(row[j])
                                         : static_cast<int8_t>(static_cast<uint8_t>((row[j / 2] >> (4 * (j % 2))) << 4)) / 16;
              const double levels = bits == 8 ? 127 : 7;
              REQUIRE(std::fabs(code - value * levels) <= 0.5 + 1e-4);
            }
          }
          if (bits == 1 && m % 8 != 0) REQUIRE((row[m / 8] >> (m % 8)) == 0);
        }
      }
    }
    const auto anchors = pack(numbers.normals(12), 3);
    CHECK(relative_codes({}, *anchors, 2, nullptr).code == Code::invalid_argument);
    PackedAnchors::Options inner;
    inner.similarity = Similarity::inner;
    CHECK(relative_codes({}, *pack(numbers.normals(12), 3, inner), 8, nullptr).code == Code::invalid_argument);
  }

  TEST_CASE("projection: every norm, activation, rescale and storage") {
    Numbers numbers(21);
    for (int round = 0; round < testing::rounds(500); round++) {
      const int64_t n = numbers.below(round % 20 == 0 ? 700 : 12);
      const int64_t inputs = 1 + numbers.below(round % 9 == 0 ? 700 : 50);
      const int64_t hidden = 1 + numbers.below(80);
      const bool two = numbers.below(2) == 1;
      Projection::Options options;
      options.norm = static_cast<RowNorm>(numbers.below(4));
      options.activation = static_cast<Activation>(numbers.below(4));
      options.rescale = static_cast<Rescale>(numbers.below(3));
      options.target_norm = 3;
      options.storage = std::array{Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i8}[static_cast<size_t>(numbers.below(4))];
      const Dtype in = std::array{Dtype::f32, Dtype::f16, Dtype::bf16}[static_cast<size_t>(numbers.below(3))];
      const int64_t outputs = options.rescale == Rescale::residual ? inputs : 1 + numbers.below(80);
      const int64_t first_outputs = two ? hidden : outputs;
      if (options.norm == RowNorm::rms || options.norm == RowNorm::layer) {
        if (numbers.below(2) == 1) options.norm_weight = numbers.normals(inputs);
        if (numbers.below(2) == 1) options.norm_bias = numbers.normals(inputs);
      }
      CAPTURE(n);
      CAPTURE(inputs);
      CAPTURE(outputs);
      CAPTURE(two);
      CAPTURE(static_cast<int>(options.norm));
      CAPTURE(static_cast<int>(options.activation));
      CAPTURE(static_cast<int>(options.rescale));
      CAPTURE(dtype_name(options.storage));
      Matrix x = numbers.normals(n * inputs, 2);
      const std::vector<uint8_t> bytes = testing::stored(in, &x);
      const Matrix w1 = numbers.normals(inputs * first_outputs, 1 / std::sqrt(static_cast<float>(inputs)));
      const Matrix w2 = numbers.normals(first_outputs * outputs, 1 / std::sqrt(static_cast<float>(first_outputs)));
      const Projection::Layer first{Dtype::f32, w1.data(), inputs, first_outputs,
                                    numbers.below(2) == 1 ? numbers.normals(first_outputs) : Matrix{}};
      const Projection::Layer second{Dtype::f32, w2.data(), first_outputs, outputs,
                                     numbers.below(2) == 1 ? numbers.normals(outputs) : Matrix{}};
      std::shared_ptr<const Projection> projection;
      REQUIRE(Projection::pack(first, two ? &second : nullptr, options, &projection).ok());
      const int64_t gap = numbers.below(3);
      Matrix y(static_cast<size_t>(n * (outputs + gap)), 9.0F);
      REQUIRE(projection->apply({in, bytes.data(), n, inputs}, y.data(), outputs + gap).ok());

      const auto layer = [](const std::vector<double>& v, const Projection::Layer& l, const Matrix& w) {
        std::vector<double> out(static_cast<size_t>(l.outputs));
        for (size_t j = 0; j < out.size(); j++) {
          out[j] = l.bias.empty() ? 0 : l.bias[j];
          for (size_t k = 0; k < v.size(); k++) out[j] += v[k] * w[k * out.size() + j];
        }
        return out;
      };
      const double loss = options.storage == Dtype::f32    ? 2e-5
                          : options.storage == Dtype::f16  ? 4e-3
                          : options.storage == Dtype::bf16 ? 3e-2
                                                           : 0.15;
      for (int64_t i = 0; i < n; i++) {
        std::vector<double> v(x.begin() + i * inputs, x.begin() + (i + 1) * inputs);
        const auto d = static_cast<double>(inputs);
        const double mean = std::accumulate(v.begin(), v.end(), 0.0) / d;
        double square = 0, variance = 0;
        for (const double value : v) {
          square += value * value;
          variance += (value - mean) * (value - mean) / d;
        }
        for (size_t k = 0; k < v.size(); k++) {
          const double weight = options.norm_weight.empty() ? 1 : options.norm_weight[k];
          const double bias = options.norm_bias.empty() ? 0 : options.norm_bias[k];
          if (options.norm == RowNorm::l2) v[k] /= std::max(std::sqrt(square), 1e-12);
          if (options.norm == RowNorm::rms) v[k] = v[k] / std::sqrt(square / d + options.epsilon) * weight + bias;
          if (options.norm == RowNorm::layer) v[k] = (v[k] - mean) / std::sqrt(variance + options.epsilon) * weight + bias;
        }
        std::vector<double> out = layer(v, first, w1);
        for (double& value : out) {
          if (options.activation == Activation::gelu) value = 0.5 * value * (1 + std::erf(value / std::numbers::sqrt2));
          if (options.activation == Activation::silu) value = value / (1 + std::exp(-value));
          if (options.activation == Activation::tanh) value = std::tanh(value);
        }
        if (two) out = layer(out, second, w2);
        const double norm = std::sqrt(std::inner_product(out.begin(), out.end(), out.begin(), 0.0));
        double largest = 1;
        for (const double value : out) largest = std::max(largest, std::fabs(value));
        // a small row brought to a norm brings its errors with it
        const double factor = options.rescale == Rescale::to_norm ? 3 / norm : 1;
        for (int64_t j = 0; j < outputs; j++) {
          double want = out[static_cast<size_t>(j)];
          if (options.rescale == Rescale::to_norm) want *= factor;
          if (options.rescale == Rescale::residual) want += x[static_cast<size_t>(i * inputs + j)];
          const double tolerance = options.rescale == Rescale::to_norm ? 3 * loss * std::max(largest, 1.0) * factor : loss * largest * 2;
          REQUIRE(std::fabs(y[static_cast<size_t>(i * (outputs + gap) + j)] - want) <= tolerance + 1e-5);
        }
        for (int64_t j = outputs; j < outputs + gap; j++) REQUIRE(y[static_cast<size_t>(i * (outputs + gap) + j)] == 9.0F);
      }
    }
  }

  TEST_CASE("projection: rows of zeros, of extreme size, and what is refused") {
    Numbers numbers(22);
    const int64_t d = 24, outputs = 10;
    const Matrix w = numbers.normals(d * outputs);
    const Projection::Layer layer{Dtype::f32, w.data(), d, outputs, {}};
    for (const RowNorm norm : {RowNorm::none, RowNorm::l2, RowNorm::rms, RowNorm::layer}) {
      for (const float epsilon : {0.0F, 1e-6F}) {
        Projection::Options options;
        options.norm = norm;
        options.epsilon = epsilon;
        options.rescale = Rescale::to_norm;
        std::shared_ptr<const Projection> projection;
        REQUIRE(Projection::pack(layer, nullptr, options, &projection).ok());
        const Matrix zeros(static_cast<size_t>(d));
        Matrix y(static_cast<size_t>(outputs), 5.0F);
        REQUIRE(projection->apply({Dtype::f32, zeros.data(), 1, d}, y.data(), outputs).ok());
        for (const float value : y) CHECK(value == 0);
        for (const float size : {1e-18F, 1e18F, 1e36F}) {
          Matrix x = numbers.normals(d, size);
          REQUIRE(projection->apply({Dtype::f32, x.data(), 1, d}, y.data(), outputs).ok());
          double square = 0;
          for (const float value : y) square += static_cast<double>(value) * value;
          CHECK(square == doctest::Approx(1).epsilon(1e-5));
        }
        Matrix bad = numbers.normals(3 * d);
        bad[static_cast<size_t>(d + 3)] = std::numeric_limits<float>::quiet_NaN();
        Matrix many(static_cast<size_t>(3 * outputs));
        CHECK(projection->apply({Dtype::f32, bad.data(), 3, d}, many.data(), outputs).code == Code::non_finite);
      }
    }
    const auto code = [&](Projection::Layer first, const Projection::Layer* second, Projection::Options options) {
      std::shared_ptr<const Projection> projection;
      return Projection::pack(first, second, std::move(options), &projection).code;
    };
    Projection::Options residual, weighted, epsilon, target;
    residual.rescale = Rescale::residual;
    weighted.norm_weight = numbers.normals(d);
    epsilon.epsilon = -1;
    target.target_norm = std::numeric_limits<float>::infinity();
    Projection::Layer biased = layer;
    biased.bias = {1, 2};
    Projection::Layer unsound = layer;
    unsound.bias.assign(static_cast<size_t>(outputs), std::numeric_limits<float>::quiet_NaN());
    CHECK(code(layer, &layer, {}) == Code::invalid_argument);
    CHECK(code(layer, nullptr, residual) == Code::invalid_argument);
    CHECK(code(layer, nullptr, weighted) == Code::invalid_argument);
    CHECK(code(layer, nullptr, epsilon) == Code::invalid_argument);
    CHECK(code(layer, nullptr, target) == Code::invalid_argument);
    CHECK(code(biased, nullptr, {}) == Code::invalid_argument);
    CHECK(code(unsound, nullptr, {}) == Code::non_finite);
  }
}
