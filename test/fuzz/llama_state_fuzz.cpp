// Fuzz target of the state reader. The first byte chooses the local geometry, the rest is the foreign state; what is
// accepted must have unique positions inside the context.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "kv/llama_state.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace latentwire;
  if (size == 0) return 0;
  const bool quantised = (bytes[0] & 1) != 0;
  StateGeometry geometry;
  geometry.layers.assign(2, quantised ? StateLayer{8, 34, 2, 18} : StateLayer{1, 8, 1, 8});
  geometry.transposed_values = (bytes[0] & 2) != 0 && !quantised;
  geometry.extended_positions = (bytes[0] & 4) != 0;
  geometry.max_cells = 16;

  StateSummary summary;
  if (inspect_state(bytes + 1, size - 1, geometry, &summary).ok()) {
    std::sort(summary.positions.begin(), summary.positions.end());
    const bool unique = std::adjacent_find(summary.positions.begin(), summary.positions.end()) == summary.positions.end();
    if (!unique || summary.positions.size() > 16) std::abort();
    if (!summary.positions.empty() && (summary.positions.front() < 0 || summary.positions.back() >= 16)) std::abort();
  }
  StateGeometry learned;
  if (learn_geometry(bytes + 1, size - 1, 2, 2, &learned).ok() && learned.layers.size() != 2) std::abort();
  return 0;
}
