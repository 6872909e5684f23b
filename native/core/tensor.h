// A dense row-major tensor in native memory. It is held by shared_ptr, so a job keeps its inputs alive whatever JavaScript does meanwhile;
// its size and type never change. Who may write is a matter of agreement: the maker writes before it shares.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

namespace latentwire {

class Tensor {
 public:
  // Start of the data, so that every kernel may use aligned loads of a whole cache line.
  static constexpr size_t alignment = 64;
  static constexpr size_t max_rank = 8;
  // 1 TiB: refused without asking the system, which may promise memory that it does not have.
  static constexpr uint64_t max_bytes = uint64_t{1} << 40;

  // The elements of that shape. Fails as `create` does, but for want of memory.
  static Status measure(Dtype dtype, const std::vector<int64_t>& shape, int64_t* size);
  // Makes a tensor of undefined contents. An empty shape is a scalar; a dimension may be 0.
  // Fails with invalid_argument (negative dimension, more than 8) or out_of_memory.
  static Status create(Dtype dtype, std::vector<int64_t> shape, std::shared_ptr<Tensor>* out);

  Dtype dtype() const noexcept { return dtype_; }
  const std::vector<int64_t>& shape() const noexcept { return shape_; }
  // Number of elements.
  int64_t size() const noexcept { return size_; }
  size_t bytes() const noexcept { return static_cast<size_t>(size_) * dtype_size(dtype_); }

  void* data() noexcept { return data_.get(); }
  const void* data() const noexcept { return data_.get(); }
  // The data as f32; nullptr for any other dtype.
  float* f32() noexcept { return dtype_ == Dtype::f32 ? static_cast<float*>(data()) : nullptr; }
  const float* f32() const noexcept { return dtype_ == Dtype::f32 ? static_cast<const float*>(data()) : nullptr; }

  // Writes a converted copy to `out`, on all threads of the pool; see `can_convert` for the pairs (else: dtype). Stops with `cancelled`
  // soon after `cancel` turns true.
  Status convert(Dtype to, std::shared_ptr<Tensor>* out, const std::atomic<bool>* cancel = nullptr) const;
  // `convert(Dtype::f32)`.
  Status to_f32(std::shared_ptr<Tensor>* out) const { return convert(Dtype::f32, out); }

 private:
  struct Free {
    void operator()(void* memory) const noexcept;
  };

  Tensor(Dtype dtype, std::vector<int64_t> shape, int64_t size, void* data)
      : dtype_(dtype), shape_(std::move(shape)), size_(size), data_(data) {}

  Dtype dtype_;
  std::vector<int64_t> shape_;
  int64_t size_;
  std::unique_ptr<void, Free> data_;
};

// "[2, 3]", for messages.
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace latentwire
