// The JavaScript class of fused projections.
#pragma once

#include <memory>

#include "addon/napi_setup.h"
#include "kernels/project.h"

namespace latentwire::addon {

// The projection behind a Projection object; nullptr if `value` is none. Throws ERR_LATENT_DISPOSED.
std::shared_ptr<const Projection> projection_of(const Napi::Value& value);

}  // namespace latentwire::addon
