#include "device.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <new>
#include <sstream>

namespace latentwire::mock {
namespace {

// Set in every address of the device; no process has memory there.
constexpr uintptr_t mark = uintptr_t{1} << 62;
constexpr size_t alignment = 256;
constexpr uint64_t standard_bytes = uint64_t{1} << 30;
constexpr int poison = 0xA5;

// What is not trivial to destroy is never destroyed: streams may go on while the process exits.
std::mutex memory_mutex;
auto& allocations = *new std::map<uintptr_t, uint64_t>;  // by the address of the device
uint64_t used = 0;

std::mutex fault_mutex;
auto& fault_text = *new std::string;
auto& fault_counts = *new std::map<std::string, int64_t>;

std::atomic<bool> is_lost{false};
std::mutex loss_mutex;
auto& loss_text = *new std::string;

void read_faults() {
  const char* path = std::getenv("LATENTWIRE_MOCK_FAULTS");
  std::ifstream file(path == nullptr ? "" : path);
  std::ostringstream content;
  content << file.rdbuf();
  if (content.str() == fault_text) return;
  fault_text = content.str();
  fault_counts.clear();
  std::istringstream lines(fault_text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string kind;
    if (!(words >> kind)) continue;
    int64_t count = INT64_MAX;
    words >> count;
    fault_counts[kind] = words.fail() ? INT64_MAX : count;
  }
}

}  // namespace

void* allocate(uint64_t bytes) {
  const std::lock_guard lock(memory_mutex);
  if (used + bytes > total_bytes()) return nullptr;
  void* memory = ::operator new (bytes, std::align_val_t{alignment}, std::nothrow);
  if (memory == nullptr) return nullptr;
  std::memset(memory, poison, bytes);
  const uintptr_t device = reinterpret_cast<uintptr_t>(memory) | mark;
  allocations[device] = bytes;
  used += bytes;
  return reinterpret_cast<void*>(device);
}

bool release(void* memory) {
  const std::lock_guard lock(memory_mutex);
  const auto found = allocations.find(reinterpret_cast<uintptr_t>(memory));
  if (found == allocations.end()) return false;
  void* real = reinterpret_cast<void*>(found->first & ~mark);
  std::memset(real, poison, found->second);
  ::operator delete (real, std::align_val_t{alignment});
  used -= found->second;
  allocations.erase(found);
  return true;
}

uint64_t allocated_bytes(const void* memory) {
  const std::lock_guard lock(memory_mutex);
  const auto found = allocations.find(reinterpret_cast<uintptr_t>(memory));
  return found == allocations.end() ? 0 : found->second;
}

bool is_device(const void* memory) {
  const char* all = std::getenv("LATENTWIRE_MOCK_HOST");
  return (reinterpret_cast<uintptr_t>(memory) & mark) != 0 || (all != nullptr && std::strcmp(all, "1") == 0);
}

uint64_t used_bytes() {
  const std::lock_guard lock(memory_mutex);
  return used;
}

uint64_t total_bytes() {
  const char* text = std::getenv("LATENTWIRE_MOCK_BYTES");
  return text == nullptr ? standard_bytes : std::strtoull(text, nullptr, 10);
}

void* host_range(const void* device, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(device);
  if ((address & mark) == 0 && is_device(device)) return const_cast<void*>(device);
  const std::lock_guard lock(memory_mutex);
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin()) throw IllegalAddress();
  const auto& [begin, size] = *--after;
  if (address - begin > size || bytes > size - (address - begin)) throw IllegalAddress();
  return reinterpret_cast<void*>(address & ~mark);
}

bool faulty(const std::string& kind) {
  const std::lock_guard lock(fault_mutex);
  read_faults();
  const auto found = fault_counts.find(kind);
  if (found == fault_counts.end() || found->second == 0) return false;
  if (found->second != INT64_MAX) found->second--;
  return true;
}

int64_t fault_number(const std::string& kind) {
  const std::lock_guard lock(fault_mutex);
  read_faults();
  const auto found = fault_counts.find(kind);
  return found == fault_counts.end() || found->second == INT64_MAX ? 0 : found->second;
}

bool lost() noexcept { return is_lost.load(std::memory_order_acquire); }

void lose(const std::string& why) {
  const std::lock_guard lock(loss_mutex);
  if (is_lost.load(std::memory_order_relaxed)) return;
  loss_text = why;
  is_lost.store(true, std::memory_order_release);
}

std::string loss() {
  const std::lock_guard lock(loss_mutex);
  return loss_text;
}

}  // namespace latentwire::mock
