#include "device/content.h"

#include <algorithm>
#include <string>
#include <utility>

namespace latentwire {

std::vector<size_t> device_offsets(const CacheLayout& layout, int64_t count, size_t begin, size_t* bytes) {
  std::vector<size_t> offsets;
  size_t at = begin;
  for (const CacheRows& rows : layout.parts) {
    at = device_aligned(at);
    offsets.push_back(at);
    at += static_cast<size_t>(count * rows.row_bytes());
  }
  *bytes = at;
  return offsets;
}

Status allocate_content(DeviceStream& stream, KvContent entries, DeviceContent* out) {
  size_t bytes = 0;
  const std::vector<size_t> offsets = device_offsets(entries.layout, entries.size(), 0, &bytes);
  if (Status status = stream.allocate(bytes, &out->buffer); !status.ok()) return status;
  out->parts.clear();
  for (const size_t offset : offsets) out->parts.push_back(out->buffer->data() + offset);
  out->entries = std::move(entries);
  out->entries.segments.clear();
  out->entries.state = {};
  return {};
}

Status upload_content(DeviceStream& stream, const KvContent& content, const std::atomic<bool>* cancel, DeviceContent* out) {
  if (Status status = allocate_content(stream, content, out); !status.ok()) return status;
  for (size_t part = 0; part < out->parts.size(); part++) {
    if (Status status = upload_rows(stream, content, part, 0, content.size(), cancel, out->parts[part]); !status.ok()) return status;
  }
  return {};
}

Status upload_rows(DeviceStream& stream, const KvContent& content, size_t part, int64_t first, int64_t count,
                   const std::atomic<bool>* cancel, std::byte* to) {
  const int64_t row_bytes = content.layout.parts[part].row_bytes();
  Status status;
  content.for_pieces(static_cast<int64_t>(part), first, first + count, [&](const uint8_t* rows, int64_t n) {
    const auto bytes = static_cast<size_t>(n * row_bytes);
    if (status.ok()) status = stream.upload(to, rows, bytes, cancel);
    to += bytes;
  });
  return status;
}

Status download_content(DeviceStream& stream, const DeviceContent& content, const std::atomic<bool>* cancel, KvContent* out) {
  KvContent made = content.entries;
  if (made.size() > 0) {
    Status status = download_rows(stream, content, 0, made.size(), cancel, &made.segments.emplace_back());
    if (!status.ok()) return status;
  }
  *out = std::move(made);
  return {};
}

Status download_rows(DeviceStream& stream, const DeviceContent& content, int64_t from, int64_t to, const std::atomic<bool>* cancel,
                     KvSegment* out) {
  const CacheLayout& layout = content.entries.layout;
  std::vector<uint8_t*> targets;
  if (Status status = allocate_segment(layout, to - from, out, &targets); !status.ok()) return status;
  for (size_t part = 0; part < targets.size(); part++) {
    const int64_t row_bytes = layout.parts[part].row_bytes();
    const auto bytes = static_cast<size_t>((to - from) * row_bytes);
    if (Status status = stream.download(targets[part], content.parts[part] + from * row_bytes, bytes, cancel); !status.ok()) return status;
  }
  return {};
}

Status require_finite(DeviceStream& stream, const CacheLayout& layout, const std::vector<std::byte*>& parts, int64_t count) {
  if (count == 0) return {};
  std::shared_ptr<DeviceBuffer> found;
  if (Status status = stream.allocate(sizeof(int64_t), &found); !status.ok()) return status;
  for (std::vector<size_t> group : parts_of_one_size(layout)) {
    std::erase_if(group, [&](size_t part) { return parts[part] == nullptr; });
    if (group.empty()) continue;
    std::vector<const void*> addresses;
    for (const size_t part : group) addresses.push_back(parts[part]);
    const CacheRows& rows = layout.parts[group.front()];
    const latent_finite_args args{addresses.data(),     static_cast<int64_t>(addresses.size()), count, rows.row_bytes(),
                                  found->as<int64_t>(), static_cast<int32_t>(rows.format),      0};
    int64_t first_bad = LATENT_NO_BAD_ROW;
    // every byte of it
    Status status = DeviceStream::call(stream.api().fill, stream.handle(), found->as<void>(), 0x7F, sizeof(int64_t));
    if (status.ok()) status = DeviceStream::call(stream.api().find_non_finite, stream.handle(), &args);
    if (status.ok()) status = stream.download(&first_bad, found->data(), sizeof first_bad, nullptr);
    if (!status.ok()) return status;
    if (first_bad == LATENT_NO_BAD_ROW) continue;
    return non_finite_part(layout, group[static_cast<size_t>(first_bad / count)]);
  }
  return {};
}

Status non_finite_part(const CacheLayout& layout, size_t part) {
  return Status::fail(Code::non_finite, std::string("the ") + (part % 2 == 0 ? "keys" : "values") + " of layer " +
                                            std::to_string(layout.layer_number(part / 2)) + " hold NaN or an infinity");
}

std::vector<std::vector<size_t>> parts_of_one_size(const CacheLayout& layout) {
  std::vector<std::vector<size_t>> groups;
  for (size_t part = 0; part < layout.parts.size(); part++) {
    const auto alike = [&](const std::vector<size_t>& group) {
      const CacheRows& first = layout.parts[group.front()];
      return first.format == layout.parts[part].format && first.channels == layout.parts[part].channels;
    };
    const auto found = std::find_if(groups.begin(), groups.end(), alike);
    if (found == groups.end())
      groups.push_back({part});
    else
      found->push_back(part);
  }
  return groups;
}

}  // namespace latentwire
