#include "addon/thought_recipe.h"

#include <algorithm>
#include <limits>
#include <string>

#include "addon/device_objects.h"
#include "addon/kernel_input.h"
#include "addon/projection_object.h"

namespace latentwire::addon {

void write_stats(const ThoughtStats& stats, double* out) noexcept {
  out[0] = stats.entropy_bits;
  out[1] = stats.max_p;
  out[2] = stats.n_eff;
  out[3] = stats.argmax;
  out[4] = static_cast<double>(stats.selected);
}

int64_t HeldThought::most() const noexcept { return recipe.top_k == 0 ? table().count : std::min(recipe.top_k, table().count); }

int64_t HeldThought::multiplications() const noexcept {
  // a logit costs a few operations, a token of the mix a row of the table
  return 4 * table().count + (recipe.mix == 0 ? 1 : most()) * table().width + (align && uses_hidden() ? align->multiplications() : 0);
}

std::shared_ptr<HeldThought> read_thought(const Napi::CallbackInfo& call) {
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
    thought->device_align = device_projection_of(align);
    if (!thought->aligns()) throw_invalid(env, "align must be a Projection");
    const bool table_on_device = thought->held->on_device != nullptr;
    if (table_on_device != (thought->device_align != nullptr))
      throw_invalid(env, std::string("the table is on ") + (table_on_device ? "cuda" : "the cpu") + ", and align must be there too");
    const int64_t outputs = thought->align ? thought->align->outputs() : thought->device_align->outputs();
    if (outputs != thought->table().width)
      throw_invalid(env, "align has " + std::to_string(outputs) + " outputs, the rows of the table " +
                             std::to_string(thought->table().width) + " numbers");
  }
  // no input: only the recipe is checked
  translate(env, [&] { check(thought_steps(recipe, thought->table(), {})); });
  return thought;
}

Napi::Object thought_info(Napi::Env env, const HeldThought& thought) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("vocabularySize", static_cast<double>(thought.table().count));
  out.Set("width", static_cast<double>(thought.table().width));
  out.Set("hiddenWidth", static_cast<double>(thought.hidden_width()));
  out.Set("mostTokens", static_cast<double>(thought.most()));
  return out;
}

}  // namespace latentwire::addon
