// Plain C++, one lane: every processor, and the table that the others are compared with.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/dtype.h"
#include "kernels/impl/gemm.h"
#include "kernels/impl/probe.h"
#include "kernels/impl/rows.h"
#include "kernels/impl/thought.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

struct Scalar {
  using F = float;
  using M = bool;
  using I = int32_t;
  static constexpr int lanes = 1;
  static constexpr int max_rows = 1;
  template <int>
  static constexpr int panels_for = 1;

  static void prefetch(const float*) noexcept {}
  static F zero() noexcept { return 0; }
  static F set(float x) noexcept { return x; }
  static F load(const float* p) noexcept { return *p; }
  static F load_part(const float* p, int64_t) noexcept { return *p; }
  static void store(float* p, F x) noexcept { *p = x; }
  static void store_part(float* p, F x, int64_t) noexcept { *p = x; }
  static F load_f16(const uint16_t* p) noexcept { return f16_to_f32(*p); }
  static F load_bf16(const uint16_t* p) noexcept { return bf16_to_f32(*p); }
  static void store_f16(uint16_t* p, F x) noexcept { *p = f32_to_f16(x); }
  static void store_bf16(uint16_t* p, F x) noexcept { *p = f32_to_bf16(x); }
  static void store_u8(uint8_t* p, F x, int64_t) noexcept { *p = static_cast<uint8_t>(std::nearbyint(x)); }
  static F add(F a, F b) noexcept { return a + b; }
  static F sub(F a, F b) noexcept { return a - b; }
  static F mul(F a, F b) noexcept { return a * b; }
  static F div(F a, F b) noexcept { return a / b; }
  static F fma(F a, F b, F c) noexcept { return a * b + c; }
  static F min(F a, F b) noexcept { return a < b ? a : b; }
  static F max(F a, F b) noexcept { return a > b ? a : b; }
  static F abs(F a) noexcept { return std::fabs(a); }
  static F copy_sign(F magnitude, F sign) noexcept { return std::copysign(magnitude, sign); }
  static F round(F a) noexcept { return std::nearbyint(a); }
  static M less(F a, F b) noexcept { return a < b; }
  static F select(M m, F yes, F no) noexcept { return m ? yes : no; }
  static F scale(F x, F n) noexcept { return std::isnan(n) ? n : std::ldexp(x, static_cast<int>(n)); }
  static float reduce_add(F a) noexcept { return a; }
  static float reduce_max(F a) noexcept { return a; }
  static M less_equal(F a, F b) noexcept { return a <= b; }
  static uint32_t bits(M m) noexcept { return m ? 1 : 0; }
  static float from_half(uint16_t half) noexcept { return f16_to_f32(half); }
  static I load_u8(const uint8_t* p) noexcept { return *p; }
  static I load_i8(const uint8_t* p) noexcept { return static_cast<int8_t>(*p); }
  template <int Shift, int Width>
  static I field(I x) noexcept {
    return (x >> Shift) & ((1 << Width) - 1);
  }
  static F from_i32(I x) noexcept { return static_cast<F>(x); }
  static F from_i32_difference(const int32_t* dot, const int32_t* sums, int32_t offset, int64_t) noexcept {
    return static_cast<float>(*dot - offset * *sums);
  }
};

struct ScalarCodes {
  using I = int32_t;
  static constexpr int lanes = 1;
  static constexpr int max_rows = 1;
  static constexpr int32_t offset = 0;
  template <int>
  static constexpr int panels_for = 1;

  static I zero() noexcept { return 0; }
  static I load(const int32_t* p) noexcept { return *p; }
  static void store(int32_t* p, I x) noexcept { *p = x; }
  static I add(I a, I b) noexcept { return a + b; }
  static I load_codes(const int8_t* p) noexcept {
    I packed;
    std::memcpy(&packed, p, sizeof(packed));
    return packed;
  }
  static I broadcast_codes(const uint8_t* p) noexcept {
    I packed;
    std::memcpy(&packed, p, sizeof(packed));
    return packed;
  }
  static I dot(I sum, I x, I w) noexcept {
    for (int byte = 0; byte < 4; byte++) {
      const auto u = static_cast<int32_t>((static_cast<uint32_t>(x) >> (8 * byte)) & 255U) - 128;
      const auto s = static_cast<int32_t>(static_cast<int8_t>((static_cast<uint32_t>(w) >> (8 * byte)) & 255U));
      sum += u * s;
    }
    return sum;
  }
};

}  // namespace

void install_scalar(Kernels& table) noexcept {
  install_float_gemm<Scalar>(table.gemm);
  install_code_gemm<ScalarCodes>(table.gemm);
  install_rows<Scalar>(table.rows);
  install_probe<Scalar>(table.probe);
  install_thought<Scalar>(table.thought);
}

}  // namespace latentwire
