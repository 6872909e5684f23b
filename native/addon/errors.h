// A Status as a JavaScript Error: `message` and `code`; lib/errors.ts makes a LatentError or an AbortError of it.
#pragma once

#include "addon/napi_setup.h"
#include "core/status.h"

namespace latentwire::addon {

Napi::Value error_value(Napi::Env env, const Status& status);

}  // namespace latentwire::addon
