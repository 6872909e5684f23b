// Nearest codewords, residual VQ, FSQ and water-filling against plain float64.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

#include "kernels/codebook.h"
#include "kernels/table.h"
#include "kernels_support.h"

using namespace latentwire;
using latentwire::testing::dtypes;
using latentwire::testing::infinity;
using latentwire::testing::not_a_number;
using latentwire::testing::Numbers;
using latentwire::testing::stored;

namespace {

std::shared_ptr<const Codebook> book(const std::vector<float>& words, int64_t depth, Dtype storage = Dtype::f32) {
  std::shared_ptr<const Codebook> packed;
  const int64_t count = static_cast<int64_t>(words.size()) / depth;
  REQUIRE(Codebook::pack({Dtype::f32, words.data(), count, depth, 0}, depth, storage, &packed).ok());
  return packed;
}

double distance(const float* x, const float* c, int64_t depth) {
  double sum = 0;
  for (int64_t k = 0; k < depth; k++) sum += (static_cast<double>(x[k]) - c[k]) * (static_cast<double>(x[k]) - c[k]);
  return sum;
}

double total(const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0); }

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("codebook: the scan finds the first least, of any length, in every table") {
    Numbers numbers(61);
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      for (int round = 0; round < 4000; round++) {
        const auto n = static_cast<size_t>(numbers.below(150));
        CAPTURE(n);
        std::vector<float> dots(n + 1), offsets(n + 1);
        // few values, so that equals are frequent
        for (float& v : dots) v = static_cast<float>(numbers.below(round % 3 == 0 ? 4 : 1000));
        for (float& v : offsets) v = static_cast<float>(numbers.below(round % 3 == 0 ? 4 : 1000));
        dots.back() = infinity;  // beyond the row: it would be the least
        if (round % 5 == 0 && n > 0) dots[static_cast<size_t>(numbers.below(static_cast<int64_t>(n)))] = not_a_number;
        float best = round % 2 == 0 ? infinity : static_cast<float>(numbers.below(6) - 3);
        float want = best;
        int32_t index = -7, want_index = -7;
        for (size_t i = 0; i < n; i++) {
          if (offsets[i] - dots[i] < want) {
            want = offsets[i] - dots[i];
            want_index = static_cast<int32_t>(i) + 1000;
          }
        }
        table.codebook.least(dots.data(), offsets.data(), static_cast<int64_t>(n), 1000, &best, &index);
        REQUIRE(best == want);
        REQUIRE(index == want_index);
      }
    }
  }

  TEST_CASE("codebook: nearest codewords of any shape and dtype") {
    Numbers numbers(62);
    for (int round = 0; round < testing::rounds(150); round++) {
      const Dtype dtype = dtypes[static_cast<size_t>(round) % 3];
      const Dtype storage = dtypes[static_cast<size_t>(round / 3) % 3];
      const int64_t rows = round % 10 == 0 ? 300 : numbers.below(40), depth = 1 + numbers.below(90), gap = numbers.below(3);
      const int64_t count = round % 10 == 0 ? 500 : 1 + numbers.below(200);
      CAPTURE(rows);
      CAPTURE(depth);
      CAPTURE(count);
      std::vector<float> words = numbers.normals(count * depth);
      const auto packed = book(words, depth, storage);
      CHECK(packed->count() == count);
      CHECK(std::equal(words.begin(), words.begin() + depth, packed->word(0)));
      stored(storage, &words);  // as they are compared
      std::vector<float> x = numbers.normals(rows * depth);
      stored(dtype, &x);
      std::vector<float> spaced = testing::with_gaps(x, rows, depth, gap, not_a_number);
      const auto bytes = stored(dtype, &spaced);
      std::vector<int32_t> indices(static_cast<size_t>(rows) + 1, -5), again = indices;
      std::vector<float> distances(static_cast<size_t>(rows) + 1, -5.0F);
      REQUIRE(packed->nearest({dtype, bytes.data(), rows, depth + gap, 0}, indices.data(), distances.data()).ok());
      REQUIRE(packed->nearest({dtype, bytes.data(), rows, depth + gap, 0}, again.data(), nullptr).ok());
      CHECK(indices == again);
      CHECK(indices.back() == -5);
      CHECK(distances.back() == -5.0F);
      for (int64_t i = 0; i < rows; i++) {
        const float* row = x.data() + i * depth;
        double least = infinity, size = 0;
        for (int64_t j = 0; j < count; j++) least = std::min(least, distance(row, words.data() + j * depth, depth));
        for (int64_t k = 0; k < depth; k++) size += static_cast<double>(row[k]) * row[k];
        const int32_t index = indices[static_cast<size_t>(i)];
        REQUIRE(index >= 0);
        REQUIRE(index < count);
        const double got = distance(row, words.data() + index * depth, depth);
        REQUIRE(got <= least + 2e-6 * (size + least));
        REQUIRE(std::fabs(distances[static_cast<size_t>(i)] - got) <= 4e-6 * (size + got));
      }
    }
  }

  TEST_CASE("codebook: among equals the lowest index; whole numbers are exact") {
    Numbers numbers(63);
    const int64_t depth = 12, count = 400, rows = 200;
    std::vector<float> words(static_cast<size_t>(count * depth)), x(static_cast<size_t>(rows * depth));
    for (float& v : words) v = static_cast<float>(numbers.below(3) - 1);
    for (int64_t j = 200; j < count; j++) std::copy_n(words.begin() + (j - 200) * depth, depth, words.begin() + j * depth);  // twice
    for (float& v : x) v = static_cast<float>(numbers.below(5) - 2);
    const auto packed = book(words, depth);
    std::vector<int32_t> indices(static_cast<size_t>(rows));
    std::vector<float> distances(static_cast<size_t>(rows));
    REQUIRE(packed->nearest({Dtype::f32, x.data(), rows, depth, 0}, indices.data(), distances.data()).ok());
    for (int64_t i = 0; i < rows; i++) {
      double least = infinity;
      int32_t first = 0;
      for (int64_t j = 0; j < count; j++) {
        const double d = distance(x.data() + i * depth, words.data() + j * depth, depth);
        if (d < least) {
          least = d;
          first = static_cast<int32_t>(j);
        }
      }
      REQUIRE(indices[static_cast<size_t>(i)] == first);
      REQUIRE(distances[static_cast<size_t>(i)] == least);
    }
  }

  TEST_CASE("codebook: what is refused") {
    std::vector<float> words = {1, 2, 3, 4};
    std::shared_ptr<const Codebook> packed;
    CHECK(Codebook::pack({Dtype::f32, words.data(), 0, 2, 0}, 2, Dtype::f32, &packed).code == Code::invalid_argument);
    CHECK(Codebook::pack({Dtype::f32, words.data(), 2, 2, 0}, 2, Dtype::i8, &packed).code == Code::dtype);
    words[2] = not_a_number;
    CHECK(Codebook::pack({Dtype::f32, words.data(), 2, 2, 0}, 2, Dtype::f32, &packed).code == Code::non_finite);
    words[2] = 3e38F;
    CHECK(Codebook::pack({Dtype::f32, words.data(), 2, 2, 0}, 2, Dtype::f32, &packed).code == Code::non_finite);
    words[2] = 3;
    REQUIRE(Codebook::pack({Dtype::f32, words.data(), 2, 2, 0}, 2, Dtype::f32, &packed).ok());
    const std::vector<float> x = {1, 1, infinity, 0};
    std::array<int32_t, 2> indices{};
    const Status status = packed->nearest({Dtype::f32, x.data(), 2, 2, 4}, indices.data(), nullptr);
    CHECK(status.code == Code::non_finite);
    CHECK(status.message.find("row 5 ") != std::string::npos);
    std::atomic<bool> cancel{true};
    CHECK(packed->nearest({Dtype::f32, x.data(), 1, 2, 0}, indices.data(), nullptr, &cancel).code == Code::cancelled);
    CHECK(residual_encode({Dtype::f32, x.data(), 1, 2, 0}, {}, indices.data(), nullptr).code == Code::invalid_argument);
    CHECK(residual_encode({Dtype::f32, x.data(), 1, 2, 0}, {packed, book({1, 2, 3}, 3)}, indices.data(), nullptr).code ==
          Code::invalid_argument);
    CHECK(residual_encode({Dtype::i32, x.data(), 1, 2, 0}, {packed}, indices.data(), nullptr).code == Code::dtype);
    indices = {0, 2};
    std::vector<float> y(4);
    CHECK(residual_decode({packed}, indices.data(), 2, y.data(), 2).code == Code::invalid_argument);
    CHECK(residual_decode({}, indices.data(), 2, y.data(), 2).code == Code::invalid_argument);
  }

  TEST_CASE("codebook: residual VQ codes what is left, stage by stage") {
    Numbers numbers(64);
    for (const Dtype dtype : dtypes) {
      const int64_t depth = 24, rows = 1100;  // more than two slabs
      std::vector<std::shared_ptr<const Codebook>> stages;
      for (int s = 0; s < 3; s++) {
        std::vector<float> words = numbers.normals(64 * depth, std::pow(0.7F, static_cast<float>(s)));
        std::fill_n(words.begin(), depth, 0.0F);  // so that a stage never adds error
        stages.push_back(book(words, depth));
      }
      std::vector<float> x = numbers.normals(rows * depth);
      const auto bytes = stored(dtype, &x);
      std::vector<int32_t> indices(static_cast<size_t>(rows * 3)), again = indices;
      std::vector<float> left(static_cast<size_t>(rows * depth)), y(static_cast<size_t>(rows * (depth + 1)), 9.0F);
      REQUIRE(residual_encode({dtype, bytes.data(), rows, depth, 0}, stages, indices.data(), left.data()).ok());
      REQUIRE(residual_encode({dtype, bytes.data(), rows, depth, 0}, stages, again.data(), nullptr).ok());
      CHECK(indices == again);
      REQUIRE(residual_decode(stages, indices.data(), rows, y.data(), depth + 1).ok());
      for (int64_t i = 0; i < rows; i++) {
        std::vector<float> rest(x.begin() + i * depth, x.begin() + (i + 1) * depth);
        double before = infinity;
        for (size_t s = 0; s < 3; s++) {
          double least = infinity;
          for (int64_t j = 0; j < 64; j++) least = std::min(least, distance(rest.data(), stages[s]->word(j), depth));
          const float* word = stages[s]->word(indices[static_cast<size_t>(i) * 3 + s]);
          REQUIRE(distance(rest.data(), word, depth) <= least + 1e-4);
          REQUIRE(least <= before + 1e-4);
          before = least;
          for (size_t k = 0; k < static_cast<size_t>(depth); k++) rest[k] -= word[k];
        }
        for (int64_t k = 0; k < depth; k++) {
          REQUIRE(left[static_cast<size_t>(i * depth + k)] == rest[static_cast<size_t>(k)]);
          REQUIRE(std::fabs(y[static_cast<size_t>(i * (depth + 1) + k)] + rest[static_cast<size_t>(k)] -
                            x[static_cast<size_t>(i * depth + k)]) <= 1e-5);
        }
        REQUIRE(y[static_cast<size_t>(i * (depth + 1) + depth)] == 9.0F);
      }
    }
  }

  TEST_CASE("FSQ: all symbols, their values, idempotence, bounds") {
    for (const std::vector<int32_t>& levels : {std::vector<int32_t>{8, 5, 5, 5}, {2}, {3, 2, 7}, {8, 8, 8, 6, 5}, {16, 9}}) {
      Fsq fsq;
      REQUIRE(Fsq::make(levels, &fsq).ok());
      const int64_t depth = fsq.depth();
      int64_t product = 1;
      for (const int32_t l : levels) product *= l;
      REQUIRE(fsq.symbols() == product);
      std::vector<int64_t> all(static_cast<size_t>(product)), back(all.size());
      std::iota(all.begin(), all.end(), 0);
      std::vector<float> values(all.size() * static_cast<size_t>(depth));
      REQUIRE(fsq.decode(all.data(), product, values.data(), depth).ok());
      // z whose bound is the value: the inverse of what encode does
      std::vector<float> z = values;
      std::set<std::vector<float>> distinct;
      for (int64_t i = 0; i < product; i++) {
        distinct.insert({values.begin() + i * depth, values.begin() + (i + 1) * depth});
        int64_t rest = i;
        for (int64_t j = 0; j < depth; j++) {
          const int32_t l = levels[static_cast<size_t>(j)];
          const auto at = static_cast<size_t>(i * depth + j);
          // mixed radix, the first component fastest
          REQUIRE(values[at] == static_cast<float>(rest % l - l / 2) / static_cast<float>(l / 2));
          REQUIRE(std::fabs(values[at]) <= 1);
          rest /= l;
          const double half = (l - 1) * (1 + 1e-3) / 2, offset = l % 2 == 0 ? 0.5 : 0;
          z[at] = static_cast<float>(std::atanh(std::clamp((values[at] * (l / 2) + offset) / half, -0.999999, 0.999999)) -
                                     std::atanh(offset / half));
        }
      }
      CHECK(distinct.size() == all.size());
      REQUIRE(fsq.encode({Dtype::f32, z.data(), product, depth, 0}, back.data()).ok());
      CHECK(back == all);
      // far outside: the outermost values
      std::vector<float> far(static_cast<size_t>(2 * depth), 1e30F);
      std::fill_n(far.begin(), depth, -1e30F);
      std::array<int64_t, 2> ends{};
      REQUIRE(fsq.encode({Dtype::f32, far.data(), 2, depth, 0}, ends.data()).ok());
      CHECK(ends == std::array<int64_t, 2>{0, product - 1});
    }
    // the published formula, in float64, on random numbers of all dtypes with gaps
    Numbers numbers(65);
    const std::vector<int32_t> levels = {8, 5, 1000, 4};
    Fsq fsq;
    REQUIRE(Fsq::make(levels, &fsq).ok());
    for (const Dtype dtype : dtypes) {
      std::vector<float> x = numbers.normals(500 * 6, 2);
      const auto bytes = stored(dtype, &x);
      std::vector<int64_t> symbols(500);
      REQUIRE(fsq.encode({dtype, bytes.data(), 500, 6, 0}, symbols.data()).ok());
      for (size_t i = 0; i < 500; i++) {
        int64_t want = 0, weight = 1;
        for (size_t j = 0; j < 4; j++) {
          const double half = (levels[j] - 1) * (1 + 1e-3) / 2, offset = levels[j] % 2 == 0 ? 0.5 : 0, shift = std::atanh(offset / half);
          const double bounded = std::tanh(static_cast<double>(x[i * 6 + j]) + shift) * half - offset;
          const auto code =
              std::clamp(static_cast<int64_t>(std::nearbyint(bounded)), -int64_t{levels[j] / 2}, int64_t{(levels[j] - 1) / 2});
          want += (code + levels[j] / 2) * weight;
          weight *= levels[j];
        }
        REQUIRE(symbols[i] == want);
      }
    }
    Fsq none;
    CHECK(Fsq::make({}, &none).code == Code::invalid_argument);
    CHECK(Fsq::make({1}, &none).code == Code::invalid_argument);
    CHECK(Fsq::make({65536, 65536, 65536, 65536}, &none).code == Code::invalid_argument);
    CHECK(Fsq::make({65536, 65536, 65536}, &none).ok());
    const std::array<float, 4> bad = {0, not_a_number, 0, 0};
    int64_t symbol = fsq.symbols();
    CHECK(fsq.encode({Dtype::f32, bad.data(), 1, 4, 0}, &symbol).code == Code::non_finite);
    CHECK(fsq.encode({Dtype::i8, bad.data(), 1, 4, 0}, &symbol).code == Code::dtype);
    std::array<float, 4> y{};
    CHECK(fsq.decode(&symbol, 1, y.data(), 4).code == Code::invalid_argument);
    symbol = -1;
    CHECK(fsq.decode(&symbol, 1, y.data(), 4).code == Code::invalid_argument);
  }

  TEST_CASE("water-filling: conditions of the optimum, whole bits, table 3.3") {
    Numbers numbers(66);
    WaterFilling w;
    for (int round = 0; round < testing::rounds(300); round++) {
      std::vector<double> variances(static_cast<size_t>(1 + numbers.below(60)));
      for (double& v : variances) v = numbers.below(8) == 0 ? 0 : std::exp(5.0 * static_cast<double>(numbers.normal()));
      variances[0] = 1;
      const double bits = round % 9 == 0 ? 0 : static_cast<double>(numbers.below(300)) / 3;
      REQUIRE(water_filling(variances, bits, &w).ok());
      REQUIRE(std::fabs(total(w.bits) - bits) <= 1e-9 * (1 + bits));
      double distortion = 0;
      for (size_t i = 0; i < variances.size(); i++) {
        REQUIRE(w.bits[i] >= 0);
        const double error = variances[i] * std::exp2(-2 * w.bits[i]);
        distortion += error;
        // a component in use keeps the level, the others have less than it
        if (w.bits[i] > 1e-9)
          REQUIRE(error == doctest::Approx(w.level).epsilon(1e-9));
        else
          REQUIRE(variances[i] <= w.level * (1 + 1e-9));
      }
      REQUIRE(w.distortion == doctest::Approx(distortion).epsilon(1e-9));
      // whole bits: no better than the optimum; moving one bit never helps
      std::vector<int> whole;
      double error = 0;
      const auto spend = static_cast<int64_t>(bits);
      REQUIRE(whole_bits(variances, spend, 16, &whole, &error).ok());
      double sum = 0;
      int64_t spent = 0;
      for (size_t i = 0; i < whole.size(); i++) {
        REQUIRE(whole[i] <= 16);
        spent += whole[i];
        sum += variances[i] * std::exp2(-2 * whole[i]);
      }
      const auto possible = 16 * std::count_if(variances.begin(), variances.end(), [](double v) { return v > 0; });
      REQUIRE(spent == std::min<int64_t>(spend, possible));
      REQUIRE(error == doctest::Approx(sum).epsilon(1e-9));
      if (spent == spend) REQUIRE(error >= w.distortion * std::exp2(2 * (static_cast<double>(spend) - bits)) * (1 - 1e-9));
      for (size_t i = 0; i < whole.size(); i++) {
        for (size_t j = 0; j < whole.size(); j++) {
          if (i == j || whole[i] == 0 || whole[j] == 16) continue;
          const double saved = variances[j] * std::exp2(-2 * whole[j]) * 0.75, lost = variances[i] * std::exp2(-2 * whole[i]) * 3;
          REQUIRE(saved <= lost * (1 + 1e-9));
        }
      }
    }
    // 1024 components of variances i^-1.2. The bound is above what the table has measured; whole bits with the best uniform quantisers of a
    // Gaussian (Max 1960) come near it.
    const std::array steps = {0.0, 1.596, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308};
    std::vector<double> variances(1024);
    for (size_t i = 0; i < variances.size(); i++) variances[i] = std::pow(static_cast<double>(i + 1), -1.2);
    for (const auto& [bytes, cosine] : {std::pair{16, .841}, {32, .883}, {64, .920}, {128, .952}, {256, .982}}) {
      REQUIRE(water_filling(variances, 8.0 * bytes, &w).ok());
      const double bound = std::sqrt(1 - w.distortion / total(variances));
      std::vector<int> whole;
      double error = 0;
      REQUIRE(whole_bits(variances, 8 * bytes, 8, &whole, &error).ok());
      double sum = 0;
      const int samples = 200;
      for (int sample = 0; sample < samples; sample++) {
        double xy = 0, xx = 0, yy = 0;
        for (size_t i = 0; i < variances.size(); i++) {
          const double z = static_cast<double>(numbers.normal());
          const double step = steps[static_cast<size_t>(whole[i])], half = std::exp2(whole[i] - 1);
          const double q = whole[i] == 0 ? 0 : (std::clamp(std::floor(z / step), -half, half - 1) + 0.5) * step;
          xy += variances[i] * z * q;
          xx += variances[i] * z * z;
          yy += variances[i] * q * q;
        }
        sum += xy / std::sqrt(xx * yy);
      }
      MESSAGE(bytes, " bytes: cosine ", sum / samples, " of at most ", bound, ", the table has ", cosine);
      CHECK(std::fabs(sum / samples - cosine) <= .016);
      CHECK(bound > cosine);
    }
    CHECK(water_filling({1, -1}, 3, &w).code == Code::invalid_argument);
    CHECK(water_filling({1, not_a_number}, 3, &w).code == Code::invalid_argument);
    CHECK(water_filling({1}, -1, &w).code == Code::invalid_argument);
    CHECK(water_filling({1}, infinity, &w).code == Code::invalid_argument);
    CHECK(water_filling({0, 0}, 1, &w).code == Code::invalid_argument);
    CHECK(water_filling({}, 0, &w).ok());
    CHECK(water_filling({0, 0}, 0, &w).ok());
    CHECK(w.distortion == 0);
    std::vector<int> whole;
    double error = 0;
    CHECK(whole_bits({1, 1, 1}, 4, 16, &whole, &error).ok());
    CHECK(whole == std::vector<int>{2, 1, 1});  // the lowest index among equals
    CHECK(whole_bits({1}, -1, 16, &whole, &error).code == Code::invalid_argument);
    CHECK(whole_bits({1}, 1, -1, &whole, &error).code == Code::invalid_argument);
  }
}
