#include "kv/shared_contents.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <unordered_map>

namespace latentwire {
namespace {

struct Shares {
  std::mutex mutex;
  uint64_t made = 0;
  size_t look_at = 64;  // as many contents: look for those that are gone
  // so that a ticket of another process is not taken for one of ours
  std::string process;
  std::unordered_map<std::string, std::weak_ptr<const KvContent>> contents;

  // Where this lies is drawn anew for each process; std::random_device would ask for a newer C library than the binary may need.
  Shares() {
    const auto now = std::chrono::system_clock::now().time_since_epoch().count();
    process = std::to_string(now) + "-" + std::to_string(reinterpret_cast<uintptr_t>(this)) + "-";
  }
};

Shares& shares() {
  static auto* all = new Shares;  // never destroyed: threads may ask until the process ends
  return *all;
}

}  // namespace

std::string ticket_of(const std::shared_ptr<const KvContent>& content) {
  Shares& all = shares();
  const std::lock_guard lock(all.mutex);
  if (all.contents.size() >= all.look_at) {
    for (auto it = all.contents.begin(); it != all.contents.end();) it = it->second.expired() ? all.contents.erase(it) : std::next(it);
    all.look_at = std::max<size_t>(64, 2 * all.contents.size());
  }
  std::string ticket = all.process + std::to_string(all.made++);
  all.contents.emplace(ticket, content);
  return ticket;
}

std::shared_ptr<const KvContent> content_of_ticket(const std::string& ticket) {
  Shares& all = shares();
  const std::lock_guard lock(all.mutex);
  const auto found = all.contents.find(ticket);
  return found == all.contents.end() ? nullptr : found->second.lock();
}

}  // namespace latentwire
