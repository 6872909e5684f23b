// Tile codes, the Walsh-Hadamard transform and packed symbols, in every table that this processor runs, against plain float64.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/table.h"
#include "kernels/tile.h"
#include "kernels_support.h"

using namespace latentwire;
using latentwire::testing::dtypes;
using latentwire::testing::infinity;
using latentwire::testing::not_a_number;
using latentwire::testing::Numbers;
using latentwire::testing::stored;

namespace {

constexpr std::array formats = {
    TileFormat{TileCode::fp8, TileScale::f32, 128},    TileFormat{TileCode::fp8, TileScale::ue8m0, 128},
    TileFormat{TileCode::i8, TileScale::f32, 128},     TileFormat{TileCode::i8, TileScale::f16, 32},
    TileFormat{TileCode::i8, TileScale::f16, 64},      TileFormat{TileCode::i4, TileScale::f16, 32},
    TileFormat{TileCode::i4, TileScale::f32, 64},      TileFormat{TileCode::i4_zero, TileScale::f32, 128},
    TileFormat{TileCode::i4_zero, TileScale::f16, 32}, TileFormat{TileCode::fp8, TileScale::ue8m0, 32},
};

// What an e4m3fn code stands for, from its definition.
double e4m3_value(int code) {
  const int exponent = (code >> 3) & 15;
  const int fraction = code & 7;
  const double x = exponent == 0 ? fraction / 8.0 * std::pow(2.0, -6) : (1 + fraction / 8.0) * std::pow(2.0, exponent - 7);
  if ((code & 127) == 127) return std::numeric_limits<double>::quiet_NaN();
  return (code & 128) != 0 ? -x : x;
}

// The nearest code by looking at all of them; among equals the even one.
int e4m3_nearest(double x) {
  int best = 0;
  for (int code = 1; code < 127; code++) {
    const double d = std::fabs(e4m3_value(code) - std::fabs(x)), known = std::fabs(e4m3_value(best) - std::fabs(x));
    if (d < known || (d == known && code % 2 == 0)) best = code;
  }
  return best | (std::signbit(x) ? 128 : 0);
}

// Codes and scales of rows, in buffers that are too long by a guard.
struct Encoded {
  std::vector<uint8_t> codes, scales, minima;
  int64_t good = 0;
};

constexpr size_t guard = 64;

TileRows describe(const TileFormat& f, int64_t rows, int64_t columns, int64_t stride, bool stream) {
  return {rows,  columns, stride, std::countr_zero(static_cast<uint64_t>(f.group)), f.scale, f.row_code_bytes(columns), f.groups(columns),
          stream};
}

Encoded encode(const Kernels& table, const TileFormat& f, Dtype dtype, const void* x, int64_t rows, int64_t columns, int64_t stride,
               bool stream = false) {
  Encoded e;
  e.codes.assign(static_cast<size_t>(rows * f.row_code_bytes(columns)) + guard, 0xA5);
  e.scales.assign(static_cast<size_t>(rows * f.row_scale_bytes(columns)) + guard, 0xA5);
  e.minima = e.scales;
  e.good = table.tiles.quantise[static_cast<size_t>(dtype)][static_cast<size_t>(f.code)](describe(f, rows, columns, stride, stream), x,
                                                                                         e.codes.data(), e.scales.data(), e.minima.data());
  for (const auto* v : {&e.codes, &e.scales, &e.minima})
    CHECK(std::all_of(v->end() - guard, v->end(), [](uint8_t byte) { return byte == 0xA5; }));
  return e;
}

double stored_scale(const TileFormat& f, const std::vector<uint8_t>& scales, int64_t i) {
  if (f.scale == TileScale::ue8m0) return std::ldexp(1.0, scales[static_cast<size_t>(i)] - 127);
  if (f.scale == TileScale::f16) {
    uint16_t half;
    std::memcpy(&half, scales.data() + 2 * i, 2);
    return f16_to_f32(half);
  }
  float value;
  std::memcpy(&value, scales.data() + 4 * i, 4);
  return value;
}

int code_at(const TileFormat& f, const uint8_t* row, int64_t k) {
  if (f.code_bits() == 8) return f.code == TileCode::i8 ? static_cast<int8_t>(row[k]) : row[k];
  const int nibble = (row[k / 2] >> (4 * (k % 2))) & 15;
  return f.code == TileCode::i4 ? (nibble ^ 8) - 8 : nibble;
}

std::vector<float> decode(const Kernels& table, const TileFormat& f, const Encoded& e, int64_t rows, int64_t columns, int64_t gap,
                          Dtype dtype, bool stream = false) {
  const auto size = dtype_size(dtype);
  std::vector<uint8_t> bytes(static_cast<size_t>(rows * (columns + gap)) * size + 64, 0x5A);
  uint8_t* aligned = bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
  const auto n = static_cast<size_t>(rows * (columns + gap));
  table.tiles.dequantise[static_cast<size_t>(f.code)][static_cast<size_t>(dtype)](
      describe(f, rows, columns, columns + gap, stream), e.codes.data(), e.scales.data(), e.minima.data(), aligned);
  std::vector<float> all(n), out;
  convert_elements(dtype, aligned, Dtype::f32, all.data(), n);
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t k = 0; k < columns; k++) out.push_back(all[static_cast<size_t>(i * (columns + gap) + k)]);
    for (size_t b = 0; b < static_cast<size_t>(gap) * size; b++)
      REQUIRE(aligned[static_cast<size_t>(i * (columns + gap) + columns) * size + b] == 0x5A);
  }
  return out;
}

double cosine(const std::vector<float>& a, const std::vector<float>& b, size_t from) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = from; i < a.size(); i++) {
    ab += static_cast<double>(a[i]) * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("tiles: exact sizes") {
    constexpr TileFormat fp8{TileCode::fp8, TileScale::f32, 128}, micro{TileCode::fp8, TileScale::ue8m0, 128};
    constexpr TileFormat i4{TileCode::i4, TileScale::f16, 32}, kivi{TileCode::i4_zero, TileScale::f16, 32};
    static_assert(fp8.row_bits(1024) == 1024 * 8 + 8 * 32);
    static_assert(micro.row_bits(1024) == 1024 * 8 + 8 * 8);
    static_assert(i4.row_bits(1024) * 2 == 1024 * 9);
    static_assert(kivi.row_bits(1024) == 1024 * 5);
    static_assert(i4.row_bits(33) == 33 * 4 + 32 && i4.row_code_bytes(33) == 17 && i4.groups(33) == 2 && i4.groups(0) == 0);
    static_assert(packed_bytes(0, 7) == 0 && packed_bytes(9, 7) == 8 && packed_bytes(8, 16) == 16);
    static_assert(!TileFormat{TileCode::fp8, TileScale::f16, 128}.valid() && !TileFormat{TileCode::i8, TileScale::ue8m0, 128}.valid());
    static_assert(!TileFormat{TileCode::i8, TileScale::f16, 48}.valid());
    CHECK(fp8.valid());
  }

  TEST_CASE("tiles: every e4m3 code, and every f16 to its nearest code, in every table") {
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      const TileFormat f{TileCode::fp8, TileScale::ue8m0, 128};
      Encoded all;
      for (int code = 0; code < 256; code++) all.codes.push_back(static_cast<uint8_t>(code));
      all.scales = {127, 127};  // 1
      const std::vector<float> values = decode(table, f, all, 1, 256, 0, Dtype::f32);
      for (int code = 0; code < 256; code++) {
        CAPTURE(code);
        if (std::isnan(e4m3_value(code)))
          REQUIRE(std::isnan(values[static_cast<size_t>(code)]));
        else
          REQUIRE(std::bit_cast<uint32_t>(values[static_cast<size_t>(code)]) ==
                  std::bit_cast<uint32_t>(static_cast<float>(e4m3_value(code))));
      }
      // 448 in each tile makes the scale 1, so that the others are rounded as they are
      std::vector<uint16_t> halves;
      for (int bits = 0; bits < 65536; bits++) {
        const auto half = static_cast<uint16_t>(bits);
        if (!(std::fabs(f16_to_f32(half)) <= 448)) continue;
        if (halves.size() % 128 == 0) halves.push_back(f32_to_f16(448));
        halves.push_back(half);
      }
      const auto n = static_cast<int64_t>(halves.size());
      CHECK(n > 48000);
      for (const Dtype dtype : {Dtype::f16, Dtype::f32}) {
        std::vector<float> wide(halves.size());
        f16_to_f32(halves.data(), wide.data(), halves.size());
        const Encoded e = encode(table, f, dtype, dtype == Dtype::f16 ? static_cast<const void*>(halves.data()) : wide.data(), 1, n, n);
        REQUIRE(e.good == 1);
        for (size_t i = 0; i < halves.size(); i++) {
          CAPTURE(wide[i]);
          if (i % 128 == 0) REQUIRE(e.scales[i / 128] == 127);
          REQUIRE(e.codes[i] == e4m3_nearest(wide[i]));
        }
      }
    }
  }

  TEST_CASE("tiles: codes and values against float64, any shape and dtype, the same bits in every table") {
    Numbers numbers(21);
    const int rounds = 500;
    for (int round = 0; round < rounds; round++) {
      const TileFormat f = formats[static_cast<size_t>(round) % formats.size()];
      const Dtype dtype = dtypes[static_cast<size_t>(round / 3) % 3];
      const int64_t rows = numbers.below(4);
      // around the widths of vectors, groups and spans
      const int64_t columns = round % 7 == 0   ? 2048 * (1 + numbers.below(2)) + numbers.below(3) - 1
                              : round % 2 == 0 ? f.group * (1 + numbers.below(3)) + numbers.below(3) - 1
                                               : numbers.below(300);
      const int64_t gap = numbers.below(3);
      CAPTURE(round);
      CAPTURE(static_cast<int>(f.code));
      CAPTURE(static_cast<int>(f.scale));
      CAPTURE(f.group);
      CAPTURE(rows);
      CAPTURE(columns);
      std::vector<float> x = numbers.normals(rows * columns, round % 5 == 0 ? 1e-3F : 2.0F);
      for (float& v : x) {
        if (numbers.below(30) == 0) v = 0;
        if (numbers.below(60) == 0) v *= 50;
      }
      if (columns > f.group && rows > 0) std::fill_n(x.begin(), f.group, 0.0F);  // a group of zeros
      stored(dtype, &x);
      std::vector<float> spaced = testing::with_gaps(x, rows, columns, gap, not_a_number);
      const std::vector<uint8_t> bytes = stored(dtype, &spaced);
      Encoded first;
      for (const Kernels& table : all_kernels()) {
        CAPTURE(isa_name(table.isa));
        const Encoded e = encode(table, f, dtype, bytes.data(), rows, columns, columns + gap);
        REQUIRE(e.good == rows);
        if (first.codes.empty()) first = e;
        REQUIRE(e.codes == first.codes);
        REQUIRE(e.scales == first.scales);
        REQUIRE(e.minima == first.minima);
        const std::vector<float> y = decode(table, f, e, rows, columns, gap, Dtype::f32);
        for (const Dtype to : {Dtype::f16, Dtype::bf16}) {
          const std::vector<float> narrow = decode(table, f, e, rows, columns, gap, to);
          std::vector<float> want = y;
          stored(to, &want);
          REQUIRE(narrow == want);
        }
        for (int64_t i = 0; i < rows; i++) {
          for (int64_t g = 0; g < f.groups(columns); g++) {
            const int64_t begin = g * f.group, end = std::min(columns, begin + f.group);
            double largest = 0, low = infinity, high = -infinity;
            for (int64_t k = begin; k < end; k++) {
              const double v = x[static_cast<size_t>(i * columns + k)];
              largest = std::max(largest, std::fabs(v));
              low = std::min(low, v);
              high = std::max(high, v);
            }
            const double scale = stored_scale(f, e.scales, i * f.groups(columns) + g);
            const double levels = f.code == TileCode::fp8 ? 448 : f.code == TileCode::i8 ? 127 : f.code == TileCode::i4 ? 7 : 15;
            const double minimum = f.has_minima() ? stored_scale(f, e.minima, i * f.groups(columns) + g) : 0;
            const double exact = (f.has_minima() ? high - minimum : largest) / levels;
            if (exact == 0) {
              REQUIRE(scale == (f.scale == TileScale::ue8m0 ? 0x1p-127 : 0));
            } else if (f.scale == TileScale::ue8m0) {
              REQUIRE(scale == std::exp2(std::ceil(std::log2(exact))));
            } else {
              // f16 scales are rounded up
              REQUIRE(scale >= exact * (1 - 0x1p-22));
              REQUIRE(scale <=
                      exact * (1 + (f.scale == TileScale::f16 ? 0x1.01p-10 : 0x1p-22)) + (f.scale == TileScale::f16 ? 0x1p-24 : 0));
            }
            if (f.has_minima()) {
              REQUIRE(minimum <= low);
              REQUIRE(minimum >= low - (f.scale == TileScale::f16 ? std::fabs(low) * 0x1p-10 + 0x1p-24 : 0));
            }
            for (int64_t k = begin; k < end; k++) {
              const double v = x[static_cast<size_t>(i * columns + k)];
              const int code = code_at(f, e.codes.data() + i * f.row_code_bytes(columns), k);
              const double back = y[static_cast<size_t>(i * columns + k)];
              if (f.code == TileCode::fp8) {
                REQUIRE(std::fabs(back - e4m3_value(code) * scale) <= 1e-6 * std::fabs(back));
                if (scale == 0) {
                  REQUIRE(back == 0);
                  continue;
                }
                const double step = std::max(std::exp2(std::floor(std::log2(std::max(std::fabs(v / scale), 1e-300))) - 3), 0x1p-9) * scale;
                REQUIRE(std::fabs(back - v) <= step * 0.5001);
              } else {
                REQUIRE(std::abs(code) <= levels);
                REQUIRE(std::fabs(back - (minimum + code * scale)) <= 1e-6 * (std::fabs(back) + std::fabs(minimum)));
                const double best = scale == 0 ? 0 : std::clamp((v - minimum) / scale, f.has_minima() ? 0 : -levels, levels);
                REQUIRE(std::fabs(code - best) <= 0.5 + 1e-4);
              }
            }
          }
        }
      }
    }
  }

  TEST_CASE("tiles: streaming stores write the same, in every table") {
    Numbers numbers(22);
    for (const TileFormat& f : formats) {
      for (const int64_t columns : {int64_t{128}, int64_t{4096}, int64_t{333}}) {
        const std::vector<float> x = numbers.normals(5 * columns);
        for (const Kernels& table : all_kernels()) {
          CAPTURE(isa_name(table.isa));
          const Encoded plain = encode(table, f, Dtype::f32, x.data(), 5, columns, columns);
          // at an aligned address
          std::vector<uint8_t> room(plain.codes.size() + 64, 0xA5);
          uint8_t* aligned = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64;
          Encoded e = plain;
          CHECK(table.tiles.quantise[0][static_cast<size_t>(f.code)](describe(f, 5, columns, columns, true), x.data(), aligned,
                                                                     e.scales.data(), e.minima.data()) == 5);
          CHECK(std::equal(plain.codes.begin(), plain.codes.end(), aligned));
          CHECK(e.scales == plain.scales);
          for (const Dtype dtype : dtypes)
            CHECK(decode(table, f, plain, 5, columns, 0, dtype, true) == decode(table, f, plain, 5, columns, 0, dtype, false));
        }
      }
    }
  }

  TEST_CASE("tiles: what is not finite is reported, with its row, in every table") {
    Numbers numbers(23);
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      for (const TileFormat& f : formats) {
        for (int round = 0; round < 60; round++) {
          const Dtype dtype = dtypes[static_cast<size_t>(round) % 3];
          const int64_t columns = 1 + numbers.below(200);
          std::vector<float> x = numbers.normals(6 * columns);
          const int64_t row = numbers.below(6);
          const auto at = static_cast<size_t>(row * columns + numbers.below(columns));
          x[at] = std::array{not_a_number, infinity, -infinity, -not_a_number}[static_cast<size_t>(numbers.below(4))];
          const std::vector<uint8_t> bytes = stored(dtype, &x);
          REQUIRE(encode(table, f, dtype, bytes.data(), 6, columns, columns).good == row);
        }
        // too large for a scale of f16, or for the range of f32
        const std::vector<float> large = {3e38F, -3e38F, 1, 0};
        const bool fits = f.scale != TileScale::f16 && !f.has_minima();
        CHECK(encode(table, f, Dtype::f32, large.data(), 1, 4, 4).good == (fits ? 1 : 0));
        // so small that they count as zeros
        const std::vector<float> small = {1e-40F, -1e-38F, 1e-45F, 0};
        const Encoded e = encode(table, f, Dtype::f32, small.data(), 1, 4, 4);
        REQUIRE(e.good == 1);
        for (const float v : decode(table, f, e, 1, 4, 0, Dtype::f32)) CHECK(std::fabs(v) <= 1.1e-38F);
      }
    }
  }

  TEST_CASE("tiles: powers of two and int8 integers survive unchanged; an outlier stays in its tile, in every table") {
    Numbers numbers(24);
    for (const Kernels& table : all_kernels()) {
      std::vector<float> x;
      for (int i = 0; i < 256; i++) x.push_back(std::ldexp(numbers.below(2) == 0 ? 1.0F : -1.0F, static_cast<int>(numbers.below(14)) - 7));
      const TileFormat micro{TileCode::fp8, TileScale::ue8m0, 128};
      CHECK(decode(table, micro, encode(table, micro, Dtype::f32, x.data(), 1, 256, 256), 1, 256, 0, Dtype::f32) == x);
      for (float& v : x) v = static_cast<float>(numbers.below(255) - 127);
      x[3] = x[200] = 127;
      const TileFormat i8{TileCode::i8, TileScale::f32, 128};
      const Encoded before = encode(table, i8, Dtype::f32, x.data(), 1, 256, 256);
      CHECK(decode(table, i8, before, 1, 256, 0, Dtype::f32) == x);
      x[3] = 1e6F;
      const Encoded after = encode(table, i8, Dtype::f32, x.data(), 1, 256, 256);
      CHECK(std::equal(before.codes.begin() + 128, before.codes.begin() + 256, after.codes.begin() + 128));
    }
  }

  TEST_CASE("tiles: cosines of latents with outliers (methods.md, table 3.4)") {
    Numbers numbers(25);
    const int64_t d = 1024;
    struct Want {
      TileFormat format;
      double cosine;
      double within;
    };
    const std::array wants = {Want{{TileCode::fp8, TileScale::f32, 128}, .99968, 6e-5},
                              Want{{TileCode::fp8, TileScale::ue8m0, 128}, .99965, 6e-5},
                              Want{{TileCode::i8, TileScale::f16, 32}, .9982, 4e-4}, Want{{TileCode::i4, TileScale::f16, 32}, .926, .01}};
    for (const Want& want : wants) {
      double sum = 0;
      for (int sample = 0; sample < 50; sample++) {
        std::vector<float> x = numbers.normals(d);
        for (size_t k = 0; k < 4; k++) x[k * 256 + 7] = k % 2 == 0 ? 75.0F : -75.0F;
        const Encoded e = encode(kernels(), want.format, Dtype::f32, x.data(), 1, d, d);
        std::vector<float> y = decode(kernels(), want.format, e, 1, d, 0, Dtype::f32);
        for (size_t k = 0; k < 4; k++) x[k * 256 + 7] = y[k * 256 + 7] = 0;
        sum += cosine(x, y, 0);
      }
      MESSAGE("cosine without the outliers: ", sum / 50, ", the table has ", want.cosine);
      CHECK(std::fabs(sum / 50 - want.cosine) <= want.within);
    }
  }

  TEST_CASE("tiles: the functions for users") {
    Numbers numbers(26);
    const int64_t rows = 3000, columns = 700;  // many pieces
    std::vector<float> x = numbers.normals(rows * columns);
    const TileFormat f{TileCode::i8, TileScale::f16, 64};
    std::vector<uint8_t> codes(static_cast<size_t>(rows * f.row_code_bytes(columns))),
        scales(static_cast<size_t>(rows * f.row_scale_bytes(columns)));
    const Tiles tiles{codes.data(), scales.data(), nullptr};
    REQUIRE(quantise({Dtype::f32, x.data(), rows, columns, 0}, columns, f, tiles).ok());
    const Encoded whole = encode(kernels(), f, Dtype::f32, x.data(), rows, columns, columns);
    CHECK(std::equal(codes.begin(), codes.end(), whole.codes.begin()));
    CHECK(std::equal(scales.begin(), scales.end(), whole.scales.begin()));
    std::vector<float> y(x.size());
    REQUIRE(dequantise(f, {codes.data(), scales.data(), nullptr}, rows, columns, Dtype::f32, y.data(), columns).ok());
    CHECK(y == decode(kernels(), f, whole, rows, columns, 0, Dtype::f32));
    x[static_cast<size_t>(2500 * columns + 3)] = not_a_number;
    x[static_cast<size_t>(1700 * columns + 699)] = infinity;
    const Status bad = quantise({Dtype::f32, x.data(), rows, columns, 10}, columns, f, tiles);
    CHECK(bad.code == Code::non_finite);
    CHECK(bad.message.find("row 1710 ") != std::string::npos);
    std::atomic<bool> cancel{true};
    CHECK(quantise({Dtype::f32, y.data(), rows, columns, 0}, columns, f, tiles, &cancel).code == Code::cancelled);
    CHECK(dequantise(f, {codes.data(), scales.data(), nullptr}, rows, columns, Dtype::f32, y.data(), columns, &cancel).code ==
          Code::cancelled);
    CHECK(quantise({Dtype::i8, y.data(), 1, 1, 0}, 1, f, tiles).code == Code::dtype);
    CHECK(quantise({Dtype::f32, y.data(), 1, 1, 0}, 1, {TileCode::i8, TileScale::f16, 40}, tiles).code == Code::invalid_argument);
    CHECK(dequantise({TileCode::fp8, TileScale::f16, 128}, {}, 1, 1, Dtype::f32, y.data(), 1).code == Code::invalid_argument);
    CHECK(quantise({Dtype::f32, nullptr, 0, 0, 0}, 5, f, {}).ok());
  }

  TEST_CASE("Walsh-Hadamard transform: against its definition, its own inverse, the same bits in every table") {
    Numbers numbers(27);
    for (int64_t n = 1; n <= 4096; n *= 2) {
      CAPTURE(n);
      std::vector<float> x = numbers.normals(n + 1);
      std::vector<float> first;
      for (const Kernels& table : all_kernels()) {
        CAPTURE(isa_name(table.isa));
        std::vector<float> y = x;
        table.tiles.hadamard(y.data(), n);
        if (first.empty()) first = y;
        REQUIRE(std::memcmp(y.data(), first.data(), y.size() * sizeof(float)) == 0);
        CHECK(y.back() == x.back());
        for (int64_t i = 0; i < n; i += std::max<int64_t>(n / 64, 1)) {
          double want = 0;
          for (int64_t k = 0; k < n; k++)
            want += (std::popcount(static_cast<uint64_t>(i & k)) % 2 == 0 ? 1 : -1) * static_cast<double>(x[static_cast<size_t>(k)]);
          REQUIRE(std::fabs(y[static_cast<size_t>(i)] - want / std::sqrt(static_cast<double>(n))) <= 3e-6);
        }
        table.tiles.hadamard(y.data(), n);
        for (size_t i = 0; i < static_cast<size_t>(n); i++) REQUIRE(std::fabs(y[i] - x[i]) <= 4e-6);
      }
    }
    std::vector<float> x = numbers.normals(3 * 260), y = x;
    REQUIRE(hadamard(y.data(), 3, 256, 260, 64).ok());
    for (int64_t i = 0; i < 3; i++) {
      for (int64_t k = 0; k < 256; k += 64) kernels().tiles.hadamard(x.data() + i * 260 + k, 64);
    }
    CHECK(x == y);
    CHECK(hadamard(y.data(), 1, 96, 96, 48).code == Code::invalid_argument);
    CHECK(hadamard(y.data(), 1, 96, 96, 64).code == Code::invalid_argument);
  }

  TEST_CASE("packed symbols of every width") {
    Numbers numbers(28);
    for (int bits = 1; bits <= 16; bits++) {
      for (int64_t n = 0; n < 70; n++) {
        CAPTURE(bits);
        CAPTURE(n);
        std::vector<uint16_t> symbols(static_cast<size_t>(n));
        for (uint16_t& s : symbols) s = static_cast<uint16_t>(numbers.below(65536));
        const auto bytes = static_cast<size_t>(packed_bytes(n, bits));
        std::vector<uint8_t> packed(bytes + 1, 0xA5), want(bytes + 1, 0);
        want.back() = 0xA5;
        for (size_t bit = 0; bit < static_cast<size_t>(n * bits); bit++) {
          const size_t width = static_cast<size_t>(bits);
          if (((symbols[bit / width] >> (bit % width)) & 1) != 0) want[bit / 8] = static_cast<uint8_t>(want[bit / 8] | (1U << (bit % 8)));
        }
        REQUIRE(pack_bits(symbols.data(), n, bits, packed.data()));
        REQUIRE(packed == want);
        packed.pop_back();  // so that a read beyond is seen by the sanitizer
        packed.shrink_to_fit();
        std::vector<uint16_t> back(static_cast<size_t>(n) + 1, 7);
        REQUIRE(unpack_bits(packed.data(), n, bits, back.data()));
        for (size_t i = 0; i < static_cast<size_t>(n); i++) REQUIRE(back[i] == (symbols[i] & ((1U << bits) - 1)));
        REQUIRE(back.back() == 7);
      }
    }
    CHECK_FALSE(pack_bits(nullptr, 0, 0, nullptr));
    CHECK_FALSE(unpack_bits(nullptr, 0, 17, nullptr));
  }
}
