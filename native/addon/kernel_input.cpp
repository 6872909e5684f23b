#include "addon/kernel_input.h"

#include <algorithm>

#include "addon/addon.h"
#include "addon/device_tensor_object.h"
#include "addon/tensor_object.h"

namespace latentwire::addon {

Input input_of(const Napi::Value& value, const char* name, int64_t depth) {
  const Napi::Env env = value.Env();
  std::span<float> floats;
  if (array_of(value, &floats)) {
    const auto size = static_cast<int64_t>(floats.size());
    if (size % depth != 0)
      throw_invalid(env, std::string(name) + " has " + std::to_string(size) + " numbers, which are no rows of " + std::to_string(depth));
    return {{Dtype::f32, floats.data(), size / depth, depth}, nullptr};
  }
  if (TensorObject::from(value) == nullptr) {
    refuse_device_tensor(value, name);
    throw_invalid(env, std::string(name) + " must be a Float32Array or a Tensor");
  }
  auto tensor = TensorObject::tensor_of(value, name);
  const auto& shape = tensor->shape();
  if (shape.empty() || shape.size() > 2 || shape.back() != depth)
    throw_invalid(env, std::string(name) + " must have the shape [n, " + std::to_string(depth) + "], not " + shape_text(shape));
  if (!is_float(tensor->dtype())) throw_status(env, Status::fail(Code::dtype, std::string(name) + " must be f32, f16 or bf16"));
  return {{tensor->dtype(), tensor->data(), tensor->size() / depth, depth}, tensor};
}

void keep(Input* input) {
  if (input->tensor) return;
  const int64_t size = input->rows.count * input->rows.stride;
  check(Tensor::create(Dtype::f32, {input->rows.count, input->rows.stride}, &input->tensor));
  std::copy_n(static_cast<const float*>(input->rows.data), size, input->tensor->f32());
  input->rows.data = input->tensor->data();
}

void refuse_overlap(Napi::Env env, const char* name, std::span<const std::byte> bytes, const char* other_name,
                    std::span<const std::byte> other) {
  if (bytes.empty() || other.empty()) return;
  if (bytes.data() < other.data() + other.size() && other.data() < bytes.data() + bytes.size())
    throw_invalid(env, std::string(name) + " must not overlap " + other_name);
}

void refuse_overlap(Napi::Env env, const char* name, std::span<const std::byte> bytes, const Input& input) {
  const Rows& x = input.rows;
  refuse_overlap(env, name, bytes, "the input",
                 {static_cast<const std::byte*>(x.data), static_cast<size_t>(x.count * x.stride) * dtype_size(x.dtype)});
}

Napi::Value run(const Napi::CallbackInfo& call, int64_t multiplications, std::function<void(const std::atomic<bool>*)> work,
                Job::ToValue build, const std::function<void()>& before_job) {
  const Napi::Env env = call.Env();
  return translate(env, [&]() -> Napi::Value {
    if (multiplications <= worth_a_thread) {
      work(nullptr);
      return {env, build(env)};
    }
    if (before_job) before_job();
    EnvJobs& jobs = *env.GetInstanceData<AddonData>()->jobs;
    return {env, start_on_pool(env, jobs, std::make_shared<Job>(), nullptr,
                               [work = std::move(work), build = std::move(build)](Job& job) -> Job::ToValue {
                                 work(&job.cancel_flag());
                                 return build;
                               })};
  });
}

Napi::Value run(const Napi::CallbackInfo& call, Input input, int64_t multiplications,
                std::function<void(const Rows&, const std::atomic<bool>*)> work, Job::ToValue build) {
  const auto held = std::make_shared<Input>(std::move(input));
  return run(
      call, multiplications, [held, work = std::move(work)](const std::atomic<bool>* cancel) { work(held->rows, cancel); },
      std::move(build), [held] { keep(held.get()); });
}

Job::ToValue tensor_value(std::shared_ptr<Tensor> tensor) {
  return [tensor = std::move(tensor)](napi_env env) -> napi_value { return TensorObject::wrap(env, tensor); };
}

Job::ToValue tensors_value(std::vector<std::pair<const char*, std::shared_ptr<Tensor>>> tensors) {
  return [tensors = std::move(tensors)](napi_env env) -> napi_value {
    Napi::Object out = Napi::Object::New(env);
    for (const auto& [name, tensor] : tensors) out.Set(name, TensorObject::wrap(env, tensor));
    return out;
  };
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
