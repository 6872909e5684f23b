// The JavaScript class Kvtc: a codec that was fitted to a model; and the codecs that a stream is written in, as JavaScript names them.
#include <cmath>
#include <string>
#include <utility>

#include "addon/args.h"
#include "addon/engine_objects.h"
#include "addon/fit_result.h"
#include "addon/kernel_input.h"
#include "addon/kv_objects.h"
#include "addon/operand_object.h"
#include "addon/typed_arrays.h"
#include "engine/kvtc_fit.h"

namespace latentwire::addon {
namespace {

class KvtcObject : public OperandObject<KvtcObject, Kvtc> {
 public:
  static constexpr const char* class_name = "Kvtc";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e6b'7674'6300};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->kvtc_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&KvtcObject::name>("name"),
                           InstanceMethod<&KvtcObject::identity>("identity"),
                           InstanceMethod<&KvtcObject::ranks>("ranks"),
                           InstanceMethod<&KvtcObject::file>("file"),
                           InstanceMethod<&KvtcObject::dispose>("dispose"),
                       });
  }

  explicit KvtcObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  static Job::ToValue made(Shared codec) { return wrap(std::move(codec)); }
  const Shared& codec(Napi::Env env) const { return shared(env); }

  // readKvtc(bytes) -> job of Kvtc
  static Napi::Value read(const Napi::CallbackInfo& call) {
    std::vector<uint8_t> bytes = copy_array<uint8_t>(call[0], "bytes");
    return start_fit(call.Env(), [bytes = std::move(bytes)](const std::atomic<bool>&) -> Job::ToValue {
      Shared codec;
      check(Kvtc::read(bytes.data(), bytes.size(), &codec));
      return wrap(std::move(codec));
    });
  }

 private:
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value name(const Napi::CallbackInfo& call) { return Napi::String::New(call.Env(), operand(call.Env()).name()); }
  Napi::Value identity(const Napi::CallbackInfo& call) { return pairs_of(call.Env(), operand(call.Env()).model().identity); }

  // -> Int32Array [2 * layers], the components of each part that have bits
  Napi::Value ranks(const Napi::CallbackInfo& call) {
    std::vector<int32_t> ranks;
    for (const KvtcPart& part : operand(call.Env()).model().parts) ranks.push_back(static_cast<int32_t>(part.rank()));
    return array_with<int32_t>(call.Env(), ranks);
  }

  Napi::Value file(const Napi::CallbackInfo& call) { return array_with<uint8_t>(call.Env(), operand(call.Env()).file()); }
};

}  // namespace

std::shared_ptr<const KvCodec> codec_of(const Napi::Value& value) {
  const Napi::Env env = value.Env();
  if (value.IsNull()) return nullptr;
  if (value.IsString()) {
    const std::string name = value.As<Napi::String>().Utf8Value();
    std::shared_ptr<const KvCodec> built_in = built_in_codec(name);
    if (built_in == nullptr) throw_invalid(env, "there is no codec '" + name + "'");
    return built_in;
  }
  if (const KvtcObject* fitted = KvtcObject::from(value)) return fitted->codec(env);
  if (!value.IsObject()) throw_invalid(env, "a codec must be a name, a Kvtc, or null");
  std::string name = string_field(value.As<Napi::Object>(), "outside");
  if (name.empty() || name.size() > max_codec_name) throw_invalid(env, "a codec must have a name of at most 100 bytes");
  return outside_codec(std::move(name));
}

PartCodecs codecs_of(const Napi::Value& list) {
  if (!list.IsArray()) throw_invalid(list.Env(), "codecs must be an array");
  const auto array = list.As<Napi::Array>();
  PartCodecs codecs;
  for (uint32_t i = 0; i < array.Length(); i++) codecs.push_back(codec_of(array.Get(i)));
  return codecs;
}

Napi::Value fit_kvtc(const Napi::CallbackInfo& call, const std::shared_ptr<Pool>& pool) {
  const Napi::Env env = call.Env();
  return translate(env, [&] {
    if (!call[0].IsArray()) throw_invalid(env, "samples must be an array");
    const auto samples = call[0].As<Napi::Array>();
    KvtcFit fit;
    for (uint32_t i = 0; i < samples.Length(); i++) fit.samples.push_back(kv_of(samples.Get(i)));
    fit.identity = fields_of(call[1], "identity");
    fit.bits = copy_array<double>(call[2], "bits");
    for (const double bits : fit.bits) {
      if (!(bits >= 0 && bits <= 8)) throw_invalid(env, "bits must be from 0 to 8");
    }
    fit.ropes = pool->ropes();
    return start_fit(env, [fit = std::move(fit)](const std::atomic<bool>& cancel) -> Job::ToValue {
      std::shared_ptr<const Kvtc> codec;
      check(latentwire::fit_kvtc(fit, &cancel, &codec));
      return KvtcObject::made(std::move(codec));
    });
  });
}

void init_kv_codec(Napi::Env env, Napi::Object exports) {
  KvtcObject::constructor(env) = Napi::Persistent(KvtcObject::define(env));
  exports.Set("readKvtc", Napi::Function::New<&KvtcObject::read>(env, "readKvtc"));
}

}  // namespace latentwire::addon
