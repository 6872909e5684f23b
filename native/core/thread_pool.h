// The compute threads of the process, shared by all environments. Workers park on a condition variable, for a service has other work to do
// on its cores; only the last to run dry looks for more for a few microseconds first, so that calls in close sequence wake nobody. The pool
// is made at first use and never destroyed, so no thread is joined while the process ends.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

namespace latentwire {

class ThreadPool {
 public:
  // Work on the half-open range [begin, end). Must not throw.
  using Body = std::function<void(int64_t begin, int64_t end)>;

  // The process's pool. The environment variable LATENTWIRE_THREADS (1 to 256) overrides the number of cores.
  static ThreadPool& get();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Threads that compute in one loop: its caller and the workers, as many as there are cores. With one, a worker exists for tasks and loops
  // leave it alone.
  int threads() const noexcept { return threads_; }

  // Calls `body` on ranges of at most `grain` (at least 1) that cover [0, n), on the calling thread and on idle workers; returns when all
  // are done. May be called from a worker. Workers prefer loops to tasks.
  void parallel_for(int64_t n, int64_t grain, const Body& body);

  // Queues `task` for one worker, first in first out. It must not throw. A long task holds one worker.
  void submit(std::function<void()> task);

 private:
  struct Loop;

  ThreadPool();
  ~ThreadPool() = default;
  void work();
  Loop* open_loop() noexcept;
  bool linger(std::unique_lock<std::mutex>& lock);
  void announce(int64_t helpers, std::unique_lock<std::mutex>& lock);

  int threads_ = 1;
  int workers_ = 0;  // that started: none in a process at its thread limit, and then the callers do the work
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Loop*> loops_;  // on the stacks of their callers
  std::deque<std::function<void()>> tasks_;
  bool lingering_ = false;  // a worker is awake that nobody has counted on yet
  std::atomic<uint64_t> arrivals_{0};
};

}  // namespace latentwire
