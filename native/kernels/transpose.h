// The two axes of a matrix exchanged: a KV tile from [tokens][heads][head] to [heads][tokens][head] and back, where an element is a whole
// head, or values from [cells][channels] to the [channels][cells] of caches without flash attention, where it is one number.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/status.h"

namespace latentwire {

struct Transpose {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t bytes = 0;  // of an element
  // Bytes from one row to the next, of what is read and of what is written; 0 where nothing lies between them.
  int64_t from_stride = 0;
  int64_t to_stride = 0;
};

// [rows][columns] -> [columns][rows], on several threads if there is enough to do; `from` and `to` must not overlap. Fails with
// invalid_argument (negative sizes, or strides shorter than a row) or cancelled.
Status transpose(const Transpose& matrix, const void* from, void* to, const std::atomic<bool>* cancel = nullptr);

}  // namespace latentwire
