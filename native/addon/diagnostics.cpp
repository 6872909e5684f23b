#include "addon/diagnostics.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "addon/addon.h"
#include "addon/args.h"
#include "engine/failure.h"
#include "kernels/table.h"

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

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best of a few short runs on this thread: what it computes and reads at most, now.
Napi::Value probe(const Napi::CallbackInfo& info) {
  const Kernels& table = kernels();
  constexpr int64_t rounds = 200'000;
  constexpr int64_t floats = int64_t{16} << 20;
  static const std::vector<float> memory(floats, 1.0F);
  double flops = 0;
  double bytes = 0;
  float used = 0;
  for (int i = 0; i < 4; i++) {
    const double compute = seconds_of([&] { used += table.probe.multiply_add(rounds); });
    flops = std::max(flops, static_cast<double>(rounds * table.probe.flops_per_round) / compute);
    const double read = seconds_of([&] { used += table.rows.sum(memory.data(), floats); });
    bytes = std::max(bytes, static_cast<double>(floats * static_cast<int64_t>(sizeof(float))) / read);
  }
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("gflops", flops / 1e9);
  out.Set("readGBs", bytes / 1e9);
  out.Set("used", static_cast<double>(used));
  return out;
}

}  // namespace

Napi::Object make_diagnostics(Napi::Env env) {
  Napi::Object diagnostics = Napi::Object::New(env);
  diagnostics.Set("noop", Napi::Function::New<noop>(env, "noop"));
  diagnostics.Set("sleepJob", Napi::Function::New<sleep_job>(env, "sleepJob"));
  diagnostics.Set("probe", Napi::Function::New<probe>(env, "probe"));
  return diagnostics;
}

}  // namespace latentwire::addon
