// The bf16 extension of arm64: 2 rows of 4 bf16 times 2 outputs of 4 in one instruction. Products are exact and two are added at a time;
// sums are rounded to odd, not to nearest, and denormals taken for 0, so the caller keeps rows and matrices away in which they would count.
#include <arm_neon.h>

#include "kernels/impl/mmla.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

struct MmlaBf16 : Bf16Pairs {
  using Sum = float32x4_t;

  static Sum zero() noexcept { return vdupq_n_f32(0); }
  static Sum load(const float* p) noexcept { return vld1q_f32(p); }
  static void store(float* p, Sum x) noexcept { vst1q_f32(p, x); }
  static Sum add(Sum a, Sum b) noexcept { return vaddq_f32(a, b); }
  static Sum multiply(Sum sum, uint8x16_t x, uint8x16_t w) noexcept {
    return vbfmmlaq_f32(sum, vreinterpretq_bf16_u8(x), vreinterpretq_bf16_u8(w));
  }
  static Sum first_rows(Sum a, Sum b) noexcept { return vcombine_f32(vget_low_f32(a), vget_low_f32(b)); }
  static Sum second_rows(Sum a, Sum b) noexcept { return vcombine_f32(vget_high_f32(a), vget_high_f32(b)); }
};

}  // namespace

void install_neon_bf16(Kernels& table) noexcept { table.gemm.bf16_rows = gemm<MmlaTiles<MmlaBf16>>; }

}  // namespace latentwire
