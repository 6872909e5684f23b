#include "core/thread_pool.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>

namespace latentwire {
namespace {

struct Workers {
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<std::function<void()>> tasks;

  Workers() {
    for (int i = 0; i < worker_count(); i++) std::thread([this] { work(); }).detach();
  }

  void work() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex);
        ready.wait(lock, [this] { return !tasks.empty(); });
        task = std::move(tasks.front());
        tasks.pop_front();
      }
      task();
    }
  }
};

}  // namespace

int worker_count() {
  constexpr int limit = 256;
  if (const char* text = std::getenv("LATENTWIRE_THREADS")) {
    const int wanted = std::atoi(text);
    if (wanted >= 1 && wanted <= limit) return wanted;
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) - 1);
}

void run_on_worker(std::function<void()> task) {
  static auto* workers = new Workers();
  {
    const std::lock_guard lock(workers->mutex);
    workers->tasks.push_back(std::move(task));
  }
  workers->ready.notify_one();
}

}  // namespace latentwire
