// Transposes of elements of every size, in every table that this processor runs, against one element after the other.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "kernels/table.h"
#include "kernels/transpose.h"
#include "kernels_support.h"

using namespace latentwire;
using latentwire::testing::Numbers;

namespace {

std::vector<uint8_t> random_bytes(Numbers& numbers, int64_t n) {
  std::vector<uint8_t> bytes(static_cast<size_t>(n));
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(numbers.below(256));
  return bytes;
}

// Memory that begins `off` bytes behind a multiple of 64.
struct Placed {
  Placed(int64_t size, int64_t off) : bytes(static_cast<size_t>(size) + 128, 0xA5) {
    data = bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64 + off;
  }
  std::vector<uint8_t> bytes;
  uint8_t* data;
};

// What lies between rows is not to be touched.
void check_transpose(const TransposeShape& s, const uint8_t* from, const uint8_t* to) {
  for (int64_t column = 0; column < s.columns; column++) {
    for (int64_t row = 0; row < s.rows; row++) {
      const bool same = std::memcmp(to + column * s.to_stride + row * s.bytes, from + row * s.from_stride + column * s.bytes,
                                    static_cast<size_t>(s.bytes)) == 0;
      if (!same) FAIL("row " << row << ", column " << column);
    }
    for (int64_t i = s.rows * s.bytes; i < s.to_stride; i++) {
      if (to[column * s.to_stride + i] != 0xA5) FAIL("beyond row " << column << " of the output");
    }
  }
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("transpose: every shape, stride and address, in every table") {
    Numbers numbers(61);
    const auto extent = [&](int round) {
      constexpr int64_t edges[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129};
      return round % 3 == 0 ? numbers.below(200) : edges[numbers.below(std::size(edges))];
    };
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      for (int round = 0; round < 400; round++) {
        // numbers of caches, blocks of ggml, heads that are whole lines and heads that are not
        constexpr int64_t sizes[] = {2, 2, 2, 4, 4, 1, 8, 18, 34, 64, 128, 160, 1088};
        TransposeShape s{};
        s.bytes = sizes[numbers.below(std::size(sizes))];
        s.rows = extent(round);
        s.columns = s.bytes > 8 ? numbers.below(20) : extent(round);
        s.stream = numbers.below(2) == 0;
        // aligned outputs, odd ones, and rows with something in between
        const bool aligned = numbers.below(2) == 0;
        s.from_stride = s.columns * s.bytes + (numbers.below(2) == 0 ? 0 : numbers.below(70));
        s.to_stride = s.rows * s.bytes;
        s.to_stride = aligned ? (s.to_stride + 63) / 64 * 64 : s.to_stride + (numbers.below(2) == 0 ? 0 : numbers.below(70));
        CAPTURE(s.bytes);
        CAPTURE(s.rows);
        CAPTURE(s.columns);
        CAPTURE(s.from_stride);
        CAPTURE(s.to_stride);
        const std::vector<uint8_t> from = random_bytes(numbers, s.rows * s.from_stride + 64);
        Placed to(s.columns * s.to_stride, aligned ? 0 : numbers.below(64));
        const auto kernel = s.bytes == 2 && round % 4 != 0   ? table.transpose.two_bytes
                            : s.bytes == 4 && round % 4 != 0 ? table.transpose.four_bytes
                                                             : table.transpose.any;
        const auto off = static_cast<size_t>(numbers.below(64));
        kernel(s, from.data() + off % (from.size() - static_cast<size_t>(s.rows * s.from_stride)), to.data);
        table.stats.fence();
        check_transpose(s, from.data() + off % (from.size() - static_cast<size_t>(s.rows * s.from_stride)), to.data);
        const uint8_t* end = to.data + s.columns * s.to_stride;
        REQUIRE(std::all_of(static_cast<const uint8_t*>(to.bytes.data()), static_cast<const uint8_t*>(to.data),
                            [](uint8_t b) { return b == 0xA5; }));
        REQUIRE(std::all_of(end, static_cast<const uint8_t*>(to.bytes.data() + to.bytes.size()), [](uint8_t b) { return b == 0xA5; }));
      }
    }
  }

  TEST_CASE("transpose: large matrices in pieces, there and back") {
    Numbers numbers(62);
    struct Case {
      int64_t rows, columns, bytes, gap;
    };
    // beyond one piece, on several threads, and streamed; both axes the longer one
    for (const Case& one : {Case{3000, 8, 256, 0}, Case{8, 3000, 256, 64}, Case{5001, 131, 2, 0}, Case{131, 5001, 2, 2},
                            Case{2048, 1200, 2, 0}, Case{1100, 1000, 4, 0}, Case{3, 700, 1000, 8}}) {
      const int64_t rows = one.rows, columns = one.columns, bytes = one.bytes, gap = one.gap;
      CAPTURE(rows);
      CAPTURE(columns);
      const int64_t from_stride = columns * bytes + gap, to_stride = rows * bytes + gap;
      std::vector<uint8_t> from(static_cast<size_t>(rows * from_stride), 0xA5);
      uint32_t state = 1;
      for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < columns * bytes; i++)
          from[static_cast<size_t>(row * from_stride + i)] = static_cast<uint8_t>((state = state * 1664525U + 1013904223U) >> 24);
      Placed to(columns * to_stride, 0), back(rows * from_stride, 0);
      REQUIRE(transpose({rows, columns, bytes, gap == 0 ? 0 : from_stride, to_stride}, from.data(), to.data).ok());
      check_transpose({rows, columns, bytes, from_stride, to_stride, false}, from.data(), to.data);
      REQUIRE(transpose({columns, rows, bytes, to_stride, gap == 0 ? 0 : from_stride}, to.data, back.data).ok());
      CHECK(std::equal(from.begin(), from.end(), back.data));
    }
  }

  TEST_CASE("transpose: what is refused") {
    std::vector<uint8_t> from(64), to(64, 0xA5);
    CHECK(transpose({-1, 2, 2}, from.data(), to.data()).code == Code::invalid_argument);
    CHECK(transpose({2, -1, 2}, from.data(), to.data()).code == Code::invalid_argument);
    CHECK(transpose({2, 2, 0}, from.data(), to.data()).code == Code::invalid_argument);
    CHECK(transpose({2, 4, 2, 7}, from.data(), to.data()).code == Code::invalid_argument);
    CHECK(transpose({2, 4, 2, 8, 3}, from.data(), to.data()).code == Code::invalid_argument);
    const std::atomic<bool> cancel{true};
    CHECK(transpose({2, 4, 2}, from.data(), to.data(), &cancel).code == Code::cancelled);
    CHECK(transpose({0, 4, 2}, nullptr, nullptr).ok());
    CHECK(transpose({4, 0, 2}, nullptr, nullptr).ok());
    CHECK(std::all_of(to.begin(), to.end(), [](uint8_t b) { return b == 0xA5; }));
  }
}
