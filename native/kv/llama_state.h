// A strict reader and the writer of the sequence states that llama.cpp v0.5.0 writes for caches of keys and values. llama.cpp itself
// accepts flipped bits, NaN, negative and repeated positions and trailing bytes, allocates by an unchecked count, and
// erases the destination before it looks; so nothing that came from outside reaches it unless it passed here. Layout,
// little-endian and unaligned:
//
//   u32 magic, i32 source sequence, then one or more sections: a model with sliding windows has a cache for its global layers and
//   behind it one for its local layers
//   section: u32 streams, streams x { u32 cells, and if cells > 0:
//     cells x { i32 position, u32 owners (1), [i32 x, i32 y, i32 token], i32 owner }
//     u32 values transposed, u32 layers
//     layers x K: i32 type, u64 row bytes, [cells, row]
//     layers x V: the same, or if transposed: i32 type, u32 element bytes, u32 channels, [channels, cells] elements }
//
// A unified cache has one stream. In others the cells of a sequence lie in one stream, and the rest of them are empty.
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
  std::vector<StateLayer> layers;  // in the order of the model
  // The layers of each section, in the order of the state; empty for one section with all layers in the order of the model.
  std::vector<std::vector<int32_t>> sections;
  uint32_t streams = 1;             // that are written; any number is read
  bool transposed_values = false;   // caches without flash attention
  bool extended_positions = false;  // models with more than one position an input row (M-RoPE)
  int64_t max_cells = 0;            // the context length: bounds both the cells and their positions

  bool operator==(const StateGeometry&) const = default;
};

// Whether one takes a state that the other has written, if it has the cells.
bool same_form(const StateGeometry& a, const StateGeometry& b);

// Where the rows of a state lie.
struct StateSummary {
  std::vector<std::vector<int32_t>> positions;  // [sections][cells], in the order of each section
  std::vector<size_t> parts;  // [2 * layers] offsets: where the keys of layer 0 begin, its values, the keys of layer 1 ...
};

constexpr uint32_t max_streams = 256;

// Reads the geometry off a state that the local pool has just written, which is known to hold `cells` >= 1 cells. Layers are those of the
// first section, then those of the second: which layers of the model these are, states do not say. `max_cells` is left at `cells`. Error:
// kv_layout, when the bytes are not of the layout above (a recurrent or latent-attention cache, or one that has dropped cells) or of a type
// whose numbers cannot be checked.
Status learn_geometry(const uint8_t* blob, size_t size, int64_t cells, StateGeometry* out);

// Checks a whole state: each size against `local`, the exact length, positions unique, in [0, max_cells) and the same in every section, all
// numbers (quantised types: all scales) finite. Allocates in proportion to max_cells only. Errors: kv_truncated, kv_format
// (trailing bytes, malformed), kv_limit (more cells than the context), kv_position, kv_layout (made by a pool of another
// geometry), non_finite. `out` is only written on success.
Status inspect_state(const uint8_t* blob, size_t size, const StateGeometry& local, StateSummary* out);

// The same without a look at the numbers, and each section may hold other positions: for a state that the local pool wrote.
Status locate_rows(const uint8_t* blob, size_t size, const StateGeometry& local, StateSummary* out);

// The exact size of a state of so many cells.
uint64_t state_bytes(const StateGeometry& local, uint64_t cells);

// What a state with cells at `positions`, in this order, has before the rows of each part, and the parts in the order of the state; where
// there is one piece more, it stands behind the last part. Geometries with extended positions have no heads.
struct StateHeads {
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<size_t> parts;  // 2 * layer for keys, 2 * layer + 1 for values
};
StateHeads state_heads(const StateGeometry& local, const std::vector<int32_t>& positions);

// Writes everything of a state but the rows, cells at `positions` in this order, into `blob` of state_bytes bytes. Where the rows of each
// part go is in `parts`, as above: [cells, row], or [channels, cells] for transposed values.
void begin_state(const StateGeometry& local, const std::vector<int32_t>& positions, uint8_t* blob, std::vector<uint8_t*>* parts);

// Whether `blob`, of state_bytes bytes, has these heads, and only rows besides. Where those of each part are is in `parts`, [2 * layers].
bool begins_as(const StateGeometry& local, const std::vector<int32_t>& positions, const uint8_t* blob, std::vector<const uint8_t*>* parts);

}  // namespace latentwire
