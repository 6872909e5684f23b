#include "device/segment.h"

#include <array>
#include <new>
#include <string>
#include <utility>

namespace latentwire {
namespace {

constexpr SegmentForm device_form{'L' | 'W' << 8 | 'K' << 16 | 'D' << 24, 256};

uint64_t rows_bytes(const CacheLayout& layout, int64_t count) {
  size_t bytes = 0;
  device_offsets(layout, count, 0, &bytes);
  return bytes;
}

Status copy_on(DeviceStream& stream, void* to, const void* from, uint64_t bytes) {
  return bytes == 0 ? Status{} : DeviceStream::call(stream.api().copy, stream.handle(), to, from, bytes, latent_on_device);
}

Status cut_off() { return Status::fail(Code::kv_truncated, "a shared segment is cut off"); }

// The head of a segment on the device, in two steps: how long it is follows from the manifest, which is bounded, as is what follows from
// it.
Status read_head(DeviceStream& stream, const DeviceBuffer& memory, const SegmentNonce& nonce, const KvExpectation& expected,
                 KvContent* content, KvManifest* manifest, size_t* rows) {
  std::vector<uint8_t> head(segment_first_bytes);
  const auto fetch = [&](uint64_t bytes) {
    if (bytes > memory.bytes()) return cut_off();
    head.resize(static_cast<size_t>(bytes));
    return stream.download(head.data(), memory.data(), head.size(), nullptr);
  };
  uint64_t whole = 0;
  uint64_t manifest_bytes = 0;
  Status status = fetch(segment_first_bytes);
  if (status.ok()) status = read_segment_first(head.data(), nonce, device_form, &whole, &manifest_bytes);
  if (!status.ok()) return status;
  if (whole != memory.bytes() || manifest_bytes > max_manifest_bytes) return cut_off();
  KvManifest sent;
  status = fetch(segment_first_bytes + manifest_bytes);
  if (status.ok()) status = read_manifest(head.data() + segment_first_bytes, static_cast<size_t>(manifest_bytes), &sent);
  if (status.ok()) status = check_expected(sent, expected);
  if (!status.ok()) return status;
  const uint64_t after = rows_bytes(sent.layout, static_cast<int64_t>(sent.entries));
  if (after > whole || whole - after > most_head_bytes(expected, device_form)) return cut_off();
  status = fetch(whole - after);
  if (status.ok()) status = read_segment_head(head.data(), head.size(), nonce, device_form, expected, content, manifest, rows);
  if (status.ok() && *rows != head.size()) return Status::fail(Code::kv_format, "a shared segment has other bytes than its rows");
  return status;
}

}  // namespace

Status OpenedMemory::open(DeviceStream& stream, const latent_shared_handle& handle, std::unique_ptr<OpenedMemory>* out) {
  std::unique_ptr<OpenedMemory> made(new OpenedMemory(stream));
  if (Status status = DeviceStream::call(stream.api().share_open, stream.device(), &handle, &made->data_, &made->bytes_); !status.ok())
    return status;
  *out = std::move(made);
  return {};
}

OpenedMemory::~OpenedMemory() {
  if (data_ != nullptr) static_cast<void>(DeviceStream::call(stream_.api().share_close, data_));
}

Status share_on_device(DeviceStream& stream, const DeviceContent& content, const KvManifest& manifest, const SegmentNonce& nonce,
                       latent_shared_handle* handle, std::shared_ptr<DeviceBuffer>* out) {
  const KvContent& entries = content.entries;
  const std::vector<uint8_t> head = write_segment_head(entries, manifest, nonce, device_form, rows_bytes(entries.layout, entries.size()));
  size_t bytes = 0;
  const std::vector<size_t> offsets = device_offsets(entries.layout, entries.size(), head.size(), &bytes);
  Status status = stream.allocate_shared(bytes, handle, out);
  if (status.ok()) status = stream.upload((*out)->data(), head.data(), head.size(), nullptr);
  for (size_t part = 0; part < offsets.size() && status.ok(); part++) {
    const auto part_bytes = static_cast<uint64_t>(entries.size() * entries.layout.parts[part].row_bytes());
    status = copy_on(stream, (*out)->data() + offsets[part], content.parts[part], part_bytes);
  }
  // the content may be of another stream, and go there when this returns
  return status.ok() ? DeviceStream::call(stream.api().stream_wait, stream.handle()) : status;
}

Status open_on_device(DeviceStream& stream, const latent_shared_handle& handle, const SegmentNonce& nonce, const KvExpectation& expected,
                      DeviceContent* content, KvManifest* manifest) {
  std::shared_ptr<DeviceBuffer> memory;
  {
    std::unique_ptr<OpenedMemory> opened;
    Status status = OpenedMemory::open(stream, handle, &opened);
    if (status.code == Code::invalid_argument) status.code = Code::kv_unreachable;
    if (!status.ok()) return status;
    // memory that is opened may be longer than what was put into it
    uint64_t whole = 0;
    uint64_t manifest_bytes = 0;
    std::array<uint8_t, segment_first_bytes> first{};
    if (opened->bytes() < first.size()) return cut_off();
    status = stream.download(first.data(), static_cast<const std::byte*>(opened->data()), first.size(), nullptr);
    if (status.ok()) status = read_segment_first(first.data(), nonce, device_form, &whole, &manifest_bytes);
    if (!status.ok()) return status;
    if (whole < first.size() || whole > opened->bytes()) return cut_off();
    if (whole > most_head_bytes(expected, device_form) + rows_bytes(widest_layout(expected), expected.max_entries))
      return Status::fail(Code::kv_limit, "a shared segment of " + std::to_string(whole) + " bytes, more than this context holds");
    status = stream.allocate(static_cast<size_t>(whole), &memory);
    if (status.ok()) status = copy_on(stream, memory->data(), opened->data(), whole);
    // it is closed here, so the copy must have ended
    if (status.ok()) status = DeviceStream::call(stream.api().stream_wait, stream.handle());
    if (!status.ok()) return status;
  }
  try {
    DeviceContent made;
    size_t rows = 0;
    if (Status status = read_head(stream, *memory, nonce, expected, &made.entries, manifest, &rows); !status.ok()) return status;
    size_t bytes = 0;
    for (const size_t offset : device_offsets(made.entries.layout, made.entries.size(), rows, &bytes))
      made.parts.push_back(memory->data() + offset);
    made.buffer = std::move(memory);
    *content = std::move(made);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for the log of a shared segment");
  }
}

}  // namespace latentwire
