#include "addon/env_jobs.h"

#include <utility>

#include "addon/errors.h"

namespace latentwire::addon {
namespace {

// A listener that throws is the user's bug: it surfaces as an uncaught exception and must not stop the delivery of the rest.
void report_exception(napi_env env) {
  bool pending = false;
  napi_value error = nullptr;
  if (napi_is_exception_pending(env, &pending) != napi_ok || !pending) return;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

napi_value cancel_job(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  if (napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data) == napi_ok) {
    if (const auto job = static_cast<std::weak_ptr<Job>*>(data)->lock()) job->cancel();
  }
  return nullptr;
}

}  // namespace

void Job::cancel() {
  if (!cancelled_.exchange(true) && on_cancel_) on_cancel_();
}

void Job::emit(ToValue event) {
  if (owner_) owner_->post({shared_from_this(), std::move(event), {}, false});
}

void Job::finish(Status status, ToValue value) {
  if (!owner_ || finished_.exchange(true)) return;
  owner_->post({shared_from_this(), std::move(value), std::move(status), true});
}

std::shared_ptr<EnvJobs> EnvJobs::create(napi_env env) {
  auto jobs = std::make_shared<EnvJobs>();
  // hooks run last-in first-out, and the function registers its own: ours must come first to run after it, while `post` is already shut by `close`
  auto* hold = new std::shared_ptr<EnvJobs>(jobs);
  napi_add_env_cleanup_hook(
      env,
      [](void* data) {
        auto* held = static_cast<std::shared_ptr<EnvJobs>*>(data);
        (*held)->close();
        delete held;
      },
      hold);
  napi_value name = nullptr;
  napi_create_string_utf8(env, "latentwire", NAPI_AUTO_LENGTH, &name);
  const napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, jobs.get(), on_call, &jobs->function_);
  if (status != napi_ok) {
    jobs->closing_ = true;
    return jobs;
  }
  napi_unref_threadsafe_function(env, jobs->function_);
  return jobs;
}

napi_value EnvJobs::start(napi_env env, const std::shared_ptr<Job>& job, napi_value listener) {
  napi_value promise = nullptr;
  napi_value object = nullptr;
  napi_value cancel = nullptr;
  napi_create_promise(env, &job->deferred_, &promise);
  if (listener != nullptr) napi_create_reference(env, listener, 1, &job->listener_);
  auto* weak = new std::weak_ptr<Job>(job);
  napi_create_function(env, "cancel", NAPI_AUTO_LENGTH, cancel_job, weak, &cancel);
  napi_add_finalizer(env, cancel, weak, [](napi_env, void* data, void*) { delete static_cast<std::weak_ptr<Job>*>(data); }, nullptr, nullptr);
  napi_create_object(env, &object);
  napi_set_named_property(env, object, "promise", promise);
  napi_set_named_property(env, object, "cancel", cancel);

  bool open = false;
  {
    const std::lock_guard lock(mutex_);
    open = !closing_;
    if (open) {
      job->owner_ = shared_from_this();
      running_.emplace(job.get(), job);
    }
  }
  if (!open) {
    job->cancel();
    napi_reject_deferred(env, job->deferred_, error_value(env, Status::fail(Code::cancelled, "the environment is shutting down")));
    return object;
  }
  if (unsettled_++ == 0) napi_ref_threadsafe_function(env, function_);
  return object;
}

void EnvJobs::post(Item item) {
  const std::lock_guard lock(mutex_);
  Job* finished = item.last ? item.job.get() : nullptr;
  if (!closing_) {
    queue_.push_back(std::move(item));
    if (!scheduled_) scheduled_ = napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking) == napi_ok;
  }
  if (finished != nullptr) {
    running_.erase(finished);
    if (running_.empty()) idle_.notify_all();
  }
}

void EnvJobs::on_call(napi_env env, napi_value, void* context, void*) {
  if (env != nullptr) static_cast<EnvJobs*>(context)->deliver(env);
}

void EnvJobs::deliver(napi_env env) {
  std::vector<Item> items;
  {
    const std::lock_guard lock(mutex_);
    scheduled_ = false;
    items.swap(queue_);
  }
  for (Item& item : items) {
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env, &scope) != napi_ok) return;
    settle(env, item);
    napi_close_handle_scope(env, scope);
  }
}

void EnvJobs::settle(napi_env env, Item& item) {
  Job& job = *item.job;
  napi_value value = nullptr;
  if (item.status.ok() && item.value) {
    try {
      value = item.value(env);
    } catch (const Napi::Error& error) {
      item.status = Status::fail(Code::engine_failed, error.Message());
    } catch (const std::exception& error) {
      item.status = Status::fail(Code::out_of_memory, error.what());
    }
  }
  if (value == nullptr) napi_get_undefined(env, &value);
  if (!item.last) {
    napi_value listener = nullptr;
    napi_value undefined = nullptr;
    napi_get_undefined(env, &undefined);
    if (job.listener_ != nullptr && napi_get_reference_value(env, job.listener_, &listener) == napi_ok && listener != nullptr) {
      napi_call_function(env, undefined, listener, 1, &value, nullptr);
      report_exception(env);
    }
    return;
  }
  if (item.status.ok()) {
    napi_resolve_deferred(env, job.deferred_, value);
  } else {
    napi_reject_deferred(env, job.deferred_, error_value(env, item.status));
  }
  if (job.listener_ != nullptr) napi_delete_reference(env, job.listener_);
  if (--unsettled_ == 0) napi_unref_threadsafe_function(env, function_);
}

void EnvJobs::close() {
  std::vector<std::shared_ptr<Job>> jobs;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    for (const auto& [key, job] : running_) jobs.push_back(job);
  }
  for (const auto& job : jobs) job->cancel();
  jobs.clear();
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [&] { return running_.empty(); });
  queue_.clear();
}

}  // namespace latentwire::addon
