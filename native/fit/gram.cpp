// A block of 512 rows is packed twice: transposed, as the rows of the tile function, and in panels of 16 columns, as its fixed operand. Of
// X'X only the lower half is computed. Every thread owns outputs, not rows, so nothing is reduced between threads; the next block is read
// while this one is multiplied.
#include "fit/gram.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "core/large_pages.h"
#include "fit/eigen.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

constexpr int64_t block_rows = 512;
// 9 panels x 512 rows, 288 KB, stay in the second-level cache while the strips pass; a strip ends where a tile of 3 panels does.
constexpr int64_t block_panels = 9;
constexpr int64_t strip_rows = 48;
constexpr int64_t task_rows = 4 * strip_rows;
// One line more than the rows: transposed columns must not all fall into one set of the cache.
constexpr int64_t column_stride = block_rows + 16;
// Sums stay f32 for so many blocks, 4096 rows, and are f64 from there on.
constexpr int blocks_in_f32 = 8;
// Panels that are packed together.
constexpr int64_t group_panels = 4;
// Rows whose sums by column stay f32.
constexpr int64_t sum_rows = 64;
// Multiplications up to which f64 throughout costs milliseconds.
constexpr double small_work = 3e7;
// Moments::precision
constexpr double f32_precision = 1e-7;
constexpr double f64_precision = 1e-14;

struct Free {
  void operator()(float* memory) const noexcept { ::operator delete (memory, std::align_val_t{64}); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats floats(int64_t count) {
  const size_t bytes = static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(float);
  void* memory = ::operator new (bytes, std::align_val_t{64});
  prefer_large_pages(memory, bytes);
  return Floats(static_cast<float*>(memory));
}

int64_t panels_of(int64_t columns) noexcept { return (columns + panel_width - 1) / panel_width; }

// One of the two matrices: its raw rows, double-buffered, what is known of its columns, and its current block as panels.
struct Side {
  Side(int64_t width, const RowReader* rows) : columns(width), reader(rows), shift(static_cast<size_t>(width)), sums(shift.size()) {
    squares.resize(shift.size());
    for (Floats& block : raw) block = floats(block_rows * columns);
  }

  void read(int64_t first, int64_t count, int buffer) const {
    if (columns > 0) (*reader)(first, count, raw[static_cast<size_t>(buffer)].get());
  }

  // About the mean of the first block the moments are small, which is what makes it safe to subtract the means at the end.
  void shift_by_first_block(int64_t count) {
    for (int64_t j = 0; j < columns; j++) {
      double sum = 0;
      for (int64_t i = 0; i < count; i++) sum += static_cast<double>(raw[0][i * columns + j]);
      shift[static_cast<size_t>(j)] = static_cast<float>(sum / static_cast<double>(count));
    }
  }

  int64_t columns;
  const RowReader* reader;
  bool summed = true;           // `sums` and `squares` are wanted; f64 blocks have them anyway
  std::array<Floats, 2> raw;    // [block_rows, columns]
  std::vector<float> shift;     // [columns], subtracted from every row
  std::vector<double> sums;     // [columns], of w (x - shift)
  std::vector<double> squares;  // [columns], of w (x - shift)^2
};

// What both ways of multiplying share: `roots` are the square roots of the block's weights, or nullptr.
struct Block {
  int64_t count;
  int buffer;
  const double* roots;
};

class FloatProduct {
 public:
  FloatProduct(Side* x, Side* y, Moments* out) : x_(*x), y_(*y), out_(*out), table_(kernels()) {
    transposed_ = floats(x_.columns * column_stride);
    x_panels_ = floats(panels_of(x_.columns) * block_rows * panel_width);
    y_panels_ = floats(panels_of(y_.columns) * block_rows * panel_width);
    gram_ = floats(x_.columns * padded(x_.columns));
    cross_ = floats(x_.columns * padded(y_.columns));
    for (int64_t p = 0; p < panels_of(x_.columns); p += block_panels) add_tasks(p * panel_width, p, true);
    for (int64_t p = 0; p < panels_of(y_.columns); p += block_panels) add_tasks(0, p, false);
  }

  void pack(const Block& block) {
    const int64_t x_groups = (panels_of(x_.columns) + group_panels - 1) / group_panels;
    const int64_t y_groups = (panels_of(y_.columns) + group_panels - 1) / group_panels;
    for_blocks(x_groups + y_groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; group++) {
        if (group >= x_groups) {
          pack_panels(&y_, block, (group - x_groups) * group_panels, y_panels_.get());
          continue;
        }
        const int64_t first = group * group_panels;
        pack_panels(&x_, block, first, x_panels_.get());
        for (int64_t p = first; p < std::min(first + group_panels, panels_of(x_.columns)); p++) transpose_panel(block, p);
      }
    });
  }

  int64_t tasks() const noexcept { return static_cast<int64_t>(tasks_.size()); }

  void run(const Block& block, int64_t index) const {
    const Task& task = tasks_[static_cast<size_t>(index)];
    const int64_t columns = task.lower ? x_.columns : y_.columns;
    for (int64_t i = task.row; i < std::min(task.row + task_rows, x_.columns); i += strip_rows) {
      GemmTile t{};
      t.rows = std::min(strip_rows, x_.columns - i);
      t.x = transposed_.get() + i * column_stride;
      t.x_stride = column_stride;
      t.panels = (task.lower ? x_panels_ : y_panels_).get() + task.panel * block_rows * panel_width;
      t.panel_stride = block_rows * panel_width;
      t.panel_count = std::min(block_panels, panels_of(task.lower ? i + t.rows : columns) - task.panel);
      t.depth = block.count;
      t.out_stride = padded(columns);
      t.out = (task.lower ? gram_ : cross_).get() + i * t.out_stride + task.panel * panel_width;
      t.accumulate = in_f32_ > 0;
      table_.gemm.f32(t);
    }
  }

  // Behind every block: moves the f32 sums on when they are of enough rows, or the last ones.
  void settle(bool last) {
    in_f32_++;
    if (in_f32_ < blocks_in_f32 && !last) return;
    in_f32_ = 0;
    for_blocks(x_.columns, strip_rows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        add(gram_.get() + i * padded(x_.columns), i + 1, out_.gram.row(i));
        add(cross_.get() + i * padded(y_.columns), y_.columns, out_.cross.row(i));
      }
    });
  }

 private:
  // Outputs [row, row + task_rows) x [16 panel, 16 panel + 144) of the Gram matrix or of the cross product.
  struct Task {
    int64_t row;
    int64_t panel;
    bool lower;
  };

  static int64_t padded(int64_t columns) noexcept { return panels_of(columns) * panel_width; }

  void add_tasks(int64_t first_row, int64_t panel, bool lower) {
    for (int64_t row = first_row; row < x_.columns; row += task_rows) tasks_.push_back({row, panel, lower});
  }

  static void add(const float* sums, int64_t count, double* to) noexcept {
    for (int64_t c = 0; c < count; c++) to[c] += static_cast<double>(sums[c]);
  }

  // Some panels at a time, so that of each row a few lines in sequence are read.
  static void pack_panels(Side* side, const Block& block, int64_t first_panel, float* panels) noexcept {
    using Lanes = Eigen::Array<float, panel_width, 1>;
    const int64_t count = std::min(group_panels, panels_of(side->columns) - first_panel);
    const float* from = side->raw[static_cast<size_t>(block.buffer)].get() + first_panel * panel_width;
    Lanes shifts[group_panels], sums[group_panels], squares[group_panels];
    for (int64_t p = 0; p < count; p++) {
      shifts[p] = Lanes::Zero();
      std::copy_n(side->shift.data() + (first_panel + p) * panel_width, present(*side, first_panel + p), shifts[p].data());
    }
    for (int64_t k = 0; k < block.count; k += sum_rows) {
      for (int64_t p = 0; p < count; p++) sums[p] = squares[p] = Lanes::Zero();
      for (int64_t r = k; r < std::min(k + sum_rows, block.count); r++) {
        const float root = block.roots == nullptr ? 1.0F : static_cast<float>(block.roots[r]);
        for (int64_t p = 0; p < count; p++) {
          const float* row = from + r * side->columns + p * panel_width;
          Lanes values = Lanes::Zero();
          if (const int64_t columns = present(*side, first_panel + p); columns == panel_width) {
            values = (Lanes::Map(row) - shifts[p]) * root;
          } else {
            for (int64_t c = 0; c < columns; c++) values[c] = (row[c] - shifts[p][c]) * root;
          }
          Lanes::Map(panels + ((first_panel + p) * block_rows + r) * panel_width) = values;
          if (!side->summed) continue;
          sums[p] += values * root;
          squares[p] += values.square();
        }
      }
      for (int64_t p = 0; p < count; p++) {
        for (int64_t c = 0; c < present(*side, first_panel + p); c++) {
          const auto column = static_cast<size_t>((first_panel + p) * panel_width + c);
          side->sums[column] += static_cast<double>(sums[p][c]);
          side->squares[column] += static_cast<double>(squares[p][c]);
        }
      }
    }
  }

  static int64_t present(const Side& side, int64_t panel) noexcept { return std::min(panel_width, side.columns - panel * panel_width); }

  // In squares of 4 by 4, which Eigen turns in registers.
  void transpose_panel(const Block& block, int64_t panel) noexcept {
    using Square = Eigen::Matrix<float, 4, 4, Eigen::RowMajor>;
    const int64_t first = panel * panel_width;
    const int64_t columns = present(x_, panel);
    const float* from = x_panels_.get() + panel * block_rows * panel_width;
    float* to = transposed_.get() + first * column_stride;
    const int64_t whole_rows = block.count / 4 * 4;
    const int64_t whole_columns = columns / 4 * 4;
    for (int64_t k = 0; k < whole_rows; k += 4) {
      for (int64_t c = 0; c < whole_columns; c += 4) {
        Square square = Eigen::Map<const Square, 0, Eigen::OuterStride<panel_width>>(from + k * panel_width + c);
        square.transposeInPlace();
        Eigen::Map<Square, 0, Eigen::OuterStride<column_stride>>(to + c * column_stride + k) = square;
      }
    }
    for (int64_t k = 0; k < block.count; k++) {
      for (int64_t c = k < whole_rows ? whole_columns : 0; c < columns; c++) to[c * column_stride + k] = from[k * panel_width + c];
    }
  }

  Side& x_;
  Side& y_;
  Moments& out_;
  const Kernels& table_;
  Floats transposed_;  // [x columns, column_stride]
  Floats x_panels_;    // [panels][block_rows][16]
  Floats y_panels_;
  Floats gram_;   // [x columns, 16 panels], the sums of the last `in_f32_` blocks; of the upper half nothing is defined
  Floats cross_;  // [x columns, 16 panels]
  int in_f32_ = 0;
  std::vector<Task> tasks_;
};

// The same in f64, for few rows or little work.
class DoubleProduct {
 public:
  DoubleProduct(Side* x, Side* y, Moments* out)
      : x_(*x), y_(*y), out_(*out), x_block_(block_rows, x->columns), y_block_(block_rows, y->columns) {}

  void pack(const Block& block) {
    load(&x_, block, &x_block_);
    load(&y_, block, &y_block_);
  }

  void settle(bool) const noexcept {}

  int64_t tasks() const noexcept { return 2 * ((x_.columns + task_rows - 1) / task_rows); }

  void run(const Block& block, int64_t index) {
    const int64_t i = index / 2 * task_rows;
    const int64_t rows = std::min(task_rows, x_.columns - i);
    const auto transposed = x_block_.block(0, i, block.count, rows).transpose();
    if (index % 2 == 0) {
      view(out_.gram).block(i, 0, rows, i + rows).noalias() += transposed * x_block_.block(0, 0, block.count, i + rows);
    } else if (y_.columns > 0) {
      view(out_.cross).middleRows(i, rows).noalias() += transposed * y_block_.topRows(block.count);
    }
  }

 private:
  static void load(Side* side, const Block& block, EigenMatrix* to) {
    for (int64_t k = 0; k < block.count; k++) {
      const double root = block.roots == nullptr ? 1.0 : block.roots[k];
      for (int64_t c = 0; c < side->columns; c++) {
        const auto at = static_cast<size_t>(c);
        const float raw = side->raw[static_cast<size_t>(block.buffer)][k * side->columns + c];
        const double value = (static_cast<double>(raw) - static_cast<double>(side->shift[at])) * root;
        (*to)(k, c) = value;
        side->sums[at] += value * root;
        side->squares[at] += value * value;
      }
    }
  }

  Side& x_;
  Side& y_;
  Moments& out_;
  EigenMatrix x_block_;
  EigenMatrix y_block_;
};

template <class Product>
Status accumulate(const MomentsInput& input, const std::atomic<bool>* cancel, Side* x, Side* y, Moments* out) {
  Product product(x, y, out);
  std::vector<double> roots(static_cast<size_t>(input.weights == nullptr ? 0 : block_rows));
  x->read(0, std::min(block_rows, input.rows), 0);
  y->read(0, std::min(block_rows, input.rows), 0);
  if (input.centred) {
    x->shift_by_first_block(std::min(block_rows, input.rows));
    y->shift_by_first_block(std::min(block_rows, input.rows));
  }
  int buffer = 0;
  for (int64_t first = 0; first < input.rows; first += block_rows, buffer = 1 - buffer) {
    if (is_cancelled(cancel)) return cancelled_fit();
    const int64_t next = first + block_rows;
    const Block block{std::min(block_rows, input.rows - first), buffer, roots.empty() ? nullptr : roots.data()};
    for (int64_t k = 0; k < block.count; k++) {
      const double weight = input.weights == nullptr ? 1.0 : static_cast<double>(input.weights[first + k]);
      out->weight += weight;
      if (input.weights != nullptr) roots[static_cast<size_t>(k)] = std::sqrt(weight);
    }
    product.pack(block);
    // the first piece of work is to read the next block
    for_blocks(product.tasks() + 1, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; task++) {
        if (task > 0) {
          product.run(block, task - 1);
        } else if (next < input.rows) {
          x->read(next, std::min(block_rows, input.rows - next), 1 - buffer);
          y->read(next, std::min(block_rows, input.rows - next), 1 - buffer);
        }
      }
    });
    product.settle(next >= input.rows);
  }
  return {};
}

void mirror_lower(DenseMatrix* gram) {
  constexpr int64_t tile = 32;
  for_blocks(gram->rows, tile, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < end; i += tile) {
      for (int64_t j = begin; j < end; j++) {
        for (int64_t k = i; k < std::min(i + tile, j); k++) gram->row(k)[j] = gram->row(j)[k];
      }
    }
  });
}

// The sums so far are about `shift`; makes them about the means, or about 0 where the shift is.
void finish(const MomentsInput& input, const Side& x, const Side& y, Moments* out) {
  double y_squares = 0;
  for (const double square : y.squares) y_squares += square;
  out->y_squares = y_squares;
  out->x_mean.assign(static_cast<size_t>(input.x_columns), 0.0);
  out->y_mean.assign(static_cast<size_t>(input.y_columns), 0.0);
  if (input.centred) {
    const EigenVector dx = view(x.sums) / out->weight;
    const EigenVector dy = view(y.sums) / out->weight;
    for (int64_t i = 0; i < input.x_columns; i++) {
      view(out->gram).row(i).head(i + 1) -= out->weight * dx[i] * dx.head(i + 1).transpose();
      if (input.y_columns > 0) view(out->cross).row(i) -= out->weight * dx[i] * dy.transpose();
      // rounding must not leave a variance below 0
      out->gram.row(i)[i] = std::max(out->gram.row(i)[i], 0.0);
    }
    out->y_squares = std::max(0.0, y_squares - out->weight * dy.squaredNorm());
    for (size_t i = 0; i < x.shift.size(); i++) out->x_mean[i] = static_cast<double>(x.shift[i]) + dx[static_cast<int64_t>(i)];
    for (size_t i = 0; i < y.shift.size(); i++) out->y_mean[i] = static_cast<double>(y.shift[i]) + dy[static_cast<int64_t>(i)];
  }
  mirror_lower(&out->gram);
}

Status check(const MomentsInput& input) {
  if (input.rows < 1 || input.x_columns < 1 || input.x_columns > max_fit_columns || input.y_columns < 0 ||
      input.y_columns > max_fit_columns)
    return Status::fail(Code::invalid_argument, "a fit needs at least one row and between 1 and 65536 columns");
  if (input.weights == nullptr) return {};
  bool any = false;
  for (int64_t i = 0; i < input.rows; i++) {
    if (!(input.weights[i] >= 0.0F) || !std::isfinite(input.weights[i]))
      return Status::fail(Code::invalid_argument, "weights must be finite and not negative: weight " + std::to_string(i));
    any = any || input.weights[i] > 0.0F;
  }
  return any ? Status{} : Status::fail(Code::invalid_argument, "a fit needs at least one row with a weight above 0");
}

}  // namespace

RowReader reader_of(const FloatRows& rows) {
  return [rows](int64_t first, int64_t count, float* out) { std::copy_n(rows.data + first * rows.columns, count * rows.columns, out); };
}

Status accumulate_moments(const MomentsInput& input, const std::atomic<bool>* cancel, Moments* out) {
  if (Status status = check(input); !status.ok()) return status;
  return guarded([&]() -> Status {
    Moments sums;
    sums.gram = DenseMatrix(input.x_columns, input.x_columns);
    sums.cross = DenseMatrix(input.x_columns, input.y_columns);
    Side x(input.x_columns, &input.x), y(input.y_columns, &input.y);
    const double work = static_cast<double>(input.rows) * static_cast<double>(input.x_columns) *
                        (static_cast<double>(input.x_columns) + 2.0 * static_cast<double>(input.y_columns)) / 2;
    x.summed = input.centred;
    const bool exact = input.rows < 4 * input.x_columns || work < small_work;
    Status status =
        exact ? accumulate<DoubleProduct>(input, cancel, &x, &y, &sums) : accumulate<FloatProduct>(input, cancel, &x, &y, &sums);
    if (!status.ok()) return status;
    sums.precision = exact ? f64_precision : f32_precision;
    finish(input, x, y, &sums);
    if (!all_finite(sums.gram) || !all_finite(sums.cross) || !std::isfinite(sums.y_squares))
      return Status::fail(Code::non_finite, "the rows hold NaN, an infinity, or numbers whose squares are beyond f32");
    *out = std::move(sums);
    return {};
  });
}

}  // namespace latentwire
