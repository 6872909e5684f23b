// The least of what several threads find: the first bad row, whichever thread comes upon it first.
#pragma once

#include <atomic>
#include <cstdint>

namespace latentwire {

inline void keep_least(std::atomic<int64_t>& least, int64_t found) noexcept {
  int64_t known = least.load(std::memory_order_relaxed);
  while (found < known && !least.compare_exchange_weak(known, found, std::memory_order_relaxed)) {
  }
}

}  // namespace latentwire
