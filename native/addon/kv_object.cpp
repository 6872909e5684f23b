// The JavaScript class Kv: what a sequence holds, in native memory. Cutting and joining share it.
#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "addon/args.h"
#include "addon/engine_objects.h"
#include "addon/kernel_input.h"
#include "addon/kv_objects.h"
#include "addon/operand_object.h"
#include "kv/shared_contents.h"

namespace latentwire::addon {
namespace {

Napi::Object kind_of(Napi::Env env, const CacheRows& rows) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("format", std::string(row_format_name(rows.format)));
  out.Set("channels", rows.channels);
  out.Set("rotation", rows.rotation);
  return out;
}

class KvObject : public OperandObject<KvObject, KvContent> {
 public:
  static constexpr const char* class_name = "Kv";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e6b'7600'0001};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->kv_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&KvObject::info>("info"),
                           InstanceMethod<&KvObject::tokens>("tokens"),
                           InstanceMethod<&KvObject::positions>("positions"),
                           InstanceMethod<&KvObject::rows>("rows"),
                           InstanceMethod<&KvObject::part>("part"),
                           InstanceMethod<&KvObject::slice>("slice"),
                           InstanceMethod<&KvObject::concat>("concat"),
                           InstanceMethod<&KvObject::select>("select"),
                           InstanceMethod<&KvObject::convert_rows>("convert"),
                           InstanceMethod<&KvObject::ticket>("ticket"),
                           InstanceAccessor<&KvObject::disposed>("disposed"),
                           InstanceMethod<&KvObject::dispose>("dispose"),
                       });
  }

  explicit KvObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // kvOfTicket(ticket) -> Kv
  static Napi::Value of_ticket(const Napi::CallbackInfo& call) {
    const std::string ticket = require_string(call, 0, "ticket");
    return translate(call.Env(), [&] {
      Shared content = content_of_ticket(ticket);
      if (content == nullptr)
        fail(Code::disposed, "the content is gone: whoever shared it has disposed it, or it was shared in another process");
      return Napi::Value(call.Env(), wrap(std::move(content))(call.Env()));
    });
  }

  static Job::ToValue made(Shared content) { return wrap(std::move(content)); }
  const Shared& content(Napi::Env env) const { return shared(env); }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value info(const Napi::CallbackInfo& call) { return kv_info(call.Env(), operand(call.Env())); }

  Napi::Value tokens(const Napi::CallbackInfo& call) { return array_with<int32_t>(call.Env(), operand(call.Env()).tokens); }
  Napi::Value positions(const Napi::CallbackInfo& call) { return array_with<int32_t>(call.Env(), operand(call.Env()).positions); }

  // -> Tensor [latents, d] | null
  Napi::Value rows(const Napi::CallbackInfo& call) {
    const KvContent& content = operand(call.Env());
    if (content.rows.empty()) return call.Env().Null();
    return {call.Env(), tensor_of(call.Env(), content.rows, {content.latents(), content.layout.dimension})};
  }

  // part(2 * place of the layer + (0 keys | 1 values), from, to) -> job of Tensor f32 [to - from, channels], the rotation of storage undone
  Napi::Value part(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const Shared content = shared(env);
    const int64_t index = require_int(call, 0, "part", 0, static_cast<int64_t>(content->layout.parts.size()) - 1);
    const int64_t to = require_int(call, 2, "to", 0, content->size());
    const int64_t from = require_int(call, 1, "from", 0, to);
    const CacheRows kind = content->layout.parts[static_cast<size_t>(index)];
    return {env, start_on_pool(env, *env.GetInstanceData<AddonData>()->jobs, std::make_shared<Job>(), nullptr, [=](Job&) -> Job::ToValue {
              std::shared_ptr<Tensor> numbers;
              check(Tensor::create(Dtype::f32, {to - from, kind.channels}, &numbers));
              float* out = numbers->f32();
              content->for_pieces(index, from, to, [&](const uint8_t* rows, int64_t count) {
                decode(kind, rows, count, out);
                out += count * kind.channels;
              });
              return tensor_value(std::move(numbers));
            })};
  }

  Napi::Value slice(const Napi::CallbackInfo& call) {
    const KvContent& content = operand(call.Env());
    const int64_t to = require_int(call, 1, "to", 0, content.size());
    const int64_t from = require_int(call, 0, "from", 0, to);
    return translate(call.Env(),
                     [&] { return Napi::Value(call.Env(), wrap(std::make_shared<const KvContent>(content.slice(from, to)))(call.Env())); });
  }

  Napi::Value concat(const Napi::CallbackInfo& call) {
    const KvContent& content = operand(call.Env());
    const auto next = kv_of(call[0]);
    return translate(call.Env(), [&] {
      auto joined = std::make_shared<KvContent>();
      check(content.concat(*next, joined.get()));
      return Napi::Value(call.Env(), wrap(std::move(joined))(call.Env()));
    });
  }

  // select(layers: Int32Array) -> Kv
  Napi::Value select(const Napi::CallbackInfo& call) {
    const KvContent& content = operand(call.Env());
    const auto layers = copy_array<int32_t>(call[0], "layers");
    if (layers.empty()) throw_invalid(call.Env(), "layers must not be empty");
    return translate(call.Env(), [&] {
      auto some = std::make_shared<KvContent>();
      check(content.select(layers, some.get()));
      return Napi::Value(call.Env(), wrap(std::move(some))(call.Env()));
    });
  }

  Napi::Value ticket(const Napi::CallbackInfo& call) {
    const Shared content = shared(call.Env());
    return translate(call.Env(), [&] {
      if (ticket_.empty()) ticket_ = ticket_of(content);
      return Napi::Value(call.Env(), Napi::String::New(call.Env(), ticket_));
    });
  }

  // convert(format) -> job of Kv
  Napi::Value convert_rows(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const Shared content = shared(env);
    const std::string format = require_string(call, 0, "format");
    constexpr RowFormat formats[] = {RowFormat::f32, RowFormat::f16, RowFormat::bf16, RowFormat::q8_0, RowFormat::q4_0};
    const auto* found = std::find_if(std::begin(formats), std::end(formats), [&](RowFormat f) { return row_format_name(f) == format; });
    if (found == std::end(formats)) throw_invalid(env, "format must be one of f32, f16, bf16, q8_0, q4_0");
    CacheLayout layout = with_format(content->layout, *found);
    for (const CacheRows& rows : layout.parts) {
      if (const Status status = check_rows(rows); !status.ok()) throw_status(env, status);
    }
    return {env, start_on_pool(env, *env.GetInstanceData<AddonData>()->jobs, std::make_shared<Job>(), nullptr,
                               [content, layout = std::move(layout)](Job& job) -> Job::ToValue {
                                 auto converted = std::make_shared<KvContent>();
                                 check(convert(*content, layout, &job.cancel_flag(), converted.get()));
                                 return wrap(std::move(converted));
                               })};
  }

  std::string ticket_;  // "" before it was asked for
};

}  // namespace

Job::ToValue kv_value(std::shared_ptr<const KvContent> content) { return KvObject::made(std::move(content)); }

std::shared_ptr<const KvContent> kv_of(const Napi::Value& value) {
  const KvObject* object = KvObject::from(value);
  if (object == nullptr) throw_invalid(value.Env(), "kv must be a Kv");
  return object->content(value.Env());
}

Napi::Object kv_info(Napi::Env env, const KvContent& content) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("positions", static_cast<double>(content.size()));
  out.Set("latents", static_cast<double>(content.latents()));
  out.Set("bytes", static_cast<double>(content.bytes()));
  const auto layers = static_cast<uint32_t>(content.layout.layers());
  const Napi::Array list = Napi::Array::New(env, layers);
  for (uint32_t i = 0; i < layers; i++) {
    Napi::Object layer = Napi::Object::New(env);
    layer.Set("layer", content.layout.layer_number(i));
    layer.Set("keys", kind_of(env, content.layout.parts[2 * size_t{i}]));
    layer.Set("values", kind_of(env, content.layout.parts[2 * size_t{i} + 1]));
    list.Set(i, layer);
  }
  out.Set("layers", list);
  out.Set("partial", !content.layout.numbers.empty());
  return out;
}

void init_kv_object(Napi::Env env, Napi::Object exports) {
  KvObject::constructor(env) = Napi::Persistent(KvObject::define(env));
  exports.Set("kvOfTicket", Napi::Function::New<&KvObject::of_ticket>(env, "kvOfTicket"));
}

}  // namespace latentwire::addon
