// Frequencies as ggml has them, whose f32 constants are kept where their rounding grows with the position: keys that we turn then lie where
// the engine itself would have put them.
#include "kv/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

namespace latentwire {
namespace {

// The pair that turns `turns` times within the original context.
float pair_of_turns(const RopeParameters& p, float turns) {
  const auto rotated = static_cast<float>(p.rotated);
  const auto context = static_cast<float>(p.original_context);
  return rotated * std::log(context / (turns * 2 * std::numbers::pi_v<float>)) / (2 * std::log(p.base));
}

// How much of its own frequency each pair keeps under YaRN: 1 below `low`, 0 above `high`.
struct Ramp {
  float low = 0;
  float high = 0;

  explicit Ramp(const RopeParameters& p)
      : low(std::max(0.0F, std::floor(pair_of_turns(p, p.beta_fast)))),
        high(std::min(static_cast<float>(p.rotated - 1), std::ceil(pair_of_turns(p, p.beta_slow)))) {}
  float at(int32_t pair) const { return 1 - std::clamp((static_cast<float>(pair) - low) / std::max(0.001F, high - low), 0.0F, 1.0F); }
};

// Pair k is a[k * step] and b[k * step].
template <int64_t step>
void turn_pairs(float* a, float* b, const float* cosines, const float* sines, int64_t pairs) {
  for (int64_t k = 0; k < pairs; ++k) {
    const float x = a[k * step];
    const float y = b[k * step];
    a[k * step] = x * cosines[k] - y * sines[k];
    b[k * step] = x * sines[k] + y * cosines[k];
  }
}

}  // namespace

Status make_rope(const RopeParameters& parameters, Rope* out) {
  const RopeParameters& p = parameters;
  const auto refuse = [](std::string why) { return Status::fail(Code::invalid_argument, std::move(why)); };
  if (p.rotated < 2 || p.rotated % 2 != 0 || p.rotated > p.head_dim)
    return refuse("cannot rotate " + std::to_string(p.rotated) + " of " + std::to_string(p.head_dim) + " channels of a head");
  const auto pairs = static_cast<size_t>(p.rotated / 2);
  if (!p.factors.empty() && p.factors.size() != pairs)
    return refuse(std::to_string(p.factors.size()) + " rotary factors for " + std::to_string(pairs) + " pairs of channels");
  Rope rope{p.pairs, p.head_dim, p.rotated, {}};
  rope.frequencies.reserve(pairs);
  const auto ratio = static_cast<double>(std::pow(p.base, -2.0F / static_cast<float>(p.rotated)));
  const Ramp ramp(p);
  double power = 1;
  for (size_t i = 0; i < pairs; ++i) {
    const double own = p.factors.empty() ? power : power / static_cast<double>(p.factors[i]);
    const double scaled = own * static_cast<double>(p.scale);
    const double kept = p.extension == 0 ? 0 : static_cast<double>(ramp.at(static_cast<int32_t>(i)) * p.extension);
    const double frequency = scaled * (1 - kept) + own * kept;
    if (!std::isfinite(frequency)) return refuse("the rotary frequency of pair " + std::to_string(i) + " is not finite");
    rope.frequencies.push_back(frequency);
    power *= ratio;
  }
  *out = std::move(rope);
  return {};
}

void rotate(const Rope& rope, const int32_t* shifts, float* rows, int64_t count, int64_t heads) {
  const int64_t pairs = rope.rotated / 2;
  std::vector<float> turn(static_cast<size_t>(rope.rotated));  // cosines, then sines
  float* cosines = turn.data();
  float* sines = cosines + pairs;
  int32_t turned = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (shifts[i] == 0) continue;
    if (shifts[i] != turned) {
      turned = shifts[i];
      for (int64_t k = 0; k < pairs; ++k) {
        const double angle = rope.frequencies[static_cast<size_t>(k)] * turned;
        cosines[k] = static_cast<float>(std::cos(angle));
        sines[k] = static_cast<float>(std::sin(angle));
      }
    }
    for (int64_t h = 0; h < heads; ++h) {
      float* head = rows + (i * heads + h) * rope.head_dim;
      if (rope.pairs == Rope::Pairs::neox)
        turn_pairs<1>(head, head + pairs, cosines, sines, pairs);
      else
        turn_pairs<2>(head, head + 1, cosines, sines, pairs);
    }
  }
}

}  // namespace latentwire
