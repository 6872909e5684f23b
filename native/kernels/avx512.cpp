// AVX-512 F, BW, VL and DQ: 32 registers of 16 lanes. The widest tile is 8 rows of 3 panels: 24 accumulators, 3 panels, 1 broadcast.
#include <immintrin.h>

#include "kernels/impl/gemm.h"
#include "kernels/impl/probe.h"
#include "kernels/impl/rows.h"
#include "kernels/impl/thought.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

template <int R>
constexpr int avx512_panels = R == 8   ? 3
                              : R == 4 ? 6
                                       : 8;

__mmask16 part(int64_t n) noexcept { return static_cast<__mmask16>((1U << n) - 1U); }

struct Avx512 {
  using F = __m512;
  using M = __mmask16;
  using I = __m512i;
  static constexpr int lanes = 16;
  static constexpr int max_rows = 8;
  template <int R>
  static constexpr int panels_for = avx512_panels<R>;

  static void prefetch(const float* p) noexcept { __builtin_prefetch(p); }
  static F zero() noexcept { return _mm512_setzero_ps(); }
  static F set(float x) noexcept { return _mm512_set1_ps(x); }
  static F load(const float* p) noexcept { return _mm512_loadu_ps(p); }
  static F load_part(const float* p, int64_t n) noexcept { return _mm512_maskz_loadu_ps(part(n), p); }
  static void store(float* p, F x) noexcept { _mm512_storeu_ps(p, x); }
  static void store_part(float* p, F x, int64_t n) noexcept { _mm512_mask_storeu_ps(p, part(n), x); }
  static F load_f16(const uint16_t* p) noexcept { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F load_bf16(const uint16_t* p) noexcept {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static void store_f16(uint16_t* p, F x) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // to nearest, ties to even; a NaN stays one
  static void store_bf16(uint16_t* p, F x) noexcept {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
  }
  static void store_u8(uint8_t* p, F x, int64_t n) noexcept {
    const __m128i codes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epu32(x));
    if (n == lanes)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes);
    else
      _mm_mask_storeu_epi8(p, part(n), codes);
  }
  static F add(F a, F b) noexcept { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) noexcept { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) noexcept { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) noexcept { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) noexcept { return _mm512_fmadd_ps(a, b, c); }
  static F min(F a, F b) noexcept { return _mm512_min_ps(a, b); }
  static F max(F a, F b) noexcept { return _mm512_max_ps(a, b); }
  static F abs(F a) noexcept { return _mm512_abs_ps(a); }
  static F copy_sign(F magnitude, F sign) noexcept {
    const F bit = _mm512_set1_ps(-0.0F);
    return _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign));
  }
  static F round(F a) noexcept { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static M less(F a, F b) noexcept { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static F select(M m, F yes, F no) noexcept { return _mm512_mask_blend_ps(m, no, yes); }
  static F scale(F x, F n) noexcept { return _mm512_scalef_ps(x, n); }
  static float reduce_add(F a) noexcept { return _mm512_reduce_add_ps(a); }
  static float reduce_max(F a) noexcept { return _mm512_reduce_max_ps(a); }
  static M less_equal(F a, F b) noexcept { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static uint32_t bits(M m) noexcept { return m; }
  static float from_half(uint16_t half) noexcept { return _cvtsh_ss(half); }
  static I load_u8(const uint8_t* p) noexcept { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static I load_i8(const uint8_t* p) noexcept { return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  template <int Shift, int Width>
  static I field(I x) noexcept {
    return _mm512_and_si512(_mm512_srli_epi32(x, Shift), _mm512_set1_epi32((1 << Width) - 1));
  }
  static F from_i32(I x) noexcept { return _mm512_cvtepi32_ps(x); }
  static F from_i32_difference(const int32_t* dot, const int32_t* sums, int32_t offset, int64_t n) noexcept {
    const __mmask16 mask = part(n);
    const __m512i shift = _mm512_mullo_epi32(_mm512_maskz_loadu_epi32(mask, sums), _mm512_set1_epi32(offset));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_maskz_loadu_epi32(mask, dot), shift));
  }
};

// As AVX2 does it, with the sign of x moved to w by a masked negation.
struct Avx512Codes {
  using I = __m512i;
  static constexpr int lanes = 16;
  static constexpr int max_rows = 4;
  static constexpr int32_t offset = 0;
  template <int R>
  static constexpr int panels_for = R == 4 ? 2 : 4;

  static I zero() noexcept { return _mm512_setzero_si512(); }
  static I load(const int32_t* p) noexcept { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, I x) noexcept { _mm512_storeu_si512(p, x); }
  static I add(I a, I b) noexcept { return _mm512_add_epi32(a, b); }
  static I load_codes(const int8_t* p) noexcept { return _mm512_loadu_si512(p); }
  static I broadcast_codes(const uint8_t* p) noexcept {
    int32_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return _mm512_xor_si512(_mm512_set1_epi32(packed), _mm512_set1_epi8(-128));
  }
  static I dot(I sum, I x, I w) noexcept {
    const __m512i signed_w = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(x), _mm512_setzero_si512(), w);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(x), signed_w);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
};

}  // namespace

void install_avx512(Kernels& table) noexcept {
  install_float_gemm<Avx512>(table.gemm);
  install_code_gemm<Avx512Codes>(table.gemm);
  install_rows<Avx512>(table.rows);
  install_probe<Avx512>(table.probe);
  install_thought<Avx512>(table.thought);
}

}  // namespace latentwire
