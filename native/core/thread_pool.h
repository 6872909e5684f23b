// The process's one pool of worker threads for short native jobs. Workers sleep when idle (a spinning pool slows everything else on a small
// machine), and the pool is never destroyed, so no exit order can meet a joined thread.
#pragma once

#include <functional>

namespace latentwire {

// Number of workers: LATENTWIRE_THREADS if it is set to 1..256, else the machine's cores less one, at least 1.
int worker_count();

// Runs `task` on a worker; it must not throw.
void run_on_worker(std::function<void()> task);

}  // namespace latentwire
