// The scan behind the nearest codeword.
#pragma once

#include <cstdint>

namespace latentwire {

struct CodebookKernels {
  // Goes on with a search for the least offsets[j] - dots[j]: replaces *best and *index (first + j) where one of the n is less, the lowest
  // j among equals. NaN is never less.
  void (*least)(const float* dots, const float* offsets, int64_t n, int32_t first, float* best, int32_t* index) noexcept = nullptr;
};

}  // namespace latentwire
