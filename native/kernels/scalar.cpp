// Plain C++, one lane: every processor, and the table that the others are compared with.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/dtype.h"
#include "kernels/impl/blake3.h"
#include "kernels/impl/block.h"
#include "kernels/impl/codebook.h"
#include "kernels/impl/doubles.h"
#include "kernels/impl/gemm.h"
#include "kernels/impl/probe.h"
#include "kernels/impl/rows.h"
#include "kernels/impl/stats.h"
#include "kernels/impl/thought.h"
#include "kernels/impl/tile.h"
#include "kernels/impl/transpose.h"
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
  // of `lanes` pairs of bf16, the first and the second of each
  static F load_bf16_even(const uint16_t* p) noexcept { return bf16_to_f32(p[0]); }
  static F load_bf16_odd(const uint16_t* p) noexcept { return bf16_to_f32(p[1]); }
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
  static uint32_t mask_bits(M m) noexcept { return m ? 1 : 0; }
  static float from_half(uint16_t half) noexcept { return f16_to_f32(half); }
  static I load_u8(const uint8_t* p) noexcept { return *p; }
  template <int Shift, int Width>
  static I field(I x) noexcept {
    return (x >> Shift) & ((1 << Width) - 1);
  }
  static F from_i32(I x) noexcept { return static_cast<F>(x); }
  static F from_i32_difference(const int32_t* dot, const int32_t* sums, int32_t offset, int64_t) noexcept {
    return static_cast<float>(*dot - offset * *sums);
  }

  // As integers.
  static I bits(F x) noexcept { return std::bit_cast<int32_t>(x); }
  static F from_bits(I x) noexcept { return std::bit_cast<float>(x); }
  static I to_int(F x) noexcept { return static_cast<int32_t>(std::nearbyint(x)); }
  static I truncate(F x) noexcept { return static_cast<int32_t>(x); }
  static F to_float(I x) noexcept { return static_cast<float>(x); }
  static I set_int(int32_t x) noexcept { return x; }
  static I add_int(I a, I b) noexcept { return a + b; }
  static I sub_int(I a, I b) noexcept { return a - b; }
  static I and_int(I a, I b) noexcept { return a & b; }
  static I max_int(I a, I b) noexcept { return a > b ? a : b; }
  // bits of a where the mask has ones, else of b
  static I select_bits(I mask, I a, I b) noexcept { return (mask & a) | (~mask & b); }
  template <int n>
  static I shift_right(I a) noexcept {
    return static_cast<int32_t>(static_cast<uint32_t>(a) >> n);
  }
  template <int n>
  static I shift_right_signed(I a) noexcept {
    return a >> n;
  }
  // the largest of n (a multiple of 32) numbers without their sign bits
  static uint32_t max_bits16(const uint16_t* p, int64_t n) noexcept {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) most = std::max<uint32_t>(most, p[i] & 0x7fffU);
    return most;
  }
  // the least and the largest key of n (a multiple of 32) numbers: bits, those below the sign of a negative number turned round
  static void extremes16(const uint16_t* p, int64_t n, int32_t* low, int32_t* high) noexcept {
    *low = 0x7fff;
    *high = -0x8000;
    for (int64_t i = 0; i < n; i++) {
      const int32_t x = static_cast<int16_t>(p[i]);
      const int32_t key = x ^ ((x >> 31) & 0x7fff);
      *low = std::min(*low, key);
      *high = std::max(*high, key);
    }
  }
  static void extremes32(const float* p, int64_t n, int32_t* low, int32_t* high) noexcept {
    *low = std::numeric_limits<int32_t>::max();
    *high = std::numeric_limits<int32_t>::min();
    for (int64_t i = 0; i < n; i++) {
      const auto x = std::bit_cast<int32_t>(p[i]);
      const int32_t key = x ^ ((x >> 31) & 0x7fffffff);
      *low = std::min(*low, key);
      *high = std::max(*high, key);
    }
  }
  static uint32_t max_bits32(const float* p, int64_t n) noexcept {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) most = std::max(most, std::bit_cast<uint32_t>(p[i]) & 0x7fffffffU);
    return most;
  }

  // Bytes: 4 integers, saturated to s8.
  static void store_i8(uint8_t* p, I a, I b, I c, I d) noexcept {
    for (const I x : {a, b, c, d}) *p++ = static_cast<uint8_t>(std::clamp(x, -128, 127));
  }
  // the low 4 bits of 4, the first of a pair in the low half of a byte
  static void store_i4(uint8_t* p, I a, I b, I c, I d) noexcept {
    p[0] = static_cast<uint8_t>((a & 15) | ((b & 15) << 4));
    p[1] = static_cast<uint8_t>((c & 15) | ((d & 15) << 4));
  }
  static F load_i8(const uint8_t* p) noexcept { return static_cast<float>(static_cast<int8_t>(*p)); }
  // the 4-bit numbers of a byte xor `flip`
  static void load_u4(const uint8_t* p, int flip, F* a, F* b) noexcept {
    const int pair = *p ^ flip;
    *a = static_cast<float>(pair & 15);
    *b = static_cast<float>(pair >> 4);
  }
  static F load_e4m3(const uint8_t* p) noexcept {
    const int exponent = (*p >> 3) & 15;
    const int fraction = *p & 7;
    float x = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9) : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
    if ((*p & 127) == 127) x = std::numeric_limits<float>::quiet_NaN();
    return *p >= 128 ? -x : x;
  }

  // n, a multiple of 64, bytes to a multiple of 64
  static void stream_copy(uint8_t* to, const uint8_t* from, int64_t n) noexcept { std::memcpy(to, from, static_cast<size_t>(n)); }
  static void fence() noexcept {}

  static F hadamard(F x) noexcept { return x; }
};

struct ScalarCodes : Codes {
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
  static I load_group(const int8_t* p) noexcept {
    I packed;
    std::memcpy(&packed, p, sizeof(packed));
    return packed;
  }
  static I broadcast_group(const uint8_t* p) noexcept {
    I packed;
    std::memcpy(&packed, p, sizeof(packed));
    return packed;
  }
  static I dot(I sum, I x, I w) noexcept {
    for (int byte = 0; byte < 4; byte++) {
      const auto u = static_cast<int32_t>((static_cast<uint32_t>(x) >> (8 * byte)) & 255U) - 128;
      const int32_t s = static_cast<int32_t>(static_cast<uint32_t>(w) << (24 - 8 * byte)) >> 24;
      sum += u * s;
    }
    return sum;
  }
};

struct ScalarDoubles {
  using D = double;
  static constexpr int lanes = 1;
  static constexpr int rows = 2;
  static constexpr int panels = 1;

  static D set(double x) noexcept { return x; }
  static D load(const double* p) noexcept { return *p; }
  static void store(double* p, D x) noexcept { *p = x; }
  static D sub(D a, D b) noexcept { return a - b; }
  static D fma(D a, D b, D c) noexcept { return a * b + c; }
};

struct ScalarWords {
  static constexpr int lanes = 1;
};

}  // namespace

void install_scalar(Kernels& table) noexcept {
  install_float_gemm<Scalar>(table.gemm);
  install_code_gemm<ScalarCodes>(table.gemm);
  install_rows<Scalar>(table.rows);
  install_probe<Scalar>(table.probe);
  install_thought<Scalar>(table.thought);
  install_tiles<Scalar>(table.tiles);
  install_blocks<Scalar>(table.blocks);
  install_stats<Scalar>(table.stats);
  install_codebook<Scalar>(table.codebook);
  install_doubles<ScalarDoubles>(table.doubles);
  install_transpose<Scalar, ScalarWords>(table.transpose);
  install_blake3<ScalarWords>(table.blake3);
}

}  // namespace latentwire
