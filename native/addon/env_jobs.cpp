// What runs on the JavaScript thread here is plain C Node-API with every status checked: during `worker.terminate()` any call may fail, and
// then the only right thing is to let go.
#include "addon/env_jobs.h"

#include <utility>
#include <vector>

#include "addon/errors.h"
#include "core/thread_pool.h"

namespace latentwire::addon {

struct EnvJobs::Event {
  std::shared_ptr<Job> job;
  Job::ToValue value;
  Status status;
  bool last = false;
};

namespace {

class HandleScope {
 public:
  explicit HandleScope(napi_env env) : env_(env) {
    if (napi_open_handle_scope(env, &scope_) != napi_ok) scope_ = nullptr;
  }
  ~HandleScope() {
    if (scope_ != nullptr) napi_close_handle_scope(env_, scope_);
  }
  HandleScope(const HandleScope&) = delete;
  HandleScope& operator=(const HandleScope&) = delete;

 private:
  napi_env env_;
  napi_handle_scope scope_ = nullptr;
};

// Takes the pending exception, or nullptr if there is none to be had.
napi_value take_exception(napi_env env) noexcept {
  bool pending = false;
  napi_value thrown = nullptr;
  if (napi_is_exception_pending(env, &pending) != napi_ok || !pending) return nullptr;
  if (napi_get_and_clear_last_exception(env, &thrown) != napi_ok) return nullptr;
  return thrown;
}

// Calls `make`; on failure `*thrown` is what a promise should reject with (nullptr if nothing can be made).
napi_value build(napi_env env, const Job::ToValue& make, napi_value* thrown) noexcept {
  *thrown = nullptr;
  napi_value made = nullptr;
  if (!make) {
    if (napi_get_undefined(env, &made) != napi_ok) return nullptr;
    return made;
  }
  try {
    made = make(env);
    if (made == nullptr) *thrown = take_exception(env);
    if (made == nullptr && *thrown == nullptr && napi_get_undefined(env, &made) != napi_ok) return nullptr;
  } catch (const Napi::Error& error) {
    made = nullptr;
    *thrown = error.Value();
  } catch (...) {
    made = nullptr;
    *thrown = error_value(env, current_failure());
  }
  return made;
}

void delete_reference(napi_env env, napi_ref* reference) noexcept {
  if (*reference != nullptr) napi_delete_reference(env, *reference);
  *reference = nullptr;
}

}  // namespace

void Job::cancel() {
  std::function<void()> wake;
  {
    const std::lock_guard lock(wake_mutex_);
    if (cancelled_.exchange(true, std::memory_order_acq_rel)) return;
    wake = std::move(on_cancel_);
    on_cancel_ = nullptr;
  }
  if (wake) wake();
}

void Job::set_on_cancel(std::function<void()> wake) {
  {
    const std::lock_guard lock(wake_mutex_);
    if (finished_.load(std::memory_order_acquire)) return;
    if (!cancelled_.load(std::memory_order_relaxed)) {
      on_cancel_ = std::move(wake);
      return;
    }
  }
  wake();
}

void Job::emit(ToValue event) {
  if (finished_.load(std::memory_order_acquire) || !owner_) return;
  auto message = std::make_unique<EnvJobs::Event>();
  message->job = shared_from_this();
  message->value = std::move(event);
  owner_->post(std::move(message));
}

void Job::finish(Status status, ToValue value) {
  std::function<void()> dropped;
  {
    const std::lock_guard lock(wake_mutex_);
    if (finished_.exchange(true, std::memory_order_acq_rel)) return;
    dropped = std::move(on_cancel_);
    on_cancel_ = nullptr;
  }
  if (!owner_) return;
  auto message = std::make_unique<EnvJobs::Event>();
  message->job = shared_from_this();
  if (status.ok()) message->value = std::move(value);
  message->status = std::move(status);
  message->last = true;
  // local copies: the event may settle, and the last other reference go, before `end` returns
  const std::shared_ptr<Job> self = message->job;
  const std::shared_ptr<EnvJobs> owner = owner_;
  owner->end(*self, std::move(message));
}

namespace {

// Of all environments that live. Never freed: threads of jobs may outlive what the process frees at its end.
struct Environments {
  std::mutex mutex;
  std::vector<std::weak_ptr<EnvJobs>> jobs;
};

Environments& environments() {
  static Environments& all = *new Environments;
  return all;
}

}  // namespace

std::shared_ptr<EnvJobs> EnvJobs::create(napi_env env) {
  auto jobs = std::make_shared<EnvJobs>();
  {
    const std::lock_guard lock(environments().mutex);
    std::erase_if(environments().jobs, [](const std::weak_ptr<EnvJobs>& one) { return one.expired(); });
    environments().jobs.push_back(jobs);
  }
  // the hook owns a reference of its own: instance data may go before or after it
  auto* held = new std::shared_ptr<EnvJobs>(jobs);
  if (napi_add_env_cleanup_hook(env, on_environment_end, held) != napi_ok) {
    delete held;
    throw Napi::Error::New(env, "no cleanup hook for this environment");
  }
  napi_value name = nullptr;
  napi_threadsafe_function channel = nullptr;
  if (napi_create_string_utf8(env, "latentwire", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, on_event, &channel) != napi_ok ||
      napi_unref_threadsafe_function(env, channel) != napi_ok) {
    throw Napi::Error::New(env, "no thread-safe function for this environment");
  }
  jobs->channel_ = channel;
  return jobs;
}

napi_value EnvJobs::start(napi_env env, const std::shared_ptr<Job>& job, napi_value listener) {
  napi_value handle = nullptr;
  const bool made = make_handle(env, job, listener, &handle) == napi_ok;
  bool registered = false;
  if (made) {
    const std::lock_guard lock(mutex_);
    if (!closing_.load(std::memory_order_relaxed) && channel_ != nullptr) {
      running_.emplace(job->id_, job);
      job->owner_ = shared_from_this();
      registered = true;
    }
  }
  if (registered) {
    if (unsettled_++ == 0) napi_ref_threadsafe_function(env, channel_);
    return handle;
  }
  // nothing will run: without an owner, `finish` only marks the job
  job->finish(Status::fail(Code::cancelled, "the environment is closing"));
  job->cancel();
  if (job->deferred_ != nullptr) settle(env, *job, Status::fail(Code::cancelled, "the environment is closing"), {});
  return made ? handle : nullptr;
}

// Makes `{ promise, id }` and the references that the job keeps. An id and not a function: a function of its own would cost each job more
// than the rest of its start.
napi_status EnvJobs::make_handle(napi_env env, const std::shared_ptr<Job>& job, napi_value listener, napi_value* handle) {
  napi_value promise = nullptr;
  napi_value id = nullptr;
  napi_status status = napi_create_promise(env, &job->deferred_, &promise);
  if (status != napi_ok) {
    job->deferred_ = nullptr;
    return status;
  }
  job->id_ = ++last_id_;
  if (listener != nullptr && (status = napi_create_reference(env, listener, 1, &job->listener_)) != napi_ok) return status;
  if ((status = napi_create_object(env, handle)) != napi_ok) return status;
  if ((status = napi_create_double(env, static_cast<double>(job->id_), &id)) != napi_ok) return status;
  if ((status = napi_set_named_property(env, *handle, "promise", promise)) != napi_ok) return status;
  return napi_set_named_property(env, *handle, "id", id);
}

void EnvJobs::cancel(uint64_t id) {
  std::shared_ptr<Job> job;
  {
    const std::lock_guard lock(mutex_);
    const auto found = running_.find(id);
    if (found == running_.end()) return;
    job = found->second;
  }
  job->cancel();
}

// False if the environment takes no more events; the event is dropped. The lock keeps `close` from returning while Node is being called.
bool EnvJobs::post(std::unique_ptr<Event> event) {
  const std::lock_guard lock(mutex_);
  if (channel_ == nullptr) return false;
  const napi_status status = napi_call_threadsafe_function(channel_, event.get(), napi_tsfn_nonblocking);
  if (status == napi_ok) {
    static_cast<void>(event.release());
    return true;
  }
  // closing: Node counts this thread out with that answer, and a further call would be one too many
  channel_ = nullptr;
  return false;
}

void EnvJobs::end(const Job& job, std::unique_ptr<Event> event) {
  post(std::move(event));
  const std::lock_guard lock(mutex_);
  running_.erase(job.id_);
  if (running_.empty()) all_ended_.notify_all();
}

void EnvJobs::on_environment_end(void* self) {
  const std::unique_ptr<std::shared_ptr<EnvJobs>> held(static_cast<std::shared_ptr<EnvJobs>*>(self));
  (*held)->close();
}

void EnvJobs::end_all() {
  std::vector<std::shared_ptr<EnvJobs>> living;
  {
    const std::lock_guard lock(environments().mutex);
    for (const auto& one : environments().jobs) {
      if (auto jobs = one.lock()) living.push_back(std::move(jobs));
    }
  }
  for (const auto& jobs : living) jobs->end_running();
}

void EnvJobs::end_running() {
  std::vector<std::shared_ptr<Job>> jobs;
  {
    const std::lock_guard lock(mutex_);
    closing_.store(true, std::memory_order_release);
    for (const auto& [id, job] : running_) jobs.push_back(job);
  }
  for (const auto& job : jobs) job->cancel();
  jobs.clear();
  std::unique_lock lock(mutex_);
  all_ended_.wait(lock, [this] { return running_.empty(); });
}

void EnvJobs::close() {
  end_running();
  const std::lock_guard lock(mutex_);
  if (channel_ != nullptr) napi_release_threadsafe_function(channel_, napi_tsfn_release);
  channel_ = nullptr;
}

void EnvJobs::on_event(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Event> event(static_cast<Event*>(data));
  if (env == nullptr) return;  // the environment is gone and so are its references
  const HandleScope scope(env);
  const std::shared_ptr<EnvJobs> jobs = event->job->owner_;
  if (event->last) {
    jobs->settle(env, *event->job, event->status, event->value);
    if (--jobs->unsettled_ == 0 && !jobs->closing()) {
      const std::lock_guard lock(jobs->mutex_);
      if (jobs->channel_ != nullptr) napi_unref_threadsafe_function(env, jobs->channel_);
    }
  } else {
    jobs->deliver(env, *event->job, event->value);
  }
}

void EnvJobs::deliver(napi_env env, Job& job, const Job::ToValue& value) {
  if (job.listener_ == nullptr || job.thrown_ != nullptr) return;
  napi_value thrown = nullptr;
  napi_value listener = nullptr;
  napi_value receiver = nullptr;
  napi_value argument = build(env, value, &thrown);
  if (argument != nullptr) {
    if (napi_get_reference_value(env, job.listener_, &listener) != napi_ok || napi_get_undefined(env, &receiver) != napi_ok) return;
    if (napi_call_function(env, receiver, listener, 1, &argument, nullptr) == napi_ok) return;
    thrown = take_exception(env);
  }
  job.cancel();
  if (thrown == nullptr) return;
  // in an array, because only objects can be referenced and anything can be thrown
  napi_value holder = nullptr;
  if (napi_create_array_with_length(env, 1, &holder) != napi_ok || napi_set_element(env, holder, 0, thrown) != napi_ok) return;
  if (napi_create_reference(env, holder, 1, &job.thrown_) != napi_ok) job.thrown_ = nullptr;
}

void EnvJobs::settle(napi_env env, Job& job, const Status& status, const Job::ToValue& value) {
  napi_value reason = nullptr;
  napi_value holder = nullptr;
  if (job.thrown_ != nullptr) {
    if (napi_get_reference_value(env, job.thrown_, &holder) == napi_ok && holder != nullptr) napi_get_element(env, holder, 0, &reason);
  } else if (!status.ok()) {
    reason = error_value(env, status);
  } else if (napi_value result = build(env, value, &reason); result != nullptr) {
    napi_resolve_deferred(env, job.deferred_, result);
    job.deferred_ = nullptr;
  }
  if (job.deferred_ != nullptr && reason != nullptr) napi_reject_deferred(env, job.deferred_, reason);
  job.deferred_ = nullptr;
  delete_reference(env, &job.listener_);
  delete_reference(env, &job.thrown_);
}

napi_value start_on_pool(napi_env env, EnvJobs& jobs, const std::shared_ptr<Job>& job, napi_value listener,
                         std::function<Job::ToValue(Job&)> work) {
  // whoever claims the job ends it: the worker that takes it up, or a cancel before that
  auto claimed = std::make_shared<std::atomic<bool>>(false);
  napi_value handle = jobs.start(env, job, listener);
  job->set_on_cancel([claimed, weak = std::weak_ptr<Job>(job)] {
    if (claimed->exchange(true)) return;
    if (const auto queued = weak.lock()) queued->finish(Status::fail(Code::cancelled, "cancelled before it began"));
  });
  ThreadPool::get().submit([job, claimed, work = std::move(work)]() mutable {
    if (claimed->exchange(true)) return;
    Job::ToValue value;
    Status status;
    try {
      if (job->cancelled()) {
        status = Status::fail(Code::cancelled, "cancelled before it began");
      } else {
        value = work(*job);
      }
    } catch (...) {
      status = current_failure();
    }
    work = nullptr;  // inputs go before the promise settles, so that a disposed tensor is free when the caller continues
    job->finish(std::move(status), std::move(value));
  });
  return handle;
}

}  // namespace latentwire::addon
