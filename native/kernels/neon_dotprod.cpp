// The dot product extension of arm64: four products of s8 a lane in one instruction.
#include <arm_neon.h>

#include "kernels/impl/gemm.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

struct DotCodes : Codes {
  using I = int32x4_t;
  static constexpr int lanes = 4;
  static constexpr int max_rows = 4;
  static constexpr int32_t offset = 0;
  template <int R>
  static constexpr int panels_for = R == 1   ? 4
                                    : R == 2 ? 2
                                             : 1;

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
  static I dot(I sum, I x, I w) noexcept { return vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(w)); }
};

}  // namespace

void install_neon_dotprod(Kernels& table) noexcept { install_code_gemm<DotCodes>(table.gemm); }

}  // namespace latentwire
