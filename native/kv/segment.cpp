#include "kv/segment.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "kv/bytes.h"
#include "kv/llama_state.h"

namespace latentwire {
namespace {

constexpr SegmentForm host_form{'L' | 'W' << 8 | 'K' << 16 | 'S' << 24, 64};
constexpr uint32_t version = 1;

constexpr uint64_t up_to(uint64_t bytes, uint64_t alignment) { return (bytes + alignment - 1) / alignment * alignment; }

StateGeometry geometry_of(const CacheLayout& layout) {
  StateGeometry geometry;
  for (size_t part = 0; part < layout.parts.size(); part += 2) {
    const CacheRows& keys = layout.parts[part];
    const CacheRows& values = layout.parts[part + 1];
    geometry.layers.push_back({static_cast<int32_t>(format_number(keys.format)), static_cast<uint64_t>(keys.row_bytes()),
                               static_cast<int32_t>(format_number(values.format)), static_cast<uint64_t>(values.row_bytes())});
  }
  return geometry;
}

uint64_t most_bytes(const KvExpectation& expected) {
  return most_head_bytes(expected, host_form) +
         state_bytes(geometry_of(widest_layout(expected)), static_cast<uint64_t>(expected.max_entries));
}

Status malformed(const std::string& what) { return Status::fail(Code::kv_format, "a shared segment " + what); }
Status cut_off() { return Status::fail(Code::kv_truncated, "a shared segment is cut off"); }

Status share(const KvContent& content, KvManifest manifest, const SegmentNonce& nonce, const std::atomic<bool>* cancel,
             std::shared_ptr<const SealedMemory>* out) {
  const StateGeometry geometry = geometry_of(content.layout);
  const std::vector<uint8_t> head =
      write_segment_head(content, std::move(manifest), nonce, host_form, state_bytes(geometry, static_cast<uint64_t>(content.size())));
  const StateHeads heads = state_heads(geometry, content.positions);
  std::vector<std::span<const uint8_t>> pieces{head};
  for (size_t i = 0; i < heads.bytes.size(); i++) {
    pieces.emplace_back(heads.bytes[i]);
    if (i == heads.parts.size()) break;
    const auto part = static_cast<int64_t>(heads.parts[i]);
    const int64_t row_bytes = content.layout.parts[heads.parts[i]].row_bytes();
    content.for_pieces(part, 0, content.size(),
                       [&](const uint8_t* rows, int64_t count) { pieces.emplace_back(rows, static_cast<size_t>(count * row_bytes)); });
  }
  return SealedMemory::make(pieces, cancel, out);
}

Status read(const std::shared_ptr<const uint8_t>& bytes, size_t size, const SegmentNonce& nonce, const KvExpectation& expected,
            std::shared_ptr<const KvContent>* content, KvManifest* manifest) {
  if (size < segment_first_bytes) return cut_off();
  uint64_t whole = 0;
  uint64_t manifest_bytes = 0;
  if (Status status = read_segment_first(bytes.get(), nonce, host_form, &whole, &manifest_bytes); !status.ok()) return status;
  if (whole != size) return whole > size ? cut_off() : malformed("goes on after its end");
  auto made = std::make_shared<KvContent>();
  KvManifest sent;
  size_t state = 0;
  if (Status status = read_segment_head(bytes.get(), size, nonce, host_form, expected, made.get(), &sent, &state); !status.ok())
    return status;
  const StateGeometry geometry = geometry_of(sent.layout);
  const uint64_t rest = state_bytes(geometry, sent.entries);
  if (state > size || size - state < rest) return cut_off();
  if (size - state > rest) return malformed("has other bytes than its rows");
  const uint8_t* at = bytes.get() + state;
  KvSegment rows{bytes, made->size(), {}};
  if (!begins_as(geometry, made->positions, at, &rows.parts)) return malformed("has another layout than it announces");
  made->segments.push_back(std::move(rows));
  made->state = {std::shared_ptr<const uint8_t>(bytes, at), static_cast<size_t>(rest), std::make_shared<const StateGeometry>(geometry)};
  *content = std::move(made);
  *manifest = std::move(sent);
  return {};
}

Status no_memory() { return Status::fail(Code::out_of_memory, "no memory for what a shared segment needs besides its rows"); }

}  // namespace

std::vector<uint8_t> write_segment_head(const KvContent& content, KvManifest manifest, const SegmentNonce& nonce, const SegmentForm& form,
                                        uint64_t rows) {
  manifest.layout = content.layout;
  manifest.entries = static_cast<uint64_t>(content.size());
  const std::vector<uint8_t> fields = write_manifest(manifest);
  const uint64_t before = segment_first_bytes + fields.size() + content.tokens.size() * 8 + content.rows.size() * 4;
  ByteWriter writer;
  writer.put(form.mark);
  writer.put(version);
  writer.put(nonce);
  writer.put(up_to(before, form.alignment) + rows);
  writer.put(static_cast<uint64_t>(fields.size()));
  writer.put_all(fields);
  writer.put_all(content.tokens);
  writer.put_all(content.positions);
  writer.put_all(content.rows);
  std::vector<uint8_t> bytes = writer.take();
  bytes.resize(static_cast<size_t>(up_to(before, form.alignment)));
  return bytes;
}

Status read_segment_first(const uint8_t* bytes, const SegmentNonce& nonce, const SegmentForm& form, uint64_t* whole,
                          uint64_t* manifest_bytes) {
  ByteReader reader(bytes, segment_first_bytes);
  uint32_t mark = 0;
  uint32_t made_by = 0;
  SegmentNonce drawn{};
  if (!reader.read(&mark) || !reader.read(&made_by) || !reader.read(&drawn) || !reader.read(whole) || !reader.read(manifest_bytes))
    return cut_off();
  if (mark != form.mark || drawn != nonce) return Status::fail(Code::kv_unreachable, "the shared memory is not the segment that was meant");
  if (made_by == version) return {};
  return Status::fail(Code::kv_version,
                      "a shared segment of version " + std::to_string(made_by) + "; this package reads version " + std::to_string(version));
}

Status read_segment_head(const uint8_t* bytes, size_t size, const SegmentNonce& nonce, const SegmentForm& form,
                         const KvExpectation& expected, KvContent* content, KvManifest* manifest, size_t* rows) {
  if (size < segment_first_bytes) return cut_off();
  uint64_t whole = 0;
  uint64_t manifest_bytes = 0;
  if (Status status = read_segment_first(bytes, nonce, form, &whole, &manifest_bytes); !status.ok()) return status;
  ByteReader reader(bytes, size);
  reader.take(segment_first_bytes);
  const uint8_t* fields = reader.take(manifest_bytes);
  if (fields == nullptr) return cut_off();
  if (Status status = read_manifest(fields, static_cast<size_t>(manifest_bytes), manifest); !status.ok()) return status;
  if (Status status = check_expected(*manifest, expected); !status.ok()) return status;
  content->layout = manifest->layout;
  if (!reader.read_all(manifest->entries, &content->tokens) || !reader.read_all(manifest->entries, &content->positions)) return cut_off();
  const auto latents = static_cast<uint64_t>(std::count(content->tokens.begin(), content->tokens.end(), row_entry));
  if (!reader.read_all(latents * static_cast<uint64_t>(manifest->layout.dimension), &content->rows)) return cut_off();
  *rows = static_cast<size_t>(up_to(reader.at(), form.alignment));
  return check_entries(content->tokens, content->positions, content->rows, expected);
}

CacheLayout widest_layout(const KvExpectation& expected) {
  CacheLayout widest = expected.manifest.layout;
  for (CacheRows& part : widest.parts) part = {RowFormat::f32, part.channels, 0};
  return widest;
}

uint64_t most_head_bytes(const KvExpectation& expected, const SegmentForm& form) {
  const auto entries = static_cast<uint64_t>(expected.max_entries);
  return segment_first_bytes + max_manifest_bytes + entries * (8 + 4 * static_cast<uint64_t>(expected.manifest.layout.dimension)) +
         form.alignment;
}

Status share_content(const KvContent& content, KvManifest manifest, const SegmentNonce& nonce, const std::atomic<bool>* cancel,
                     std::shared_ptr<const SealedMemory>* out) {
  try {
    return share(content, std::move(manifest), nonce, cancel, out);
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

Status open_content(const SealedName& name, const SegmentNonce& nonce, const KvExpectation& expected,
                    std::shared_ptr<const KvContent>* content, KvManifest* manifest) {
  try {
    std::shared_ptr<const uint8_t> bytes;
    if (Status status = map_sealed(name, most_bytes(expected), &bytes); !status.ok()) return status;
    return read(bytes, static_cast<size_t>(name.bytes), nonce, expected, content, manifest);
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

Status read_segment(const std::shared_ptr<const uint8_t>& bytes, size_t size, const SegmentNonce& nonce, const KvExpectation& expected,
                    std::shared_ptr<const KvContent>* content, KvManifest* manifest) {
  try {
    return read(bytes, size, nonce, expected, content, manifest);
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

}  // namespace latentwire
