// The memory-bound kernels: thought steps, tiles of codes, cells of KV caches, rotary positions and digests. All pointers are to device
// memory unless they say host; functions launch on the stream and return, never allocate and never wait, and may be captured in graphs.
// Results are the same bits whatever else the device does. cudaErrorInvalidValue: sizes that fit no kernel, which the CPU takes.
#pragma once

#include <cstdint>

#include "device.h"

namespace latentwire::cuda {

// --- Thought step: native/kernels/thought.h --------------------------------------------------------------------------------------------

enum class RowFormat : int32_t { f32, f16, bf16, q8_0, q4_0, q4_K, q6_K };

// A table with a row for each token.
struct TokenTable {
  RowFormat format = RowFormat::f32;
  const void* data = nullptr;  // numbers at multiples of their size, blocks of ggml anywhere
  int64_t count = 0;           // rows, below 2^31
  int64_t width = 0;           // columns; whole blocks
  int64_t row_bytes = 0;       // from row to row
};

enum class ThoughtNoise : int32_t { none, gumbel, dirichlet };

struct ThoughtStats {
  double entropy_bits;
  double max_p;
  double n_eff;
  int64_t selected;
  int32_t argmax;
  int32_t unused;
};

// What became of a row. Of a row with a fault, outputs are unspecified.
enum class ThoughtFault : int32_t { none, bad_logit, no_token, bad_sum };

struct ThoughtArgs {
  TokenTable table;
  int64_t batch = 0;
  Dtype dtype = Dtype::f32;      // of the logits
  const void* logits = nullptr;  // [batch, count]; -infinity is legal
  int64_t logit_stride = 0;      // elements
  // [ceil(count / 32)] bits, lowest first: tokens that count as -infinity. Or nullptr.
  const uint32_t* masked = nullptr;

  float token = 1;  // a of e = a E[token] + b sum of p_v E_v + c extra
  float mix = 0;    // b
  float extra = 0;  // c
  float temperature = 1;
  int64_t top_k = 0;  // 0: all
  double top_p = 1;
  ThoughtNoise noise = ThoughtNoise::none;
  float noise_amount = 1;
  bool unit_mix = false;
  float norm = -1;  // brings e to this length; below 0: leaves it as it is

  const int32_t* tokens = nullptr;  // [batch], used if `token` is not 0; one outside of the table is a bad_sum
  const float* extras = nullptr;    // [batch, width], used if `extra` is not 0
  const uint64_t* draws = nullptr;  // [batch, 2]: seed and step; used if there is noise
  float* out = nullptr;             // [batch, width], or nullptr
  ThoughtStats* stats = nullptr;    // [batch], or nullptr
  // [batch, room] each, or nullptr: ids ascending, of which `selected` are written; room = min(top_k, count), or count where top_k is 0.
  int32_t* ids = nullptr;
  float* weights = nullptr;
  ThoughtFault* faults = nullptr;  // [batch]
  void* workspace = nullptr;       // thought_workspace bytes, at a multiple of 256; its content does not matter
};

// Two launches (three before Hopper). The sums of a mix of all tokens are made row by row of the batch.
size_t thought_workspace(const ThoughtArgs& args) noexcept;
cudaError_t thought_steps(const ThoughtArgs& args, cudaStream_t stream) noexcept;

// --- Tiles: native/kernels/tile.h ------------------------------------------------------------------------------------------------------

enum class TileCode : int32_t { fp8, i8, i4, i4_zero };
enum class TileScale : int32_t { f32, f16, ue8m0 };

struct TileFormat {
  TileCode code = TileCode::i8;
  TileScale scale = TileScale::f16;  // fp8: f32 or ue8m0; the others: f32 or f16
  int32_t group = 128;               // 32, 64 or 128

  constexpr int code_bits() const noexcept { return code == TileCode::fp8 || code == TileCode::i8 ? 8 : 4; }
  constexpr int64_t scale_bytes() const noexcept { return scale == TileScale::f32 ? 4 : scale == TileScale::f16 ? 2 : 1; }
  constexpr bool has_minima() const noexcept { return code == TileCode::i4_zero; }
  constexpr int64_t groups(int64_t columns) const noexcept { return ceil_div<int64_t>(columns, group); }
  constexpr int64_t row_code_bytes(int64_t columns) const noexcept { return (columns * code_bits() + 7) / 8; }
  constexpr int64_t row_scale_bytes(int64_t columns) const noexcept { return groups(columns) * scale_bytes(); }
};

// Rows of numbers and of codes: keys or values of a layer, or any matrix. Codes, scales and minima have no gaps.
struct TilePart {
  void* numbers = nullptr;   // const for quantise
  uint8_t* codes = nullptr;  // [rows, row_code_bytes]; this and the next two const for dequantise
  void* scales = nullptr;    // [rows, groups]
  void* minima = nullptr;    // [rows, groups], i4_zero only
};

struct TileArgs {
  TileFormat format;
  Dtype dtype = Dtype::f32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;               // of numbers, in elements
  const int32_t* cells = nullptr;   // [rows]: row i of the numbers lies at row cells[i]. nullptr: at i
  const TilePart* parts = nullptr;  // host [part_count], with the same cells in all of them; read before the call returns
  int64_t part_count = 1;
  // Quantise: gets part * rows + row of the first row that holds NaN, an infinity or a number too large for the type of its scale, or
  // no_bad_row. Rows from there on are unspecified.
  int64_t* first_bad = nullptr;
};
constexpr int64_t no_bad_row = 0x7F7F'7F7F'7F7F'7F7F;

// The bits that the CPU kernels give.
cudaError_t quantise(const TileArgs& args, cudaStream_t stream) noexcept;
cudaError_t dequantise(const TileArgs& args, cudaStream_t stream) noexcept;

struct HadamardArgs {
  float* x = nullptr;  // [rows, columns], in place
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // elements
  int64_t block = 1;   // a power of two, at most largest_hadamard, that divides the columns
};
constexpr int64_t largest_hadamard = 8192;
cudaError_t hadamard(const HadamardArgs& args, cudaStream_t stream) noexcept;

// --- Cells of KV caches ----------------------------------------------------------------------------------------------------------------

struct CellPart {
  const void* from = nullptr;
  void* to = nullptr;
};

struct CellArgs {
  int64_t count = 0;
  int64_t row_bytes = 0;
  int64_t from_stride = 0;  // bytes from cell to cell
  int64_t to_stride = 0;
  const int32_t* from_cells = nullptr;  // [count]: gather; nullptr: cells 0, 1, 2 ...
  const int32_t* to_cells = nullptr;    // [count]: scatter; no cell twice
  const CellPart* parts = nullptr;      // host [part_count]: layers' keys and values; read before the call returns
  int64_t part_count = 1;
};

// Copies rows of cells. `from` and `to` do not overlap.
cudaError_t copy_cells(const CellArgs& args, cudaStream_t stream) noexcept;

// Values that lie as [channels, cells], as caches without flash attention have them: element (channel, from_cells[i]) of `from` goes to
// (i, channel) of `to`, or the other way where `scatter` is set.
struct TransposedCellArgs {
  int64_t count = 0;
  int64_t channels = 0;
  int32_t element_bytes = 2;       // 2 or 4
  int64_t channel_stride = 0;      // elements from channel to channel of the cache
  int64_t row_stride = 0;          // elements from row to row
  const int32_t* cells = nullptr;  // [count]; nullptr: cells 0, 1, 2 ...
  bool scatter = false;
  const CellPart* parts = nullptr;  // host [part_count]
  int64_t part_count = 1;
};
cudaError_t copy_transposed_cells(const TransposedCellArgs& args, cudaStream_t stream) noexcept;

// --- Rotary positions: native/kv/rope.h ------------------------------------------------------------------------------------------------

enum class RopePairs : int32_t { neox, norm };

struct RopeArgs {
  RopePairs pairs = RopePairs::neox;
  int32_t head_dim = 0;
  int32_t rotated = 0;                  // even, at most head_dim
  const double* frequencies = nullptr;  // [rotated / 2], radians a position
  const int32_t* shifts = nullptr;      // [count]
  const int32_t* cells = nullptr;       // [count], no cell twice: where row i lies; nullptr: at i
  int64_t count = 0;
  int64_t heads = 0;
  int64_t stride = 0;  // elements from row to row, at least heads * head_dim
  Dtype dtype = Dtype::f32;
  void* const* rows = nullptr;  // host [part_count]: keys of layers with the same frequencies, turned in place
  int64_t part_count = 1;
  void* workspace = nullptr;  // rope_workspace bytes, at a multiple of 16
};
// Two launches: cosines and sines of all rows by f64 angles, then the turn in f32.
size_t rope_workspace(const RopeArgs& args) noexcept;
cudaError_t rope_shift(const RopeArgs& args, cudaStream_t stream) noexcept;

// --- Rows that came from elsewhere: native/kv/finite.h ---------------------------------------------------------------------------------

struct FiniteArgs {
  RowFormat format = RowFormat::f16;   // f32, f16, bf16, q8_0 or q4_0
  const void* const* parts = nullptr;  // host [part_count]: [rows, row_bytes] without gaps; read before the call returns
  int64_t part_count = 1;
  int64_t rows = 0;
  int64_t row_bytes = 0;         // whole blocks
  int64_t* first_bad = nullptr;  // lowered to part * rows + row of the first row with NaN or an infinity; no_bad_row before
};
cudaError_t find_non_finite(const FiniteArgs& args, cudaStream_t stream) noexcept;

// --- Digests: native/kernels/stats.h ---------------------------------------------------------------------------------------------------

struct Digest128 {
  uint64_t low;
  uint64_t high;
};

struct DigestArgs {
  const void* data = nullptr;    // at a multiple of 16
  int64_t count = 0;             // tiles
  int64_t bytes = 0;             // of a tile: above 240, a multiple of 16
  int64_t stride = 0;            // bytes from tile to tile, a multiple of 16
  Digest128* digests = nullptr;  // [count]
};
// XXH3 of 128 bits with the default secret. A tile is a chain that one warp follows: many tiles at once are fast, one is not.
cudaError_t digest_tiles(const DigestArgs& args, cudaStream_t stream) noexcept;

}  // namespace latentwire::cuda
