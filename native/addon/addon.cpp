// The module's entry: one instance per environment.
#include "addon/addon.h"

#include <chrono>
#include <thread>

#include "addon/args.h"
#include "addon/engine_objects.h"
#include "addon/tensor_object.h"
#include "core/cpu_features.h"
#include "core/thread_pool.h"

namespace latentwire::addon {
namespace {

// A cancellable job that only waits: what the round-trip benchmark and the tests of shutting down run.
Napi::Value sleep_job(const Napi::CallbackInfo& info) {
  const auto ms = require_int(info, 0, "ms", 0, 60'000);
  const auto job = std::make_shared<Job>();
  napi_value started = info.Env().GetInstanceData<AddonData>()->jobs->start(info.Env(), job, nullptr);
  run_on_worker([job, ms] {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    while (!job->cancelled() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    job->finish(job->cancelled() ? Status::fail(Code::cancelled, "the operation was aborted") : Status{});
  });
  return {info.Env(), started};
}

Napi::Value noop(const Napi::CallbackInfo& info) { return info.Env().Undefined(); }

Napi::Value cpu_features(const Napi::CallbackInfo& info) {
  const auto names = latentwire::cpu_features();
  Napi::Array list = Napi::Array::New(info.Env(), names.size());
  for (size_t i = 0; i < names.size(); i++) list.Set(static_cast<uint32_t>(i), names[i]);
  return list;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto data = std::make_unique<AddonData>();
  data->jobs = EnvJobs::create(env);
  data->tensor_class = Napi::Persistent(TensorObject::define(env));
  env.SetInstanceData(data.release());

  exports.Set("version", LATENTWIRE_VERSION);
  exports.Set("Tensor", env.GetInstanceData<AddonData>()->tensor_class.Value());
  exports.Set("cpuFeatures", Napi::Function::New(env, cpu_features, "cpuFeatures"));
  Napi::Object diagnostics = Napi::Object::New(env);
  diagnostics.Set("sleepJob", Napi::Function::New(env, sleep_job, "sleepJob"));
  diagnostics.Set("noop", Napi::Function::New(env, noop, "noop"));
  exports.Set("diagnostics", diagnostics);
  init_engine(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(latentwire, init)

}  // namespace latentwire::addon
