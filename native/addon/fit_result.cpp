#include "addon/fit_result.h"

#include <cmath>
#include <limits>
#include <memory>

#include "addon/engine_objects.h"
#include "addon/errors.h"
#include "addon/kernel_input.h"
#include "addon/tensor_object.h"
#include "addon/typed_arrays.h"
#include "core/tensor.h"

namespace latentwire::addon {
namespace {

// Rounds to f32; false if a number does not fit.
bool round_to_f32(const std::vector<double>& from, float* to) noexcept {
  constexpr double largest = std::numeric_limits<float>::max();
  for (size_t i = 0; i < from.size(); i++) {
    if (!(std::abs(from[i]) <= largest)) return false;
    to[i] = static_cast<float>(from[i]);
  }
  return true;
}

[[noreturn]] void not_f32(const char* name) {
  fail(Code::non_finite, std::string("the fit's ") + name + " holds numbers that are beyond f32");
}

template <typename T>
Job::ToValue array_value(std::vector<T> values) {
  return [values = std::make_shared<const std::vector<T>>(std::move(values))](napi_env env) -> napi_value {
    return array_with<T>(env, *values);
  };
}

std::vector<int32_t> narrow(const std::vector<int64_t>& values) {
  std::vector<int32_t> out;
  out.reserve(values.size());
  for (const int64_t value : values) out.push_back(static_cast<int32_t>(value));
  return out;
}

}  // namespace

void FitResult::matrix(const char* name, const DenseMatrix& values) {
  std::shared_ptr<Tensor> tensor;
  check(Tensor::create(Dtype::f32, {values.rows, values.columns}, &tensor));
  if (!round_to_f32(values.values, tensor->f32())) not_f32(name);
  parts_.emplace_back(name, tensor_value(std::move(tensor)));
}

void FitResult::matrix(const char* name, const std::vector<float>& values, int64_t columns) {
  std::shared_ptr<Tensor> tensor;
  check(Tensor::create(Dtype::f32, {static_cast<int64_t>(values.size()) / columns, columns}, &tensor));
  for (size_t i = 0; i < values.size(); i++) {
    if (!std::isfinite(values[i])) not_f32(name);
    tensor->f32()[i] = values[i];
  }
  parts_.emplace_back(name, tensor_value(std::move(tensor)));
}

void FitResult::floats(const char* name, const std::vector<double>& values) {
  std::vector<float> rounded(values.size());
  if (!round_to_f32(values, rounded.data())) not_f32(name);
  parts_.emplace_back(name, array_value(std::move(rounded)));
}

void FitResult::doubles(const char* name, std::vector<double> values) {
  for (const double value : values) {
    if (!std::isfinite(value)) fail(Code::non_finite, std::string("the fit's ") + name + " holds numbers that are beyond f64");
  }
  parts_.emplace_back(name, array_value(std::move(values)));
}

void FitResult::integers(const char* name, const std::vector<int32_t>& values) { parts_.emplace_back(name, array_value(values)); }

void FitResult::integers(const char* name, const std::vector<int64_t>& values) { parts_.emplace_back(name, integers_value(values)); }

void FitResult::number(const char* name, double value) {
  if (std::isnan(value)) fail(Code::non_finite, std::string("the fit's ") + name + " is not a number");
  parts_.emplace_back(name, [value](napi_env env) -> napi_value { return Napi::Number::New(env, value); });
}

void FitResult::flag(const char* name, bool value) {
  parts_.emplace_back(name, [value](napi_env env) -> napi_value { return Napi::Boolean::New(env, value); });
}

void FitResult::list(const char* name, std::vector<FitResult> items) {
  std::vector<Job::ToValue> values;
  values.reserve(items.size());
  for (FitResult& item : items) values.push_back(std::move(item).value());
  parts_.emplace_back(name, [values = std::move(values)](napi_env env) -> napi_value {
    Napi::Array array = Napi::Array::New(env, values.size());
    for (size_t i = 0; i < values.size(); i++) array.Set(static_cast<uint32_t>(i), values[i](env));
    return array;
  });
}

Job::ToValue FitResult::value() && {
  return [parts = std::move(parts_)](napi_env env) -> napi_value {
    Napi::Object out = Napi::Object::New(env);
    for (const auto& [name, build] : parts) out.Set(name, build(env));
    return out;
  };
}

Job::ToValue linear_value(const LinearFit& fit) {
  FitResult result;
  result.matrix("weights", fit.w);
  result.floats("bias", fit.bias);
  result.number("lambda", fit.lambda);
  result.number("condition", fit.condition);
  result.number("unexplained", fit.unexplained);
  return std::move(result).value();
}

Job::ToValue integers_value(const std::vector<int64_t>& values) { return array_value(narrow(values)); }

Napi::Value start_fit(Napi::Env env, std::function<Job::ToValue(const std::atomic<bool>&)> work) {
  using Work = decltype(work);
  auto held = std::make_shared<Work>(std::move(work));
  return {env, start_on_thread(env, nullptr, [held](Job& job) -> Job::ToValue {
            const Work mine = std::exchange(*held, nullptr);
            const auto stop = [&] {
              if (job.cancelled()) fail(Code::cancelled, "the fit was cancelled");
            };
            stop();
            Job::ToValue value = mine(job.cancel_flag());
            stop();
            return value;
          })};
}

}  // namespace latentwire::addon
