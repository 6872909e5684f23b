// Checks of arguments and option fields. Each throws a JavaScript Error with code ERR_LATENT_INVALID_ARGUMENT that names what was wrong; the
// TypeScript layer checks too, with better words, but no value reaches the engine unchecked even if it is bypassed.
#pragma once

#include <cstdint>
#include <string>

#include "addon/napi_setup.h"

namespace latentwire::addon {

std::string require_string(const Napi::CallbackInfo& info, size_t index, const char* name);
bool require_bool(const Napi::CallbackInfo& info, size_t index, const char* name);
double require_number(const Napi::CallbackInfo& info, size_t index, const char* name);
int64_t require_int(const Napi::CallbackInfo& info, size_t index, const char* name, int64_t low, int64_t high);
Napi::Object require_object(const Napi::CallbackInfo& info, size_t index, const char* name);
Napi::Value require_function(const Napi::CallbackInfo& info, size_t index, const char* name);

int64_t int_field(const Napi::Object& object, const char* name, int64_t low, int64_t high);
double number_field(const Napi::Object& object, const char* name);
bool bool_field(const Napi::Object& object, const char* name);
std::string string_field(const Napi::Object& object, const char* name);

}  // namespace latentwire::addon
