// The JavaScript class of thought steps on the CPU: a recipe and a table of tokens, prepared once.
#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "addon/kernel_input.h"
#include "addon/kernel_objects.h"
#include "addon/operand_object.h"
#include "addon/tensor_object.h"
#include "addon/thought_recipe.h"

namespace latentwire::addon {
namespace {

// What one call is given.
struct Step {
  Input logits;
  Input hidden;
  std::vector<int32_t> tokens;
  uint64_t seed = 0;
  uint64_t step = 0;
};

struct Outputs {
  float* embeddings = nullptr;  // [n, width]
  double* stats = nullptr;      // [n, stats_width] or nullptr
  int32_t* ids = nullptr;       // [n, most] or nullptr, with weights
  float* weights = nullptr;
};

void compute(const HeldThought& thought, const Step& step, const Outputs& out, const std::atomic<bool>* cancel) {
  const int64_t n = step.logits.rows.count;
  const int64_t width = thought.table().width;
  const int64_t most = thought.most();
  std::vector<float> aligned;
  const auto* extra = static_cast<const float*>(step.hidden.rows.data);
  if (thought.uses_hidden() && thought.align) {
    aligned.resize(static_cast<size_t>(n * width));
    check(thought.align->apply(step.hidden.rows, aligned.data(), width, cancel));
    extra = aligned.data();
  }
  std::vector<ThoughtStats> stats(static_cast<size_t>(n));
  std::vector<ThoughtInput> inputs(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i++) {
    ThoughtInput& in = inputs[static_cast<size_t>(i)];
    in.logits = static_cast<const float*>(step.logits.rows.data) + i * thought.table().count;
    if (thought.uses_token()) in.token = step.tokens[static_cast<size_t>(i)];
    if (thought.uses_hidden()) in.extra = extra + i * width;
    in.seed = step.seed;
    in.step = step.step + static_cast<uint64_t>(i);
    in.out = out.embeddings + i * width;
    in.stats = &stats[static_cast<size_t>(i)];
    if (out.ids == nullptr) continue;
    in.ids = out.ids + i * most;
    in.weights = out.weights + i * most;
    std::fill_n(in.ids, most, -1);
    std::fill_n(in.weights, most, 0.0F);
  }
  check(thought_steps(thought.recipe, thought.table(), inputs, cancel));
  if (out.stats == nullptr) return;
  for (int64_t i = 0; i < n; i++) {
    write_stats(stats[static_cast<size_t>(i)], out.stats + i * stats_width);
  }
}

class ThoughtObject : public OperandObject<ThoughtObject, HeldThought> {
 public:
  static constexpr const char* class_name = "ThoughtStep";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e74'686f'7567};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->thought_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&ThoughtObject::info>("info"),
                           InstanceAccessor<&ThoughtObject::disposed>("disposed"),
                           InstanceMethod<&ThoughtObject::run_sync>("runSync"),
                           InstanceMethod<&ThoughtObject::run_rows>("run"),
                           InstanceMethod<&ThoughtObject::dispose>("dispose"),
                       });
  }

  explicit ThoughtObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  static Napi::Value value_of(Napi::Env env, Shared thought) { return {env, wrap(std::move(thought))(env)}; }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value info(const Napi::CallbackInfo& call) { return thought_info(call.Env(), operand(call.Env())); }

  // logits, { tokens, hidden, seed, step }
  static Step step_of(const Napi::CallbackInfo& call, const HeldThought& thought) {
    const Napi::Env env = call.Env();
    const Napi::Object given = require_object(call, 1, "inputs");
    // fields first: reading one may run JavaScript, and pointers into its arrays hold only until then
    const Napi::Value hidden = given.Get("hidden");
    Step step;
    if (thought.uses_token()) step.tokens = copy_array<int32_t>(given.Get("tokens"), "tokens");
    step.seed = static_cast<uint64_t>(int_field(given, "seed", 0, max_safe_integer, 0));
    step.step = static_cast<uint64_t>(int_field(given, "step", 0, max_safe_integer, 0));
    step.logits = input_of(call[0], "logits", thought.table().count);
    if (step.logits.rows.dtype != Dtype::f32) throw_status(env, Status::fail(Code::dtype, "logits must be f32"));
    const int64_t n = step.logits.rows.count;
    if (thought.uses_token() && static_cast<int64_t>(step.tokens.size()) != n)
      throw_invalid(env, "tokens must have " + std::to_string(n) + " numbers, not " + std::to_string(step.tokens.size()));
    if (thought.uses_hidden()) {
      step.hidden = input_of(hidden, "hidden", thought.hidden_width());
      if (step.hidden.rows.count != n)
        throw_invalid(env, "hidden has " + std::to_string(step.hidden.rows.count) + " rows, logits have " + std::to_string(n));
      if (!thought.align && step.hidden.rows.dtype != Dtype::f32)
        throw_status(env, Status::fail(Code::dtype, "hidden must be f32 where no projection aligns it"));
    }
    return step;
  }

  // runSync(logits, inputs, embeddings: Float32Array [n, width], stats: Float64Array [n, 5])
  void run_sync(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const Shared thought = shared(env);
    const Step step = step_of(call, *thought);
    const int64_t n = step.logits.rows.count;
    const std::span<float> embeddings = require_array<float>(call[2], "embeddings", n * thought->table().width);
    const std::span<double> stats = require_array<double>(call[3], "statistics", n * stats_width);
    for (const Input* input : {&step.logits, &step.hidden}) {
      refuse_overlap(env, "embeddings", std::as_bytes(embeddings), *input);
      refuse_overlap(env, "statistics", std::as_bytes(stats), *input);
    }
    refuse_overlap(env, "statistics", std::as_bytes(stats), "embeddings", std::as_bytes(embeddings));
    translate(env, [&] { compute(*thought, step, {embeddings.data(), stats.data(), nullptr, nullptr}, nullptr); });
  }

  // run(logits, inputs, mixture: boolean) -> { embeddings, stats, ids?, weights? }
  Napi::Value run_rows(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const Shared thought = shared(env);
    const bool mixture = require_bool(call, 2, "mixture");
    auto step = std::make_shared<Step>(step_of(call, *thought));
    const int64_t n = step->logits.rows.count;
    return translate(env, [&] {
      std::shared_ptr<Tensor> embeddings;
      std::shared_ptr<Tensor> ids;
      std::shared_ptr<Tensor> weights;
      check(Tensor::create(Dtype::f32, {n, thought->table().width}, &embeddings));
      if (mixture) {
        check(Tensor::create(Dtype::i32, {n, thought->most()}, &ids));
        check(Tensor::create(Dtype::f32, {n, thought->most()}, &weights));
      }
      auto stats = std::make_shared<std::vector<double>>(static_cast<size_t>(n * stats_width));
      return run(
          call, n * thought->multiplications(),
          [=](const std::atomic<bool>* cancel) {
            compute(*thought, *step,
                    {embeddings->f32(), stats->data(), ids ? static_cast<int32_t*>(ids->data()) : nullptr, ids ? weights->f32() : nullptr},
                    cancel);
          },
          [=](napi_env js) -> napi_value {
            Napi::Object out = Napi::Object::New(js);
            out.Set("embeddings", TensorObject::wrap(js, embeddings));
            out.Set("stats", array_with<double>(js, *stats));
            if (ids) {
              out.Set("ids", TensorObject::wrap(js, ids));
              out.Set("weights", TensorObject::wrap(js, weights));
            }
            return out;
          },
          [step] {
            keep(&step->logits);
            if (step->hidden.rows.data != nullptr) keep(&step->hidden);
          });
    });
  }
};

// createThoughtStep(table, recipe): on the CPU or on the device, where the table is
Napi::Value create_thought_step(const Napi::CallbackInfo& call) {
  auto thought = read_thought(call);
  return thought->held->on_device ? device_thought_value(call.Env(), std::move(thought))
                                  : ThoughtObject::value_of(call.Env(), std::move(thought));
}

}  // namespace

void init_thought(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->thought_class = Napi::Persistent(ThoughtObject::define(env));
  exports.Set("createThoughtStep", Napi::Function::New<create_thought_step>(env, "createThoughtStep"));
}

}  // namespace latentwire::addon
