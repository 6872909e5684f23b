// Content in memory of a device that processes of one host share: the head of a segment (kv/segment.h), then the rows of each part at a
// multiple of 256. Nobody seals such memory, so the receiver looks at a copy of its own.
#pragma once

#include <atomic>

#include "device/content.h"
#include "kv/segment.h"

namespace latentwire {

// Memory of another thread or process, open as long as this lives.
class OpenedMemory {
 public:
  // Error: invalid_argument for a handle of nothing.
  static Status open(DeviceStream& stream, const latent_shared_handle& handle, std::unique_ptr<OpenedMemory>* out);
  ~OpenedMemory();
  OpenedMemory(const OpenedMemory&) = delete;
  OpenedMemory& operator=(const OpenedMemory&) = delete;

  const void* data() const noexcept { return data_; }
  uint64_t bytes() const noexcept { return bytes_; }

 private:
  explicit OpenedMemory(DeviceStream& stream) : stream_(stream) {}

  DeviceStream& stream_;
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Both are for the issuing thread of a stream.

// Waits. Error: out_of_memory.
Status share_on_device(DeviceStream& stream, const DeviceContent& content, const KvManifest& manifest, const SegmentNonce& nonce,
                       latent_shared_handle* handle, std::shared_ptr<DeviceBuffer>* out);

// Waits. All but the numbers is checked. Errors: those of read_segment; kv_unreachable also for a handle of nothing.
Status open_on_device(DeviceStream& stream, const latent_shared_handle& handle, const SegmentNonce& nonce, const KvExpectation& expected,
                      DeviceContent* content, KvManifest* manifest);

}  // namespace latentwire
