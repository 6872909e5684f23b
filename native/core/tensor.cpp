#include "core/tensor.h"

#include <algorithm>
#include <new>

#include "core/large_pages.h"
#include "core/thread_pool.h"

namespace latentwire {
namespace {

// Elements a chunk: tens of microseconds, long enough to hand out and short enough to notice a cancel.
constexpr int64_t convert_grain = 1 << 16;

}  // namespace

void Tensor::Free::operator()(void* memory) const noexcept { ::operator delete (memory, std::align_val_t{alignment}); }

Status Tensor::measure(Dtype dtype, const std::vector<int64_t>& shape, int64_t* out) {
  if (shape.size() > max_rank)
    return Status::fail(Code::invalid_argument, "a tensor has at most " + std::to_string(max_rank) + " dimensions");
  uint64_t size = 1;
  for (const int64_t dimension : shape) {
    if (dimension < 0) return Status::fail(Code::invalid_argument, "a tensor of shape " + shape_text(shape) + " has a negative dimension");
  }
  const uint64_t limit = max_bytes / dtype_size(dtype);
  const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
  for (const int64_t dimension : shape) {
    const auto extent = empty ? uint64_t{0} : static_cast<uint64_t>(dimension);
    if (extent != 0 && size > limit / extent) {
      return Status::fail(Code::out_of_memory, "a tensor of shape " + shape_text(shape) + " would take more than 1 TiB");
    }
    size *= extent;
  }
  *out = static_cast<int64_t>(size);
  return {};
}

Status Tensor::create(Dtype dtype, std::vector<int64_t> shape, std::shared_ptr<Tensor>* out) {
  int64_t size = 0;
  if (Status status = measure(dtype, shape, &size); !status.ok()) return status;
  const size_t bytes = static_cast<size_t>(size) * dtype_size(dtype);
  void* memory = ::operator new (std::max(bytes, alignment), std::align_val_t{alignment}, std::nothrow);
  if (memory == nullptr) {
    return Status::fail(Code::out_of_memory,
                        "no memory for a tensor of shape " + shape_text(shape) + " (" + std::to_string(bytes) + " bytes)");
  }
  prefer_large_pages(memory, bytes);
  std::unique_ptr<void, Free> guard(memory);
  out->reset(new Tensor(dtype, std::move(shape), size, memory));
  static_cast<void>(guard.release());
  return {};
}

Status Tensor::convert(Dtype to, std::shared_ptr<Tensor>* out, const std::atomic<bool>* cancel) const {
  if (!can_convert(dtype_, to)) {
    return Status::fail(Code::dtype,
                        "cannot convert " + std::string(dtype_name(dtype_)) + " to " + std::string(dtype_name(to)) + " without a scale");
  }
  std::shared_ptr<Tensor> made;
  if (Status status = create(to, shape_, &made); !status.ok()) return status;
  const auto* source = static_cast<const std::byte*>(data());
  auto* target = static_cast<std::byte*>(made->data());
  const auto stopped = [cancel] { return cancel != nullptr && cancel->load(std::memory_order_relaxed); };
  ThreadPool::get().parallel_for(size_, convert_grain, [&](int64_t begin, int64_t end) noexcept {
    if (stopped()) return;
    const auto first = static_cast<size_t>(begin);
    convert_elements(dtype_, source + first * dtype_size(dtype_), to, target + first * dtype_size(to), static_cast<size_t>(end - begin));
  });
  if (stopped()) return Status::fail(Code::cancelled, "the conversion was cancelled");
  *out = std::move(made);
  return {};
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace latentwire
