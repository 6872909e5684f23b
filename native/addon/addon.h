// What one environment's instance of the addon holds. No globals: a worker loads the same library and gets its own.
#pragma once

#include <memory>

#include "addon/env_jobs.h"
#include "addon/napi_setup.h"

namespace latentwire::addon {

struct AddonData {
  std::shared_ptr<EnvJobs> jobs;
  Napi::FunctionReference tensor_class;
  Napi::FunctionReference model_class;
  Napi::FunctionReference pool_class;
  Napi::FunctionReference sequence_class;
};

}  // namespace latentwire::addon
