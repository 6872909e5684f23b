// Little-endian, without gaps:
//
//   u32 kind (1; 2 for some layers of a model only), u64 entries, u32 latent dimension, u32 channels of a head of keys, u32 of values
//   u32 layers, and if some are left out, layers x u32 number; layers x K|V: { u32 format, u32 channels, u32 rotation }
//   identity, then notes: u32 fields, fields x { u32 length, name, u32 length, value }
//   if there are codecs: u32 codecs, codecs x { u32 length, name }, layers x K|V: u32 number + 1, 0 for none
#include "kv/manifest.h"

#include <algorithm>
#include <cstring>

namespace latentwire {
namespace {

struct FormatNumber {
  RowFormat format;
  uint32_t number;
};
constexpr FormatNumber format_numbers[] = {
    {RowFormat::f32, 0}, {RowFormat::f16, 1}, {RowFormat::q4_0, 2}, {RowFormat::q8_0, 8}, {RowFormat::bf16, 30},
};
// Digests are XXH3-128 in both.
constexpr uint32_t all_layers = 1;
constexpr uint32_t some_layers = 2;
constexpr uint32_t max_fields = 256;
constexpr size_t shown = 100;  // characters of a foreign text in a message

Status cut_off() { return Status::fail(Code::kv_truncated, "the manifest is cut off"); }

Status read_part(ByteReader* reader, CacheRows* part) {
  uint32_t number = 0;
  uint32_t channels = 0;
  uint32_t rotation = 0;
  if (!reader->read(&number) || !reader->read(&channels) || !reader->read(&rotation)) return cut_off();
  const auto* found = std::find_if(std::begin(format_numbers), std::end(format_numbers), [&](const auto& f) { return f.number == number; });
  if (found == std::end(format_numbers)) return Status::fail(Code::kv_layout, "rows of the unknown format " + std::to_string(number));
  if (channels == 0 || channels > max_channels) return Status::fail(Code::kv_limit, "rows of " + std::to_string(channels) + " channels");
  *part = {found->format, static_cast<int32_t>(channels), static_cast<int32_t>(std::min<uint32_t>(rotation, INT32_MAX))};
  if (Status status = check_rows(*part); !status.ok()) return Status::fail(Code::kv_format, status.message);
  return {};
}

// Each codec is of use, and they are numbered in the order of their first use, so that there is one way to write them.
bool in_order(const std::vector<uint32_t>& part_codecs, size_t codecs) {
  uint32_t highest = 0;
  for (const uint32_t number : part_codecs) {
    if (number > highest + 1) return false;
    highest = std::max(highest, number);
  }
  return highest == codecs;
}

Status read_codecs(ByteReader* reader, KvManifest* manifest) {
  uint32_t count = 0;
  if (!reader->read(&count)) return cut_off();
  if (count == 0 || count > manifest->layout.parts.size())
    return Status::fail(Code::kv_limit, "a manifest with " + std::to_string(count) + " codecs");
  for (uint32_t i = 0; i < count; i++) {
    std::string name;
    if (!reader->read_string(&name)) return cut_off();
    if (name.empty() || name.size() > max_codec_name) return Status::fail(Code::kv_limit, "a codec without a name, or with too long a one");
    if (std::find(manifest->codecs.begin(), manifest->codecs.end(), name) != manifest->codecs.end())
      return Status::fail(Code::kv_format, "a codec that the manifest names twice");
    manifest->codecs.push_back(std::move(name));
  }
  manifest->part_codecs.resize(manifest->layout.parts.size());
  for (uint32_t& number : manifest->part_codecs) {
    if (!reader->read(&number)) return cut_off();
  }
  if (!in_order(manifest->part_codecs, count)) return Status::fail(Code::kv_format, "the codecs of the manifest are not in order");
  return {};
}

}  // namespace

uint32_t format_number(RowFormat format) noexcept {
  return std::find_if(std::begin(format_numbers), std::end(format_numbers), [&](const auto& f) { return f.format == format; })->number;
}

Status read_fields(ByteReader* reader, KvManifest::Fields* out) {
  uint32_t count = 0;
  if (!reader->read(&count)) return cut_off();
  if (count > max_fields) return Status::fail(Code::kv_limit, "a manifest with " + std::to_string(count) + " fields");
  for (uint32_t i = 0; i < count; i++) {
    std::string name;
    std::string value;
    if (!reader->read_string(&name) || !reader->read_string(&value)) return cut_off();
    if (!out->empty() && out->back().first >= name) return Status::fail(Code::kv_format, "the fields of the manifest are not in order");
    out->emplace_back(std::move(name), std::move(value));
  }
  return {};
}

void write_fields(const KvManifest::Fields& fields, ByteWriter* writer) {
  writer->put(static_cast<uint32_t>(fields.size()));
  for (const auto& [name, value] : fields) {
    writer->put_string(name);
    writer->put_string(value);
  }
}

std::vector<uint8_t> write_manifest(const KvManifest& manifest) {
  ByteWriter writer;
  writer.put(manifest.layout.numbers.empty() ? all_layers : some_layers);
  writer.put(manifest.entries);
  writer.put(static_cast<uint32_t>(manifest.layout.dimension));
  writer.put(static_cast<uint32_t>(manifest.layout.key_head));
  writer.put(static_cast<uint32_t>(manifest.layout.value_head));
  writer.put(static_cast<uint32_t>(manifest.layout.layers()));
  for (const int32_t number : manifest.layout.numbers) writer.put(static_cast<uint32_t>(number));
  for (const CacheRows& part : manifest.layout.parts) {
    writer.put(format_number(part.format));
    writer.put(static_cast<uint32_t>(part.channels));
    writer.put(static_cast<uint32_t>(part.rotation));
  }
  write_fields(manifest.identity, &writer);
  write_fields(manifest.notes, &writer);
  if (!manifest.codecs.empty()) {
    writer.put(static_cast<uint32_t>(manifest.codecs.size()));
    for (const std::string& name : manifest.codecs) writer.put_string(name);
    for (const uint32_t number : manifest.part_codecs) writer.put(number);
  }
  return writer.take();
}

Status read_manifest(const uint8_t* bytes, size_t size, KvManifest* out) {
  if (size > max_manifest_bytes) return Status::fail(Code::kv_limit, "a manifest of " + std::to_string(size) + " bytes");
  ByteReader reader(bytes, size);
  KvManifest manifest;
  uint32_t kind = 0;
  uint32_t sizes[3] = {};
  uint32_t layers = 0;
  if (!reader.read(&kind)) return cut_off();
  if (kind != all_layers && kind != some_layers)
    return Status::fail(Code::kv_version, "a manifest of the unknown kind " + std::to_string(kind));
  if (!reader.read(&manifest.entries)) return cut_off();
  for (uint32_t& one : sizes) {
    if (!reader.read(&one)) return cut_off();
    if (one == 0 || one > max_channels) return Status::fail(Code::kv_limit, "rows or heads of " + std::to_string(one) + " numbers");
  }
  if (!reader.read(&layers)) return cut_off();
  if (layers == 0 || layers > max_layers) return Status::fail(Code::kv_limit, std::to_string(layers) + " layers");
  manifest.layout.dimension = static_cast<int32_t>(sizes[0]);
  manifest.layout.key_head = static_cast<int32_t>(sizes[1]);
  manifest.layout.value_head = static_cast<int32_t>(sizes[2]);
  for (uint32_t i = 0; i < layers && kind == some_layers; i++) {
    uint32_t number = 0;
    if (!reader.read(&number)) return cut_off();
    std::vector<int32_t>& numbers = manifest.layout.numbers;
    if (number >= static_cast<uint32_t>(max_layers) || (!numbers.empty() && static_cast<int32_t>(number) <= numbers.back()))
      return Status::fail(Code::kv_format, "the numbers of the layers are not in order");
    numbers.push_back(static_cast<int32_t>(number));
  }
  manifest.layout.parts.resize(2 * size_t{layers});
  for (CacheRows& part : manifest.layout.parts) {
    if (Status status = read_part(&reader, &part); !status.ok()) return status;
  }
  for (KvManifest::Fields* fields : {&manifest.identity, &manifest.notes}) {
    if (Status status = read_fields(&reader, fields); !status.ok()) return status;
  }
  if (reader.left() != 0) {
    if (Status status = read_codecs(&reader, &manifest); !status.ok()) return status;
  }
  if (reader.left() != 0) return Status::fail(Code::kv_format, "bytes after the end of the manifest");
  *out = std::move(manifest);
  return {};
}

Status check_manifest(const KvManifest& sent, const KvManifest& local) {
  const auto value_in = [](const KvManifest::Fields& fields, const std::string& name) {
    const auto found = std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return field.first == name; });
    return found == fields.end() ? std::string("absent") : found->second.substr(0, shown);
  };
  const auto& ours = local.identity;
  const auto& theirs = sent.identity;
  if (ours != theirs) {
    const auto [here, there] = std::mismatch(ours.begin(), ours.end(), theirs.begin(), theirs.end());
    const bool only_theirs = here == ours.end() || (there != theirs.end() && there->first < here->first);
    const std::string& name = only_theirs ? there->first : here->first;
    return Status::fail(Code::kv_model_mismatch,
                        "made with another " + name.substr(0, shown) + ": " + value_in(theirs, name) + ", here " + value_in(ours, name));
  }
  const auto same = [](const CacheRows& a, const CacheRows& b) { return a.channels == b.channels; };
  const auto& numbers = sent.layout.numbers;
  if (!numbers.empty() && (numbers.back() >= local.layout.layers() || sent.layout.layers() >= local.layout.layers()))
    return Status::fail(Code::kv_layout, "made with another number of layers");
  // what is left out cannot differ
  std::vector<CacheRows> parts;
  for (size_t layer = 0; layer < static_cast<size_t>(numbers.empty() ? local.layout.layers() : sent.layout.layers()); layer++) {
    const auto number = static_cast<size_t>(sent.layout.layer_number(layer));
    parts.insert(parts.end(), {local.layout.parts[2 * number], local.layout.parts[2 * number + 1]});
  }
  if (sent.layout.dimension != local.layout.dimension || sent.layout.key_head != local.layout.key_head ||
      sent.layout.value_head != local.layout.value_head ||
      !std::equal(parts.begin(), parts.end(), sent.layout.parts.begin(), sent.layout.parts.end(), same))
    return Status::fail(Code::kv_layout, "made with another number of layers, heads or channels");
  return {};
}

}  // namespace latentwire
