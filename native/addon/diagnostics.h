// Operations that measure the binding itself: the cost of a call, of a round trip through the pool, and the end of an environment under
// load.
#pragma once

#include "addon/napi_setup.h"

namespace latentwire::addon {

// { noop(), sleepJob(ms): Job } — `sleepJob` holds a pool thread for 0 to 3 600 000 ms and stops at once when it is cancelled.
Napi::Object make_diagnostics(Napi::Env env);

}  // namespace latentwire::addon
