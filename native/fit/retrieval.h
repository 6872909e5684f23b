// How well rows that were predicted hit the rows they stand for: errors, and the place of the right row among all.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "fit/matrix.h"

namespace latentwire {

struct PairedErrors {
  double squared_error = 0;   // sum of |p - t|^2
  double target_spread = 0;   // sum of |t - mean|^2
  double target_squares = 0;  // sum of |t|^2
  double cosine = 0;          // mean over the rows; that of a zero row is 0
};

// Of predictions and targets [n, d], in f64. Fails with invalid_argument (shapes), non_finite, cancelled or out_of_memory.
Status paired_errors(const FloatRows& predicted, const FloatRows& target, const std::atomic<bool>* cancel, PairedErrors* out);

// For each query i the rank of candidate i by cosine, [n], from 1: one more than the candidates that are strictly more similar. Cosines are
// f32, by blocks: never all of them at once. Fails as above.
Status paired_ranks(const FloatRows& queries, const FloatRows& candidates, const std::atomic<bool>* cancel, std::vector<int64_t>* ranks);

}  // namespace latentwire
