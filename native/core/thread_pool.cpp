#include "core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <utility>

namespace latentwire {
namespace {

constexpr int max_threads = 256;
constexpr std::chrono::microseconds linger_time{30};

void relax() noexcept {
#if defined(__x86_64__)
  asm volatile("pause");
#elif defined(__aarch64__)
  asm volatile("yield");
#else
  std::this_thread::yield();
#endif
}

int wanted_threads() {
  if (const char* text = std::getenv("LATENTWIRE_THREADS"); text != nullptr) {
    char* end = nullptr;
    const long wanted = std::strtol(text, &end, 10);
    if (end != text && *end == '\0' && wanted >= 1 && wanted <= max_threads) return static_cast<int>(wanted);
  }
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, max_threads);
}

}  // namespace

// One parallel_for in progress. It lives on its caller's stack, not in the queue of tasks: the caller takes it off the list and waits until
// no helper is inside, so a loop that the workers were too busy for leaves nothing behind.
struct ThreadPool::Loop {
  Loop(const Body& work, int64_t size, int64_t grain_size, int64_t chunk_count)
      : body(work), n(size), grain(grain_size), chunks(chunk_count) {}

  const Body& body;
  const int64_t n;
  const int64_t grain;
  const int64_t chunks;
  std::atomic<int64_t> next{0};
  // guarded by the pool's mutex
  int inside = 0;
  std::condition_variable left;

  bool exhausted() const noexcept { return next.load(std::memory_order_relaxed) >= chunks; }

  void run() noexcept {
    while (true) {
      const int64_t chunk = next.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= chunks) return;
      const int64_t begin = chunk * grain;
      body(begin, begin + std::min(grain, n - begin));
    }
  }
};

ThreadPool& ThreadPool::get() {
  static ThreadPool* const pool = new ThreadPool();
  return *pool;
}

ThreadPool::ThreadPool() {
  const int wanted = wanted_threads();
  for (int i = 0; i < std::max(wanted - 1, 1); i++) {
    try {
      std::thread([this] { work(); }).detach();
    } catch (const std::system_error&) {
      break;
    }
    workers_++;
  }
  threads_ = std::min(wanted, workers_ + 1);
}

ThreadPool::Loop* ThreadPool::open_loop() noexcept {
  for (Loop* loop : loops_) {
    if (!loop->exhausted()) return loop;
  }
  return nullptr;
}

void ThreadPool::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (Loop* loop = open_loop(); loop != nullptr) {
      loop->inside++;
      lock.unlock();
      loop->run();
      lock.lock();
      // under the lock: the loop is gone as soon as its caller sees zero
      if (--loop->inside == 0) loop->left.notify_one();
      continue;
    }
    if (!tasks_.empty()) {
      std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      task = nullptr;  // what it captured dies outside the lock
      lock.lock();
      continue;
    }
    if (!linger(lock)) ready_.wait(lock);
  }
}

// Waiting for work without sleeping, which a wake-up costs more than. One worker at a time; true if something has come.
bool ThreadPool::linger(std::unique_lock<std::mutex>& lock) {
  if (lingering_) return false;
  lingering_ = true;
  const uint64_t seen = arrivals_.load(std::memory_order_relaxed);
  lock.unlock();
  const auto until = std::chrono::steady_clock::now() + linger_time;
  while (arrivals_.load(std::memory_order_relaxed) == seen && std::chrono::steady_clock::now() < until) relax();
  lock.lock();
  if (arrivals_.load(std::memory_order_relaxed) != seen) return true;
  lingering_ = false;
  return false;
}

// Wakes up to `helpers` workers for what was just queued, the one that lingers first.
void ThreadPool::announce(int64_t helpers, std::unique_lock<std::mutex>& lock) {
  arrivals_.fetch_add(1, std::memory_order_relaxed);
  if (lingering_) {
    lingering_ = false;
    helpers--;
  }
  lock.unlock();
  for (int64_t i = 0; i < helpers; i++) ready_.notify_one();
}

void ThreadPool::parallel_for(int64_t n, int64_t grain, const Body& body) {
  if (n <= 0) return;
  grain = std::clamp<int64_t>(grain, 1, n);
  const int64_t chunks = (n - 1) / grain + 1;
  Loop loop(body, n, grain, chunks);
  const int64_t helpers = std::min<int64_t>(threads_ - 1, chunks - 1);
  if (helpers == 0) {
    loop.run();
    return;
  }
  std::unique_lock lock(mutex_);
  loops_.push_back(&loop);
  announce(helpers, lock);
  loop.run();
  lock.lock();
  loops_.erase(std::find(loops_.begin(), loops_.end(), &loop));
  loop.left.wait(lock, [&loop] { return loop.inside == 0; });
}

void ThreadPool::submit(std::function<void()> task) {
  if (workers_ == 0) {
    task();
    return;
  }
  std::unique_lock lock(mutex_);
  tasks_.push_back(std::move(task));
  announce(1, lock);
}

}  // namespace latentwire
