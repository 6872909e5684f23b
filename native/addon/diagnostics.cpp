#include "addon/diagnostics.h"

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "addon/addon.h"
#include "addon/args.h"
#include "engine/failure.h"

namespace latentwire::addon {
namespace {

constexpr double longest_sleep_ms = 3'600'000;

Napi::Value noop(const Napi::CallbackInfo& info) { return info.Env().Undefined(); }

struct Alarm {
  std::mutex mutex;
  std::condition_variable rung;
  bool ringing = false;

  void ring() {
    const std::lock_guard lock(mutex);
    ringing = true;
    rung.notify_all();
  }
};

Napi::Value sleep_job(const Napi::CallbackInfo& info) {
  const std::chrono::duration<double, std::milli> time(require_number(info, 0, "ms", 0, longest_sleep_ms));
  EnvJobs& jobs = *info.Env().GetInstanceData<AddonData>()->jobs;
  return {info.Env(), start_on_pool(info.Env(), jobs, std::make_shared<Job>(), nullptr, [time](Job& job) -> Job::ToValue {
            if (time.count() > 0) {
              const auto alarm = std::make_shared<Alarm>();
              job.set_on_cancel([alarm] { alarm->ring(); });
              std::unique_lock lock(alarm->mutex);
              alarm->rung.wait_for(lock, time, [&alarm] { return alarm->ringing; });
            }
            if (job.cancelled()) fail(Code::cancelled, "the sleep was cancelled");
            return {};
          })};
}

}  // namespace

Napi::Object make_diagnostics(Napi::Env env) {
  Napi::Object diagnostics = Napi::Object::New(env);
  diagnostics.Set("noop", Napi::Function::New<noop>(env, "noop"));
  diagnostics.Set("sleepJob", Napi::Function::New<sleep_job>(env, "sleepJob"));
  return diagnostics;
}

}  // namespace latentwire::addon
