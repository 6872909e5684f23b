#include "core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>

namespace latentwire {
namespace {

int wanted_size() {
  constexpr int limit = 256;
  if (const char* text = std::getenv("LATENTWIRE_THREADS")) {
    const int wanted = std::atoi(text);
    if (wanted >= 1 && wanted <= limit) return wanted;
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) - 1);
}

// The pieces of one parallel_for; whoever is free takes the next. A helper task that arrives late finds nothing left, so the caller waits only for
// pieces that have been taken.
struct Pieces {
  int64_t n;
  int64_t grain;
  const std::function<void(int64_t, int64_t)>* body;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> left;
  std::mutex mutex;
  std::condition_variable done;

  Pieces(int64_t count, int64_t piece, const std::function<void(int64_t, int64_t)>* call)
      : n(count), grain(piece), body(call), left((count + piece - 1) / piece) {}

  void run() {
    for (;;) {
      const int64_t begin = next.fetch_add(grain);
      if (begin >= n) return;
      (*body)(begin, std::min(begin + grain, n));
      if (left.fetch_sub(1) == 1) {
        const std::lock_guard lock(mutex);
        done.notify_all();
      }
    }
  }
};

}  // namespace

ThreadPool& ThreadPool::get() {
  static auto* pool = new ThreadPool(wanted_size());
  return *pool;
}

ThreadPool::ThreadPool(int size) : size_(size) {
  for (int i = 0; i < size; i++) std::thread([this] { work(); }).detach();
}

void ThreadPool::work() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return !tasks_.empty(); });
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void ThreadPool::submit(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  ready_.notify_one();
}

void ThreadPool::parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 0) return;
  const int64_t piece = std::max<int64_t>(grain, 1);
  const auto pieces = std::make_shared<Pieces>(n, piece, &body);
  const int64_t helpers = std::min<int64_t>(size_, (n + piece - 1) / piece - 1);
  for (int64_t i = 0; i < helpers; i++) submit([pieces] { pieces->run(); });
  pieces->run();
  std::unique_lock lock(pieces->mutex);
  pieces->done.wait(lock, [&] { return pieces->left.load() == 0; });
}

}  // namespace latentwire
