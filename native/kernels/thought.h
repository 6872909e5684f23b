// One thought step, the formula that soft thinking, LT-Tuning, HRPO, LatentMAS and Coconut share: from the logits of a position the next
// input embedding, e = a E[token] + b sum of p_v E_v + c A(h), with the statistics of p. E is read as it lies in the model file.
//
// The same with the output matrix W for E, a = 1 and b = -1 is the gradient of log p(token) by the hidden state (LatentSeek), times the
// temperature.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>

#include "core/status.h"
#include "kernels/token_table.h"

namespace latentwire {

enum class ThoughtNoise { none, gumbel, dirichlet };

struct ThoughtRecipe {
  float token = 1;  // a
  float mix = 0;    // b
  float extra = 0;  // c
  float temperature = 1;
  // The tokens of the mix: the top_k most likely (0: all) of which the fewest are kept whose probabilities sum to top_p, at least one. The
  // lower id goes first among equals. Tokens of probability 0 are never among them.
  int64_t top_k = 0;
  double top_p = 1;
  std::span<const int32_t> masked{};  // ascending; as if their logits were -infinity, for the statistics as well
  // Of the weights p within the selection, before they are used. gumbel: softmax((ln p + g) / amount). dirichlet: a draw whose mean is p
  // and whose variance is p (1 - p) / (amount + 1).
  ThoughtNoise noise = ThoughtNoise::none;
  float noise_amount = 1;
  bool unit_mix = false;        // divides the mix by |p|_2
  std::optional<float> norm{};  // brings e to this length; a zero e stays zero
};

struct ThoughtStats {
  double entropy_bits = 0;  // of p at the temperature, over the whole vocabulary, as are max_p and n_eff = 2^entropy_bits
  double max_p = 0;
  double n_eff = 0;
  int32_t argmax = 0;    // the lowest id of the largest logit
  int64_t selected = 0;  // tokens in the mix; 0 if there is none and neither ids nor weights are asked for
};

// One position. Rows of a batch may lie anywhere.
struct ThoughtInput {
  const float* logits = nullptr;  // [table.count]; -infinity is legal
  int32_t token = -1;             // used if recipe.token is not 0
  const float* extra = nullptr;   // A(h), [table.width]; used if recipe.extra is not 0
  // Noise is a function of these two and of the token's id.
  uint64_t seed = 0;
  uint64_t step = 0;
  float* out = nullptr;           // e, [table.width]; nullptr if only the rest is wanted, and then the table needs no data
  ThoughtStats* stats = nullptr;  // or nullptr
  // The mix itself, or nullptr: ids ascending and weights (that sum to 1, with the noise in them), of which `selected` are written. Both
  // need room for min(top_k, count), or count when top_k is 0.
  int32_t* ids = nullptr;
  float* weights = nullptr;
};

// What a row gets depends on nothing but that row, the recipe, the table and the instruction set: not on the rest of the batch nor on the
// number of threads. A mix of the whole vocabulary (top_k 0 and top_p 1) reads the table once for 16 rows; any other reads the rows of the
// selection. Fails with invalid_argument (also when no token has a logit above -infinity), non_finite (a logit is NaN or +infinity, or e
// is not finite), cancelled or out_of_memory; outputs are unspecified then.
Status thought_steps(const ThoughtRecipe& recipe, const TokenTable& table, std::span<const ThoughtInput> inputs,
                     const std::atomic<bool>* cancel = nullptr);

}  // namespace latentwire
