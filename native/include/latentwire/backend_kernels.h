// Arguments of an accelerator's kernels, part of the ABI in backend.h. They compute what native/kernels and native/kv/rope.h compute, and
// the words mean the same there; where it matters, shapes and what is kept in which type is said here. Pointers are to device memory
// unless they say host; what a host pointer points to is read before the call returns. Strides count elements, and nothing overlaps.
#ifndef LATENTWIRE_BACKEND_KERNELS_H
#define LATENTWIRE_BACKEND_KERNELS_H

#include <stdint.h>

typedef enum latent_dtype { latent_f32 = 0, latent_f16 = 1, latent_bf16 = 2 } latent_dtype;

// --- Products: native/kernels/{cosine,project,codebook}.h ------------------------------------------------------------------------------

typedef struct latent_rows {
  const void* data;
  int64_t count;
  int64_t stride;
  int32_t dtype;
  int32_t reserved;
} latent_rows;

// A fixed operand [outputs, depth], made by `pack`. No data: there is none.
typedef struct latent_matrix {
  const void* data;
  int64_t outputs;
  int64_t depth;
  const float* sums;     // [outputs]: LayerNorm needs it
  const float* squares;  // [outputs]: distances need it
  int32_t dtype;
  int32_t reserved;
} latent_matrix;

// w[j, k] becomes (w[j, k] - shift[k]) * depth_scale[k], divided by its norm where `unit` is set.
typedef struct latent_pack_args {
  const void* source;  // [outputs, depth] by strides
  int64_t outputs;
  int64_t depth;
  int64_t output_stride;
  int64_t depth_stride;
  const float* shift;        // [depth] or none
  const float* depth_scale;  // [depth] or none
  int32_t dtype;             // of the source
  int32_t storage;           // of what is kept
  int32_t unit;
  int32_t reserved;
  void* data;      // packed_bytes, at a multiple of 128
  float* sums;     // [outputs] or none
  float* squares;  // [outputs] or none
  // projected[j] = offset[j] + sum_k vector[k] w[j, k] of the source as it is; `vector` none: not wanted, `offset` may be none
  const float* vector;
  const float* offset;
  float* projected;     // [outputs]
  int32_t* bad_output;  // lowered to the first output that is not finite as it is kept; INT32_MAX before
} latent_pack_args;

typedef enum latent_similarity {
  latent_cosine = 0,
  latent_angular = 1,
  latent_inner = 2,
  latent_squared_euclidean = 3,
  latent_euclidean = 4,
  latent_l1 = 5
} latent_similarity;

typedef struct latent_cosine_args {
  latent_rows x;            // [n, d]
  latent_matrix anchors;    // with `unit` for cosine and angular, with `squares` for the Euclidean ones; treated as rows are
  latent_matrix whitening;  // f32 [width, d] or none: x becomes (x - mean) W'
  const float* mean;        // [d], with a whitening
  const float* centre;      // [width] or none: then x becomes (x - centre) * scale
  const float* scale;       // [width] or none
  float* r;                 // [n, anchors] without gaps; unless k > 0
  int32_t* indices;         // [n, k]
  float* values;            // [n, k]
  int64_t k;
  int32_t* bad_row;  // lowered to the first row with a similarity that is not finite; INT32_MAX before
  int32_t similarity;
  int32_t reserved;
} latent_cosine_args;

typedef enum latent_norm { latent_no_norm = 0, latent_l2 = 1, latent_rms = 2, latent_layer = 3 } latent_norm;
typedef enum latent_activation { latent_identity = 0, latent_gelu = 1, latent_silu = 2, latent_tanh = 3 } latent_activation;
typedef enum latent_rescale { latent_no_rescale = 0, latent_to_norm = 1, latent_residual = 2 } latent_rescale;

typedef struct latent_projection_args {
  latent_rows x;            // [n, inputs]
  latent_matrix first;      // [outputs, inputs], with the norm's weight as depth_scale; with `sums` for LayerNorm
  latent_matrix second;     // or none
  const float* first_bias;  // [outputs] or none, with the norm's bias folded in
  const float* second_bias;
  float* y;          // [n, outputs] without gaps
  int32_t* bad_row;  // as of latent_cosine_args
  int32_t norm;
  int32_t activation;
  int32_t rescale;
  float epsilon;
  float target_norm;
  int32_t reserved;
} latent_projection_args;

typedef struct latent_codeword_args {
  latent_rows x;            // [n, d]
  latent_matrix codewords;  // with `squares`
  int32_t* indices;         // [n]
  float* distances;         // [n] or none
  int32_t* bad_row;         // as of latent_cosine_args
} latent_codeword_args;

// --- Thought steps: native/kernels/thought.h -------------------------------------------------------------------------------------------

typedef enum latent_row_format {
  latent_row_f32 = 0,
  latent_row_f16 = 1,
  latent_row_bf16 = 2,
  latent_row_q8_0 = 3,
  latent_row_q4_0 = 4,
  latent_row_q4_K = 5,
  latent_row_q6_K = 6
} latent_row_format;
typedef enum latent_noise { latent_no_noise = 0, latent_gumbel = 1, latent_dirichlet = 2 } latent_noise;
typedef enum latent_thought_fault {
  latent_no_fault = 0,
  latent_bad_logit = 1,  // NaN or +infinity
  latent_no_token = 2,   // none has a logit above -infinity
  latent_bad_sum = 3     // e is not finite
} latent_thought_fault;

typedef struct latent_thought_stats {
  double entropy_bits;
  double max_p;
  double n_eff;
  int64_t selected;
  int32_t argmax;
  int32_t reserved;
} latent_thought_stats;

typedef struct latent_thought_args {
  const void* table;  // rows of tokens
  int64_t count;
  int64_t width;
  int64_t row_bytes;
  const void* logits;  // [batch, count] without gaps
  int64_t batch;
  const uint32_t* masked;  // [ceil(count / 32)] bits, lowest first, or none
  int64_t top_k;
  double top_p;
  const int32_t* tokens;        // [batch], if `token` is not 0; within the table
  const float* extras;          // [batch, width], if `extra` is not 0
  const uint64_t* draws;        // [batch, 2]: seed and step, if there is noise
  float* out;                   // [batch, width]
  latent_thought_stats* stats;  // [batch]
  int32_t* ids;                 // [batch, room] or none; room = min(top_k, count), or count where top_k is 0; `selected` are written
  float* weights;               // with ids
  int32_t* faults;              // [batch] of latent_thought_fault
  float token;
  float mix;
  float extra;
  float temperature;
  float noise_amount;
  float norm;      // below 0: as it comes
  int32_t format;  // of the table
  int32_t dtype;   // of the logits
  int32_t noise;
  int32_t unit_mix;
} latent_thought_args;

// --- Tiles: native/kernels/tile.h ------------------------------------------------------------------------------------------------------

typedef enum latent_tile_code { latent_fp8 = 0, latent_i8 = 1, latent_i4 = 2, latent_i4_zero = 3 } latent_tile_code;
typedef enum latent_tile_scale { latent_scale_f32 = 0, latent_scale_f16 = 1, latent_scale_ue8m0 = 2 } latent_tile_scale;

typedef struct latent_tile_part {
  void* numbers;   // const for quantise
  uint8_t* codes;  // [rows, row bytes]; this and the next two const for dequantise
  void* scales;    // [rows, groups]
  void* minima;    // [rows, groups], i4_zero only
} latent_tile_part;

// What `first_bad` holds after all rows were coded.
#define LATENT_NO_BAD_ROW INT64_C(0x7F7F7F7F7F7F7F7F)

typedef struct latent_tile_args {
  const latent_tile_part* parts;  // host [part_count]
  int64_t part_count;
  int64_t rows;
  int64_t columns;
  int64_t stride;        // of the numbers
  const int32_t* cells;  // [rows]: row i of the numbers lies at row cells[i]; none: at i
  int64_t* first_bad;    // quantise: part * rows + row of the first row that has no codes, or LATENT_NO_BAD_ROW
  int32_t code;
  int32_t scale;
  int32_t group;
  int32_t dtype;  // of the numbers
} latent_tile_args;

typedef struct latent_hadamard_args {
  float* x;  // [rows, columns] without gaps, in place
  int64_t rows;
  int64_t columns;
  int64_t block;
} latent_hadamard_args;

// --- Cells of KV caches, rotary positions, digests -------------------------------------------------------------------------------------

typedef struct latent_cell_part {
  const void* from;
  void* to;
} latent_cell_part;

typedef struct latent_cell_args {
  const latent_cell_part* parts;  // host [part_count]
  int64_t part_count;
  int64_t count;
  int64_t row_bytes;
  int64_t from_stride;        // bytes
  int64_t to_stride;          // bytes
  const int32_t* from_cells;  // [count] or none: 0, 1, 2 ...
  const int32_t* to_cells;    // [count], no cell twice, or none
} latent_cell_args;

// Values that lie as [channels, cells]: element (channel, cells[i]) of `from` goes to (i, channel) of `to`, or back where `scatter` is set.
typedef struct latent_transposed_cell_args {
  const latent_cell_part* parts;  // host [part_count]
  int64_t part_count;
  int64_t count;
  int64_t channels;
  int64_t channel_stride;
  int64_t row_stride;
  const int32_t* cells;   // [count] or none
  int32_t element_bytes;  // 2 or 4
  int32_t scatter;
} latent_transposed_cell_args;

typedef enum latent_rope_pairs { latent_neox = 0, latent_norm_pairs = 1 } latent_rope_pairs;

typedef struct latent_rope_args {
  void* const* rows;  // host [part_count]: [count, heads, head_dim] each, turned in place
  int64_t part_count;
  const double* frequencies;  // [rotated / 2]
  const int32_t* shifts;      // [count]
  const int32_t* cells;       // [count], no cell twice: where row i lies; none: at i
  int64_t count;
  int64_t heads;
  int64_t stride;
  int32_t pairs;
  int32_t head_dim;
  int32_t rotated;
  int32_t dtype;
} latent_rope_args;

// Rows as caches store them: f32, f16, bf16, q8_0 (numbers are its scales) or q4_0.
typedef struct latent_finite_args {
  const void* const* parts;  // host [part_count]: [rows, row_bytes] without gaps, each at a multiple of its numbers' size
  int64_t part_count;
  int64_t rows;
  int64_t row_bytes;   // whole blocks
  int64_t* first_bad;  // lowered to part * rows + row of the first row that holds NaN or an infinity; LATENT_NO_BAD_ROW before
  int32_t format;      // of latent_row_format
  int32_t reserved;
} latent_finite_args;

typedef struct latent_digest_args {
  const void* data;   // at a multiple of 16
  int64_t count;      // tiles
  int64_t bytes;      // of a tile: above 240, a multiple of 16
  int64_t stride;     // bytes, a multiple of 16
  uint64_t* digests;  // [count, 2]: low, high
} latent_digest_args;

#endif
