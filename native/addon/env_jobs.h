// Asynchronous work of one Node environment. Every environment (the main thread, each worker) owns exactly one ThreadSafeFunction; jobs post
// their events and their end through it. When the environment goes away, a cleanup hook cancels its jobs and waits until none is running,
// so no thread ever touches a dead environment: one ThreadSafeFunction per call, or libuv's AsyncWorker, both crash on `worker.terminate()`.
#pragma once

#include <node_api.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/status.h"

namespace latentwire::addon {

class EnvJobs;

// One running operation. The side that does the work calls `emit` any number of times and `finish` exactly once, from any thread.
class Job : public std::enable_shared_from_this<Job> {
 public:
  // Builds the JavaScript value of a result; runs on the JavaScript thread. nullptr stands for `undefined`.
  using ToValue = std::function<napi_value(napi_env)>;

  virtual ~Job() = default;

  // Asks the work to stop; any thread, idempotent. Calls `on_cancel` once so that a sleeping worker can be woken.
  void cancel();
  bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }
  const std::atomic<bool>& cancel_flag() const noexcept { return cancelled_; }
  // Before `start`.
  void set_on_cancel(std::function<void()> wake) { on_cancel_ = std::move(wake); }

  // Delivers one event to the job's JavaScript listener, in order, before the promise settles.
  void emit(ToValue event);
  // Settles the promise: resolves with `value`, or rejects with an Error whose `code` is the status code. `value` is dropped on failure.
  void finish(Status status, ToValue value = {});

 private:
  friend class EnvJobs;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> finished_{false};
  std::function<void()> on_cancel_;
  // set by EnvJobs::start before the work begins
  std::shared_ptr<EnvJobs> owner_;
  napi_deferred deferred_ = nullptr;
  napi_ref listener_ = nullptr;
};

// The jobs of one environment; lives in the addon's instance data and is shared with the jobs.
class EnvJobs : public std::enable_shared_from_this<EnvJobs> {
 public:
  // Creates the ThreadSafeFunction and registers the cleanup hook (hook first: hooks run last-in first-out). JavaScript thread.
  static std::shared_ptr<EnvJobs> create(napi_env env);

  // Registers a job and returns the JavaScript object `{ promise, cancel() }`. `listener` is a function called with each event, or nullptr.
  // JavaScript thread. If the environment is closing the promise rejects with ERR_LATENT_CANCELLED and nothing runs.
  napi_value start(napi_env env, const std::shared_ptr<Job>& job, napi_value listener);

  // Runs when the environment is going away: cancels what runs and waits for it. JavaScript thread.
  void close();

 private:
  friend class Job;
  struct Item {
    std::shared_ptr<Job> job;
    Job::ToValue value;
    Status status;
    bool last;
  };

  void post(Item item);
  void deliver(napi_env env);
  void settle(napi_env env, Item& item);
  static void on_call(napi_env env, napi_value, void* context, void*);

  napi_threadsafe_function function_ = nullptr;
  int64_t unsettled_ = 0;  // JavaScript thread: while it is above 0 the function keeps the event loop alive

  std::mutex mutex_;
  std::condition_variable idle_;
  std::unordered_map<Job*, std::shared_ptr<Job>> running_;
  std::vector<Item> queue_;
  bool scheduled_ = false;
  bool closing_ = false;
};

}  // namespace latentwire::addon
