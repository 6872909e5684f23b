// AVX2 with FMA and F16C: 16 registers of 8 lanes. The widest tile is 6 rows of one panel: 12 accumulators, 2 registers of panel, 1
// broadcast.
#include <immintrin.h>

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
#include "kernels/impl/xxh3.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

alignas(32) constexpr int32_t part_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

__m256i part_mask(int64_t n) noexcept { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part_masks + 8 - n)); }

template <int R>
constexpr int avx2_panels = R == 1   ? 4
                            : R == 2 ? 2
                                     : 1;

struct Avx2 {
  using F = __m256;
  using M = __m256;
  using I = __m256i;
  static constexpr int lanes = 8;
  static constexpr int max_rows = 6;
  template <int R>
  static constexpr int panels_for = avx2_panels<R>;

  static void prefetch(const float* p) noexcept { __builtin_prefetch(p); }
  static F zero() noexcept { return _mm256_setzero_ps(); }
  static F set(float x) noexcept { return _mm256_set1_ps(x); }
  static F load(const float* p) noexcept { return _mm256_loadu_ps(p); }
  static F load_part(const float* p, int64_t n) noexcept { return _mm256_maskload_ps(p, part_mask(n)); }
  static void store(float* p, F x) noexcept { _mm256_storeu_ps(p, x); }
  static void store_part(float* p, F x, int64_t n) noexcept { _mm256_maskstore_ps(p, part_mask(n), x); }
  static F load_f16(const uint16_t* p) noexcept { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load_bf16(const uint16_t* p) noexcept {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  // of `lanes` pairs of bf16, the first and the second of each
  static F load_bf16_even(const uint16_t* p) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 16));
  }
  static F load_bf16_odd(const uint16_t* p) noexcept {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_set1_epi32(-0x10000)));
  }
  static void store_f16(uint16_t* p, F x) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // to nearest, ties to even; a NaN stays one
  static void store_bf16(uint16_t* p, F x) noexcept { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bf16(x)); }
  static __m128i bf16(F x) noexcept {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i half = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0xD8);
    return _mm256_castsi256_si128(packed);
  }
  static void store_u8(uint8_t* p, F x, int64_t n) noexcept {
    const __m256i codes = _mm256_cvtps_epi32(x);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    const __m128i bytes = _mm_packus_epi16(words, words);
    if (n == lanes) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes);
      return;
    }
    alignas(16) uint8_t buffer[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(buffer), bytes);
    for (int64_t i = 0; i < n; i++) p[i] = buffer[i];
  }
  static F add(F a, F b) noexcept { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) noexcept { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) noexcept { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) noexcept { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) noexcept { return _mm256_fmadd_ps(a, b, c); }
  static F min(F a, F b) noexcept { return _mm256_min_ps(a, b); }
  static F max(F a, F b) noexcept { return _mm256_max_ps(a, b); }
  static F abs(F a) noexcept { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
  static F copy_sign(F magnitude, F sign) noexcept {
    const F bit = _mm256_set1_ps(-0.0F);
    return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
  }
  static F round(F a) noexcept { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static M less(F a, F b) noexcept { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static F select(M m, F yes, F no) noexcept { return _mm256_blendv_ps(no, yes, m); }
  // x * 2^n in two steps, so that results may be denormal and 2^n need not be a number
  static F scale(F x, F n) noexcept {
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    const auto power = [](__m256i e) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23)); };
    return _mm256_mul_ps(_mm256_mul_ps(x, power(half)), power(_mm256_sub_epi32(whole, half)));
  }
  static float reduce_add(F a) noexcept {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  static float reduce_max(F a) noexcept {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  static M less_equal(F a, F b) noexcept { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
  static uint32_t mask_bits(M m) noexcept { return static_cast<uint32_t>(_mm256_movemask_ps(m)); }
  static float from_half(uint16_t half) noexcept { return _cvtsh_ss(half); }
  static I load_u8(const uint8_t* p) noexcept { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
  template <int Shift, int Width>
  static I field(I x) noexcept {
    return _mm256_and_si256(_mm256_srli_epi32(x, Shift), _mm256_set1_epi32((1 << Width) - 1));
  }
  static F from_i32(I x) noexcept { return _mm256_cvtepi32_ps(x); }
  static F from_i32_difference(const int32_t* dot, const int32_t* sums, int32_t offset, int64_t n) noexcept {
    const __m256i mask = part_mask(n);
    const __m256i shift = _mm256_mullo_epi32(_mm256_maskload_epi32(sums, mask), _mm256_set1_epi32(offset));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_maskload_epi32(dot, mask), shift));
  }

  // As integers.
  static I bits(F x) noexcept { return _mm256_castps_si256(x); }
  static F from_bits(I x) noexcept { return _mm256_castsi256_ps(x); }
  static I to_int(F x) noexcept { return _mm256_cvtps_epi32(x); }
  static I truncate(F x) noexcept { return _mm256_cvttps_epi32(x); }
  static F to_float(I x) noexcept { return _mm256_cvtepi32_ps(x); }
  static I set_int(int32_t x) noexcept { return _mm256_set1_epi32(x); }
  static I add_int(I a, I b) noexcept { return _mm256_add_epi32(a, b); }
  static I sub_int(I a, I b) noexcept { return _mm256_sub_epi32(a, b); }
  static I and_int(I a, I b) noexcept { return _mm256_and_si256(a, b); }
  static I max_int(I a, I b) noexcept { return _mm256_max_epi32(a, b); }
  // bits of a where the mask has ones, else of b
  static I select_bits(I mask, I a, I b) noexcept { return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b)); }
  template <int n>
  static I shift_right(I a) noexcept {
    return _mm256_srli_epi32(a, n);
  }
  template <int n>
  static I shift_right_signed(I a) noexcept {
    return _mm256_srai_epi32(a, n);
  }
  static I load_int(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  // the largest of n (a multiple of 32) numbers without their sign bits
  static uint32_t max_bits16(const uint16_t* p, int64_t n) noexcept {
    const __m256i mask = _mm256_set1_epi16(0x7fff);
    __m256i most = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 16) most = _mm256_max_epu16(most, _mm256_and_si256(load_int(p + i), mask));
    const __m128i half = _mm_max_epu16(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    return 0xffffU - static_cast<uint32_t>(_mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(-1))), 0));
  }
  // the least and the largest key of n (a multiple of 32) numbers: bits, those below the sign of a negative number turned round
  static void extremes16(const uint16_t* p, int64_t n, int32_t* low, int32_t* high) noexcept {
    __m256i least = _mm256_set1_epi16(0x7fff);
    __m256i most = _mm256_set1_epi16(-0x8000);
    for (int64_t i = 0; i < n; i += 16) {
      const __m256i x = load_int(p + i);
      const __m256i key = _mm256_xor_si256(x, _mm256_srli_epi16(_mm256_srai_epi16(x, 15), 1));
      least = _mm256_min_epi16(least, key);
      most = _mm256_max_epi16(most, key);
    }
    // phminposuw finds the least of unsigned words
    const __m256i a = _mm256_xor_si256(least, _mm256_set1_epi16(-0x8000));
    const __m256i b = _mm256_xor_si256(most, _mm256_set1_epi16(0x7fff));
    const __m128i l = _mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
    const __m128i h = _mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1)));
    *low = _mm_extract_epi16(l, 0) - 0x8000;
    *high = 0x7fff - _mm_extract_epi16(h, 0);
  }
  static void extremes32(const float* p, int64_t n, int32_t* low, int32_t* high) noexcept {
    __m256i least = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_set1_epi32(-0x7fffffff - 1);
    for (int64_t i = 0; i < n; i += 8) {
      const __m256i x = load_int(p + i);
      const __m256i key = _mm256_xor_si256(x, _mm256_srli_epi32(_mm256_srai_epi32(x, 31), 1));
      least = _mm256_min_epi32(least, key);
      most = _mm256_max_epi32(most, key);
    }
    __m128i l = _mm_min_epi32(_mm256_castsi256_si128(least), _mm256_extracti128_si256(least, 1));
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    l = _mm_min_epi32(l, _mm_shuffle_epi32(l, 0x4E));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4E));
    *low = _mm_cvtsi128_si32(_mm_min_epi32(l, _mm_shuffle_epi32(l, 0xB1)));
    *high = _mm_cvtsi128_si32(_mm_max_epi32(h, _mm_shuffle_epi32(h, 0xB1)));
  }
  static uint32_t max_bits32(const float* p, int64_t n) noexcept {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 8) most = _mm256_max_epi32(most, _mm256_and_si256(load_int(p + i), mask));
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1))));
  }

  // Bytes: 4 vectors of integers, saturated to s8, in order.
  static I bytes(I a, I b, I c, I d) noexcept {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d)), order);
  }
  static void store_i8(uint8_t* p, I a, I b, I c, I d) noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes(a, b, c, d)); }
  // the low 4 bits of 4 vectors, the first of a pair in the low half of a byte
  static void store_i4(uint8_t* p, I a, I b, I c, I d) noexcept {
    const __m256i low = _mm256_and_si256(bytes(a, b, c, d), _mm256_set1_epi8(15));
    const __m256i words = _mm256_maddubs_epi16(low, _mm256_set1_epi16(0x1001));
    const __m128i pairs = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), pairs);
  }
  static F load_i8(const uint8_t* p) noexcept {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  // the 4-bit numbers of `lanes` bytes, each byte xor `flip`
  static void load_u4(const uint8_t* p, int flip, F* a, F* b) noexcept {
    const __m128i pairs = _mm_xor_si128(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), _mm_set1_epi8(static_cast<char>(flip)));
    const __m128i low = _mm_and_si128(pairs, _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(pairs, 4), _mm_set1_epi8(15));
    const __m128i all = _mm_unpacklo_epi8(low, high);
    *a = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(all));
    *b = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(all, 8)));
  }
  // A code with its fraction at the top of that of an f16 is 2^-8 of its value, denormals included; the code of NaN gets its exponent.
  static F load_e4m3(const uint8_t* p) noexcept {
    const __m128i wide = _mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))), 7);
    const __m128i magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x3f80));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x4000)), 1);
    const __m128i nan = _mm_and_si128(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x3f80)), _mm_set1_epi16(0x7c00));
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(_mm_or_si128(magnitude, sign), nan)), _mm256_set1_ps(256.0F));
  }

  // Stores past the caches, to aligned addresses; other cores see them in order only after a fence.
  // n, a multiple of 64, bytes to a multiple of 64
  static void stream_copy(uint8_t* to, const uint8_t* from, int64_t n) noexcept {
    for (int64_t i = 0; i < n; i += 32) _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), load_int(from + i));
  }
  static void fence() noexcept { _mm_sfence(); }

  // The Walsh-Hadamard transform of the lanes: each stage adds the neighbour at some distance to x or to -x.
  static F hadamard(F x) noexcept {
    x = _mm256_add_ps(_mm256_permute_ps(x, 0xB1), _mm256_xor_ps(x, _mm256_setr_ps(0, -0.0F, 0, -0.0F, 0, -0.0F, 0, -0.0F)));
    x = _mm256_add_ps(_mm256_permute_ps(x, 0x4E), _mm256_xor_ps(x, _mm256_setr_ps(0, 0, -0.0F, -0.0F, 0, 0, -0.0F, -0.0F)));
    return _mm256_add_ps(_mm256_permute2f128_ps(x, x, 1), _mm256_xor_ps(x, _mm256_setr_ps(0, 0, 0, 0, -0.0F, -0.0F, -0.0F, -0.0F)));
  }
};

// u8 times s8 in pairs would overflow 16 bits, so the sign of x moves to w first: 2 * 127 * 127 fits.
struct Avx2Codes : Codes {
  using I = __m256i;
  static constexpr int lanes = 8;
  static constexpr int max_rows = 4;
  static constexpr int32_t offset = 0;
  template <int R>
  static constexpr int panels_for = R == 1 ? 2 : 1;

  static I zero() noexcept { return _mm256_setzero_si256(); }
  static I load(const int32_t* p) noexcept { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(int32_t* p, I x) noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static I add(I a, I b) noexcept { return _mm256_add_epi32(a, b); }
  static I load_group(const int8_t* p) noexcept { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static I broadcast_group(const uint8_t* p) noexcept {
    int32_t packed;
    __builtin_memcpy(&packed, p, sizeof(packed));
    return _mm256_xor_si256(_mm256_set1_epi32(packed), _mm256_set1_epi8(-128));
  }
  static I dot(I sum, I x, I w) noexcept {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

// 64-bit lanes, for the hash.
struct Avx2Hash {
  using I = __m256i;
  static constexpr int lanes = 4;

  static I load(const void* p) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store(void* p, I x) noexcept { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  static I set(uint32_t x) noexcept { return _mm256_set1_epi32(static_cast<int32_t>(x)); }
  static I add(I a, I b) noexcept { return _mm256_add_epi64(a, b); }
  static I exclusive_or(I a, I b) noexcept { return _mm256_xor_si256(a, b); }
  // of the low halves
  static I multiply(I a, I b) noexcept { return _mm256_mul_epu32(a, b); }
  static I high_halves(I a) noexcept { return _mm256_shuffle_epi32(a, 0x31); }
  static I swap_lanes(I a) noexcept { return _mm256_shuffle_epi32(a, 0x4E); }
  template <int n>
  static I shift_right(I a) noexcept {
    return _mm256_srli_epi64(a, n);
  }
  template <int n>
  static I shift_left(I a) noexcept {
    return _mm256_slli_epi64(a, n);
  }
};

// f64: 4 rows of one panel, 8 sums.
struct Avx2Doubles {
  using D = __m256d;
  static constexpr int lanes = 4;
  static constexpr int rows = 4;
  static constexpr int panels = 1;

  static D set(double x) noexcept { return _mm256_set1_pd(x); }
  static D load(const double* p) noexcept { return _mm256_loadu_pd(p); }
  static void store(double* p, D x) noexcept { _mm256_storeu_pd(p, x); }
  static D sub(D a, D b) noexcept { return _mm256_sub_pd(a, b); }
  static D fma(D a, D b, D c) noexcept { return _mm256_fmadd_pd(a, b, c); }
};

// Of which bytes each 32-bit lane is made when it is rotated right by n, a multiple of 8.
struct ByteOrder {
  alignas(32) uint8_t from[32] = {};
  explicit constexpr ByteOrder(int n) noexcept {
    for (int i = 0; i < 32; i++) from[i] = static_cast<uint8_t>(i / 4 * 4 % 16 + (i + n / 8) % 4);
  }
};
template <int n>
constexpr ByteOrder byte_orders{n};

// 32-bit integers, of which 4 are a part: for BLAKE3, and to transpose.
struct Avx2Words {
  using I = __m256i;
  static constexpr int lanes = 8;

  static I set(uint32_t x) noexcept { return _mm256_set1_epi32(static_cast<int32_t>(x)); }
  static I load(const uint32_t* p) noexcept { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(uint8_t* p, I x) noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  // each part from where `at` says, or there
  template <class At>
  static I load_parts(At at) noexcept {
    const auto part = [&](int p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at(p))); };
    return _mm256_inserti128_si256(_mm256_castsi128_si256(part(0)), part(1), 1);
  }
  template <class At>
  static void store_parts(I x, At at) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at(0)), _mm256_castsi256_si128(x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at(1)), _mm256_extracti128_si256(x, 1));
  }
  static I add(I a, I b) noexcept { return _mm256_add_epi32(a, b); }
  static I exclusive_or(I a, I b) noexcept { return _mm256_xor_si256(a, b); }
  template <int n>
  static I rotate_right(I a) noexcept {
    if constexpr (n % 8 == 0) {
      // The order stays in memory: the compiler would keep it in a register, of which the state of BLAKE3 needs all, and spill more than
      // this load costs. 11 % of a digest.
      I turned;
      asm("vpshufb %2, %1, %0" : "=x"(turned) : "x"(a), "m"(byte_orders<n>));
      return turned;
    } else {
      return _mm256_or_si256(_mm256_srli_epi32(a, n), _mm256_slli_epi32(a, 32 - n));
    }
  }
  // The lower halves of parts of n elements, an element of each in turn; then the upper halves.
  template <int n>
  static I zip_low(I a, I b) noexcept {
    return n == 8 ? _mm256_unpacklo_epi16(a, b) : _mm256_unpacklo_epi32(a, b);
  }
  template <int n>
  static I zip_high(I a, I b) noexcept {
    return n == 8 ? _mm256_unpackhi_epi16(a, b) : _mm256_unpackhi_epi32(a, b);
  }
};

}  // namespace

void install_avx2(Kernels& table) noexcept {
  install_float_gemm<Avx2>(table.gemm);
  install_code_gemm<Avx2Codes>(table.gemm);
  install_rows<Avx2>(table.rows);
  install_probe<Avx2>(table.probe);
  install_thought<Avx2>(table.thought);
  install_tiles<Avx2>(table.tiles);
  install_blocks<Avx2>(table.blocks);
  install_stats<Avx2>(table.stats);
  table.stats.xxh3_blocks = xxh3_blocks<Avx2Hash>;
  install_codebook<Avx2>(table.codebook);
  install_doubles<Avx2Doubles>(table.doubles);
  install_transpose<Avx2, Avx2Words>(table.transpose);
  install_blake3<Avx2Words>(table.blake3);
}

}  // namespace latentwire
