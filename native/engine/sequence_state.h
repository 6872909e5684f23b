// What a pool knows of one sequence: the log of what was fed (token ids and latent rows, with positions), the cells it holds, and the
// outputs of its last position. Owned by the scheduler thread; the atomics are mirrors that any thread may read.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "kv/content.h"

namespace latentwire {

// Counts the cells of the cache: `seq_cp` shares cells between sequences, so a cell is free only when its last holder drops it. Numbers of
// cells are the ledger's own; where llama.cpp has a cell, it keeps for caches that are read in place.
class CellLedger {
 public:
  uint32_t take(int32_t place = -1) {
    used_++;
    if (free_.empty()) {
      cells_.push_back({1, place});
      return static_cast<uint32_t>(cells_.size() - 1);
    }
    const uint32_t cell = free_.back();
    free_.pop_back();
    cells_[cell] = {1, place};
    return cell;
  }
  // So that as many can be taken without an allocation.
  void reserve(size_t cells) { cells_.reserve(cells_.size() + cells); }
  void share(uint32_t cell) { cells_[cell].holders++; }
  void drop(uint32_t cell) {
    if (--cells_[cell].holders > 0) return;
    free_.push_back(cell);
    used_--;
  }
  bool shared(uint32_t cell) const { return cells_[cell].holders > 1; }
  void put(uint32_t cell, int32_t place) { cells_[cell].place = place; }
  int32_t place(uint32_t cell) const { return cells_[cell].place; }
  int64_t used() const noexcept { return used_; }

 private:
  struct Cell {
    uint32_t holders;
    int32_t place;
  };
  std::vector<Cell> cells_;
  std::vector<uint32_t> free_;
  int64_t used_ = 0;
};

// A run of entries: tokens, with `row_entry` where the next of `rows` stands.
struct Entries {
  std::vector<int32_t> tokens;  // [n]
  std::vector<float> rows;      // [count of row_entry, d]

  int32_t size() const noexcept { return static_cast<int32_t>(tokens.size()); }
  void clear() {
    tokens.clear();
    rows.clear();
  }
};

struct SequenceState {
  explicit SequenceState(int32_t sequence_id) : id(sequence_id) {}

  const int32_t id;
  Entries log;
  std::vector<int32_t> positions;  // [n], ascending
  std::vector<uint32_t> cells;     // [n]
  bool contiguous = true;

  std::vector<float> logits;  // [vocabulary] of the last position
  std::vector<float> hidden;  // [d] of the last position, after the final norm
  bool logits_valid = false;
  bool hidden_valid = false;

  std::atomic<int32_t> length{0};
  std::atomic<int32_t> next_position{0};
  std::atomic<bool> is_contiguous{true};
  std::atomic<bool> busy{false};
  std::atomic<bool> closing{false};  // a dispose is waiting: the running request stops
  std::atomic<bool> closed{false};

  int32_t next() const { return positions.empty() ? 0 : positions.back() + 1; }
  void publish() {
    length.store(log.size(), std::memory_order_release);
    next_position.store(next(), std::memory_order_release);
    is_contiguous.store(contiguous, std::memory_order_release);
  }
  void invalidate_outputs() { logits_valid = hidden_valid = false; }
};

}  // namespace latentwire
