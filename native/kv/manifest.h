// The head of a KV stream: what the numbers that follow mean, how they are stored, and who says so. A receiver compares the identity field
// by field and refuses at the first difference; how rows are stored may differ, then they are converted.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kv/bytes.h"
#include "kv/content.h"

namespace latentwire {

struct KvManifest {
  using Fields = std::vector<std::pair<std::string, std::string>>;

  CacheLayout layout;
  uint64_t entries = 0;
  Fields identity;  // sorted by name, unique: model weights, architecture, rotation of keys, ... both sides must have the same
  Fields notes;     // what does not decide about use, e.g. a label of the sender
  // Codecs that tiles travel in, each of use to a part, in the order of their first use; and which of them each part travels in, [2 *
  // layers] of its number + 1 and 0 for none. Both are empty where all tiles are rows as they are stored.
  std::vector<std::string> codecs;
  std::vector<uint32_t> part_codecs;

  bool operator==(const KvManifest&) const = default;
};

// Bounds of what is read: a manifest beyond them is refused with kv_limit before anything of that size is allocated.
constexpr size_t max_manifest_bytes = size_t{1} << 20;
constexpr int64_t max_layers = 1024;
constexpr int64_t max_channels = int64_t{1} << 20;
constexpr size_t max_codec_name = 100;

// u32 fields, fields x { u32 length, name, u32 length, value }; read, they are in order and unique. Errors: kv_truncated, kv_format,
// kv_limit.
void write_fields(const KvManifest::Fields& fields, ByteWriter* writer);
Status read_fields(ByteReader* reader, KvManifest::Fields* out);

// What stands for a format of rows in manifests and in states of llama.cpp: its ggml_type, which is stable.
uint32_t format_number(RowFormat format) noexcept;

std::vector<uint8_t> write_manifest(const KvManifest& manifest);

// Errors: kv_truncated, kv_format, kv_limit. `out` is only written on success.
Status read_manifest(const uint8_t* bytes, size_t size, KvManifest* out);

// Whether content that `sent` describes, which may be of some layers only, means the same where `local` holds. Errors: kv_model_mismatch,
// which names the first field that differs; kv_layout (another number of layers or channels).
Status check_manifest(const KvManifest& sent, const KvManifest& local);

}  // namespace latentwire
