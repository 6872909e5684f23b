#include "core/sealed_memory.h"

#include <string>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#endif

namespace latentwire {

#if defined(__linux__)

namespace {

// In the headers of Linux, and not in those of every C library that this is built with.
constexpr unsigned close_on_exec = 1;  // MFD_CLOEXEC
constexpr unsigned allow_sealing = 2;  // MFD_ALLOW_SEALING
constexpr unsigned no_execution = 8;   // MFD_NOEXEC_SEAL, since Linux 6.3
constexpr int add_seals = 1024 + 9;    // F_ADD_SEALS
constexpr int get_seals = 1024 + 10;   // F_GET_SEALS
constexpr int seals = 1 | 2 | 4 | 8;   // F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE

// Between two looks at whether the work was cancelled.
constexpr size_t step = size_t{4} << 20;

std::string reason(int error) { return std::generic_category().message(error); }

Status unreachable(const std::string& why) { return Status::fail(Code::kv_unreachable, why); }

class Descriptor {
 public:
  explicit Descriptor(int number) noexcept : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const noexcept { return number_; }

 private:
  int number_;
};

int new_memory() {
  const auto create = [](unsigned flags) { return static_cast<int>(::syscall(SYS_memfd_create, "latentwire-kv", flags)); };
  const int made = create(close_on_exec | allow_sealing | no_execution);
  return made >= 0 || errno != EINVAL ? made : create(close_on_exec | allow_sealing);
}

// Not through a mapping: the system would clear every page before the copy, and a page that is not to be had would end the process.
Status write_all(int descriptor, std::span<const uint8_t> piece, uint64_t offset, const std::atomic<bool>* cancel) {
  for (size_t at = 0; at < piece.size();) {
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return Status::fail(Code::cancelled, "the operation was aborted");
    const ssize_t written = ::pwrite(descriptor, piece.data() + at, std::min(step, piece.size() - at), static_cast<off_t>(offset + at));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Status::fail(Code::out_of_memory, "no memory to share: " + reason(written < 0 ? errno : ENOSPC));
    at += static_cast<size_t>(written);
  }
  return {};
}

}  // namespace

Status SealedMemory::make(const std::vector<std::span<const uint8_t>>& pieces, const std::atomic<bool>* cancel,
                          std::shared_ptr<const SealedMemory>* out) {
  const std::shared_ptr<SealedMemory> made(new SealedMemory);
  const int descriptor = made->descriptor_ = new_memory();
  if (descriptor < 0) return unreachable("this system makes no memory to share: " + reason(errno));
  uint64_t bytes = 0;
  for (const auto& piece : pieces) {
    if (Status status = write_all(descriptor, piece, bytes, cancel); !status.ok()) return status;
    bytes += piece.size();
  }
  struct stat facts {};
  if (::fcntl(descriptor, add_seals, seals) != 0 || ::fstat(descriptor, &facts) != 0)
    return unreachable("this system does not seal memory: " + reason(errno));
  made->name_ = {::getpid(), descriptor, facts.st_dev, facts.st_ino, bytes};
  *out = made;
  return {};
}

SealedMemory::~SealedMemory() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status map_sealed(const SealedName& name, uint64_t most, std::shared_ptr<const uint8_t>* out) {
  if (name.bytes == 0) return unreachable("no memory has no bytes");
  if (name.bytes > most) {
    return Status::fail(Code::kv_limit, std::to_string(name.bytes) + " bytes of shared memory, no content for this pool has more than " +
                                            std::to_string(most));
  }
  const std::string path = "/proc/" + std::to_string(name.process) + "/fd/" + std::to_string(name.descriptor);
  // only looked at: to open a device or a pipe that somebody names may do something
  const Descriptor place(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (place.get() < 0) return unreachable("cannot look into the process that shares: " + path + ": " + reason(errno));
  const auto is_meant = [&](int descriptor) {
    struct stat facts {};
    return ::fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_dev == name.device && facts.st_ino == name.inode &&
           facts.st_size >= 0 && static_cast<uint64_t>(facts.st_size) == name.bytes;
  };
  if (!is_meant(place.get())) return unreachable(path + " is not the memory that was meant any more");
  const std::string same = "/proc/self/fd/" + std::to_string(place.get());
  const Descriptor memory(::open(same.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (memory.get() < 0) return unreachable("cannot open the memory that is shared: " + reason(errno));
  const int found = ::fcntl(memory.get(), get_seals);
  if (found < 0 || (found & seals) != seals) return unreachable(path + " is not sealed: whoever shares it could still change it");
  // the size once more: before the seals it could change
  if (!is_meant(memory.get())) return unreachable(path + " has changed its size");
  const auto bytes = static_cast<size_t>(name.bytes);
  void* mapped = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, memory.get(), 0);
  if (mapped == MAP_FAILED) return unreachable("cannot map the memory that is shared: " + reason(errno));
  *out = std::shared_ptr<const uint8_t>(static_cast<const uint8_t*>(mapped),
                                        [bytes](const uint8_t* at) { ::munmap(const_cast<uint8_t*>(at), bytes); });
  return {};
}

#else

namespace {

Status elsewhere() { return Status::fail(Code::kv_unreachable, "memory is shared between processes on Linux only"); }

}  // namespace

Status SealedMemory::make(const std::vector<std::span<const uint8_t>>&, const std::atomic<bool>*, std::shared_ptr<const SealedMemory>*) {
  return elsewhere();
}

SealedMemory::~SealedMemory() = default;

Status map_sealed(const SealedName&, uint64_t, std::shared_ptr<const uint8_t>*) { return elsewhere(); }

#endif

}  // namespace latentwire
