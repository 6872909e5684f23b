// What every function over the kernels does with its arguments and its result: rows come as a Float32Array or a Tensor, small work is done
// on the JavaScript thread, because going to another one and back costs more, and large work is a job. The same call decides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "addon/args.h"
#include "addon/env_jobs.h"
#include "addon/errors.h"
#include "addon/napi_setup.h"
#include "addon/typed_arrays.h"
#include "core/dtype.h"
#include "core/status.h"
#include "core/tensor.h"
#include "engine/failure.h"
#include "kernels/product.h"

namespace latentwire::addon {

// The most rows or columns that a call may speak of: products of two fit an int64_t with room for an element's size.
constexpr int64_t most_extent = int64_t{1} << 31;

// Rows of numbers; what `tensor` holds stays alive with it.
struct Input {
  Rows rows;
  std::shared_ptr<Tensor> tensor;
};

// Rows of `depth` numbers, which is at least 1: whole rows of a Float32Array, or a Tensor [n, depth] or [depth] of a float type.
Input input_of(const Napi::Value& value, const char* name, int64_t depth);
// Throws if the two share a byte.
void refuse_overlap(Napi::Env env, const char* name, std::span<const std::byte> bytes, const char* other_name,
                    std::span<const std::byte> other);
void refuse_overlap(Napi::Env env, const char* name, std::span<const std::byte> bytes, const Input& input);
// For a job: a Float32Array is copied, for JavaScript may change or transfer it meanwhile. Throws Failure.
void keep(Input* input);
// The output of a synchronous call: an array of exactly `size` numbers that does not overlap the rows.
template <typename T>
T* output_of(const Napi::Value& value, const char* name, const Input& input, int64_t size) {
  const std::span<T> out = require_array<T>(value, name, size);
  refuse_overlap(value.Env(), name, std::as_bytes(out), input);
  return out.data();
}

// Runs `work(cancel)`, here if it is worth at most as much as `worth_a_thread` multiplications, else as a job; `build(env)` makes the
// result. Returns a value or a job. `before_job`, if any, is called before a job begins: what JavaScript may change meanwhile is copied
// there.
Napi::Value run(const Napi::CallbackInfo& call, int64_t multiplications, std::function<void(const std::atomic<bool>*)> work,
                Job::ToValue build, const std::function<void()>& before_job = {});
// The same over rows, which are copied for a job if they belong to JavaScript.
Napi::Value run(const Napi::CallbackInfo& call, Input input, int64_t multiplications,
                std::function<void(const Rows&, const std::atomic<bool>*)> work, Job::ToValue build);

Job::ToValue tensor_value(std::shared_ptr<Tensor> tensor);
// An object of tensors by name.
Job::ToValue tensors_value(std::vector<std::pair<const char*, std::shared_ptr<Tensor>>> tensors);

// A field that is one of `choices`; `standard` where it is undefined.
template <typename T>
T choice_field(const Napi::Object& object, const char* name, const std::string& standard,
               std::initializer_list<std::pair<const char*, T>> choices) {
  const std::string given = string_field(object, name, standard);
  std::string known;
  for (const auto& [text, value] : choices) {
    if (given == text) return value;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  throw_invalid(object.Env(), std::string(name) + " must be one of " + known);
}

// "f32", the default, "f16", "bf16" or "i8".
Dtype storage_field(const Napi::Object& object);

// A matrix [rows, columns], both at least 1.
void require_matrix(Napi::Env env, const Tensor& tensor, const char* name);

}  // namespace latentwire::addon
