// Module initialisation: once in every environment that loads the addon.
#include "addon/addon.h"

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "addon/args.h"
#include "addon/device_objects.h"
#include "addon/diagnostics.h"
#include "addon/engine_objects.h"
#include "addon/errors.h"
#include "addon/fit_objects.h"
#include "addon/kernel_objects.h"
#include "addon/kv_objects.h"
#include "addon/tensor_object.h"
#include "core/cpu_features.h"
#include "core/large_memory.h"

#ifndef LATENTWIRE_VERSION
#error "the build passes LATENTWIRE_VERSION, a string literal, from package.json"
#endif

namespace latentwire::addon {
namespace {

// Node unloads the addon when the last worker that loaded it ends, but pool threads are parked inside its code: it must stay.
// False if the system would not pin it.
bool pin_module() noexcept {
  static const char anchor = 0;
#ifdef _WIN32
  HMODULE module = nullptr;
  return GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN, &anchor, &module) != 0;
#else
  Dl_info self{};
  if (dladdr(&anchor, &self) == 0) return false;
  // never closed, on purpose
  return dlopen(self.dli_fname, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) != nullptr;
#endif
}

Napi::Value list_cpu_features(const Napi::CallbackInfo& info) {
  const auto names = cpu_feature_names();
  const Napi::Array list = Napi::Array::New(info.Env(), names.size());
  for (size_t i = 0; i < names.size(); i++) list.Set(static_cast<uint32_t>(i), std::string(names[i]));
  return list;
}

// cancelJob(id)
void cancel_job(const Napi::CallbackInfo& info) {
  const int64_t id = require_int(info, 0, "id", 1, max_safe_integer);
  info.Env().GetInstanceData<AddonData>()->jobs->cancel(static_cast<uint64_t>(id));
}

bool is_set(const char* variable) noexcept {
  const char* text = std::getenv(variable);
  return text != nullptr && std::strcmp(text, "1") == 0;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  static const bool pinned = pin_module();
  [[maybe_unused]] static const bool wipes = wipe_freed_memory(is_set("LATENTWIRE_WIPE"));
  if (!pinned) throw_status(env, Status::fail(Code::engine_failed, "the addon cannot keep itself loaded"));
  auto data = std::make_unique<AddonData>();
  data->jobs = EnvJobs::create(env);
  const Napi::Function tensor = TensorObject::define(env);
  data->tensor_class = Napi::Persistent(tensor);
  env.SetInstanceData(data.release());

  exports.Set("version", LATENTWIRE_VERSION);
  exports.Set("Tensor", tensor);
  exports.Set("cpuFeatures", Napi::Function::New<list_cpu_features>(env, "cpuFeatures"));
  exports.Set("cancelJob", Napi::Function::New<cancel_job>(env, "cancelJob"));
  exports.Set("diagnostics", make_diagnostics(env));
  init_engine(env, exports);
  init_kernels(env, exports);
  init_device(env, exports);
  init_fits(env, exports);
  init_kv(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(latentwire, init)

}  // namespace latentwire::addon
