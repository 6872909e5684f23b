// Conversions of 16-bit floats, checked on every 16-bit pattern and, for rounding, against double arithmetic.
#include "core/dtype.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

using namespace latentwire;

namespace {

float from_bits(uint32_t bits) { return std::bit_cast<float>(bits); }

// The value of a finite f16 by its definition.
double f16_value(uint16_t half) {
  const double sign = (half & 0x8000) != 0 ? -1 : 1;
  const int exponent = (half >> 10) & 0x1F;
  const double mantissa = half & 0x3FF;
  return sign * (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
}

// The nearest f16 magnitude, ties to even, by search over all of them; 0x7C00 stands for what rounds to infinity.
uint16_t nearest_f16(double magnitude) {
  if (magnitude >= 65520) return 0x7C00;
  uint16_t low = 0;
  uint16_t high = 0x7BFF;
  while (low < high) {
    const auto middle = static_cast<uint16_t>((low + high + 1) / 2);
    if (f16_value(middle) <= magnitude)
      low = middle;
    else
      high = static_cast<uint16_t>(middle - 1);
  }
  if (low == 0x7BFF) return low;
  const double below = magnitude - f16_value(low);
  const double above = f16_value(static_cast<uint16_t>(low + 1)) - magnitude;
  if (below == above) return (low & 1) == 0 ? low : static_cast<uint16_t>(low + 1);
  return below < above ? low : static_cast<uint16_t>(low + 1);
}

}  // namespace

TEST_CASE("every f16 widens to its value and narrows back to itself") {
  for (uint32_t pattern = 0; pattern <= 0xFFFF; pattern++) {
    const auto half = static_cast<uint16_t>(pattern);
    const float wide = f16_to_f32(half);
    if ((half & 0x7C00) == 0x7C00) {
      const bool is_nan = (half & 0x3FF) != 0;
      REQUIRE(std::isnan(wide) == is_nan);
      REQUIRE(std::signbit(wide) == ((half & 0x8000) != 0));
      REQUIRE(f32_to_f16(wide) == (is_nan ? (half | 0x200) : half));
    } else {
      REQUIRE(static_cast<double>(wide) == f16_value(half));
      REQUIRE(std::signbit(wide) == ((half & 0x8000) != 0));
      REQUIRE(f32_to_f16(wide) == half);
    }
  }
}

TEST_CASE("f32 to f16 rounds to nearest, ties to even, over the whole range") {
  std::mt19937 random(7);
  for (int i = 0; i < 200'000; i++) {
    // exponents from far below the least denormal to above the overflow
    const uint32_t exponent = 127 - 30 + random() % 50;
    const float value = from_bits((exponent << 23) | (random() & 0x7FFFFF));
    REQUIRE(f32_to_f16(value) == nearest_f16(static_cast<double>(value)));
    REQUIRE(f32_to_f16(-value) == (nearest_f16(static_cast<double>(value)) | 0x8000));
  }
  for (uint16_t half = 0; half < 0x7BFF; half++) {
    // exact halves between neighbours are representable in f32
    const double middle = (f16_value(half) + f16_value(static_cast<uint16_t>(half + 1))) / 2;
    const auto tie = static_cast<float>(middle);
    REQUIRE(f32_to_f16(tie) == ((half & 1) == 0 ? half : half + 1));
    REQUIRE(f32_to_f16(std::nextafter(tie, 0.0F)) == half);
    REQUIRE(f32_to_f16(std::nextafter(tie, 1e9F)) == half + 1);
  }
}

TEST_CASE("f32 to f16 at the edges") {
  CHECK(f32_to_f16(0.0F) == 0);
  CHECK(f32_to_f16(-0.0F) == 0x8000);
  CHECK(f32_to_f16(65504.0F) == 0x7BFF);
  CHECK(f32_to_f16(std::nextafter(65520.0F, 0.0F)) == 0x7BFF);
  CHECK(f32_to_f16(65520.0F) == 0x7C00);
  CHECK(f32_to_f16(std::numeric_limits<float>::max()) == 0x7C00);
  CHECK(f32_to_f16(-std::numeric_limits<float>::infinity()) == 0xFC00);
  CHECK(f32_to_f16(0x1p-25F) == 0);  // half of the least denormal: a tie, to even
  CHECK(f32_to_f16(std::nextafter(0x1p-25F, 1.0F)) == 1);
  CHECK(f32_to_f16(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(f32_to_f16(from_bits(0x7F800001)) == 0x7E00);  // a NaN with its payload in the dropped bits stays a NaN
  CHECK(f32_to_f16(from_bits(0xFFC00000)) == 0xFE00);
}

TEST_CASE("every bf16 widens and narrows back to itself") {
  for (uint32_t pattern = 0; pattern <= 0xFFFF; pattern++) {
    const auto brain = static_cast<uint16_t>(pattern);
    const float wide = bf16_to_f32(brain);
    REQUIRE(std::bit_cast<uint32_t>(wide) == pattern << 16);
    REQUIRE(f32_to_bf16(wide) == (std::isnan(wide) ? (brain | 0x40) : brain));
  }
}

TEST_CASE("f32 to bf16 rounds to nearest, ties to even") {
  CHECK(f32_to_bf16(from_bits(0x3F808000)) == 0x3F80);
  CHECK(f32_to_bf16(from_bits(0x3F818000)) == 0x3F82);
  CHECK(f32_to_bf16(from_bits(0x3F807FFF)) == 0x3F80);
  CHECK(f32_to_bf16(from_bits(0x3F808001)) == 0x3F81);
  CHECK(f32_to_bf16(from_bits(0x00008000)) == 0);  // denormals round like the rest
  CHECK(f32_to_bf16(from_bits(0x00008001)) == 1);
  CHECK(f32_to_bf16(std::numeric_limits<float>::max()) == 0x7F80);
  CHECK(f32_to_bf16(-std::numeric_limits<float>::infinity()) == 0xFF80);
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(from_bits(0x7F800001)))));
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(from_bits(0x7FFFFFFF)))));
}

TEST_CASE("names and sizes") {
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i8, Dtype::i32}) CHECK(parse_dtype(dtype_name(dtype)) == dtype);
  CHECK(dtype_name(Dtype::bf16) == "bf16");
  CHECK_FALSE(parse_dtype("F32"));
  CHECK_FALSE(parse_dtype(""));
  CHECK(dtype_size(Dtype::f32) == 4);
  CHECK(dtype_size(Dtype::f16) == 2);
  CHECK(dtype_size(Dtype::bf16) == 2);
  CHECK(dtype_size(Dtype::i8) == 1);
  CHECK(dtype_size(Dtype::i32) == 4);
}

TEST_CASE("convert_elements crosses its internal blocks") {
  const size_t n = 5000;
  std::vector<int32_t> source(n);
  for (size_t i = 0; i < n; i++) source[i] = static_cast<int32_t>(i % 2048) - 1024;  // exact in f16
  std::vector<uint16_t> half(n);
  convert_elements(Dtype::i32, source.data(), Dtype::f16, half.data(), n);
  std::vector<uint16_t> brain(n);
  convert_elements(Dtype::f16, half.data(), Dtype::bf16, brain.data(), n);
  for (size_t i = 0; i < n; i++) {
    REQUIRE(f16_to_f32(half[i]) == static_cast<float>(source[i]));
    REQUIRE(brain[i] == f32_to_bf16(static_cast<float>(source[i])));
  }
}

TEST_CASE("floats do not become integers") {
  const float value = 1.5F;
  int32_t target = 42;
  CHECK_FALSE(can_convert(Dtype::f32, Dtype::i32));
  CHECK_FALSE(can_convert(Dtype::f16, Dtype::i8));
  CHECK_FALSE(can_convert(Dtype::i32, Dtype::i8));
  convert_elements(Dtype::f32, &value, Dtype::i32, &target, 1);
  CHECK(target == 42);
  const int8_t small = -7;
  convert_elements(Dtype::i8, &small, Dtype::i32, &target, 1);
  CHECK(target == -7);
}
