// The JavaScript class KvSegment, content that other processes of this host may read, and the way from its name to a Kv.
#include <algorithm>
#include <string>
#include <utility>

#include "addon/args.h"
#include "addon/engine_objects.h"
#include "addon/kernel_input.h"
#include "addon/kv_objects.h"
#include "addon/operand_object.h"
#include "addon/typed_arrays.h"
#include "kv/segment.h"

namespace latentwire::addon {
namespace {

class KvSegmentObject : public OperandObject<KvSegmentObject, SealedMemory> {
 public:
  static constexpr const char* class_name = "KvSegment";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e6b'7673'6567};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->kv_segment_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&KvSegmentObject::name>("name"),
                           InstanceAccessor<&KvSegmentObject::disposed>("disposed"),
                           InstanceMethod<&KvSegmentObject::dispose>("dispose"),
                       });
  }

  explicit KvSegmentObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // kvSegment(kv, identity, notes, nonce) -> job of KvSegment
  static Napi::Value share(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    return translate(env, [&] {
      const auto content = kv_of(call[0]);
      KvManifest manifest;
      manifest.identity = fields_of(call[1], "identity");
      manifest.notes = fields_of(call[2], "notes");
      const SegmentNonce nonce = nonce_of(call[3]);
      return Napi::Value(env, start_on_pool(env, *env.GetInstanceData<AddonData>()->jobs, std::make_shared<Job>(), nullptr,
                                            [content, manifest = std::move(manifest), nonce](Job& job) -> Job::ToValue {
                                              Shared memory;
                                              check(share_content(*content, manifest, nonce, &job.cancel_flag(), &memory));
                                              return wrap(std::move(memory));
                                            }));
    });
  }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  // -> { process, descriptor, device, inode, bytes }
  Napi::Value name(const Napi::CallbackInfo& call) {
    const SealedName& name = operand(call.Env()).name();
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("process", static_cast<double>(name.process));
    out.Set("descriptor", static_cast<double>(name.descriptor));
    out.Set("device", static_cast<double>(name.device));
    out.Set("inode", static_cast<double>(name.inode));
    out.Set("bytes", static_cast<double>(name.bytes));
    return out;
  }
};

}  // namespace

SegmentNonce nonce_of(const Napi::Value& value) {
  SegmentNonce nonce;
  const auto bytes = require_array<uint8_t>(value, "nonce", static_cast<int64_t>(nonce.size()));
  std::copy(bytes.begin(), bytes.end(), nonce.begin());
  return nonce;
}

Job::ToValue with_notes(Job::ToValue kv, KvManifest::Fields notes) {
  return [kv = std::move(kv), notes = std::move(notes)](napi_env raw) -> napi_value {
    const Napi::Env env(raw);
    Napi::Object out = Napi::Object::New(env);
    out.Set("kv", Napi::Value(env, kv(env)));
    out.Set("notes", pairs_of(env, notes));
    return out;
  };
}

Napi::Value open_segment(const Napi::CallbackInfo& call, KvExpectation expected) {
  const Napi::Env env = call.Env();
  const Napi::Object given = require_object(call, 1, "name");
  SealedName name;
  name.process = int_field(given, "process", 1, INT32_MAX);
  name.descriptor = int_field(given, "descriptor", 0, INT32_MAX);
  name.device = static_cast<uint64_t>(int_field(given, "device", 0, max_safe_integer));
  name.inode = static_cast<uint64_t>(int_field(given, "inode", 0, max_safe_integer));
  name.bytes = static_cast<uint64_t>(int_field(given, "bytes", 0, max_safe_integer));
  const SegmentNonce nonce = nonce_of(call[2]);
  return {env, start_on_pool(env, *env.GetInstanceData<AddonData>()->jobs, std::make_shared<Job>(), nullptr,
                             [name, nonce, expected = std::move(expected)](Job&) -> Job::ToValue {
                               std::shared_ptr<const KvContent> content;
                               KvManifest manifest;
                               check(open_content(name, nonce, expected, &content, &manifest));
                               return with_notes(kv_value(std::move(content)), std::move(manifest.notes));
                             })};
}

void init_kv_segment(Napi::Env env, Napi::Object exports) {
  KvSegmentObject::constructor(env) = Napi::Persistent(KvSegmentObject::define(env));
  exports.Set("kvSegment", Napi::Function::New<&KvSegmentObject::share>(env, "kvSegment"));
}

}  // namespace latentwire::addon
