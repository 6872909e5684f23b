// Thought steps against plain float64: every storage of the table, selection with ties and masks, noise, the gradient, and that results
// depend on nothing but their own input. The kernels of every table that this processor runs are compared as well.
#include "kernels/thought.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>

#include "core/thread_pool.h"
#include "kernels/philox.h"
#include "kernels/table.h"
#include "kernels_support.h"

using namespace latentwire;
using latentwire::testing::infinity;
using latentwire::testing::not_a_number;
using latentwire::testing::Numbers;

namespace {

constexpr std::array formats = {RowFormat::f32,  RowFormat::f16,  RowFormat::bf16, RowFormat::q8_0,
                                RowFormat::q4_0, RowFormat::q4_K, RowFormat::q6_K};

double half(const uint8_t* p) { return static_cast<double>(f16_to_f32(static_cast<uint16_t>(p[0] | (p[1] << 8)))); }

// Column j of a row, straight from the description of the layout: one element at a time.
double element(RowFormat format, const uint8_t* row, int64_t j) {
  const uint8_t* block = row + j / row_unit_columns(format) * row_unit_bytes(format);
  const auto i = static_cast<int>(j % row_unit_columns(format));
  switch (format) {
    case RowFormat::f32: {
      float x;
      std::memcpy(&x, block, 4);
      return static_cast<double>(x);
    }
    case RowFormat::f16:
      return half(block);
    case RowFormat::bf16:
      return static_cast<double>(bf16_to_f32(static_cast<uint16_t>(block[0] | (block[1] << 8))));
    case RowFormat::q8_0:
      return half(block) * static_cast<int8_t>(block[2 + i]);
    case RowFormat::q4_0:
      return half(block) * ((i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4) - 8);
    case RowFormat::q4_K: {
      const uint8_t* scales = block + 4;
      const uint8_t* codes = block + 16;
      const int group = i / 32;
      int scale, minimum;
      if (group < 4) {
        scale = scales[group] & 63;
        minimum = scales[group + 4] & 63;
      } else {
        scale = (scales[group + 4] & 15) + ((scales[group - 4] >> 6) << 4);
        minimum = (scales[group + 4] >> 4) + ((scales[group] >> 6) << 4);
      }
      const int byte = codes[i / 64 * 32 + i % 32];
      return half(block) * scale * (i % 64 < 32 ? byte & 15 : byte >> 4) - half(block + 2) * minimum;
    }
    case RowFormat::q6_K:
      break;
  }
  const int within = i % 128;
  const int low_byte = block[i / 128 * 64 + within % 64];
  const int low = within < 64 ? low_byte & 15 : low_byte >> 4;
  const int high = (block[128 + i / 128 * 32 + within % 32] >> (within / 32 * 2)) & 3;
  return half(block + 208) * static_cast<int8_t>(block[192 + i / 16]) * (low + 16 * high - 32);
}

struct Table {
  std::vector<uint8_t> bytes;
  TokenTable table;

  Table(Numbers& numbers, RowFormat format, int64_t count, int64_t width, int64_t gap = 0) {
    const int64_t unit = row_unit_bytes(format);
    const int64_t used = width / row_unit_columns(format) * unit;
    const int64_t row_bytes = used + gap * (row_unit_columns(format) == 1 ? unit : 1);
    bytes.assign(static_cast<size_t>(count * row_bytes), 0xFF);  // gaps are NaN
    for (int64_t r = 0; r < count; r++) {
      uint8_t* row = bytes.data() + r * row_bytes;
      if (row_unit_columns(format) == 1) {
        std::vector<float> x = numbers.normals(width);
        const Dtype dtype = format == RowFormat::f32 ? Dtype::f32 : format == RowFormat::f16 ? Dtype::f16 : Dtype::bf16;
        const std::vector<uint8_t> stored = testing::stored(dtype, &x);
        std::copy(stored.begin(), stored.end(), row);
        continue;
      }
      for (int64_t i = 0; i < used; i++) row[i] = static_cast<uint8_t>(numbers.below(256));
      for (int64_t at = 0; at < used; at += unit) {
        const auto put = [&](int64_t where, float scale) {
          const uint16_t h = f32_to_f16(scale * numbers.normal());
          row[at + where] = static_cast<uint8_t>(h);
          row[at + where + 1] = static_cast<uint8_t>(h >> 8);
        };
        if (format == RowFormat::q8_0) put(0, 0.01F);
        if (format == RowFormat::q4_0) put(0, 0.1F);
        if (format == RowFormat::q4_K) {
          put(0, 0.002F);
          put(2, 0.01F);
        }
        if (format == RowFormat::q6_K) put(208, 0.0005F);
      }
    }
    table = {format, bytes.data(), count, width, gap == 0 ? 0 : row_bytes};
  }

  int64_t row_bytes() const { return static_cast<int64_t>(bytes.size()) / table.count; }
  double at(int64_t row, int64_t column) const { return element(table.format, bytes.data() + row * row_bytes(), column); }
  double row_norm(int64_t row) const {
    double square = 0;
    for (int64_t j = 0; j < table.width; j++) square += at(row, j) * at(row, j);
    return std::sqrt(square);
  }
};

struct Want {
  double entropy = 0, max_p = 0;
  int32_t argmax = 0;
  std::vector<double> p;       // of all
  std::vector<int32_t> ids;    // ascending
  std::vector<double> chosen;  // renormalised
};

// No step that was not described: sort everything.
Want reference(const ThoughtRecipe& r, const float* z, int64_t n) {
  Want want;
  std::vector<double> y(static_cast<size_t>(n));
  for (size_t i = 0; i < y.size(); i++) y[i] = static_cast<double>(z[i]);
  for (const int32_t id : r.masked) y[static_cast<size_t>(id)] = -std::numeric_limits<double>::infinity();
  std::vector<int32_t> order(y.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return y[static_cast<size_t>(a)] > y[static_cast<size_t>(b)]; });
  const double largest = y[static_cast<size_t>(order[0])];
  double sum = 0;
  for (const double v : y) sum += std::exp((v - largest) / static_cast<double>(r.temperature));
  for (const double v : y) want.p.push_back(std::exp((v - largest) / static_cast<double>(r.temperature)) / sum);
  for (const double p : want.p) want.entropy -= p > 0 ? p * std::log2(p) : 0;
  want.argmax = order[0];
  want.max_p = want.p[static_cast<size_t>(order[0])];
  double mass = 0;
  for (const int32_t id : order) {
    if (std::isinf(y[static_cast<size_t>(id)])) break;
    if (r.top_k != 0 && static_cast<int64_t>(want.ids.size()) == r.top_k) break;
    want.ids.push_back(id);
    mass += want.p[static_cast<size_t>(id)];
    if (r.top_p < 1 && mass >= static_cast<double>(r.top_p)) break;
  }
  std::sort(want.ids.begin(), want.ids.end());
  for (const int32_t id : want.ids) want.chosen.push_back(want.p[static_cast<size_t>(id)] / mass);
  return want;
}

struct Got {
  std::vector<float> e;
  ThoughtStats stats;
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Got step(const ThoughtRecipe& recipe, const TokenTable& table, const std::vector<float>& z, int32_t token = -1,
         const float* extra = nullptr, uint64_t seed = 0, uint64_t number = 0) {
  Got got;
  const auto room = static_cast<size_t>(recipe.top_k == 0 ? table.count : std::min(recipe.top_k, table.count));
  got.e.assign(static_cast<size_t>(table.width), not_a_number);
  got.ids.assign(room, -1);
  got.weights.assign(room, not_a_number);
  const ThoughtInput in{z.data(), token, extra, seed, number, got.e.data(), &got.stats, got.ids.data(), got.weights.data()};
  const Status status = thought_steps(recipe, table, {&in, 1});
  CAPTURE(status.message);
  REQUIRE(status.ok());
  got.ids.resize(static_cast<size_t>(got.stats.selected));
  got.weights.resize(static_cast<size_t>(got.stats.selected));
  return got;
}

Code code_of(const ThoughtRecipe& recipe, const TokenTable& table, std::span<const ThoughtInput> inputs) {
  return thought_steps(recipe, table, inputs).code;
}

// Logits of one of several kinds.
std::vector<float> logits(Numbers& numbers, int64_t n) {
  std::vector<float> z = numbers.normals(n, static_cast<float>(1 + numbers.below(6)));
  switch (numbers.below(6)) {
    case 0:  // ties
      for (float& x : z) x = std::round(x);
      break;
    case 1:
      std::sort(z.begin(), z.end(), std::greater<>());
      break;
    case 2:
      for (float& x : z) x = numbers.below(3) == 0 ? -infinity : x;
      z[static_cast<size_t>(numbers.below(n))] = 1;
      break;
    case 3:  // all the same, in both zeros
      for (float& x : z) x = numbers.below(2) == 0 ? 0.0F : -0.0F;
      break;
    default:
      break;
  }
  return z;
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("Philox gives the published words") {
    CHECK(philox({0, 0, 0, 0}, {0, 0}) == PhiloxWords{0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U});
    constexpr uint32_t all = 0xffffffffU;
    CHECK(philox({all, all, all, all}, {all, all}) == PhiloxWords{0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU});
    CHECK(philox({0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U}, {0xa4093822U, 0x299f31d0U}) ==
          PhiloxWords{0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U});
    CHECK(uniform_of(0, 0) > 0);
    CHECK(uniform_of(all, all) < 1);
  }

  TEST_CASE("thought: the passes over logits in every table") {
    Numbers numbers(11);
    for (const Kernels& kernels : all_kernels()) {
      const ThoughtKernels& k = kernels.thought;
      CAPTURE(isa_name(kernels.isa));
      for (int round = 0; round < 60; round++) {
        const int64_t n = 1 + numbers.below(round % 3 == 0 ? 3000 : 70);
        CAPTURE(n);
        std::vector<float> z = logits(numbers, n);
        z.push_back(not_a_number);  // beyond the row
        const auto blocks = static_cast<size_t>((n + logit_block - 1) / logit_block);
        std::vector<float> maxima(blocks + 1, 7.0F);
        REQUIRE(k.maxima(z.data(), n, maxima.data()));
        REQUIRE(maxima[blocks] == 7.0F);
        for (size_t b = 0; b < blocks; b++) {
          const auto first = z.begin() + static_cast<std::ptrdiff_t>(b) * logit_block;
          REQUIRE(maxima[b] == *std::max_element(first, std::min(first + logit_block, z.end() - 1)));
        }
        const float largest = *std::max_element(z.begin(), z.end() - 1);
        const float scale = std::array{1.44269504F, 0.01F, 30.0F}[static_cast<size_t>(round % 3)];
        double sum = 0, weighted = 0, want_sum = 0, want_weighted = 0, slack = 0;
        k.exp_sums(z.data(), n, maxima.data(), -infinity, largest, scale, &sum, &weighted);
        std::vector<float> powers(static_cast<size_t>(n) + 1, 7.0F);
        k.exponentials(z.data(), n, largest, scale, 0.25F, powers.data());
        REQUIRE(powers.back() == 7.0F);
        for (size_t i = 0; i < static_cast<size_t>(n); i++) {
          const double y = (static_cast<double>(z[i]) - static_cast<double>(largest)) * static_cast<double>(scale);
          const double q = std::exp2(y);
          want_sum += q;
          want_weighted += q > 0 ? q * y : 0;
          slack += q > 0 ? -q * y * (1e-6 - 2e-7 * y) : 0;
          if (std::isinf(z[i])) {
            REQUIRE(powers[i] == 0);
            continue;
          }
          REQUIRE(std::fabs(static_cast<double>(powers[i]) - 0.25 * q) <= 0.25 * q * (2e-7 + 2e-7 * std::fabs(y)) + 1e-38);
        }
        REQUIRE(sum == doctest::Approx(want_sum).epsilon(1e-6));
        REQUIRE(std::fabs(weighted - want_weighted) <= slack + 1e-30);
        const float bound = std::max(z[static_cast<size_t>(numbers.below(n))], std::numeric_limits<float>::lowest());
        std::vector<int32_t> ids(static_cast<size_t>(n) + 1, -1), want_ids;
        const int64_t found = k.collect(z.data(), n, maxima.data(), bound, 1000, ids.data());
        for (int64_t i = 0; i < n; i++) {
          if (z[static_cast<size_t>(i)] >= bound) want_ids.push_back(static_cast<int32_t>(1000 + i));
        }
        ids.resize(static_cast<size_t>(found));
        REQUIRE(ids == want_ids);
        for (const float bad : {not_a_number, infinity}) {
          const auto at = static_cast<size_t>(numbers.below(n));
          const float before = z[at];
          z[at] = bad;
          REQUIRE_FALSE(k.maxima(z.data(), n, maxima.data()));
          z[at] = before;
        }
      }
    }
  }

  TEST_CASE("thought: sums of rows of every storage in every table") {
    Numbers numbers(12);
    for (const Kernels& kernels : all_kernels()) {
      CAPTURE(isa_name(kernels.isa));
      for (int round = 0; round < 70; round++) {
        const RowFormat format = formats[static_cast<size_t>(round) % formats.size()];
        const int64_t width = row_unit_columns(format) * (1 + numbers.below(row_unit_columns(format) == 1 ? 90 : 5));
        const int64_t count = 1 + numbers.below(40);
        CAPTURE(row_format_name(format));
        CAPTURE(width);
        const Table t(numbers, format, count, width, numbers.below(3));
        const int64_t batch = 1 + numbers.below(4);
        const int64_t terms = numbers.below(30);
        std::vector<int32_t> ids;
        for (int64_t i = 0; i < terms; i++) ids.push_back(static_cast<int32_t>(numbers.below(count)));
        const bool consecutive = numbers.below(2) == 0;
        const int64_t used = consecutive ? std::min(terms, count) : terms;
        const std::vector<float> weights = numbers.normals(batch * (terms + 1));
        std::vector<float> out(static_cast<size_t>(batch * (width + 1)), 2.0F);
        kernels.thought.sum_rows({format, t.bytes.data(), t.row_bytes(), width, consecutive ? nullptr : ids.data(), count - used, used,
                                  weights.data(), terms + 1, batch, out.data(), width + 1});
        for (int64_t b = 0; b < batch; b++) {
          for (int64_t j = 0; j < width; j++) {
            double want = 2, size = 2;
            for (int64_t i = 0; i < used; i++) {
              const double product = static_cast<double>(weights[static_cast<size_t>(b * (terms + 1) + i)]) *
                                     t.at(consecutive ? count - used + i : ids[static_cast<size_t>(i)], j);
              want += product;
              size += std::fabs(product);
            }
            // the two terms of q4_K may cancel
            const double slack = format == RowFormat::q4_K ? 20 : 1;
            REQUIRE(std::fabs(static_cast<double>(out[static_cast<size_t>(b * (width + 1) + j)]) - want) <= 1e-6 * size * slack);
          }
          REQUIRE(out[static_cast<size_t>(b * (width + 1) + width)] == 2.0F);
        }
      }
    }
  }

  TEST_CASE("thought: any recipe against float64") {
    Numbers numbers(13);
    for (int round = 0; round < 200; round++) {
      const int64_t n = round % 10 == 0 ? 1 + numbers.below(40000) : round % 3 == 0 ? 1 + numbers.below(20) : 1 + numbers.below(3000);
      const RowFormat format = formats[static_cast<size_t>(numbers.below(7))];
      const int64_t width = row_unit_columns(format) * (1 + numbers.below(row_unit_columns(format) == 1 ? 40 : 2));
      const Table t(numbers, format, n, n > 5000 ? row_unit_columns(format) : width, numbers.below(2));
      const std::vector<float> z = logits(numbers, n);
      ThoughtRecipe r;
      r.token = std::array{0.0F, 1.0F, -0.5F}[static_cast<size_t>(numbers.below(3))];
      r.mix = std::array{0.0F, 1.0F, -1.0F, 0.7F}[static_cast<size_t>(numbers.below(4))];
      r.extra = std::array{0.0F, 0.6F}[static_cast<size_t>(numbers.below(2))];
      r.temperature = std::array{1.0F, 0.6F, 1e-3F, 1e4F, 1e-30F, 1e30F}[static_cast<size_t>(numbers.below(6))];
      r.top_k = std::array<int64_t, 6>{0, 1, 5, n, n + 7, 1 + numbers.below(n)}[static_cast<size_t>(numbers.below(6))];
      r.top_p = std::array{1.0F, 0.95F, 0.5F, 1e-6F}[static_cast<size_t>(numbers.below(4))];
      r.unit_mix = numbers.below(3) == 0;
      if (numbers.below(3) == 0) r.norm = 2.5F;
      std::vector<int32_t> masked;
      if (numbers.below(3) == 0) {
        for (int32_t i = 0; i < n; i++) {
          if (numbers.below(5) == 0) masked.push_back(i);
        }
      }
      const bool any = [&] {
        for (int32_t i = 0; i < n; i++) {
          if (!std::isinf(z[static_cast<size_t>(i)]) && !std::binary_search(masked.begin(), masked.end(), i)) return true;
        }
        return false;
      }();
      if (!any) masked.clear();
      r.masked = masked;
      CAPTURE(round);
      CAPTURE(n);
      CAPTURE(r.top_k);
      CAPTURE(r.top_p);
      CAPTURE(r.temperature);
      CAPTURE(row_format_name(format));
      const auto token = static_cast<int32_t>(numbers.below(n));
      const std::vector<float> extra = numbers.normals(t.table.width);
      const Want want = reference(r, z.data(), n);
      const Got got = step(r, t.table, z, token, extra.data());
      REQUIRE(std::fabs(got.stats.entropy_bits - want.entropy) <= 2e-5);
      REQUIRE(got.stats.n_eff == doctest::Approx(std::exp2(want.entropy)).epsilon(2e-5));
      REQUIRE(got.stats.max_p == doctest::Approx(want.max_p).epsilon(2e-6));
      REQUIRE(got.stats.argmax == want.argmax);
      // A nucleus may end a token earlier or later where the sums agree to the last digits.
      if (r.top_p < 1 && got.ids != want.ids) {
        const auto a = static_cast<int64_t>(got.ids.size()), b = static_cast<int64_t>(want.ids.size());
        double mass = 0;
        for (const int32_t id : got.ids) mass += want.p[static_cast<size_t>(id)];
        REQUIRE(std::fabs(mass - static_cast<double>(r.top_p)) <= 2e-6 + std::fabs(static_cast<double>(a - b)) * want.max_p);
        REQUIRE(std::abs(a - b) <= 1 + n / 10000);
        continue;
      }
      REQUIRE(got.ids == want.ids);
      double square = 0;
      for (size_t i = 0; i < got.ids.size(); i++) {
        REQUIRE(std::fabs(static_cast<double>(got.weights[i]) - want.chosen[i]) <=
                (3e-6 - 2e-7 * std::log(want.chosen[i] + 1e-300)) * want.chosen[i] + 1e-37);
        square += want.chosen[i] * want.chosen[i];
      }
      const double factor = static_cast<double>(r.mix) / (r.unit_mix ? std::sqrt(square) : 1);
      std::vector<double> e(static_cast<size_t>(t.table.width)), size(e.size());
      const auto width_used = static_cast<size_t>(t.table.width);
      for (size_t j = 0; j < width_used; j++) {
        const auto add = [&](double v) {
          e[j] += v;
          size[j] += std::fabs(v);
        };
        if (r.token != 0) add(static_cast<double>(r.token) * t.at(token, static_cast<int64_t>(j)));
        if (r.extra != 0) add(static_cast<double>(r.extra) * static_cast<double>(extra[j]));
        for (size_t i = 0; i < want.ids.size() && r.mix != 0; i++)
          add(factor * want.chosen[i] * t.at(want.ids[i], static_cast<int64_t>(j)));
      }
      double length = 0, bound = 0;
      for (size_t j = 0; j < width_used; j++) {
        length += e[j] * e[j];
        bound = std::max(bound, size[j]);
      }
      length = std::sqrt(length);
      for (size_t j = 0; j < width_used; j++) {
        const double scale = r.norm && length > 0 ? static_cast<double>(*r.norm) / length : 1;
        if (r.norm && length < 1e-3 * bound) continue;  // what is left of a difference has no direction
        REQUIRE(std::fabs(static_cast<double>(got.e[j]) - scale * e[j]) <= 3e-5 * scale * bound + 1e-30);
      }
    }
  }

  TEST_CASE("thought: a large vocabulary, where thresholds are guessed") {
    Numbers numbers(14);
    for (int round = 0; round < 8; round++) {
      const int64_t n = 120001;
      const Table t(numbers, RowFormat::f16, n, 1);
      std::vector<float> z = numbers.normals(n, 3);
      if (round % 4 == 1) std::sort(z.begin(), z.end());
      if (round % 4 == 2) {
        for (float& x : z) x = std::round(x);
      }
      for (const int64_t k : {int64_t{64}, int64_t{200}, int64_t{3000}, int64_t{50000}, int64_t{0}}) {
        ThoughtRecipe r{0, 1};
        r.top_k = k;
        r.top_p = k == 0 ? std::array{0.9F, 0.3F}[static_cast<size_t>(round % 2)] : 1.0F;
        r.temperature = round < 4 ? 1.0F : 20.0F;
        CAPTURE(round);
        CAPTURE(k);
        const Want want = reference(r, z.data(), n);
        const Got got = step(r, t.table, z);
        if (k != 0) REQUIRE(got.ids == want.ids);
        REQUIRE(std::fabs(static_cast<double>(got.ids.size()) - static_cast<double>(want.ids.size())) <= (k == 0 ? 3 : 0));
        REQUIRE(std::fabs(got.stats.entropy_bits - want.entropy) <= 2e-5);
      }
    }
  }

  TEST_CASE("thought: the identities of the presets") {
    Numbers numbers(15);
    const std::vector<float> z = numbers.normals(700, 2);
    const std::vector<float> h = numbers.normals(512);
    for (const RowFormat format : formats) {
      CAPTURE(row_format_name(format));
      const Table t(numbers, format, 700, 512);
      const ThoughtKernels& k = kernels().thought;
      const auto row = [&](int64_t i) {
        std::vector<float> e(512);
        const float one = 1;
        k.sum_rows({format, t.bytes.data(), t.row_bytes(), 512, nullptr, i, 1, &one, 1, 1, e.data(), 512});
        return e;
      };
      // token: E[y] itself
      CHECK(step({}, t.table, z, 13).e == row(13));
      // the mix of the one most likely token is the same as that token
      ThoughtRecipe one{0, 1};
      one.top_k = 1;
      const Got got = step(one, t.table, z);
      CHECK(got.e == row(got.stats.argmax));
      CHECK(got.weights == std::vector<float>{1});
      one.unit_mix = true;
      CHECK(step(one, t.table, z).e == got.e);
      one.noise = ThoughtNoise::gumbel;
      CHECK(step(one, t.table, z).e == got.e);
      // so is a mix at a temperature of almost 0
      ThoughtRecipe cold{0, 1};
      cold.temperature = 1e-6F;
      CHECK(step(cold, t.table, z).e == got.e);
      // hidden: A(h) itself
      CHECK(step({0, 0, 1}, t.table, z, -1, h.data()).e == h);
      // the token counts twice when it is in the mix as well
      ThoughtRecipe both{1, 1};
      both.top_k = 1;
      const std::vector<float> twice = step(both, t.table, z, got.stats.argmax).e;
      for (size_t j = 0; j < twice.size(); j++) CHECK(twice[j] == doctest::Approx(2.0 * static_cast<double>(got.e[j])).epsilon(1e-6));
    }
    // length
    const Table t(numbers, RowFormat::f32, 700, 512);
    ThoughtRecipe r{0, 1};
    r.norm = 3;
    const auto length = [](const std::vector<float>& e) {
      double square = 0;
      for (const float x : e) square += static_cast<double>(x) * static_cast<double>(x);
      return std::sqrt(square);
    };
    CHECK(length(step(r, t.table, z).e) == doctest::Approx(3).epsilon(1e-6));
    std::vector<float> tiny(512, 1e-30F), huge(512, 1e30F), none(512, 0.0F);
    r.mix = 0;
    r.extra = 1;
    CHECK(length(step(r, t.table, z, -1, tiny.data()).e) == doctest::Approx(3).epsilon(1e-6));
    CHECK(length(step(r, t.table, z, -1, huge.data()).e) == doctest::Approx(3).epsilon(1e-6));
    CHECK(length(step(r, t.table, z, -1, none.data()).e) == 0);
  }

  TEST_CASE("thought: the gradient of log p by the hidden state") {
    Numbers numbers(16);
    const int64_t n = 300, d = 32;
    const Table w(numbers, RowFormat::f32, n, d);
    for (const float temperature : {1.0F, 0.7F}) {
      std::vector<double> h(static_cast<size_t>(d));
      for (double& x : h) x = 0.1 * static_cast<double>(numbers.normal());
      const int32_t token = static_cast<int32_t>(numbers.below(n));
      const auto log_p = [&](const std::vector<double>& at) {
        std::vector<double> z(static_cast<size_t>(n));
        for (int64_t v = 0; v < n; v++) {
          for (int64_t j = 0; j < d; j++) z[static_cast<size_t>(v)] += w.at(v, j) * at[static_cast<size_t>(j)];
          z[static_cast<size_t>(v)] /= static_cast<double>(temperature);
        }
        double sum = 0;
        for (const double v : z) sum += std::exp(v);
        return z[static_cast<size_t>(token)] - std::log(sum);
      };
      std::vector<float> z(static_cast<size_t>(n));
      for (int64_t v = 0; v < n; v++) {
        double dot = 0;
        for (int64_t j = 0; j < d; j++) dot += w.at(v, j) * h[static_cast<size_t>(j)];
        z[static_cast<size_t>(v)] = static_cast<float>(dot);
      }
      ThoughtRecipe r{1, -1};
      r.temperature = temperature;
      const std::vector<float> gradient = step(r, w.table, z, token).e;
      for (size_t j = 0; j < static_cast<size_t>(d); j++) {
        std::vector<double> up = h, down = h;
        up[j] += 1e-5;
        down[j] -= 1e-5;
        const double slope = (log_p(up) - log_p(down)) / 2e-5 * static_cast<double>(temperature);
        CHECK(std::fabs(static_cast<double>(gradient[j]) - slope) <= 2e-5);
      }
    }
    // a token of p nearly 1: (1 - p) W_y must not drown in W_y
    std::vector<float> z(static_cast<size_t>(n), -18.0F);
    z[5] = 0;
    const Got got = step({1, -1}, w.table, z, 5);
    const Want want = reference({1, -1}, z.data(), n);
    for (int64_t j = 0; j < d; j++) {
      double slope = 0, size = 0;
      for (int64_t v = 0; v < n; v++) {
        double p = want.p[static_cast<size_t>(v)];
        if (v == 5) {
          p = 0;
          for (int64_t u = 0; u < n; u++) p -= u == 5 ? 0 : want.p[static_cast<size_t>(u)];
        }
        slope -= p * w.at(v, j);
        size += std::fabs(p * w.at(v, j));
      }
      CHECK(std::fabs(static_cast<double>(got.e[static_cast<size_t>(j)]) - slope) <= 4e-6 * size);
    }
  }

  TEST_CASE("thought: gumbel noise picks tokens by their probability") {
    Numbers numbers(17);
    const int64_t n = 9;
    const Table t(numbers, RowFormat::f32, n, 4);
    const std::vector<float> z = {1, 0, -1, 2, 0.5F, -infinity, 1.5F, -2, 0};
    ThoughtRecipe r{0, 1};
    r.top_k = 6;
    r.noise = ThoughtNoise::gumbel;
    r.noise_amount = 0.05F;
    const Want want = reference(r, z.data(), n);
    constexpr int draws = 40000;
    std::vector<double> hits(static_cast<size_t>(n));
    for (int i = 0; i < draws; i++) {
      const Got got = step(r, t.table, z, -1, nullptr, 99, static_cast<uint64_t>(i));
      REQUIRE(got.ids == want.ids);
      double sum = 0;
      for (const float w : got.weights) sum += static_cast<double>(w);
      REQUIRE(sum == doctest::Approx(1).epsilon(1e-6));
      hits[static_cast<size_t>(
          got.ids[static_cast<size_t>(std::max_element(got.weights.begin(), got.weights.end()) - got.weights.begin())])]++;
    }
    for (size_t i = 0; i < want.ids.size(); i++) {
      const double p = want.chosen[i];
      CHECK(std::fabs(hits[static_cast<size_t>(want.ids[i])] / draws - p) <= 4.5 * std::sqrt(p * (1 - p) / draws));
    }
    // other seeds and steps are other draws, the same ones are the same
    r.noise_amount = 1;
    const std::vector<float> first = step(r, t.table, z, -1, nullptr, 1, 2).weights;
    CHECK(step(r, t.table, z, -1, nullptr, 1, 2).weights == first);
    CHECK(step(r, t.table, z, -1, nullptr, 2, 2).weights != first);
    CHECK(step(r, t.table, z, -1, nullptr, 1, 3).weights != first);
    CHECK(step(r, t.table, z, -1, nullptr, 1, 2 + (uint64_t{1} << 32)).weights != first);
    CHECK(step(r, t.table, z, -1, nullptr, 1 + (uint64_t{1} << 32), 2).weights != first);
    // as published for tau: softmax((ln p + g) / tau) of the drawn g
    const auto uniform = [&](int32_t id) {
      const PhiloxWords words = philox({static_cast<uint32_t>(id), 2, 0, 0}, {1, 0});
      return uniform_of(words[0], words[1]);
    };
    double sum = 0;
    std::vector<double> x;
    for (size_t i = 0; i < want.ids.size(); i++) {
      x.push_back(std::exp(std::log(want.chosen[i]) - std::log(-std::log(uniform(want.ids[i])))));
      sum += x.back();
    }
    for (size_t i = 0; i < x.size(); i++) CHECK(static_cast<double>(first[i]) == doctest::Approx(x[i] / sum).epsilon(1e-6));
  }

  TEST_CASE("thought: dirichlet noise has the mean and the variance of theory") {
    Numbers numbers(18);
    const Table t(numbers, RowFormat::f32, 5, 4);
    const std::vector<float> z = {1, 0, -1, -4, -infinity};
    for (const float amount : {0.05F, 1.0F, 30.0F}) {
      CAPTURE(amount);
      ThoughtRecipe r{0, 1};
      r.noise = ThoughtNoise::dirichlet;
      r.noise_amount = amount;
      const Want want = reference(r, z.data(), 5);
      constexpr int draws = 40000;
      std::vector<double> mean(4), square(4);
      for (int i = 0; i < draws; i++) {
        const Got got = step(r, t.table, z, -1, nullptr, 7, static_cast<uint64_t>(i));
        REQUIRE(got.ids == want.ids);
        for (size_t j = 0; j < 4; j++) {
          mean[j] += static_cast<double>(got.weights[j]) / draws;
          square[j] += static_cast<double>(got.weights[j]) * static_cast<double>(got.weights[j]) / draws;
        }
      }
      for (size_t j = 0; j < 4; j++) {
        const double p = want.chosen[j];
        const double variance = p * (1 - p) / (static_cast<double>(amount) + 1);
        CHECK(std::fabs(mean[j] - p) <= 4.5 * std::sqrt(variance / draws));
        CHECK(square[j] - mean[j] * mean[j] == doctest::Approx(variance).epsilon(j == 3 ? 0.15 : 0.05));
      }
    }
  }

  TEST_CASE("thought: an input's result depends on nothing else") {
    Numbers numbers(19);
    const int64_t n = 5003, d = 70, count = 37;
    const Table t(numbers, RowFormat::f16, n, d);
    const std::vector<float> z = numbers.normals(n * count, 2);
    const std::vector<float> extra = numbers.normals(d);
    const std::vector<int32_t> masked = {0, 3, 511, 512, 4000, 5002};
    for (int round = 0; round < 6; round++) {
      ThoughtRecipe r{0.3F, 0.9F, 0.1F};
      r.top_k = round % 3 == 0 ? 0 : round % 3 == 1 ? 40 : 2000;
      r.noise = std::array{ThoughtNoise::none, ThoughtNoise::gumbel, ThoughtNoise::dirichlet}[static_cast<size_t>(round / 2)];
      r.masked = masked;
      const auto run = [&](int64_t split) {
        std::vector<float> out(static_cast<size_t>(count * d));
        std::vector<ThoughtStats> stats(static_cast<size_t>(count));
        std::vector<ThoughtInput> inputs;
        for (int64_t i = 0; i < count; i++)
          inputs.push_back({z.data() + i * n, static_cast<int32_t>(i * 7), extra.data(), 5, static_cast<uint64_t>(i), out.data() + i * d,
                            &stats[static_cast<size_t>(i)]});
        for (int64_t i = 0; i < count; i += split) {
          const auto part = std::span(inputs).subspan(static_cast<size_t>(i), static_cast<size_t>(std::min(split, count - i)));
          REQUIRE(thought_steps(r, t.table, part).ok());
        }
        for (const ThoughtStats& s : stats) {
          out.push_back(static_cast<float>(s.entropy_bits));
          out.push_back(static_cast<float>(s.selected));
        }
        return out;
      };
      const std::vector<float> whole = run(count);
      for (const int64_t split : {1, 2, 16, 17}) CHECK(run(split) == whole);
    }
  }

  TEST_CASE("thought: statistics alone need no table") {
    Numbers numbers(20);
    const std::vector<float> z = numbers.normals(1000);
    ThoughtStats stats;
    ThoughtInput in;
    in.logits = z.data();
    in.stats = &stats;
    ThoughtRecipe r;
    REQUIRE(thought_steps(r, {RowFormat::f32, nullptr, 1000}, {&in, 1}).ok());
    CHECK(stats.entropy_bits == doctest::Approx(reference(r, z.data(), 1000).entropy).epsilon(1e-6));
    CHECK(stats.selected == 0);
    // a uniform distribution
    const std::vector<float> flat(1024, -3.0F);
    in.logits = flat.data();
    REQUIRE(thought_steps(r, {RowFormat::f32, nullptr, 1024}, {&in, 1}).ok());
    CHECK(stats.entropy_bits == doctest::Approx(10));
    CHECK(stats.n_eff == doctest::Approx(1024));
    CHECK(stats.argmax == 0);
    // and inputs with and without an output in one batch
    const Table t(numbers, RowFormat::f32, 1000, 3);
    std::vector<float> out(6), alone(3);
    std::vector<ThoughtStats> all(3);
    std::array<ThoughtInput, 3> inputs;
    for (size_t i = 0; i < 3; i++) {
      inputs[i].logits = z.data();
      inputs[i].stats = &all[i];
    }
    inputs[0].out = out.data();
    inputs[2].out = out.data() + 3;
    REQUIRE(thought_steps({0, 1}, t.table, inputs).ok());
    CHECK(std::equal(out.begin(), out.begin() + 3, out.begin() + 3));
    CHECK(all[0].selected == 1000);
    CHECK(all[1].entropy_bits == all[2].entropy_bits);
  }

  TEST_CASE("thought: what cannot be is refused") {
    Numbers numbers(21);
    const Table t(numbers, RowFormat::f32, 40, 8);
    std::vector<float> z = numbers.normals(40);
    std::vector<float> out(8), extra(8, 1.0F);
    ThoughtInput in;
    in.logits = z.data();
    in.token = 3;
    in.extra = extra.data();
    in.out = out.data();
    const ThoughtRecipe good{1, 1, 1};
    const auto with = [&](auto change) {
      ThoughtRecipe r = good;
      change(r);
      return code_of(r, t.table, {&in, 1});
    };
    CHECK(with([](ThoughtRecipe&) {}) == Code::ok);
    for (const float bad : {not_a_number, infinity, 0.0F, -1.0F}) {
      CHECK(with([&](ThoughtRecipe& r) { r.temperature = bad; }) == Code::invalid_argument);
      CHECK(with([&](ThoughtRecipe& r) { r.top_p = bad; }) == Code::invalid_argument);
      CHECK(with([&](ThoughtRecipe& r) { r.noise = ThoughtNoise::gumbel, r.noise_amount = bad; }) == Code::invalid_argument);
      if (bad != 0) CHECK(with([&](ThoughtRecipe& r) { r.norm = bad; }) == Code::invalid_argument);
      if (std::isfinite(bad)) continue;
      CHECK(with([&](ThoughtRecipe& r) { r.token = bad; }) == Code::invalid_argument);
      CHECK(with([&](ThoughtRecipe& r) { r.mix = bad; }) == Code::invalid_argument);
      CHECK(with([&](ThoughtRecipe& r) { r.extra = bad; }) == Code::invalid_argument);
    }
    CHECK(with([](ThoughtRecipe& r) { r.top_k = -1; }) == Code::invalid_argument);
    CHECK(with([](ThoughtRecipe& r) { r.top_p = 1.5F; }) == Code::invalid_argument);
    for (const std::vector<int32_t>& masked : {std::vector<int32_t>{-1}, {40}, {5, 4}})
      CHECK(with([&](ThoughtRecipe& r) { r.masked = masked; }) == Code::invalid_argument);
    std::vector<int32_t> everything(40);
    std::iota(everything.begin(), everything.end(), 0);
    CHECK(with([&](ThoughtRecipe& r) { r.masked = everything; }) == Code::invalid_argument);

    const auto input = [&](auto change) {
      ThoughtInput other = in;
      change(other);
      const std::array both = {in, other};
      return code_of(good, t.table, both);
    };
    CHECK(input([](ThoughtInput& i) { i.logits = nullptr; }) == Code::invalid_argument);
    CHECK(input([](ThoughtInput& i) { i.token = -1; }) == Code::invalid_argument);
    CHECK(input([](ThoughtInput& i) { i.token = 40; }) == Code::invalid_argument);
    CHECK(input([](ThoughtInput& i) { i.extra = nullptr; }) == Code::invalid_argument);
    for (const int64_t k : {0, 4}) {
      const auto logit = [&](float value, size_t from, size_t to) {
        std::vector<float> changed = z;
        std::fill(changed.begin() + static_cast<std::ptrdiff_t>(from), changed.begin() + static_cast<std::ptrdiff_t>(to), value);
        ThoughtInput other = in;
        other.logits = changed.data();
        ThoughtRecipe r = good;
        r.top_k = k;
        const std::array both = {in, other};
        const Status status = thought_steps(r, t.table, both);
        if (!status.ok()) CHECK(status.message.find("input 1") != std::string::npos);
        return status.code;
      };
      CHECK(logit(not_a_number, 39, 40) == Code::non_finite);
      CHECK(logit(not_a_number, 0, 40) == Code::non_finite);
      CHECK(logit(infinity, 20, 21) == Code::non_finite);
      CHECK(logit(-infinity, 0, 40) == Code::invalid_argument);
      CHECK(logit(-infinity, 1, 40) == Code::ok);
    }
    extra[2] = not_a_number;
    CHECK(with([](ThoughtRecipe&) {}) == Code::non_finite);
    extra[2] = 1;

    const auto table = [&](auto change) {
      TokenTable other = t.table;
      change(other);
      return code_of(good, other, {&in, 1});
    };
    CHECK(table([](TokenTable& x) { x.data = nullptr; }) == Code::invalid_argument);
    CHECK(table([](TokenTable& x) { x.count = 0; }) == Code::invalid_argument);
    CHECK(table([](TokenTable& x) { x.count = int64_t{1} << 31; }) == Code::invalid_argument);
    CHECK(table([](TokenTable& x) { x.width = 0; }) == Code::invalid_argument);
    CHECK(table([](TokenTable& x) { x.width = -8; }) == Code::invalid_argument);
    CHECK(table([](TokenTable& x) { x.row_bytes = 31; }) == Code::invalid_argument);
    CHECK(table([](TokenTable& x) { x.row_bytes = 33; }) == Code::invalid_argument);
    CHECK(table([](TokenTable& x) { x.data = static_cast<const char*>(x.data) + 1; }) == Code::invalid_argument);
    CHECK(table([](TokenTable& x) { x.format = RowFormat::q8_0; }) == Code::invalid_argument);
    const std::atomic<bool> cancel{true};
    CHECK(thought_steps(good, t.table, {&in, 1}, &cancel).code == Code::cancelled);
    CHECK(code_of(good, t.table, {}) == Code::ok);
  }

  TEST_CASE("thought: rows of a table as f32, by id and one after the other") {
    Numbers numbers(31);
    for (int round = 0; round < 70; round++) {
      const RowFormat format = formats[static_cast<size_t>(round) % formats.size()];
      const int64_t width = row_unit_columns(format) * (1 + numbers.below(row_unit_columns(format) == 1 ? 70 : 3));
      const int64_t count = 1 + numbers.below(30);
      CAPTURE(row_format_name(format));
      const Table t(numbers, format, count, width, numbers.below(3));
      REQUIRE(check_readable(t.table).ok());
      const int64_t first = numbers.below(count);
      std::vector<int32_t> ids;
      for (int64_t i = numbers.below(9); i > 0; i--) ids.push_back(static_cast<int32_t>(numbers.below(count)));
      for (const bool by_id : {false, true}) {
        const int64_t rows = by_id ? static_cast<int64_t>(ids.size()) : count - first;
        std::vector<float> out(static_cast<size_t>(rows * width + 1), 7.0F);
        read_rows(t.table, by_id ? ids.data() : nullptr, first, rows, out.data());
        CHECK(out.back() == 7.0F);
        for (int64_t i = 0; i < rows; i++) {
          const int64_t row = by_id ? ids[static_cast<size_t>(i)] : first + i;
          for (int64_t j = 0; j < width; j++)
            REQUIRE(out[static_cast<size_t>(i * width + j)] == doctest::Approx(t.at(row, j)).epsilon(1e-6));
        }
      }
    }
  }
}
