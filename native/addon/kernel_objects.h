// The JavaScript objects over packed operands: anchors of relative representations, and projections.
#pragma once

#include "addon/napi_setup.h"

namespace latentwire::addon {

// Exports packAnchors, packProjection and kernelIsa, and defines the classes that they return.
void init_kernels(Napi::Env env, Napi::Object exports);

}  // namespace latentwire::addon
