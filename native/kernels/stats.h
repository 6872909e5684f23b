// What can be read off rows while they pass: the first one that is not finite, norms, how far a trajectory has drifted, the running mean of
// a segment, the entropy of a distribution; and the copy of bytes that are hashed and checked on the way.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/status.h"
#include "kernels/product.h"

namespace latentwire {

// Rows are f32, f16 or bf16; everything else fails with dtype. Rows that hold NaN or an infinity fail with non_finite and their number, and
// what belongs to rows from there on is not written.

// The first row that holds NaN or an infinity, or x.count.
int64_t first_non_finite_row(const Rows& x, int64_t columns) noexcept;

// |x| of each row, also where |x|^2 is no f32. norms: [x.count].
Status row_norms(const Rows& x, int64_t columns, float* norms);

// Dot products along a trajectory, each [x.count] or nullptr: of a row with itself, with the row before it and with the first one. A
// trajectory that began earlier brings its last and its first row, of the same dtype; else row 0 is the first and has nothing before it
// (to_previous[0] is 0). A product that is no f32 is an infinity or NaN.
struct Drift {
  const void* previous = nullptr;
  const void* first = nullptr;
  float* squares = nullptr;
  float* to_previous = nullptr;
  float* to_first = nullptr;
};
Status drift(const Rows& x, int64_t columns, const Drift& out);

// Takes the rows into the mean of a segment, [columns] of f32, which holds `*count` rows so far; 0 begins a new one.
Status add_to_mean(const Rows& x, int64_t columns, float* mean, int64_t* count);

// -sum p log2 p of rows of probabilities (f32), in bits. Rows are taken as they are: they need not sum to 1. A negative element fails with
// invalid_argument.
Status entropy_bits(const Rows& p, int64_t columns, float* bits);

// XXH3-128, as its two halves.
struct Digest128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Digest128&) const = default;
};

Digest128 digest_of(const void* data, size_t bytes) noexcept;

// Copies `bytes` bytes of f32, f16 or bf16 numbers, and makes their digest and looks for what is not finite while they are in the cache;
// large copies are written past it. The two must not overlap. The copy and the digest are complete whatever the numbers are; `*finite` says
// whether all of them are. Fails with dtype, or invalid_argument if the last number is cut.
Status copy_and_digest(const void* from, void* to, size_t bytes, Dtype dtype, Digest128* digest, bool* finite);

}  // namespace latentwire
