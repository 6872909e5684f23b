// Memory of a thread, kept from call to call and grown when needed. What is not touched costs no pages.
#pragma once

#include <cstddef>
#include <new>

namespace latentwire {

class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { ::operator delete (memory_, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At a multiple of 64, contents undefined; nullptr if there is none to be had.
  char* reserve(size_t bytes) noexcept {
    if (bytes <= size_) return memory_;
    ::operator delete (memory_, std::align_val_t{64});
    memory_ = static_cast<char*>(::operator new (bytes, std::align_val_t{64}, std::nothrow));
    size_ = memory_ == nullptr ? 0 : bytes;
    return memory_;
  }

 private:
  char* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace latentwire
