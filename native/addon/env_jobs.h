// Asynchronous work of one Node environment. Every environment (the main thread, each worker) owns exactly one ThreadSafeFunction; jobs
// post their events and their end through it. When the environment goes away, a cleanup hook cancels its jobs and waits until none is
// running, so no thread ever touches a dead environment: one ThreadSafeFunction per call, or libuv's AsyncWorker, both crash on
// `worker.terminate()`.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "addon/napi_setup.h"
#include "core/status.h"

namespace latentwire::addon {

class EnvJobs;

// One running operation. The side that does the work calls `emit` any number of times and `finish` exactly once, from any thread.
class Job : public std::enable_shared_from_this<Job> {
 public:
  // Builds the JavaScript value of a result; runs on the JavaScript thread. nullptr stands for `undefined`. It may throw Napi::Error or
  // Failure, which rejects the promise. It is destroyed on any thread, so it must hold no JavaScript reference.
  using ToValue = std::function<napi_value(napi_env)>;

  Job() = default;
  virtual ~Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  // Asks the work to stop; any thread, idempotent. Calls `on_cancel` once so that a sleeping worker can be woken.
  void cancel();
  bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }
  const std::atomic<bool>& cancel_flag() const noexcept { return cancelled_; }
  // Any thread, also before `EnvJobs::start`. Called at once if the job is already cancelled; dropped when the job is finished.
  void set_on_cancel(std::function<void()> wake);

  // Delivers one event to the job's JavaScript listener, in order, before the promise settles. If the listener throws, the job is cancelled
  // and its promise rejects with what was thrown.
  void emit(ToValue event);
  // Settles the promise: resolves with `value`, or rejects with an Error whose `code` is the status code. `value` is dropped on failure.
  void finish(Status status, ToValue value = {});

 private:
  friend class EnvJobs;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> finished_{false};
  std::mutex wake_mutex_;
  std::function<void()> on_cancel_;  // guarded by wake_mutex_
  // set by EnvJobs::start before the work begins
  std::shared_ptr<EnvJobs> owner_;
  uint64_t id_ = 0;
  // JavaScript thread only; an environment frees its references itself when it ends
  napi_deferred deferred_ = nullptr;
  napi_ref listener_ = nullptr;
  napi_ref thrown_ = nullptr;  // an array of what the listener threw first
};

// The jobs of one environment; lives in the addon's instance data and is shared with the jobs.
class EnvJobs : public std::enable_shared_from_this<EnvJobs> {
 public:
  // Creates the ThreadSafeFunction and registers the cleanup hook (hook first: hooks run last-in first-out). JavaScript thread.
  // Throws Napi::Error.
  static std::shared_ptr<EnvJobs> create(napi_env env);

  // Registers a job and returns the JavaScript object `{ promise, id }`. `listener` is a function called with each event, or nullptr.
  // JavaScript thread. From here on the job counts as running until `finish` is called, and the environment waits for it.
  // If the environment is closing, the job is cancelled and ended: the promise rejects with ERR_LATENT_CANCELLED, a later `finish` does
  // nothing. Returns nullptr where the environment can make no object any more (a worker being terminated); the job is ended then too.
  napi_value start(napi_env env, const std::shared_ptr<Job>& job, napi_value listener);

  // Cancels the running job of that id; one that has ended is left alone. JavaScript thread.
  void cancel(uint64_t id);

  // Cancels the jobs of all environments and waits until they have ended. Any thread.
  static void end_all();

  bool closing() const noexcept { return closing_.load(std::memory_order_acquire); }

 private:
  friend class Job;
  struct Event;

  static void on_event(napi_env env, napi_value callback, void* context, void* data);
  static void on_environment_end(void* self);

  napi_status make_handle(napi_env env, const std::shared_ptr<Job>& job, napi_value listener, napi_value* handle);
  bool post(std::unique_ptr<Event> event);
  void end(const Job& job, std::unique_ptr<Event> event);
  void close();
  void end_running();
  void deliver(napi_env env, Job& job, const Job::ToValue& value);
  void settle(napi_env env, Job& job, const Status& status, const Job::ToValue& value);

  std::atomic<bool> closing_{false};
  uint64_t last_id_ = 0;  // JavaScript thread only; numbers are exact far beyond what an environment can start
  int unsettled_ = 0;     // JavaScript thread only; the loop is kept alive while it is above zero

  std::mutex mutex_;
  std::condition_variable all_ended_;
  std::unordered_map<uint64_t, std::shared_ptr<Job>> running_;  // by id
  napi_threadsafe_function channel_ = nullptr;                  // nullptr once Node has closed it: it must not be called again
};

// Starts a job whose `work` runs on the shared thread pool; what `work` returns builds the result, what it throws rejects the promise.
// A job that is cancelled while it is still queued ends at once, without waiting for a worker. JavaScript thread.
napi_value start_on_pool(napi_env env, EnvJobs& jobs, const std::shared_ptr<Job>& job, napi_value listener,
                         std::function<Job::ToValue(Job&)> work);

}  // namespace latentwire::addon
