// Memory of transfers: it is found again while a pool is open, and given back when none is.
#include "core/large_memory.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

using latentwire::KeepsLargeMemory;
using latentwire::kept_memory;
using latentwire::large_memory;

namespace {
constexpr size_t mebibyte = size_t{1} << 20;
}

TEST_CASE("large memory is kept while it has a user, and only then") {
  REQUIRE(kept_memory() == 0);
  large_memory(8 * mebibyte).reset();
  CHECK(kept_memory() == 0);
  {
    const KeepsLargeMemory first;
    {
      const KeepsLargeMemory second;
      large_memory(8 * mebibyte).reset();
      CHECK(kept_memory() == 8 * mebibyte);
    }
    CHECK(kept_memory() == 8 * mebibyte);
    large_memory(mebibyte).reset();  // small ones are not kept
    CHECK(kept_memory() == 8 * mebibyte);
  }
  CHECK(kept_memory() == 0);
}

TEST_CASE("a kept block serves the next wish of about its size, each one user at a time") {
  const KeepsLargeMemory user;
  const auto a = large_memory(8 * mebibyte);
  auto b = large_memory(12 * mebibyte);
  const uint8_t* const freed = b.get();
  CHECK(a.get() != b.get());
  CHECK(reinterpret_cast<uintptr_t>(freed) % 64 == 0);
  b.reset();
  CHECK(kept_memory() == 12 * mebibyte);
  const auto small = large_memory(5 * mebibyte);  // too small for it
  CHECK(kept_memory() == 12 * mebibyte);
  const auto large = large_memory(13 * mebibyte);  // too large
  CHECK(kept_memory() == 12 * mebibyte);
  const auto again = large_memory(11 * mebibyte);
  CHECK(again.get() == freed);
  CHECK(kept_memory() == 0);
  std::memset(again.get(), 7, 11 * mebibyte);
}

TEST_CASE("freed memory is zeroed if that is wanted") {
  const KeepsLargeMemory user;
  latentwire::wipe_freed_memory(true);
  auto memory = large_memory(8 * mebibyte);
  std::memset(memory.get(), 7, 8 * mebibyte);
  memory.reset();
  latentwire::wipe_freed_memory(false);
  const auto again = large_memory(8 * mebibyte);
  CHECK(std::all_of(again.get(), again.get() + 8 * mebibyte, [](uint8_t byte) { return byte == 0; }));
}

TEST_CASE("many threads take and free large memory at once") {
  const KeepsLargeMemory user;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([t] {
      for (int i = 0; i < 50; i++) {
        const size_t bytes = (4 + static_cast<size_t>((t + i) % 3)) * mebibyte;
        const auto memory = large_memory(bytes);
        memory.get()[0] = memory.get()[bytes - 1] = static_cast<uint8_t>(t);
        std::this_thread::yield();
        CHECK(memory.get()[0] == t);
        CHECK(memory.get()[bytes - 1] == t);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  // a block of a size is only made while all of that size are in use, so there are never more of them than threads
  CHECK(kept_memory() <= 4 * (4 + 5 + 6) * mebibyte);
}
