// Attention of queries to rows that stay as they are, in several heads: the part of a cross-attention block that is no projection.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/status.h"

namespace latentwire {

// All f32, rows one after the other; a head has the columns [h w, (h + 1) w) of each, w = columns / heads.
struct Attention {
  const float* queries = nullptr;  // [query_count, columns]
  int64_t query_count = 0;
  const float* keys = nullptr;    // [row_count, columns]
  const float* values = nullptr;  // [row_count, columns]
  int64_t row_count = 0;          // at least 1
  int64_t columns = 0;
  int64_t heads = 1;  // a divisor of columns
};

// softmax(q k' / sqrt(w)) v of every head, into out [query_count, columns], which overlaps nothing. No mask, no positions: the order of the
// rows means nothing. Fails with invalid_argument (sizes), non_finite, cancelled or out_of_memory. Bit-identical at any number of threads.
Status attend(const Attention& input, const std::atomic<bool>* cancel, float* out);

}  // namespace latentwire
