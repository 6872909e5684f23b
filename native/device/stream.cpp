#include "device/stream.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "core/thread_pool.h"

namespace latentwire {
namespace {

// Bytes of a copy between host memories that one thread takes at a time.
constexpr int64_t copy_grain = int64_t{1} << 19;

void copy_bytes(void* to, const void* from, size_t bytes) {
  ThreadPool::get().parallel_for(static_cast<int64_t>(bytes), copy_grain, [&](int64_t begin, int64_t end) noexcept {
    std::memcpy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin, static_cast<size_t>(end - begin));
  });
}

bool stopped(const std::atomic<bool>* cancel) noexcept { return cancel != nullptr && cancel->load(std::memory_order_relaxed); }

Status cancelled() { return Status::fail(Code::cancelled, "the copy was cancelled"); }

}  // namespace

DeviceBuffer::~DeviceBuffer() { stream_->give_back(*this); }

Status DeviceStream::create(std::function<const Backend&()> backend, int device, std::shared_ptr<DeviceStream>* out) {
  std::shared_ptr<DeviceStream> made(new DeviceStream(std::move(backend), device));
  try {
    made->issuer_ = std::thread([self = made.get()] { self->issue_all(); });
    made->completer_ = std::thread([self = made.get()] { self->complete_all(); });
  } catch (const std::system_error& error) {
    if (made->issuer_.joinable()) {
      {
        const std::lock_guard lock(made->mutex_);
        made->closing_ = true;
      }
      made->submitted_.notify_all();
      made->issuer_.join();
    }
    return Status::fail(Code::out_of_memory, std::string("no thread for a stream of the device: ") + error.what());
  }
  *out = std::move(made);
  return {};
}

DeviceStream::~DeviceStream() {
  std::array<char, 64> why{};
  for (std::byte* page : slot_pages_) static_cast<void>(api_->unpin(page, why.data(), why.size()));
}

void DeviceStream::submit(Issue issue, Done done) {
  {
    const std::lock_guard lock(mutex_);
    if (!closing_) {
      commands_.push_back({std::move(issue), std::move(done)});
      submitted_.notify_one();
      return;
    }
  }
  done(Status::fail(Code::cancelled, "the stream of the device is closed"));
}

Status DeviceStream::complete(Issue issue) {
  const auto ended = std::make_shared<std::promise<Status>>();
  std::future<Status> status = ended->get_future();
  const auto guarded = [&issue](DeviceStream& stream) -> Status {
    try {
      return issue(stream);
    } catch (const std::bad_alloc&) {
      return Status::fail(Code::out_of_memory, "no memory for what work on the device needs on the host");
    }
  };
  submit(guarded, [ended](Status became) { ended->set_value(std::move(became)); });
  return status.get();
}

void DeviceStream::close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  submitted_.notify_all();
  if (issuer_.joinable()) issuer_.join();
  if (completer_.joinable()) completer_.join();
}

void DeviceStream::issue_all() {
  Status opened;
  bool tried = false;
  while (true) {
    Command command;
    {
      std::unique_lock lock(mutex_);
      submitted_.wait(lock, [this] { return closing_ || !commands_.empty() || !unheld_.empty(); });
      if (commands_.empty() && unheld_.empty()) break;
      if (!commands_.empty()) {
        command = std::move(commands_.front());
        commands_.pop_front();
      }
    }
    if (api_ != nullptr) release_unheld();
    if (!command.done) continue;
    if (!tried) opened = open();
    tried = true;
    if (opened.ok()) {
      run(std::move(command));
    } else {
      command.issue = nullptr;
      command.done(opened);
    }
  }
  {
    const std::lock_guard lock(mutex_);
    issued_ = true;
  }
  launched_.notify_all();
  {
    std::unique_lock lock(mutex_);
    launched_.wait(lock, [this] { return in_flight_.empty(); });
  }
  shut();
}

Status DeviceStream::open() {
  const Backend& backend = backend_();
  if (backend.api == nullptr) return Status::fail(Code::device_unavailable, backend.reason + ": " + backend.message);
  latent_stream* stream = nullptr;
  api_ = backend.api;
  Status status = call(api_->stream_open, device_, &stream);
  stream_ = stream;
  if (!status.ok()) api_ = nullptr;
  return status;
}

// Launches one command, or tells at once why it cannot be.
void DeviceStream::run(Command command) {
  latent_event* event = nullptr;
  Status status = take_event(&event);
  if (status.ok()) status = command.issue(*this);
  if (status.ok()) status = call(api_->event_record, event, stream_);
  // what was launched before a failure reads inputs that may be another stream's, and go there
  if (!status.ok() && event != nullptr) static_cast<void>(call(api_->stream_wait, stream_));
  command.issue = nullptr;  // inputs go before the submitter hears of it, so that what it frees then is free
  {
    const std::lock_guard lock(mutex_);
    if (status.ok()) {
      in_flight_.push_back({event, std::move(command.done)});
      launched_.notify_all();
      return;
    }
    if (event != nullptr) events_.push_back(event);
  }
  command.done(std::move(status));
}

void DeviceStream::complete_all() {
  while (true) {
    Launched launched{};
    {
      std::unique_lock lock(mutex_);
      launched_.wait(lock, [this] { return issued_ || !in_flight_.empty(); });
      if (in_flight_.empty()) return;
      launched = std::move(in_flight_.front());  // its place is kept until it is done, so that the stream outlives it
      in_flight_.front().done = nullptr;
    }
    const Status status = call(api_->event_wait, launched.event);
    launched.done(status);
    launched.done = nullptr;
    {
      const std::lock_guard lock(mutex_);
      events_.push_back(launched.event);
      in_flight_.pop_front();
    }
    launched_.notify_all();
  }
}

Status DeviceStream::take_event(latent_event** out) {
  {
    const std::lock_guard lock(mutex_);
    if (!events_.empty()) {
      *out = events_.back();
      events_.pop_back();
      return {};
    }
  }
  return call(api_->event_open, device_, out);
}

// What it answers is of no use any more: a lost device has let go of everything, and the others do not fail.
void DeviceStream::shut() {
  std::array<char, 64> why{};
  const std::lock_guard lock(mutex_);
  closed_ = true;
  if (api_ == nullptr) return;
  for (const Unheld& unheld : unheld_) release(unheld, stream_);
  unheld_.clear();
  static_cast<void>(api_->stream_wait(stream_, why.data(), why.size()));
  for (const Stage& stage : stages_) {
    if (stage.memory != nullptr) static_cast<void>(api_->unpin(stage.memory, why.data(), why.size()));
    if (stage.event != nullptr) static_cast<void>(api_->event_close(stage.event, why.data(), why.size()));
  }
  for (latent_event* event : events_) static_cast<void>(api_->event_close(event, why.data(), why.size()));
  static_cast<void>(api_->stream_close(stream_, why.data(), why.size()));
  pinned_bytes_ -= static_cast<int64_t>(std::count_if(stages_.begin(), stages_.end(), [](const Stage& s) { return s.memory != nullptr; }) *
                                        static_cast<int64_t>(stage_bytes));
}

Status DeviceStream::allocate(size_t bytes, std::shared_ptr<DeviceBuffer>* out) {
  void* memory = nullptr;
  const auto try_once = [&] { return call(api_->allocate, stream_, std::max<size_t>(bytes, 1), &memory); };
  // what one command lets go of on its way, its next step can have
  release_unheld();
  Status status = try_once();
  if (status.code == Code::out_of_memory) {
    // what was freed comes back when the work that used it has ended
    if (Status waited = call(api_->stream_wait, stream_); !waited.ok()) return waited;
    status = try_once();
  }
  if (!status.ok()) return status;
  device_bytes_ += static_cast<int64_t>(bytes);
  out->reset(new DeviceBuffer(shared_from_this(), static_cast<std::byte*>(memory), bytes, false));
  return {};
}

Status DeviceStream::allocate_shared(size_t bytes, latent_shared_handle* handle, std::shared_ptr<DeviceBuffer>* out) {
  void* memory = nullptr;
  release_unheld();
  if (Status s = call(api_->share_allocate, device_, std::max<size_t>(bytes, 1), &memory, handle); !s.ok()) return s;
  device_bytes_ += static_cast<int64_t>(bytes);
  out->reset(new DeviceBuffer(shared_from_this(), static_cast<std::byte*>(memory), bytes, true));
  return {};
}

void DeviceStream::give_back(const DeviceBuffer& buffer) {
  device_bytes_ -= static_cast<int64_t>(buffer.bytes_);
  const std::lock_guard lock(mutex_);
  if (closed_) {
    release({buffer.data_, buffer.shared_}, nullptr);
  } else {
    unheld_.push_back({buffer.data_, buffer.shared_});
    submitted_.notify_one();
  }
}

void DeviceStream::release_unheld() {
  std::vector<Unheld> unheld;
  {
    const std::lock_guard lock(mutex_);
    unheld.swap(unheld_);
  }
  for (const Unheld& one : unheld) release(one, stream_);
}

// What is answered is of no use: nothing can be done about memory that does not go back.
void DeviceStream::release(const Unheld& unheld, latent_stream* stream) {
  std::array<char, 64> why{};
  if (!unheld.shared) {
    static_cast<void>(api_->release(stream, unheld.memory, why.data(), why.size()));
    return;
  }
  if (stream != nullptr) static_cast<void>(api_->stream_wait(stream, why.data(), why.size()));
  static_cast<void>(api_->share_release(unheld.memory, why.data(), why.size()));
}

Status DeviceStream::slot(Slot* out) {
  std::byte* memory = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!free_slots_.empty()) {
      memory = free_slots_.back();
      free_slots_.pop_back();
    }
  }
  if (memory == nullptr) {
    void* page = nullptr;
    if (Status s = call(api_->pin, slots_a_page * slot_bytes, &page); !s.ok()) return s;
    pinned_bytes_ += static_cast<int64_t>(slots_a_page * slot_bytes);
    const std::lock_guard lock(mutex_);
    memory = static_cast<std::byte*>(page);
    slot_pages_.push_back(memory);
    for (size_t i = 1; i < slots_a_page; i++) free_slots_.push_back(memory + i * slot_bytes);
  }
  std::memset(memory, 0, slot_bytes);
  // pages of slots live as long as the stream object, which a slot keeps
  *out = Slot(memory, [self = shared_from_this()](std::byte* given) {
    const std::lock_guard lock(self->mutex_);
    self->free_slots_.push_back(given);
  });
  return {};
}

// The next part of pinned memory, once the copy that used it last has ended.
Status DeviceStream::next_stage(Stage** out) {
  Stage& stage = stages_[next_stage_];
  next_stage_ = (next_stage_ + 1) % stage_count;
  if (stage.memory == nullptr) {
    void* memory = nullptr;
    if (Status s = call(api_->pin, stage_bytes, &memory); !s.ok()) return s;
    stage.memory = static_cast<std::byte*>(memory);
    pinned_bytes_ += static_cast<int64_t>(stage_bytes);
    if (Status s = call(api_->event_open, device_, &stage.event); !s.ok()) return s;
  } else if (Status s = call(api_->event_wait, stage.event); !s.ok()) {
    return s;
  }
  *out = &stage;
  return {};
}

Status DeviceStream::upload(std::byte* to, const void* from, size_t bytes, const std::atomic<bool>* cancel) {
  const auto* source = static_cast<const std::byte*>(from);
  for (size_t at = 0; at < bytes; at += stage_bytes) {
    if (stopped(cancel)) return cancelled();
    const size_t part = std::min(stage_bytes, bytes - at);
    Stage* stage = nullptr;
    if (Status status = next_stage(&stage); !status.ok()) return status;
    copy_bytes(stage->memory, source + at, part);
    Status status = call(api_->copy, stream_, to + at, stage->memory, part, latent_to_device);
    if (status.ok()) status = call(api_->event_record, stage->event, stream_);
    if (!status.ok()) return status;
  }
  return {};
}

Status DeviceStream::download(void* to, const std::byte* from, size_t bytes, const std::atomic<bool>* cancel) {
  struct Part {
    Stage* stage;
    size_t at;
    size_t bytes;
  };
  auto* target = static_cast<std::byte*>(to);
  std::deque<Part> under_way;
  const auto arrive = [&]() -> Status {
    const Part part = under_way.front();
    under_way.pop_front();
    Status status = call(api_->event_wait, part.stage->event);
    if (status.ok()) copy_bytes(target + part.at, part.stage->memory, part.bytes);
    return status;
  };
  for (size_t at = 0; at < bytes; at += stage_bytes) {
    if (stopped(cancel)) return cancelled();
    if (under_way.size() == stage_count - 1) {
      if (Status status = arrive(); !status.ok()) return status;
    }
    const size_t part = std::min(stage_bytes, bytes - at);
    Stage* stage = nullptr;
    if (Status status = next_stage(&stage); !status.ok()) return status;
    Status status = call(api_->copy, stream_, stage->memory, from + at, part, latent_to_host);
    if (status.ok()) status = call(api_->event_record, stage->event, stream_);
    if (!status.ok()) return status;
    under_way.push_back({stage, at, part});
  }
  while (!under_way.empty()) {
    if (Status status = arrive(); !status.ok()) return status;
  }
  return {};
}

}  // namespace latentwire
