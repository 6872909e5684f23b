// Memory for the keys and values of whole sequences. The system clears every page of new memory when it is first touched, which costs
// several times as much as copying into it, so large blocks that were freed are kept for the next transfer while a pool is open. The system
// may take kept pages back when it runs short of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace latentwire {

// Shared memory at a multiple of 64, contents undefined; nullptr if there is none.
std::shared_ptr<uint8_t> large_memory(size_t bytes);

// Large memory is kept while at least one of these lives; the end of the last one gives back what was kept.
class KeepsLargeMemory {
 public:
  KeepsLargeMemory();
  ~KeepsLargeMemory();
  KeepsLargeMemory(const KeepsLargeMemory&) = delete;
  KeepsLargeMemory& operator=(const KeepsLargeMemory&) = delete;
};

// Whether large memory is zeroed when it is freed, kept or not; off at first. Returns `wanted`.
bool wipe_freed_memory(bool wanted) noexcept;
bool wipes_freed_memory() noexcept;

// Bytes of freed memory that are kept now.
size_t kept_memory() noexcept;

}  // namespace latentwire
