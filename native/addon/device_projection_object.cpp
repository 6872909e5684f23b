// The JavaScript class of fused projections on a device.
#include "addon/device_jobs.h"
#include "addon/device_objects.h"
#include "addon/operand_object.h"

namespace latentwire::addon {
namespace {

class DeviceProjectionObject : public OperandObject<DeviceProjectionObject, DeviceProjection> {
 public:
  static constexpr const char* class_name = "DeviceProjection";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e64'7072'6f6a};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->device_projection_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&DeviceProjectionObject::info>("info"),
                           InstanceAccessor<&DeviceProjectionObject::disposed>("disposed"),
                           InstanceMethod<&DeviceProjectionObject::apply_sync>("applySync"),
                           InstanceMethod<&DeviceProjectionObject::apply>("apply"),
                           InstanceMethod<&DeviceProjectionObject::dispose>("dispose"),
                       });
  }

  explicit DeviceProjectionObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  static Job::ToValue value_of(Shared projection) { return wrap(std::move(projection)); }
  static Shared projection_in(const Napi::Value& value) {
    DeviceProjectionObject* object = from(value);
    return object == nullptr ? nullptr : object->shared(value.Env());
  }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }
  void apply_sync(const Napi::CallbackInfo& call) { refuse_sync(call); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const DeviceProjection& projection = operand(call.Env());
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("inputs", static_cast<double>(projection.inputs()));
    out.Set("outputs", static_cast<double>(projection.outputs()));
    out.Set("bytes", static_cast<double>(projection.bytes()));
    return out;
  }

  Napi::Value apply(const Napi::CallbackInfo& call) {
    const Shared projection = shared(call.Env());
    DeviceInput input = DeviceInput::of(call[0], "x", projection->inputs());
    return {call.Env(), translate(call.Env(), [&] {
              return start_on_device(call.Env(), [projection, input](Job& job, DeviceStream& stream) mutable {
                auto y = device_output(stream, Dtype::f32, {input.count(), projection->outputs()});
                BadRow bad;
                check(bad.arm(stream));
                if (input.count() > 0) check(projection->apply(stream, input.rows(job, stream), y->buffer->as<float>(), bad.flag()));
                check(bad.fetch(stream));
                return unless_bad(bad, placed(job, stream, std::move(y), input.on_device()));
              });
            })};
  }
};

Projection::Layer layer_of(const Tensor& weights, std::vector<float> bias) {
  return {weights.dtype(), weights.data(), weights.shape()[0], weights.shape()[1], std::move(bias)};
}

}  // namespace

napi_value pack_device_projection(napi_env env, std::shared_ptr<const Tensor> first, std::vector<float> first_bias,
                                  std::shared_ptr<const Tensor> second, std::vector<float> second_bias, Projection::Options options) {
  return start_on_device(
      env,
      [first = std::move(first), second = std::move(second), first_bias = std::move(first_bias), second_bias = std::move(second_bias),
       options = std::move(options)](Job&, DeviceStream& stream) mutable -> Job::ToValue {
        const Projection::Layer first_layer = layer_of(*first, std::move(first_bias));
        Projection::Layer second_layer;
        if (second) second_layer = layer_of(*second, std::move(second_bias));
        std::shared_ptr<const DeviceProjection> packed;
        check(DeviceProjection::pack(stream, first_layer, second ? &second_layer : nullptr, std::move(options), &packed));
        return DeviceProjectionObject::value_of(std::move(packed));
      });
}

std::shared_ptr<const DeviceProjection> device_projection_of(const Napi::Value& value) {
  return DeviceProjectionObject::projection_in(value);
}

void init_device_projection(Napi::Env env, Napi::Object) {
  env.GetInstanceData<AddonData>()->device_projection_class = Napi::Persistent(DeviceProjectionObject::define(env));
}

}  // namespace latentwire::addon
