// A dense row-major tensor in memory that native code owns, aligned to 64 bytes. Shared by reference: a job that reads a tensor keeps it alive,
// whatever JavaScript does meanwhile.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

namespace latentwire {

class Tensor {
 public:
  // Zero-filled. Errors: invalid_argument (negative extent, or more than 2^53 bytes), out_of_memory.
  static Status create(Dtype dtype, std::vector<int64_t> shape, std::shared_ptr<Tensor>* out);

  Dtype dtype() const noexcept { return dtype_; }
  const std::vector<int64_t>& shape() const noexcept { return shape_; }
  int64_t elements() const noexcept { return elements_; }
  size_t bytes() const noexcept { return static_cast<size_t>(elements_) * dtype_size(dtype_); }
  void* data() noexcept { return data_.get(); }
  const void* data() const noexcept { return data_.get(); }
  // Valid for dtype f32 only.
  float* f32() noexcept { return static_cast<float*>(data_.get()); }

  // A converted copy. f16, bf16 and f32 convert into each other, i8 and i32 into f32; anything else is a dtype error.
  Status convert(Dtype target, std::shared_ptr<Tensor>* out) const;

 private:
  struct Release {
    void operator()(void* memory) const noexcept;
  };
  Dtype dtype_ = Dtype::f32;
  std::vector<int64_t> shape_;
  int64_t elements_ = 0;
  std::unique_ptr<void, Release> data_;
};

}  // namespace latentwire
