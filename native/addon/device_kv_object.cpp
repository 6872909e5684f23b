// The JavaScript class of content on the device, DeviceKv.
#include <algorithm>
#include <string>
#include <utility>

#include "addon/args.h"
#include "addon/device_jobs.h"
#include "addon/device_objects.h"
#include "addon/kv_objects.h"
#include "addon/operand_object.h"
#include "addon/typed_arrays.h"
#include "device/segment.h"

namespace latentwire::addon {
namespace {

class DeviceKvObject : public OperandObject<DeviceKvObject, DeviceContent> {
 public:
  static constexpr const char* class_name = "DeviceKv";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e64'6576'6b76};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->device_kv_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&DeviceKvObject::info>("info"),
                           InstanceMethod<&DeviceKvObject::tokens>("tokens"),
                           InstanceMethod<&DeviceKvObject::positions>("positions"),
                           InstanceMethod<&DeviceKvObject::to_host>("toHost"),
                           InstanceMethod<&DeviceKvObject::share>("share"),
                           InstanceAccessor<&DeviceKvObject::disposed>("disposed"),
                           InstanceMethod<&DeviceKvObject::dispose>("dispose"),
                       });
  }

  explicit DeviceKvObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // kvToDevice(kv) -> job of DeviceKv
  static Napi::Value of_host(const Napi::CallbackInfo& call) {
    return translate(call.Env(), [&, content = kv_of(call[0])] {
      return Napi::Value(call.Env(), start_on_device(call.Env(), [content](Job& job, DeviceStream& stream) {
                           auto made = std::make_shared<DeviceContent>();
                           check(upload_content(stream, *content, &job.cancel_flag(), made.get()));
                           return wrap(std::move(made));
                         }));
    });
  }

  static Job::ToValue value_of(Shared content) { return wrap(std::move(content)); }
  const Shared& content(Napi::Env env) const { return shared(env); }

 private:
  Napi::Value info(const Napi::CallbackInfo& call) { return kv_info(call.Env(), operand(call.Env()).entries); }
  Napi::Value tokens(const Napi::CallbackInfo& call) { return array_with<int32_t>(call.Env(), operand(call.Env()).entries.tokens); }
  Napi::Value positions(const Napi::CallbackInfo& call) { return array_with<int32_t>(call.Env(), operand(call.Env()).entries.positions); }
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  // -> job of Kv
  Napi::Value to_host(const Napi::CallbackInfo& call) {
    return translate(call.Env(), [&, content = shared(call.Env())] {
      return Napi::Value(call.Env(), start_on_device(call.Env(), [content](Job& job, DeviceStream& stream) {
                           auto made = std::make_shared<KvContent>();
                           check(download_content(stream, *content, &job.cancel_flag(), made.get()));
                           return kv_value(std::move(made));
                         }));
    });
  }

  // share(identity, notes, nonce) -> job of DeviceShare
  Napi::Value share(const Napi::CallbackInfo& call) {
    return translate(call.Env(), [&, content = shared(call.Env())] {
      KvManifest manifest;
      manifest.identity = fields_of(call[0], "identity");
      manifest.notes = fields_of(call[1], "notes");
      const SegmentNonce nonce = nonce_of(call[2]);
      return Napi::Value(call.Env(),
                         start_on_device(call.Env(), [content, manifest = std::move(manifest), nonce](Job&, DeviceStream& stream) {
                           DeviceShare made;
                           check(share_on_device(stream, *content, manifest, nonce, &made.handle, &made.buffer));
                           return device_share_value(std::move(made));
                         }));
    });
  }
};

}  // namespace

Job::ToValue device_kv_value(std::shared_ptr<const DeviceContent> content) { return DeviceKvObject::value_of(std::move(content)); }

std::shared_ptr<const DeviceContent> device_kv_of(const Napi::Value& value) {
  const DeviceKvObject* object = DeviceKvObject::from(value);
  if (object == nullptr) throw_invalid(value.Env(), "kv must be a DeviceKv");
  return object->content(value.Env());
}

bool is_device_kv(const Napi::Value& value) { return DeviceKvObject::from(value) != nullptr; }

Napi::Value open_device_segment(const Napi::CallbackInfo& call, KvExpectation expected) {
  const latent_shared_handle handle = shared_handle_of(call[1]);
  const SegmentNonce nonce = nonce_of(call[2]);
  return {call.Env(),
          start_on_device(call.Env(), [handle, nonce, expected = std::move(expected)](Job&, DeviceStream& stream) -> Job::ToValue {
            auto content = std::make_shared<DeviceContent>();
            KvManifest manifest;
            check(open_on_device(stream, handle, nonce, expected, content.get(), &manifest));
            return with_notes(device_kv_value(std::move(content)), std::move(manifest.notes));
          })};
}

void init_device_kv(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->device_kv_class = Napi::Persistent(DeviceKvObject::define(env));
  exports.Set("kvToDevice", Napi::Function::New<&DeviceKvObject::of_host>(env, "kvToDevice"));
}

}  // namespace latentwire::addon
