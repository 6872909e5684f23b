// The JavaScript class of thought steps: a recipe and a table of tokens, prepared once.
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
#include "addon/projection_object.h"
#include "addon/tensor_object.h"
#include "addon/token_table_object.h"
#include "kernels/thought.h"

namespace latentwire::addon {
namespace {

// Numbers of a ThoughtStats, as JavaScript sees them.
constexpr int64_t stats_width = 5;

struct HeldThought {
  std::shared_ptr<const HeldTable> held;
  std::shared_ptr<const Projection> align;  // or nullptr
  std::vector<int32_t> masked;
  ThoughtRecipe recipe;  // its `masked` is the vector above

  const TokenTable& table() const noexcept { return held->table; }
  bool uses_token() const noexcept { return recipe.token != 0; }
  bool uses_hidden() const noexcept { return recipe.extra != 0; }
  int64_t hidden_width() const noexcept { return align ? align->inputs() : table().width; }
  // The most tokens of a mix.
  int64_t most() const noexcept { return recipe.top_k == 0 ? table().count : std::min(recipe.top_k, table().count); }
  int64_t multiplications() const noexcept {
    // a logit costs a few operations, a token of the mix a row of the table
    return 4 * table().count + (recipe.mix == 0 ? 1 : most()) * table().width + (align && uses_hidden() ? align->multiplications() : 0);
  }
};

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
    const ThoughtStats& one = stats[static_cast<size_t>(i)];
    double* to = out.stats + i * stats_width;
    to[0] = one.entropy_bits;
    to[1] = one.max_p;
    to[2] = one.n_eff;
    to[3] = one.argmax;
    to[4] = static_cast<double>(one.selected);
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

  // createThoughtStep(table, { token, mix, hidden, align, temperature, topK, topP, masked, noise, noiseAmount, unitMix, norm })
  static Napi::Value create(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    auto thought = std::make_shared<HeldThought>();
    thought->held = token_table_of(call[0]);
    if (!thought->held) throw_invalid(env, "table must be a TokenTable");
    const Napi::Object given = require_object(call, 1, "recipe");
    ThoughtRecipe& recipe = thought->recipe;
    recipe.token = static_cast<float>(number_field(given, "token", -1e30, 1e30, 0));
    recipe.mix = static_cast<float>(number_field(given, "mix", -1e30, 1e30, 1));
    recipe.extra = static_cast<float>(number_field(given, "hidden", -1e30, 1e30, 0));
    recipe.temperature = static_cast<float>(number_field(given, "temperature", 1e-6, 1e6, 1));
    recipe.top_k = int_field(given, "topK", 0, std::numeric_limits<int32_t>::max(), 0);
    recipe.top_p = number_field(given, "topP", 0, 1, 1);
    recipe.noise = choice_field<ThoughtNoise>(
        given, "noise", "none", {{"none", ThoughtNoise::none}, {"gumbel", ThoughtNoise::gumbel}, {"dirichlet", ThoughtNoise::dirichlet}});
    recipe.noise_amount = static_cast<float>(number_field(given, "noiseAmount", 1e-6, 1e30, 1));
    recipe.unit_mix = bool_field(given, "unitMix", false);
    if (const Napi::Value norm = given.Get("norm"); !norm.IsUndefined())
      recipe.norm = static_cast<float>(number_field(given, "norm", 0, 1e30));
    thought->masked = array_field<int32_t>(given, "masked");
    std::sort(thought->masked.begin(), thought->masked.end());
    recipe.masked = thought->masked;
    if (const Napi::Value align = given.Get("align"); !align.IsUndefined()) {
      thought->align = projection_of(align);
      if (!thought->align) throw_invalid(env, "align must be a Projection");
      if (thought->align->outputs() != thought->table().width)
        throw_invalid(env, "align has " + std::to_string(thought->align->outputs()) + " outputs, the rows of the table " +
                               std::to_string(thought->table().width) + " numbers");
    }
    // no input: only the recipe is checked
    translate(env, [&] { check(thought_steps(recipe, thought->table(), {})); });
    return {env, wrap(std::move(thought))(env)};
  }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const HeldThought& thought = operand(call.Env());
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("vocabularySize", static_cast<double>(thought.table().count));
    out.Set("width", static_cast<double>(thought.table().width));
    out.Set("hiddenWidth", static_cast<double>(thought.hidden_width()));
    out.Set("mostTokens", static_cast<double>(thought.most()));
    return out;
  }

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

}  // namespace

void init_thought(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->thought_class = Napi::Persistent(ThoughtObject::define(env));
  exports.Set("createThoughtStep", Napi::Function::New<ThoughtObject::create>(env, "createThoughtStep"));
}

}  // namespace latentwire::addon
