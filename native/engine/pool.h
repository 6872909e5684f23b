// One llama.cpp context and the one thread that drives it. Requests of all sequences are cut into rows; each tick the scheduler puts the
// rows that are ready (prefill chunks, token steps, latent steps) into at most two decode calls of one micro-batch each: one that needs
// logits only, and one whose hidden states are wanted, because llama.cpp would otherwise make every prefill row an output.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "engine/batch.h"
#include "engine/request.h"
#include "kv/llama_state.h"

namespace latentwire {

class Pool {
 public:
  struct Options {
    int32_t context_length = 0;  // 0: the model's own
    int32_t max_sequences = 16;
    int32_t batch = 512;
    int32_t threads = 1;
    abi::ggml_type kv_type = abi::GGML_TYPE_F16;
  };
  struct Counters {
    int64_t decode_calls = 0;
    int64_t decoded_rows = 0;
    int64_t prefill_tokens = 0;
    int64_t latent_steps = 0;
    int64_t decoded_tokens = 0;
    int64_t refreshed_positions = 0;
    int64_t used_cells = 0;
    int64_t open_sequences = 0;
    std::string poisoned;
  };

  // Makes the context and proves the cache layout on two tokens; throws Failure.
  Pool(std::shared_ptr<Model> model, const Options& options);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Any thread.
  std::shared_ptr<SequenceState> create_sequence();
  void submit(std::shared_ptr<Request> request);
  void wake();
  // Stops the thread; what was queued ends with ERR_LATENT_DISPOSED. Idempotent.
  void close();
  bool closed() const noexcept { return closed_.load(std::memory_order_acquire); }
  Counters counters() const;

  const Model& model() const noexcept { return *model_; }
  int32_t context_length() const noexcept { return context_length_; }
  int32_t max_sequences() const noexcept { return options_.max_sequences; }
  int32_t batch() const noexcept { return options_.batch; }
  int32_t threads() const noexcept { return options_.threads; }
  size_t kv_bytes_per_position() const noexcept { return kv_bytes_per_position_; }
  // True if cells can be copied and their keys moved: what a shifted append and a re-anchored drop need.
  bool can_shift() const noexcept { return can_shift_ && geometry_.has_value(); }

  // What requests do to sequences; scheduler thread only.
  void require_room(const SequenceState& sequence, int64_t entries) const;
  void require_refresh_room(const SequenceState& sequence) const;
  void truncate(SequenceState& sequence, int32_t length);
  void replace(SequenceState& target, const SequenceState& source);
  void append_shifted(SequenceState& target, SequenceState& source);
  void drop(SequenceState& sequence, int32_t from, int32_t to, bool reanchor);
  std::vector<uint8_t> export_state(const SequenceState& sequence, size_t headroom = 0);  // `headroom` bytes, then the cells
  void import_state(SequenceState& sequence, const std::vector<uint8_t>& state, Entries log);
  void release(SequenceState& sequence);
  std::shared_ptr<SequenceState> fork(const SequenceState& source);

 private:
  struct Placed {
    Request* request;
    int32_t batch_row;
    int32_t entry;  // index in the request's feed
    bool output;
  };
  struct Group {
    bool hidden;
    std::vector<Placed> rows;
  };

  void open_context();
  void prove_layout();
  void run();
  bool give_up_if_poisoned();
  void collect_incoming();
  void retire_cancelled();
  void advance_all();
  bool advance(Request& request);
  void plan();
  void plan_request(Request& request, int32_t budget);
  bool decode(Group& group);
  void deliver(const Group& group);
  void undo(const Group& group);
  void finish(Request& request, Status status);
  void fail_all(const Status& status);
  void poison(const std::string& reason);
  bool must_stop(const Request& request) const;
  bool abort_now() const;
  void make_private(SequenceState& sequence);
  void copy_to_scratch(const SequenceState& source);
  void flush_shift();
  void clear_scratch();
  template <typename Call>
  auto guarded(const char* what, Call&& call);

  std::shared_ptr<Model> model_;
  Options options_;
  const abi::Functions& api_;
  abi::llama_context* context_ = nullptr;
  abi::llama_memory_t memory_ = nullptr;
  int32_t context_length_ = 0;
  int32_t scratch_ = 0;  // the sequence id that only the pool uses: imports and copies pass through it
  bool can_shift_ = false;
  size_t kv_bytes_per_position_ = 0;
  std::optional<StateGeometry> geometry_;
  std::string layout_refusal_;
  bool shift_pending_ = false;  // keys are rotated at the next decode; until then a state copy would be inconsistent

  // scheduler thread only
  CellLedger ledger_;
  std::vector<std::shared_ptr<Request>> active_;
  std::vector<std::shared_ptr<Request>> retired_;  // ended in this tick; the groups may still point at them
  std::vector<std::shared_ptr<Request>> waiting_;  // disposals of sequences that are still busy
  Group plain_{false, {}};
  Group with_hidden_{true, {}};
  Batch batch_;
  std::vector<const Request*> decoding_;
  std::vector<float> row_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Request>> incoming_;
  std::vector<int32_t> free_ids_;
  Counters counters_;
  bool woken_ = false;
  std::atomic<bool> closed_{false};
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace latentwire
