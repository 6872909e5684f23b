// Eight neighbouring columns of a row of a token table as numbers, by the format: plain numbers, or the blocks of ggml as they are
// described in native/kernels/impl/thought.h.
#pragma once

#include "memory.h"

namespace latentwire::cuda {

#ifdef __CUDACC__

template <RowFormat format>
struct TokenRow;

template <class T>
struct PlainRow {
  struct Raw {
    uint4 words[sizeof(T) / 2];
  };
  // `left` columns from `column` on; `vector` if all rows lie at multiples of 16 bytes and eight columns are left.
  __device__ static Raw load(const uint8_t* row, uint32_t column, int left, bool vector) noexcept {
    const T* p = reinterpret_cast<const T*>(row) + column;
    Raw raw = {};
    if (vector) {
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(T) / 2); i++) raw.words[i] = load_once(reinterpret_cast<const uint4*>(p) + i);
    } else {
      T numbers[8];
#pragma unroll
      for (int i = 0; i < 8; i++) numbers[i] = i < left ? p[i] : from_float<T>(0);
      __builtin_memcpy(&raw, numbers, sizeof(raw));
    }
    return raw;
  }
  __device__ static void numbers(const Raw& raw, float (&x)[8]) noexcept {
    if constexpr (sizeof(T) == 2) {
      unpack(raw.words[0], x, T{});
    } else {
      __builtin_memcpy(x, &raw, sizeof(raw));
    }
  }
};
template <>
struct TokenRow<RowFormat::f32> : PlainRow<float> {};
template <>
struct TokenRow<RowFormat::f16> : PlainRow<__half> {};
template <>
struct TokenRow<RowFormat::bf16> : PlainRow<__nv_bfloat16> {};

__device__ inline float half_at(const uint8_t* p) noexcept {
  return __half2float(__ushort_as_half(static_cast<uint16_t>(p[0] | (p[1] << 8))));
}

struct BlockRow {
  struct Raw {
    float x[8];
  };
  __device__ static void numbers(const Raw& raw, float (&x)[8]) noexcept {
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = raw.x[i];
  }
};
template <>
struct TokenRow<RowFormat::q8_0> : BlockRow {
  __device__ static Raw load(const uint8_t* row, uint32_t column, int, bool) noexcept {
    const uint8_t* block = row + int64_t{column / 32} * 34;
    const float scale = half_at(block);
    Raw raw;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) raw.x[i] = __fmul_rn(scale, static_cast<float>(static_cast<int8_t>(block[2 + column % 32 + i])));
    return raw;
  }
};
template <>
struct TokenRow<RowFormat::q4_0> : BlockRow {
  __device__ static Raw load(const uint8_t* row, uint32_t column, int, bool) noexcept {
    const uint8_t* block = row + int64_t{column / 32} * 18;
    const float scale = half_at(block);
    const uint32_t shift = column % 32 < 16 ? 0 : 4;
    Raw raw;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
      const int code = (block[2 + column % 16 + i] >> shift) & 15;
      raw.x[i] = __fmul_rn(scale, static_cast<float>(code - 8));
    }
    return raw;
  }
};
template <>
struct TokenRow<RowFormat::q4_K> : BlockRow {
  __device__ static Raw load(const uint8_t* row, uint32_t column, int, bool) noexcept {
    const uint8_t* block = row + int64_t{column / 256} * 144;
    const uint8_t* packed = block + 4;
    const uint32_t pair = column % 256 / 32;
    const uint32_t j = pair & 3;
    const int of_scale = pair < 4 ? packed[j] & 63 : (packed[8 + j] & 15) | ((packed[j] >> 6) << 4);
    const int of_minimum = pair < 4 ? packed[4 + j] & 63 : (packed[8 + j] >> 4) | ((packed[4 + j] >> 6) << 4);
    const float a = __fmul_rn(half_at(block), static_cast<float>(of_scale));
    const float b = -__fmul_rn(half_at(block + 2), static_cast<float>(of_minimum));
    const uint8_t* codes = block + 16 + (pair >> 1) * 32 + column % 32;
    const uint32_t shift = (pair & 1) * 4;
    Raw raw;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) raw.x[i] = __fmaf_rn(a, static_cast<float>((codes[i] >> shift) & 15), b);
    return raw;
  }
};
template <>
struct TokenRow<RowFormat::q6_K> : BlockRow {
  __device__ static Raw load(const uint8_t* row, uint32_t column, int, bool) noexcept {
    const uint8_t* block = row + int64_t{column / 256} * 210;
    const uint32_t part = column % 256 / 128;
    const uint32_t group = column % 128 / 32;
    const uint32_t at = column % 32;
    const auto factor = static_cast<int8_t>(block[192 + part * 8 + 2 * group + at / 16]);
    const float a = __fmul_rn(half_at(block + 208), static_cast<float>(factor));
    const uint8_t* low = block + part * 64 + (group & 1) * 32 + at;
    const uint8_t* high = block + 128 + part * 32 + at;
    Raw raw;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
      const int code = ((low[i] >> (group / 2 * 4)) & 15) + 16 * ((high[i] >> (group * 2)) & 3);
      raw.x[i] = __fmul_rn(a, static_cast<float>(code - 32));
    }
    return raw;
  }
};

#endif  // __CUDACC__

}  // namespace latentwire::cuda
