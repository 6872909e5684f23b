// AVX-512 F, BW, VL and DQ: 32 registers of 16 lanes. The widest tile is 8 rows of 3 panels: 24 accumulators, 3 panels, 1 broadcast.
#include <immintrin.h>

#include "kernels/impl/blake3.h"
#include "kernels/impl/codebook.h"
#include "kernels/impl/doubles.h"
#include "kernels/impl/gemm.h"
#include "kernels/impl/probe.h"
#include "kernels/impl/rows.h"
#include "kernels/impl/stats.h"
#include "kernels/impl/thought.h"
#include "kernels/impl/tile.h"
#include "kernels/impl/transpose.h"
#include "kernels/impl/xxh3.h"
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
  // of `lanes` pairs of bf16, the first and the second of each
  static F load_bf16_even(const uint16_t* p) noexcept { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16)); }
  static F load_bf16_odd(const uint16_t* p) noexcept {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(-0x10000)));
  }
  static void store_f16(uint16_t* p, F x) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // to nearest, ties to even; a NaN stays one
  static void store_bf16(uint16_t* p, F x) noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bf16(x)); }
  static __m256i bf16(F x) noexcept {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet));
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
  static uint32_t mask_bits(M m) noexcept { return m; }
  static float from_half(uint16_t half) noexcept { return _cvtsh_ss(half); }
  static I load_u8(const uint8_t* p) noexcept { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
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

  // As integers.
  static I bits(F x) noexcept { return _mm512_castps_si512(x); }
  static F from_bits(I x) noexcept { return _mm512_castsi512_ps(x); }
  static I to_int(F x) noexcept { return _mm512_cvtps_epi32(x); }
  static F to_float(I x) noexcept { return _mm512_cvtepi32_ps(x); }
  static I set_int(int32_t x) noexcept { return _mm512_set1_epi32(x); }
  static I add_int(I a, I b) noexcept { return _mm512_add_epi32(a, b); }
  static I sub_int(I a, I b) noexcept { return _mm512_sub_epi32(a, b); }
  static I and_int(I a, I b) noexcept { return _mm512_and_si512(a, b); }
  static I max_int(I a, I b) noexcept { return _mm512_max_epi32(a, b); }
  // bits of a where the mask has ones, else of b
  static I select_bits(I mask, I a, I b) noexcept { return _mm512_ternarylogic_epi32(mask, a, b, 0xCA); }
  template <int n>
  static I shift_right(I a) noexcept {
    return _mm512_srli_epi32(a, n);
  }
  template <int n>
  static I shift_right_signed(I a) noexcept {
    return _mm512_srai_epi32(a, n);
  }
  // the largest of n (a multiple of 32) numbers without their sign bits
  static uint32_t max_bits16(const uint16_t* p, int64_t n) noexcept {
    const __m512i mask = _mm512_set1_epi16(0x7fff);
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 32) most = _mm512_max_epu16(most, _mm512_and_si512(_mm512_loadu_si512(p + i), mask));
    const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
    const __m128i quarter = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return 0xffffU - static_cast<uint32_t>(_mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1))), 0));
  }
  // the least and the largest key of n (a multiple of 32) numbers: bits, those below the sign of a negative number turned round
  static void extremes16(const uint16_t* p, int64_t n, int32_t* low, int32_t* high) noexcept {
    __m512i least = _mm512_set1_epi16(0x7fff);
    __m512i most = _mm512_set1_epi16(-0x8000);
    for (int64_t i = 0; i < n; i += 32) {
      const __m512i x = _mm512_loadu_si512(p + i);
      const __m512i key = _mm512_xor_si512(x, _mm512_srli_epi16(_mm512_srai_epi16(x, 15), 1));
      least = _mm512_min_epi16(least, key);
      most = _mm512_max_epi16(most, key);
    }
    // phminposuw finds the least of unsigned words
    const __m512i a = _mm512_xor_si512(least, _mm512_set1_epi16(-0x8000));
    const __m512i b = _mm512_xor_si512(most, _mm512_set1_epi16(0x7fff));
    const __m256i lows = _mm256_min_epu16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    const __m256i highs = _mm256_min_epu16(_mm512_castsi512_si256(b), _mm512_extracti64x4_epi64(b, 1));
    const __m128i l = _mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(lows), _mm256_extracti128_si256(lows, 1)));
    const __m128i h = _mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(highs), _mm256_extracti128_si256(highs, 1)));
    *low = _mm_extract_epi16(l, 0) - 0x8000;
    *high = 0x7fff - _mm_extract_epi16(h, 0);
  }
  static void extremes32(const float* p, int64_t n, int32_t* low, int32_t* high) noexcept {
    __m512i least = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_set1_epi32(-0x7fffffff - 1);
    for (int64_t i = 0; i < n; i += 16) {
      const __m512i x = _mm512_loadu_si512(p + i);
      const __m512i key = _mm512_xor_si512(x, _mm512_srli_epi32(_mm512_srai_epi32(x, 31), 1));
      least = _mm512_min_epi32(least, key);
      most = _mm512_max_epi32(most, key);
    }
    *low = _mm512_reduce_min_epi32(least);
    *high = _mm512_reduce_max_epi32(most);
  }
  static uint32_t max_bits32(const float* p, int64_t n) noexcept {
    const __m512i mask = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 16) most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(p + i), mask));
    return static_cast<uint32_t>(_mm512_reduce_max_epi32(most));
  }

  // Bytes: 4 vectors of integers, saturated to s8, in order.
  static I bytes(I a, I b, I c, I d) noexcept {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)));
  }
  static void store_i8(uint8_t* p, I a, I b, I c, I d) noexcept { _mm512_storeu_si512(p, bytes(a, b, c, d)); }
  // the low 4 bits of 4 vectors, the first of a pair in the low half of a byte
  static void store_i4(uint8_t* p, I a, I b, I c, I d) noexcept {
    const __m512i low = _mm512_and_si512(bytes(a, b, c, d), _mm512_set1_epi8(15));
    const __m256i pairs = _mm512_cvtepi16_epi8(_mm512_maddubs_epi16(low, _mm512_set1_epi16(0x1001)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pairs);
  }
  static F load_i8(const uint8_t* p) noexcept {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  // the 4-bit numbers of `lanes` bytes, each byte xor `flip`
  static void load_u4(const uint8_t* p, int flip, F* a, F* b) noexcept {
    const __m128i pairs = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), _mm_set1_epi8(static_cast<char>(flip)));
    const __m128i low = _mm_and_si128(pairs, _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(pairs, 4), _mm_set1_epi8(15));
    *a = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high)));
    *b = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpackhi_epi8(low, high)));
  }
  // A code with its fraction at the top of that of an f16 is 2^-8 of its value, denormals included; the code of NaN gets its exponent.
  static F load_e4m3(const uint8_t* p) noexcept {
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 7);
    const __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi16(0x3f80));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x4000)), 1);
    const __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x3f80)), _mm256_set1_epi16(0x7c00));
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(_mm256_or_si256(magnitude, sign), nan)), _mm512_set1_ps(256.0F));
  }
  // the same for two vectors at once
  static void load2_e4m3(const uint8_t* p, F* a, F* b) noexcept {
    const __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    const __m512i largest = _mm512_set1_epi16(0x3f80);
    const __m512i magnitude = _mm512_and_si512(_mm512_slli_epi16(wide, 7), largest);
    // magnitude | (sign & top bit)
    const __m512i halves = _mm512_ternarylogic_epi32(magnitude, _mm512_slli_epi16(wide, 8), _mm512_set1_epi16(-0x8000), 0xF8);
    const __mmask32 nan = _mm512_cmpeq_epi16_mask(magnitude, largest);
    const __m512i all = _mm512_mask_blend_epi16(nan, halves, _mm512_or_si512(halves, _mm512_set1_epi16(0x7c00)));
    const __m512 factor = _mm512_set1_ps(256.0F);
    *a = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(all)), factor);
    *b = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(all, 1)), factor);
  }

  // Stores past the caches, to aligned addresses; other cores see them in order only after a fence.
  // n, a multiple of 64, bytes to a multiple of 64
  static void stream_copy(uint8_t* to, const uint8_t* from, int64_t n) noexcept {
    for (int64_t i = 0; i < n; i += 64) _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
  }
  static void fence() noexcept { _mm_sfence(); }

  // The Walsh-Hadamard transform of the lanes: each stage adds the neighbour at some distance to x or to -x.
  static F hadamard(F x) noexcept {
    const F minus = _mm512_set1_ps(-0.0F);
    x = _mm512_add_ps(_mm512_permute_ps(x, 0xB1), _mm512_mask_xor_ps(x, 0xAAAA, x, minus));
    x = _mm512_add_ps(_mm512_permute_ps(x, 0x4E), _mm512_mask_xor_ps(x, 0xCCCC, x, minus));
    x = _mm512_add_ps(_mm512_shuffle_f32x4(x, x, 0xB1), _mm512_mask_xor_ps(x, 0xF0F0, x, minus));
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, x, 0x4E), _mm512_mask_xor_ps(x, 0xFF00, x, minus));
  }
};

// As AVX2 does it, with the sign of x moved to w by a masked negation.
struct Avx512Codes : Codes {
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
  static I load_group(const int8_t* p) noexcept { return _mm512_loadu_si512(p); }
  static I broadcast_group(const uint8_t* p) noexcept {
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

// 64-bit lanes, for the hash.
struct Avx512Hash {
  using I = __m512i;
  static constexpr int lanes = 8;

  static I load(const void* p) noexcept { return _mm512_loadu_si512(p); }
  static void store(void* p, I x) noexcept { _mm512_storeu_si512(p, x); }
  static I set(uint32_t x) noexcept { return _mm512_set1_epi32(static_cast<int32_t>(x)); }
  static I add(I a, I b) noexcept { return _mm512_add_epi64(a, b); }
  static I exclusive_or(I a, I b) noexcept { return _mm512_xor_si512(a, b); }
  // of the low halves
  static I multiply(I a, I b) noexcept { return _mm512_mul_epu32(a, b); }
  static I high_halves(I a) noexcept { return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(0x31)); }
  static I swap_lanes(I a) noexcept { return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(0x4E)); }
  template <int n>
  static I shift_right(I a) noexcept {
    return _mm512_srli_epi64(a, n);
  }
  template <int n>
  static I shift_left(I a) noexcept {
    return _mm512_slli_epi64(a, n);
  }
};

// f64: 8 rows of 3 panels, 24 sums.
struct Avx512Doubles {
  using D = __m512d;
  static constexpr int lanes = 8;
  static constexpr int rows = 8;
  static constexpr int panels = 3;

  static D set(double x) noexcept { return _mm512_set1_pd(x); }
  static D load(const double* p) noexcept { return _mm512_loadu_pd(p); }
  static void store(double* p, D x) noexcept { _mm512_storeu_pd(p, x); }
  static D sub(D a, D b) noexcept { return _mm512_sub_pd(a, b); }
  static D fma(D a, D b, D c) noexcept { return _mm512_fmadd_pd(a, b, c); }
};

// 32-bit integers, of which 4 are a part: for BLAKE3, and to transpose.
struct Avx512Words {
  using I = __m512i;
  static constexpr int lanes = 16;

  static I set(uint32_t x) noexcept { return _mm512_set1_epi32(static_cast<int32_t>(x)); }
  static I load(const uint32_t* p) noexcept { return _mm512_loadu_si512(p); }
  static void store(uint8_t* p, I x) noexcept { _mm512_storeu_si512(p, x); }
  // each part from where `at` says, or there
  template <class At>
  static I load_parts(At at) noexcept {
    const auto part = [&](int p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at(p))); };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(part(0)), part(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(part(2)), part(3), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  template <class At>
  static void store_parts(I x, At at) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at(0)), _mm512_castsi512_si128(x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at(1)), _mm512_extracti32x4_epi32(x, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at(2)), _mm512_extracti32x4_epi32(x, 2));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at(3)), _mm512_extracti32x4_epi32(x, 3));
  }
  static I add(I a, I b) noexcept { return _mm512_add_epi32(a, b); }
  static I exclusive_or(I a, I b) noexcept { return _mm512_xor_si512(a, b); }
  template <int n>
  static I rotate_right(I a) noexcept {
    return _mm512_ror_epi32(a, n);
  }
  // The lower halves of parts of n elements, an element of each in turn; then the upper halves.
  template <int n>
  static I zip_low(I a, I b) noexcept {
    return n == 8 ? _mm512_unpacklo_epi16(a, b) : _mm512_unpacklo_epi32(a, b);
  }
  template <int n>
  static I zip_high(I a, I b) noexcept {
    return n == 8 ? _mm512_unpackhi_epi16(a, b) : _mm512_unpackhi_epi32(a, b);
  }
};

}  // namespace

void install_avx512(Kernels& table) noexcept {
  install_float_gemm<Avx512>(table.gemm);
  install_code_gemm<Avx512Codes>(table.gemm);
  install_rows<Avx512>(table.rows);
  install_probe<Avx512>(table.probe);
  install_thought<Avx512>(table.thought);
  install_tiles<Avx512>(table.tiles);
  install_stats<Avx512>(table.stats);
  table.stats.xxh3_blocks = xxh3_blocks<Avx512Hash>;
  install_codebook<Avx512>(table.codebook);
  install_doubles<Avx512Doubles>(table.doubles);
  install_transpose<Avx512, Avx512Words>(table.transpose);
  install_blake3<Avx512Words>(table.blake3);
}

}  // namespace latentwire
