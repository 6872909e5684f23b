#include "engine/sampler.h"

#include <algorithm>

namespace latentwire {

Sampler::Sampler(const Model& model, const SamplingOptions& options, const std::vector<int32_t>& history) : api_(model.api()) {
  const bool penalised = options.penalty_window > 0 &&
                         (options.repeat_penalty != 1.0F || options.frequency_penalty != 0.0F || options.presence_penalty != 0.0F);
  if (options.temperature <= 0.0F && !penalised) return;
  chain_ = api_.llama_sampler_chain_init(api_.llama_sampler_chain_default_params());
  const auto add = [&](abi::llama_sampler* sampler) { api_.llama_sampler_chain_add(chain_, sampler); };
  if (penalised) {
    add(api_.llama_sampler_init_penalties(model.info().vocabulary_size, options.penalty_window, options.repeat_penalty,
                                          options.frequency_penalty, options.presence_penalty));
  }
  if (options.temperature <= 0.0F) {
    add(api_.llama_sampler_init_greedy());
  } else {
    if (options.top_k > 0) add(api_.llama_sampler_init_top_k(options.top_k));
    if (options.top_p < 1.0F) add(api_.llama_sampler_init_top_p(options.top_p, 1));
    if (options.min_p > 0.0F) add(api_.llama_sampler_init_min_p(options.min_p, 1));
    add(api_.llama_sampler_init_temp(options.temperature));
    add(api_.llama_sampler_init_dist(options.seed));
  }
  if (!penalised) return;
  const auto window = static_cast<size_t>(options.penalty_window);
  const size_t first = history.size() > window ? history.size() - window : 0;
  for (size_t i = first; i < history.size(); i++) {
    if (history[i] >= 0) api_.llama_sampler_accept(chain_, history[i]);
  }
}

Sampler::~Sampler() {
  if (chain_ != nullptr) api_.llama_sampler_free(chain_);
}

int32_t Sampler::sample(const std::vector<float>& logits) {
  if (chain_ == nullptr) return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); i++) candidates_[i] = {static_cast<int32_t>(i), logits[i], 0.0F};
  abi::llama_token_data_array array{candidates_.data(), candidates_.size(), -1, false};
  api_.llama_sampler_apply(chain_, &array);
  const int32_t token = array.data[array.selected].id;
  api_.llama_sampler_accept(chain_, token);
  return token;
}

}  // namespace latentwire
