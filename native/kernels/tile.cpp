#include "kernels/tile.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "core/atomic_least.h"
#include "core/thread_pool.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

// Outputs of megabytes do not stay in a cache anyway: they are written past it where that pays. Intel's processors read a line before
// ordinary stores overwrite it; AMD's take up to a third less time for tiles with ordinary stores.
bool streams([[maybe_unused]] int64_t bytes) noexcept {
#if defined(__x86_64__)
  constexpr int64_t stream_from = int64_t{4} << 20;
  return bytes >= stream_from && __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

// Elements that are worth another thread, and that one piece of the work has at least.
constexpr int64_t parallel_from = int64_t{1} << 19;
constexpr int64_t piece_elements = int64_t{1} << 16;

// Only after a check that it is one of the three.
size_t dtype_index(Dtype dtype) noexcept { return static_cast<size_t>(dtype); }
static_assert(static_cast<int>(Dtype::f32) == 0 && static_cast<int>(Dtype::f16) == 1 && static_cast<int>(Dtype::bf16) == 2);

Status check(const TileFormat& format, Dtype dtype, int64_t rows, int64_t columns) {
  if (!format.valid())
    return Status::fail(Code::invalid_argument, "groups have 32, 64 or 128 elements; fp8 has f32 or ue8m0 scales, the others f32 or f16");
  if (!is_float(dtype)) return Status::fail(Code::dtype, "rows must be f32, f16 or bf16");
  if (rows < 0 || columns < 0) return Status::fail(Code::invalid_argument, "rows and columns must not be negative");
  return {};
}

TileRows describe(const TileFormat& format, int64_t columns, int64_t stride, bool stream) noexcept {
  TileRows t{};
  t.columns = columns;
  t.stride = stride;
  t.group_shift = std::countr_zero(static_cast<uint64_t>(format.group));
  t.scale = format.scale;
  t.code_row = format.row_code_bytes(columns);
  t.groups = format.groups(columns);
  t.stream = stream;
  return t;
}

// `count` rows as the kernels take them. Where neither a gap nor a part of a group or of a byte lies between rows, they are one long row:
// short rows by themselves would cost more to begin with than to go through.
TileRows piece(const TileRows& all, const TileFormat& format, int64_t count) noexcept {
  TileRows t = all;
  t.rows = count;
  if (t.stride != t.columns || t.columns % format.group != 0) return t;
  t.rows = 1;
  t.columns *= count;
  t.stride *= count;
  t.code_row *= count;
  t.groups *= count;
  return t;
}

// Calls work(first, count) for pieces of the rows, on several threads if there is enough to do. False if cancelled.
template <class Work>
bool by_pieces(int64_t rows, int64_t columns, const std::atomic<bool>* cancel, const Work& work) {
  const int64_t each = std::max<int64_t>(piece_elements / std::max<int64_t>(columns, 1), 1);
  const int64_t pieces = (rows + each - 1) / each;
  std::atomic<bool> stopped{false};
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
        stopped.store(true, std::memory_order_relaxed);
        return;
      }
      work(i * each, std::min(each, rows - i * each));
    }
  };
  if (rows * columns < parallel_from)
    run(0, pieces);
  else
    ThreadPool::get().parallel_for(pieces, 1, run);
  return !stopped;
}

}  // namespace

Status quantise(const Rows& x, int64_t columns, const TileFormat& format, const Tiles& out, const std::atomic<bool>* cancel) {
  if (Status status = check(format, x.dtype, x.count, columns); !status.ok()) return status;
  if (x.count == 0 || columns == 0) return {};
  const QuantiseTiles kernel = kernels().tiles.quantise[dtype_index(x.dtype)][static_cast<size_t>(format.code)];
  const TileRows all = describe(format, columns, x.stride, streams(x.count * format.row_code_bytes(columns)));
  const int64_t row_bytes = x.stride * static_cast<int64_t>(dtype_size(x.dtype));
  const int64_t scale_row = format.row_scale_bytes(columns);
  std::atomic<int64_t> bad{std::numeric_limits<int64_t>::max()};
  const bool finished = by_pieces(x.count, columns, cancel, [&](int64_t first, int64_t count) {
    const auto encode = [&](const TileRows& t) {
      return kernel(t, static_cast<const char*>(x.data) + first * row_bytes, out.codes + first * all.code_row,
                    static_cast<char*>(out.scales) + first * scale_row,
                    format.has_minima() ? static_cast<char*>(out.minima) + first * scale_row : nullptr);
    };
    const TileRows joined = piece(all, format, count);
    if (encode(joined) == joined.rows) return;
    // again, for the row
    TileRows single = all;
    single.rows = count;
    keep_least(bad, first + encode(single));
  });
  if (!finished) return Status::fail(Code::cancelled, "the quantisation was cancelled");
  if (const int64_t row = bad; row < x.count)
    return Status::fail(Code::non_finite,
                        "row " + std::to_string(x.first + row) + " holds NaN, an infinity or a number too large for the scale's type");
  return {};
}

Status dequantise(const TileFormat& format, const ConstTiles& tiles, int64_t rows, int64_t columns, Dtype dtype, void* y, int64_t stride,
                  const std::atomic<bool>* cancel) {
  if (Status status = check(format, dtype, rows, columns); !status.ok()) return status;
  if (rows == 0 || columns == 0) return {};
  const DequantiseTiles kernel = kernels().tiles.dequantise[static_cast<size_t>(format.code)][dtype_index(dtype)];
  const auto size = static_cast<int64_t>(dtype_size(dtype));
  const TileRows all = describe(format, columns, stride, streams(rows * columns * size));
  const int64_t scale_row = format.row_scale_bytes(columns);
  const bool finished = by_pieces(rows, columns, cancel, [&](int64_t first, int64_t count) {
    kernel(piece(all, format, count), tiles.codes + first * all.code_row, static_cast<const char*>(tiles.scales) + first * scale_row,
           format.has_minima() ? static_cast<const char*>(tiles.minima) + first * scale_row : nullptr,
           static_cast<char*>(y) + first * stride * size);
  });
  return finished ? Status{} : Status::fail(Code::cancelled, "the dequantisation was cancelled");
}

Status hadamard(float* x, int64_t rows, int64_t columns, int64_t stride, int64_t block) {
  if (rows < 0 || columns < 0 || block < 1 || !std::has_single_bit(static_cast<uint64_t>(block)) || columns % block != 0)
    return Status::fail(Code::invalid_argument, "the block must be a power of two that divides the columns");
  const auto transform = kernels().tiles.hadamard;
  by_pieces(rows, columns, nullptr, [&](int64_t first, int64_t count) {
    for (int64_t row = first; row < first + count; row++) {
      for (int64_t k = 0; k < columns; k += block) transform(x + row * stride + k, block);
    }
  });
  return {};
}

bool pack_bits(const uint16_t* symbols, int64_t count, int bits, uint8_t* out) noexcept {
  if (bits < 1 || bits > 16) return false;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  uint64_t pending = 0;
  int filled = 0;
  for (int64_t i = 0; i < count; i++) {
    pending |= (symbols[i] & mask) << filled;
    filled += bits;
    if (filled >= 32) {
      for (int byte = 0; byte < 4; byte++) *out++ = static_cast<uint8_t>(pending >> (8 * byte));
      pending >>= 32;
      filled -= 32;
    }
  }
  for (; filled > 0; filled -= 8) {
    *out++ = static_cast<uint8_t>(pending);
    pending >>= 8;
  }
  return true;
}

bool unpack_bits(const uint8_t* packed, int64_t count, int bits, uint16_t* symbols) noexcept {
  if (bits < 1 || bits > 16) return false;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  uint64_t pending = 0;
  int filled = 0;
  const uint8_t* end = packed + packed_bytes(count, bits);
  for (int64_t i = 0; i < count; i++) {
    if (filled < bits) {
      const int64_t bytes = std::min<int64_t>(end - packed, 4);
      for (int64_t byte = 0; byte < bytes; byte++) pending |= static_cast<uint64_t>(*packed++) << (filled + 8 * static_cast<int>(byte));
      filled += 8 * static_cast<int>(bytes);
    }
    symbols[i] = static_cast<uint16_t>(pending & mask);
    pending >>= bits;
    filled -= bits;
  }
  return true;
}

}  // namespace latentwire
