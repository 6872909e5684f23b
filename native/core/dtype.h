// Element types of tensors, and the conversions between the 16-bit floats and f32. Portable scalar code: exact for denormals, infinities
// and NaN, rounding to nearest, ties to even. The kernels room has faster variants; these are what they are tested against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace latentwire {

enum class Dtype { f32, f16, bf16, i8, i32 };

// Bytes of one element.
constexpr size_t dtype_size(Dtype dtype) noexcept {
  switch (dtype) {
    case Dtype::f32:
    case Dtype::i32:
      return 4;
    case Dtype::f16:
    case Dtype::bf16:
      return 2;
    case Dtype::i8:
      break;
  }
  return 1;
}

// The public spelling: "f32", "f16", "bf16", "i8" or "i32".
std::string_view dtype_name(Dtype dtype) noexcept;
// The type spelled `name`, or nothing.
std::optional<Dtype> parse_dtype(std::string_view name) noexcept;

float f16_to_f32(uint16_t half) noexcept;
float bf16_to_f32(uint16_t brain) noexcept;
// Magnitudes of 65520 and above become an infinity; a NaN stays a (quiet) NaN of the same sign.
uint16_t f32_to_f16(float value) noexcept;
uint16_t f32_to_bf16(float value) noexcept;

// [n] each; `in` and `out` must not overlap.
void f16_to_f32(const uint16_t* in, float* out, size_t n) noexcept;
void bf16_to_f32(const uint16_t* in, float* out, size_t n) noexcept;
void f32_to_f16(const float* in, uint16_t* out, size_t n) noexcept;
void f32_to_bf16(const float* in, uint16_t* out, size_t n) noexcept;

// f32, f16 or bf16.
constexpr bool is_float(Dtype dtype) noexcept { return dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16; }
// Element `at` of an array of a float type.
float float_element(Dtype dtype, const void* data, int64_t at) noexcept;

// True if `convert_elements` knows the pair: every type to a float type, i8 to i32, and a type to itself. Floats have no road to integers
// here, because that needs a scale.
bool can_convert(Dtype from, Dtype to) noexcept;
// Converts [n] elements; nothing happens unless `can_convert`. i32 goes to bf16 by way of f32. `in` and `out` must not overlap.
void convert_elements(Dtype from, const void* in, Dtype to, void* out, size_t n) noexcept;

}  // namespace latentwire
