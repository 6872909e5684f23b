// What thought steps of the CPU and of a device share: the recipe as JavaScript gives it, and its results as JavaScript sees them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "addon/napi_setup.h"
#include "addon/token_table_object.h"
#include "device/operands.h"
#include "kernels/project.h"
#include "kernels/thought.h"

namespace latentwire::addon {

// Numbers of a ThoughtStats, as JavaScript sees them.
constexpr int64_t stats_width = 5;
void write_stats(const ThoughtStats& stats, double* out) noexcept;

struct HeldThought {
  std::shared_ptr<const HeldTable> held;
  // one of the two or none: it is where the table is
  std::shared_ptr<const Projection> align;
  std::shared_ptr<const DeviceProjection> device_align;
  std::vector<int32_t> masked;
  ThoughtRecipe recipe;  // its `masked` is the vector above

  const TokenTable& table() const noexcept { return held->table; }
  bool uses_token() const noexcept { return recipe.token != 0; }
  bool uses_hidden() const noexcept { return recipe.extra != 0; }
  bool aligns() const noexcept { return align || device_align; }
  int64_t hidden_width() const noexcept { return align ? align->inputs() : device_align ? device_align->inputs() : table().width; }
  // The most tokens of a mix.
  int64_t most() const noexcept;
  // Of a row, on the CPU.
  int64_t multiplications() const noexcept;
};

// The arguments (table, { token, mix, hidden, align, temperature, topK, topP, masked, noise, noiseAmount, unitMix, norm }), checked.
std::shared_ptr<HeldThought> read_thought(const Napi::CallbackInfo& call);
// { vocabularySize, width, hiddenWidth, mostTokens }
Napi::Object thought_info(Napi::Env env, const HeldThought& thought);

// The object of a thought step on a device.
Napi::Value device_thought_value(Napi::Env env, std::shared_ptr<const HeldThought> thought);

}  // namespace latentwire::addon
