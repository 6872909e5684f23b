// The exchange of a tensor's first two axes, for JavaScript.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "addon/kernel_input.h"
#include "addon/kernel_objects.h"
#include "addon/tensor_object.h"
#include "kernels/transpose.h"

namespace latentwire::addon {
namespace {

// A byte costs about as much as so many multiplications of a product.
constexpr int64_t byte_cost = 2;

// transpose(Tensor [n, m, ...]) -> [m, n, ...]
Napi::Value transpose_tensor(const Napi::CallbackInfo& call) {
  const std::shared_ptr<const Tensor> tensor = TensorObject::tensor_of(call[0], "x");
  std::vector<int64_t> shape = tensor->shape();
  if (shape.size() < 2) throw_invalid(call.Env(), "x has the shape " + shape_text(shape) + ", and needs two axes to exchange");
  Transpose matrix{shape[0], shape[1], static_cast<int64_t>(dtype_size(tensor->dtype()))};
  for (size_t axis = 2; axis < shape.size(); axis++) matrix.bytes *= shape[axis];
  std::swap(shape[0], shape[1]);
  return translate(call.Env(), [&] {
    std::shared_ptr<Tensor> out;
    check(Tensor::create(tensor->dtype(), std::move(shape), &out));
    return run(
        call, byte_cost * static_cast<int64_t>(tensor->bytes()),
        [=](const std::atomic<bool>* cancel) {
          if (tensor->size() > 0) check(transpose(matrix, tensor->data(), out->data(), cancel));
        },
        tensor_value(out));
  });
}

}  // namespace

void init_transpose(Napi::Env env, Napi::Object exports) {
  exports.Set("transpose", Napi::Function::New<transpose_tensor>(env, "transpose"));
}

}  // namespace latentwire::addon
