// The mock backend: the ABI of native/include/latentwire/backend.h on the CPU, for tests of everything above it without a GPU. A stream is
// a thread that does its work in order and some time later, as a device does.
//
// Faults (device.h): `no-driver` and `no-device` at the probe; `allocate`, `pin` and `launch` fail a call; `lost` loses the device in the
// next work of a stream; `slow N` lets each work of a stream take N milliseconds.
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>

#include "device.h"
#include "kernels.h"
#include "latentwire/backend.h"

// One thread, and what it is still to do.
struct latent_stream {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> work;
  bool busy = false;
  bool ending = false;
  std::thread thread;
};

// How often it was recorded, and how many of these have happened.
struct latent_event {
  std::mutex mutex;
  std::condition_variable happened;
  uint64_t recorded = 0;
  uint64_t done = 0;
};

namespace {

namespace mock = latentwire::mock;

int answer(latent_result result, const std::string& text, char* why, size_t n) noexcept {
  if (n > 0) std::snprintf(why, n, "%s", text.c_str());
  return result;
}

int lost_answer(char* why, size_t n) { return answer(latent_lost, mock::loss(), why, n); }

void serve(latent_stream* stream) {
  while (true) {
    std::function<void()> next;
    {
      std::unique_lock lock(stream->mutex);
      stream->changed.wait(lock, [stream] { return stream->ending || !stream->work.empty(); });
      if (stream->work.empty()) return;
      next = std::move(stream->work.front());
      stream->work.pop_front();
      stream->busy = true;
    }
    next();
    next = nullptr;
    {
      const std::lock_guard lock(stream->mutex);
      stream->busy = false;
    }
    stream->changed.notify_all();
  }
}

// Adds work that happens whatever became of the device: events, and memory that is let go.
void append(latent_stream* stream, std::function<void()> work) {
  {
    const std::lock_guard lock(stream->mutex);
    stream->work.push_back(std::move(work));
  }
  stream->changed.notify_all();
}

int launch(latent_stream* stream, std::function<void()> work, char* why, size_t n) {
  if (mock::lost()) return lost_answer(why, n);
  append(stream, [work = std::move(work)] {
    if (const int64_t ms = mock::fault_number("slow"); ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    if (mock::lost()) return;
    if (mock::faulty("lost")) {
      mock::lose("the device is lost");
      return;
    }
    try {
      work();
    } catch (const std::exception& error) {
      mock::lose(error.what());
    }
  });
  return latent_ok;
}

int kernel(latent_stream* stream, std::function<void()> work, char* why, size_t n) {
  if (mock::lost()) return lost_answer(why, n);
  if (mock::faulty("launch")) return answer(latent_failed, "too many resources requested for launch", why, n);
  return launch(stream, std::move(work), why, n);
}

int probe(int32_t* devices, char* why, size_t n) {
  *devices = 0;
  if (mock::faulty("no-driver")) return answer(latent_no_driver, "no driver, as the faults have it", why, n);
  if (mock::faulty("no-device")) return answer(latent_no_device, "no device, as the faults have it", why, n);
  *devices = 1;
  return latent_ok;
}

int device_info(int32_t device, latent_device_info* out, char* why, size_t n) {
  if (device != 0) return answer(latent_invalid, "there is one device", why, n);
  *out = {};
  std::snprintf(out->name, sizeof(out->name), "mock");
  out->processors = 1;
  out->memory = mock::total_bytes();
  return latent_ok;
}

int memory_info(int32_t device, latent_memory_info* out, char* why, size_t n) {
  if (device != 0) return answer(latent_invalid, "there is one device", why, n);
  *out = {};
  if (mock::lost()) return lost_answer(why, n);
  out->used_bytes = mock::used_bytes();
  out->total_bytes = mock::total_bytes();
  out->free_bytes = out->total_bytes > out->used_bytes ? out->total_bytes - out->used_bytes : 0;
  return latent_ok;
}

int memory_device(const void* memory, int32_t* device, char* why, size_t n) {
  *device = -1;
  if (mock::lost()) return lost_answer(why, n);
  if (mock::is_device(memory)) *device = 0;
  return latent_ok;
}

int stream_open(int32_t device, latent_stream** out, char* why, size_t n) {
  if (device != 0) return answer(latent_invalid, "there is one device", why, n);
  if (mock::lost()) return lost_answer(why, n);
  auto* made = new latent_stream;
  made->thread = std::thread(serve, made);
  *out = made;
  return latent_ok;
}

int stream_wait(latent_stream* stream, char* why, size_t n) {
  {
    std::unique_lock lock(stream->mutex);
    stream->changed.wait(lock, [stream] { return stream->work.empty() && !stream->busy; });
  }
  return mock::lost() ? lost_answer(why, n) : latent_ok;
}

int stream_close(latent_stream* stream, char* why, size_t n) {
  const int waited = stream_wait(stream, why, n);
  {
    const std::lock_guard lock(stream->mutex);
    stream->ending = true;
  }
  stream->changed.notify_all();
  stream->thread.join();
  delete stream;
  return waited;
}

int event_open(int32_t, latent_event** out, char* why, size_t n) {
  if (mock::lost()) return lost_answer(why, n);
  *out = new latent_event;
  return latent_ok;
}

int event_close(latent_event* event, char*, size_t) {
  delete event;
  return latent_ok;
}

int event_record(latent_event* event, latent_stream* stream, char* why, size_t n) {
  if (mock::lost()) return lost_answer(why, n);
  {
    const std::lock_guard lock(event->mutex);
    event->recorded++;
  }
  append(stream, [event] {
    const std::lock_guard lock(event->mutex);
    event->done++;
    event->happened.notify_all();
  });
  return latent_ok;
}

int event_wait(latent_event* event, char* why, size_t n) {
  std::unique_lock lock(event->mutex);
  const uint64_t target = event->recorded;
  event->happened.wait(lock, [event, target] { return event->done >= target; });
  return mock::lost() ? lost_answer(why, n) : latent_ok;
}

int allocate(latent_stream*, uint64_t bytes, void** out, char* why, size_t n) {
  if (mock::lost()) return lost_answer(why, n);
  *out = mock::faulty("allocate") ? nullptr : mock::allocate(bytes);
  if (*out == nullptr) return answer(latent_out_of_memory, "no " + std::to_string(bytes) + " bytes left on device 0", why, n);
  return latent_ok;
}

int release(latent_stream* stream, void* memory, char* why, size_t n) {
  if (stream == nullptr) return mock::release(memory) ? latent_ok : answer(latent_invalid, "no memory of the device", why, n);
  append(stream, [memory] {
    if (!mock::release(memory)) mock::lose("memory was released twice");
  });
  return latent_ok;
}

std::mutex pinned_mutex;
auto& pinned = *new std::set<void*>;  // never destroyed, as in device.cpp

int pin(uint64_t bytes, void** out, char* why, size_t n) {
  if (mock::lost()) return lost_answer(why, n);
  *out = mock::faulty("pin") ? nullptr : std::malloc(bytes);
  if (*out == nullptr) return answer(latent_out_of_memory, "no pinned memory left", why, n);
  const std::lock_guard lock(pinned_mutex);
  pinned.insert(*out);
  return latent_ok;
}

int unpin(void* memory, char* why, size_t n) {
  const std::lock_guard lock(pinned_mutex);
  if (pinned.erase(memory) == 0) return answer(latent_invalid, "no pinned memory", why, n);
  std::free(memory);
  return latent_ok;
}

int copy(latent_stream* stream, void* to, const void* from, uint64_t bytes, int32_t direction, char* why, size_t n) {
  const auto work = [=] {
    const auto size = static_cast<int64_t>(bytes);
    void* target = direction == latent_to_host ? to : mock::host_bytes(to, size);
    const void* source = direction == latent_to_device ? from : mock::host_bytes(from, size);
    if (bytes > 0) std::memcpy(target, source, bytes);
  };
  return launch(stream, work, why, n);
}

int fill(latent_stream* stream, void* memory, int32_t value, uint64_t bytes, char* why, size_t n) {
  const auto work = [=] {
    if (bytes > 0) std::memset(mock::host_bytes(memory, static_cast<int64_t>(bytes)), value, bytes);
  };
  return launch(stream, work, why, n);
}

// Within one process: the handle is the address. Memory that is open is freed when it is closed.
struct Shared {
  int opened = 0;
  bool released = false;
};
std::mutex shared_mutex;
auto& shared = *new std::map<void*, Shared>;

int free_shared(std::map<void*, Shared>::iterator found, char* why, size_t n) {
  if (!found->second.released || found->second.opened > 0) return latent_ok;
  void* memory = found->first;
  shared.erase(found);
  return release(nullptr, memory, why, n);
}

int share_allocate(int32_t, uint64_t bytes, void** out, latent_shared_handle* handle, char* why, size_t n) {
  const int result = allocate(nullptr, bytes, out, why, n);
  *handle = {};
  if (result != latent_ok) return result;
  std::memcpy(handle->bytes, out, sizeof(*out));
  const std::lock_guard lock(shared_mutex);
  shared[*out] = {};
  return latent_ok;
}

int share_release(void* memory, char* why, size_t n) {
  const std::lock_guard lock(shared_mutex);
  const auto found = shared.find(memory);
  if (found == shared.end()) return answer(latent_invalid, "no shared memory", why, n);
  found->second.released = true;
  return free_shared(found, why, n);
}

int share_open(int32_t, const latent_shared_handle* handle, void** out, uint64_t* bytes, char* why, size_t n) {
  if (mock::lost()) return lost_answer(why, n);
  std::memcpy(out, handle->bytes, sizeof(*out));
  const std::lock_guard lock(shared_mutex);
  const auto found = shared.find(*out);
  if (found == shared.end() || found->second.released) return answer(latent_invalid, "the handle is of no shared memory", why, n);
  found->second.opened++;
  *bytes = mock::allocated_bytes(*out);
  return latent_ok;
}

int share_close(void* memory, char* why, size_t n) {
  const std::lock_guard lock(shared_mutex);
  const auto found = shared.find(memory);
  if (found == shared.end()) return answer(latent_invalid, "no shared memory", why, n);
  found->second.opened--;
  return free_shared(found, why, n);
}

template <typename Args, void (*work)(const Args&)>
int plain(latent_stream* stream, const Args* args, char* why, size_t n) {
  return kernel(
      stream, [copy = *args] { work(copy); }, why, n);
}

template <typename Args, typename Part, void (*work)(const Args&, const std::vector<Part>&)>
int with_parts(latent_stream* stream, const Args* args, char* why, size_t n) {
  std::vector<Part> parts(args->parts, args->parts + args->part_count);
  return kernel(
      stream, [copy = *args, parts = std::move(parts)] { work(copy, parts); }, why, n);
}

int rope_shift(latent_stream* stream, const latent_rope_args* args, char* why, size_t n) {
  std::vector<void*> rows(args->rows, args->rows + args->part_count);
  return kernel(
      stream, [copy = *args, rows = std::move(rows)] { mock::rope_shift(copy, rows); }, why, n);
}

int find_non_finite(latent_stream* stream, const latent_finite_args* args, char* why, size_t n) {
  std::vector<const void*> parts(args->parts, args->parts + args->part_count);
  return kernel(
      stream, [copy = *args, parts = std::move(parts)] { mock::find_non_finite(copy, parts); }, why, n);
}

constexpr latent_backend_v1 table = {
    LATENT_BACKEND_ABI,
    sizeof(latent_backend_v1),
    "mock",
    LATENTWIRE_VERSION ", on the CPU",
    probe,
    device_info,
    memory_info,
    memory_device,
    stream_open,
    stream_close,
    stream_wait,
    event_open,
    event_close,
    event_record,
    event_wait,
    allocate,
    release,
    pin,
    unpin,
    copy,
    fill,
    share_allocate,
    share_release,
    share_open,
    share_close,
    mock::packed_bytes,
    plain<latent_pack_args, mock::pack>,
    plain<latent_cosine_args, mock::cosine>,
    plain<latent_projection_args, mock::projection>,
    plain<latent_codeword_args, mock::codeword>,
    plain<latent_thought_args, mock::thought>,
    with_parts<latent_tile_args, latent_tile_part, mock::quantise>,
    with_parts<latent_tile_args, latent_tile_part, mock::dequantise>,
    plain<latent_hadamard_args, mock::hadamard_rows>,
    with_parts<latent_cell_args, latent_cell_part, mock::copy_cells>,
    with_parts<latent_transposed_cell_args, latent_cell_part, mock::copy_transposed_cells>,
    rope_shift,
    find_non_finite,
    plain<latent_digest_args, mock::digest>,
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const latent_backend_v1* latent_backend_entry_v1(void) { return &table; }
