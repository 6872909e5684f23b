// What a sequence holds, with its keys and values in the memory of a device: the log stays on the host.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "device/stream.h"
#include "kv/content.h"

namespace latentwire {

// Bytes up to where a backend's memory may begin: the next multiple of 256.
constexpr size_t device_aligned(size_t bytes) noexcept { return (bytes + 255) / 256 * 256; }

struct DeviceContent {
  KvContent entries;  // without segments
  std::shared_ptr<DeviceBuffer> buffer;
  std::vector<std::byte*> parts;  // [2 * layers], each [n, row bytes] in the buffer, at multiples of 256

  // On the device.
  size_t bytes() const noexcept { return buffer == nullptr ? 0 : buffer->bytes(); }
};

// Where the parts of `count` rows lie in one buffer, [2 * layers] offsets from `begin` on, and the bytes of it all.
std::vector<size_t> device_offsets(const CacheLayout& layout, int64_t count, size_t begin, size_t* bytes);

// --- For the issuing thread of a stream ------------------------------------------------------------------------------------------------

// Memory for the rows of `entries`, which gives its own away. Error: out_of_memory.
Status allocate_content(DeviceStream& stream, KvContent entries, DeviceContent* out);
// Copies between host and device. Errors: out_of_memory, cancelled.
Status upload_content(DeviceStream& stream, const KvContent& content, const std::atomic<bool>* cancel, DeviceContent* out);
// Rows of `count` entries of one part, from `first` on.
Status upload_rows(DeviceStream& stream, const KvContent& content, size_t part, int64_t first, int64_t count,
                   const std::atomic<bool>* cancel, std::byte* to);
Status download_content(DeviceStream& stream, const DeviceContent& content, const std::atomic<bool>* cancel, KvContent* out);
// Rows of entries [from, to).
Status download_rows(DeviceStream& stream, const DeviceContent& content, int64_t from, int64_t to, const std::atomic<bool>* cancel,
                     KvSegment* out);
// Waits. Error: non_finite, which names a layer whose rows hold NaN or an infinity. `parts`: [2 * layers], each [count, row bytes], nullptr
// for those that are left out.
Status require_finite(DeviceStream& stream, const CacheLayout& layout, const std::vector<std::byte*>& parts, int64_t count);

// Error non_finite, which names the layer.
Status non_finite_part(const CacheLayout& layout, size_t part);

// Indices of parts whose rows are of one size, for launches that take many parts.
std::vector<std::vector<size_t>> parts_of_one_size(const CacheLayout& layout);

}  // namespace latentwire
