// AVX-512 VNNI: four products of u8 and s8 a lane in one instruction, summed in 32 bits without saturation.
#include <immintrin.h>

#include "kernels/impl/gemm.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

struct VnniCodes : Codes {
  using I = __m512i;
  static constexpr int lanes = 16;
  static constexpr int max_rows = 8;
  static constexpr int32_t offset = 128;
  template <int R>
  static constexpr int panels_for = R == 8   ? 3
                                    : R == 4 ? 6
                                             : 8;

  static I zero() noexcept { return _mm512_setzero_si512(); }
  static I load(const int32_t* p) noexcept { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, I x) noexcept { _mm512_storeu_si512(p, x); }
  static I add(I a, I b) noexcept { return _mm512_add_epi32(a, b); }
  static I load_group(const int8_t* p) noexcept { return _mm512_loadu_si512(p); }
  static I broadcast_group(const uint8_t* p) noexcept {
    int32_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return _mm512_set1_epi32(packed);
  }
  static I dot(I sum, I x, I w) noexcept { return _mm512_dpbusd_epi32(sum, x, w); }
};

}  // namespace

void install_avx512_vnni(Kernels& table) noexcept { install_code_gemm<VnniCodes>(table.gemm); }

}  // namespace latentwire
