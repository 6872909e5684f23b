// NEON of arm64: 32 registers of 4 lanes. The widest tile is 4 rows of one panel, 16 accumulators, with 4 registers of panel.
#include <arm_neon.h>

#include "kernels/impl/gemm.h"
#include "kernels/impl/probe.h"
#include "kernels/impl/rows.h"
#include "kernels/impl/thought.h"
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
  static uint32_t bits(M m) noexcept {
    constexpr uint32_t place[lanes] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(m, vld1q_u32(place)));
  }
  static float from_half(uint16_t half) noexcept { return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0); }
  static I load_u8(const uint8_t* p) noexcept {
    uint32_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(packed))))));
  }
  static I load_i8(const uint8_t* p) noexcept {
    uint32_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(packed)))));
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
};

// Products of s8 in 16 bits, added in pairs to 32 and then to the lane of their group.
struct NeonCodes {
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
  static I load_codes(const int8_t* p) noexcept { return vreinterpretq_s32_s8(vld1q_s8(p)); }
  static I broadcast_codes(const uint8_t* p) noexcept {
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

}  // namespace

void install_neon(Kernels& table) noexcept {
  install_float_gemm<Neon>(table.gemm);
  install_code_gemm<NeonCodes>(table.gemm);
  install_rows<Neon>(table.rows);
  install_probe<Neon>(table.probe);
  install_thought<Neon>(table.thought);
}

}  // namespace latentwire
