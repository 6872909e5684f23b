// The JavaScript class of anchors on a device.
#include "addon/device_jobs.h"
#include "addon/device_objects.h"
#include "addon/operand_object.h"

namespace latentwire::addon {
namespace {

class DeviceAnchorsObject : public OperandObject<DeviceAnchorsObject, DeviceAnchors> {
 public:
  static constexpr const char* class_name = "DeviceAnchors";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e64'616e'6368};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->device_anchors_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&DeviceAnchorsObject::info>("info"),
                           InstanceAccessor<&DeviceAnchorsObject::disposed>("disposed"),
                           InstanceMethod<&DeviceAnchorsObject::relative_sync>("relativeSync"),
                           InstanceMethod<&DeviceAnchorsObject::relative>("relative"),
                           InstanceMethod<&DeviceAnchorsObject::top_k>("topK"),
                           InstanceMethod<&DeviceAnchorsObject::codes>("codes"),
                           InstanceMethod<&DeviceAnchorsObject::dispose>("dispose"),
                       });
  }

  explicit DeviceAnchorsObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  static Job::ToValue value_of(Shared anchors) { return wrap(std::move(anchors)); }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }
  void relative_sync(const Napi::CallbackInfo& call) { refuse_sync(call); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const DeviceAnchors& anchors = operand(call.Env());
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("count", static_cast<double>(anchors.count()));
    out.Set("dimension", static_cast<double>(anchors.depth()));
    out.Set("bytes", static_cast<double>(anchors.bytes()));
    return out;
  }

  // Launches the product; throws Failure.
  static std::shared_ptr<DeviceTensor> compare(const DeviceAnchors& anchors, DeviceInput* input, Job& job, DeviceStream& stream,
                                               BadRow* bad) {
    auto out = device_output(stream, Dtype::f32, {input->count(), anchors.count()});
    check(bad->arm(stream));
    if (input->count() > 0) check(anchors.relative(stream, input->rows(job, stream), out->buffer->as<float>(), bad->flag()));
    check(bad->fetch(stream));
    return out;
  }

  Napi::Value relative(const Napi::CallbackInfo& call) {
    const Shared anchors = shared(call.Env());
    DeviceInput input = DeviceInput::of(call[0], "x", anchors->depth());
    return {call.Env(), translate(call.Env(), [&] {
              return start_on_device(call.Env(), [anchors, input](Job& job, DeviceStream& stream) mutable {
                BadRow bad;
                auto out = compare(*anchors, &input, job, stream, &bad);
                return unless_bad(bad, placed(job, stream, std::move(out), input.on_device()));
              });
            })};
  }

  Napi::Value top_k(const Napi::CallbackInfo& call) {
    const Shared anchors = shared(call.Env());
    DeviceInput input = DeviceInput::of(call[0], "x", anchors->depth());
    const int64_t k = require_int(call, 1, "k", 1, anchors->count());
    return {call.Env(), translate(call.Env(), [&] {
              return start_on_device(call.Env(), [anchors, input, k](Job& job, DeviceStream& stream) mutable {
                auto indices = device_output(stream, Dtype::i32, {input.count(), k});
                auto values = device_output(stream, Dtype::f32, {input.count(), k});
                BadRow bad;
                check(bad.arm(stream));
                if (input.count() > 0) {
                  check(anchors->top_k(stream, input.rows(job, stream), k, indices->buffer->as<int32_t>(), values->buffer->as<float>(),
                                       bad.flag()));
                }
                check(bad.fetch(stream));
                const bool stays = input.on_device();
                return unless_bad(bad, placed_object({{"indices", placed(job, stream, std::move(indices), stays)},
                                                      {"values", placed(job, stream, std::move(values), stays)}}));
              });
            })};
  }

  // Cosines from the device, their codes on the host: a code is a quarter of a cosine or less, and rounds as the CPU's.
  Napi::Value codes(const Napi::CallbackInfo& call) {
    const Shared anchors = shared(call.Env());
    DeviceInput input = DeviceInput::of(call[0], "x", anchors->depth());
    const auto bits = static_cast<int>(require_int(call, 1, "bits", 1, 8));
    if (anchors->similarity() != Similarity::cosine) throw_invalid(call.Env(), "codes are for cosine similarities");
    if (bits != 8 && bits != 4 && bits != 1) throw_invalid(call.Env(), "codes have 8, 4 or 1 bits");
    return {call.Env(), translate(call.Env(), [&] {
              return start_on_device(call.Env(), [anchors, input, bits](Job& job, DeviceStream& stream) mutable {
                BadRow bad;
                const auto r = compare(*anchors, &input, job, stream, &bad);
                const int64_t m = anchors->count();
                const int64_t row_bytes = code_row_bytes(m, bits);
                std::vector<float> cosines(static_cast<size_t>(r->size));
                check(stream.download(cosines.data(), r->buffer->data(), r->bytes(), &job.cancel_flag()));
                std::shared_ptr<Tensor> out;
                check(Tensor::create(Dtype::i8, {input.count(), row_bytes}, &out));
                for (int64_t i = 0; i < input.count(); i++)
                  encode_cosines(cosines.data() + i * m, m, bits, static_cast<uint8_t*>(out->data()) + i * row_bytes);
                return unless_bad(bad, tensor_value(std::move(out)));
              });
            })};
  }
};

}  // namespace

napi_value pack_device_anchors(napi_env env, std::shared_ptr<const Tensor> anchors, std::shared_ptr<const Tensor> whitening,
                               PackedAnchors::Options options) {
  return start_on_device(env,
                         [anchors = std::move(anchors), whitening = std::move(whitening), options = std::move(options)](
                             Job&, DeviceStream& stream) mutable -> Job::ToValue {
                           const int64_t depth = anchors->shape()[1];
                           if (whitening)
                             options.whitening.matrix = {
                                 whitening->dtype(),   whitening->data(), whitening->shape()[1], whitening->shape()[0], 1,
                                 whitening->shape()[1]};
                           std::shared_ptr<const DeviceAnchors> packed;
                           check(DeviceAnchors::pack(stream, {anchors->dtype(), anchors->data(), anchors->shape()[0], depth}, depth,
                                                     std::move(options), &packed));
                           return DeviceAnchorsObject::value_of(std::move(packed));
                         });
}

void init_device_anchors(Napi::Env env, Napi::Object) {
  env.GetInstanceData<AddonData>()->device_anchors_class = Napi::Persistent(DeviceAnchorsObject::define(env));
}

void refuse_sync(const Napi::CallbackInfo& call) {
  throw_invalid(call.Env(), "on cuda nothing is computed before a call returns: use the method without Sync");
}

}  // namespace latentwire::addon
