// Typed arrays of JavaScript: their numbers in place, for the time of a call, and new ones.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "addon/errors.h"
#include "addon/napi_setup.h"

namespace latentwire::addon {

struct ArrayKind {
  napi_typedarray_type type;
  const char* class_name;
};
template <typename T>
inline constexpr ArrayKind array_kind{};
template <>
inline constexpr ArrayKind array_kind<int8_t>{napi_int8_array, "Int8Array"};
template <>
inline constexpr ArrayKind array_kind<uint8_t>{napi_uint8_array, "Uint8Array"};
template <>
inline constexpr ArrayKind array_kind<uint16_t>{napi_uint16_array, "Uint16Array"};
template <>
inline constexpr ArrayKind array_kind<int32_t>{napi_int32_array, "Int32Array"};
template <>
inline constexpr ArrayKind array_kind<float>{napi_float32_array, "Float32Array"};
template <>
inline constexpr ArrayKind array_kind<double>{napi_float64_array, "Float64Array"};

// Throws ERR_LATENT_INVALID_ARGUMENT if the buffer of the typed array was transferred: it has no numbers any more, which is not the same as
// having none.
void refuse_detached(const Napi::Value& array);

// The numbers of a typed array (Float32Array for float, and so on), to be used before JavaScript runs again; false for anything else. Those
// of a SharedArrayBuffer may change while they are used: what must hold between two looks is copied first.
template <typename T>
bool array_of(const Napi::Value& value, std::span<T>* out) {
  napi_typedarray_type type = napi_int8_array;
  size_t size = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(value.Env(), value, &type, &size, &data, nullptr, nullptr) != napi_ok || type != array_kind<T>.type)
    return false;
  if (size == 0) refuse_detached(value);
  *out = {static_cast<T*>(data), size};
  return true;
}
template <typename T>
std::span<T> require_array(const Napi::Value& value, const char* name) {
  std::span<T> array;
  if (!array_of(value, &array)) throw_invalid(value.Env(), std::string(name) + " must be of the type " + array_kind<T>.class_name);
  return array;
}
// The same of exactly `size` numbers.
template <typename T>
std::span<T> require_array(const Napi::Value& value, const char* name, int64_t size) {
  const std::span<T> array = require_array<T>(value, name);
  if (static_cast<int64_t>(array.size()) != size)
    throw_invalid(value.Env(), std::string(name) + " must have " + std::to_string(size) + " numbers, not " + std::to_string(array.size()));
  return array;
}
// A copy.
template <typename T>
std::vector<T> copy_array(const Napi::Value& value, const char* name) {
  return translate(value.Env(), [&] {
    const std::span<T> array = require_array<T>(value, name);
    return std::vector<T>(array.begin(), array.end());
  });
}
// A copy; empty where the field is undefined.
template <typename T = float>
std::vector<T> array_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  return value.IsUndefined() ? std::vector<T>() : copy_array<T>(value, name);
}

// A new typed array of `size` zeros, made by its JavaScript constructor: that throws where N-API's function would end the process for want
// of memory.
Napi::Value new_array(Napi::Env env, const ArrayKind& kind, int64_t size);
// The same with numbers in it.
template <typename T>
Napi::Value array_with(Napi::Env env, std::span<const T> values) {
  const Napi::Value made = new_array(env, array_kind<T>, static_cast<int64_t>(values.size()));
  std::span<T> numbers;
  // a program may have replaced the constructor
  if (!array_of(made, &numbers) || numbers.size() != values.size())
    throw_invalid(env, std::string("globalThis.") + array_kind<T>.class_name + " makes other arrays");
  std::copy(values.begin(), values.end(), numbers.begin());
  return made;
}

}  // namespace latentwire::addon
