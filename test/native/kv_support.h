// Contents and streams for the tests and the fuzz target of native/kv.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kv/reader.h"
#include "kv/writer.h"

namespace latentwire::test {

inline CacheLayout layout_of(int64_t layers, RowFormat format, int32_t channels = 64, int32_t rotation = 0) {
  CacheLayout layout;
  layout.dimension = 4;
  layout.key_head = layout.value_head = 32;
  layout.parts.assign(static_cast<size_t>(2 * layers), CacheRows{format, channels, rotation});
  return layout;
}

// Numbers from -1 to 1 that any seed gives alike on every platform.
inline float number_of(uint32_t seed) {
  seed = seed * 2654435761U + 12345U;
  seed ^= seed >> 15;
  return static_cast<float>(static_cast<int32_t>(seed * 2246822519U >> 8) - (1 << 23)) / static_cast<float>(1 << 23);
}

// f32 rows of a part, [n, channels].
inline std::vector<float> numbers_of(const CacheLayout& layout, size_t part, int64_t n) {
  std::vector<float> numbers(static_cast<size_t>(n * layout.parts[part].channels));
  for (size_t i = 0; i < numbers.size(); i++) numbers[i] = number_of(static_cast<uint32_t>(part * 1'000'003 + i));
  return numbers;
}

// Entries 0 to n, every fifth a latent.
inline KvContent content_of(const CacheLayout& layout, int64_t n, int32_t first_position = 0) {
  KvContent content;
  content.layout = layout;
  content.positions = positions_from(first_position, n);
  for (int64_t i = 0; i < n; i++) {
    content.tokens.push_back(i % 5 == 4 ? row_entry : static_cast<int32_t>(i % 97));
    for (int32_t j = 0; content.tokens.back() == row_entry && j < layout.dimension; j++)
      content.rows.push_back(number_of(static_cast<uint32_t>(7'000'000 + i * 16 + j)));
  }
  std::vector<uint8_t*> parts;
  KvSegment segment;
  if (!allocate_segment(layout, n, &segment, &parts).ok()) std::abort();
  for (size_t part = 0; part < parts.size(); part++) {
    if (!encode(layout.parts[part], numbers_of(layout, part, n).data(), n, parts[part]).ok()) std::abort();
  }
  content.segments.push_back(std::move(segment));
  return content;
}

inline KvManifest manifest_of(const CacheLayout& layout, int64_t entries = 0) {
  KvManifest manifest;
  manifest.layout = layout;
  manifest.entries = static_cast<uint64_t>(entries);
  manifest.identity = {{"architecture", "test"}, {"weights", "0123456789abcdef"}};
  manifest.notes = {{"label", "from a test"}};
  return manifest;
}

inline KvExpectation expectation_of(const CacheLayout& layout, int64_t max_entries = 2048, bool sealed = false) {
  return {manifest_of(layout), 97, max_entries, sealed, {}};
}

inline std::vector<uint8_t> record(KvWriter& writer, int64_t number) {
  std::vector<uint8_t> bytes(static_cast<size_t>(writer.record_bytes(number)));
  int64_t written = 0;
  if (!writer.write(number, bytes.data(), &written).ok()) std::abort();
  bytes.resize(static_cast<size_t>(written));
  return bytes;
}

inline std::vector<uint8_t> stream_of(const KvContent& content, const PartCodecs& codecs = {}) {
  KvWriter writer(std::make_shared<const KvContent>(content), manifest_of(content.layout), false, content.size(), codecs);
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < writer.records(); i++) {
    const std::vector<uint8_t> one = record(writer, i);
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  return bytes;
}

inline std::vector<uint8_t> rows_of(const KvContent& content, int64_t part) {
  std::vector<uint8_t> rows;
  const int64_t row_bytes = content.layout.parts[static_cast<size_t>(part)].row_bytes();
  content.for_pieces(part, 0, content.size(),
                     [&](const uint8_t* at, int64_t count) { rows.insert(rows.end(), at, at + count * row_bytes); });
  return rows;
}

}  // namespace latentwire::test
