// AVX-512 BF16: two products of bf16 a lane in one instruction, exact, added to an f32 sum one after the other. It takes denormals for 0
// and gives none, so the caller keeps rows and matrices away in which they would count.
#include <immintrin.h>

#include <bit>

#include "kernels/impl/gemm.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

struct Bf16Rows : Bf16Pairs {
  using I = __m512;
  static constexpr int lanes = 16;
  static constexpr int max_rows = 8;
  template <int R>
  static constexpr int panels_for = R == 8   ? 3
                                    : R == 4 ? 6
                                             : 8;

  static I zero() noexcept { return _mm512_setzero_ps(); }
  static I load(const float* p) noexcept { return _mm512_loadu_ps(p); }
  static void store(float* p, I x) noexcept { _mm512_storeu_ps(p, x); }
  static I add(I a, I b) noexcept { return _mm512_add_ps(a, b); }
  static I load_group(const uint16_t* p) noexcept { return _mm512_loadu_ps(p); }
  static I broadcast_group(const uint16_t* p) noexcept {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof(pair));
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
  }
  static I broadcast_half(const uint16_t* p) noexcept { return _mm512_castsi512_ps(_mm512_set1_epi32(*p)); }
  static I dot(I sum, I x, I w) noexcept { return _mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(x), std::bit_cast<__m512bh>(w)); }
};

}  // namespace

void install_avx512_bf16(Kernels& table) noexcept { install_bf16_rows<Bf16Rows>(table.gemm); }

}  // namespace latentwire
