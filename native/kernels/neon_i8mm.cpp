// The int8 matrix multiplication extension of arm64: 2 rows of 8 u8 codes times 2 outputs of 8 s8 codes in one instruction.
#include <arm_neon.h>

#include "kernels/impl/mmla.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

struct MmlaCodes : Codes {
  using Sum = int32x4_t;
  static constexpr int32_t offset = 128;

  static Sum zero() noexcept { return vdupq_n_s32(0); }
  static Sum load(const int32_t* p) noexcept { return vld1q_s32(p); }
  static void store(int32_t* p, Sum x) noexcept { vst1q_s32(p, x); }
  static Sum add(Sum a, Sum b) noexcept { return vaddq_s32(a, b); }
  static Sum multiply(Sum sum, uint8x16_t x, uint8x16_t w) noexcept { return vusmmlaq_s32(sum, x, vreinterpretq_s8_u8(w)); }
  static Sum first_rows(Sum a, Sum b) noexcept { return vcombine_s32(vget_low_s32(a), vget_low_s32(b)); }
  static Sum second_rows(Sum a, Sum b) noexcept { return vcombine_s32(vget_high_s32(a), vget_high_s32(b)); }
};

}  // namespace

void install_neon_i8mm(Kernels& table) noexcept {
  table.gemm.i8 = gemm<MmlaTiles<MmlaCodes>>;
  table.gemm.i8_offset = MmlaCodes::offset;
}

}  // namespace latentwire
