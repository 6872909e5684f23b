// The JavaScript face of the kernels: one file a class or family.
#pragma once

#include "addon/napi_setup.h"

namespace latentwire::addon {

// Exports everything below, and kernelIsa.
void init_kernels(Napi::Env env, Napi::Object exports);

void init_anchors(Napi::Env env, Napi::Object exports);
void init_projection(Napi::Env env, Napi::Object exports);
void init_token_table(Napi::Env env, Napi::Object exports);
void init_thought(Napi::Env env, Napi::Object exports);
void init_tiles(Napi::Env env, Napi::Object exports);
void init_codebook(Napi::Env env, Napi::Object exports);
void init_stats(Napi::Env env, Napi::Object exports);
void init_transpose(Napi::Env env, Napi::Object exports);

}  // namespace latentwire::addon
