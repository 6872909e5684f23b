#include "engine/pool.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace latentwire {

namespace {

// Pools with a thread. Never freed: the process may exit while another thread disposes one.
struct Running {
  std::mutex mutex;
  std::set<Pool*> pools;
};

Running& running() {
  static Running& all = *new Running;
  return all;
}

}  // namespace

Pool::Pool(std::shared_ptr<Model> model, const Options& options)
    : model_(std::move(model)),
      options_(options),
      api_(model_->api()),
      batch_(model_->info().embedding_length, model_->positions_per_row()) {
  if (options_.in_place) view_ = std::make_unique<CacheView>(api_);
  open_context();
  row_.resize(static_cast<size_t>(model_->info().embedding_length));
  scratch_ = options_.max_sequences;
  for (int32_t id = options_.max_sequences - 1; id >= 0; id--) free_ids_.push_back(id);
  try {
    prove_cache();
    if (options_.in_place) prove_in_place();
  } catch (...) {
    api_.llama_free(context_);
    throw;
  }
  thread_ = std::thread([this] { run(); });
  const std::lock_guard lock(running().mutex);
  running().pools.insert(this);
}

Pool::~Pool() { close(); }

abi::llama_context_params Pool::context_params() const {
  abi::llama_context_params params = api_.llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(options_.context_length > 0 ? options_.context_length : model_->info().context_length);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(options_.batch);
  params.n_seq_max = static_cast<uint32_t>(options_.max_sequences + 1);
  params.n_threads = params.n_threads_batch = options_.threads;
  params.pooling_type = abi::LLAMA_POOLING_TYPE_NONE;
  params.flash_attn_type = options_.flash_attention ? abi::LLAMA_FLASH_ATTN_TYPE_ENABLED : abi::LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.type_k = params.type_v = options_.kv_type;
  params.kv_unified = true;
  params.swa_full = true;
  return params;
}

void Pool::open_context() {
  abi::llama_context_params params = context_params();
  params.abort_callback = [](void* pool) { return static_cast<const Pool*>(pool)->abort_now(); };
  params.abort_callback_data = this;
  if (view_ != nullptr) {
    // else large batches of weights on the host are computed in several places, small ones in one
    params.op_offload = false;
    params.cb_eval = reinterpret_cast<void*>(&CacheView::on_node);
    params.cb_eval_user_data = view_.get();
  }
  Runtime::take_log();
  try {
    context_ = api_.llama_init_from_model(model_->handle(), params);
  } catch (const std::exception& error) {
    fail(Code::engine_failed, std::string("llama.cpp made no context: ") + error.what());
  }
  if (context_ == nullptr) fail(Code::out_of_memory, "llama.cpp made no context: " + Runtime::take_log());
  memory_ = api_.llama_get_memory(context_);
  context_length_ = static_cast<int32_t>(api_.llama_n_ctx(context_));
  options_.batch = static_cast<int32_t>(api_.llama_n_ubatch(context_));
}

// ---------------------------------------------------------------------------------------------------------------- any thread

std::shared_ptr<SequenceState> Pool::create_sequence() {
  const std::lock_guard lock(mutex_);
  if (closed_) fail(Code::disposed, "the pool is disposed");
  if (!counters_.poisoned.empty()) fail(Code::pool_poisoned, counters_.poisoned);
  if (free_ids_.empty()) fail(Code::sequence_limit, "all " + std::to_string(options_.max_sequences) + " sequences of the pool are in use");
  auto sequence = std::make_shared<SequenceState>(free_ids_.back());
  free_ids_.pop_back();
  counters_.open_sequences++;
  return sequence;
}

void Pool::submit(const std::shared_ptr<Request>& request) {
  if (admit(*request)) enqueue(request);
}

bool Pool::admit(Request& request) {
  SequenceState& sequence = *request.sequence;
  Status refusal;
  bool admitted = false;
  {
    const std::lock_guard lock(mutex_);
    const auto claim = [&](SequenceState& s) {
      if (s.closed || (s.closing && !request.interrupts())) {
        refusal = Status::fail(Code::disposed, "the sequence is disposed");
      } else if (!request.interrupts() && s.busy.exchange(true)) {
        refusal = Status::fail(Code::sequence_busy, "the sequence is running another operation; await it, or fork the sequence");
      }
      return refusal.ok();
    };
    if (closed_) {
      refusal = Status::fail(Code::disposed, "the pool is disposed");
    } else if (!counters_.poisoned.empty()) {
      // nothing is left to free: a disposal asks for what is so already
      if (request.interrupts()) {
        sequence.closed = true;
      } else {
        refusal = Status::fail(Code::pool_poisoned, counters_.poisoned);
      }
    } else if (claim(sequence)) {
      if (request.other && !claim(*request.other)) {
        sequence.busy = false;
      } else {
        if (request.interrupts()) sequence.closing = true;
        admitted = true;
      }
    }
  }
  if (!admitted) request.done(std::move(refusal));
  return admitted;
}

void Pool::enqueue(const std::shared_ptr<Request>& request) {
  Status refusal;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) {
      refusal = Status::fail(Code::disposed, "the pool is disposed");
    } else if (!counters_.poisoned.empty()) {
      refusal = Status::fail(Code::pool_poisoned, counters_.poisoned);
    } else {
      incoming_.push_back(request);
    }
  }
  if (refusal.ok())
    wake();
  else
    give_up(*request, request->interrupts() ? Status{} : std::move(refusal));
}

void Pool::give_up(Request& request, Status status) {
  if (!request.interrupts()) request.sequence->busy = false;
  if (request.other) request.other->busy = false;
  request.done(std::move(status));
  // a disposal may be waiting for the sequence
  wake();
}

void Pool::wake() {
  {
    const std::lock_guard lock(mutex_);
    woken_ = true;
  }
  changed_.notify_one();
}

void Pool::stop() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  wake();
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Pool::stop_all() {
  const std::lock_guard lock(running().mutex);
  for (Pool* pool : running().pools) pool->stop();
}

void Pool::close() {
  {
    const std::lock_guard lock(running().mutex);
    running().pools.erase(this);
  }
  stop();
  const std::lock_guard lock(join_mutex_);
  memory_of_cells_.reset();
  free_context();
  keeps_large_memory_.reset();
}

// Once, after the scheduler has ended: nobody else uses the context. A poisoned one may hold broken invariants, and freeing it could
// assert, so its memory is given up.
void Pool::free_context() noexcept {
  abi::llama_context* context = std::exchange(context_, nullptr);
  if (context == nullptr || !counters().poisoned.empty()) return;
  try {
    if (wipes_freed_memory()) api_.llama_memory_clear(memory_, true);
    api_.llama_free(context);
  } catch (...) {  // llama.cpp's own; what it had not freed stays
  }
}

Pool::Counters Pool::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

// ------------------------------------------------------------------------------------------------------------ scheduler thread

void Pool::run() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      const bool work = !plain_.rows.empty() || !with_hidden_.rows.empty() || !waiting_.empty();
      changed_.wait(lock, [&] { return work || woken_ || closed_; });
      woken_ = false;
      if (closed_) break;
    }
    collect_incoming();
    if (!give_up_if_poisoned()) {
      retire_cancelled();
      advance_all();
    }
    if (!give_up_if_poisoned()) {
      plan();
      // the second call holds rows that follow those of the first, so it goes only if the first went through
      if (plain_.rows.empty() || decode(plain_)) {
        if (!with_hidden_.rows.empty()) decode(with_hidden_);
      }
    }
    retired_.clear();
    const std::lock_guard lock(mutex_);
    counters_.used_cells = ledger_.used();
  }
  collect_incoming();
  fail_all(Status::fail(Code::disposed, "the pool was disposed"));
}

// Nothing touches a poisoned context again: neither what a failure left behind nor what was submitted in that moment.
bool Pool::give_up_if_poisoned() {
  const std::string reason = counters().poisoned;
  if (reason.empty()) return false;
  plain_.rows.clear();
  with_hidden_.rows.clear();
  fail_all(Status::fail(Code::pool_poisoned, reason));
  return true;
}

void Pool::collect_incoming() {
  const std::lock_guard lock(mutex_);
  for (auto& request : incoming_) {
    request->start_length = request->sequence->log.size();
    (request->interrupts() ? waiting_ : active_).push_back(std::move(request));
  }
  incoming_.clear();
}

bool Pool::must_stop(const Request& request) const {
  // one row more, and the sequence is whole again
  if (request.refreshing) return false;
  return (request.cancelled && request.cancelled->load(std::memory_order_relaxed)) || (request.sequence->closing && !request.interrupts());
}

bool Pool::abort_now() const {
  return closed_.load(std::memory_order_relaxed) ||
         std::any_of(decoding_.begin(), decoding_.end(), [&](const Request* r) { return must_stop(*r); });
}

void Pool::retire_cancelled() {
  const auto active = active_;
  for (const auto& request : active) {
    if (must_stop(*request)) finish(*request, Status::fail(Code::cancelled, "the operation was aborted"));
  }
  const auto waiting = waiting_;
  for (const auto& request : waiting) {
    if (request->sequence->busy) continue;
    std::erase(waiting_, request);
    active_.push_back(request);
  }
}

void Pool::advance_all() {
  const auto active = active_;
  for (const auto& request : active) {
    while (request->feed.left() == 0 && request->ready()) {
      if (!advance(*request)) break;
    }
  }
}

// One step of the request's own logic; false when it has ended.
bool Pool::advance(Request& request) {
  try {
    if (request.advance(*this)) return true;
    finish(request, {});
  } catch (const Failure& failure) {
    finish(request, failure.status);
  } catch (const std::bad_alloc&) {
    finish(request, Status::fail(Code::out_of_memory, "out of memory"));
  }
  return false;
}

// Single rows (steps) always go; what is left of the micro-batch is shared among the prefills, the highest priority first. A lower priority
// keeps an eighth, so nobody starves.
void Pool::plan() {
  plain_.rows.clear();
  with_hidden_.rows.clear();
  if (active_.empty()) return;
  std::rotate(active_.begin(), active_.begin() + 1, active_.end());
  int32_t budget = options_.batch;
  std::map<int32_t, std::vector<Request*>, std::greater<>> bulk;
  for (const auto& request : active_) {
    const int32_t left = request->feed.left();
    if (left == 1 && budget > 0) {
      plan_request(*request, 1);
      budget--;
    } else if (left > 1) {
      bulk[request->priority].push_back(request.get());
    }
  }
  size_t classes_left = bulk.size();
  for (auto& [priority, requests] : bulk) {
    classes_left--;
    int32_t share = classes_left > 0 ? budget - budget / 8 : budget;
    size_t members_left = requests.size();
    for (Request* request : requests) {
      const int32_t rows =
          std::min(request->feed.left(), (share + static_cast<int32_t>(members_left) - 1) / static_cast<int32_t>(members_left));
      members_left--;
      plan_request(*request, rows);
      share -= rows;
      budget -= rows;
    }
  }
}

void Pool::plan_request(Request& request, int32_t count) {
  const int32_t first = request.feed.cursor;
  for (int32_t entry = first; entry < first + count; entry++) {
    const bool output = request.feed.all_outputs || entry + 1 == request.feed.entries.size();
    Group& group = output && request.feed.want_hidden ? with_hidden_ : plain_;
    group.rows.push_back({&request, static_cast<int32_t>(group.rows.size()), entry, output});
  }
}

// False if the rows were not decoded: their requests have failed, or will be planned again.
bool Pool::decode(Group& group) {
  batch_.clear();
  decoding_.clear();
  const bool as_rows = std::any_of(group.rows.begin(), group.rows.end(), [](const Placed& p) {
    return p.request->feed.entries.tokens[static_cast<size_t>(p.entry)] == row_entry;
  });
  const auto d = static_cast<ptrdiff_t>(model_->info().embedding_length);
  for (size_t i = 0; i < group.rows.size(); i++) {
    Placed& placed = group.rows[i];
    placed.batch_row = static_cast<int32_t>(i);
    Request::Feed& feed = placed.request->feed;
    SequenceState& s = *placed.request->sequence;
    const int32_t token = feed.entries.tokens[static_cast<size_t>(placed.entry)];
    const int32_t position = s.next();
    if (token == row_entry) {
      const float* row = feed.entries.rows.data() + feed.row_cursor * d;
      batch_.add_row(row, position, s.id, placed.output);
      s.log.rows.insert(s.log.rows.end(), row, row + d);
      feed.row_cursor++;
    } else if (as_rows) {
      // one call takes ids or rows, and both give the same bits: the calibration at load proved it
      model_->input_row(token, row_.data());
      batch_.add_row(row_.data(), position, s.id, placed.output);
    } else {
      batch_.add_token(token, position, s.id, placed.output);
    }
    s.log.tokens.push_back(token);
    s.positions.push_back(position);
    s.cells.push_back(ledger_.take());
    feed.cursor++;
    if (decoding_.empty() || decoding_.back() != placed.request) decoding_.push_back(placed.request);
  }

  int32_t result = 0;
  try {
    if (view_ != nullptr) view_->begin(false);
    result = guarded("llama_decode", [&] {
      api_.llama_set_embeddings(context_, group.hidden);
      return api_.llama_decode(context_, batch_.view());
    });
    if (result == 0) hold(group);
    if (result == 0 && view_ != nullptr) note_places(group);
  } catch (const Failure& failure) {
    decoding_.clear();
    fail_all(failure.status);
    return false;
  }
  decoding_.clear();
  if (result == 0) {
    deliver(group);
    return true;
  }
  undo(group);
  constexpr int32_t no_room = 1;
  constexpr int32_t aborted = 2;
  // aborted: those that asked for it retire at the next tick, their batch-mates are decoded again
  if (result == aborted) return false;
  const Status status =
      result == no_room ? Status::fail(Code::context_overflow, "the cache has no room for this batch")
                        : Status::fail(Code::engine_failed, "llama_decode returned " + std::to_string(result) + ": " + Runtime::take_log());
  std::vector<Request*> failed;
  for (const Placed& placed : group.rows) {
    if (std::find(failed.begin(), failed.end(), placed.request) == failed.end()) failed.push_back(placed.request);
  }
  for (Request* request : failed) {
    if (!request->refreshing) {
      finish(*request, status);
    } else if (++request->failed_refreshes > 1) {
      // the row is out of the cache and does not come back, though it was in it: what else the cache holds cannot be trusted
      poison(status.message);
      fail_all(status);
      return false;
    }
  }
  return false;
}

// Before anything else is decoded, which could write into the new cells. A request's rows lie one behind the other.
void Pool::hold(const Group& group) {
  if (!twins_) return;
  for (size_t first = 0; first < group.rows.size();) {
    size_t end = first;
    while (end < group.rows.size() && group.rows[end].request == group.rows[first].request) end++;
    const SequenceState& s = *group.rows[first].request->sequence;
    const auto rows = static_cast<ptrdiff_t>(end - first);
    share_cells(s.id, twin_of(s.id), *(s.positions.end() - rows), -1);
    first = end;
  }
}

// Where the rows of a decode went, in a cache that is used in place. A request's rows lie one behind the other.
void Pool::note_places(const Group& group) {
  const std::vector<int32_t>& places = view_->cells();
  if (places.size() != group.rows.size()) {
    poison("llama.cpp did not tell which cells it wrote");
    fail(Code::engine_failed, counters().poisoned);
  }
  for (size_t first = 0; first < group.rows.size();) {
    size_t end = first;
    while (end < group.rows.size() && group.rows[end].request == group.rows[first].request) end++;
    const std::vector<uint32_t>& cells = group.rows[first].request->sequence->cells;
    for (size_t i = first; i < end; i++) ledger_.put(cells[cells.size() - (end - i)], places[i]);
    first = end;
  }
}

void Pool::deliver(const Group& group) {
  const auto vocabulary = static_cast<size_t>(model_->info().vocabulary_size);
  const auto d = static_cast<size_t>(model_->info().embedding_length);
  {
    const std::lock_guard lock(mutex_);
    counters_.decode_calls++;
    for (const Placed& placed : group.rows) {
      counters_.decoded_rows++;
      switch (placed.request->feed.kind) {
        case RowKind::prefill:
          counters_.prefill_tokens++;
          break;
        case RowKind::latent:
          counters_.latent_steps++;
          break;
        case RowKind::token:
          counters_.decoded_tokens++;
          break;
        case RowKind::refresh:
          counters_.refreshed_positions++;
          break;
      }
    }
  }
  for (const Placed& placed : group.rows) {
    SequenceState& s = *placed.request->sequence;
    if (placed.request->feed.kind == RowKind::refresh) {
      placed.request->refreshing = false;
      placed.request->failed_refreshes = 0;
    }
    s.invalidate_outputs();
    s.publish();
  }
  for (const Placed& placed : group.rows) {
    if (!placed.output) continue;
    SequenceState& s = *placed.request->sequence;
    const float* hidden = group.hidden ? api_.llama_get_embeddings_ith(context_, placed.batch_row) : nullptr;
    if (hidden != nullptr && placed.request->feed.kind == RowKind::prefill) placed.request->take_hidden(hidden);
    if (placed.entry + 1 != placed.request->feed.entries.size()) continue;
    if (const float* logits = api_.llama_get_logits_ith(context_, placed.batch_row)) {
      s.logits.assign(logits, logits + vocabulary);
      s.logits_valid = true;
    }
    if (hidden != nullptr) {
      s.hidden.assign(hidden, hidden + d);
      s.hidden_valid = true;
    }
  }
}

// Takes the group's rows out of logs and cache again and turns the feeds back.
void Pool::undo(const Group& group) {
  std::map<Request*, int32_t> rows;
  for (const Placed& placed : group.rows) rows[placed.request]++;
  for (const auto& [request, count] : rows) {
    Request::Feed& feed = request->feed;
    for (int32_t i = 0; i < count; i++) {
      feed.cursor--;
      if (feed.entries.tokens[static_cast<size_t>(feed.cursor)] == row_entry) feed.row_cursor--;
    }
    SequenceState& s = *request->sequence;
    const bool logits = s.logits_valid;
    const bool hidden = s.hidden_valid;
    truncate(s, s.log.size() - count);
    s.logits_valid = logits;
    s.hidden_valid = hidden;
  }
}

void Pool::finish(Request& request, Status status) {
  const auto found = std::find_if(active_.begin(), active_.end(), [&](const auto& r) { return r.get() == &request; });
  if (found == active_.end()) return;
  retired_.push_back(*found);
  active_.erase(found);
  if (!status.ok() && counters().poisoned.empty()) {
    try {
      request.roll_back(*this);
    } catch (const Failure& failure) {
      status.message += "; and the sequence could not be put back: " + failure.status.message;
    }
  }
  request.feed.reset(RowKind::refresh, false);
  {
    const std::lock_guard lock(mutex_);
    counters_.used_cells = ledger_.used();
    if (!request.interrupts()) request.sequence->busy = false;
    if (request.other) request.other->busy = false;
  }
  request.done(std::move(status));
}

void Pool::fail_all(const Status& status) {
  auto all = std::move(active_);
  active_.clear();
  all.insert(all.end(), waiting_.begin(), waiting_.end());
  waiting_.clear();
  for (const auto& request : all) {
    retired_.push_back(request);
    request->sequence->busy = false;
    if (request->other) request->other->busy = false;
    // a disposal asks for exactly what has happened
    request->done(request->interrupts() ? Status{} : status);
  }
}

void Pool::poison(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (counters_.poisoned.empty()) counters_.poisoned = reason.empty() ? "llama.cpp failed" : reason;
  woken_ = true;
}

}  // namespace latentwire
