// One stream of an accelerator and the two threads that serve it. The first issues: it opens the device, allocates, stages and launches, in
// the order of `submit`, so that none of it, slow as a first call may be, holds up whoever submits. The second waits for what was launched
// and tells its submitters. Everything that a stream is given belongs to that stream alone, so its order is all the order there is.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/status.h"
#include "device/backend.h"

namespace latentwire {

class DeviceStream;

// Memory of the device. It goes back in the order of the stream when its last holder lets go, on any thread; shared memory when the
// stream's work so far has ended.
class DeviceBuffer {
 public:
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  // An address of the device: the host must not read it.
  std::byte* data() const noexcept { return data_; }
  template <typename T>
  T* as() const noexcept {
    return reinterpret_cast<T*>(data_);
  }
  size_t bytes() const noexcept { return bytes_; }

 private:
  friend class DeviceStream;
  DeviceBuffer(std::shared_ptr<DeviceStream> stream, std::byte* data, size_t bytes, bool shared)
      : stream_(std::move(stream)), data_(data), bytes_(bytes), shared_(shared) {}

  std::shared_ptr<DeviceStream> stream_;
  std::byte* data_;
  size_t bytes_;
  bool shared_;
};

class DeviceStream : public std::enable_shared_from_this<DeviceStream> {
 public:
  // Launches work, on the issuing thread. What it allocates and holds may go as soon as it returns; inputs of another stream only when the
  // work on them has ended, which is waited for where it fails, and which it has to wait for itself where it does not.
  using Issue = std::function<Status(DeviceStream&)>;
  // What became of it, on one of the threads: called exactly once, after the launched work has ended or at the first failure.
  using Done = std::function<void(Status)>;
  // A few numbers that the device writes for the host: pinned, of 64 bytes, valid while it is held.
  using Slot = std::shared_ptr<std::byte>;
  static constexpr size_t slot_bytes = 64;

  // `backend` is asked on the issuing thread. Whoever creates a stream closes it. Fails with out_of_memory at the limit of threads.
  static Status create(std::function<const Backend&()> backend, int device, std::shared_ptr<DeviceStream>* out);
  ~DeviceStream();
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;

  // Any thread. After `close`, `done` is called with `cancelled` before this returns.
  void submit(Issue issue, Done done);
  // Submits, and waits for what becomes of it. Not from one of the threads. What `issue` runs out of on the host is out_of_memory.
  Status complete(Issue issue);
  // Runs what was submitted to its end, then ends the threads and the stream. Not from one of the threads.
  void close();

  // Bytes held now through this stream, of the device and pinned.
  int64_t device_bytes() const noexcept { return device_bytes_.load(std::memory_order_relaxed); }
  int64_t pinned_bytes() const noexcept { return pinned_bytes_.load(std::memory_order_relaxed); }

  // --- What an Issue may call --------------------------------------------------------------------------------------------------------
  const latent_backend_v1& api() const noexcept { return *api_; }
  latent_stream* handle() const noexcept { return stream_; }
  int device() const noexcept { return device_; }
  // A function of the backend, and what it answers as a Status: call(api().fill, handle(), memory, 0, bytes).
  template <typename... Parameters, typename... Arguments>
  static Status call(int (*function)(Parameters...), Arguments... arguments) {
    std::array<char, 256> why{};
    const int result = function(arguments..., why.data(), why.size());
    return result == latent_ok ? Status{} : device_status(result, why.data());
  }
  // Undefined contents. Fails with out_of_memory, after what nobody holds any more was given back.
  Status allocate(size_t bytes, std::shared_ptr<DeviceBuffer>* out);
  // The same of memory that others may open by its handle.
  Status allocate_shared(size_t bytes, latent_shared_handle* handle, std::shared_ptr<DeviceBuffer>* out);
  Status slot(Slot* out);
  // Copies through pinned memory in parts, so that one part travels while the next is staged; `cancel` may be nullptr and ends it between
  // parts. `from` may go when `upload` returns; `download` returns when all is there.
  Status upload(std::byte* to, const void* from, size_t bytes, const std::atomic<bool>* cancel);
  Status download(void* to, const std::byte* from, size_t bytes, const std::atomic<bool>* cancel);

 private:
  friend class DeviceBuffer;
  struct Command {
    Issue issue;
    Done done;
  };
  struct Launched {
    latent_event* event;
    Done done;
  };
  // A part of pinned memory, and the event after which it is free again.
  struct Stage {
    std::byte* memory = nullptr;
    latent_event* event = nullptr;
  };
  struct Unheld {
    std::byte* memory;
    bool shared;
  };
  static constexpr size_t stage_bytes = size_t{4} << 20;
  static constexpr size_t stage_count = 3;
  static constexpr size_t slots_a_page = 64;

  DeviceStream(std::function<const Backend&()> backend, int device) : backend_(std::move(backend)), device_(device) {}
  void issue_all();
  void complete_all();
  Status open();
  void shut();
  void run(Command command);
  Status take_event(latent_event** out);
  Status next_stage(Stage** out);
  void give_back(const DeviceBuffer& buffer);
  void release_unheld();
  void release(const Unheld& unheld, latent_stream* stream);

  std::function<const Backend&()> backend_;
  int device_;
  std::thread issuer_;
  std::thread completer_;

  // the issuing thread's alone
  const latent_backend_v1* api_ = nullptr;
  latent_stream* stream_ = nullptr;
  std::array<Stage, stage_count> stages_;
  size_t next_stage_ = 0;

  std::mutex mutex_;
  std::condition_variable submitted_;
  std::condition_variable launched_;
  std::deque<Command> commands_;
  std::deque<Launched> in_flight_;
  std::vector<latent_event*> events_;  // free ones
  std::vector<Unheld> unheld_;         // device memory that nobody holds any more
  std::vector<std::byte*> free_slots_;
  std::vector<std::byte*> slot_pages_;
  bool closing_ = false;  // no more commands
  bool issued_ = false;   // nothing more comes in flight
  bool closed_ = false;   // the stream is gone

  std::atomic<int64_t> device_bytes_{0};
  std::atomic<int64_t> pinned_bytes_{0};
};

}  // namespace latentwire
