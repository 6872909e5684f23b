// Little-endian, without gaps:
//
//   u32 latent dimension, u32 layers, layers x K|V: { u32 format, u32 channels, u32 rotation }
//   identity, then notes: u32 fields, fields x { u32 length, name, u32 length, value }
#include "kv/manifest.h"

#include <algorithm>
#include <cstring>

#include "kv/bytes.h"

namespace latentwire {
namespace {

// As in ggml_type, which is stable: files depend on it.
struct FormatNumber {
  RowFormat format;
  uint32_t number;
};
constexpr FormatNumber format_numbers[] = {
    {RowFormat::f32, 0}, {RowFormat::f16, 1}, {RowFormat::q4_0, 2}, {RowFormat::q8_0, 8}, {RowFormat::bf16, 30},
};
constexpr uint32_t max_fields = 256;

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

}  // namespace

std::vector<uint8_t> write_manifest(const KvManifest& manifest) {
  ByteWriter writer;
  writer.put(static_cast<uint32_t>(manifest.layout.dimension));
  writer.put(static_cast<uint32_t>(manifest.layout.layers()));
  for (const CacheRows& part : manifest.layout.parts) {
    const auto* found =
        std::find_if(std::begin(format_numbers), std::end(format_numbers), [&](const auto& f) { return f.format == part.format; });
    writer.put(found->number);
    writer.put(static_cast<uint32_t>(part.channels));
    writer.put(static_cast<uint32_t>(part.rotation));
  }
  write_fields(manifest.identity, &writer);
  write_fields(manifest.notes, &writer);
  return writer.take();
}

Status read_manifest(const uint8_t* bytes, size_t size, KvManifest* out) {
  if (size > max_manifest_bytes) return Status::fail(Code::kv_limit, "a manifest of " + std::to_string(size) + " bytes");
  ByteReader reader(bytes, size);
  KvManifest manifest;
  uint32_t dimension = 0;
  uint32_t layers = 0;
  if (!reader.read(&dimension) || !reader.read(&layers)) return cut_off();
  if (dimension == 0 || dimension > max_channels || layers == 0 || layers > max_layers)
    return Status::fail(Code::kv_limit, std::to_string(layers) + " layers, latents of " + std::to_string(dimension) + " numbers");
  manifest.layout.dimension = static_cast<int32_t>(dimension);
  manifest.layout.parts.resize(2 * size_t{layers});
  for (CacheRows& part : manifest.layout.parts) {
    if (Status status = read_part(&reader, &part); !status.ok()) return status;
  }
  for (KvManifest::Fields* fields : {&manifest.identity, &manifest.notes}) {
    if (Status status = read_fields(&reader, fields); !status.ok()) return status;
  }
  if (reader.left() != 0) return Status::fail(Code::kv_format, "bytes after the end of the manifest");
  *out = std::move(manifest);
  return {};
}

Status check_manifest(const KvManifest& sent, const KvManifest& local) {
  const auto value_in = [](const KvManifest::Fields& fields, const std::string& name) {
    const auto found = std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return field.first == name; });
    return found == fields.end() ? std::string("none") : found->second;
  };
  for (const KvManifest::Fields* fields : {&local.identity, &sent.identity}) {
    for (const auto& [name, ignored] : *fields) {
      const std::string theirs = value_in(sent.identity, name);
      const std::string ours = value_in(local.identity, name);
      if (theirs != ours) return Status::fail(Code::kv_model_mismatch, "made with another " + name + ": " + theirs + ", here " + ours);
    }
  }
  const auto same = [](const CacheRows& a, const CacheRows& b) { return a.channels == b.channels; };
  const auto& parts = local.layout.parts;
  if (sent.layout.dimension != local.layout.dimension ||
      !std::equal(parts.begin(), parts.end(), sent.layout.parts.begin(), sent.layout.parts.end(), same))
    return Status::fail(Code::kv_layout, "made with another number of layers or channels");
  return {};
}

}  // namespace latentwire
