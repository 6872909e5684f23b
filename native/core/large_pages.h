// Pages of 2 MB for large memory, before it is touched: a fault for every 4 KB of it can cost more than the work on it.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <cstddef>
#include <cstdint>

namespace latentwire {

// Only a wish, and for memory that will be used whole: nothing else changes, whether the system grants it or not.
inline void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) noexcept {
#if defined(__linux__)
  constexpr uintptr_t page = 4096;
  constexpr size_t large = size_t{4} << 20;
  if (bytes < large) return;
  const size_t before = (page - reinterpret_cast<uintptr_t>(memory) % page) % page;
  // larger pages than `page` make this fail, which does no harm
  (void)::madvise(static_cast<char*>(memory) + before, (bytes - before) / page * page, MADV_HUGEPAGE);
#endif
}

// The contents may be lost from now on: the system takes such pages before it takes any other, and they stay warm until then.
inline void may_be_reclaimed([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) noexcept {
#if defined(__linux__)
  // not 4096: the system would round a length up to its own pages, and take what lies behind the memory
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const size_t before = (page - reinterpret_cast<uintptr_t>(memory) % page) % page;
  if (bytes > before + page) (void)::madvise(static_cast<char*>(memory) + before, (bytes - before) / page * page, MADV_FREE);
#endif
}

}  // namespace latentwire
