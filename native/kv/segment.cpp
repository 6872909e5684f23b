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

constexpr uint32_t magic = 'L' | 'W' << 8 | 'K' << 16 | 'S' << 24;
constexpr uint32_t version = 1;
constexpr size_t head_bytes = 40;
constexpr size_t line_bytes = 64;

constexpr uint64_t up_to_line(uint64_t bytes) { return (bytes + line_bytes - 1) / line_bytes * line_bytes; }

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

// No segment that can be used here is larger: rows of f32, a latent in every entry.
uint64_t most_bytes(const KvExpectation& expected) {
  CacheLayout widest = expected.manifest.layout;
  for (CacheRows& rows : widest.parts) rows = {RowFormat::f32, rows.channels, 0};
  const auto entries = static_cast<uint64_t>(expected.max_entries);
  return head_bytes + max_manifest_bytes + entries * (8 + 4 * static_cast<uint64_t>(widest.dimension)) + line_bytes +
         state_bytes(geometry_of(widest), entries);
}

template <typename T>
bool copy(ByteReader* reader, uint64_t count, std::vector<T>* out) {
  if (!reader->fits(count, sizeof(T))) return false;
  out->resize(static_cast<size_t>(count));
  if (count > 0) std::memcpy(out->data(), reader->take(count * sizeof(T)), static_cast<size_t>(count) * sizeof(T));
  return true;
}

Status malformed(const std::string& what) { return Status::fail(Code::kv_format, "a shared segment " + what); }
Status cut_off() { return Status::fail(Code::kv_truncated, "a shared segment is cut off"); }

Status share(const KvContent& content, KvManifest manifest, const SegmentNonce& nonce, const std::atomic<bool>* cancel,
             std::shared_ptr<const SealedMemory>* out) {
  manifest.layout = content.layout;
  manifest.entries = static_cast<uint64_t>(content.size());
  const std::vector<uint8_t> fields = write_manifest(manifest);
  const StateGeometry geometry = geometry_of(content.layout);
  const uint64_t before = head_bytes + fields.size() + content.tokens.size() * 8 + content.rows.size() * 4;
  std::array<uint8_t, head_bytes> first{};
  uint8_t* at = first.data();
  const auto put = [&at](const auto& value) {
    std::memcpy(at, &value, sizeof value);
    at += sizeof value;
  };
  put(magic);
  put(version);
  put(nonce);
  put(up_to_line(before) + state_bytes(geometry, manifest.entries));
  put(static_cast<uint64_t>(fields.size()));
  const std::vector<uint8_t> padding(static_cast<size_t>(up_to_line(before) - before));
  const StateHeads heads = state_heads(geometry, content.positions);

  std::vector<std::span<const uint8_t>> pieces{first, fields};
  const auto add = [&](const void* bytes, size_t size) { pieces.emplace_back(static_cast<const uint8_t*>(bytes), size); };
  add(content.tokens.data(), content.tokens.size() * 4);
  add(content.positions.data(), content.positions.size() * 4);
  add(content.rows.data(), content.rows.size() * 4);
  pieces.emplace_back(padding);
  for (size_t i = 0; i < heads.bytes.size(); i++) {
    pieces.emplace_back(heads.bytes[i]);
    if (i == heads.parts.size()) break;
    const auto part = static_cast<int64_t>(heads.parts[i]);
    const int64_t row_bytes = content.layout.parts[heads.parts[i]].row_bytes();
    content.for_pieces(part, 0, content.size(),
                       [&](const uint8_t* rows, int64_t count) { add(rows, static_cast<size_t>(count * row_bytes)); });
  }
  return SealedMemory::make(pieces, cancel, out);
}

Status read(const std::shared_ptr<const uint8_t>& bytes, size_t size, const SegmentNonce& nonce, const KvExpectation& expected,
            std::shared_ptr<const KvContent>* content, KvManifest* manifest) {
  ByteReader reader(bytes.get(), size);
  uint32_t first = 0;
  uint32_t made_by = 0;
  SegmentNonce drawn{};
  uint64_t whole = 0;
  uint64_t manifest_bytes = 0;
  if (!reader.read(&first) || !reader.read(&made_by) || !reader.read(&drawn) || !reader.read(&whole) || !reader.read(&manifest_bytes))
    return cut_off();
  if (first != magic || drawn != nonce) return Status::fail(Code::kv_unreachable, "the shared memory is not the segment that was meant");
  if (made_by != version)
    return Status::fail(Code::kv_version, "a shared segment of version " + std::to_string(made_by) + "; this package reads version " +
                                              std::to_string(version));
  if (whole != size) return whole > size ? cut_off() : malformed("goes on after its end");
  const uint8_t* fields = reader.take(manifest_bytes);
  if (fields == nullptr) return cut_off();
  KvManifest sent;
  if (Status status = read_manifest(fields, static_cast<size_t>(manifest_bytes), &sent); !status.ok()) return status;
  if (Status status = check_expected(sent, expected); !status.ok()) return status;

  auto made = std::make_shared<KvContent>();
  made->layout = sent.layout;
  if (!copy(&reader, sent.entries, &made->tokens) || !copy(&reader, sent.entries, &made->positions)) return cut_off();
  const auto latents = static_cast<uint64_t>(std::count(made->tokens.begin(), made->tokens.end(), row_entry));
  if (!copy(&reader, latents * static_cast<uint64_t>(sent.layout.dimension), &made->rows)) return cut_off();
  if (Status status = check_entries(made->tokens, made->positions, made->rows, expected); !status.ok()) return status;

  const auto state = static_cast<size_t>(up_to_line(reader.at()));
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
