// The operations on sequences as small state machines. The scheduler calls `advance` when a request's feed is used up: it either sets the
// next feed (entries to decode) or says that it is done. Everything here runs on the scheduler thread, except the fields set before
// `submit`.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/tensor.h"
#include "engine/sampler.h"
#include "engine/sequence_state.h"

namespace latentwire {

class Pool;

// What a decoded row is counted as.
enum class RowKind { prefill, latent, token, refresh };

class Request {
 public:
  explicit Request(std::shared_ptr<SequenceState> target) : sequence(std::move(target)) {}
  virtual ~Request() = default;
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  const std::shared_ptr<SequenceState> sequence;
  std::shared_ptr<SequenceState> other;  // a second sequence that must hold still, if any
  int32_t priority = 0;
  std::shared_ptr<const std::atomic<bool>> cancelled;
  std::function<void(Status)> done;

  // True if `advance` may be called now; a generation waits here until its reader has caught up.
  virtual bool ready() const { return true; }
  // Runs while another request of the sequence is active (only disposal does, by waiting for it).
  virtual bool interrupts() const { return false; }
  // Sets the next feed and returns true, or returns false: done. Throws Failure.
  virtual bool advance(Pool& pool) = 0;
  // An output row other than the last of a feed.
  virtual void take_hidden(const float*) {}
  // Puts the sequence back after a failure or an abort.
  virtual void roll_back(Pool& pool);

 protected:
  friend class Pool;
  struct Feed {
    Entries entries;
    RowKind kind = RowKind::prefill;
    bool want_hidden = false;
    bool all_outputs = false;
    int32_t cursor = 0;      // next entry
    int32_t row_cursor = 0;  // next of entries.rows
    int32_t left() const noexcept { return entries.size() - cursor; }
    void reset(RowKind next_kind, bool hidden) {
      entries.clear();
      kind = next_kind;
      want_hidden = hidden;
      all_outputs = false;
      cursor = row_cursor = 0;
    }
  };
  // Feeds the last entry of the sequence again, because its logits or hidden state are missing or out of date.
  void feed_refresh(Pool& pool);

  Feed feed;
  int32_t start_length = 0;      // of the sequence, when the request became active
  bool refreshing = false;       // its last entry is taken out until it is decoded again, so it must not end now
  int32_t failed_refreshes = 0;  // in a row; batch-mates may be the reason of one
};

class PrefillRequest final : public Request {
 public:
  enum class Hidden { none, last, all };
  using Request::Request;
  Entries entries;
  Hidden hidden = Hidden::none;
  std::vector<float> states;  // [0 | 1 | n, d]
  bool copy_other = false;    // entries are the log of `other`: append by recomputing at an offset

  bool advance(Pool& pool) override;
  void take_hidden(const float* state) override;

 private:
  const Model* model_ = nullptr;
};

class GenerateRequest final : public Request {
 public:
  using Request::Request;
  enum class Reason { end, length, stop };
  SamplingOptions sampling;
  int32_t max_tokens = 0;
  int32_t window = 64;
  std::vector<std::string> stops;
  std::function<void(int32_t token, std::string bytes)> on_token;
  std::atomic<int64_t> credited{0};  // tokens that the reader has taken
  Reason reason = Reason::length;
  int32_t tokens = 0;

  bool ready() const override { return ending_ || tokens - credited.load(std::memory_order_acquire) < window; }
  bool advance(Pool& pool) override;
  // Tokens that were decoded stay: each of them is a finished step.
  void roll_back(Pool&) override {}

 private:
  bool finish_text(Reason why);
  std::string release_text();

  std::unique_ptr<Sampler> sampler_;
  std::string held_;  // text that may still turn out to be the beginning of a stop string
  bool ending_ = false;
};

class ThinkRequest final : public Request {
 public:
  using Request::Request;
  int32_t steps = 0;
  float alpha = 0.0F;
  std::shared_ptr<Tensor> alignment;  // f32 [d, d] or nullptr for the identity
  std::function<void(int32_t step, double norm, double cosine)> on_step;
  std::vector<float> latents;  // [steps, d], as fed

  bool advance(Pool& pool) override;

 private:
  int32_t done_ = 0;
  std::vector<float> previous_;
};

// Logits or the hidden state of the last position, recomputed if they are out of date.
class OutputRequest final : public Request {
 public:
  using Request::Request;
  bool hidden = false;
  std::vector<float> values;
  bool advance(Pool& pool) override;
};

// An operation that needs no decode: fork, adopt, truncate, drop, shifted append, export, import. Outputs are refreshed when asked for.
class EditRequest final : public Request {
 public:
  using Request::Request;
  std::function<void(Pool&)> edit;
  bool advance(Pool& pool) override;
};

class DisposeRequest final : public Request {
 public:
  using Request::Request;
  bool interrupts() const override { return true; }
  bool advance(Pool& pool) override;
};

}  // namespace latentwire
