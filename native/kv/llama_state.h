// A strict reader of the sequence state that llama.cpp v0.5.0 writes for a plain unified KV cache. llama.cpp itself
// accepts flipped bits, NaN, negative and repeated positions and trailing bytes, allocates by an unchecked count, and
// erases the destination before it looks; so nothing that came from outside reaches it unless it passed here. Layout,
// little-endian and unaligned:
//
//   u32 magic, i32 source sequence, u32 streams (1), u32 cells; if cells > 0:
//   cells x { i32 position, u32 owners (1), [i32 x, i32 y, i32 token], i32 owner }
//   u32 values transposed, u32 layers
//   layers x K: i32 type, u64 row bytes, [cells, row]
//   layers x V: the same, or if transposed: i32 type, u32 element bytes, u32 channels, [channels, cells] elements
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/status.h"

namespace latentwire {

// One layer's share of a cell. Types are ggml_type numbers.
struct StateLayer {
  int32_t key_type = 0;
  uint64_t key_row_bytes = 0;
  int32_t value_type = 0;
  uint64_t value_row_bytes = 0;

  bool operator==(const StateLayer&) const = default;
};

// What a state of the local pool looks like; every size in a foreign state is held against it.
struct StateGeometry {
  std::vector<StateLayer> layers;
  bool transposed_values = false;   // caches without flash attention
  bool extended_positions = false;  // models with more than one position an input row (M-RoPE)
  int64_t max_cells = 0;            // the context length: bounds both the cells and their positions
};

struct StateSummary {
  std::vector<int32_t> positions;  // of the cells, in the order of the state
};

// Reads the geometry off a state that the local pool has just written, which is known to hold `cells` >= 1 cells of
// `layer_count` layers. `max_cells` is left at `cells`. Error: state_mismatch, when the bytes are not of the layout
// above (a sliding-window, recurrent or latent-attention cache) or of a type whose numbers cannot be checked.
Status learn_geometry(const uint8_t* blob, size_t size, int64_t cells, int64_t layer_count, StateGeometry* out);

// Checks a whole state: each size against `local`, the exact length, positions unique and in [0, max_cells), all
// numbers (quantised types: all scales) finite. Allocates in proportion to max_cells only. Errors: state_format (cut
// off, trailing bytes, malformed cells), state_mismatch (made by a pool of another geometry), non_finite. `out` is only
// written on success.
Status inspect_state(const uint8_t* blob, size_t size, const StateGeometry& local, StateSummary* out);

}  // namespace latentwire
