// Element types of tensors, and the conversions between f32 and the 16-bit floats (round to nearest even; denormals, infinities and NaN kept).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace latentwire {

enum class Dtype { f32, f16, bf16, i8, i32 };

size_t dtype_size(Dtype dtype) noexcept;
std::string_view dtype_name(Dtype dtype) noexcept;
std::optional<Dtype> parse_dtype(std::string_view name) noexcept;

float f16_to_f32(uint16_t bits) noexcept;
uint16_t f32_to_f16(float value) noexcept;
float bf16_to_f32(uint16_t bits) noexcept;
uint16_t f32_to_bf16(float value) noexcept;

}  // namespace latentwire
