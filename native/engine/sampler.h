// Chooses the next token from logits: llama.cpp's own sampler chain, so that temperature, top-k, top-p, min-p and penalties mean what its
// users expect. Temperature 0 without penalties is a plain argmax (the lowest id wins a tie).
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model.h"

namespace latentwire {

struct SamplingOptions {
  float temperature = 0.0F;
  int32_t top_k = 40;
  float top_p = 0.95F;
  float min_p = 0.05F;
  float repeat_penalty = 1.0F;
  float frequency_penalty = 0.0F;
  float presence_penalty = 0.0F;
  int32_t penalty_window = 64;
  uint32_t seed = 0;
};

class Sampler {
 public:
  // `history`: the tokens already in the sequence; the last `penalty_window` of them count for the penalties.
  Sampler(const Model& model, const SamplingOptions& options, const std::vector<int32_t>& history);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // `logits`: [vocabulary]
  int32_t sample(const std::vector<float>& logits);

 private:
  const abi::Functions& api_;
  abi::llama_sampler* chain_ = nullptr;
  std::vector<abi::llama_token_data> candidates_;
};

}  // namespace latentwire
