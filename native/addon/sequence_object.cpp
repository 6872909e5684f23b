// The JavaScript face of a sequence: every operation is a request to its pool's scheduler and returns `{ promise, cancel() }`.
#include <algorithm>
#include <cmath>
#include <functional>

#include "addon/args.h"
#include "addon/device_jobs.h"
#include "addon/engine_objects.h"
#include "addon/errors.h"
#include "addon/kv_objects.h"
#include "addon/tagged_wrap.h"
#include "addon/tensor_object.h"
#include "addon/typed_arrays.h"
#include "engine/failure.h"

namespace latentwire::addon {
namespace {

class SequenceObject : public TaggedWrap<SequenceObject> {
 public:
  static constexpr const char* class_name = "Sequence";
  static constexpr napi_type_tag tag = {0x5d1f'7a6b'e0c9'4b02, 0x9a3e'41c7'd8f2'6e15};

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceAccessor<&SequenceObject::length>("length"),
                           InstanceAccessor<&SequenceObject::next_position>("nextPosition"),
                           InstanceAccessor<&SequenceObject::contiguous>("contiguous"),
                           InstanceAccessor<&SequenceObject::busy>("busy"),
                           InstanceAccessor<&SequenceObject::disposed>("disposed"),
                           InstanceMethod<&SequenceObject::log>("log"),
                           InstanceMethod<&SequenceObject::rows>("rows"),
                           InstanceMethod<&SequenceObject::prefill>("prefill"),
                           InstanceMethod<&SequenceObject::generate>("generate"),
                           InstanceMethod<&SequenceObject::think>("think"),
                           InstanceMethod<&SequenceObject::hidden>("hidden"),
                           InstanceMethod<&SequenceObject::logits>("logits"),
                           InstanceMethod<&SequenceObject::fork>("fork"),
                           InstanceMethod<&SequenceObject::adopt>("adopt"),
                           InstanceMethod<&SequenceObject::append>("append"),
                           InstanceMethod<&SequenceObject::truncate>("truncate"),
                           InstanceMethod<&SequenceObject::drop>("drop"),
                           InstanceMethod<&SequenceObject::export_kv>("exportKv"),
                           InstanceMethod<&SequenceObject::import_kv>("importKv"),
                           InstanceMethod<&SequenceObject::export_device_kv>("exportDeviceKv"),
                           InstanceMethod<&SequenceObject::import_device_kv>("importDeviceKv"),
                           InstanceMethod<&SequenceObject::share_cells>("shareCells"),
                           InstanceMethod<&SequenceObject::dispose>("dispose"),
                       });
  }

  struct Parts {
    std::shared_ptr<Pool> pool;
    std::shared_ptr<SequenceState> state;
  };

  // Only `wrap_sequence` makes one: it passes the parts as an External.
  explicit SequenceObject(const Napi::CallbackInfo& info) : TaggedWrap<SequenceObject>(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "a Sequence comes from createSequence");
    parts_ = *info[0].As<Napi::External<Parts>>().Data();
  }

 private:
  SequenceState& state() const { return *parts_.state; }
  int32_t dimension() const { return parts_.pool->model().info().embedding_length; }

  Napi::Value start(const Napi::CallbackInfo& call, const std::shared_ptr<Request>& request, Harvest harvest, napi_value listener = nullptr,
                    const std::shared_ptr<Job>& job = std::make_shared<Job>()) const {
    return {call.Env(), start_request(call.Env(), parts_.pool, request, job, std::move(harvest), listener)};
  }

  Napi::Value edit(const Napi::CallbackInfo& call, std::function<void(Pool&)> what, Harvest harvest = {},
                   std::shared_ptr<SequenceState> other = nullptr) const {
    auto request = std::make_shared<EditRequest>(parts_.state);
    request->edit = std::move(what);
    request->other = std::move(other);
    return start(call, request, std::move(harvest));
  }

  const Parts& other(const Napi::CallbackInfo& call) const {
    const SequenceObject* object = from(call[0]);
    if (object == nullptr) throw_invalid(call.Env(), "the other sequence must be a Sequence");
    const Parts& parts = object->parts_;
    if (parts.pool != parts_.pool) throw_invalid(call.Env(), "the other sequence belongs to another pool; export and import it instead");
    if (parts.state == parts_.state) throw_invalid(call.Env(), "a sequence cannot be joined with itself");
    return parts;
  }

  Napi::Value length(const Napi::CallbackInfo& call) { return Napi::Number::New(call.Env(), state().length); }
  Napi::Value next_position(const Napi::CallbackInfo& call) { return Napi::Number::New(call.Env(), state().next_position); }
  Napi::Value contiguous(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), state().is_contiguous); }
  Napi::Value busy(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), state().busy); }
  Napi::Value disposed(const Napi::CallbackInfo& call) {
    return Napi::Boolean::New(call.Env(), state().closed || state().closing || parts_.pool->closed());
  }

  // The log belongs to the scheduler while an operation runs.
  void require_idle(Napi::Env env) const {
    if (state().closed || state().closing) throw_status(env, Status::fail(Code::disposed, "the sequence is disposed"));
    if (state().busy) throw_status(env, Status::fail(Code::sequence_busy, "the log can be read when no operation runs"));
  }

  Napi::Value log(const Napi::CallbackInfo& call) {
    require_idle(call.Env());
    return {call.Env(), to_int32_array(call.Env(), state().log.tokens)};
  }

  Napi::Value rows(const Napi::CallbackInfo& call) {
    require_idle(call.Env());
    const auto count = static_cast<int64_t>(state().log.rows.size()) / dimension();
    if (count == 0) return call.Env().Null();
    return {call.Env(), tensor_of(call.Env(), state().log.rows, {count, dimension()})};
  }

  std::vector<float> rows_of(Napi::Env env, const std::shared_ptr<Tensor>& tensor) const {
    if (!tensor) throw_invalid(env, "either tokens or rows must be given");
    const auto& shape = tensor->shape();
    if (tensor->dtype() != Dtype::f32 || shape.size() != 2 || shape[1] != dimension()) {
      throw_invalid(env, "rows must be an f32 tensor of shape [n, " + std::to_string(dimension()) + "]");
    }
    const float* data = std::as_const(*tensor).f32();
    std::vector<float> rows(data, data + shape[0] * shape[1]);
    for (const float x : rows) {
      if (!std::isfinite(x)) throw_status(env, Status::fail(Code::non_finite, "the rows are not finite"));
    }
    return rows;
  }

  Napi::Value prefill(const Napi::CallbackInfo& call) {
    const Napi::Object given = require_object(call, 0, "options");
    auto request = std::make_shared<PrefillRequest>(parts_.state);
    request->priority = static_cast<int32_t>(int_field(given, "priority", -1000, 1000));
    const std::string hidden = string_field(given, "hidden");
    if (hidden == "last")
      request->hidden = PrefillRequest::Hidden::last;
    else if (hidden == "all")
      request->hidden = PrefillRequest::Hidden::all;
    else if (hidden != "none")
      throw_invalid(call.Env(), "hidden must be 'none', 'last' or 'all'");
    const Napi::Value tokens = given.Get("tokens");
    if (!tokens.IsUndefined()) {
      request->entries.tokens = copy_array<int32_t>(tokens, "tokens");
      for (const int32_t token : request->entries.tokens) {
        if (!parts_.pool->model().is_token(token))
          throw_invalid(call.Env(), "token " + std::to_string(token) + " is not in the vocabulary");
      }
    } else {
      request->entries.rows = rows_of(call.Env(), tensor_field(given, "rows"));
      request->entries.tokens.assign(request->entries.rows.size() / static_cast<size_t>(dimension()), row_entry);
    }
    return start(call, request, [request = request.get(), d = dimension()]() -> Job::ToValue {
      return [states = std::move(request->states), d](napi_env env) -> napi_value {
        if (states.empty()) return Napi::Env(env).Null();
        return tensor_of(env, states, {static_cast<int64_t>(states.size()) / d, d});
      };
    });
  }

  Napi::Value generate(const Napi::CallbackInfo& call) {
    const Napi::Object given = require_object(call, 0, "options");
    auto request = std::make_shared<GenerateRequest>(parts_.state);
    request->priority = static_cast<int32_t>(int_field(given, "priority", -1000, 1000));
    request->max_tokens = static_cast<int32_t>(int_field(given, "maxTokens", 0, INT32_MAX));
    request->window = static_cast<int32_t>(int_field(given, "window", 1, 1 << 20));
    SamplingOptions& sampling = request->sampling;
    sampling.temperature = static_cast<float>(number_field(given, "temperature"));
    sampling.top_k = static_cast<int32_t>(int_field(given, "topK", 0, INT32_MAX));
    sampling.top_p = static_cast<float>(number_field(given, "topP"));
    sampling.min_p = static_cast<float>(number_field(given, "minP"));
    sampling.repeat_penalty = static_cast<float>(number_field(given, "repeatPenalty"));
    sampling.frequency_penalty = static_cast<float>(number_field(given, "frequencyPenalty"));
    sampling.presence_penalty = static_cast<float>(number_field(given, "presencePenalty"));
    sampling.penalty_window = static_cast<int32_t>(int_field(given, "penaltyWindow", 0, 1 << 20));
    sampling.seed = static_cast<uint32_t>(int_field(given, "seed", 0, UINT32_MAX));
    if (!(sampling.repeat_penalty > 0.0F)) throw_invalid(call.Env(), "repeatPenalty must be above 0");
    if (!given.Get("stop").IsArray()) throw_invalid(call.Env(), "stop must be an array of strings");
    const auto stops = given.Get("stop").As<Napi::Array>();
    for (uint32_t i = 0; i < stops.Length(); i++) {
      const Napi::Value stop = stops.Get(i);
      if (!stop.IsString() || stop.As<Napi::String>().Utf8Value().empty())
        throw_invalid(call.Env(), "a stop string must be a string that is not empty");
      request->stops.push_back(stop.As<Napi::String>().Utf8Value());
    }
    const Napi::Value listener = require_function(call, 1, "onToken");

    const auto job = std::make_shared<Job>();
    request->on_token = [job = std::weak_ptr<Job>(job)](int32_t token, std::string bytes) {
      const auto target = job.lock();
      if (!target) return;
      target->emit([token, bytes = std::move(bytes)](napi_env raw) -> napi_value {
        const Napi::Env env(raw);
        Napi::Object event = Napi::Object::New(env);
        event.Set("token", token);
        Napi::Uint8Array data = Napi::Uint8Array::New(env, bytes.size());
        if (!bytes.empty()) std::memcpy(data.Data(), bytes.data(), bytes.size());
        event.Set("bytes", data);
        return event;
      });
    };
    const Harvest harvest = [request = request.get()]() -> Job::ToValue {
      return [reason = request->reason, tokens = request->tokens](napi_env raw) -> napi_value {
        constexpr const char* names[] = {"end", "length", "stop"};
        Napi::Object out = Napi::Object::New(Napi::Env(raw));
        out.Set("reason", names[static_cast<size_t>(reason)]);
        out.Set("tokens", tokens);
        return out;
      };
    };
    Napi::Value started = start(call, request, harvest, listener, job);
    if (!started.IsObject()) return started;
    const auto credit = [running = std::weak_ptr<GenerateRequest>(request),
                         pool = std::weak_ptr<Pool>(parts_.pool)](const Napi::CallbackInfo& info) {
      const auto tokens = require_int(info, 0, "tokens", 0, INT32_MAX);
      if (const auto target = running.lock()) target->credited.fetch_add(tokens, std::memory_order_release);
      if (const auto alive = pool.lock()) alive->wake();
    };
    started.As<Napi::Object>().Set("credit", Napi::Function::New(call.Env(), credit, "credit"));
    return started;
  }

  Napi::Value think(const Napi::CallbackInfo& call) {
    const Napi::Object given = require_object(call, 0, "options");
    auto request = std::make_shared<ThinkRequest>(parts_.state);
    request->priority = static_cast<int32_t>(int_field(given, "priority", -1000, 1000));
    request->steps = static_cast<int32_t>(int_field(given, "steps", 0, INT32_MAX));
    request->alpha = static_cast<float>(number_field(given, "alpha"));
    if (!std::isfinite(request->alpha) || request->alpha < 0.0F) throw_invalid(call.Env(), "alpha must be finite and not negative");
    request->alignment = tensor_field(given, "alignment");
    if (request->alignment) {
      if (request->alignment->dtype() != Dtype::f32 || request->alignment->shape() != std::vector<int64_t>{dimension(), dimension()}) {
        throw_invalid(call.Env(), "alignment must be an f32 tensor of shape [d, d]");
      }
    }
    const Napi::Value listener = require_function(call, 1, "onStep");
    const auto job = std::make_shared<Job>();
    request->on_step = [job = std::weak_ptr<Job>(job)](int32_t step, double norm, double cosine) {
      const auto target = job.lock();
      if (!target) return;
      target->emit([step, norm, cosine](napi_env raw) -> napi_value {
        Napi::Object event = Napi::Object::New(Napi::Env(raw));
        event.Set("step", step);
        event.Set("norm", norm);
        event.Set("cosine", cosine);
        return event;
      });
    };
    const Harvest harvest = [request = request.get(), d = dimension()]() -> Job::ToValue {
      return [latents = std::move(request->latents), d](napi_env env) -> napi_value {
        return tensor_of(env, latents, {static_cast<int64_t>(latents.size()) / d, d});
      };
    };
    return start(call, request, harvest, listener, job);
  }

  Napi::Value output(const Napi::CallbackInfo& call, bool hidden) const {
    auto request = std::make_shared<OutputRequest>(parts_.state);
    request->hidden = hidden;
    return start(call, request, [request = request.get()]() -> Job::ToValue {
      return [values = std::move(request->values)](napi_env env) -> napi_value {
        return tensor_of(env, values, {static_cast<int64_t>(values.size())});
      };
    });
  }
  Napi::Value hidden(const Napi::CallbackInfo& call) { return output(call, true); }
  Napi::Value logits(const Napi::CallbackInfo& call) { return output(call, false); }

  Napi::Value fork(const Napi::CallbackInfo& call) {
    auto copy = std::make_shared<std::shared_ptr<SequenceState>>();
    return edit(
        call, [copy, source = parts_.state](Pool& pool) { *copy = pool.fork(*source); },
        [copy, weak = std::weak_ptr<Pool>(parts_.pool)]() -> Job::ToValue {
          return [state = *copy, weak](napi_env env) -> napi_value {
            const auto pool = weak.lock();
            return pool ? Napi::Value(wrap_sequence(env, pool, state)) : Napi::Env(env).Undefined();
          };
        });
  }

  Napi::Value adopt(const Napi::CallbackInfo& call) {
    const Parts& source = other(call);
    return edit(
        call, [to = parts_.state, from = source.state.get()](Pool& pool) { pool.replace(*to, *from); }, {}, source.state);
  }

  // Resolves with the number of positions that were added.
  Napi::Value append(const Napi::CallbackInfo& call) {
    const Parts& source = other(call);
    const std::string mode = require_string(call, 1, "mode");
    auto added = std::make_shared<int32_t>(0);
    const Harvest harvest = [added]() -> Job::ToValue {
      return [count = *added](napi_env env) -> napi_value { return Napi::Number::New(env, count); };
    };
    if (mode == "shift") {
      return edit(
          call,
          [to = parts_.state, from = source.state.get(), added](Pool& pool) {
            *added = from->log.size();
            pool.append_shifted(*to, *from);
          },
          harvest, source.state);
    }
    if (mode != "recompute") throw_invalid(call.Env(), "mode must be 'recompute' or 'shift'");
    auto request = std::make_shared<PrefillRequest>(parts_.state);
    request->other = source.state;
    request->copy_other = true;
    return start(call, request, [from = source.state]() -> Job::ToValue {
      return [count = from->length.load()](napi_env env) -> napi_value { return Napi::Number::New(env, count); };
    });
  }

  Napi::Value truncate(const Napi::CallbackInfo& call) {
    const auto length = static_cast<int32_t>(require_int(call, 0, "length", 0, INT32_MAX));
    return edit(call, [s = parts_.state, length](Pool& pool) {
      if (length > s->log.size())
        fail(Code::invalid_argument, "cannot truncate " + std::to_string(s->log.size()) + " positions to " + std::to_string(length));
      pool.require_adjacent_end(*s, length);
      pool.truncate(*s, length);
    });
  }

  Napi::Value drop(const Napi::CallbackInfo& call) {
    const auto from = static_cast<int32_t>(require_int(call, 0, "from", 0, INT32_MAX));
    const auto to = static_cast<int32_t>(require_int(call, 1, "to", 0, INT32_MAX));
    const bool reanchor = require_bool(call, 2, "reanchor");
    return edit(call, [s = parts_.state, from, to, reanchor](Pool& pool) {
      if (from > to || to > s->log.size()) {
        fail(Code::invalid_argument,
             "cannot drop [" + std::to_string(from) + ", " + std::to_string(to) + ") of " + std::to_string(s->log.size()) + " positions");
      }
      pool.drop(*s, from, to, reanchor);
    });
  }

  // exportKv(from, to) -> job of Kv
  Napi::Value export_kv(const Napi::CallbackInfo& call) {
    return export_to(call, std::make_shared<KvContent>(), &Pool::export_kv, kv_value);
  }

  // exportDeviceKv(from, to) -> job of DeviceKv
  Napi::Value export_device_kv(const Napi::CallbackInfo& call) {
    return export_to(call, std::make_shared<DeviceContent>(), &Pool::export_on_device, device_kv_value);
  }

  template <typename Content>
  Napi::Value export_to(const Napi::CallbackInfo& call, std::shared_ptr<Content> content,
                        Content (Pool::*take)(const SequenceState&, int32_t, int32_t),
                        Job::ToValue (*value)(std::shared_ptr<const Content>)) const {
    const auto from = static_cast<int32_t>(require_int(call, 0, "from", 0, INT32_MAX));
    const auto to = static_cast<int32_t>(require_int(call, 1, "to", 0, INT32_MAX));
    return edit(
        call,
        [content, take, from, to, s = parts_.state](Pool& pool) {
          if (from > to || to > s->log.size()) {
            fail(Code::invalid_argument, "cannot export [" + std::to_string(from) + ", " + std::to_string(to) + ") of " +
                                             std::to_string(s->log.size()) + " positions");
          }
          *content = (pool.*take)(*s, from, to);
        },
        [content, value]() -> Job::ToValue { return value(content); });
  }

  // importKv(kv, positions: Int32Array) -> job. Content is made ready on the shared threads while the pool goes on.
  Napi::Value import_kv(const Napi::CallbackInfo& call) {
    const auto content = kv_of(call[0]);
    auto positions = positions_of(call, content->size());
    return import_from(call,
                       [content, positions = std::move(positions)](const Pool& pool, Job& job) {
                         return pool.encode_kv(*content, positions, &job.cancel_flag());
                       },
                       {});
  }

  // importDeviceKv(kv, positions: Int32Array) -> job of whether it stayed on the device
  Napi::Value import_device_kv(const Napi::CallbackInfo& call) {
    const auto content = device_kv_of(call[0]);
    auto positions = positions_of(call, content->entries.size());
    const auto stayed = std::make_shared<bool>(false);
    return translate(call.Env(), [&] {
      return import_from(
          call,
          [content, stayed, positions = std::move(positions), own = device_stream_of(call.Env())](const Pool& pool, Job& job) {
            if (auto incoming = pool.encode_on_device(content, positions)) {
              *stayed = true;
              return std::move(*incoming);
            }
            KvContent host;
            check(own->complete([&](DeviceStream& stream) { return download_content(stream, *content, &job.cancel_flag(), &host); }));
            return pool.encode_kv(host, positions, &job.cancel_flag());
          },
          [stayed]() -> Job::ToValue { return [done = *stayed](napi_env env) -> napi_value { return Napi::Boolean::New(env, done); }; });
    });
  }

  static std::vector<int32_t> positions_of(const Napi::CallbackInfo& call, int64_t count) {
    auto positions = copy_array<int32_t>(call[1], "positions");
    if (static_cast<int64_t>(positions.size()) != count)
      throw_invalid(call.Env(), "positions must have " + std::to_string(count) + " numbers");
    if (std::adjacent_find(positions.begin(), positions.end(), std::greater_equal<>()) != positions.end() ||
        (!positions.empty() && positions.front() < 0))
      throw_status(call.Env(), Status::fail(Code::kv_position, "positions must not be negative, and each greater than the one before it"));
    return positions;
  }

  Napi::Value import_from(const Napi::CallbackInfo& call, std::function<Pool::Incoming(const Pool&, Job&)> encode, Harvest harvest) const {
    auto request = std::make_shared<EditRequest>(parts_.state);
    auto incoming = std::make_shared<Pool::Incoming>();
    request->edit = [incoming, s = parts_.state](Pool& pool) { pool.import_kv(*s, std::move(*incoming)); };
    const auto job = std::make_shared<Job>();
    const auto prepare = [incoming, encode = std::move(encode), pool = parts_.pool, job] { *incoming = encode(*pool, *job); };
    return {call.Env(), start_request(call.Env(), parts_.pool, request, job, std::move(harvest), nullptr, prepare)};
  }

  // shareCells(other, base) -> job of whether they are shared now: with a base >= 0, only if the entries lie there, one after the other.
  Napi::Value share_cells(const Napi::CallbackInfo& call) {
    const Parts& source = other(call);
    const auto base = static_cast<int32_t>(require_int(call, 1, "base", -1, INT32_MAX));
    auto shared = std::make_shared<bool>(false);
    return edit(
        call,
        [shared, base, to = parts_.state, from = source.state.get()](Pool& pool) {
          const std::vector<int32_t>& there = from->positions;
          // they ascend, so those without a gap can be told by their ends
          *shared = base < 0 || there.empty() || (there.front() == base && from->next() - base == from->log.size());
          if (*shared) pool.join_cells(*to, *from);
        },
        [shared]() -> Job::ToValue { return [done = *shared](napi_env env) -> napi_value { return Napi::Boolean::New(env, done); }; },
        source.state);
  }

  Napi::Value dispose(const Napi::CallbackInfo& call) { return start(call, std::make_shared<DisposeRequest>(parts_.state), {}); }

  Parts parts_;
};

}  // namespace

void init_sequence(Napi::Env env) { env.GetInstanceData<AddonData>()->sequence_class = Napi::Persistent(SequenceObject::define(env)); }

Napi::Object wrap_sequence(Napi::Env env, std::shared_ptr<Pool> pool, std::shared_ptr<SequenceState> state) {
  SequenceObject::Parts parts{std::move(pool), std::move(state)};
  return env.GetInstanceData<AddonData>()->sequence_class.New({Napi::External<SequenceObject::Parts>::New(env, &parts)});
}

}  // namespace latentwire::addon
