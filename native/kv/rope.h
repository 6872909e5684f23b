// Rotary position embedding of cached keys: R(p + d) = R(d) R(p), so keys that were computed at one position move to another by a rotation
// about the difference. The magnitude that YaRN and LongRoPE put on keys does not depend on the position, so it stays as it is.
#pragma once

#include <cstdint>
#include <vector>

#include "core/status.h"

namespace latentwire {

struct Rope {
  enum class Pairs { neox, norm };  // pair i: channels i and i + rotated / 2, or 2 i and 2 i + 1
  Pairs pairs = Pairs::neox;
  int32_t head_dim = 0;
  int32_t rotated = 0;              // the first channels of each head; the others carry no position
  std::vector<double> frequencies;  // [rotated / 2], radians a position

  bool operator==(const Rope&) const = default;
};

// The hyper-parameters that frequencies come from.
struct RopeParameters {
  Rope::Pairs pairs = Rope::Pairs::neox;
  int32_t head_dim = 0;
  int32_t rotated = 0;
  float base = 10000.0F;
  float scale = 1.0F;          // 1 / the stretching factor
  std::vector<float> factors;  // [rotated / 2], of llama 3 or LongRoPE, which divide frequencies; empty for none
  // YaRN: pairs that turn more than `beta_fast` times within the original context keep their frequency, those below `beta_slow` times get
  // the scale, and those in between some of both. An `extension` of 0 is no YaRN.
  float extension = 0.0F;
  float beta_fast = 32.0F;
  float beta_slow = 1.0F;
  int32_t original_context = 0;
};

// Error: invalid_argument, unless `rotated` is even and within the head, the factors are one a pair, and all frequencies are finite
// numbers.
Status make_rope(const RopeParameters& parameters, Rope* out);

// Turns row i of [count, heads, head_dim] by shifts[i] positions, which may be negative, in place. Runs of equal shifts are cheapest.
void rotate(const Rope& rope, const int32_t* shifts, float* rows, int64_t count, int64_t heads);

}  // namespace latentwire
