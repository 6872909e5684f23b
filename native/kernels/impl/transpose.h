// The kernels of `transpose_kernels.h` over a vector type V and a type W of integer lanes in parts of 128 bits. Short elements pass in
// tiles of a cache line a row: a register holds a part of 8 or 4 rows, and of as many further down as it has parts, so that nothing has to
// cross from part to part.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/impl/stats.h"
#include "kernels/impl/unroll.h"
#include "kernels/transpose_kernels.h"

namespace latentwire {

constexpr int64_t transpose_line = 64;

// n registers of n elements a part, each part by itself: every time each register is zipped with the one half way down.
template <class W, int n>
LATENTWIRE_INLINE void transpose_parts(typename W::I (&rows)[n]) noexcept {
  LATENTWIRE_UNROLL
  for (int stage = 1; stage < n; stage *= 2) {
    typename W::I zipped[n];
    LATENTWIRE_UNROLL
    for (int i = 0; i < n / 2; i++) {
      zipped[2 * i] = W::template zip_low<n>(rows[i], rows[i + n / 2]);
      zipped[2 * i + 1] = W::template zip_high<n>(rows[i], rows[i + n / 2]);
    }
    LATENTWIRE_UNROLL
    for (int i = 0; i < n; i++) rows[i] = zipped[i];
  }
}

// A square of elements, rows of a line each, `in` at a distance, `out` one behind the other.
template <class W, class Element>
inline void transpose_tile(const uint8_t* in, int64_t stride, uint8_t* out) noexcept {
  constexpr int64_t size = sizeof(Element);
  constexpr int64_t side = transpose_line / size;
  if constexpr (W::lanes == 1) {
    for (int64_t column = 0; column < side; column++) {
      for (int64_t row = 0; row < side; row++)
        __builtin_memcpy(out + column * transpose_line + row * size, in + row * stride + column * size, size);
    }
  } else {
    constexpr int n = 16 / sizeof(Element);
    for (int64_t column = 0; column < side; column += n) {
      for (int64_t row = 0; row < side; row += n * (W::lanes / 4)) {
        typename W::I part[n];
        LATENTWIRE_UNROLL
        for (int i = 0; i < n; i++) part[i] = W::load_parts([&](int p) { return in + (row + n * p + i) * stride + column * size; });
        transpose_parts<W>(part);
        LATENTWIRE_UNROLL
        for (int i = 0; i < n; i++) W::store(out + (column + i) * transpose_line + row * size, part[i]);
      }
    }
  }
}

static inline bool transpose_is_aligned(const TransposeShape& s, const uint8_t* to) noexcept {
  return (reinterpret_cast<uintptr_t>(to) | static_cast<uintptr_t>(s.to_stride)) % static_cast<uintptr_t>(transpose_line) == 0;
}

template <class V, class W, class Element>
void transpose_elements(const TransposeShape& s, const uint8_t* from, uint8_t* to) noexcept {
  constexpr int64_t size = sizeof(Element);
  constexpr int64_t side = transpose_line / size;
  const bool stream = s.stream && transpose_is_aligned(s, to);
  alignas(64) uint8_t in[side * transpose_line] = {};
  alignas(64) uint8_t out[side * transpose_line];
  const auto tile = [&](int64_t row, int64_t column) {
    const int64_t rows = s.rows - row < side ? s.rows - row : side;
    const int64_t columns = s.columns - column < side ? s.columns - column : side;
    const uint8_t* p = from + row * s.from_stride + column * size;
    uint8_t* q = to + column * s.to_stride + row * size;
    if (rows == side && columns == side) {
      // lines of a power of two apart would drive each other out of the cache between their parts
      for (int64_t i = 0; i < side; i++) {
        __builtin_prefetch(p + i * s.from_stride + 2 * transpose_line);
        __builtin_memcpy(in + i * transpose_line, p + i * s.from_stride, transpose_line);
      }
    } else {
      for (int64_t i = 0; i < rows; i++)
        __builtin_memcpy(in + i * transpose_line, p + i * s.from_stride, static_cast<size_t>(columns * size));
    }
    transpose_tile<W, Element>(in, transpose_line, out);
    if (stream && rows == side) {
      for (int64_t i = 0; i < columns; i++) V::stream_copy(q + i * s.to_stride, out + i * transpose_line, transpose_line);
    } else {
      for (int64_t i = 0; i < columns; i++)
        __builtin_memcpy(q + i * s.to_stride, out + i * transpose_line, static_cast<size_t>(rows * size));
    }
  };
  for (int64_t row = 0; row < s.rows; row += side) {
    for (int64_t column = 0; column < s.columns; column += side) tile(row, column);
  }
}

// In the order of the axis that is longer, so that only as many streams are read or written at once as the other has places. What is read
// in one stream is asked for as far ahead as in a plain copy, of many streams only what comes next, or they would drive each other out.
template <class V>
void transpose_copies(const TransposeShape& s, const uint8_t* from, uint8_t* to) noexcept {
  const bool stream = s.stream && s.bytes % transpose_line == 0 && transpose_is_aligned(s, to);
  const bool wide = s.columns > s.rows;
  const int64_t outer = wide ? s.columns : s.rows;
  const int64_t inner = wide ? s.rows : s.columns;
  const int64_t ahead = wide && s.bytes < copy_ahead ? s.bytes : copy_ahead;
  for (int64_t i = 0; i < outer; i++) {
    for (int64_t j = 0; j < inner; j++) {
      const int64_t row = wide ? j : i;
      const int64_t column = wide ? i : j;
      const uint8_t* p = from + row * s.from_stride + column * s.bytes;
      uint8_t* q = to + column * s.to_stride + row * s.bytes;
      if (!stream) {
        __builtin_memcpy(q, p, static_cast<size_t>(s.bytes));
        continue;
      }
      for (int64_t at = 0; at < s.bytes; at += copy_chunk) {
        const int64_t bytes = s.bytes - at < copy_chunk ? s.bytes - at : copy_chunk;
        for (int64_t byte = at; byte < at + bytes; byte += transpose_line) __builtin_prefetch(p + byte + ahead);
        V::stream_copy(q + at, p + at, bytes);
      }
    }
  }
}

template <class V, class W>
void install_transpose(TransposeKernels& k) noexcept {
  k.two_bytes = transpose_elements<V, W, uint16_t>;
  k.four_bytes = transpose_elements<V, W, uint32_t>;
  k.any = transpose_copies<V>;
}

}  // namespace latentwire
