#include "core/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace latentwire {
namespace {

constexpr std::array<std::string_view, 5> names = {"f32", "f16", "bf16", "i8", "i32"};

constexpr uint32_t f32_infinity = 0x7F80'0000;
// The least f32 magnitude that f16 rounds to infinity: 65520, halfway between the largest f16 and the next power of two.
constexpr uint32_t f16_overflow = 0x477F'F000;
// The least f32 magnitude that is a normal f16: 2^-14.
constexpr uint32_t f16_least_normal = 0x3880'0000;

void widen(Dtype from, const void* in, float* out, size_t n) noexcept {
  switch (from) {
    case Dtype::f32:
      std::memcpy(out, in, n * sizeof(float));
      break;
    case Dtype::f16:
      f16_to_f32(static_cast<const uint16_t*>(in), out, n);
      break;
    case Dtype::bf16:
      bf16_to_f32(static_cast<const uint16_t*>(in), out, n);
      break;
    case Dtype::i8:
      std::copy_n(static_cast<const int8_t*>(in), n, out);
      break;
    case Dtype::i32:
      std::transform(static_cast<const int32_t*>(in), static_cast<const int32_t*>(in) + n, out,
                     [](int32_t v) { return static_cast<float>(v); });
      break;
  }
}

}  // namespace

std::string_view dtype_name(Dtype dtype) noexcept { return names[static_cast<size_t>(dtype)]; }

std::optional<Dtype> parse_dtype(std::string_view name) noexcept {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) return std::nullopt;
  return static_cast<Dtype>(found - names.begin());
}

float f16_to_f32(uint16_t half) noexcept {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
  const uint32_t exponent = (half >> 10) & 0x1FU;
  const uint32_t mantissa = half & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | f32_infinity | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  // a denormal is mantissa * 2^-24, exactly representable
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

float bf16_to_f32(uint16_t brain) noexcept { return std::bit_cast<float>(static_cast<uint32_t>(brain) << 16); }

uint16_t f32_to_f16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const uint32_t magnitude = bits & 0x7FFF'FFFFU;
  uint32_t rounded = 0;
  if (magnitude > f32_infinity) {
    rounded = 0x7E00U | ((magnitude >> 13) & 0x3FFU);
  } else if (magnitude >= f16_overflow) {
    rounded = 0x7C00U;
  } else if (magnitude >= f16_least_normal) {
    // rebias the exponent; adding just under half, plus the last kept bit, rounds ties to even and carries into the exponent
    rounded = (magnitude - (112U << 23) + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
  } else {
    // 0.5 has a unit in the last place of 2^-24, the f16 denormal step, so the addition itself rounds to it
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    rounded = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5F);
  }
  return static_cast<uint16_t>(sign | rounded);
}

uint16_t f32_to_bf16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  // a NaN whose payload sits in the dropped half would turn into an infinity
  if ((bits & 0x7FFF'FFFFU) > f32_infinity) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

void f16_to_f32(const uint16_t* in, float* out, size_t n) noexcept {
  for (size_t i = 0; i < n; i++) out[i] = f16_to_f32(in[i]);
}

void bf16_to_f32(const uint16_t* in, float* out, size_t n) noexcept {
  for (size_t i = 0; i < n; i++) out[i] = bf16_to_f32(in[i]);
}

void f32_to_f16(const float* in, uint16_t* out, size_t n) noexcept {
  for (size_t i = 0; i < n; i++) out[i] = f32_to_f16(in[i]);
}

void f32_to_bf16(const float* in, uint16_t* out, size_t n) noexcept {
  for (size_t i = 0; i < n; i++) out[i] = f32_to_bf16(in[i]);
}

float float_element(Dtype dtype, const void* data, int64_t at) noexcept {
  switch (dtype) {
    case Dtype::f16:
      return f16_to_f32(static_cast<const uint16_t*>(data)[at]);
    case Dtype::bf16:
      return bf16_to_f32(static_cast<const uint16_t*>(data)[at]);
    default:
      return static_cast<const float*>(data)[at];
  }
}

bool can_convert(Dtype from, Dtype to) noexcept {
  if (from == to || (from == Dtype::i8 && to == Dtype::i32)) return true;
  return is_float(to);
}

void convert_elements(Dtype from, const void* in, Dtype to, void* out, size_t n) noexcept {
  if (n == 0 || !can_convert(from, to)) return;
  if (from == to) {
    std::memcpy(out, in, n * dtype_size(from));
    return;
  }
  if (to == Dtype::i32) {
    std::copy_n(static_cast<const int8_t*>(in), n, static_cast<int32_t*>(out));
    return;
  }
  if (to == Dtype::f32) {
    widen(from, in, static_cast<float*>(out), n);
    return;
  }
  // through a block of f32 that stays in the first-level cache
  constexpr size_t block = 1024;
  std::array<float, block> wide;
  const auto* source = static_cast<const std::byte*>(in);
  auto* target = static_cast<uint16_t*>(out);
  for (size_t first = 0; first < n; first += block) {
    const size_t count = std::min(block, n - first);
    widen(from, source + first * dtype_size(from), wide.data(), count);
    if (to == Dtype::f16) {
      f32_to_f16(wide.data(), target + first, count);
    } else {
      f32_to_bf16(wide.data(), target + first, count);
    }
  }
}

}  // namespace latentwire
