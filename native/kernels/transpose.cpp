#include "kernels/transpose.h"

#include <algorithm>

#include "core/thread_pool.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

// As in tile.cpp: what does not stay in a cache anyway.
constexpr int64_t stream_from = int64_t{4} << 20;
// Bytes that are worth another thread, and that one piece of the work has at least.
constexpr int64_t parallel_from = int64_t{1} << 20;
constexpr int64_t piece_bytes = int64_t{1} << 18;
// Pieces of short elements are whole tiles of the kernels, or lines of the output would be written in parts.
constexpr int64_t tile_rows = 32;

TransposeKernel kernel_for(int64_t bytes) noexcept {
  const TransposeKernels& k = kernels().transpose;
  return bytes == 2 ? k.two_bytes : bytes == 4 ? k.four_bytes : k.any;
}

}  // namespace

Status transpose(const Transpose& matrix, const void* from, void* to, const std::atomic<bool>* cancel) {
  TransposeShape all{};
  all.rows = matrix.rows;
  all.columns = matrix.columns;
  all.bytes = matrix.bytes;
  if (all.rows < 0 || all.columns < 0 || all.bytes < 1)
    return Status::fail(Code::invalid_argument, "rows and columns must not be negative, and elements not empty");
  all.from_stride = matrix.from_stride != 0 ? matrix.from_stride : all.columns * all.bytes;
  all.to_stride = matrix.to_stride != 0 ? matrix.to_stride : all.rows * all.bytes;
  if (all.from_stride < all.columns * all.bytes || all.to_stride < all.rows * all.bytes)
    return Status::fail(Code::invalid_argument, "rows must not overlap");
  const int64_t total = all.rows * all.columns * all.bytes;
  if (total == 0) return {};
  all.stream = total >= stream_from;
  const TransposeKernel kernel = kernel_for(all.bytes);
  // pieces of the longer axis
  const bool wide = all.columns > all.rows;
  const int64_t length = wide ? all.columns : all.rows;
  const int64_t unit = all.bytes < 8 ? tile_rows : 1;
  const int64_t each = (piece_bytes * length / total / unit + 1) * unit;
  const int64_t pieces = (length + each - 1) / each;
  std::atomic<bool> stopped{false};
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
        stopped.store(true, std::memory_order_relaxed);
        break;
      }
      const int64_t first = i * each;
      TransposeShape piece = all;
      (wide ? piece.columns : piece.rows) = std::min(each, length - first);
      kernel(piece, static_cast<const uint8_t*>(from) + first * (wide ? all.bytes : all.from_stride),
             static_cast<uint8_t*>(to) + first * (wide ? all.to_stride : all.bytes));
    }
    kernels().stats.fence();
  };
  if (total < parallel_from)
    run(0, pieces);
  else
    ThreadPool::get().parallel_for(pieces, 1, run);
  return stopped ? Status::fail(Code::cancelled, "the transpose was cancelled") : Status{};
}

}  // namespace latentwire
