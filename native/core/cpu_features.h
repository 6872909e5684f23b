// What the processor offers beyond the baseline, by the names that Linux uses in /proc/cpuinfo.
#pragma once

#include <string>
#include <vector>

namespace latentwire {

std::vector<std::string> cpu_features();

}  // namespace latentwire
