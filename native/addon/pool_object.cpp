// The JavaScript face of Pool.
#include "addon/args.h"
#include "addon/engine_objects.h"
#include "addon/errors.h"
#include "addon/kv_objects.h"
#include "addon/tagged_wrap.h"
#include "engine/failure.h"

namespace latentwire::addon {
namespace {

class PoolObject : public TaggedWrap<PoolObject> {
 public:
  static constexpr const char* class_name = "Pool";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e70'6f6f'6c00};

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&PoolObject::info>("info"),
                           InstanceMethod<&PoolObject::counters>("counters"),
                           InstanceMethod<&PoolObject::create_sequence>("createSequence"),
                           InstanceMethod<&PoolObject::kv_reader>("kvReader"),
                           InstanceMethod<&PoolObject::open_kv>("openKv"),
                           InstanceMethod<&PoolObject::open_device_kv>("openDeviceKv"),
                           InstanceMethod<&PoolObject::fit_codec>("fitKvtc"),
                           InstanceAccessor<&PoolObject::disposed>("disposed"),
                           InstanceMethod<&PoolObject::dispose>("dispose"),
                       });
  }

  // Only `wrap_pool` makes one: it passes the pool as an External.
  explicit PoolObject(const Napi::CallbackInfo& info) : TaggedWrap<PoolObject>(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "a Pool comes from createPool");
    pool_ = *info[0].As<Napi::External<std::shared_ptr<Pool>>>().Data();
  }

 private:
  Napi::Value info(const Napi::CallbackInfo& call) {
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("contextLength", pool_->context_length());
    out.Set("maxSequences", pool_->max_sequences());
    out.Set("batch", pool_->batch());
    out.Set("threads", pool_->threads());
    out.Set("flashAttention", pool_->flash_attention());
    out.Set("inPlace", pool_->in_place());
    out.Set("device", pool_->on_device() ? "cuda" : "cpu");
    out.Set("canShift", pool_->can_shift());
    out.Set("keyPositions", pool_->key_positions());
    out.Set("kvBytesPerPosition", static_cast<double>(pool_->kv_bytes_per_position()));
    return out;
  }

  Napi::Value counters(const Napi::CallbackInfo& call) {
    const Pool::Counters counts = pool_->counters();
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("decodeCalls", static_cast<double>(counts.decode_calls));
    out.Set("decodedRows", static_cast<double>(counts.decoded_rows));
    out.Set("prefillTokens", static_cast<double>(counts.prefill_tokens));
    out.Set("latentSteps", static_cast<double>(counts.latent_steps));
    out.Set("decodedTokens", static_cast<double>(counts.decoded_tokens));
    out.Set("refreshedPositions", static_cast<double>(counts.refreshed_positions));
    out.Set("usedCells", static_cast<double>(counts.used_cells));
    out.Set("openSequences", static_cast<double>(counts.open_sequences));
    out.Set("poisoned", counts.poisoned.empty() ? call.Env().Undefined() : Napi::Value(Napi::String::New(call.Env(), counts.poisoned)));
    return out;
  }

  Napi::Value create_sequence(const Napi::CallbackInfo& call) {
    return translate(call.Env(), [&] { return wrap_sequence(call.Env(), pool_, pool_->create_sequence()); });
  }

  // What content from outside is held against; throws Failure.
  KvExpectation expectation(const Napi::Value& identity) const {
    KvExpectation expected;
    expected.manifest.layout = pool_->layout();
    expected.manifest.identity = fields_of(identity, "identity");
    expected.vocabulary = pool_->model().info().vocabulary_size;
    expected.max_entries = pool_->context_length();
    return expected;
  }

  // kvReader(identity, sealed, codecs)
  Napi::Value kv_reader(const Napi::CallbackInfo& call) {
    return translate(call.Env(), [&] {
      KvExpectation expected = expectation(call[0]);
      expected.sealed = require_bool(call, 1, "sealed");
      expected.codecs = codecs_of(call[2]);
      if (std::find(expected.codecs.begin(), expected.codecs.end(), nullptr) != expected.codecs.end())
        throw_invalid(call.Env(), "codecs must be codecs");
      return wrap_kv_reader(call.Env(), std::move(expected));
    });
  }

  // openKv(identity, name, nonce) -> job of { kv, notes }
  Napi::Value open_kv(const Napi::CallbackInfo& call) {
    return translate(call.Env(), [&] { return open_segment(call, expectation(call[0])); });
  }

  // openDeviceKv(identity, handle, nonce) -> job of { kv, notes }
  Napi::Value open_device_kv(const Napi::CallbackInfo& call) {
    return translate(call.Env(), [&] { return open_device_segment(call, expectation(call[0])); });
  }
  Napi::Value fit_codec(const Napi::CallbackInfo& call) { return fit_kvtc(call, pool_); }

  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), pool_->closed()); }

  Napi::Value dispose(const Napi::CallbackInfo& call) {
    return {call.Env(), start_on_thread(call.Env(), nullptr, [pool = pool_](Job&) -> Job::ToValue {
              pool->close();
              return {};
            })};
  }

  std::shared_ptr<Pool> pool_;
};

}  // namespace

void init_pool(Napi::Env env) { env.GetInstanceData<AddonData>()->pool_class = Napi::Persistent(PoolObject::define(env)); }

Napi::Object wrap_pool(Napi::Env env, std::shared_ptr<Pool> pool) {
  return env.GetInstanceData<AddonData>()->pool_class.New({Napi::External<std::shared_ptr<Pool>>::New(env, &pool)});
}

}  // namespace latentwire::addon
