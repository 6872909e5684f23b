// The JavaScript face of the fits: one file a class or family.
#pragma once

#include "addon/napi_setup.h"

namespace latentwire::addon {

// Exports everything below.
void init_fits(Napi::Env env, Napi::Object exports);

void init_moments(Napi::Env env, Napi::Object exports);
void init_distribution(Napi::Env env, Napi::Object exports);
void init_linear_fits(Napi::Env env, Napi::Object exports);
void init_row_fits(Napi::Env env, Napi::Object exports);
void init_spaces(Napi::Env env, Napi::Object exports);

}  // namespace latentwire::addon
