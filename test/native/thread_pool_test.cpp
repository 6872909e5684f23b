// The thread pool: loops cover their range exactly once, also nested and from many threads, and tasks run while workers are busy.
#include "core/thread_pool.h"

#include <doctest/doctest.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

using namespace latentwire;

namespace {

void check_cover(int64_t n, int64_t grain) {
  std::vector<int> seen(static_cast<size_t>(n), 0);
  std::atomic<int64_t> longest{0};
  ThreadPool::get().parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    int64_t known = longest.load();
    while (end - begin > known && !longest.compare_exchange_weak(known, end - begin)) {
    }
    for (int64_t i = begin; i < end; i++) seen[static_cast<size_t>(i)]++;
  });
  CHECK(longest.load() <= (grain > 0 ? grain : 1));
  for (const int times : seen) REQUIRE(times == 1);
}

}  // namespace

TEST_CASE("parallel_for covers the range once, in pieces of the grain") {
  for (const int64_t n : {0, 1, 2, 7, 64, 1000, 10'007}) {
    for (const int64_t grain : {-1, 1, 3, 64, 5000, 1 << 30}) check_cover(n, grain);
  }
}

TEST_CASE("loops nest and run from several threads at once") {
  std::atomic<int64_t> total{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&total] {
      for (int round = 0; round < 50; round++) {
        ThreadPool::get().parallel_for(20, 1, [&total](int64_t, int64_t) {
          ThreadPool::get().parallel_for(30, 4, [&total](int64_t begin, int64_t end) { total += end - begin; });
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(total.load() == 4 * 50 * 20 * 30);
}

TEST_CASE("tasks run once each, and a loop finishes while tasks hold every worker") {
  const int tasks = ThreadPool::get().threads() + 2;
  std::mutex mutex;
  std::condition_variable changed;
  bool open = false;
  int done = 0;
  for (int i = 0; i < tasks; i++) {
    ThreadPool::get().submit([&] {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return open; });
      done++;
      changed.notify_all();
    });
  }
  check_cover(1000, 10);
  std::unique_lock lock(mutex);
  CHECK(done == 0);
  open = true;
  changed.notify_all();
  changed.wait(lock, [&] { return done == tasks; });
}

TEST_CASE("a task may start a loop") {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::atomic<int64_t> sum{0};
  ThreadPool::get().submit([&] {
    ThreadPool::get().parallel_for(1000, 7, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) sum += i;
    });
    const std::lock_guard lock(mutex);
    done = true;
    changed.notify_all();
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return done; });
  CHECK(sum.load() == 499'500);
}
