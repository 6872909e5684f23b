// Memory that processes of one host share and that nobody can change any more: the kernel seals it before anybody is told of it. It belongs
// to no file system, so it goes with its last user, however that one ends. Linux only.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/status.h"

namespace latentwire {

// Where a process keeps sealed memory. It can be said to anybody: to open it takes the rights to look into that process.
struct SealedName {
  int64_t process = 0;
  int64_t descriptor = 0;
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t bytes = 0;

  bool operator==(const SealedName&) const = default;
};

class SealedMemory {
 public:
  // The pieces one after the other in new memory. It is not mapped here: what is wanted of it is its name. Errors: kv_unreachable (not on
  // this system), out_of_memory, cancelled.
  static Status make(const std::vector<std::span<const uint8_t>>& pieces, const std::atomic<bool>* cancel,
                     std::shared_ptr<const SealedMemory>* out);

  ~SealedMemory();
  SealedMemory(const SealedMemory&) = delete;
  SealedMemory& operator=(const SealedMemory&) = delete;

  // Of use to others while this lives; who has mapped it by then keeps it.
  const SealedName& name() const noexcept { return name_; }

 private:
  SealedMemory() = default;

  [[maybe_unused]] int descriptor_ = -1;  // where memory is shared
  SealedName name_;
};

// Maps what `name` names, of at most `most` bytes, for reading, as long as the pointer lives. Nothing of it is believed, or mapped, before
// it is known that this is the memory that was meant and that nobody can write to it or cut it off. Errors: kv_unreachable (not on this
// system, gone, out of reach, or something else), kv_limit (more bytes).
Status map_sealed(const SealedName& name, uint64_t most, std::shared_ptr<const uint8_t>* out);

}  // namespace latentwire
