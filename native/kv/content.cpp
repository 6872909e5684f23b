#include "kv/content.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <numeric>
#include <string>
#include <type_traits>
#include <utility>

#include "core/atomic_least.h"
#include "core/large_memory.h"
#include "core/thread_pool.h"
#include "kernels/transpose.h"
#include "kv/rope.h"

namespace latentwire {
namespace {

constexpr int64_t line_bytes = 64;
constexpr int64_t block_rows = 64;  // of one part at a time, so that what the steps hand to each other stays in a cache

bool same_shape(const CacheLayout& a, const CacheLayout& b) {
  return a.dimension == b.dimension && a.key_head == b.key_head && a.value_head == b.value_head && a.numbers == b.numbers &&
         std::equal(a.parts.begin(), a.parts.end(), b.parts.begin(), b.parts.end(),
                    [](const CacheRows& x, const CacheRows& y) { return x.channels == y.channels; });
}

// False if a number cannot be written.
bool write_part(const KvContent& content, const CacheLayout& layout, int64_t part, uint8_t* target) {
  const CacheRows& from = content.layout.parts[static_cast<size_t>(part)];
  const CacheRows& to = layout.parts[static_cast<size_t>(part)];
  bool sound = true;
  content.for_pieces(part, 0, content.size(), [&](const uint8_t* rows, int64_t count) {
    for (int64_t at = 0; at < count && sound; at += block_rows) {
      const int64_t n = std::min(block_rows, count - at);
      const uint8_t* block = rows + at * from.row_bytes();
      sound = first_non_finite_row(from, block, n) == n && transcode(from, to, block, n, target).ok();
      target += n * to.row_bytes();
    }
  });
  return sound;
}

// The same of values that a cache keeps channel by channel, [channels, n]: a block at a time is turned on its way.
bool write_transposed(const KvContent& content, const CacheLayout& layout, int64_t part, uint8_t* target) {
  const CacheRows& from = content.layout.parts[static_cast<size_t>(part)];
  const CacheRows& to = layout.parts[static_cast<size_t>(part)];
  const int64_t number_bytes = row_unit_bytes(to.format);
  std::vector<uint8_t> turned(static_cast<size_t>(block_rows * to.row_bytes()));
  bool sound = true;
  content.for_pieces(part, 0, content.size(), [&](const uint8_t* rows, int64_t count) {
    for (int64_t at = 0; at < count && sound; at += block_rows) {
      const int64_t n = std::min(block_rows, count - at);
      const uint8_t* block = rows + at * from.row_bytes();
      sound = first_non_finite_row(from, block, n) == n && transcode(from, to, block, n, turned.data()).ok() &&
              transpose({n, to.channels, number_bytes, 0, content.size() * number_bytes}, turned.data(), target).ok();
      target += n * number_bytes;
    }
  });
  return sound;
}

// The same of keys that move; those that stay where they were keep their bits.
bool write_moved(const KvContent& content, const CacheLayout& layout, const KeyMove& move, int64_t part, uint8_t* target) {
  const CacheRows& from = content.layout.parts[static_cast<size_t>(part)];
  const CacheRows& to = layout.parts[static_cast<size_t>(part)];
  const Rope& rope = *move.ropes[static_cast<size_t>(part / 2)];
  std::vector<float> numbers(static_cast<size_t>(block_rows * from.channels));
  int64_t entry = 0;
  bool sound = true;
  content.for_pieces(part, 0, content.size(), [&](const uint8_t* rows, int64_t count) {
    for (int64_t at = 0; at < count && sound;) {
      const int32_t* shifts = move.shifts.data() + entry;
      const bool moves = shifts[0] != 0;
      int64_t n = 1;
      while (n < std::min(block_rows, count - at) && (shifts[n] != 0) == moves) n++;
      const uint8_t* block = rows + at * from.row_bytes();
      sound = first_non_finite_row(from, block, n) == n;
      if (sound && moves) {
        decode(from, block, n, numbers.data());
        rotate(rope, shifts, numbers.data(), n, from.channels / rope.head_dim);
        sound = encode(to, numbers.data(), n, target).ok();
      } else if (sound) {
        sound = transcode(from, to, block, n, target).ok();
      }
      target += n * to.row_bytes();
      entry += n;
      at += n;
    }
  });
  return sound;
}

// Calls body(part) -> whether its numbers are sound, on all threads. Errors: cancelled, out_of_memory, non_finite.
template <typename Body>
Status for_parts(const CacheLayout& layout, const std::atomic<bool>* cancel, const Body& body) {
  const auto parts = static_cast<int64_t>(layout.parts.size());
  std::atomic<int64_t> bad_part = parts;
  std::atomic<bool> no_memory = false;
  ThreadPool::get().parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; part++) {
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return;
      try {
        if (!body(part)) keep_least(bad_part, part);
      } catch (const std::bad_alloc&) {
        no_memory = true;
      }
    }
  });
  if (cancel != nullptr && cancel->load()) return Status::fail(Code::cancelled, "the operation was aborted");
  if (no_memory) return Status::fail(Code::out_of_memory, "no memory to convert keys and values");
  if (const int64_t part = bad_part; part < parts) {
    return Status::fail(Code::non_finite, std::string("the ") + (part % 2 == 0 ? "keys" : "values") + " of layer " +
                                              std::to_string(layout.layer_number(static_cast<size_t>(part / 2))) +
                                              " hold NaN or an infinity, or a number too large for this cache");
  }
  return {};
}

}  // namespace

int64_t CacheLayout::position_bytes() const noexcept {
  int64_t bytes = 0;
  for (const CacheRows& part : parts) bytes += part.row_bytes();
  return bytes;
}

KvContent KvContent::slice(int64_t from, int64_t to) const {
  KvContent out;
  out.layout = layout;
  out.tokens.assign(tokens.begin() + from, tokens.begin() + to);
  out.positions.assign(positions.begin() + from, positions.begin() + to);
  const auto latents_before = std::count(tokens.begin(), tokens.begin() + from, row_entry);
  const auto latents_within = std::count(out.tokens.begin(), out.tokens.end(), row_entry);
  const auto first_row = rows.begin() + latents_before * layout.dimension;
  out.rows.assign(first_row, first_row + latents_within * layout.dimension);
  if (from == 0 && to == size()) out.state = state;
  for_segments(segments, from, to, [&](const KvSegment& segment, int64_t first, int64_t count) {
    KvSegment& piece = out.segments.emplace_back(segment);
    piece.count = count;
    for (size_t part = 0; part < piece.parts.size(); part++) piece.parts[part] += first * layout.parts[part].row_bytes();
  });
  return out;
}

Status KvContent::concat(const KvContent& next, KvContent* out) const {
  if (layout.numbers != next.layout.numbers) return Status::fail(Code::kv_layout, "the two hold other layers");
  if (layout != next.layout) return Status::fail(Code::kv_layout, "the two store keys and values differently; convert one of them first");
  KvContent joined = *this;
  joined.state = {};
  joined.tokens.insert(joined.tokens.end(), next.tokens.begin(), next.tokens.end());
  joined.positions.insert(joined.positions.end(), next.positions.begin(), next.positions.end());
  joined.rows.insert(joined.rows.end(), next.rows.begin(), next.rows.end());
  joined.segments.insert(joined.segments.end(), next.segments.begin(), next.segments.end());
  *out = std::move(joined);
  return {};
}

Status KvContent::select(const std::vector<int32_t>& wanted, KvContent* out) const {
  std::vector<size_t> chosen;
  for (const int32_t number : wanted) {
    size_t layer = chosen.empty() ? 0 : chosen.back() + 1;
    while (layer < static_cast<size_t>(layout.layers()) && layout.layer_number(layer) != number) layer++;
    if (layer == static_cast<size_t>(layout.layers()))
      return Status::fail(Code::kv_layout, "there is no layer " + std::to_string(number) + " in it, or the layers asked for do not ascend");
    chosen.push_back(layer);
  }
  KvContent some = *this;
  if (static_cast<int64_t>(chosen.size()) < layout.layers()) {
    some.state = {};
    some.layout.numbers = wanted;
    const auto choose = [&](auto* parts) {
      std::remove_reference_t<decltype(*parts)> kept;
      for (const size_t layer : chosen) kept.insert(kept.end(), {(*parts)[2 * layer], (*parts)[2 * layer + 1]});
      *parts = std::move(kept);
    };
    choose(&some.layout.parts);
    for (KvSegment& segment : some.segments) choose(&segment.parts);
  }
  *out = std::move(some);
  return {};
}

Status require_all_layers(const CacheLayout& content, int64_t layers) {
  if (content.numbers.empty()) return {};
  std::string missing;
  for (int32_t layer = 0; layer < layers; layer++) {
    if (std::binary_search(content.numbers.begin(), content.numbers.end(), layer)) continue;
    missing += (missing.empty() ? "" : ", ") + std::to_string(layer);
  }
  return Status::fail(Code::kv_layout, "it holds some layers only: it lacks those of the numbers " + missing);
}

Status allocate_segment(const CacheLayout& layout, int64_t count, KvSegment* segment, std::vector<uint8_t*>* writable) {
  const auto part_bytes = [&](const CacheRows& part) {
    return static_cast<size_t>((count * part.row_bytes() + line_bytes - 1) / line_bytes * line_bytes);
  };
  size_t bytes = 0;
  for (const CacheRows& part : layout.parts) bytes += part_bytes(part);
  const std::shared_ptr<uint8_t> memory = large_memory(bytes);
  if (memory == nullptr) return Status::fail(Code::out_of_memory, "no memory for " + std::to_string(bytes) + " bytes of keys and values");
  segment->owner = memory;
  segment->count = count;
  segment->parts.clear();
  writable->clear();
  uint8_t* at = memory.get();
  for (const CacheRows& part : layout.parts) {
    segment->parts.push_back(at);
    writable->push_back(at);
    at += part_bytes(part);
  }
  return {};
}

Status segment_of_state(const CacheLayout& layout, const StateGeometry& geometry, const StateSummary& summary,
                        const std::shared_ptr<const uint8_t>& owner, KvSegment* out) {
  const auto count = static_cast<int64_t>(summary.positions.front().size());
  std::vector<std::vector<size_t>> orders;  // [sections]: the cells by their positions; empty where they lie so
  for (const std::vector<int32_t>& positions : summary.positions) {
    std::vector<size_t>& order = orders.emplace_back();
    if (std::is_sorted(positions.begin(), positions.end())) continue;
    order.resize(positions.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return positions[a] < positions[b]; });
  }
  if (!geometry.transposed_values && std::all_of(orders.begin(), orders.end(), [](const auto& order) { return order.empty(); })) {
    *out = {owner, count, {}};
    for (const size_t offset : summary.parts) out->parts.push_back(owner.get() + offset);
    return {};
  }
  std::vector<size_t> section_of(layout.parts.size() / 2);
  for (size_t section = 0; section < geometry.sections.size(); section++) {
    for (const int32_t layer : geometry.sections[section]) section_of[static_cast<size_t>(layer)] = section;
  }
  std::vector<uint8_t*> targets;
  if (Status status = allocate_segment(layout, count, out, &targets); !status.ok()) return status;
  return for_parts(layout, nullptr, [&](int64_t index) {
    const auto part = static_cast<size_t>(index);
    const CacheRows& rows = layout.parts[part];
    const auto row_bytes = static_cast<size_t>(rows.row_bytes());
    const std::vector<size_t>& order = orders[section_of[part / 2]];
    const uint8_t* from = owner.get() + summary.parts[part];
    std::vector<uint8_t> turned;
    if (part % 2 == 1 && geometry.transposed_values) {
      if (!order.empty()) turned.resize(static_cast<size_t>(count) * row_bytes);
      uint8_t* to = order.empty() ? targets[part] : turned.data();
      if (!transpose({rows.channels, count, row_unit_bytes(rows.format)}, from, to).ok()) return false;
      from = to;
    }
    if (from == targets[part]) return true;
    if (order.empty()) std::memcpy(targets[part], from, static_cast<size_t>(count) * row_bytes);
    for (size_t i = 0; i < order.size(); i++) std::memcpy(targets[part] + i * row_bytes, from + order[i] * row_bytes, row_bytes);
    return true;
  });
}

std::vector<int32_t> positions_from(int32_t first, int64_t count) {
  std::vector<int32_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

Status require_finite(const KvContent& content, const std::atomic<bool>* cancel) {
  return for_parts(content.layout, cancel, [&](int64_t part) {
    const CacheRows& stored = content.layout.parts[static_cast<size_t>(part)];
    bool sound = true;
    content.for_pieces(part, 0, content.size(),
                       [&](const uint8_t* rows, int64_t count) { sound = sound && first_non_finite_row(stored, rows, count) == count; });
    return sound;
  });
}

Status write_rows(const KvContent& content, const CacheLayout& layout, const KeyMove* move, const std::vector<uint8_t*>& targets,
                  bool transposed, const std::atomic<bool>* cancel) {
  if (!same_shape(content.layout, layout))
    return Status::fail(Code::kv_layout, "these keys and values have another number of layers or channels");
  return for_parts(layout, cancel, [&](int64_t part) {
    const bool moves = part % 2 == 0 && move != nullptr && move->ropes[static_cast<size_t>(part / 2)] != nullptr;
    uint8_t* target = targets[static_cast<size_t>(part)];
    if (moves) return write_moved(content, layout, *move, part, target);
    return part % 2 == 1 && transposed ? write_transposed(content, layout, part, target) : write_part(content, layout, part, target);
  });
}

CacheLayout with_format(const CacheLayout& layout, RowFormat format) {
  const bool quantised = format == RowFormat::q8_0 || format == RowFormat::q4_0;
  CacheLayout out = layout;
  for (size_t part = 0; part < out.parts.size(); part++) {
    CacheRows& rows = out.parts[part];
    if (rows.format == format) continue;
    const int32_t head = part % 2 == 0 ? layout.key_head : layout.value_head;
    const int32_t block = head % 64 != 0 ? 0 : part % 2 == 0 ? head & -head : 64;
    rows = {format, rows.channels, quantised ? block : 0};
  }
  return out;
}

Status convert(const KvContent& content, const CacheLayout& layout, const std::atomic<bool>* cancel, KvContent* out) {
  KvContent converted;
  converted.layout = layout;
  converted.tokens = content.tokens;
  converted.positions = content.positions;
  converted.rows = content.rows;
  std::vector<uint8_t*> targets;
  if (Status status = allocate_segment(layout, content.size(), &converted.segments.emplace_back(), &targets); !status.ok()) return status;
  if (Status status = write_rows(content, layout, nullptr, targets, false, cancel); !status.ok()) return status;
  *out = std::move(converted);
  return {};
}

}  // namespace latentwire
