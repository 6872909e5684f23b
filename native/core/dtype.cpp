#include "core/dtype.h"

#include <array>
#include <bit>
#include <cmath>

namespace latentwire {
namespace {

struct Row {
  Dtype dtype;
  std::string_view name;
  size_t size;
};
constexpr std::array<Row, 5> table = {{{Dtype::f32, "f32", 4}, {Dtype::f16, "f16", 2}, {Dtype::bf16, "bf16", 2}, {Dtype::i8, "i8", 1}, {Dtype::i32, "i32", 4}}};

}  // namespace

size_t dtype_size(Dtype dtype) noexcept { return table[static_cast<size_t>(dtype)].size; }
std::string_view dtype_name(Dtype dtype) noexcept { return table[static_cast<size_t>(dtype)].name; }

std::optional<Dtype> parse_dtype(std::string_view name) noexcept {
  for (const Row& row : table) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

float f16_to_f32(uint16_t bits) noexcept {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16U;
  const uint32_t exponent = (bits >> 10U) & 0x1FU;
  const uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000U | (mantissa << 13U));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23U) | (mantissa << 13U));
  // denormal: mantissa * 2^-24
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return sign != 0 ? -magnitude : magnitude;
}

uint16_t f32_to_f16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16U) & 0x8000U);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<uint16_t>(sign | 0x7E00U);  // NaN, quiet
  if (magnitude >= 0x477FF000U) return static_cast<uint16_t>(sign | 0x7C00U);  // rounds to 65536 or more
  if (magnitude < 0x38800000U) {
    // denormal in f16: adding 0.5 leaves the result in the low mantissa bits, rounded to nearest even by the addition itself
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000U));
  }
  const uint32_t odd = (magnitude >> 13U) & 1U;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000U + 0xFFFU + odd) >> 13U));
}

float bf16_to_f32(uint16_t bits) noexcept { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16U); }

uint16_t f32_to_bf16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16U) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}

}  // namespace latentwire
