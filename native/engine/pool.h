// One llama.cpp context and the one thread that drives it. Requests of all sequences are cut into rows; each tick the scheduler puts the
// rows that are ready (prefill chunks, token steps, latent steps) into at most two decode calls of one micro-batch each: one that needs
// logits only, and one whose hidden states are wanted, because llama.cpp would otherwise make every prefill row an output.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "core/large_memory.h"
#include "engine/batch.h"
#include "engine/cell_memory.h"
#include "engine/failure.h"
#include "engine/request.h"
#include "kv/llama_state.h"
#include "kv/rope.h"

namespace latentwire {

class LayerRows;

// llama.cpp's own limit in unified caches.
constexpr int32_t last_sequence_id = 255;

class Pool {
 public:
  struct Options {
    int32_t context_length = 0;  // 0: the model's own
    int32_t max_sequences = 16;
    int32_t batch = 512;
    int32_t threads = 1;
    abi::ggml_type kv_type = abi::GGML_TYPE_F16;
    bool flash_attention = true;
    // The cache is read and written where it lies, on a device by the backend, instead of through llama.cpp's states.
    bool in_place = false;
    std::function<const Backend&()> backend;
    bool asks_of_host = false;  // whether a cache that lies on the host may be the backend's as well
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

  // Content on its way into the cache: a state that llama.cpp reads, or, for a cache that is written in place, rows as it stores them, on
  // the host or on the device; and what the log gets.
  struct Incoming {
    LlamaState state;
    KvContent rows;
    std::shared_ptr<const DeviceContent> on_device;
    std::optional<KeyMove> move;  // that the device makes
    std::vector<int32_t> positions;
    Entries log;
  };

  // Makes the context and proves what must be known of its cache; throws Failure.
  Pool(std::shared_ptr<Model> model, const Options& options);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Any thread.
  std::shared_ptr<SequenceState> create_sequence();
  void submit(const std::shared_ptr<Request>& request);
  // The two halves of it, for a request that is made ready in between: the sequence is claimed, or the request has ended (false); then it
  // is handed to the scheduler, or given up.
  bool admit(Request& request);
  void enqueue(const std::shared_ptr<Request>& request);
  void give_up(Request& request, Status status);
  void wake();
  // Stops the thread; what was queued ends with ERR_LATENT_DISPOSED. Idempotent.
  void close();
  // Stops the threads of all pools, for good: the process is about to exit.
  static void stop_all();
  bool closed() const noexcept { return closed_.load(std::memory_order_acquire); }
  Counters counters() const;

  const Model& model() const noexcept { return *model_; }
  int32_t context_length() const noexcept { return context_length_; }
  int32_t max_sequences() const noexcept { return options_.max_sequences; }
  int32_t batch() const noexcept { return options_.batch; }
  int32_t threads() const noexcept { return options_.threads; }
  bool flash_attention() const noexcept { return options_.flash_attention; }
  bool in_place() const noexcept { return options_.in_place; }
  // Whether it lies on the device, and there is a backend that works there; only of a cache that is used in place.
  bool on_device() const noexcept { return on_device_; }
  size_t kv_bytes_per_position() const noexcept { return kv_bytes_per_position_; }
  // True if keys can be moved to other positions: what a shifted append and a re-anchored drop need.
  bool can_shift() const noexcept { return !ropes_.empty(); }
  // How keys of each layer are turned, [layers], nullptr where they are not; throws Failure position_scheme if it is not known.
  const std::vector<std::shared_ptr<const Rope>>& ropes() const;
  // The same for pools whose keys are rotated alike.
  const std::string& key_positions() const noexcept { return key_positions_; }
  // How keys and values of this cache are stored; throws Failure kv_layout for a cache that cannot be read.
  const CacheLayout& layout() const;
  // What llama.cpp reads to hold `content` at `positions`, as many and ascending. Throws Failure: kv_layout, position_scheme (keys that
  // cannot be moved), non_finite, out_of_memory, cancelled.
  Incoming encode_kv(const KvContent& content, std::vector<int32_t> positions, const std::atomic<bool>* cancel) const;
  // The same of content on the device; nullopt if it has to come by the host, because rows are to be converted or keys cannot be turned
  // there.
  std::optional<Incoming> encode_on_device(std::shared_ptr<const DeviceContent> content, std::vector<int32_t> positions) const;

  // What requests do to sequences; scheduler thread only.
  void require_room(const SequenceState& sequence, int64_t entries) const;
  void require_refresh_room(const SequenceState& sequence) const;
  void require_adjacent_end(const SequenceState& sequence, int32_t length) const;
  void truncate(SequenceState& sequence, int32_t length);
  void replace(SequenceState& target, const SequenceState& source);
  void append_shifted(SequenceState& target, const SequenceState& source);
  void drop(SequenceState& sequence, int32_t from, int32_t to, bool reanchor);
  // Entries [from, to).
  KvContent export_kv(const SequenceState& sequence, int32_t from, int32_t to);
  // The same, left on the device. Throws Failure: device_unavailable, out_of_memory, and those of a device.
  DeviceContent export_on_device(const SequenceState& sequence, int32_t from, int32_t to);
  // Adds what `incoming` holds to the end. Throws Failure: kv_position, context_overflow.
  void import_kv(SequenceState& sequence, Incoming incoming);
  // Adds what `source` holds to the end, at the positions that it has there: cells are shared, no bytes move. Throws Failure: kv_position.
  void join_cells(SequenceState& target, const SequenceState& source);
  void release(SequenceState& sequence);
  std::shared_ptr<SequenceState> fork(const SequenceState& source);

 private:
  void stop();
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
  void free_context() noexcept;
  abi::llama_context_params context_params() const;
  // Which cells belong to a sequence, in all caches of the model. Positions [from, to); -1 for from the first, or to the last.
  void share_cells(int32_t source, int32_t target, int32_t from, int32_t to);
  bool free_cells(int32_t sequence, int32_t from, int32_t to);
  // llama.cpp writes into cells of local layers that their only owner cannot see from its end any more, though the owner may be cut back to
  // them. So there each sequence has a twin that holds its cells as well.
  int32_t twin_of(int32_t sequence) const noexcept { return last_sequence_id - sequence; }
  bool has_twin(int32_t sequence) const noexcept { return twins_ && sequence < scratch_; }
  // Where the proofs of the cache are made: a sequence of a context, how its rows are stored, and its state with the token at position 0.
  struct Probe {
    abi::llama_context* context;
    int32_t sequence;
    StateGeometry geometry;
    CacheLayout layout;
    std::vector<uint8_t> state;
  };
  int32_t probe_token() const;
  std::vector<uint8_t> state_of_probe(abi::llama_context* context, int32_t sequence, int32_t token, int32_t position, int32_t count);
  void prove_cache();
  void keep_what_windows_leave(uint64_t window);
  std::string why_unreadable(const Status& learned, const StateGeometry& geometry) const;
  CacheLayout layout_of(const StateGeometry& geometry) const;
  std::shared_ptr<abi::llama_context> plain_context(LayerRows* rows);
  bool find_layers(const LayerRows& computed, Probe* plain, Probe* probe) const;
  bool has_layers_of(const Probe& plain, const Probe& probe) const;
  bool find_rotation(const Probe& plain, Probe* probe) const;
  void prove_rotary_positions(const Probe& probe, int32_t token);
  void prove_in_place();
  std::string why_not_in_place();
  void run();
  bool give_up_if_poisoned();
  void collect_incoming();
  void retire_cancelled();
  void advance_all();
  bool advance(Request& request);
  void plan();
  void plan_request(Request& request, int32_t budget);
  bool decode(Group& group);
  void hold(const Group& group);
  void note_places(const Group& group);
  void deliver(const Group& group);
  void undo(const Group& group);
  void finish(Request& request, Status status);
  void fail_all(const Status& status);
  void poison(const std::string& reason);
  bool must_stop(const Request& request) const;
  bool abort_now() const;
  void synchronize();
  KvContent log_of(const SequenceState& sequence, int32_t from, int32_t to) const;
  std::vector<int32_t> places_of(const SequenceState& sequence, int32_t from, int32_t to) const;
  void require_incoming(const KvContent& content, const std::vector<int32_t>& positions) const;
  std::optional<KeyMove> move_of(const KvContent& content, const std::vector<int32_t>& positions) const;
  bool turns_there() const;
  std::vector<int32_t> take_cells(int32_t sequence, const std::vector<int32_t>& positions);
  void take_run(int32_t first, int32_t count, std::vector<int32_t>* places);
  void give_cells_back(int32_t sequence, int32_t from);
  void write_in_place(int32_t sequence, const Incoming& incoming, const std::vector<int32_t>& places);
  void read_cells(const SequenceState& sequence, int32_t from, int32_t to, KvContent* content);
  int32_t read_piece(const SequenceState& sequence, int32_t from, int32_t to, KvContent* content);
  void require_movable_keys() const;
  void require_behind(const SequenceState& sequence, const std::vector<int32_t>& positions) const;
  void move_down(SequenceState& sequence, int32_t from, int32_t to);
  void load_scratch(const uint8_t* state, size_t size);
  void clear_scratch();
  // Every call into llama.cpp that can throw or assert goes through here: whatever comes out poisons this pool and nothing else.
  template <typename Call>
  auto guarded(const char* what, Call&& call) {
    try {
      return call();
    } catch (const std::exception& error) {
      poison(std::string(what) + ": " + error.what());
    } catch (...) {
      poison(std::string(what) + ": unknown exception");
    }
    fail(Code::engine_failed, counters().poisoned);
  }

  std::shared_ptr<Model> model_;
  Options options_;
  std::optional<KeepsLargeMemory> keeps_large_memory_{std::in_place};  // until it is closed
  const abi::Functions& api_;
  abi::llama_context* context_ = nullptr;
  abi::llama_memory_t memory_ = nullptr;
  int32_t context_length_ = 0;
  int32_t scratch_ = 0;  // the sequence id that only the pool uses: imports and copies pass through it
  size_t kv_bytes_per_position_ = 0;
  std::shared_ptr<const StateGeometry> geometry_;
  std::optional<CacheLayout> layout_;
  std::string layout_refusal_;
  std::vector<std::shared_ptr<const Rope>> ropes_;  // [layers], nullptr where keys are not rotated; empty if keys cannot be moved
  std::string rope_refusal_ = "its cache cannot be read";
  std::string key_positions_;

  std::unique_ptr<CacheView> view_;  // of a cache that is used in place, as is the next
  std::unique_ptr<CellMemory> memory_of_cells_;
  bool on_device_ = false;
  int32_t filler_ = 0;  // a token that takes cells

  // scheduler thread only
  bool twins_ = false;
  int32_t window_ = INT32_MAX;  // positions that a state holds of local layers
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
