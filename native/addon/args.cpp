#include "addon/args.h"

#include <cmath>

#include "addon/errors.h"

namespace latentwire::addon {
namespace {

[[noreturn]] void refuse(Napi::Env env, const char* name, const std::string& want) {
  throw Napi::Error(env, error_value(env, Status::fail(Code::invalid_argument, std::string(name) + " must be " + want)));
}

double number_of(const Napi::Value& value, const char* name) {
  if (!value.IsNumber()) refuse(value.Env(), name, "a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!std::isfinite(number)) refuse(value.Env(), name, "a finite number");
  return number;
}

int64_t int_of(const Napi::Value& value, const char* name, int64_t low, int64_t high) {
  const double number = number_of(value, name);
  if (number != std::floor(number) || number < static_cast<double>(low) || number > static_cast<double>(high)) {
    refuse(value.Env(), name, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return static_cast<int64_t>(number);
}

bool bool_of(const Napi::Value& value, const char* name) {
  if (!value.IsBoolean()) refuse(value.Env(), name, "true or false");
  return value.As<Napi::Boolean>();
}

std::string string_of(const Napi::Value& value, const char* name) {
  if (!value.IsString()) refuse(value.Env(), name, "a string");
  return value.As<Napi::String>().Utf8Value();
}

}  // namespace

std::string require_string(const Napi::CallbackInfo& info, size_t index, const char* name) { return string_of(info[index], name); }
bool require_bool(const Napi::CallbackInfo& info, size_t index, const char* name) { return bool_of(info[index], name); }
double require_number(const Napi::CallbackInfo& info, size_t index, const char* name) { return number_of(info[index], name); }
int64_t require_int(const Napi::CallbackInfo& info, size_t index, const char* name, int64_t low, int64_t high) {
  return int_of(info[index], name, low, high);
}

Napi::Object require_object(const Napi::CallbackInfo& info, size_t index, const char* name) {
  if (!info[index].IsObject()) refuse(info.Env(), name, "an object");
  return info[index].As<Napi::Object>();
}

Napi::Value require_function(const Napi::CallbackInfo& info, size_t index, const char* name) {
  if (!info[index].IsFunction()) refuse(info.Env(), name, "a function");
  return info[index];
}

int64_t int_field(const Napi::Object& object, const char* name, int64_t low, int64_t high) { return int_of(object.Get(name), name, low, high); }
double number_field(const Napi::Object& object, const char* name) { return number_of(object.Get(name), name); }
bool bool_field(const Napi::Object& object, const char* name) { return bool_of(object.Get(name), name); }
std::string string_field(const Napi::Object& object, const char* name) { return string_of(object.Get(name), name); }

}  // namespace latentwire::addon
