// Row statistics and the copy that is hashed on the way, in every table that this processor runs, against plain float64 and xxHash.
#define XXH_INLINE_ALL
#include <doctest/doctest.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/stats.h"
#include "kernels/table.h"
#include "kernels_support.h"

using namespace latentwire;
using latentwire::testing::dtypes;
using latentwire::testing::infinity;
using latentwire::testing::not_a_number;
using latentwire::testing::Numbers;
using latentwire::testing::stored;

TEST_SUITE("kernels") {
  TEST_CASE("stats: finite scan of every length and dtype, in every table") {
    Numbers numbers(41);
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      for (const Dtype dtype : dtypes) {
        const auto finite = table.stats.finite[static_cast<size_t>(dtype)];
        const size_t size = dtype_size(dtype);
        for (int64_t n = 0; n < 9000; n += n < 150 ? 1 : 1 + numbers.below(900)) {
          CAPTURE(n);
          std::vector<float> x = numbers.normals(n + 1);
          x.back() = not_a_number;  // beyond the row
          std::vector<uint8_t> bytes = stored(dtype, &x);
          REQUIRE(finite(bytes.data(), n));
          for (const float bad : {not_a_number, -not_a_number, infinity, -infinity}) {
            if (n == 0) continue;
            const auto at = static_cast<size_t>(numbers.below(n));
            std::vector<float> y = x;
            y[at] = bad;
            REQUIRE_FALSE(finite(stored(dtype, &y).data(), n));
          }
          // the largest numbers are finite
          if (n > 0) {
            const uint32_t largest = dtype == Dtype::f32 ? 0xFF7F'FFFFU : dtype == Dtype::f16 ? 0xFBFFU : 0xFF7FU;
            std::memcpy(bytes.data() + size * static_cast<size_t>(numbers.below(n)), &largest, size);
            REQUIRE(finite(bytes.data(), n));
          }
        }
      }
    }
  }

  TEST_CASE("stats: dots, blends and entropy of every length against float64, in every table") {
    Numbers numbers(42);
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      for (int64_t n = 0; n < 3000; n += n < 100 ? 1 : 1 + numbers.below(400)) {
        CAPTURE(n);
        for (const Dtype dtype : dtypes) {
          std::vector<float> x = numbers.normals(n + 1), a = numbers.normals(n + 1), b = numbers.normals(n + 1);
          x.back() = a.back() = b.back() = not_a_number;
          const auto xs = stored(dtype, &x), as = stored(dtype, &a), bs = stored(dtype, &b);
          double want[3] = {}, size[3] = {};
          for (size_t i = 0; i < static_cast<size_t>(n); i++) {
            const std::array<double, 3> terms = {static_cast<double>(x[i]) * x[i], static_cast<double>(x[i]) * a[i],
                                                 static_cast<double>(x[i]) * b[i]};
            for (size_t k = 0; k < 3; k++) {
              want[k] += terms[k];
              size[k] += std::fabs(terms[k]);
            }
          }
          float got[3];
          table.stats.dots[static_cast<size_t>(dtype)](xs.data(), as.data(), bs.data(), n, got);
          for (size_t k = 0; k < 3; k++) REQUIRE(std::fabs(got[k] - want[k]) <= 1e-5 * size[k]);
          std::vector<float> mean = numbers.normals(n + 1), before = mean;
          table.stats.blend[static_cast<size_t>(dtype)](xs.data(), n, 0.3F, mean.data());
          for (size_t i = 0; i < static_cast<size_t>(n); i++)
            REQUIRE(std::fabs(mean[i] - (before[i] + (static_cast<double>(x[i]) - before[i]) * 0.3F)) <= 1e-6);
          REQUIRE(mean.back() == before.back());
        }
        std::vector<float> p = numbers.normals(n + 1);
        double sum = 0, want = 0;
        for (float& v : p) sum += v = std::exp(6 * v);
        for (size_t i = 0; i < static_cast<size_t>(n); i++) {
          p[i] = static_cast<float>(p[i] / sum);
          if (i % 7 == 3) p[i] = i % 2 == 0 ? 0.0F : 1e-42F;
          if (p[i] > 0) want -= static_cast<double>(p[i]) * std::log2(static_cast<double>(p[i]));
        }
        p.back() = not_a_number;
        REQUIRE(std::fabs(table.stats.entropy(p.data(), n) - want) <= 3e-6 * (want + 0.1));
        for (const float bad : {not_a_number, infinity, -infinity, -1e-3F, -1e-42F}) {
          if (n == 0) continue;
          std::vector<float> q = p;
          q[static_cast<size_t>(numbers.below(n))] = bad;
          REQUIRE(std::isnan(table.stats.entropy(q.data(), n)));
        }
      }
      // known values: 10 bits, 1 bit, 0 bits
      std::vector<float> p(1024, 1.0F / 1024);
      CHECK(table.stats.entropy(p.data(), 1024) == doctest::Approx(10).epsilon(1e-6));
      std::fill(p.begin(), p.end(), 0.0F);
      p[5] = p[1000] = 0.5F;
      CHECK(table.stats.entropy(p.data(), 1024) == 1.0F);
      p[5] = 1;
      CHECK(table.stats.entropy(p.data(), 6) == 0.0F);
    }
  }

  TEST_CASE("stats: copies past the caches, whatever the addresses, in every table") {
    Numbers numbers(43);
    std::vector<uint8_t> from(5000);
    for (uint8_t& b : from) b = static_cast<uint8_t>(numbers.below(256));
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      for (int round = 0; round < 400; round++) {
        const auto n = static_cast<size_t>(round < 300 ? round : numbers.below(4800));
        const auto a = static_cast<size_t>(numbers.below(100)), b = static_cast<size_t>(numbers.below(100));
        std::vector<uint8_t> to(n + 200, 0xA5);
        table.stats.stream_copy(from.data() + a, to.data() + b, static_cast<int64_t>(n));
        table.stats.fence();
        REQUIRE(std::equal(to.begin() + static_cast<int64_t>(b), to.begin() + static_cast<int64_t>(b + n),
                           from.begin() + static_cast<int64_t>(a)));
        REQUIRE(std::count(to.begin(), to.begin() + static_cast<int64_t>(b), 0xA5) == static_cast<int64_t>(b));
        REQUIRE(std::all_of(to.begin() + static_cast<int64_t>(b + n), to.end(), [](uint8_t byte) { return byte == 0xA5; }));
      }
    }
  }

  TEST_CASE("stats: rows with gaps: norms, drift, running mean, entropy") {
    Numbers numbers(44);
    for (int round = 0; round < 60; round++) {
      const Dtype dtype = dtypes[static_cast<size_t>(round) % 3];
      const int64_t rows = numbers.below(6), columns = numbers.below(150), gap = numbers.below(3);
      std::vector<float> x = numbers.normals(rows * columns);
      stored(dtype, &x);
      std::vector<float> spaced = testing::with_gaps(x, rows, columns, gap, not_a_number);
      const auto bytes = stored(dtype, &spaced);
      const Rows all{dtype, bytes.data(), rows, columns + gap, 0};
      CHECK(first_non_finite_row(all, columns) == rows);
      const auto n = static_cast<size_t>(rows);
      std::vector<float> norms(n), squares(n), previous(n), first(n);
      REQUIRE(row_norms(all, columns, norms.data()).ok());
      REQUIRE(drift(all, columns, {nullptr, nullptr, squares.data(), previous.data(), first.data()}).ok());
      std::vector<float> mean(static_cast<size_t>(columns) + 1, not_a_number);
      int64_t count = 0;
      REQUIRE(add_to_mean(all, columns, mean.data(), &count).ok());
      CHECK(count == rows);
      CHECK(std::isnan(mean.back()));
      const auto dot = [&](int64_t i, int64_t j) {
        double sum = 0;
        for (int64_t k = 0; k < columns; k++)
          sum += static_cast<double>(x[static_cast<size_t>(i * columns + k)]) * x[static_cast<size_t>(j * columns + k)];
        return sum;
      };
      for (int64_t i = 0; i < rows; i++) {
        const auto at = static_cast<size_t>(i);
        REQUIRE(norms[at] == doctest::Approx(std::sqrt(dot(i, i))).epsilon(1e-6));
        REQUIRE(squares[at] == doctest::Approx(dot(i, i)).epsilon(1e-6));
        REQUIRE(std::fabs(previous[at] - (i == 0 ? 0 : dot(i, i - 1))) <= 1e-4);
        REQUIRE(std::fabs(first[at] - dot(i, 0)) <= 1e-4);
      }
      for (int64_t k = 0; k < columns && rows > 0; k++) {
        double sum = 0;
        for (int64_t i = 0; i < rows; i++) sum += x[static_cast<size_t>(i * columns + k)];
        REQUIRE(std::fabs(mean[static_cast<size_t>(k)] - sum / static_cast<double>(rows)) <= 1e-6);
      }
      if (rows < 2) continue;
      // in two pieces: the same
      const char* second = reinterpret_cast<const char*>(bytes.data()) + (columns + gap) * static_cast<int64_t>(dtype_size(dtype));
      std::vector<float> previous2(n), first2(n);
      REQUIRE(drift({dtype, second, rows - 1, columns + gap, 0}, columns,
                    {bytes.data(), bytes.data(), nullptr, previous2.data(), first2.data()})
                  .ok());
      CHECK(std::equal(previous.begin() + 1, previous.end(), previous2.begin()));
      CHECK(std::equal(first.begin() + 1, first.end(), first2.begin()));
      std::vector<float> mean2(static_cast<size_t>(columns));
      count = 0;
      REQUIRE(add_to_mean({dtype, bytes.data(), 1, columns, 0}, columns, mean2.data(), &count).ok());
      REQUIRE(add_to_mean({dtype, second, rows - 1, columns + gap, 0}, columns, mean2.data(), &count).ok());
      CHECK(std::equal(mean2.begin(), mean2.end(), mean.begin()));
      if (columns == 0) continue;
      std::vector<float> broken = spaced;
      broken[static_cast<size_t>(columns + gap)] = infinity;
      const auto bad = stored(dtype, &broken);
      const Rows worse{dtype, bad.data(), rows, columns + gap, 7};
      CHECK(first_non_finite_row(worse, columns) == 1);
      const Status status = row_norms(worse, columns, norms.data());
      CHECK(status.code == Code::non_finite);
      CHECK(status.message.find("row 8 ") != std::string::npos);
      CHECK(drift(worse, columns, {}).code == Code::non_finite);
      count = rows;
      CHECK(add_to_mean(worse, columns, mean2.data(), &count).code == Code::non_finite);
      CHECK(count == rows);
      CHECK(std::equal(mean2.begin(), mean2.end(), mean.begin()));
    }
    // squares beyond f32
    const std::array<float, 8> extreme = {3e38F, 1e38F, 0, 0, 1e-38F, -2e-40F, 0, 0};
    std::array<float, 2> norms{};
    REQUIRE(row_norms({Dtype::f32, extreme.data(), 2, 4, 0}, 4, norms.data()).ok());
    CHECK(norms[0] == doctest::Approx(std::hypot(3e38, 1e38)).epsilon(1e-6));
    CHECK(norms[1] / 1e-38F == doctest::Approx(std::hypot(1e-38, 2e-40) / 1e-38).epsilon(1e-5));
    std::vector<float> p = {0.5F, 0.5F, 9, 1, 0, 9, -0.5F, 1, 9, 0, not_a_number, 9};
    std::array<float, 2> bits{};
    REQUIRE(entropy_bits({Dtype::f32, p.data(), 2, 3, 0}, 2, bits.data()).ok());
    CHECK(bits == std::array{1.0F, 0.0F});
    CHECK(entropy_bits({Dtype::f32, p.data() + 6, 1, 3, 0}, 2, bits.data()).code == Code::invalid_argument);
    CHECK(entropy_bits({Dtype::f32, p.data() + 9, 1, 3, 0}, 2, bits.data()).code == Code::non_finite);
    CHECK(entropy_bits({Dtype::f16, p.data(), 1, 3, 0}, 2, bits.data()).code == Code::dtype);
    CHECK(row_norms({Dtype::i8, p.data(), 1, 3, 0}, 2, bits.data()).code == Code::dtype);
  }

  TEST_CASE("stats: a copy's digest is XXH3_128bits of the whole") {
    Numbers numbers(45);
    for (int round = 0; round < 80; round++) {
      const Dtype dtype = dtypes[static_cast<size_t>(round) % 3];
      const size_t size = dtype_size(dtype);
      // short ones, around the blocks, and some that are streamed
      const auto n = static_cast<size_t>(round < 40   ? numbers.below(300)
                                         : round < 74 ? static_cast<int64_t>(16384 / size) * numbers.below(4) + numbers.below(300)
                                                      : (int64_t{5} << 20) / static_cast<int64_t>(size) + numbers.below(99));
      std::vector<float> x = numbers.normals(static_cast<int64_t>(n));
      const auto bytes = stored(dtype, &x);
      std::vector<uint8_t> to(bytes.size() + 8, 0xA5);
      Digest128 digest;
      bool finite = false;
      REQUIRE(copy_and_digest(bytes.data(), to.data() + 4, bytes.size(), dtype, &digest, &finite).ok());
      const XXH128_hash_t want = XXH3_128bits(bytes.data(), bytes.size());
      CHECK(digest == Digest128{want.low64, want.high64});
      CHECK(digest == digest_of(bytes.data(), bytes.size()));
      CHECK(finite);
      CHECK(std::equal(bytes.begin(), bytes.end(), to.begin() + 4));
      CHECK(std::all_of(to.end() - 4, to.end(), [](uint8_t byte) { return byte == 0xA5; }));
      if (n == 0) continue;
      x[static_cast<size_t>(numbers.below(static_cast<int64_t>(n)))] = -infinity;
      const auto worse = stored(dtype, &x);
      REQUIRE(copy_and_digest(worse.data(), to.data(), worse.size(), dtype, &digest, &finite).ok());
      CHECK_FALSE(finite);
      CHECK(digest == digest_of(worse.data(), worse.size()));
      CHECK(std::equal(worse.begin(), worse.end(), to.begin()));
    }
    // every table's loop, from any address, against xxHash: its sums after whole blocks
    std::vector<uint8_t> bytes(40000);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(numbers.below(256));
    for (const Kernels& table : all_kernels()) {
      if (table.stats.xxh3_blocks == nullptr) continue;
      for (size_t blocks = 0; blocks < 20; blocks++) {
        XXH3_state_t state;
        XXH3_128bits_reset(&state);
        std::array<uint64_t, 8> sums;
        std::memcpy(sums.data(), state.acc, sizeof(sums));
        const uint8_t* from = bytes.data() + blocks * 3;
        XXH3_128bits_update(&state, from, blocks * 1024 + 1);
        table.stats.xxh3_blocks(sums.data(), from, static_cast<int64_t>(blocks), state.extSecret);
        // xxHash keeps up to 256 bytes to itself unless more follow
        if (blocks > 0) CHECK(state.nbStripesSoFar == 0);
        if (blocks > 1) REQUIRE(std::memcmp(sums.data(), state.acc, sizeof(sums)) == 0);
      }
    }
    for (size_t n = 0; n < 36000; n += n < 300 ? 1 : 1 + static_cast<size_t>(numbers.below(150))) {
      const XXH128_hash_t want = XXH3_128bits(bytes.data() + n % 7, n);
      REQUIRE(digest_of(bytes.data() + n % 7, n) == Digest128{want.low64, want.high64});
    }
    Digest128 digest;
    bool finite = false;
    CHECK(copy_and_digest(nullptr, nullptr, 3, Dtype::f16, &digest, &finite).code == Code::invalid_argument);
    CHECK(copy_and_digest(nullptr, nullptr, 0, Dtype::i32, &digest, &finite).code == Code::dtype);
    // the published value for nothing, seed 0
    CHECK(digest_of(nullptr, 0) == Digest128{0x6001c324468d497fU, 0x99aa06d3014798d8U});
  }
}
