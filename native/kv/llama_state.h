// A strict reader and the writer of the sequence state that llama.cpp v0.5.0 writes for a plain unified KV cache. llama.cpp itself
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
  std::vector<size_t> parts;       // [2 * layers] offsets: where the keys of layer 0 begin, its values, the keys of layer 1 ...
};

// Reads the geometry off a state that the local pool has just written, which is known to hold `cells` >= 1 cells of
// `layer_count` layers. `max_cells` is left at `cells`. Error: kv_layout, when the bytes are not of the layout
// above (a sliding-window, recurrent or latent-attention cache) or of a type whose numbers cannot be checked.
Status learn_geometry(const uint8_t* blob, size_t size, int64_t cells, int64_t layer_count, StateGeometry* out);

// Checks a whole state: each size against `local`, the exact length, positions unique and in [0, max_cells), all
// numbers (quantised types: all scales) finite. Allocates in proportion to max_cells only. Errors: kv_truncated, kv_format
// (trailing bytes, malformed), kv_limit (more cells than the context), kv_position, kv_layout (made by a pool of another
// geometry), non_finite. `out` is only written on success.
Status inspect_state(const uint8_t* blob, size_t size, const StateGeometry& local, StateSummary* out);

// The same without a look at the numbers: for a state that the local pool wrote.
Status locate_rows(const uint8_t* blob, size_t size, const StateGeometry& local, StateSummary* out);

// The exact size of a state of so many cells.
uint64_t state_bytes(const StateGeometry& local, uint64_t cells);

// What a state with cells at `positions`, in this order, has before the rows of each part, and the parts in the order of the state: the
// keys of every layer, then the values. Without cells it is one piece before no part. Geometries with transposed values or extended
// positions have no heads.
struct StateHeads {
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<size_t> parts;  // 2 * layer for keys, 2 * layer + 1 for values
};
StateHeads state_heads(const StateGeometry& local, const std::vector<int32_t>& positions);

// Writes everything of a state but the rows into `blob` of state_bytes bytes. Where the rows of each part go is in `parts`, [2 * layers].
void begin_state(const StateGeometry& local, const std::vector<int32_t>& positions, uint8_t* blob, std::vector<uint8_t*>* parts);

// Whether `blob`, of state_bytes bytes, has these heads, and only rows besides. Where those of each part are is in `parts`, [2 * layers].
bool begins_as(const StateGeometry& local, const std::vector<int32_t>& positions, const uint8_t* blob, std::vector<const uint8_t*>* parts);

}  // namespace latentwire
