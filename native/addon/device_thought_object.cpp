// The JavaScript class of thought steps on a device, over a table of tokens in its memory.
#include <cstring>

#include "addon/device_jobs.h"
#include "addon/device_objects.h"
#include "addon/operand_object.h"
#include "addon/thought_recipe.h"

namespace latentwire::addon {
namespace {

// A recipe, and what of it lies on the device: the bits of the masked tokens, made on the issuing thread at the first step.
struct DeviceThought {
  std::shared_ptr<const HeldThought> thought;
  mutable std::shared_ptr<DeviceBuffer> masked;
};

// What one call is given.
struct DeviceStep {
  DeviceInput logits;
  DeviceInput hidden;
  std::vector<int32_t> tokens;
  uint64_t seed = 0;
  uint64_t step = 0;
  bool mixture = false;
};

template <typename T>
std::shared_ptr<DeviceBuffer> upload(DeviceStream& stream, const std::vector<T>& numbers) {
  std::shared_ptr<DeviceBuffer> made;
  const size_t bytes = numbers.size() * sizeof(T);
  check(stream.allocate(bytes, &made));
  check(stream.upload(made->data(), numbers.data(), bytes, nullptr));
  return made;
}

const uint32_t* masked_bits(const DeviceThought& own, DeviceStream& stream) {
  const HeldThought& thought = *own.thought;
  if (thought.masked.empty()) return nullptr;
  if (!own.masked) {
    std::vector<uint32_t> bits(static_cast<size_t>((thought.table().count + 31) / 32));
    for (const int32_t token : thought.masked) {
      // ids beyond the table mask nothing, as on the CPU
      if (token >= 0 && token < thought.table().count) bits[static_cast<size_t>(token / 32)] |= 1U << (token % 32);
    }
    own.masked = upload(stream, bits);
  }
  return own.masked->as<uint32_t>();
}

// A(h), [n, width] of f32. Throws Failure.
std::shared_ptr<DeviceTensor> aligned(const HeldThought& thought, DeviceInput* hidden, Job& job, DeviceStream& stream) {
  auto out = device_output(stream, Dtype::f32, {hidden->count(), thought.table().width});
  const latent_rows rows = hidden->rows(job, stream);
  if (thought.device_align) {
    BadRow bad;
    check(bad.arm(stream));
    check(thought.device_align->apply(stream, rows, out->buffer->as<float>(), bad.flag()));
    // a row that is not finite makes an e that is not, and that is told
  } else {
    check(DeviceStream::call(stream.api().copy, stream.handle(), out->buffer->as<void>(), rows.data, out->bytes(), latent_on_device));
  }
  return out;
}

[[noreturn]] void throw_fault(int32_t fault, int64_t index) {
  const std::string row = "input " + std::to_string(index);
  if (fault == latent_bad_logit) fail(Code::non_finite, "the logits of " + row + " hold NaN or +infinity");
  if (fault == latent_no_token) fail(Code::invalid_argument, row + " has no token with a logit above -infinity that is not masked");
  fail(Code::non_finite, "the embedding of " + row + " is not finite: its rows, its extra vector or its size are not");
}

// The statistics of [n] rows, with their faults told. Throws Failure.
std::vector<double> statistics(DeviceStream& stream, const DeviceBuffer& results, int64_t n, Job& job) {
  std::vector<latent_thought_stats> stats(static_cast<size_t>(n));
  std::vector<int32_t> faults(static_cast<size_t>(n));
  const size_t stats_bytes = stats.size() * sizeof(latent_thought_stats);
  std::vector<std::byte> bytes(results.bytes());
  check(stream.download(bytes.data(), results.data(), bytes.size(), &job.cancel_flag()));
  std::memcpy(stats.data(), bytes.data(), stats_bytes);
  std::memcpy(faults.data(), bytes.data() + stats_bytes, faults.size() * sizeof(int32_t));
  std::vector<double> out(static_cast<size_t>(n * stats_width));
  for (int64_t i = 0; i < n; i++) {
    if (const int32_t fault = faults[static_cast<size_t>(i)]; fault != latent_no_fault) throw_fault(fault, i);
    const latent_thought_stats& one = stats[static_cast<size_t>(i)];
    write_stats({one.entropy_bits, one.max_p, one.n_eff, one.argmax, one.selected}, out.data() + i * stats_width);
  }
  return out;
}

latent_thought_args arguments(const HeldThought& thought, const DeviceStep& step) {
  const ThoughtRecipe& recipe = thought.recipe;
  const TokenTable& table = thought.table();
  latent_thought_args args{};
  args.table = thought.held->on_device->data();
  args.count = table.count;
  args.width = table.width;
  args.row_bytes = table.stride();
  args.batch = step.logits.count();
  args.top_k = recipe.top_k;
  args.top_p = recipe.top_p;
  args.token = recipe.token;
  args.mix = recipe.mix;
  args.extra = recipe.extra;
  args.temperature = recipe.temperature;
  args.noise_amount = recipe.noise_amount;
  args.norm = recipe.norm.value_or(-1.0F);
  args.format = static_cast<int32_t>(table.format);
  args.dtype = static_cast<int32_t>(step.logits.dtype());
  args.noise = static_cast<int32_t>(recipe.noise);
  args.unit_mix = recipe.unit_mix ? 1 : 0;
  return args;
}

Job::ToValue run_step(const DeviceThought& own, DeviceStep* step, Job& job, DeviceStream& stream) {
  const HeldThought& thought = *own.thought;
  const int64_t n = step->logits.count();
  auto embeddings = device_output(stream, Dtype::f32, {n, thought.table().width});
  std::shared_ptr<DeviceTensor> ids;
  std::shared_ptr<DeviceTensor> weights;
  std::vector<double> stats;
  if (step->mixture) {
    ids = device_output(stream, Dtype::i32, {n, thought.most()});
    weights = device_output(stream, Dtype::f32, {n, thought.most()});
    check(DeviceStream::call(stream.api().fill, stream.handle(), ids->buffer->as<void>(), 0xFF, ids->bytes()));
    check(DeviceStream::call(stream.api().fill, stream.handle(), weights->buffer->as<void>(), 0, weights->bytes()));
  }
  if (n > 0) {
    latent_thought_args args = arguments(thought, *step);
    args.logits = step->logits.rows(job, stream).data;
    args.masked = masked_bits(own, stream);
    std::shared_ptr<DeviceBuffer> tokens;
    std::shared_ptr<DeviceBuffer> draws;
    std::shared_ptr<DeviceTensor> extras;
    if (thought.uses_token()) tokens = upload(stream, step->tokens);
    if (thought.uses_hidden()) extras = aligned(thought, &step->hidden, job, stream);
    if (thought.recipe.noise != ThoughtNoise::none) {
      std::vector<uint64_t> pairs;
      for (int64_t i = 0; i < n; i++) pairs.insert(pairs.end(), {step->seed, step->step + static_cast<uint64_t>(i)});
      draws = upload(stream, pairs);
    }
    std::shared_ptr<DeviceBuffer> results;
    const size_t stats_bytes = static_cast<size_t>(n) * sizeof(latent_thought_stats);
    check(stream.allocate(stats_bytes + static_cast<size_t>(n) * sizeof(int32_t), &results));
    args.tokens = tokens ? tokens->as<int32_t>() : nullptr;
    args.extras = extras ? extras->buffer->as<float>() : nullptr;
    args.draws = draws ? draws->as<uint64_t>() : nullptr;
    args.out = embeddings->buffer->as<float>();
    args.stats = results->as<latent_thought_stats>();
    args.ids = ids ? ids->buffer->as<int32_t>() : nullptr;
    args.weights = weights ? weights->buffer->as<float>() : nullptr;
    args.faults = reinterpret_cast<int32_t*>(results->data() + stats_bytes);
    check(DeviceStream::call(stream.api().thought, stream.handle(), &args));
    stats = statistics(stream, *results, n, job);
  }
  const bool stays = step->logits.on_device();
  std::vector<std::pair<const char*, Job::ToValue>> values{{"embeddings", placed(job, stream, std::move(embeddings), stays)}};
  if (ids) {
    values.emplace_back("ids", placed(job, stream, std::move(ids), stays));
    values.emplace_back("weights", placed(job, stream, std::move(weights), stays));
  }
  values.emplace_back("stats", [stats = std::move(stats)](napi_env env) -> napi_value { return array_with<double>(env, stats); });
  return placed_object(std::move(values));
}

class DeviceThoughtObject : public OperandObject<DeviceThoughtObject, DeviceThought> {
 public:
  static constexpr const char* class_name = "DeviceThoughtStep";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e64'7468'6f75};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->device_thought_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&DeviceThoughtObject::info>("info"),
                           InstanceAccessor<&DeviceThoughtObject::disposed>("disposed"),
                           InstanceMethod<&DeviceThoughtObject::run_sync>("runSync"),
                           InstanceMethod<&DeviceThoughtObject::run_rows>("run"),
                           InstanceMethod<&DeviceThoughtObject::dispose>("dispose"),
                       });
  }

  explicit DeviceThoughtObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  static Napi::Value value_of(Napi::Env env, Shared thought) { return {env, wrap(std::move(thought))(env)}; }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }
  Napi::Value info(const Napi::CallbackInfo& call) { return thought_info(call.Env(), *operand(call.Env()).thought); }
  void run_sync(const Napi::CallbackInfo& call) { refuse_sync(call); }

  // logits, { tokens, hidden, seed, step }, mixture
  static DeviceStep step_of(const Napi::CallbackInfo& call, const HeldThought& thought) {
    const Napi::Env env = call.Env();
    const Napi::Object given = require_object(call, 1, "inputs");
    const Napi::Value hidden = given.Get("hidden");
    DeviceStep step;
    step.mixture = require_bool(call, 2, "mixture");
    if (thought.uses_token()) step.tokens = copy_array<int32_t>(given.Get("tokens"), "tokens");
    step.seed = static_cast<uint64_t>(int_field(given, "seed", 0, max_safe_integer, 0));
    step.step = static_cast<uint64_t>(int_field(given, "step", 0, max_safe_integer, 0));
    step.logits = DeviceInput::of(call[0], "logits", thought.table().count);
    const int64_t n = step.logits.count();
    if (thought.uses_token() && static_cast<int64_t>(step.tokens.size()) != n)
      throw_invalid(env, "tokens must have " + std::to_string(n) + " numbers, not " + std::to_string(step.tokens.size()));
    for (const int32_t token : step.tokens) {
      if (token < 0 || token >= thought.table().count)
        throw_invalid(env, "token " + std::to_string(token) + " is not in a vocabulary of " + std::to_string(thought.table().count));
    }
    if (!thought.uses_hidden()) return step;
    step.hidden = DeviceInput::of(hidden, "hidden", thought.hidden_width());
    if (step.hidden.count() != n)
      throw_invalid(env, "hidden has " + std::to_string(step.hidden.count()) + " rows, logits have " + std::to_string(n));
    if (!thought.aligns() && step.hidden.dtype() != Dtype::f32)
      throw_status(env, Status::fail(Code::dtype, "hidden must be f32 where no projection aligns it"));
    return step;
  }

  // run(logits, inputs, mixture: boolean) -> { embeddings, stats, ids?, weights? }
  Napi::Value run_rows(const Napi::CallbackInfo& call) {
    const Shared own = shared(call.Env());
    DeviceStep step = step_of(call, *own->thought);
    return {call.Env(), translate(call.Env(), [&] {
              return start_on_device(call.Env(),
                                     [own, step](Job& job, DeviceStream& stream) mutable { return run_step(*own, &step, job, stream); });
            })};
  }
};

}  // namespace

Napi::Value device_thought_value(Napi::Env env, std::shared_ptr<const HeldThought> thought) {
  return DeviceThoughtObject::value_of(env, std::make_shared<DeviceThought>(DeviceThought{std::move(thought), nullptr}));
}

void init_device_thought(Napi::Env env, Napi::Object) {
  env.GetInstanceData<AddonData>()->device_thought_class = Napi::Persistent(DeviceThoughtObject::define(env));
}

}  // namespace latentwire::addon
