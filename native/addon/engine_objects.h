// The engine's JavaScript objects: functions that register them, and the wrapping they share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "addon/addon.h"
#include "addon/env_jobs.h"
#include "addon/errors.h"
#include "addon/napi_setup.h"
#include "engine/failure.h"
#include "engine/pool.h"

namespace latentwire::addon {

// Exports loadRuntime and loadModel, and defines the classes behind the objects they resolve to.
void init_engine(Napi::Env env, Napi::Object exports);
void init_model(Napi::Env env);
void init_pool(Napi::Env env);
void init_sequence(Napi::Env env);

Napi::Object wrap_model(Napi::Env env, std::shared_ptr<Model> model);
Napi::Object wrap_pool(Napi::Env env, std::shared_ptr<Pool> pool);
Napi::Object wrap_sequence(Napi::Env env, std::shared_ptr<Pool> pool, std::shared_ptr<SequenceState> state);

// Starts a job whose work runs on a thread of its own: loading and solving take seconds and must not hold up the shared pool.
// `work` throws Failure or returns how to build the result.
napi_value start_on_thread(Napi::Env env, napi_value listener, std::function<Job::ToValue(Job&)> work);

// Builds, on the scheduler thread and while the request still lives, what will become the result on the JavaScript thread.
using Harvest = std::function<Job::ToValue()>;

// Ties a request to a job: cancellation, waking the pool, and the result. Starts both; `prepare`, if any, runs on the shared thread pool
// before the request is submitted, and what it throws ends the job.
napi_value start_request(Napi::Env env, const std::shared_ptr<Pool>& pool, const std::shared_ptr<Request>& request,
                         const std::shared_ptr<Job>& job, Harvest harvest, napi_value listener, std::function<void()> prepare = {});

napi_value to_int32_array(napi_env env, const std::vector<int32_t>& values);
napi_value tensor_of(napi_env env, const std::vector<float>& values, std::vector<int64_t> shape);

}  // namespace latentwire::addon
