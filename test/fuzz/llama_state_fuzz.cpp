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
  if ((bytes[0] & 8) != 0) geometry.sections = {{1}, {0}};
  geometry.max_cells = 16;

  StateSummary summary;
  if (inspect_state(bytes + 1, size - 1, geometry, &summary).ok()) {
    if (summary.positions.size() != (geometry.sections.empty() ? 1 : 2)) std::abort();
    for (std::vector<int32_t>& positions : summary.positions) {
      std::sort(positions.begin(), positions.end());
      const bool unique = std::adjacent_find(positions.begin(), positions.end()) == positions.end();
      if (!unique || positions.size() > 16 || positions != summary.positions.front()) std::abort();
      if (!positions.empty() && (positions.front() < 0 || positions.back() >= 16)) std::abort();
    }
  }
  StateGeometry learned;
  if (learn_geometry(bytes + 1, size - 1, 2, &learned).ok()) {
    // what was learned reads the state that it was learned from
    learned.max_cells = 1 << 16;
    const Status read = locate_rows(bytes + 1, size - 1, learned, &summary);
    if (!read.ok() && read.code != Code::kv_position && read.code != Code::kv_format) std::abort();
  }
  return 0;
}
