// Head by head: keys and values of a head are packed, its scores of all queries are one product, and what they weigh is another.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <numbers>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/packed_matrix.h"
#include "kernels/product.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

constexpr int64_t block_rows = 16;

// Writes the product to `out`, whose rows lie `stride` apart.
TileSink copy_to(float* out, int64_t stride) {
  return [out, stride](const ProductTile& tile) {
    for (int64_t r = 0; r < tile.rows; r++)
      std::copy_n(tile.values + r * tile.stride, tile.columns, out + (tile.row + r) * stride + tile.column);
  };
}

void softmax(float* scores, int64_t n) noexcept {
  const Kernels& table = kernels();
  const float largest = *std::max_element(scores, scores + n);
  table.thought.exponentials(scores, n, largest, std::numbers::log2e_v<float>, 1, scores);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += static_cast<double>(scores[i]);
  table.rows.affine(scores, n, static_cast<float>(1 / sum), 0, scores);
}

}  // namespace

Status attend(const Attention& input, const std::atomic<bool>* cancel, float* out) {
  const auto& [queries, n, keys, values, m, columns, heads] = input;
  if (n < 0 || m < 1 || columns < 1 || heads < 1 || columns % heads != 0)
    return Status::fail(Code::invalid_argument, "attention needs at least one row, and columns that are a multiple of its heads");
  const int64_t width = columns / heads;
  const std::unique_ptr<float[]> scores(new (std::nothrow) float[static_cast<size_t>(std::max<int64_t>(n * m, 1))]);
  if (!scores) return Status::fail(Code::out_of_memory, "no memory for the scores of a head");
  try {
    const std::vector<float> scale(static_cast<size_t>(width), static_cast<float>(1 / std::sqrt(static_cast<double>(width))));
    for (int64_t first = 0; first < columns; first += width) {
      std::shared_ptr<const PackedMatrix> packed;
      PackedMatrix::Adjust scaled;
      scaled.depth_scale = scale.data();
      if (Status status = PackedMatrix::pack({Dtype::f32, keys + first, m, width, columns, 1}, Dtype::f32, scaled, &packed); !status.ok())
        return status;
      const Rows asked{Dtype::f32, queries + first, n, columns};
      if (Status status = multiply(asked, {}, *packed, false, copy_to(scores.get(), m), cancel); !status.ok()) return status;
      ThreadPool::get().parallel_for(n, block_rows, [&, rows = m](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) softmax(scores.get() + i * rows, rows);
      });
      if (Status status = PackedMatrix::pack({Dtype::f32, values + first, width, m, 1, columns}, Dtype::f32, {}, &packed); !status.ok())
        return status;
      const Rows weights{Dtype::f32, scores.get(), n, m};
      if (Status status = multiply(weights, {}, *packed, false, copy_to(out + first, columns), cancel); !status.ok()) return status;
    }
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for a head");
  }
}

}  // namespace latentwire
