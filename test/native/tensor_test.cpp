// Tensors: sizes are checked before anything is allocated, and conversions follow the table of dtypes.
#include "core/tensor.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

using namespace latentwire;

namespace {

Code code_of(Dtype dtype, std::vector<int64_t> shape) {
  std::shared_ptr<Tensor> tensor;
  const Status status = Tensor::create(dtype, std::move(shape), &tensor);
  CHECK(status.ok() == (tensor != nullptr));
  return status.code;
}

std::shared_ptr<Tensor> make(Dtype dtype, std::vector<int64_t> shape) {
  std::shared_ptr<Tensor> tensor;
  REQUIRE(Tensor::create(dtype, std::move(shape), &tensor).ok());
  return tensor;
}

}  // namespace

TEST_CASE("a tensor has its size and is aligned") {
  const auto tensor = make(Dtype::f16, {3, 5, 7});
  CHECK(tensor->size() == 105);
  CHECK(tensor->bytes() == 210);
  CHECK(tensor->shape() == std::vector<int64_t>{3, 5, 7});
  CHECK(reinterpret_cast<uintptr_t>(tensor->data()) % Tensor::alignment == 0);
  CHECK(tensor->f32() == nullptr);
}

TEST_CASE("scalars and empty tensors are tensors") {
  CHECK(make(Dtype::f32, {})->size() == 1);
  const auto empty = make(Dtype::f32, {4, 0, int64_t{1} << 50});
  CHECK(empty->size() == 0);
  CHECK(empty->bytes() == 0);
  CHECK(empty->data() != nullptr);
  std::shared_ptr<Tensor> half;
  CHECK(empty->convert(Dtype::f16, &half).ok());
}

TEST_CASE("impossible shapes are refused with their code") {
  constexpr int64_t huge = std::numeric_limits<int64_t>::max();
  CHECK(code_of(Dtype::f32, {-1}) == Code::invalid_argument);
  CHECK(code_of(Dtype::f32, {huge, -1}) == Code::invalid_argument);
  CHECK(code_of(Dtype::f32, {0, -1}) == Code::invalid_argument);
  CHECK(code_of(Dtype::f32, std::vector<int64_t>(9, 1)) == Code::invalid_argument);
  CHECK(code_of(Dtype::f32, std::vector<int64_t>(8, 1)) == Code::ok);
  CHECK(code_of(Dtype::f32, {huge}) == Code::out_of_memory);
  CHECK(code_of(Dtype::i8, {huge, huge}) == Code::out_of_memory);
  CHECK(code_of(Dtype::f32, {int64_t{1} << 32, int64_t{1} << 32}) == Code::out_of_memory);  // 2^64 elements: zero, if it wrapped
  CHECK(code_of(Dtype::i8, {(int64_t{1} << 40) + 1}) == Code::out_of_memory);
}

TEST_CASE("a conversion of many chunks is right everywhere") {
  const int64_t n = 300'001;
  const auto source = make(Dtype::f32, {n});
  for (int64_t i = 0; i < n; i++) source->f32()[i] = static_cast<float>(i % 4096) / 8;
  std::shared_ptr<Tensor> half;
  std::shared_ptr<Tensor> back;
  REQUIRE(source->convert(Dtype::f16, &half).ok());
  REQUIRE(half->to_f32(&back).ok());
  CHECK(half->dtype() == Dtype::f16);
  CHECK(back->shape() == source->shape());
  for (int64_t i = 0; i < n; i++) REQUIRE(back->f32()[i] == f16_to_f32(f32_to_f16(source->f32()[i])));
}

TEST_CASE("a conversion to integers is refused, a cancelled one leaves nothing") {
  const auto source = make(Dtype::f32, {8});
  for (int i = 0; i < 8; i++) source->f32()[i] = 0;
  std::shared_ptr<Tensor> out;
  CHECK(source->convert(Dtype::i8, &out).code == Code::dtype);
  const std::atomic<bool> cancelled{true};
  CHECK(source->convert(Dtype::f16, &out, &cancelled).code == Code::cancelled);
  CHECK(out == nullptr);
}

TEST_CASE("shapes in messages") {
  CHECK(shape_text({}) == "[]");
  CHECK(shape_text({2, 3}) == "[2, 3]");
}
