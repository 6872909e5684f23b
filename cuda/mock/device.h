// The imagined device of the mock backend: memory that only work on a stream may touch, and faults on demand. Its addresses are no
// addresses of the process, so whoever reads device memory on the host crashes here too, and work that leaves its allocations, or uses
// one that was released, loses the device as an illegal address does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>

namespace latentwire::mock {

// What a kernel throws at a bad address.
struct IllegalAddress : std::exception {
  const char* what() const noexcept override { return "an illegal memory access was encountered"; }
};

// Memory of the device, full of 0xA5; nullptr if no `bytes` are left of what LATENTWIRE_MOCK_BYTES grants (1 GiB).
void* allocate(uint64_t bytes);
// False for what is not allocated.
bool release(void* memory);
// Of the allocation that begins there, or 0.
uint64_t allocated_bytes(const void* memory);
// Whether an address is of the device. With LATENTWIRE_MOCK_HOST=1 all memory of the host is, as if others had allocated it there.
bool is_device(const void* memory);
uint64_t used_bytes();
uint64_t total_bytes();

void* host_range(const void* device, size_t bytes);
// The memory behind `count` elements at an address of the device; nullptr stays nullptr.
template <typename T>
T* host(T* device, int64_t count) {
  return device == nullptr || count <= 0
             ? nullptr
             : static_cast<T*>(host_range(static_cast<const void*>(device), static_cast<size_t>(count) * sizeof(T)));
}
template <typename T>
T* host_bytes(T* device, int64_t bytes) {
  return device == nullptr || bytes <= 0 ? nullptr : static_cast<T*>(host_range(device, static_cast<size_t>(bytes)));
}

// Whether a fault of that kind is due. The file that LATENTWIRE_MOCK_FAULTS names holds lines of `kind` or `kind count`, and is read anew
// when it has changed; after `count` faults of a kind the device is sound again.
bool faulty(const std::string& kind);
// The number behind `kind`, or 0.
int64_t fault_number(const std::string& kind);

// Once lost, everything answers latent_lost until the process ends.
bool lost() noexcept;
void lose(const std::string& why);
std::string loss();

}  // namespace latentwire::mock
