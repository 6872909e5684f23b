#include "addon/device_tensor_object.h"

#include <string>
#include <utility>

#include "addon/device_jobs.h"
#include "addon/device_objects.h"
#include "addon/operand_object.h"

namespace latentwire::addon {
namespace {

class DeviceTensorObject : public OperandObject<DeviceTensorObject, DeviceTensor> {
 public:
  static constexpr const char* class_name = "DeviceTensor";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e64'7465'6e73};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->device_tensor_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceAccessor<&DeviceTensorObject::dtype>("dtype"),
                           InstanceAccessor<&DeviceTensorObject::shape>("shape"),
                           InstanceAccessor<&DeviceTensorObject::byte_length>("byteLength"),
                           InstanceAccessor<&DeviceTensorObject::device>("device"),
                           InstanceAccessor<&DeviceTensorObject::disposed>("disposed"),
                           InstanceMethod<&DeviceTensorObject::unreadable>("copyTo"),
                           InstanceMethod<&DeviceTensorObject::unreadable>("toTyped"),
                           InstanceMethod<&DeviceTensorObject::unreadable>("toFloat32"),
                           InstanceMethod<&DeviceTensorObject::unreadable>("convert"),
                           InstanceMethod<&DeviceTensorObject::to>("to"),
                           InstanceMethod<&DeviceTensorObject::share>("share"),
                           InstanceMethod<&DeviceTensorObject::dispose>("dispose"),
                       });
  }

  explicit DeviceTensorObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  static Job::ToValue value_of(Shared tensor) { return wrap(std::move(tensor)); }
  static Shared tensor_in(const Napi::Value& value) {
    DeviceTensorObject* object = from(value);
    return object == nullptr ? nullptr : object->shared(value.Env());
  }

 private:
  Napi::Value dtype(const Napi::CallbackInfo& call) {
    return Napi::String::New(call.Env(), std::string(dtype_name(operand(call.Env()).dtype)));
  }

  Napi::Value shape(const Napi::CallbackInfo& call) {
    const auto& extents = operand(call.Env()).shape;
    const Napi::Array array = Napi::Array::New(call.Env(), extents.size());
    for (size_t i = 0; i < extents.size(); i++) array.Set(static_cast<uint32_t>(i), static_cast<double>(extents[i]));
    return array;
  }

  Napi::Value byte_length(const Napi::CallbackInfo& call) {
    return Napi::Number::New(call.Env(), static_cast<double>(operand(call.Env()).bytes()));
  }

  Napi::Value device(const Napi::CallbackInfo& call) { return Napi::String::New(call.Env(), "cuda"); }
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value unreadable(const Napi::CallbackInfo& call) {
    static_cast<void>(operand(call.Env()));  // a disposed one says so
    throw_invalid(call.Env(), "the tensor lies on cuda: await its to('cpu') first");
  }

  Napi::Value share(const Napi::CallbackInfo& call) {
    return {call.Env(), translate(call.Env(), [&, source = shared(call.Env())] { return share_tensor(call.Env(), source); })};
  }

  // to(device: "cpu" | "cuda"): a copy
  Napi::Value to(const Napi::CallbackInfo& call) {
    const bool stays = require_string(call, 0, "device") == "cuda";
    return {call.Env(), translate(call.Env(), [&, source = shared(call.Env())] {
              return start_on_device(call.Env(), [source, stays](Job& job, DeviceStream& stream) {
                auto made = device_output(stream, source->dtype, source->shape);
                if (source->size > 0) {
                  check(DeviceStream::call(stream.api().copy, stream.handle(), made->buffer->as<void>(), source->buffer->as<void>(),
                                           source->bytes(), latent_on_device));
                }
                return placed(job, stream, std::move(made), stays);
              });
            })};
  }
};

Napi::Object info_object(Napi::Env env, const latent_device_info& info) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", static_cast<const char*>(info.name));
  out.Set("computeCapability", std::to_string(info.major) + "." + std::to_string(info.minor));
  out.Set("processors", info.processors);
  out.Set("memoryBytes", static_cast<double>(info.memory));
  out.Set("driver", std::to_string(info.driver / 1000) + "." + std::to_string(info.driver % 1000 / 10));
  return out;
}

// deviceStatus(): a job; { available, file, reason?, message?, backend?, build?, devices }
Napi::Value device_status_job(const Napi::CallbackInfo& call) {
  EnvJobs& jobs = *call.Env().GetInstanceData<AddonData>()->jobs;
  return {call.Env(), start_on_pool(call.Env(), jobs, std::make_shared<Job>(), nullptr, [](Job&) -> Job::ToValue {
            const Backend& backend = backend_of_process();
            std::vector<latent_device_info> infos;
            for (int device = 0; device < backend.devices; device++) {
              latent_device_info info{};
              check(DeviceStream::call(backend.api->device_info, device, &info));
              infos.push_back(info);
            }
            return [&backend, infos = std::move(infos)](napi_env env) -> napi_value {
              Napi::Object out = Napi::Object::New(env);
              out.Set("available", backend.api != nullptr);
              out.Set("file", backend.file);
              if (backend.api != nullptr) {
                out.Set("backend", backend.api->name);
                out.Set("build", backend.api->build);
              } else {
                out.Set("reason", backend.reason);
                out.Set("message", backend.message);
              }
              const Napi::Array devices = Napi::Array::New(env, infos.size());
              for (size_t i = 0; i < infos.size(); i++) devices.Set(static_cast<uint32_t>(i), info_object(env, infos[i]));
              out.Set("devices", devices);
              return out;
            };
          })};
}

// deviceMemory(): a job; { freeBytes, totalBytes, processBytes, ownBytes, pinnedBytes }
Napi::Value device_memory_job(const Napi::CallbackInfo& call) {
  return {call.Env(), translate(call.Env(), [&] {
            return start_on_device(call.Env(), [](Job&, DeviceStream& stream) -> Job::ToValue {
              latent_memory_info info{};
              check(DeviceStream::call(stream.api().memory_info, stream.device(), &info));
              return [info](napi_env env) -> napi_value {
                const DeviceUse use = device_use_of(env);
                Napi::Object out = Napi::Object::New(env);
                out.Set("freeBytes", static_cast<double>(info.free_bytes));
                out.Set("totalBytes", static_cast<double>(info.total_bytes));
                out.Set("processBytes", static_cast<double>(info.used_bytes));
                out.Set("ownBytes", static_cast<double>(use.device));
                out.Set("pinnedBytes", static_cast<double>(use.pinned));
                return out;
              };
            });
          })};
}

}  // namespace

std::shared_ptr<const DeviceTensor> device_tensor_of(const Napi::Value& value) { return DeviceTensorObject::tensor_in(value); }

void refuse_device_tensor(const Napi::Value& value, const char* name) {
  if (DeviceTensorObject::from(value) != nullptr)
    throw_invalid(value.Env(), std::string(name) + " lies on cuda, and is needed on the cpu: await its to('cpu') first");
}

Job::ToValue device_tensor_value(std::shared_ptr<const DeviceTensor> tensor) { return DeviceTensorObject::value_of(std::move(tensor)); }

napi_value to_device(napi_env env, std::shared_ptr<const Tensor> tensor) {
  return start_on_device(env, [tensor = std::move(tensor)](Job& job, DeviceStream& stream) {
    auto made = device_output(stream, tensor->dtype(), tensor->shape());
    check(stream.upload(made->buffer->data(), tensor->data(), tensor->bytes(), &job.cancel_flag()));
    return device_tensor_value(std::move(made));
  });
}

void init_device(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->device_tensor_class = Napi::Persistent(DeviceTensorObject::define(env));
  exports.Set("deviceStatus", Napi::Function::New<device_status_job>(env, "deviceStatus"));
  exports.Set("deviceMemory", Napi::Function::New<device_memory_job>(env, "deviceMemory"));
  init_device_share(env, exports);
  init_device_anchors(env, exports);
  init_device_projection(env, exports);
  init_device_codebook(env, exports);
  init_device_thought(env, exports);
}

}  // namespace latentwire::addon
