// NEON of arm64: 32 registers of 4 lanes. The widest tile is 4 rows of one panel, 16 accumulators, with 4 registers of panel.
#include <arm_neon.h>

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

struct Neon {
  using F = float32x4_t;
  using M = uint32x4_t;
  using I = int32x4_t;
  static constexpr int lanes = 4;
  static constexpr int max_rows = 4;
  template <int R>
  static constexpr int panels_for = R == 1   ? 4
                                    : R == 2 ? 2
                                             : 1;

  static void prefetch(const float* p) noexcept { __builtin_prefetch(p); }
  static F zero() noexcept { return vdupq_n_f32(0); }
  static F set(float x) noexcept { return vdupq_n_f32(x); }
  static F load(const float* p) noexcept { return vld1q_f32(p); }
  static F load_part(const float* p, int64_t n) noexcept {
    float buffer[lanes] = {};
    for (int64_t i = 0; i < n; i++) buffer[i] = p[i];
    return vld1q_f32(buffer);
  }
  static void store(float* p, F x) noexcept { vst1q_f32(p, x); }
  static void store_part(float* p, F x, int64_t n) noexcept {
    float buffer[lanes];
    vst1q_f32(buffer, x);
    for (int64_t i = 0; i < n; i++) p[i] = buffer[i];
  }
  static F load_f16(const uint16_t* p) noexcept { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static F load_bf16(const uint16_t* p) noexcept { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
  // of `lanes` pairs of bf16, the first and the second of each
  static F load_bf16_even(const uint16_t* p) noexcept {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(vld1q_u16(p)), 16));
  }
  static F load_bf16_odd(const uint16_t* p) noexcept {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(vld1q_u16(p)), vdupq_n_u32(0xffff0000U)));
  }
  static void store_f16(uint16_t* p, F x) noexcept { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
  // to nearest, ties to even; a NaN stays one
  static void store_bf16(uint16_t* p, F x) noexcept {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    const uint32x4_t quiet = vorrq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(0x40));
    vst1_u16(p, vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet)));
  }
  static void store_u8(uint8_t* p, F x, int64_t n) noexcept {
    const uint16x4_t words = vqmovn_u32(vcvtnq_u32_f32(x));
    uint8_t buffer[8];
    vst1_u8(buffer, vqmovn_u16(vcombine_u16(words, words)));
    for (int64_t i = 0; i < n; i++) p[i] = buffer[i];
  }
  static F add(F a, F b) noexcept { return vaddq_f32(a, b); }
  static F sub(F a, F b) noexcept { return vsubq_f32(a, b); }
  static F mul(F a, F b) noexcept { return vmulq_f32(a, b); }
  static F div(F a, F b) noexcept { return vdivq_f32(a, b); }
  static F fma(F a, F b, F c) noexcept { return vfmaq_f32(c, a, b); }
  static F min(F a, F b) noexcept { return vminq_f32(a, b); }
  static F max(F a, F b) noexcept { return vmaxq_f32(a, b); }
  static F abs(F a) noexcept { return vabsq_f32(a); }
  static F copy_sign(F magnitude, F sign) noexcept { return vbslq_f32(vdupq_n_u32(0x80000000U), sign, magnitude); }
  static F round(F a) noexcept { return vrndnq_f32(a); }
  static M less(F a, F b) noexcept { return vcltq_f32(a, b); }
  static F select(M m, F yes, F no) noexcept { return vbslq_f32(m, yes, no); }
  // x * 2^n in two steps, so that results may be denormal and 2^n need not be a number; a NaN in n comes with one in x
  static F scale(F x, F n) noexcept {
    const int32x4_t whole = vcvtnq_s32_f32(n);
    const int32x4_t half = vshrq_n_s32(whole, 1);
    const auto power = [](int32x4_t e) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e, vdupq_n_s32(127)), 23)); };
    return vmulq_f32(vmulq_f32(x, power(half)), power(vsubq_s32(whole, half)));
  }
  static float reduce_add(F a) noexcept { return vaddvq_f32(a); }
  static float reduce_max(F a) noexcept { return vmaxvq_f32(a); }
  static M less_equal(F a, F b) noexcept { return vcleq_f32(a, b); }
  static uint32_t mask_bits(M m) noexcept {
    constexpr uint32_t place[lanes] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(m, vld1q_u32(place)));
  }
  static float from_half(uint16_t half) noexcept { return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0); }
  static I load_u8(const uint8_t* p) noexcept {
    uint32_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(packed))))));
  }
  template <int Shift, int Width>
  static I field(I x) noexcept {
    return vandq_s32(vshlq_s32(x, vdupq_n_s32(-Shift)), vdupq_n_s32((1 << Width) - 1));
  }
  static F from_i32(I x) noexcept { return vcvtq_f32_s32(x); }
  static F from_i32_difference(const int32_t* dot, const int32_t* sums, int32_t offset, int64_t n) noexcept {
    int32_t a[lanes] = {};
    int32_t b[lanes] = {};
    for (int64_t i = 0; i < n; i++) {
      a[i] = dot[i];
      b[i] = sums[i];
    }
    return vcvtq_f32_s32(vmlsq_n_s32(vld1q_s32(a), vld1q_s32(b), offset));
  }

  // As integers.
  static I bits(F x) noexcept { return vreinterpretq_s32_f32(x); }
  static F from_bits(I x) noexcept { return vreinterpretq_f32_s32(x); }
  static I to_int(F x) noexcept { return vcvtnq_s32_f32(x); }
  static I truncate(F x) noexcept { return vcvtq_s32_f32(x); }
  static F to_float(I x) noexcept { return vcvtq_f32_s32(x); }
  static I set_int(int32_t x) noexcept { return vdupq_n_s32(x); }
  static I add_int(I a, I b) noexcept { return vaddq_s32(a, b); }
  static I sub_int(I a, I b) noexcept { return vsubq_s32(a, b); }
  static I and_int(I a, I b) noexcept { return vandq_s32(a, b); }
  static I max_int(I a, I b) noexcept { return vmaxq_s32(a, b); }
  // bits of a where the mask has ones, else of b
  static I select_bits(I mask, I a, I b) noexcept { return vbslq_s32(vreinterpretq_u32_s32(mask), a, b); }
  template <int n>
  static I shift_right(I a) noexcept {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), n));
  }
  template <int n>
  static I shift_right_signed(I a) noexcept {
    return vshrq_n_s32(a, n);
  }
  // the largest of n (a multiple of 32) numbers without their sign bits
  static uint32_t max_bits16(const uint16_t* p, int64_t n) noexcept {
    uint16x8_t most = vdupq_n_u16(0);
    for (int64_t i = 0; i < n; i += 8) most = vmaxq_u16(most, vandq_u16(vld1q_u16(p + i), vdupq_n_u16(0x7fff)));
    return vmaxvq_u16(most);
  }
  // the least and the largest key of n (a multiple of 32) numbers: bits, those below the sign of a negative number turned round
  static void extremes16(const uint16_t* p, int64_t n, int32_t* low, int32_t* high) noexcept {
    int16x8_t least = vdupq_n_s16(0x7fff);
    int16x8_t most = vdupq_n_s16(-0x8000);
    for (int64_t i = 0; i < n; i += 8) {
      const int16x8_t x = vreinterpretq_s16_u16(vld1q_u16(p + i));
      const int16x8_t key = veorq_s16(x, vandq_s16(vshrq_n_s16(x, 15), vdupq_n_s16(0x7fff)));
      least = vminq_s16(least, key);
      most = vmaxq_s16(most, key);
    }
    *low = vminvq_s16(least);
    *high = vmaxvq_s16(most);
  }
  static void extremes32(const float* p, int64_t n, int32_t* low, int32_t* high) noexcept {
    int32x4_t least = vdupq_n_s32(0x7fffffff);
    int32x4_t most = vdupq_n_s32(-0x7fffffff - 1);
    for (int64_t i = 0; i < n; i += 4) {
      const int32x4_t x = vreinterpretq_s32_f32(vld1q_f32(p + i));
      const int32x4_t key = veorq_s32(x, vandq_s32(vshrq_n_s32(x, 31), vdupq_n_s32(0x7fffffff)));
      least = vminq_s32(least, key);
      most = vmaxq_s32(most, key);
    }
    *low = vminvq_s32(least);
    *high = vmaxvq_s32(most);
  }
  static uint32_t max_bits32(const float* p, int64_t n) noexcept {
    uint32x4_t most = vdupq_n_u32(0);
    for (int64_t i = 0; i < n; i += 4) most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(p + i)), vdupq_n_u32(0x7fffffff)));
    return vmaxvq_u32(most);
  }

  // Bytes: 4 vectors of integers, saturated to s8, in order.
  static int8x16_t bytes(I a, I b, I c, I d) noexcept {
    return vqmovn_high_s16(vqmovn_s16(vqmovn_high_s32(vqmovn_s32(a), b)), vqmovn_high_s32(vqmovn_s32(c), d));
  }
  static void store_i8(uint8_t* p, I a, I b, I c, I d) noexcept { vst1q_u8(p, vreinterpretq_u8_s8(bytes(a, b, c, d))); }
  // the low 4 bits of 4 vectors, the first of a pair in the low half of a byte
  static void store_i4(uint8_t* p, I a, I b, I c, I d) noexcept {
    const uint16x8_t low = vreinterpretq_u16_u8(vandq_u8(vreinterpretq_u8_s8(bytes(a, b, c, d)), vdupq_n_u8(15)));
    vst1_u8(p, vmovn_u16(vorrq_u16(low, vshrq_n_u16(low, 4))));
  }
  static uint8x8_t load_bytes(const uint8_t* p) noexcept {
    uint32_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return vcreate_u8(packed);
  }
  static F load_i8(const uint8_t* p) noexcept {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_bytes(p))))));
  }
  // the 4-bit numbers of `lanes` bytes, each byte xor `flip`
  static void load_u4(const uint8_t* p, int flip, F* a, F* b) noexcept {
    const uint8x8_t pairs = veor_u8(load_bytes(p), vdup_n_u8(static_cast<uint8_t>(flip)));
    const uint16x8_t wide = vmovl_u8(vzip1_u8(vand_u8(pairs, vdup_n_u8(15)), vshr_n_u8(pairs, 4)));
    *a = vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
    *b = vcvtq_f32_u32(vmovl_u16(vget_high_u16(wide)));
  }
  // A code with its fraction at the top of that of an f16 is 2^-8 of its value, denormals included; the code of NaN gets its exponent.
  static F load_e4m3(const uint8_t* p) noexcept {
    const uint16x4_t wide = vshl_n_u16(vget_low_u16(vmovl_u8(load_bytes(p))), 7);
    const uint16x4_t magnitude = vand_u16(wide, vdup_n_u16(0x3f80));
    const uint16x4_t sign = vshl_n_u16(vand_u16(wide, vdup_n_u16(0x4000)), 1);
    const uint16x4_t nan = vand_u16(vceq_u16(magnitude, vdup_n_u16(0x3f80)), vdup_n_u16(0x7c00));
    return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vorr_u16(vorr_u16(magnitude, sign), nan))), 256.0F);
  }

  // There are no stores past the caches in C.
  // n, a multiple of 64, bytes to a multiple of 64
  static void stream_copy(uint8_t* to, const uint8_t* from, int64_t n) noexcept { __builtin_memcpy(to, from, static_cast<size_t>(n)); }
  static void fence() noexcept {}

  // The Walsh-Hadamard transform of the lanes: each stage adds the neighbour at some distance to x or to -x.
  static F hadamard(F x) noexcept {
    const uint32x4_t second = {0, 0x80000000U, 0, 0x80000000U};
    const uint32x4_t upper = {0, 0, 0x80000000U, 0x80000000U};
    const auto negate = [](F v, uint32x4_t which) { return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v), which)); };
    x = vaddq_f32(vrev64q_f32(x), negate(x, second));
    return vaddq_f32(vextq_f32(x, x, 2), negate(x, upper));
  }
};

// Products of s8 in 16 bits, added in pairs to 32 and then to the lane of their group.
struct NeonCodes : Codes {
  using I = int32x4_t;
  static constexpr int lanes = 4;
  static constexpr int max_rows = 4;
  static constexpr int32_t offset = 0;
  template <int>
  static constexpr int panels_for = 1;

  static I zero() noexcept { return vdupq_n_s32(0); }
  static I load(const int32_t* p) noexcept { return vld1q_s32(p); }
  static void store(int32_t* p, I x) noexcept { vst1q_s32(p, x); }
  static I add(I a, I b) noexcept { return vaddq_s32(a, b); }
  static I load_group(const int8_t* p) noexcept { return vreinterpretq_s32_s8(vld1q_s8(p)); }
  static I broadcast_group(const uint8_t* p) noexcept {
    uint32_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return vreinterpretq_s32_u8(veorq_u8(vreinterpretq_u8_u32(vdupq_n_u32(packed)), vdupq_n_u8(128)));
  }
  static I dot(I sum, I x, I w) noexcept {
    const int8x16_t a = vreinterpretq_s8_s32(x);
    const int8x16_t b = vreinterpretq_s8_s32(w);
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(a), vget_high_s8(b)));
    return vaddq_s32(sum, vpaddq_s32(low, high));
  }
};

// f64: 4 rows of one panel, 16 sums.
struct NeonDoubles {
  using D = float64x2_t;
  static constexpr int lanes = 2;
  static constexpr int rows = 4;
  static constexpr int panels = 1;

  static D set(double x) noexcept { return vdupq_n_f64(x); }
  static D load(const double* p) noexcept { return vld1q_f64(p); }
  static void store(double* p, D x) noexcept { vst1q_f64(p, x); }
  static D sub(D a, D b) noexcept { return vsubq_f64(a, b); }
  static D fma(D a, D b, D c) noexcept { return vfmaq_f64(c, a, b); }
};

// 32-bit integers: for BLAKE3, and to transpose.
struct NeonWords {
  using I = uint32x4_t;
  static constexpr int lanes = 4;

  static I set(uint32_t x) noexcept { return vdupq_n_u32(x); }
  static I load(const uint32_t* p) noexcept { return vld1q_u32(p); }
  static void store(uint8_t* p, I x) noexcept { vst1q_u8(p, vreinterpretq_u8_u32(x)); }
  // from where `at` says, or there
  template <class At>
  static I load_parts(At at) noexcept {
    return vreinterpretq_u32_u8(vld1q_u8(at(0)));
  }
  template <class At>
  static void store_parts(I x, At at) noexcept {
    store(at(0), x);
  }
  static I add(I a, I b) noexcept { return vaddq_u32(a, b); }
  static I exclusive_or(I a, I b) noexcept { return veorq_u32(a, b); }
  template <int n>
  static I rotate_right(I a) noexcept {
    if constexpr (n == 16)
      return vreinterpretq_u32_u16(vrev32q_u16(vreinterpretq_u16_u32(a)));
    else
      return vsriq_n_u32(vshlq_n_u32(a, 32 - n), a, n);
  }
  // The lower halves of n elements, an element of each in turn; then the upper halves.
  template <int n>
  static I zip_low(I a, I b) noexcept {
    if constexpr (n == 8)
      return vreinterpretq_u32_u16(vzip1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)));
    else
      return vzip1q_u32(a, b);
  }
  template <int n>
  static I zip_high(I a, I b) noexcept {
    if constexpr (n == 8)
      return vreinterpretq_u32_u16(vzip2q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)));
    else
      return vzip2q_u32(a, b);
  }
};

}  // namespace

void install_neon(Kernels& table) noexcept {
  install_float_gemm<Neon>(table.gemm);
  install_code_gemm<NeonCodes>(table.gemm);
  install_rows<Neon>(table.rows);
  install_probe<Neon>(table.probe);
  install_thought<Neon>(table.thought);
  install_tiles<Neon>(table.tiles);
  install_blocks<Neon>(table.blocks);
  install_stats<Neon>(table.stats);
  install_codebook<Neon>(table.codebook);
  install_doubles<NeonDoubles>(table.doubles);
  install_transpose<Neon, NeonWords>(table.transpose);
  install_blake3<NeonWords>(table.blake3);
}

}  // namespace latentwire
