// Y = f(norm(X) W^T): the product of rows with a packed matrix, blocked for the caches and spread over the threads, with the rows'
// normalisation before it and anything else behind it, tile by tile, while both are in cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "core/dtype.h"
#include "core/status.h"
#include "kernels/packed_matrix.h"

namespace latentwire {

// Waking a thread costs what about so many multiplications take: fewer stay on the thread that asks for them.
constexpr int64_t worth_a_thread = int64_t{1} << 20;

enum class RowNorm { none, l2, rms, layer };

struct Rows {
  Dtype dtype = Dtype::f32;  // f32, f16 or bf16
  const void* data = nullptr;
  int64_t count = 0;
  int64_t stride = 0;  // in elements
  int64_t first = 0;   // what messages call the first row

  // `n` of them, from `begin` on.
  Rows part(int64_t begin, int64_t n) const noexcept {
    return {dtype, static_cast<const char*>(data) + static_cast<size_t>(begin * stride) * dtype_size(dtype), n, stride, first + begin};
  }
};

struct RowTreatment {
  RowNorm norm = RowNorm::none;
  float epsilon = 0;             // rms: x / sqrt(mean x^2 + eps); layer: (x - mean) / sqrt(var + eps); l2 divides by max(|x|, 1e-12)
  const float* shift = nullptr;  // [depth], subtracted first
  const float* scale = nullptr;  // [depth], multiplied in after that
};

// A finished part of the product: rows [row, row + rows) and outputs [column, column + columns).
struct ProductTile {
  int64_t row;
  int64_t rows;
  int64_t column;
  int64_t columns;
  float* values;  // may be overwritten
  int64_t stride;
  // |x|^2 of each row as it entered the product, before l2 and rms
  const float* squares;
};
using TileSink = std::function<void(const ProductTile&)>;

// Calls `sink` for tiles that cover the product, from several threads at once. Tiles of one row block come in order of columns when
// `whole_rows` is set, on one thread. Rows of zeros give zeros under every norm. The result of a row depends on nothing but that row, the
// matrix and the instruction set: not on its neighbours nor on the number of threads. Fails with invalid_argument (depths differ), dtype,
// non_finite (which row; the sink has seen tiles by then), cancelled or out_of_memory.
Status multiply(const Rows& x, const RowTreatment& treatment, const PackedMatrix& w, bool whole_rows, const TileSink& sink,
                const std::atomic<bool>* cancel = nullptr);

// The same with sums of |x - w| in place of products: L1 distances. For a treatment without a norm and a matrix of floats; fails with
// invalid_argument for others.
Status l1_distances(const Rows& x, const RowTreatment& treatment, const PackedMatrix& w, bool whole_rows, const TileSink& sink,
                    const std::atomic<bool>* cancel = nullptr);

}  // namespace latentwire
