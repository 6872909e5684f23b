#include "addon/engine_objects.h"

#include <cstring>
#include <system_error>
#include <thread>

#include "addon/args.h"
#include "addon/env_jobs.h"
#include "addon/errors.h"
#include "addon/tensor_object.h"
#include "core/thread_pool.h"
#include "engine/failure.h"
#include "engine/pool.h"

namespace latentwire::addon {

napi_value start_on_thread(Napi::Env env, napi_value listener, std::function<Job::ToValue(Job&)> work) {
  auto job = std::make_shared<Job>();
  napi_value started = env.GetInstanceData<AddonData>()->jobs->start(env, job, listener);
  const auto body = [job, work = std::move(work)] {
    Job::ToValue value;
    Status status;
    try {
      value = work(*job);
    } catch (...) {
      status = current_failure();
    }
    job->finish(std::move(status), std::move(value));
  };
  try {
    std::thread(body).detach();
  } catch (const std::system_error& error) {
    job->finish(Status::fail(Code::out_of_memory, std::string("no thread for the operation: ") + error.what()));
  }
  return started;
}

napi_value start_request(Napi::Env env, const std::shared_ptr<Pool>& pool, const std::shared_ptr<Request>& request,
                         const std::shared_ptr<Job>& job, Harvest harvest, napi_value listener, std::function<void()> prepare) {
  request->cancelled = std::shared_ptr<const std::atomic<bool>>(job, &job->cancel_flag());
  // weak: a job must not keep a pool alive that nobody holds any more
  job->set_on_cancel([weak = std::weak_ptr<Pool>(pool)] {
    if (const auto alive = weak.lock()) alive->wake();
  });
  request->done = [job, harvest = std::move(harvest)](Status status) {
    Job::ToValue value;
    if (status.ok() && harvest) value = harvest();
    job->finish(std::move(status), std::move(value));
  };
  napi_value started = env.GetInstanceData<AddonData>()->jobs->start(env, job, listener);
  if (!prepare) {
    pool->submit(request);
    return started;
  }
  if (!pool->admit(*request)) return started;
  ThreadPool::get().submit([pool, request, prepare = std::move(prepare)] {
    try {
      prepare();
      pool->enqueue(request);
    } catch (...) {
      pool->give_up(*request, current_failure());
    }
  });
  return started;
}

napi_value to_int32_array(napi_env env, const std::vector<int32_t>& values) {
  Napi::Int32Array array = Napi::Int32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(int32_t));
  return array;
}

napi_value tensor_of(napi_env env, const std::vector<float>& values, std::vector<int64_t> shape) {
  std::shared_ptr<Tensor> tensor;
  if (const Status status = Tensor::create(Dtype::f32, std::move(shape), &tensor); !status.ok()) {
    throw_status(env, status);
  }
  if (!values.empty()) std::memcpy(tensor->f32(), values.data(), values.size() * sizeof(float));
  return TensorObject::wrap(env, std::move(tensor));
}

namespace {

// endAll(): see NativeEngine. The libraries free what they use while their code still runs on other threads, if a process exits in the
// middle of it.
Napi::Value end_all(const Napi::CallbackInfo& info) {
  EnvJobs::end_all();
  Pool::stop_all();
  return info.Env().Undefined();
}

Napi::Value load_runtime(const Napi::CallbackInfo& info) {
  std::string directory = require_string(info, 0, "directory");
  return {info.Env(), start_on_thread(info.Env(), nullptr, [directory = std::move(directory)](Job&) -> Job::ToValue {
            const Runtime& runtime = Runtime::load(directory);
            return [&runtime](napi_env raw) -> napi_value {
              const Napi::Env env(raw);
              Napi::Object out = Napi::Object::New(env);
              out.Set("directory", runtime.directory());
              out.Set("llamaVersion", runtime.api().llama_version());
              out.Set("ggmlVersion", runtime.api().ggml_version());
              const auto devices = runtime.devices();
              Napi::Array list = Napi::Array::New(env, devices.size());
              for (size_t i = 0; i < devices.size(); i++) {
                Napi::Object device = Napi::Object::New(env);
                device.Set("name", devices[i].name);
                device.Set("description", devices[i].description);
                list.Set(static_cast<uint32_t>(i), device);
              }
              out.Set("devices", list);
              return out;
            };
          })};
}

Napi::Value load_model(const Napi::CallbackInfo& info) {
  std::string path = require_string(info, 0, "path");
  const Napi::Object given = require_object(info, 1, "options");
  Model::Options options;
  options.gpu_layers = static_cast<int32_t>(int_field(given, "gpuLayers", 0, 1'000'000));
  options.mmap = bool_field(given, "mmap");
  const Napi::Value listener = require_function(info, 2, "onProgress");
  return {info.Env(), start_on_thread(info.Env(), listener, [path = std::move(path), options](Job& job) -> Job::ToValue {
            float last = -1.0F;
            std::shared_ptr<Model> model = Model::load(path, options, [&](float ratio) {
              if (ratio >= last + 0.01F || ratio >= 1.0F) {
                last = ratio;
                job.emit([ratio](napi_env env) -> napi_value { return Napi::Number::New(env, static_cast<double>(ratio)); });
              }
              return !job.cancelled();
            });
            return [model = std::move(model)](napi_env env) -> napi_value { return wrap_model(env, model); };
          })};
}

}  // namespace

void init_engine(Napi::Env env, Napi::Object exports) {
  init_model(env);
  init_pool(env);
  init_sequence(env);
  exports.Set("loadRuntime", Napi::Function::New(env, load_runtime, "loadRuntime"));
  exports.Set("endAll", Napi::Function::New(env, end_all, "endAll"));
  exports.Set("loadModel", Napi::Function::New(env, load_model, "loadModel"));
}

}  // namespace latentwire::addon
