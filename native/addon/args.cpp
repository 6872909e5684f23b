#include "addon/args.h"

#include <cmath>
#include <cstdio>

#include "addon/errors.h"
#include "addon/tensor_object.h"

namespace latentwire::addon {
namespace {

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

// What came, for a message; strings are cut, contents of objects are not shown.
std::string describe(const Napi::Value& value) {
  switch (value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return value.As<Napi::Boolean>().Value() ? "true" : "false";
    case napi_number:
      return number_text(value.As<Napi::Number>().DoubleValue());
    case napi_string: {
      const std::string text = value.As<Napi::String>().Utf8Value();
      return text.size() <= 40 ? "'" + text + "'" : "a string of " + std::to_string(text.size()) + " bytes";
    }
    case napi_symbol:
      return "a symbol";
    case napi_function:
      return "a function";
    case napi_bigint:
      return "a bigint";
    case napi_object:
    case napi_external:
      break;
  }
  return "an object";
}

[[noreturn]] void refuse(const Napi::Value& value, const char* name, const std::string& expected) {
  throw_invalid(value.Env(), std::string(name) + " must be " + expected + ", got " + describe(value));
}

int64_t to_int(const Napi::Value& value, const char* name, int64_t lo, int64_t hi) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
  const bool integral = std::trunc(number) == number && std::fabs(number) <= static_cast<double>(max_safe_integer);
  if (!integral || static_cast<int64_t>(number) < lo || static_cast<int64_t>(number) > hi) {
    refuse(value, name, "an integer from " + std::to_string(lo) + " to " + std::to_string(hi));
  }
  return static_cast<int64_t>(number);
}

double to_number(const Napi::Value& value, const char* name, double lo, double hi) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!std::isfinite(number)) refuse(value, name, "a finite number");
  if (number < lo || number > hi) refuse(value, name, "a number from " + number_text(lo) + " to " + number_text(hi));
  return number;
}

bool to_bool(const Napi::Value& value, const char* name) {
  if (!value.IsBoolean()) refuse(value, name, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string to_text(const Napi::Value& value, const char* name) {
  if (!value.IsString()) refuse(value, name, "a string");
  return value.As<Napi::String>().Utf8Value();
}

bool absent_or_null(const Napi::Value& value) { return value.IsUndefined() || value.IsNull(); }

}  // namespace

int64_t require_int(const Napi::CallbackInfo& info, size_t index, const char* name, int64_t lo, int64_t hi) {
  return to_int(info[index], name, lo, hi);
}

double require_number(const Napi::CallbackInfo& info, size_t index, const char* name, double lo, double hi) {
  return to_number(info[index], name, lo, hi);
}

bool require_bool(const Napi::CallbackInfo& info, size_t index, const char* name) { return to_bool(info[index], name); }

std::string require_string(const Napi::CallbackInfo& info, size_t index, const char* name) { return to_text(info[index], name); }

Napi::Function require_function(const Napi::CallbackInfo& info, size_t index, const char* name) {
  if (!info[index].IsFunction()) refuse(info[index], name, "a function");
  return info[index].As<Napi::Function>();
}

Napi::Object require_object(const Napi::CallbackInfo& info, size_t index, const char* name) {
  if (!info[index].IsObject() || info[index].IsFunction()) refuse(info[index], name, "an object");
  return info[index].As<Napi::Object>();
}

Dtype require_dtype(const Napi::CallbackInfo& info, size_t index, const char* name) {
  const Napi::Value value = info[index];
  const std::optional<Dtype> dtype = value.IsString() ? parse_dtype(value.As<Napi::String>().Utf8Value()) : std::nullopt;
  if (!dtype)
    throw_status(info.Env(),
                 Status::fail(Code::dtype, std::string(name) + " must be 'f32', 'f16', 'bf16', 'i8' or 'i32', got " + describe(value)));
  return *dtype;
}

std::shared_ptr<Tensor> require_tensor(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return TensorObject::tensor_of(info[index], name);
}

std::shared_ptr<Tensor> optional_tensor(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return absent_or_null(info[index]) ? nullptr : TensorObject::tensor_of(info[index], name);
}

int64_t int_field(const Napi::Object& object, const char* name, int64_t lo, int64_t hi, std::optional<int64_t> absent) {
  const Napi::Value value = object.Get(name);
  return value.IsUndefined() && absent ? *absent : to_int(value, name, lo, hi);
}

double number_field(const Napi::Object& object, const char* name, double lo, double hi, std::optional<double> absent) {
  const Napi::Value value = object.Get(name);
  return value.IsUndefined() && absent ? *absent : to_number(value, name, lo, hi);
}

bool bool_field(const Napi::Object& object, const char* name, std::optional<bool> absent) {
  const Napi::Value value = object.Get(name);
  return value.IsUndefined() && absent ? *absent : to_bool(value, name);
}

std::string string_field(const Napi::Object& object, const char* name, std::optional<std::string> absent) {
  const Napi::Value value = object.Get(name);
  return value.IsUndefined() && absent ? *std::move(absent) : to_text(value, name);
}

std::shared_ptr<Tensor> tensor_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  return absent_or_null(value) ? nullptr : TensorObject::tensor_of(value, name);
}

}  // namespace latentwire::addon
