// Argument checks of everything that JavaScript calls. Each helper returns the checked value or throws an Error with the code
// ERR_LATENT_INVALID_ARGUMENT that names the argument, what was expected and what came.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "addon/napi_setup.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace latentwire::addon {

// The largest integer that a JavaScript number holds exactly.
constexpr int64_t max_safe_integer = (int64_t{1} << 53) - 1;

// An integer of [lo, hi].
int64_t require_int(const Napi::CallbackInfo& info, size_t index, const char* name, int64_t lo, int64_t hi);
// A finite number of [lo, hi].
double require_number(const Napi::CallbackInfo& info, size_t index, const char* name, double lo = std::numeric_limits<double>::lowest(),
                      double hi = std::numeric_limits<double>::max());
bool require_bool(const Napi::CallbackInfo& info, size_t index, const char* name);
// UTF-8; lone surrogates become U+FFFD.
std::string require_string(const Napi::CallbackInfo& info, size_t index, const char* name);
Napi::Function require_function(const Napi::CallbackInfo& info, size_t index, const char* name);
// Any object but a function or null.
Napi::Object require_object(const Napi::CallbackInfo& info, size_t index, const char* name);
// One of "f32", "f16", "bf16", "i8" and "i32"; else ERR_LATENT_DTYPE.
Dtype require_dtype(const Napi::CallbackInfo& info, size_t index, const char* name);
// The tensor inside a Tensor object; ERR_LATENT_DISPOSED after its disposal.
std::shared_ptr<Tensor> require_tensor(const Napi::CallbackInfo& info, size_t index, const char* name);
// The same, or nullptr for null and undefined.
std::shared_ptr<Tensor> optional_tensor(const Napi::CallbackInfo& info, size_t index, const char* name);

// Fields of an options object. A field that is missing or undefined takes the default; without a default it is an error.
int64_t int_field(const Napi::Object& object, const char* name, int64_t lo, int64_t hi, std::optional<int64_t> absent = std::nullopt);
double number_field(const Napi::Object& object, const char* name, double lo = std::numeric_limits<double>::lowest(),
                    double hi = std::numeric_limits<double>::max(), std::optional<double> absent = std::nullopt);
bool bool_field(const Napi::Object& object, const char* name, std::optional<bool> absent = std::nullopt);
std::string string_field(const Napi::Object& object, const char* name, std::optional<std::string> absent = std::nullopt);
// nullptr for a field that is missing, undefined or null.
std::shared_ptr<Tensor> tensor_field(const Napi::Object& object, const char* name);

}  // namespace latentwire::addon
