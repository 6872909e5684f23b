// Kernels over one contiguous row: the norms, rescales and activations around a matrix product.
#pragma once

#include <cstdint>

namespace latentwire {

enum class Activation { identity, gelu, silu, tanh };

struct RowKernels {
  // Sum of squares in f32; an overflow gives an infinity, and a NaN or an infinity in x never a finite number.
  float (*sum_of_squares)(const float* x, int64_t n) noexcept = nullptr;
  float (*sum)(const float* x, int64_t n) noexcept = nullptr;
  // max |x|; a NaN in x gives NaN.
  float (*max_abs)(const float* x, int64_t n) noexcept = nullptr;
  // Both in one pass; `*squares` as sum_of_squares gives it.
  float (*max_abs_and_squares)(const float* x, int64_t n, float* squares) noexcept = nullptr;
  bool (*all_finite)(const float* x, int64_t n) noexcept = nullptr;
  // out = x * scale + shift; may be in place.
  void (*affine)(const float* x, int64_t n, float scale, float shift, float* out) noexcept = nullptr;
  // out = x * weight + bias, element by element; either may be nullptr. May be in place.
  void (*affine_by_column)(const float* x, int64_t n, const float* weight, const float* bias, float* out) noexcept = nullptr;
  void (*add)(const float* x, const float* y, int64_t n, float* out) noexcept = nullptr;
  // In place. gelu is x Phi(x) by erf; silu is x / (1 + exp(-x)).
  void (*activate)(Activation activation, float* x, int64_t n) noexcept = nullptr;
  // out[i] = round(x[i] * inverse_scale + 128): the u8 codes of the int8 product. |x * inverse_scale| must not exceed 127.
  void (*quantise_u8)(const float* x, int64_t n, float inverse_scale, uint8_t* out) noexcept = nullptr;
  // out[i] = (dot[i] - offset sums[i]) * row_scale * scales[i]: the int32 sums of an int8 tile as numbers.
  void (*dequantise)(const int32_t* dot, int64_t n, int32_t offset, const int32_t* sums, float row_scale, const float* scales,
                     float* out) noexcept = nullptr;
  void (*from_f16)(const uint16_t* x, int64_t n, float* out) noexcept = nullptr;
  void (*from_bf16)(const uint16_t* x, int64_t n, float* out) noexcept = nullptr;
  void (*to_f16)(const float* x, int64_t n, uint16_t* out) noexcept = nullptr;
  void (*to_bf16)(const float* x, int64_t n, uint16_t* out) noexcept = nullptr;
};

}  // namespace latentwire
