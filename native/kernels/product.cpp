// Blocks, from the inside out. A tile of the instruction set (8 rows x 48 outputs on AVX-512) walks 512 depths: its panels, 96 KB, come
// from the second-level cache and its rows from the first. 144 outputs x 512 depths, 288 KB, stay in the second level while 64 rows pass.
// So a packed element is read from memory once for 64 rows, and a row once for 144 outputs.
#include "kernels/product.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <string>

#include "core/atomic_least.h"
#include "core/thread_pool.h"
#include "kernels/scratch.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

constexpr int64_t block_rows = 64;
constexpr int64_t block_panels = 9;
constexpr int64_t block_columns = block_panels * panel_width;
constexpr int64_t block_depth = 512;

int64_t round_up(int64_t n, int64_t step) noexcept { return (n + step - 1) / step * step; }

thread_local Scratch scratch;

// What an element of a row and one of the matrix add to their output: x w, or |x - w|.
enum class Term { product, distance };

GemmFunction float_tiles(const GemmKernels& k, Term term, Dtype storage) noexcept {
  const bool l1 = term == Term::distance;
  switch (storage) {
    case Dtype::f16:
      return l1 ? k.l1_f16 : k.f16;
    case Dtype::bf16:
      return l1 ? k.l1_bf16 : k.bf16;
    default:
      return l1 ? k.l1_f32 : k.f32;
  }
}

class Product {
 public:
  Product(const Rows& x, const RowTreatment& treatment, const PackedMatrix& w, Term term, const TileSink& sink)
      : table_(kernels()),
        float_tiles_(float_tiles(table_.gemm, term, w.storage())),
        x_(x),
        treatment_(treatment),
        w_(w),
        sink_(sink),
        depth_(w.depth()),
        padded_(round_up(w.depth(), 64)),
        codes_(w.storage() == Dtype::i8),
        bf16_rows_(table_.gemm.bf16_rows != nullptr && term == Term::product && x.dtype == Dtype::bf16 && w.storage() == Dtype::bf16 &&
                   w.normal() && treatment.norm != RowNorm::layer && treatment.shift == nullptr && treatment.scale == nullptr),
        raw_(x.dtype == Dtype::f32 && treatment.norm != RowNorm::layer && treatment.shift == nullptr && treatment.scale == nullptr) {}

  // Rows [row, row + rows), panels [first, last).
  void block(int64_t row, int64_t rows, int64_t first, int64_t last) noexcept {
    Block b;
    b.row = row;
    b.rows = rows;
    if (!reserve(&b)) {
      out_of_memory.store(true, std::memory_order_relaxed);
      return;
    }
    bool measured = !raw_ || codes_;
    if (measured) {
      prepare(&b);
    } else {
      b.source = static_cast<const float*>(x_.data) + row * x_.stride;
      b.stride = x_.stride;
    }
    for (int64_t p = first; p < last; p += block_panels) {
      const int64_t panels = std::min(block_panels, last - p);
      tiles(b, p, panels);
      if (!measured) {
        // only now, when the product has brought the rows into the cache
        measured = true;
        if (!measure(&b)) {
          prepare(&b);
          tiles(b, p, panels);
        }
      }
      const int64_t columns = std::min(panels * panel_width, w_.outputs() - p * panel_width);
      scale(b, p, columns);
      sink_({row, rows, p * panel_width, columns, b.tile, block_columns, b.squares});
    }
  }

  std::atomic<bool> out_of_memory{false};
  std::atomic<int64_t> bad_row{std::numeric_limits<int64_t>::max()};  // the first that is not finite

 private:
  // Rows that pass the panels together, and the memory that they need.
  struct Block {
    int64_t row = 0;
    int64_t rows = 0;
    const float* source = nullptr;  // [rows, depth]
    int64_t stride = 0;
    float factors[block_rows];  // of each row's products
    float squares[block_rows];
    float* copies = nullptr;   // [rows, padded]
    uint8_t* codes = nullptr;  // [rows, padded]
    float* tile = nullptr;     // [rows, block_columns]
    int32_t* sums = nullptr;   // [rows, block_columns]
    bool plain[block_rows];    // the row is multiplied as the bf16 that it is
  };

  bool reserve(Block* b) const noexcept {
    const auto bytes = [](int64_t count, size_t size) { return static_cast<size_t>(round_up(count, 64)) * size; };
    const size_t copies = bytes(b->rows * padded_, sizeof(float));
    const size_t codes = codes_ ? bytes(b->rows * padded_, 1) : 0;
    const size_t tile = bytes(b->rows * block_columns, sizeof(float));
    char* memory = scratch.reserve(copies + codes + tile + (codes_ ? tile : 0));
    if (memory == nullptr) return false;
    b->copies = reinterpret_cast<float*>(memory);
    b->codes = reinterpret_cast<uint8_t*>(memory + copies);
    b->tile = reinterpret_cast<float*>(memory + copies + codes);
    b->sums = reinterpret_cast<int32_t*>(memory + copies + codes + tile);
    return true;
  }

  // Treated rows as copies, or as codes.
  void prepare(Block* b) noexcept {
    b->source = b->copies;
    b->stride = padded_;
    for (int64_t r = 0; r < b->rows; r++) {
      float* copy = b->copies + r * padded_;
      const float* x = raw_ && codes_ ? static_cast<const float*>(x_.data) + (b->row + r) * x_.stride : load(b->row + r, copy);
      float largest = table_.rows.max_abs_and_squares(x, depth_, &b->squares[r]);
      b->factors[r] = treat(b->row + r, &x, copy, &b->squares[r], &largest);
      if (codes_) b->factors[r] *= encode(x, largest, b->codes + r * padded_);
      // in an ordinary row, denormals are less than the rounding errors of the rest
      b->plain[r] = bf16_rows_ && ordinary(b->squares[r]);
    }
  }

  // The factors of raw rows; false if some row is of extreme size or not finite.
  bool measure(Block* b) const noexcept {
    for (int64_t r = 0; r < b->rows; r++) {
      const float sum = table_.rows.sum_of_squares(b->source + r * b->stride, depth_);
      if (!ordinary(sum)) return false;
      b->squares[r] = sum;
      b->factors[r] = factor_of(sum, treatment_.epsilon);
    }
    return true;
  }

  void tiles(const Block& b, int64_t p, int64_t panels) const noexcept {
    for (int64_t k = 0; k < depth_ || k == 0; k += block_depth) {
      GemmTile t{};
      t.rows = b.rows;
      t.panels = w_.panel(p, k);
      t.panel_stride = w_.panel_stride();
      t.panel_count = panels;
      t.depth = std::min(block_depth, depth_ - k);
      t.accumulate = k > 0;
      t.out_stride = block_columns;
      if (codes_) {
        t.x = b.codes + k;
        t.x_stride = padded_;
        t.depth = round_up(t.depth, i8_group);
        t.out = b.sums;
        table_.gemm.i8(t);
      } else if (bf16_rows_) {
        mixed_tiles(b, k, t);
      } else {
        t.x = b.source + k;
        t.x_stride = b.stride;
        t.out = b.tile;
        float_tiles_(t);
      }
    }
  }

  // Runs of plain rows as bf16 where they lie, of others as their f32 copies.
  void mixed_tiles(const Block& b, int64_t k, GemmTile t) const noexcept {
    for (int64_t r = 0; r < b.rows; r += t.rows) {
      const bool plain = b.plain[r];
      t.rows = 1;
      while (r + t.rows < b.rows && b.plain[r + t.rows] == plain) t.rows++;
      t.x_stride = plain ? x_.stride : b.stride;
      t.x = plain ? static_cast<const void*>(static_cast<const uint16_t*>(x_.data) + (b.row + r) * t.x_stride + k)
                  : b.source + r * t.x_stride + k;
      t.out = b.tile + r * block_columns;
      (plain ? table_.gemm.bf16_rows : table_.gemm.bf16)(t);
    }
  }

  void scale(const Block& b, int64_t p, int64_t columns) const noexcept {
    for (int64_t r = 0; r < b.rows; r++) {
      float* values = b.tile + r * block_columns;
      if (codes_) {
        table_.rows.dequantise(b.sums + r * block_columns, columns, table_.gemm.i8_offset, w_.code_sums() + p * panel_width, b.factors[r],
                               w_.scales() + p * panel_width, values);
      } else if (b.factors[r] != 1) {
        table_.rows.affine(values, columns, b.factors[r], 0, values);
      }
    }
  }

  // The row as f32, shifted and scaled.
  const float* load(int64_t row, float* copy) const noexcept {
    const int64_t at = row * x_.stride;
    switch (x_.dtype) {
      case Dtype::f16:
        table_.rows.from_f16(static_cast<const uint16_t*>(x_.data) + at, depth_, copy);
        break;
      case Dtype::bf16:
        table_.rows.from_bf16(static_cast<const uint16_t*>(x_.data) + at, depth_, copy);
        break;
      default:
        std::copy_n(static_cast<const float*>(x_.data) + at, depth_, copy);
        break;
    }
    if (treatment_.shift != nullptr) {
      for (int64_t k = 0; k < depth_; k++) copy[k] -= treatment_.shift[k];
    }
    if (treatment_.scale != nullptr) table_.rows.affine_by_column(copy, depth_, treatment_.scale, nullptr, copy);
    return copy;
  }

  // Squares of elements between 1e-15 and 1e15 neither vanish nor overflow.
  static bool ordinary(float sum) noexcept { return sum >= 1e-30F && sum <= 1e30F; }

  // The factor of the row's products. `*x` is pointed to `copy` where the row itself had to change, and `*largest` follows.
  float treat(int64_t row, const float** x, float* copy, float* square, float* largest) noexcept {
    if (!std::isfinite(*largest)) {
      refuse(row);
      return 0;
    }
    if (treatment_.norm == RowNorm::layer) {
      layer(row, *x, *largest, copy);
      *x = copy;
      *largest = table_.rows.max_abs(copy, depth_);
      return 1;
    }
    if (*largest == 0) return treatment_.norm == RowNorm::none ? 1.0F : 0.0F;
    const bool damped = treatment_.norm == RowNorm::rms && *square < 1 && treatment_.epsilon > 0;
    if (treatment_.norm == RowNorm::none || ordinary(*square) || damped) return factor_of(*square, treatment_.epsilon);
    unit_size(*x, *largest, copy);
    *x = copy;
    float sum = 0;
    *largest = table_.rows.max_abs_and_squares(copy, depth_, &sum);
    return factor_of(sum, 0);
  }

  // Brings the largest element to [1, 2) by a power of two, which is exact; in two steps, because that of a denormal is no f32.
  void unit_size(const float* x, float largest, float* out) const noexcept {
    const int exponent = -std::ilogb(largest);
    const int half = exponent / 2;
    table_.rows.affine(x, depth_, std::ldexp(1.0F, half), 0, out);
    table_.rows.affine(out, depth_, std::ldexp(1.0F, exponent - half), 0, out);
  }

  float factor_of(float sum_of_squares, float epsilon) const noexcept {
    switch (treatment_.norm) {
      case RowNorm::l2:
        return 1 / std::sqrt(sum_of_squares);
      case RowNorm::rms:
        return 1 / std::sqrt(sum_of_squares / static_cast<float>(depth_) + epsilon);
      case RowNorm::none:
      case RowNorm::layer:
        break;
    }
    return 1;
  }

  void layer(int64_t row, const float* x, float largest, float* copy) const noexcept {
    const auto count = static_cast<float>(depth_);
    const auto centre = [&](const float* from) {
      table_.rows.affine(from, depth_, 1, -table_.rows.sum(from, depth_) / count, copy);
      return table_.rows.sum_of_squares(copy, depth_) / count;
    };
    float epsilon = treatment_.epsilon;
    float variance = centre(x);
    if (!std::isfinite(variance)) {
      load(row, copy);
      unit_size(copy, largest, copy);
      variance = centre(copy);
      epsilon = 0;
    }
    table_.rows.affine(copy, depth_, variance > 0 ? 1 / std::sqrt(variance + epsilon) : 0, 0, copy);
  }

  // The row's u8 codes, with those of zeros behind them, and what one is worth.
  float encode(const float* x, float largest, uint8_t* codes) const noexcept {
    const float scale = largest / 127;
    const float inverse = 1 / scale;
    const bool usable = std::isfinite(inverse) && std::isfinite(scale);
    table_.rows.quantise_u8(x, depth_, usable ? inverse : 0, codes);
    std::fill(codes + depth_, codes + padded_, uint8_t{128});
    return usable ? scale : 0;
  }

  void refuse(int64_t row) noexcept { keep_least(bad_row, row); }

  const Kernels& table_;
  const GemmFunction float_tiles_;
  const Rows& x_;
  const RowTreatment& treatment_;
  const PackedMatrix& w_;
  const TileSink& sink_;
  const int64_t depth_;
  const int64_t padded_;
  const bool codes_;
  const bool bf16_rows_;
  const bool raw_;  // rows are read where they lie
};

Status run(const Rows& x, const RowTreatment& treatment, const PackedMatrix& w, Term term, bool whole_rows, const TileSink& sink,
           const std::atomic<bool>* cancel) {
  if (!is_float(x.dtype)) return Status::fail(Code::dtype, "rows must be f32, f16 or bf16");
  if (x.count == 0 || w.outputs() == 0) return {};
  Product product(x, treatment, w, term, sink);
  ThreadPool& pool = ThreadPool::get();
  const int64_t threads = x.count * w.outputs() * std::max<int64_t>(w.depth(), 1) < worth_a_thread ? 1 : pool.threads();
  // Few rows: more threads than row blocks share the outputs, whole panels each, and every thread treats the rows for itself.
  const int64_t rows_each = whole_rows && threads > 1 ? std::clamp<int64_t>(x.count / (2 * threads), 1, block_rows) : block_rows;
  const int64_t row_blocks = (x.count + rows_each - 1) / rows_each;
  const int64_t shares =
      whole_rows ? 1 : std::clamp<int64_t>((threads > 1 ? 2 * threads : 1) / row_blocks, 1, std::max<int64_t>(w.panel_count() / 4, 1));
  const int64_t panels_each = (w.panel_count() + shares - 1) / shares;
  std::atomic<bool> stopped{false};
  const auto work = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
        stopped.store(true, std::memory_order_relaxed);
        return;
      }
      const int64_t row = i / shares * rows_each;
      const int64_t panel = i % shares * panels_each;
      if (panel < w.panel_count())
        product.block(row, std::min(rows_each, x.count - row), panel, std::min(panel + panels_each, w.panel_count()));
    }
  };
  if (threads == 1)
    work(0, row_blocks * shares);
  else
    pool.parallel_for(row_blocks * shares, 1, work);
  if (stopped) return Status::fail(Code::cancelled, "the product was cancelled");
  if (product.out_of_memory) return Status::fail(Code::out_of_memory, "no memory for a block of rows");
  if (const int64_t row = product.bad_row; row < x.count)
    return Status::fail(Code::non_finite, "row " + std::to_string(x.first + row) + " holds NaN or an infinity");
  return {};
}

}  // namespace

Status multiply(const Rows& x, const RowTreatment& treatment, const PackedMatrix& w, bool whole_rows, const TileSink& sink,
                const std::atomic<bool>* cancel) {
  return run(x, treatment, w, Term::product, whole_rows, sink, cancel);
}

Status l1_distances(const Rows& x, const RowTreatment& treatment, const PackedMatrix& w, bool whole_rows, const TileSink& sink,
                    const std::atomic<bool>* cancel) {
  if (treatment.norm != RowNorm::none || !is_float(w.storage()))
    return Status::fail(Code::invalid_argument, "L1 distances are of rows as they are, and of a matrix of f32, f16 or bf16");
  return run(x, treatment, w, Term::distance, whole_rows, sink, cancel);
}

}  // namespace latentwire
