#include "core/tensor.h"

#include <cstdlib>
#include <cstring>
#include <new>

namespace latentwire {
namespace {

constexpr size_t alignment = 64;
constexpr int64_t byte_limit = int64_t{1} << 53;

float read(const Tensor& tensor, int64_t i) noexcept {
  const void* data = tensor.data();
  switch (tensor.dtype()) {
    case Dtype::f32:
      return static_cast<const float*>(data)[i];
    case Dtype::f16:
      return f16_to_f32(static_cast<const uint16_t*>(data)[i]);
    case Dtype::bf16:
      return bf16_to_f32(static_cast<const uint16_t*>(data)[i]);
    case Dtype::i8:
      return static_cast<const int8_t*>(data)[i];
    case Dtype::i32:
      return static_cast<float>(static_cast<const int32_t*>(data)[i]);
  }
  return 0;
}

}  // namespace

void Tensor::Release::operator()(void* memory) const noexcept { ::operator delete(memory, std::align_val_t{alignment}); }

Status Tensor::create(Dtype dtype, std::vector<int64_t> shape, std::shared_ptr<Tensor>* out) {
  int64_t elements = 1;
  const int64_t limit = byte_limit / static_cast<int64_t>(dtype_size(dtype));
  bool empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return Status::fail(Code::invalid_argument, "a tensor extent is negative");
    empty = empty || extent == 0;
    if (extent > 0 && elements > limit / extent) return Status::fail(Code::invalid_argument, "a tensor of that shape has more than 2^53 bytes");
    if (extent > 0) elements *= extent;
  }
  if (empty) elements = 0;
  auto tensor = std::make_shared<Tensor>();
  tensor->dtype_ = dtype;
  tensor->shape_ = std::move(shape);
  tensor->elements_ = elements;
  void* memory = ::operator new(tensor->bytes() == 0 ? alignment : tensor->bytes(), std::align_val_t{alignment}, std::nothrow);
  if (memory == nullptr) return Status::fail(Code::out_of_memory, "no memory for a tensor of " + std::to_string(tensor->bytes()) + " bytes");
  tensor->data_.reset(memory);
  std::memset(memory, 0, tensor->bytes());
  *out = std::move(tensor);
  return {};
}

Status Tensor::convert(Dtype target, std::shared_ptr<Tensor>* out) const {
  const bool integers_differ = dtype_ != target && (target == Dtype::i8 || target == Dtype::i32 || ((dtype_ == Dtype::i8 || dtype_ == Dtype::i32) && target != Dtype::f32));
  if (integers_differ) {
    return Status::fail(Code::dtype, "cannot convert " + std::string(dtype_name(dtype_)) + " to " + std::string(dtype_name(target)));
  }
  std::shared_ptr<Tensor> copy;
  if (Status status = create(target, shape_, &copy); !status.ok()) return status;
  if (dtype_ == target) {
    if (bytes() > 0) std::memcpy(copy->data(), data(), bytes());
  } else if (target == Dtype::f32) {
    for (int64_t i = 0; i < elements_; i++) copy->f32()[i] = read(*this, i);
  } else {
    auto* bits = static_cast<uint16_t*>(copy->data());
    for (int64_t i = 0; i < elements_; i++) bits[i] = target == Dtype::f16 ? f32_to_f16(read(*this, i)) : f32_to_bf16(read(*this, i));
  }
  *out = std::move(copy);
  return {};
}

}  // namespace latentwire
