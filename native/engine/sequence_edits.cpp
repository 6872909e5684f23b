// What requests do to sequences on the scheduler's thread: cutting, sharing, moving, and the way of keys and values out of the cache and
// back into it.
#include <algorithm>
#include <utility>

#include "engine/pool.h"

namespace latentwire {
namespace {

// The rows of a content as `layout` stores them, without its log. Throws Failure.
KvContent rows_as(const CacheLayout& layout, const KvContent& content, const KeyMove* move, const std::atomic<bool>* cancel) {
  KvContent rows;
  rows.layout = layout;
  if (content.size() == 0) return rows;
  std::vector<uint8_t*> targets;
  check(allocate_segment(layout, content.size(), &rows.segments.emplace_back(), &targets));
  check(write_rows(content, layout, move, targets, false, cancel));
  return rows;
}

}  // namespace

void Pool::require_room(const SequenceState& sequence, int64_t entries) const {
  const int64_t position = sequence.next();
  if (position + entries > context_length_) {
    fail(Code::context_overflow,
         "needs positions up to " + std::to_string(position + entries) + ", the context has " + std::to_string(context_length_));
  }
  if (ledger_.used() + entries > context_length_) {
    fail(Code::context_overflow, "needs " + std::to_string(entries) + " cells, the pool has " +
                                     std::to_string(context_length_ - ledger_.used()) + " of " + std::to_string(context_length_) + " free");
  }
}

// The last entry goes back into its own cell, unless a fork holds that one as well. Asked before anything is taken out.
void Pool::require_refresh_room(const SequenceState& s) const {
  if (!ledger_.shared(s.cells.back()) || ledger_.used() < context_length_) return;
  fail(Code::context_overflow,
       "needs a cell to decode the last position again, and all " + std::to_string(context_length_) + " are in use");
}

// The entry that comes to be the last is decoded again when its outputs are asked for, right behind the one before it: with a gap there it
// would move. Asked before anything is taken out.
void Pool::require_adjacent_end(const SequenceState& s, int32_t length) const {
  if (length == 0) return;
  const auto last = static_cast<size_t>(length) - 1;
  if (s.positions[last] != (last == 0 ? 0 : s.positions[last - 1] + 1))
    fail(Code::position_scheme, "a gap in the positions must leave at least two positions behind it");
}

void Pool::share_cells(int32_t source, int32_t target, int32_t from, int32_t to) {
  guarded("llama_memory_seq_cp", [&] {
    api_.llama_memory_seq_cp(memory_, source, target, from, to);
    if (has_twin(target)) api_.llama_memory_seq_cp(memory_, source, twin_of(target), from, to);
    return true;
  });
}

bool Pool::free_cells(int32_t sequence, int32_t from, int32_t to) {
  return guarded("llama_memory_seq_rm", [&] {
    return (!has_twin(sequence) || api_.llama_memory_seq_rm(memory_, twin_of(sequence), from, to)) &&
           api_.llama_memory_seq_rm(memory_, sequence, from, to);
  });
}

void Pool::truncate(SequenceState& s, int32_t length) {
  const int32_t size = s.log.size();
  if (length >= size) return;
  const auto keep = static_cast<size_t>(length);
  const int32_t first = s.positions[keep];
  if (!free_cells(s.id, first, -1)) fail(Code::engine_failed, "llama.cpp refused to truncate the sequence");
  const auto rows = std::count(s.log.tokens.begin() + length, s.log.tokens.end(), row_entry);
  s.log.rows.resize(s.log.rows.size() - static_cast<size_t>(rows) * row_.size());
  s.log.tokens.resize(keep);
  s.positions.resize(keep);
  for (size_t i = keep; i < s.cells.size(); i++) ledger_.drop(s.cells[i]);
  s.cells.resize(keep);
  s.contiguous = s.next() == length;
  s.invalidate_outputs();
  s.publish();
}

// `target` becomes a copy of `source`; the cells are shared, no bytes move.
void Pool::replace(SequenceState& target, const SequenceState& source) {
  truncate(target, 0);
  share_cells(source.id, target.id, -1, -1);
  for (const uint32_t cell : source.cells) ledger_.share(cell);
  target.log = source.log;
  target.positions = source.positions;
  target.cells = source.cells;
  target.contiguous = source.contiguous;
  target.logits = source.logits;
  target.hidden = source.hidden;
  target.logits_valid = source.logits_valid;
  target.hidden_valid = source.hidden_valid;
  target.publish();
}

std::shared_ptr<SequenceState> Pool::fork(const SequenceState& source) {
  std::shared_ptr<SequenceState> copy = create_sequence();
  replace(*copy, source);
  return copy;
}

void Pool::release(SequenceState& s) {
  if (s.closed.exchange(true)) return;
  truncate(s, 0);
  const std::lock_guard lock(mutex_);
  free_ids_.push_back(s.id);
  counters_.open_sequences--;
}

void Pool::clear_scratch() { free_cells(scratch_, -1, -1); }

// The scratch sequence gets what a state holds. Error: context_overflow, and then it is empty.
void Pool::load_scratch(const uint8_t* state, size_t size) {
  const size_t read = guarded("llama_state_seq_set_data", [&] { return api_.llama_state_seq_set_data(context_, state, size, scratch_); });
  if (read == size) return;
  clear_scratch();
  fail(Code::context_overflow, "the cache took " + std::to_string(read) + " of " + std::to_string(size) + " bytes");
}

const CacheLayout& Pool::layout() const {
  if (!layout_)
    fail(Code::kv_layout, "keys and values of " + model_->info().architecture + " cannot be read from its cache: " + layout_refusal_);
  return *layout_;
}

// What a content of entries [from, to) has besides keys and values.
KvContent Pool::log_of(const SequenceState& s, int32_t from, int32_t to) const {
  KvContent content;
  const auto first_row = std::count(s.log.tokens.begin(), s.log.tokens.begin() + from, row_entry);
  const auto rows = std::count(s.log.tokens.begin() + from, s.log.tokens.begin() + to, row_entry);
  const auto d = static_cast<ptrdiff_t>(row_.size());
  content.layout = layout();
  content.tokens.assign(s.log.tokens.begin() + from, s.log.tokens.begin() + to);
  content.positions.assign(s.positions.begin() + from, s.positions.begin() + to);
  content.rows.assign(s.log.rows.begin() + first_row * d, s.log.rows.begin() + (first_row + rows) * d);
  return content;
}

KvContent Pool::export_kv(const SequenceState& s, int32_t from, int32_t to) {
  KvContent content = log_of(s, from, to);
  if (from == to) return content;
  if (memory_of_cells_ == nullptr) {
    read_cells(s, from, to, &content);
  } else {
    synchronize();
    check(memory_of_cells_->gather(places_of(s, from, to), &content.segments.emplace_back()));
  }
  return content;
}

DeviceContent Pool::export_on_device(const SequenceState& s, int32_t from, int32_t to) {
  if (!on_device_) fail(Code::device_unavailable, "the cache of this pool is not used in place on a device");
  DeviceContent content;
  synchronize();
  check(memory_of_cells_->gather(places_of(s, from, to), log_of(s, from, to), &content));
  return content;
}

// What was launched by llama.cpp may still be running on a device.
void Pool::synchronize() {
  guarded("llama_synchronize", [&] {
    api_.llama_synchronize(context_);
    return true;
  });
}

std::vector<int32_t> Pool::places_of(const SequenceState& s, int32_t from, int32_t to) const {
  std::vector<int32_t> places;
  for (int32_t i = from; i < to; i++) places.push_back(ledger_.place(s.cells[static_cast<size_t>(i)]));
  return places;
}

// The rows of entries [from, to).
void Pool::read_cells(const SequenceState& s, int32_t from, int32_t to, KvContent* content) {
  for (int32_t first = from; first < to;) first = read_piece(s, first, to, content);
  if (content->segments.size() > 1) content->state = {};
}

// The rows of as many entries from `from` on as one state holds, and where they end. Of local layers that is a window: a state leaves out
// what its last position cannot see, though the cache has it. llama.cpp writes cells in the order of the cache, which is that of the
// positions unless they were taken in pieces.
int32_t Pool::read_piece(const SequenceState& s, int32_t from, int32_t to, KvContent* content) {
  const auto first = s.positions.begin() + from;
  const auto last = std::lower_bound(first, s.positions.begin() + to, int64_t{*first} + window_);
  const std::vector<int32_t> wanted(first, last);
  const bool whole = static_cast<int32_t>(wanted.size()) == s.log.size();
  if (!whole) share_cells(s.id, scratch_, wanted.front(), wanted.back() + 1);
  std::shared_ptr<uint8_t> state;
  size_t size = 0;
  guarded("llama_state_seq_get_data", [&] {
    const int32_t id = whole ? s.id : scratch_;
    size = api_.llama_state_seq_get_size(context_, id);
    state = large_memory(size);
    if (state != nullptr) size = api_.llama_state_seq_get_data(context_, state.get(), size, id);
    return true;
  });
  if (!whole) clear_scratch();
  if (state == nullptr) fail(Code::out_of_memory, "no memory for " + std::to_string(size) + " bytes of keys and values");
  StateSummary summary;
  check(locate_rows(state.get(), size, *geometry_, &summary));
  if (summary.positions.back().size() < summary.positions.front().size() && wanted.size() > 1) {
    // the window is smaller than the file says
    window_ = (wanted.back() - wanted.front() + 1) / 2;
    return from;
  }
  for (std::vector<int32_t> positions : summary.positions) {
    std::sort(positions.begin(), positions.end());
    if (positions != wanted) fail(Code::engine_failed, "llama.cpp holds other positions than it was given");
  }
  KvSegment& segment = content->segments.emplace_back();
  check(segment_of_state(content->layout, *geometry_, summary, state, &segment));
  if (segment.owner == state) content->state = {std::move(state), size, geometry_};
  return from + static_cast<int32_t>(wanted.size());
}

// Whether `content` can lie at `positions` here, but for its rows. Any thread, as the three that follow.
void Pool::require_incoming(const KvContent& content, const std::vector<int32_t>& positions) const {
  check(require_all_layers(content.layout, layout().layers()));
  // before anything of that size is made
  if (static_cast<int64_t>(positions.size()) > context_length_)
    fail(Code::context_overflow, std::to_string(positions.size()) + " positions, the context has " + std::to_string(context_length_));
  if (std::any_of(content.tokens.begin(), content.tokens.end(), [&](int32_t t) { return t != row_entry && !model_->is_token(t); }))
    fail(Code::kv_model_mismatch, "it holds tokens that this model does not have");
}

// nullopt if all stay where they are.
std::optional<KeyMove> Pool::move_of(const KvContent& content, const std::vector<int32_t>& positions) const {
  if (positions == content.positions) return std::nullopt;
  require_movable_keys();
  KeyMove move{ropes_, {}};
  for (size_t i = 0; i < positions.size(); i++) move.shifts.push_back(positions[i] - content.positions[i]);
  return move;
}

// Whether keys are turned in the memory of the cache's device.
bool Pool::turns_there() const { return on_device_ && turns_on_device(layout()); }

// What the cache takes for `content` at `positions`.
Pool::Incoming Pool::encode_kv(const KvContent& content, std::vector<int32_t> positions, const std::atomic<bool>* cancel) const {
  const CacheLayout& local = layout();
  require_incoming(content, positions);
  std::optional<KeyMove> move = move_of(content, positions);
  const size_t size = state_bytes(*geometry_, positions.size());
  Incoming incoming;
  incoming.log = {content.tokens, content.rows};
  const bool as_state = content.state.bytes != nullptr && content.state.size == size && same_form(*content.state.geometry, *geometry_);
  const bool as_rows = options_.in_place && (!move || turns_there());
  if (content.layout == local && (as_rows || (as_state && !move))) {
    // another pool's cache of the same layout: as it gave it, this one takes it
    if (!move) check(require_finite(content, cancel));
    if (as_rows)
      incoming.rows = content;
    else
      incoming.state = content.state;
    incoming.move = std::move(move);
    incoming.positions = std::move(positions);
    return incoming;
  }
  if (options_.in_place) {
    incoming.rows = rows_as(local, content, move ? &*move : nullptr, cancel);
    incoming.positions = std::move(positions);
    return incoming;
  }
  std::shared_ptr<uint8_t> state = large_memory(size);
  if (state == nullptr) fail(Code::out_of_memory, "no memory for " + std::to_string(size) + " bytes of keys and values");
  std::vector<uint8_t*> parts;
  begin_state(*geometry_, positions, state.get(), &parts);
  incoming.state = {std::move(state), size, geometry_};
  if (content.size() > 0) {
    check(write_rows(content, local, move ? &*move : nullptr, parts, geometry_->transposed_values, cancel));
  }
  incoming.positions = std::move(positions);
  return incoming;
}

std::optional<Pool::Incoming> Pool::encode_on_device(std::shared_ptr<const DeviceContent> content, std::vector<int32_t> positions) const {
  require_incoming(content->entries, positions);
  Incoming incoming;
  incoming.move = move_of(content->entries, positions);
  if (!on_device_ || content->entries.layout != layout() || (incoming.move && !turns_there())) return std::nullopt;
  incoming.log = {content->entries.tokens, content->entries.rows};
  incoming.on_device = std::move(content);
  incoming.positions = std::move(positions);
  return incoming;
}

// Whether entries at these positions, which ascend, can follow what the sequence holds.
void Pool::require_behind(const SequenceState& s, const std::vector<int32_t>& positions) const {
  const int32_t first = positions.front();
  if (first < s.next()) {
    fail(Code::kv_position,
         "position " + std::to_string(first) + " lies before " + std::to_string(s.next()) + ", where the sequence goes on");
  }
  if (positions.back() >= context_length_) {
    fail(Code::kv_position,
         "position " + std::to_string(positions.back()) + " lies outside the context of " + std::to_string(context_length_));
  }
  // the last position is decoded again when its outputs are asked for, right behind what lies before it
  const int32_t before_last = positions.size() > 1 ? positions[positions.size() - 2] : s.next() - 1;
  if (positions.back() != before_last + 1) fail(Code::kv_position, "a gap in the positions must leave two positions behind it");
}

// Cells of `sequence` for entries at `positions`, which ascend, behind what it has; and where they are. On a failure it is as it was.
std::vector<int32_t> Pool::take_cells(int32_t sequence, const std::vector<int32_t>& positions) {
  std::vector<int32_t> places;
  try {
    for (size_t first = 0; first < positions.size();) {
      // llama.cpp takes neighbouring positions in one call, and the first of them anywhere in an empty sequence
      size_t end = first + 1;
      while (end < positions.size() && end - first < static_cast<size_t>(options_.batch) && positions[end] == positions[end - 1] + 1) end++;
      take_run(positions[first], static_cast<int32_t>(end - first), &places);
      share_cells(scratch_, sequence, -1, -1);
      clear_scratch();
      first = end;
    }
  } catch (...) {
    give_cells_back(sequence, positions.front());
    throw;
  }
  return places;
}

// By a decode that ends when it has its cells.
void Pool::take_run(int32_t first, int32_t count, std::vector<int32_t>* places) {
  Batch batch(model_->info().embedding_length, model_->positions_per_row());
  for (int32_t i = 0; i < count; i++) batch.add_token(filler_, first + i, scratch_, false);
  view_->begin(true);
  const int32_t result = guarded("llama_decode", [&] {
    api_.llama_set_embeddings(context_, false);
    return api_.llama_decode(context_, batch.view());
  });
  constexpr int32_t no_room = 1;
  if (result == no_room) fail(Code::context_overflow, "the cache has no room for " + std::to_string(count) + " positions");
  if (result != 0) fail(closed() ? Code::disposed : Code::engine_failed, "llama_decode returned " + std::to_string(result));
  if (view_->went_on()) fail(Code::engine_failed, "the model is computed in several places, not on one device alone");
  const std::vector<int32_t>& taken = view_->cells();
  if (static_cast<int32_t>(taken.size()) != count) fail(Code::engine_failed, "its graph does not tell which cells it takes");
  places->insert(places->end(), taken.begin(), taken.end());
  synchronize();
}

// Into cells of `sequence`. On a failure they are free again.
void Pool::write_in_place(int32_t sequence, const Incoming& incoming, const std::vector<int32_t>& places) {
  const KeyMove* move = incoming.move ? &*incoming.move : nullptr;
  try {
    Status status = incoming.on_device == nullptr ? memory_of_cells_->scatter(incoming.rows, move, places)
                                                  : memory_of_cells_->scatter(*incoming.on_device, move, places);
    if (status.code == Code::out_of_memory && move != nullptr && incoming.on_device == nullptr) {
      // where the device has no room, the host turns the keys
      status = memory_of_cells_->scatter(rows_as(layout(), incoming.rows, move, nullptr), nullptr, places);
    }
    check(status);
  } catch (...) {
    give_cells_back(sequence, incoming.positions.front());
    throw;
  }
}

// Those from a position on, after a failure; a poisoned context is not touched.
void Pool::give_cells_back(int32_t sequence, int32_t from) {
  if (!counters().poisoned.empty()) return;
  clear_scratch();
  free_cells(sequence, from, -1);
}

// A state goes into the scratch sequence, and is committed by sharing its cells. In place, cells are taken for `s` and written after, and
// given back when that fails. On any failure `s` is as it was.
void Pool::import_kv(SequenceState& s, Incoming incoming) {
  const auto count = static_cast<int32_t>(incoming.positions.size());
  if (count == 0) return;
  require_behind(s, incoming.positions);
  if (ledger_.used() + count > context_length_) {
    fail(Code::context_overflow, "needs " + std::to_string(count) + " cells, the pool has " +
                                     std::to_string(context_length_ - ledger_.used()) + " of " + std::to_string(context_length_) + " free");
  }
  // nothing may fail for want of memory once the cells are there
  const auto more = static_cast<size_t>(count);
  ledger_.reserve(more);
  s.cells.reserve(s.cells.size() + more);
  s.positions.reserve(s.positions.size() + more);
  s.log.tokens.reserve(s.log.tokens.size() + more);
  s.log.rows.reserve(s.log.rows.size() + incoming.log.rows.size());
  if (memory_of_cells_ == nullptr) {
    load_scratch(incoming.state.bytes.get(), incoming.state.size);
    share_cells(scratch_, s.id, -1, -1);
    clear_scratch();
    for (int32_t i = 0; i < count; i++) s.cells.push_back(ledger_.take());
  } else {
    const std::vector<int32_t> places = take_cells(s.id, incoming.positions);
    write_in_place(s.id, incoming, places);
    for (const int32_t place : places) s.cells.push_back(ledger_.take(place));
  }
  s.positions.insert(s.positions.end(), incoming.positions.begin(), incoming.positions.end());
  s.log.tokens.insert(s.log.tokens.end(), incoming.log.tokens.begin(), incoming.log.tokens.end());
  s.log.rows.insert(s.log.rows.end(), incoming.log.rows.begin(), incoming.log.rows.end());
  s.contiguous = s.next() == s.log.size();
  s.invalidate_outputs();
  s.publish();
}

void Pool::join_cells(SequenceState& target, const SequenceState& source) {
  if (source.positions.empty()) return;
  require_behind(target, source.positions);
  // then the outputs of its last position are the same
  if (target.positions.empty()) return replace(target, source);
  // nothing may fail for want of memory once the cells are there
  target.cells.reserve(target.cells.size() + source.cells.size());
  target.positions.reserve(target.positions.size() + source.positions.size());
  target.log.tokens.reserve(target.log.tokens.size() + source.log.tokens.size());
  target.log.rows.reserve(target.log.rows.size() + source.log.rows.size());
  share_cells(source.id, target.id, -1, -1);
  for (const uint32_t cell : source.cells) {
    ledger_.share(cell);
    target.cells.push_back(cell);
  }
  target.positions.insert(target.positions.end(), source.positions.begin(), source.positions.end());
  target.log.tokens.insert(target.log.tokens.end(), source.log.tokens.begin(), source.log.tokens.end());
  target.log.rows.insert(target.log.rows.end(), source.log.rows.begin(), source.log.rows.end());
  target.contiguous = target.next() == target.log.size();
  target.invalidate_outputs();
  target.publish();
}

void Pool::require_movable_keys() const {
  if (ropes_.empty()) fail(Code::position_scheme, "cached keys of this model cannot be moved: " + rope_refusal_);
}

const std::vector<std::shared_ptr<const Rope>>& Pool::ropes() const {
  require_movable_keys();
  return ropes_;
}

// Concatenation without recompute: the source's keys are turned on to follow the target. The source never attended to the target, so this
// is block-diagonal attention, an approximation of having read both.
void Pool::append_shifted(SequenceState& target, const SequenceState& source) {
  require_movable_keys();
  if (!target.contiguous || !source.contiguous) fail(Code::position_scheme, "a sequence with gaps in its positions cannot be joined");
  require_room(target, source.log.size());
  std::vector<int32_t> positions = positions_from(target.next(), source.log.size());
  if (on_device_) {
    try {
      const auto content = std::make_shared<const DeviceContent>(export_on_device(source, 0, source.log.size()));
      if (auto incoming = encode_on_device(content, positions)) return import_kv(target, std::move(*incoming));
    } catch (const Failure& failure) {
      // the host has room
      if (failure.status.code != Code::out_of_memory) throw;
    }
  }
  import_kv(target, encode_kv(export_kv(source, 0, source.log.size()), std::move(positions), nullptr));
}

// Removes entries [from, to). Re-anchored, the rest moves down and its keys are turned back; else the positions keep their gap and the
// sequence says so.
void Pool::drop(SequenceState& s, int32_t from, int32_t to, bool reanchor) {
  const int32_t size = s.log.size();
  if (from >= to) return;
  if (to == size) {
    require_adjacent_end(s, from);
    truncate(s, from);
    return;
  }
  if (reanchor) require_movable_keys();
  if (!s.contiguous) fail(Code::position_scheme, "the sequence already has a gap in its positions");
  if (!reanchor && to == size - 1) fail(Code::position_scheme, "a gap must leave at least two positions behind it");
  if (reanchor) {
    move_down(s, from, to);
    return;
  }
  free_cells(s.id, from, to);
  const auto d = static_cast<ptrdiff_t>(row_.size());
  const auto rows_before = std::count(s.log.tokens.begin(), s.log.tokens.begin() + from, row_entry);
  const auto rows_dropped = std::count(s.log.tokens.begin() + from, s.log.tokens.begin() + to, row_entry);
  s.log.rows.erase(s.log.rows.begin() + rows_before * d, s.log.rows.begin() + (rows_before + rows_dropped) * d);
  s.log.tokens.erase(s.log.tokens.begin() + from, s.log.tokens.begin() + to);
  for (int32_t i = from; i < to; i++) ledger_.drop(s.cells[static_cast<size_t>(i)]);
  s.cells.erase(s.cells.begin() + from, s.cells.begin() + to);
  s.positions.erase(s.positions.begin() + from, s.positions.begin() + to);
  s.contiguous = false;
  s.invalidate_outputs();
  s.publish();
}

// Entries from `to` on go to `from`. Their own cells are given back first, so that a full cache can be shortened too; cells that forks hold
// stay, and then there must be room for others.
void Pool::move_down(SequenceState& s, int32_t from, int32_t to) {
  const int32_t size = s.log.size();
  const auto shared = std::count_if(s.cells.begin() + from, s.cells.end(), [&](uint32_t cell) { return ledger_.shared(cell); });
  if (ledger_.used() - (size - from - shared) + (size - to) > context_length_)
    fail(Code::context_overflow,
         "moving " + std::to_string(size - to) + " positions that forks share needs more cells than the pool has free");
  const KvContent before = export_kv(s, from, size);
  const KvContent rest = before.slice(to - from, size - from);
  Incoming moved = encode_kv(rest, positions_from(from, rest.size()), nullptr);
  Incoming back = encode_kv(before, before.positions, nullptr);
  truncate(s, from);
  try {
    import_kv(s, std::move(moved));
  } catch (...) {
    import_kv(s, std::move(back));
    throw;
  }
}

}  // namespace latentwire
