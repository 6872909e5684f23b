#include "engine/request.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/failure.h"
#include "engine/pool.h"
#include "kernels/latent_step.h"

namespace latentwire {
namespace {

double norm_of(const float* x, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return std::sqrt(sum);
}

double cosine_of(const std::vector<float>& a, const float* b) {
  double dot = 0;
  for (size_t i = 0; i < a.size(); i++) dot += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  const double scale = norm_of(a.data(), a.size()) * norm_of(b, a.size());
  return scale > 0 ? dot / scale : 0;
}

}  // namespace

void Request::feed_refresh(Pool& pool) {
  SequenceState& s = *sequence;
  const int32_t last = s.log.size() - 1;
  const int32_t token = s.log.tokens[static_cast<size_t>(last)];
  feed.reset(RowKind::refresh, true);
  feed.entries.tokens.push_back(token);
  if (token == row_entry) {
    const auto d = static_cast<ptrdiff_t>(pool.model().info().embedding_length);
    feed.entries.rows.assign(s.log.rows.end() - d, s.log.rows.end());
  }
  pool.require_refresh_room(s);
  pool.truncate(s, last);
  refreshing = true;
}

void Request::roll_back(Pool& pool) { pool.truncate(*sequence, start_length); }

bool PrefillRequest::advance(Pool& pool) {
  if (model_ != nullptr) return false;
  model_ = &pool.model();
  if (copy_other) entries = other->log;
  if (entries.size() == 0) return false;
  pool.require_room(*sequence, entries.size());
  feed.reset(RowKind::prefill, hidden != Hidden::none);
  feed.all_outputs = hidden == Hidden::all;
  feed.entries = std::move(entries);
  return true;
}

void PrefillRequest::take_hidden(const float* state) {
  if (hidden == Hidden::none) return;
  states.insert(states.end(), state, state + model_->info().embedding_length);
}

bool GenerateRequest::advance(Pool& pool) {
  SequenceState& s = *sequence;
  if (s.log.size() == 0) fail(Code::sequence_empty, "generate needs at least one position to continue from");
  if (ending_) return false;
  if (tokens >= max_tokens || s.next() >= pool.context_length()) return finish_text(Reason::length);
  if (!s.logits_valid) {
    feed_refresh(pool);
    return true;
  }
  pool.require_room(s, 1);
  if (std::any_of(s.logits.begin(), s.logits.end(), [](float x) { return std::isnan(x); }))
    fail(Code::non_finite, "the logits are not numbers");
  if (!sampler_) sampler_ = std::make_unique<Sampler>(pool.model(), sampling, s.log.tokens);
  const int32_t token = sampler_->sample(s.logits);
  tokens++;
  feed.reset(RowKind::token, false);
  feed.entries.tokens.push_back(token);
  if (pool.model().is_end_of_generation(token)) {
    // the end token is fed too, so that what follows continues a closed turn
    ending_ = true;
    on_token(token, {});
    finish_text(Reason::end);
    return true;
  }
  held_ += pool.model().piece(token, false);
  size_t stop = std::string::npos;
  for (const std::string& text : stops) stop = std::min(stop, held_.find(text));
  if (stop != std::string::npos) {
    held_.resize(stop);
    ending_ = true;
    on_token(token, {});
    finish_text(Reason::stop);
    return true;
  }
  on_token(token, release_text());
  return true;
}

bool GenerateRequest::finish_text(Reason why) {
  reason = why;
  if (!held_.empty()) on_token(-1, std::move(held_));
  held_.clear();
  return false;
}

// Everything but the longest tail that some stop string begins with.
std::string GenerateRequest::release_text() {
  size_t keep = 0;
  for (const std::string& text : stops) {
    for (size_t n = std::min(text.size() - 1, held_.size()); n > keep; n--) {
      if (held_.compare(held_.size() - n, n, text, 0, n) == 0) keep = n;
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

bool ThinkRequest::advance(Pool& pool) {
  SequenceState& s = *sequence;
  const auto d = static_cast<size_t>(pool.model().info().embedding_length);
  if (feed.kind == RowKind::latent && !feed.entries.tokens.empty()) {
    done_++;
    const float* fed = latents.data() + (static_cast<size_t>(done_) - 1) * d;
    if (on_step) on_step(done_, norm_of(s.hidden.data(), d), previous_.empty() ? 0 : cosine_of(previous_, fed));
    previous_.assign(fed, fed + d);
  }
  if (steps == 0 || done_ == steps) return false;
  if (s.log.size() == 0) fail(Code::sequence_empty, "think needs at least one position to start from");
  if (done_ == 0) pool.require_room(s, steps);
  if (!s.hidden_valid) {
    feed_refresh(pool);
    return true;
  }
  const size_t offset = latents.size();
  latents.resize(offset + d);
  const float* w = alignment ? alignment->f32() : nullptr;
  if (!latent_step(s.hidden.data(), w, static_cast<int64_t>(d), alpha, latents.data() + offset)) {
    fail(Code::non_finite, "the hidden state before latent step " + std::to_string(done_ + 1) + " is not finite");
  }
  feed.reset(RowKind::latent, true);
  feed.entries.tokens.push_back(row_entry);
  feed.entries.rows.assign(latents.begin() + static_cast<ptrdiff_t>(offset), latents.end());
  return true;
}

bool OutputRequest::advance(Pool& pool) {
  SequenceState& s = *sequence;
  if (s.log.size() == 0) fail(Code::sequence_empty, "an empty sequence has no outputs");
  if (hidden ? !s.hidden_valid : !s.logits_valid) {
    feed_refresh(pool);
    return true;
  }
  values = hidden ? s.hidden : s.logits;
  return false;
}

bool EditRequest::advance(Pool& pool) {
  edit(pool);
  return false;
}

bool DisposeRequest::advance(Pool& pool) {
  pool.release(*sequence);
  return false;
}

}  // namespace latentwire
