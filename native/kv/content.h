// What a sequence holds, outside of any cache: the log of what was fed, the positions, and the rows of keys and values of every layer, as
// the cache had them. Rows are not copied when contents are cut or joined: a content is a list of segments that share their memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/status.h"
#include "kv/llama_state.h"
#include "kv/rows.h"

namespace latentwire {

struct Rope;

// Stands in a log where an input row (a latent) was fed instead of a token.
constexpr int32_t row_entry = -1;

// Rows of keys lie before those of values of the same layer: part 2 * layer is the keys, 2 * layer + 1 the values.
struct CacheLayout {
  std::vector<CacheRows> parts;  // [2 * layers]
  int32_t dimension = 0;         // of a latent in the log
  int32_t key_head = 0;          // channels of a head
  int32_t value_head = 0;
  // Which layers of the model these are, ascending, if some are left out; empty if all are there.
  std::vector<int32_t> numbers;  // [layers] or []

  int64_t layers() const noexcept { return static_cast<int64_t>(parts.size() / 2); }
  int32_t layer_number(size_t layer) const noexcept { return numbers.empty() ? static_cast<int32_t>(layer) : numbers[layer]; }
  // Of the rows of one position.
  int64_t position_bytes() const noexcept;
  bool operator==(const CacheLayout&) const = default;
};

// Neighbouring positions whose rows lie one after the other in memory that `owner` keeps.
struct KvSegment {
  std::shared_ptr<const void> owner;
  int64_t count = 0;
  std::vector<const uint8_t*> parts;  // [2 * layers], each [count, row bytes]
};

// Calls body(segment, first, count) for the rows of each segment that entries [from, to) lie in, in order.
template <typename Body>
void for_segments(const std::vector<KvSegment>& segments, int64_t from, int64_t to, const Body& body) {
  int64_t start = 0;
  for (const KvSegment& segment : segments) {
    const int64_t first = std::max(from, start) - start;
    const int64_t last = std::min(to, start + segment.count) - start;
    if (first < last) body(segment, first, last - first);
    start += segment.count;
  }
}

// The bytes that llama.cpp gave a content as, and takes it as again where states have the same geometry.
struct LlamaState {
  std::shared_ptr<const uint8_t> bytes;
  size_t size = 0;
  std::shared_ptr<const StateGeometry> geometry;
};

struct KvContent {
  CacheLayout layout;
  std::vector<int32_t> tokens;     // [n], `row_entry` where the next of `rows` stands
  std::vector<int32_t> positions;  // [n], those that the keys are rotated for
  std::vector<float> rows;         // [latents, dimension]
  std::vector<KvSegment> segments;
  LlamaState state;  // of the whole content, entry by entry, if it is as it came out of a cache; null if not

  int64_t size() const noexcept { return static_cast<int64_t>(tokens.size()); }
  int64_t latents() const noexcept { return layout.dimension == 0 ? 0 : static_cast<int64_t>(rows.size()) / layout.dimension; }
  // Of keys and values.
  int64_t bytes() const noexcept { return size() * layout.position_bytes(); }

  // Entries [from, to), which must lie within; no row is copied.
  KvContent slice(int64_t from, int64_t to) const;
  // This and then `next`; no row is copied. Error: kv_layout, if their rows are stored differently.
  Status concat(const KvContent& next, KvContent* out) const;
  // The layers of these numbers of the model, which must ascend, and no others; no row is copied. Error: kv_layout, if one of them is not
  // there.
  Status select(const std::vector<int32_t>& layers, KvContent* out) const;
  // Calls body(rows, count) for the stretches of a part that hold entries [from, to), in order.
  template <typename Body>
  void for_pieces(int64_t part, int64_t from, int64_t to, const Body& body) const {
    const auto p = static_cast<size_t>(part);
    const int64_t row_bytes = layout.parts[p].row_bytes();
    for_segments(segments, from, to,
                 [&](const KvSegment& segment, int64_t first, int64_t count) { body(segment.parts[p] + first * row_bytes, count); });
  }
};

// New memory for `count` positions, owned by the segment, contents undefined. Where each part begins is in `writable`, [2 * layers].
// Error: out_of_memory.
Status allocate_segment(const CacheLayout& layout, int64_t count, KvSegment* segment, std::vector<uint8_t*>* writable);

// The rows of a state, whose cells come in any order, one a position, as a segment in the order of the positions: it refers to the state,
// which `owner` keeps, if they lie there as a segment needs them, and else to new memory. Each section of the state must hold the same
// positions. Error: out_of_memory.
Status segment_of_state(const CacheLayout& layout, const StateGeometry& geometry, const StateSummary& summary,
                        const std::shared_ptr<const uint8_t>& owner, KvSegment* out);

// Error kv_layout, which names the layers that `content` lacks of the `layers` of a model.
Status require_all_layers(const CacheLayout& content, int64_t layers);

// first, first + 1, ...: `count` of them
std::vector<int32_t> positions_from(int32_t first, int64_t count);

// Keys turned on to other positions while they are written.
struct KeyMove {
  std::vector<std::shared_ptr<const Rope>> ropes;  // [layers], nullptr where keys are not rotated
  std::vector<int32_t> shifts;                     // [n]: what is added to the position of each entry
};

// Errors: non_finite (a number is NaN or an infinity), cancelled.
Status require_finite(const KvContent& content, const std::atomic<bool>* cancel);

// Writes all rows as `layout` stores them, which may differ from the content's in formats and rotations only: part p goes to targets[p],
// [n, row bytes]; values, if they are `transposed`, as [channels, n]. Rows that need no change are copied bit by bit. Every number is
// looked at on the way. Errors: kv_layout (another shape), non_finite (a number that is not finite, or too large for the new format),
// cancelled.
Status write_rows(const KvContent& content, const CacheLayout& layout, const KeyMove* move, const std::vector<uint8_t*>& targets,
                  bool transposed, const std::atomic<bool>* cancel);

// The layout with numbers of another format; parts that have it already stay as they are. Quantised rows are rotated as llama.cpp does it:
// where heads are multiples of 64, keys in blocks of the largest power of two that divides a head, values in blocks of 64.
CacheLayout with_format(const CacheLayout& layout, RowFormat format);

// The same content with rows stored as `layout` says. Errors: those of write_rows, out_of_memory.
Status convert(const KvContent& content, const CacheLayout& layout, const std::atomic<bool>* cancel, KvContent* out);

}  // namespace latentwire
