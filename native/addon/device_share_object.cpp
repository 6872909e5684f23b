// The JavaScript class of tensors that others may open: memory of the device that a handle of 64 bytes names to other threads and processes
// of this machine, and the opening of such memory.
#include <cstring>

#include "addon/args.h"
#include "addon/device_jobs.h"
#include "addon/device_objects.h"
#include "addon/device_tensor_object.h"
#include "addon/operand_object.h"
#include "addon/tensor_object.h"
#include "device/segment.h"

namespace latentwire::addon {
namespace {

class DeviceShareObject : public OperandObject<DeviceShareObject, DeviceShare> {
 public:
  static constexpr const char* class_name = "DeviceShare";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e64'7368'6172};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->device_share_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceAccessor<&DeviceShareObject::handle>("handle"),
                           InstanceAccessor<&DeviceShareObject::disposed>("disposed"),
                           InstanceMethod<&DeviceShareObject::dispose>("dispose"),
                       });
  }

  explicit DeviceShareObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  static Job::ToValue value_of(Shared share) { return wrap(std::move(share)); }

 private:
  Napi::Value handle(const Napi::CallbackInfo& call) {
    return array_with<uint8_t>(call.Env(), std::span<const uint8_t>(operand(call.Env()).handle.bytes));
  }
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }
};

// openShared(dtype, shape, handle: Uint8Array [64]): a job, a tensor with a copy of what lies there
Napi::Value open_shared(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  const Dtype dtype = require_dtype(call, 0, "dtype");
  const std::vector<int64_t> shape = shape_argument(call, 1);
  int64_t size = 0;
  if (const Status status = Tensor::measure(dtype, shape, &size); !status.ok()) throw_status(env, status);
  const latent_shared_handle handle = shared_handle_of(call[2]);
  const uint64_t bytes = static_cast<uint64_t>(size) * dtype_size(dtype);
  return {env, translate(env, [&] {
            return start_on_device(env, [dtype, shape, handle, bytes](Job&, DeviceStream& stream) -> Job::ToValue {
              std::unique_ptr<OpenedMemory> opened;
              check(OpenedMemory::open(stream, handle, &opened));
              if (bytes > opened->bytes()) {
                fail(Code::invalid_argument, "the shared memory has " + std::to_string(opened->bytes()) + " bytes, a tensor of " +
                                                 std::string(dtype_name(dtype)) + " " + shape_text(shape) + " " + std::to_string(bytes));
              }
              auto made = device_output(stream, dtype, shape);
              if (bytes > 0) {
                check(DeviceStream::call(stream.api().copy, stream.handle(), made->buffer->as<void>(), opened->data(), bytes,
                                         latent_on_device));
              }
              // it is closed here, so the copy must have ended
              check(DeviceStream::call(stream.api().stream_wait, stream.handle()));
              return device_tensor_value(std::move(made));
            });
          })};
}

}  // namespace

Job::ToValue device_share_value(DeviceShare share) {
  return DeviceShareObject::value_of(std::make_shared<const DeviceShare>(std::move(share)));
}

latent_shared_handle shared_handle_of(const Napi::Value& value) {
  latent_shared_handle handle{};
  const std::span<uint8_t> given = require_array<uint8_t>(value, "handle", sizeof(handle.bytes));
  std::memcpy(handle.bytes, given.data(), sizeof(handle.bytes));
  return handle;
}

napi_value share_tensor(napi_env env, std::shared_ptr<const DeviceTensor> tensor) {
  return start_on_device(env, [tensor = std::move(tensor)](Job&, DeviceStream& stream) -> Job::ToValue {
    DeviceShare share;
    check(stream.allocate_shared(tensor->bytes(), &share.handle, &share.buffer));
    if (tensor->size > 0) {
      check(DeviceStream::call(stream.api().copy, stream.handle(), share.buffer->as<void>(), tensor->buffer->as<void>(), tensor->bytes(),
                               latent_on_device));
    }
    return device_share_value(std::move(share));
  });
}

void init_device_share(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->device_share_class = Napi::Persistent(DeviceShareObject::define(env));
  exports.Set("openShared", Napi::Function::New<open_shared>(env, "openShared"));
}

}  // namespace latentwire::addon
