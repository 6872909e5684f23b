// The process's one pool of worker threads for short native jobs. Workers sleep when idle (a spinning pool slows everything else on a small
// machine), and the pool is never destroyed, so no exit order can meet a joined thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

namespace latentwire {

class ThreadPool {
 public:
  // Size: LATENTWIRE_THREADS if it is set to 1..256, else the machine's cores less one, at least 1.
  static ThreadPool& get();

  int size() const noexcept { return size_; }

  // Runs `task` on a worker; it must not throw.
  void submit(std::function<void()> task);

  // Calls `body(begin, end)` over [0, n) in pieces of `grain`, on the workers and the calling thread, and returns when all are done. The pieces are
  // the same for every pool size. May be called from a worker.
  void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

 private:
  explicit ThreadPool(int size);
  void work();

  int size_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
};

}  // namespace latentwire
