// The JavaScript class of codebooks on a device.
#include "addon/device_jobs.h"
#include "addon/device_objects.h"
#include "addon/operand_object.h"

namespace latentwire::addon {
namespace {

class DeviceCodebookObject : public OperandObject<DeviceCodebookObject, DeviceCodebook> {
 public:
  static constexpr const char* class_name = "DeviceCodebook";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e64'636f'6465};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->device_codebook_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&DeviceCodebookObject::info>("info"),
                           InstanceAccessor<&DeviceCodebookObject::disposed>("disposed"),
                           InstanceMethod<&DeviceCodebookObject::nearest_sync>("nearestSync"),
                           InstanceMethod<&DeviceCodebookObject::nearest>("nearest"),
                           InstanceMethod<&DeviceCodebookObject::dispose>("dispose"),
                       });
  }

  explicit DeviceCodebookObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  static Job::ToValue value_of(Shared codebook) { return wrap(std::move(codebook)); }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }
  void nearest_sync(const Napi::CallbackInfo& call) { refuse_sync(call); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const DeviceCodebook& codebook = operand(call.Env());
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("count", static_cast<double>(codebook.count()));
    out.Set("dimension", static_cast<double>(codebook.depth()));
    out.Set("bytes", static_cast<double>(codebook.bytes()));
    return out;
  }

  // nearest(x) -> { indices i32 [n], distances f32 [n] }
  Napi::Value nearest(const Napi::CallbackInfo& call) {
    const Shared codebook = shared(call.Env());
    DeviceInput input = DeviceInput::of(call[0], "x", codebook->depth());
    return {call.Env(), translate(call.Env(), [&] {
              return start_on_device(call.Env(), [codebook, input](Job& job, DeviceStream& stream) mutable {
                auto indices = device_output(stream, Dtype::i32, {input.count()});
                auto distances = device_output(stream, Dtype::f32, {input.count()});
                BadRow bad;
                check(bad.arm(stream));
                if (input.count() > 0) {
                  check(codebook->nearest(stream, input.rows(job, stream), indices->buffer->as<int32_t>(), distances->buffer->as<float>(),
                                          bad.flag()));
                }
                check(bad.fetch(stream));
                const bool stays = input.on_device();
                return unless_bad(bad, placed_object({{"indices", placed(job, stream, std::move(indices), stays)},
                                                      {"distances", placed(job, stream, std::move(distances), stays)}}));
              });
            })};
  }
};

}  // namespace

napi_value pack_device_codebook(napi_env env, std::shared_ptr<const Tensor> codewords, Dtype storage) {
  return start_on_device(env, [codewords = std::move(codewords), storage](Job&, DeviceStream& stream) -> Job::ToValue {
    const int64_t depth = codewords->shape()[1];
    std::shared_ptr<const DeviceCodebook> packed;
    check(DeviceCodebook::pack(stream, {codewords->dtype(), codewords->data(), codewords->shape()[0], depth}, depth, storage, &packed));
    return DeviceCodebookObject::value_of(std::move(packed));
  });
}

void init_device_codebook(Napi::Env env, Napi::Object) {
  env.GetInstanceData<AddonData>()->device_codebook_class = Napi::Persistent(DeviceCodebookObject::define(env));
}

}  // namespace latentwire::addon
