#include "addon/kernel_input.h"

#include <algorithm>

#include "addon/addon.h"
#include "addon/tensor_object.h"

namespace latentwire::addon {

void check(const Status& status) {
  if (!status.ok()) throw Failure(status);
}

bool floats_of(const Napi::Value& value, Floats* out) {
  napi_typedarray_type type = napi_int8_array;
  size_t size = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(value.Env(), value, &type, &size, &data, nullptr, nullptr) != napi_ok || type != napi_float32_array)
    return false;
  *out = {static_cast<float*>(data), static_cast<int64_t>(size)};
  return true;
}

Floats require_floats(const Napi::CallbackInfo& call, size_t index, const char* name) {
  Floats floats;
  if (!floats_of(call[index], &floats)) throw_invalid(call.Env(), std::string(name) + " must be a Float32Array");
  return floats;
}

std::vector<float> floats_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (value.IsUndefined()) return {};
  Floats floats;
  if (!floats_of(value, &floats)) throw_invalid(object.Env(), std::string(name) + " must be a Float32Array");
  return {floats.data, floats.data + floats.size};
}

namespace {

int64_t count_rows(Napi::Env env, int64_t size, int64_t depth) {
  if (size % depth != 0) throw_invalid(env, "x has " + std::to_string(size) + " numbers, which are no rows of " + std::to_string(depth));
  return size / depth;
}

}  // namespace

Input input_of(const Napi::CallbackInfo& call, size_t index, int64_t depth) {
  const Napi::Env env = call.Env();
  Floats floats;
  if (floats_of(call[index], &floats)) return {{Dtype::f32, floats.data, count_rows(env, floats.size, depth), depth}, nullptr};
  auto tensor = TensorObject::tensor_of(call[index], "x, unless a Float32Array,");
  const auto& shape = tensor->shape();
  if (shape.empty() || shape.size() > 2 || shape.back() != depth)
    throw_invalid(env, "x must have the shape [n, " + std::to_string(depth) + "], not " + shape_text(shape));
  if (!is_float(tensor->dtype())) throw_status(env, Status::fail(Code::dtype, "x must be f32, f16 or bf16"));
  return {{tensor->dtype(), tensor->data(), tensor->size() / depth, depth}, tensor};
}

void keep(Input* input) {
  if (input->tensor) return;
  const int64_t size = input->rows.count * input->rows.stride;
  check(Tensor::create(Dtype::f32, {input->rows.count, input->rows.stride}, &input->tensor));
  std::copy_n(static_cast<const float*>(input->rows.data), size, input->tensor->f32());
  input->rows.data = input->tensor->data();
}

float* output_of(const Napi::CallbackInfo& call, size_t index, const Input& input, int64_t size) {
  const Floats out = require_floats(call, index, "out");
  if (out.size != size) throw_invalid(call.Env(), "out has " + std::to_string(out.size) + " numbers, the result " + std::to_string(size));
  const auto* x = static_cast<const char*>(input.rows.data);
  const auto x_bytes = static_cast<size_t>(input.rows.count * input.rows.stride) * dtype_size(input.rows.dtype);
  const auto* y = reinterpret_cast<const char*>(out.data);
  if (size > 0 && x_bytes > 0 && y < x + x_bytes && x < y + static_cast<size_t>(size) * sizeof(float))
    throw_invalid(call.Env(), "out must not overlap x");
  return out.data;
}

Napi::Value run(const Napi::CallbackInfo& call, Input input, int64_t multiplications,
                std::function<void(const Rows&, const std::atomic<bool>*)> work, Job::ToValue build) {
  const Napi::Env env = call.Env();
  return translate(env, [&]() -> Napi::Value {
    if (multiplications <= worth_a_thread) {
      work(input.rows, nullptr);
      return {env, build(env)};
    }
    keep(&input);
    EnvJobs& jobs = *env.GetInstanceData<AddonData>()->jobs;
    return {env, start_on_pool(env, jobs, std::make_shared<Job>(), nullptr,
                               [input = std::move(input), work = std::move(work), build = std::move(build)](Job& job) -> Job::ToValue {
                                 work(input.rows, &job.cancel_flag());
                                 return build;
                               })};
  });
}

Job::ToValue tensor_value(std::shared_ptr<Tensor> tensor) {
  return [tensor = std::move(tensor)](napi_env env) -> napi_value { return TensorObject::wrap(env, tensor); };
}

Dtype storage_field(const Napi::Object& object) {
  return choice_field<Dtype>(object, "storage", "f32",
                             {{"f32", Dtype::f32}, {"f16", Dtype::f16}, {"bf16", Dtype::bf16}, {"i8", Dtype::i8}});
}

void require_matrix(Napi::Env env, const Tensor& tensor, const char* name) {
  if (tensor.shape().size() != 2 || tensor.shape()[0] < 1 || tensor.shape()[1] < 1)
    throw_invalid(env, std::string(name) + " must be a matrix, not " + shape_text(tensor.shape()));
}

}  // namespace latentwire::addon
