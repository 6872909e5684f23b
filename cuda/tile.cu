// Tiles of codes, bit for bit as native/kernels/impl/tile.h makes them. A thread takes 8 neighbouring numbers, the 4, 8 or 16 lanes of a
// group agree on its range by shuffles, and each thread has several chunks of 8 on their way at once.
#include "index.cuh"
#include "memory.h"

namespace latentwire::cuda {
namespace {

constexpr int threads = 256;
constexpr int chunk = 8;
// Chunks of a thread.
constexpr int depth = 4;
constexpr int parts_at_once = 64;

struct Parts {
  TilePart part[parts_at_once];
};

// One launch: rows of all parts from `first_row` on.
struct Job {
  int64_t stride;
  const int32_t* cells;
  int64_t code_row;
  int64_t first_row;
  int64_t all_rows;  // of a part
  int64_t first_part;
  int64_t* first_bad;
  Divisor row_chunks;  // chunks of a row: whole groups
  uint32_t chunks;     // of this launch
  uint32_t columns;
  uint32_t groups;
  int group_shift;  // 5, 6, 7
  TileScale scale;
  bool vector;  // chunks are whole, and lie at multiples of their size
};

// Where a chunk lies.
struct Place {
  uint32_t row;  // of this launch
  uint32_t column;
  int count;    // numbers, 0 to 8
  bool behind;  // the end of the launch: no chunk, at the place of the last one
};

__device__ inline Place place_of(const Job& job, uint32_t at) noexcept {
  const uint32_t inside = min(at, job.chunks - 1);
  const uint32_t row = job.row_chunks.quotient(inside);
  const uint32_t column = (inside - row * job.row_chunks.by) * chunk;
  const int left = static_cast<int>(job.columns) - static_cast<int>(column);
  return {row, column, at < job.chunks ? min(max(left, 0), chunk) : 0, at >= job.chunks};
}

// The places of a thread, and the rows of numbers that they belong to.
struct Places {
  Place place[depth];
  int64_t row[depth];

  __device__ explicit Places(const Job& job) noexcept {
#pragma unroll
    for (int i = 0; i < depth; i++) {
      place[i] = place_of(job, (blockIdx.x * depth + i) * threads + threadIdx.x);
      row[i] = job.first_row + place[i].row;
    }
    if (job.cells == nullptr) return;
#pragma unroll
    for (int i = 0; i < depth; i++) row[i] = job.cells[row[i]];
  }
  // Of the numbers. The columns of no chunk at all are those of the last one, so that loads need no condition.
  __device__ int64_t number(const Job& job, int i) const noexcept {
    return row[i] * job.stride + min(place[i].column, job.columns - min(job.columns, static_cast<uint32_t>(chunk)));
  }
};

template <class T>
struct Chunk {
  uint4 words[sizeof(T) / 2];
};

template <bool vector, class T>
__device__ inline Chunk<T> load_chunk(const T* p, int count) noexcept {
  Chunk<T> c;
  if constexpr (vector) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(T) / 2); i++) c.words[i] = load_once(reinterpret_cast<const uint4*>(p) + i);
  } else {
    T numbers[chunk];
#pragma unroll
    for (int i = 0; i < chunk; i++) numbers[i] = i < count ? p[i] : from_float<T>(0);
    __builtin_memcpy(&c, numbers, sizeof(c));
  }
  return c;
}
template <bool vector, class T>
__device__ inline void store_chunk(const Chunk<T>& c, T* p, int count) noexcept {
  if constexpr (vector) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(T) / 2); i++) store_once(reinterpret_cast<uint4*>(p) + i, c.words[i]);
  } else {
    T numbers[chunk];
    __builtin_memcpy(numbers, &c, sizeof(c));
#pragma unroll
    for (int i = 0; i < chunk; i++) {
      if (i < count) p[i] = numbers[i];
    }
  }
}
__device__ inline void floats_of(const Chunk<float>& c, float (&x)[chunk]) noexcept {
  float half[4];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    unpack(c.words[i], half, float{});
#pragma unroll
    for (int j = 0; j < 4; j++) x[4 * i + j] = half[j];
  }
}
template <class T>
__device__ inline void floats_of(const Chunk<T>& c, float (&x)[chunk]) noexcept {
  unpack(c.words[0], x, T{});
}
template <class T>
__device__ inline Chunk<T> chunk_of(const float (&x)[chunk]) noexcept {
  if constexpr (sizeof(T) == 4) {
    return {{{__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])},
             {__float_as_uint(x[4]), __float_as_uint(x[5]), __float_as_uint(x[6]), __float_as_uint(x[7])}}};
  } else {
    return {{pack(x, T{})}};
  }
}

// Over the lanes of a group.
template <class Op>
__device__ inline int over_group(int x, int group_shift, Op op) noexcept {
  x = op(x, __shfl_xor_sync(all_lanes, x, 1));
  x = op(x, __shfl_xor_sync(all_lanes, x, 2));
  if (group_shift > 5) x = op(x, __shfl_xor_sync(all_lanes, x, 4));
  if (group_shift > 6) x = op(x, __shfl_xor_sync(all_lanes, x, 8));
  return x;
}

// The order of floats as that of integers, -0 before 0; and back.
__device__ inline int turn(int bits) noexcept { return bits ^ ((bits >> 31) & 0x7FFF'FFFF); }

constexpr int infinity_bits = 0x7F80'0000;

__host__ __device__ constexpr float levels_of(TileCode code) noexcept {
  return code == TileCode::fp8 ? 448.0F : code == TileCode::i8 ? 127.0F : code == TileCode::i4 ? 7.0F : 15.0F;
}

// What is stored of a scale (up) or a minimum (down), and the number that this is. False if it is too large for the type.
template <bool up>
__device__ inline bool stored(TileScale type, float* value, uint32_t* bits) noexcept {
  if (type == TileScale::f32) {
    *bits = __float_as_uint(*value);
    return true;
  }
  if (type == TileScale::ue8m0) {
    *bits = (__float_as_uint(*value) + 0x7F'FFFFU) >> 23;
    *value = __uint_as_float(*bits << 23);
    return true;
  }
  const __half half = __float2half_rn(*value);
  const float nearest = __half2float(half);
  int pattern = __half_as_ushort(half);
  if (up)
    pattern += static_cast<int>(nearest < *value);
  else
    pattern += static_cast<int>(nearest > *value) * (2 * (pattern >> 15) - 1);
  *bits = static_cast<uint32_t>(pattern) & 0xFFFFU;
  *value = __half2float(__ushort_as_half(static_cast<uint16_t>(*bits)));
  return (*bits & 0x7C00U) != 0x7C00U;
}
__device__ inline void put(TileScale type, void* out, int64_t at, uint32_t bits) noexcept {
  if (type == TileScale::f32)
    static_cast<uint32_t*>(out)[at] = bits;
  else if (type == TileScale::f16)
    static_cast<uint16_t*>(out)[at] = static_cast<uint16_t>(bits);
  else
    static_cast<uint8_t*>(out)[at] = static_cast<uint8_t>(bits);
}
// Scales or minima of several groups: all loads first, then what they are as numbers.
__device__ inline void get(TileScale type, const void* in, const int64_t (&at)[depth], float (&out)[depth]) noexcept {
  uint32_t bits[depth];
  if (type == TileScale::f32) {
#pragma unroll
    for (int i = 0; i < depth; i++) bits[i] = static_cast<const uint32_t*>(in)[at[i]];
  } else if (type == TileScale::f16) {
#pragma unroll
    for (int i = 0; i < depth; i++) bits[i] = static_cast<const uint16_t*>(in)[at[i]];
  } else {
#pragma unroll
    for (int i = 0; i < depth; i++) bits[i] = static_cast<const uint8_t*>(in)[at[i]];
  }
#pragma unroll
  for (int i = 0; i < depth; i++) {
    if (type == TileScale::f32)
      out[i] = __uint_as_float(bits[i]);
    else if (type == TileScale::f16)
      out[i] = __half2float(__ushort_as_half(static_cast<uint16_t>(bits[i])));
    else  // 255 is NaN, 0 is 2^-127
      out[i] = __uint_as_float(bits[i] == 255 ? 0x7FC0'0000U : bits[i] == 0 ? 0x40'0000U : bits[i] << 23);
  }
}

struct Range {
  float inverse;
  float minimum;
  uint32_t scale_bits;
  uint32_t minimum_bits;
  bool good;
};

// What the numbers of a group span: the bits of the largest magnitude, or the keys of the least and the largest number.
struct Span {
  int low;
  int high;
};
template <TileCode code, bool vector>
__device__ inline Span span_of(const float (&x)[chunk], int count, int group_shift) noexcept {
  if constexpr (code == TileCode::i4_zero) {
    int low = 0x7FFF'FFFF;
    int high = -0x7FFF'FFFF - 1;
#pragma unroll
    for (int i = 0; i < chunk; i++) {
      const int key = turn(__float_as_int(x[i]));
      const bool here = vector || i < count;
      low = here ? min(low, key) : low;
      high = here ? max(high, key) : high;
    }
    if (vector && count == 0) {
      low = 0x7FFF'FFFF;
      high = -0x7FFF'FFFF - 1;
    }
    return {over_group(low, group_shift, [](int a, int b) { return min(a, b); }),
            over_group(high, group_shift, [](int a, int b) { return max(a, b); })};
  } else {
    // missing numbers are zeros
    int largest = 0;
#pragma unroll
    for (int i = 0; i < chunk; i++) largest = max(largest, __float_as_int(x[i]) & 0x7FFF'FFFF);
    if (count == 0) largest = 0;
    return {0, over_group(largest, group_shift, [](int a, int b) { return max(a, b); })};
  }
}

// The scale that follows from a span, and what is stored of it.
template <TileCode code>
__device__ inline Range range_of(Span s, TileScale type) noexcept {
  Range r = {0, 0, 0, 0, true};
  float span;
  if constexpr (code == TileCode::i4_zero) {
    r.good = s.high < infinity_bits && s.low >= -infinity_bits;
    r.minimum = __int_as_float(turn(s.low));
    r.good &= stored<false>(type, &r.minimum, &r.minimum_bits);
    span = __fsub_rn(__int_as_float(turn(s.high)), r.minimum);
  } else {
    r.good = s.high < infinity_bits;
    span = __int_as_float(s.high);
  }
  constexpr float levels = levels_of(code);
  constexpr float slack = levels > 127 ? 1.0625F : 1.000001F;
  float scale = __fdiv_rn(span, levels);
  // below that there is no inverse in f32
  if (scale < 0x1p-127F) scale = 0;
  float most = __fmul_rn(scale, levels * slack);
  if constexpr (code == TileCode::i4_zero) most = __fadd_rn(most, r.minimum);
  r.good &= most <= 0x1.fffffep127F;
  r.good &= stored<true>(type, &scale, &r.scale_bits);
  r.inverse = scale > 0 ? __fdiv_rn(1.0F, scale) : 0.0F;
  return r;
}

// |y| <= 448, to nearest, ties to even: two codes, the first in the low byte.
__device__ inline uint32_t e4m3_pair(float low, float high) noexcept {
#if __CUDA_ARCH__ >= 890
  uint16_t both;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(high), "f"(low));
  return both;
#else
  const auto one = [](float y) {
    // as the CPU: adding a power of two whose last place is that of the result rounds
    const int bits = __float_as_int(y);
    const int exponent = max(bits & infinity_bits, 121 << 23);
    const int code = static_cast<int>(static_cast<uint32_t>(exponent) >> 20) + ((20 << 23) - (121 << 3));
    const int sum = __float_as_int(__fadd_rn(fabsf(y), __int_as_float(exponent + code)));
    return static_cast<uint32_t>((sum & 127) | ((bits >> 24) & 128));
  };
  return one(low) | (one(high) << 8);
#endif
}

// |y| < 2^21 rounded to an integer, in the low bits.
__device__ inline uint32_t rounded(float y) noexcept { return __float_as_uint(__fadd_rn(y, 12582912.0F)); }

template <class T, TileCode code, bool vector>
__device__ inline void quantise_chunks(const TilePart& part, const Job& job) noexcept {
  constexpr int bits = code == TileCode::fp8 || code == TileCode::i8 ? 8 : 4;
  const Places places(job);
  Chunk<T> raw[depth];
#pragma unroll
  for (int i = 0; i < depth; i++) {
    // a chunk behind the columns of its row begins where there is nothing to read one by one
    const int64_t at = vector ? places.number(job, i) : places.row[i] * job.stride + places.place[i].column;
    raw[i] = load_chunk<vector>(static_cast<const T*>(part.numbers) + at, places.place[i].count);
  }
  // Each lane of four works out the scale of one of their four groups (a group has at least four lanes), and tells the others.
  static_assert(depth == 4);
  const int lane = static_cast<int>(threadIdx.x % 32);
  Span own = {0, 0};
  Place own_place = places.place[0];
#pragma unroll
  for (int i = 0; i < depth; i++) {
    float x[chunk];
    floats_of(raw[i], x);
    const Span span = span_of<code, vector>(x, places.place[i].count, job.group_shift);
    if (lane % depth == i) {
      own = span;
      own_place = places.place[i];
    }
  }
  const Range range = range_of<code>(own, job.scale);
  // of the lanes that worked out the same, the first of the group
  const uint32_t group_column = own_place.column & ~((1U << job.group_shift) - 1);
  const bool first = (own_place.column - group_column) / chunk < depth;
  const bool exists = first && !own_place.behind;
  if (exists) {
    const int64_t row = job.first_row + own_place.row;
    const int64_t at = row * job.groups + (group_column >> job.group_shift);
    put(job.scale, part.scales, at, range.scale_bits);
    if constexpr (code == TileCode::i4_zero) put(job.scale, part.minima, at, range.minimum_bits);
    if (!range.good)
      atomicMin(reinterpret_cast<unsigned long long*>(job.first_bad),
                static_cast<unsigned long long>((job.first_part + blockIdx.y) * job.all_rows + row));
  }
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const Place& p = places.place[i];
    const int teller = (lane & ~(depth - 1)) | i;
    const float inverse = __shfl_sync(all_lanes, range.inverse, teller);
    const float minimum = code == TileCode::i4_zero ? __shfl_sync(all_lanes, range.minimum, teller) : 0.0F;
    if (p.count == 0) continue;
    const int64_t row = job.first_row + p.row;
    float x[chunk];
    floats_of(raw[i], x);
    float y[chunk];
#pragma unroll
    for (int j = 0; j < chunk; j++) {
      if constexpr (code == TileCode::i4_zero)
        y[j] = __fmul_rn(__fsub_rn(x[j], minimum), inverse);
      else
        y[j] = __fmul_rn(x[j], inverse);
    }
    uint8_t* out = part.codes + row * job.code_row + static_cast<int64_t>(p.column) * bits / 8;
    uint32_t words[2] = {};
    if constexpr (code == TileCode::fp8) {
#pragma unroll
      for (int j = 0; j < 2; j++) words[j] = e4m3_pair(y[4 * j], y[4 * j + 1]) | (e4m3_pair(y[4 * j + 2], y[4 * j + 3]) << 16);
    } else if constexpr (code == TileCode::i8) {
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const uint32_t first = __byte_perm(rounded(y[4 * j]), rounded(y[4 * j + 1]), 0x0040);
        const uint32_t second = __byte_perm(rounded(y[4 * j + 2]), rounded(y[4 * j + 3]), 0x0040);
        words[j] = __byte_perm(first, second, 0x5410);
      }
    } else {
#pragma unroll
      for (int j = 0; j < chunk; j++) {
        // the padding of a zero point is no zero
        const uint32_t symbol = vector || j < p.count ? rounded(y[j]) & 15U : 0U;
        words[0] |= symbol << (4 * j);
      }
    }
    if constexpr (!vector) {
#pragma unroll
      for (int j = 0; j < bits; j++) {
        if (j * 8 < p.count * bits) out[j] = static_cast<uint8_t>(words[j / 4] >> (8 * (j % 4)));
      }
    } else if constexpr (bits == 8) {
      *reinterpret_cast<uint2*>(out) = {words[0], words[1]};
    } else {
      *reinterpret_cast<uint32_t*>(out) = words[0];
    }
  }
}

template <class T, TileCode code>
__global__ void __launch_bounds__(threads) quantise_kernel(const __grid_constant__ Parts parts, const __grid_constant__ Job job) {
  if (job.vector)
    quantise_chunks<T, code, true>(parts.part[blockIdx.y], job);
  else
    quantise_chunks<T, code, false>(parts.part[blockIdx.y], job);
}

// 8 codes as numbers.
template <TileCode code>
__device__ inline void numbers_of(const uint32_t (&words)[2], float (&x)[chunk]) noexcept {
  if constexpr (code == TileCode::fp8) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const auto both = static_cast<uint16_t>(words[j / 2] >> (16 * (j % 2)));
#if __CUDA_ARCH__ >= 890
      uint32_t halves;
      asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(both));
      __half2 pair;
      __builtin_memcpy(&pair, &halves, sizeof(pair));
      const float2 f = __half22float2(pair);
      x[2 * j] = f.x;
      x[2 * j + 1] = f.y;
#else
#pragma unroll
      for (int k = 0; k < 2; k++) {
        const uint32_t byte = (both >> (8 * k)) & 255U;
        const uint32_t half = (byte & 127U) == 127U ? 0x7FFFU : ((byte & 128U) << 8) | ((byte & 127U) << 7);
        x[2 * j + k] = __half2float(__ushort_as_half(static_cast<uint16_t>(half))) * 256.0F;
      }
#endif
    }
  } else if constexpr (code == TileCode::i8) {
    // behind 2^23, the sign turned: 2^23 + 128 too many
#pragma unroll
    for (int j = 0; j < chunk; j++)
      x[j] = __uint_as_float(__byte_perm(words[j / 4] ^ 0x8080'8080U, 0x4B00'0000U, 0x7440U | static_cast<uint32_t>(j % 4))) - 8388736.0F;
  } else {
    constexpr bool is_signed = code == TileCode::i4;
    const uint32_t word = is_signed ? words[0] ^ 0x8888'8888U : words[0];
#pragma unroll
    for (int j = 0; j < chunk; j++)
      x[j] = __uint_as_float(((word >> (4 * j)) & 15U) | 0x4B00'0000U) - (is_signed ? 8388616.0F : 8388608.0F);
  }
}

template <class T, TileCode code, bool vector>
__device__ inline void dequantise_chunks(const TilePart& part, const Job& job) noexcept {
  constexpr int bits = code == TileCode::fp8 || code == TileCode::i8 ? 8 : 4;
  const Places places(job);
  uint32_t words[depth][2] = {};
  int64_t group[depth];
  float scale[depth];
  float minimum[depth];
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const Place& p = places.place[i];
    const uint32_t column = min(p.column, job.columns - 1);
    const int64_t row = job.first_row + p.row;
    const uint8_t* from = part.codes + row * job.code_row + static_cast<int64_t>(vector ? column & ~7U : p.column) * bits / 8;
    if constexpr (!vector) {
#pragma unroll
      for (int j = 0; j < bits; j++) {
        if (j * 8 < p.count * bits) words[i][j / 4] |= static_cast<uint32_t>(from[j]) << (8 * (j % 4));
      }
    } else if constexpr (bits == 8) {
      const uint2 both = __ldcs(reinterpret_cast<const uint2*>(from));
      words[i][0] = both.x;
      words[i][1] = both.y;
    } else {
      words[i][0] = __ldcs(reinterpret_cast<const uint32_t*>(from));
    }
    group[i] = row * job.groups + (column >> job.group_shift);
  }
  get(job.scale, part.scales, group, scale);
  if constexpr (code == TileCode::i4_zero) get(job.scale, part.minima, group, minimum);
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const Place& p = places.place[i];
    if (p.count == 0) continue;
    float x[chunk];
    numbers_of<code>(words[i], x);
#pragma unroll
    for (int j = 0; j < chunk; j++) {
      if constexpr (code == TileCode::i4_zero)
        x[j] = __fmaf_rn(x[j], scale[i], minimum[i]);
      else
        x[j] = __fmul_rn(x[j], scale[i]);
    }
    store_chunk<vector>(chunk_of<T>(x), static_cast<T*>(part.numbers) + places.row[i] * job.stride + p.column, p.count);
  }
}

template <class T, TileCode code>
__global__ void __launch_bounds__(threads) dequantise_kernel(const __grid_constant__ Parts parts, const __grid_constant__ Job job) {
  if (job.vector)
    dequantise_chunks<T, code, true>(parts.part[blockIdx.y], job);
  else
    dequantise_chunks<T, code, false>(parts.part[blockIdx.y], job);
}

bool valid(const TileArgs& a) noexcept {
  const TileFormat& f = a.format;
  const bool fits = f.code == TileCode::fp8 ? f.scale != TileScale::f16 : f.scale != TileScale::ue8m0;
  return fits && (f.group == 32 || f.group == 64 || f.group == 128) && a.rows >= 0 && a.columns >= 0 && a.columns < most_index / 2 &&
         a.part_count >= 0;
}

template <TileCode code>
using CodeTag = std::integral_constant<TileCode, code>;
template <class F>
cudaError_t for_code(TileCode code, F f) noexcept {
  switch (code) {
    case TileCode::fp8:
      return f(CodeTag<TileCode::fp8>{});
    case TileCode::i8:
      return f(CodeTag<TileCode::i8>{});
    case TileCode::i4:
      return f(CodeTag<TileCode::i4>{});
    case TileCode::i4_zero:
      return f(CodeTag<TileCode::i4_zero>{});
  }
  return cudaErrorInvalidValue;
}

// Calls launch(grid, parts, job) for as many parts and rows as fit a launch.
template <class Launch>
cudaError_t by_launches(const TileArgs& a, Launch launch) noexcept {
  const TileFormat& f = a.format;
  const int64_t element = static_cast<int64_t>(dtype_size(a.dtype));
  const int64_t row_chunks = f.groups(a.columns) * f.group / chunk;
  const int64_t rows_at_once = most_index / 2 / row_chunks;
  for (int64_t first = 0; first < a.part_count; first += parts_at_once) {
    const int64_t count = a.part_count - first < parts_at_once ? a.part_count - first : parts_at_once;
    Parts parts;
    bool vector = a.columns % chunk == 0 && a.stride * element % 16 == 0;
    for (int64_t i = 0; i < count; i++) {
      parts.part[i] = a.parts[first + i];
      vector = vector && aligned(parts.part[i].numbers, 16) && aligned(parts.part[i].codes, static_cast<size_t>(f.code_bits()));
    }
    for (int64_t row = 0; row < a.rows; row += rows_at_once) {
      const int64_t rows = a.rows - row < rows_at_once ? a.rows - row : rows_at_once;
      Job job;
      job.stride = a.stride;
      job.cells = a.cells;
      job.code_row = f.row_code_bytes(a.columns);
      job.first_row = row;
      job.all_rows = a.rows;
      job.first_part = first;
      job.first_bad = a.first_bad;
      job.row_chunks = Divisor(static_cast<uint32_t>(row_chunks));
      job.chunks = static_cast<uint32_t>(rows * row_chunks);
      job.columns = static_cast<uint32_t>(a.columns);
      job.groups = static_cast<uint32_t>(f.groups(a.columns));
      job.group_shift = f.group == 32 ? 5 : f.group == 64 ? 6 : 7;
      job.scale = f.scale;
      job.vector = vector;
      const dim3 grid(ceil_div<uint32_t>(job.chunks, threads * depth), static_cast<uint32_t>(count));
      launch(grid, parts, job);
      LATENT_CUDA_TRY(cudaGetLastError());
    }
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t quantise(const TileArgs& args, cudaStream_t stream) noexcept {
  if (!valid(args)) return cudaErrorInvalidValue;
  LATENT_CUDA_TRY(cudaMemsetAsync(args.first_bad, 0x7F, sizeof(int64_t), stream));
  if (args.rows == 0 || args.columns == 0) return cudaSuccess;
  return for_dtype(args.dtype, [&](auto element) {
    return for_code(args.format.code, [&](auto code) {
      return by_launches(args, [&](dim3 grid, const Parts& parts, const Job& job) {
        quantise_kernel<decltype(element), decltype(code)::value><<<grid, threads, 0, stream>>>(parts, job);
      });
    });
  });
}

cudaError_t dequantise(const TileArgs& args, cudaStream_t stream) noexcept {
  if (!valid(args)) return cudaErrorInvalidValue;
  if (args.rows == 0 || args.columns == 0) return cudaSuccess;
  return for_dtype(args.dtype, [&](auto element) {
    return for_code(args.format.code, [&](auto code) {
      return by_launches(args, [&](dim3 grid, const Parts& parts, const Job& job) {
        dequantise_kernel<decltype(element), decltype(code)::value><<<grid, threads, 0, stream>>>(parts, job);
      });
    });
  });
}

}  // namespace latentwire::cuda
