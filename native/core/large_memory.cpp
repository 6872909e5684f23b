#include "core/large_memory.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "core/large_pages.h"
#if defined(__has_include) && __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace latentwire {
namespace {

constexpr std::align_val_t alignment{64};
constexpr size_t kept_from = size_t{4} << 20;  // smaller blocks the allocator keeps by itself
constexpr size_t kept_at_most = size_t{2} << 30;
constexpr size_t waste = 4;  // a block serves a wish that is smaller by less than one part in so many

struct Block {
  uint8_t* memory = nullptr;
  size_t bytes = 0;
};

std::atomic<bool> wipes = false;

// Not a memset that the compiler sees to be of no use.
void wipe(const Block& block) {
  std::memset(block.memory, 0, block.bytes);
#if defined(__GNUC__)
  __asm__ volatile("" : : "r"(block.memory) : "memory");
#endif
}

void give_back(const Block& block) { ::operator delete(block.memory, alignment); }

class Keeper {
 public:
  // Never destroyed: memory is freed until the very end of the process.
  static Keeper& get() {
    static auto* keeper = new Keeper;
    return *keeper;
  }

  Block take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      if (it->bytes >= bytes && it->bytes - bytes <= it->bytes / waste && (best == kept_.end() || it->bytes < best->bytes)) best = it;
    }
    if (best == kept_.end()) return {};
    const Block block = *best;
    kept_.erase(best);
    total_ -= block.bytes;
    ASAN_UNPOISON_MEMORY_REGION(block.memory, block.bytes);
    return block;
  }

  // The oldest make room for it. Memory is freed here, so nothing may ask for any that is missed.
  void put(const Block& block) {
    if (!keep(block)) return give_back(block);
    trim();
  }

  void enter() {
    const std::lock_guard lock(mutex_);
    users_++;
  }

  void leave() {
    {
      const std::lock_guard lock(mutex_);
      users_--;
    }
    trim();
  }

  size_t total() {
    const std::lock_guard lock(mutex_);
    return total_;
  }

 private:
  bool keep(const Block& block) {
    const std::lock_guard lock(mutex_);
    if (users_ == 0 || block.bytes < kept_from || block.bytes > kept_at_most) return false;
    try {
      kept_.push_back(block);
    } catch (const std::bad_alloc&) {
      return false;
    }
    total_ += block.bytes;
    may_be_reclaimed(block.memory, block.bytes);
    ASAN_POISON_MEMORY_REGION(block.memory, block.bytes);
    return true;
  }

  void trim() {
    for (Block oldest = excess(); oldest.memory != nullptr; oldest = excess()) give_back(oldest);
  }

  // The oldest block while more is kept than may be, which is nothing without a user; and then none.
  Block excess() {
    const std::lock_guard lock(mutex_);
    if (total_ <= (users_ > 0 ? kept_at_most : 0)) return {};
    const Block block = kept_.front();
    kept_.erase(kept_.begin());
    total_ -= block.bytes;
    ASAN_UNPOISON_MEMORY_REGION(block.memory, block.bytes);
    return block;
  }

  std::mutex mutex_;
  std::vector<Block> kept_;  // the oldest first
  size_t total_ = 0;
  int users_ = 0;
};

}  // namespace

std::shared_ptr<uint8_t> large_memory(size_t bytes) {
  Block block = Keeper::get().take(bytes);
  if (block.memory == nullptr) {
    block = {static_cast<uint8_t*>(::operator new(bytes, alignment, std::nothrow)), bytes};
    if (block.memory == nullptr) return nullptr;
    prefer_large_pages(block.memory, bytes);
  }
  return {block.memory, [block](uint8_t*) {
            if (wipes.load(std::memory_order_relaxed)) wipe(block);
            Keeper::get().put(block);
          }};
}

KeepsLargeMemory::KeepsLargeMemory() { Keeper::get().enter(); }
KeepsLargeMemory::~KeepsLargeMemory() { Keeper::get().leave(); }

bool wipe_freed_memory(bool wanted) noexcept { return wipes = wanted; }
bool wipes_freed_memory() noexcept { return wipes; }

size_t kept_memory() noexcept { return Keeper::get().total(); }

}  // namespace latentwire
