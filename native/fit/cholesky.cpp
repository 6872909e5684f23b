// All matrices lie in panels of 8 columns. A panel of U is at once what the product takes for its rows and what it takes for its columns,
// so nothing is packed. 128 rows of U are finished at a time: their squares on the diagonal first, then the panels behind, then what they
// take off all that is below.
#include "fit/cholesky.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "core/large_pages.h"
#include "fit/eigen.h"
#include "kernels/scratch.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

constexpr int64_t tile = double_panel;
constexpr int64_t block_rows = 128;
// What of C is solved in one go: a block of the factor comes from memory once for 192 columns.
constexpr int64_t group_panels = 24;
// As many as the widest tile: 3 panels of 128 rows, 24 KB, stay in the first-level cache.
constexpr int64_t chunk_panels = 3;

thread_local Scratch scratch;

int64_t round_up(int64_t n, int64_t to) noexcept { return (n + to - 1) / to * to; }

// Makes the square U of U'U from `a` in place, of which the upper half is read. False if a pivot is not positive.
bool factor_square(double* a) noexcept {
  for (int64_t k = 0; k < tile; k++) {
    const double pivot = a[k * tile + k];
    if (!(pivot > 0)) return false;
    const double root = std::sqrt(pivot);
    for (int64_t c = k; c < tile; c++) a[k * tile + c] /= root;
    for (int64_t r = k + 1; r < tile; r++) {
      for (int64_t c = r; c < tile; c++) a[r * tile + c] -= a[k * tile + r] * a[k * tile + c];
    }
  }
  return true;
}

// x = U'^-1 x for a square x.
void solve_lower_square(const double* __restrict u, double* __restrict x) noexcept {
  for (int64_t k = 0; k < tile; k++) {
    for (int64_t c = 0; c < tile; c++) x[k * tile + c] /= u[k * tile + k];
    for (int64_t r = k + 1; r < tile; r++) {
      for (int64_t c = 0; c < tile; c++) x[r * tile + c] -= u[k * tile + r] * x[k * tile + c];
    }
  }
}

// x = U^-1 x for a square x.
void solve_upper_square(const double* __restrict u, double* __restrict x) noexcept {
  for (int64_t k = tile - 1; k >= 0; k--) {
    for (int64_t c = 0; c < tile; c++) x[k * tile + c] /= u[k * tile + k];
    for (int64_t r = 0; r < k; r++) {
      for (int64_t c = 0; c < tile; c++) x[r * tile + c] -= u[r * tile + k] * x[k * tile + c];
    }
  }
}

}  // namespace

void Cholesky::Free::operator()(double* memory) const noexcept { ::operator delete (memory, std::align_val_t{64}); }

Cholesky::Doubles Cholesky::doubles(int64_t count) {
  const size_t bytes = static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(double);
  void* memory = ::operator new (bytes, std::align_val_t{64});
  prefer_large_pages(memory, bytes);
  return Doubles(static_cast<double*>(memory));
}

bool Cholesky::factor(const DenseMatrix& a, double shift, const std::atomic<bool>* cancel) {
  size_ = a.rows;
  rows_ = round_up(size_, tile);
  const int64_t panel = rows_ * tile;
  factor_ = doubles(rows_ * rows_);
  std::vector<double> sums(static_cast<size_t>(rows_));
  for_blocks(rows_ / tile, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      const int64_t first = p * tile;
      const int64_t columns = std::min(tile, size_ - first);
      double* to = factor_.get() + p * panel;
      std::fill_n(to, columns < tile ? panel : 0, 0.0);
      for (int64_t i = 0; i < std::min(first + tile, size_); i++) {
        for (int64_t c = 0; c < columns; c++) to[i * tile + c] = a.row(first + c)[i];
      }
      for (int64_t c = 0; c < columns; c++) {
        const double* row = a.row(first + c);
        double* diagonal = to + (first + c) * tile + c;
        *diagonal += shift;
        double sum = std::abs(*diagonal) - std::abs(row[first + c]);
        for (int64_t i = 0; i < size_; i++) sum += std::abs(row[i]);
        sums[static_cast<size_t>(first + c)] = sum;
      }
      for (int64_t c = columns; c < tile; c++) to[(first + c) * tile + c] = 1;
    }
  });
  norm_ = size_ == 0 ? 0 : *std::max_element(sums.begin(), sums.end());
  for (int64_t first = 0; first < rows_; first += block_rows) {
    if (is_cancelled(cancel) || !factor_block(first, std::min(first + block_rows, rows_), cancel)) return false;
  }
  // U' below the diagonal, square by square
  for_blocks(rows_ / tile, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      for (int64_t q = p + 1; q < rows_ / tile; q++) {
        const double* from = factor_.get() + q * panel + p * tile * tile;
        double* to = factor_.get() + p * panel + q * tile * tile;
        for (int64_t r = 0; r < tile; r++) {
          for (int64_t c = 0; c < tile; c++) to[c * tile + r] = from[r * tile + c];
        }
      }
    }
  });
  return true;
}

// Rows [first, end) of U, and their part of the product off the rows below.
bool Cholesky::factor_block(int64_t first, int64_t end, const std::atomic<bool>* cancel) {
  const auto product = kernels().doubles.subtract_product;
  const int64_t panel = rows_ * tile;
  double* const u = factor_.get();
  // the rows [row, row + 8) of panels from `p` on, once the rows above them in this block are done
  const auto take_off = [&](int64_t row, int64_t p, int64_t panels) {
    product({u + row / tile * panel + first * tile, u + p * panel + first * tile, panel, row - first, panels, u + p * panel + row * tile,
             panel});
  };
  for (int64_t row = first; row < end; row += tile) {
    double* square = u + row / tile * panel + row * tile;
    take_off(row, row / tile, (end - row) / tile);
    if (!factor_square(square)) return false;
    for (int64_t p = row / tile + 1; p < end / tile; p++) solve_lower_square(square, u + p * panel + row * tile);
  }
  const int64_t behind = end / tile;
  const int64_t rest = rows_ / tile - behind;
  for_blocks(rest, chunk_panels, [&](int64_t begin, int64_t stop) {
    for (int64_t row = first; row < end; row += tile) {
      take_off(row, behind + begin, stop - begin);
      for (int64_t p = behind + begin; p < behind + stop; p++)
        solve_lower_square(u + row / tile * panel + row * tile, u + p * panel + row * tile);
    }
  });
  for_blocks(rest, chunk_panels, [&](int64_t begin, int64_t stop) {
    if (is_cancelled(cancel)) return;
    for (int64_t q = behind; q < behind + stop; q++) {
      const int64_t p = std::max(behind + begin, q);
      product({u + q * panel + first * tile, u + p * panel + first * tile, panel, end - first, behind + stop - p,
               u + p * panel + q * tile * tile, panel});
    }
  });
  return true;
}

// U'U X = X for some panels, in place.
void Cholesky::solve_panels(double* x, int64_t panels) const noexcept {
  const auto product = kernels().doubles.subtract_product;
  const int64_t panel = rows_ * tile;
  // takes the rows [from, from + depth) of X, times the factor's, off the rows [row, row + 8)
  const double* const u = factor_.get();
  const auto take_off = [&](int64_t row, int64_t from, int64_t depth, int64_t p, int64_t count) {
    product({u + row / tile * panel + from * tile, x + p * panel + from * tile, panel, depth, count, x + p * panel + row * tile, panel});
  };
  const auto in_chunks = [&](const auto& body) {
    for (int64_t p = 0; p < panels; p += chunk_panels) body(p, std::min(chunk_panels, panels - p));
  };
  for (int64_t first = 0; first < rows_; first += block_rows) {
    const int64_t end = std::min(first + block_rows, rows_);
    for (int64_t from = 0; from < first; from += block_rows) {
      in_chunks([&](int64_t p, int64_t count) {
        for (int64_t row = first; row < end; row += tile) take_off(row, from, block_rows, p, count);
      });
    }
    in_chunks([&](int64_t p, int64_t count) {
      for (int64_t row = first; row < end; row += tile) {
        take_off(row, first, row - first, p, count);
        for (int64_t q = p; q < p + count; q++) solve_lower_square(u + row / tile * panel + row * tile, x + q * panel + row * tile);
      }
    });
  }
  for (int64_t first = (rows_ - 1) / block_rows * block_rows; first >= 0; first -= block_rows) {
    const int64_t end = std::min(first + block_rows, rows_);
    for (int64_t from = end; from < rows_; from += block_rows) {
      in_chunks([&](int64_t p, int64_t count) {
        for (int64_t row = first; row < end; row += tile) take_off(row, from, std::min(block_rows, rows_ - from), p, count);
      });
    }
    in_chunks([&](int64_t p, int64_t count) {
      for (int64_t row = end - tile; row >= first; row -= tile) {
        take_off(row, row + tile, end - row - tile, p, count);
        for (int64_t q = p; q < p + count; q++) solve_upper_square(u + row / tile * panel + row * tile, x + q * panel + row * tile);
      }
    });
  }
}

DenseMatrix Cholesky::solve(const DenseMatrix& c, const std::atomic<bool>* cancel) const {
  DenseMatrix w(size_, c.columns);
  if (size_ == 0) return w;
  const int64_t panel = rows_ * tile;
  for_blocks(round_up(c.columns, tile) / tile, group_panels, [&](int64_t begin, int64_t end) {
    if (is_cancelled(cancel)) return;
    const auto bytes = static_cast<size_t>(group_panels * panel) * sizeof(double);
    auto* const x = reinterpret_cast<double*>(scratch.reserve(bytes));
    if (x == nullptr) throw std::bad_alloc();
    const auto each_row = [&](const auto& body) {
      for (int64_t p = begin; p < end; p++) {
        const int64_t columns = std::min(tile, c.columns - p * tile);
        for (int64_t i = 0; i < size_; i++) body(x + (p - begin) * panel + i * tile, i, p * tile, columns);
      }
    };
    for (int64_t p = 0; p < end - begin; p++) std::fill_n(x + p * panel + size_ * tile, (rows_ - size_) * tile, 0.0);
    each_row([&](double* at, int64_t i, int64_t j, int64_t columns) {
      std::copy_n(c.row(i) + j, columns, at);
      std::fill_n(at + columns, tile - columns, 0.0);
    });
    solve_panels(x, end - begin);
    each_row([&](const double* at, int64_t i, int64_t j, int64_t columns) { std::copy_n(at, columns, w.row(i) + j); });
  });
  return w;
}

double Cholesky::condition() const {
  if (size_ == 0) return 1;
  const auto n = static_cast<size_t>(size_);
  DenseMatrix v(size_, 1);
  const auto solved = [&](const auto& element) {
    for (size_t i = 0; i < n; i++) v.values[i] = element(i);
    v = solve(v, nullptr);
    double sum = 0;
    for (const double x : v.values) sum += std::abs(x);
    return sum;
  };
  double inverse = solved([&](size_t) { return 1.0 / static_cast<double>(n); });
  // climbs from column to column of the inverse, which is symmetric
  for (int step = 0; step < 4; step++) {
    std::vector<double> signs(n);
    std::transform(v.values.begin(), v.values.end(), signs.begin(), [](double x) { return x < 0 ? -1.0 : 1.0; });
    solved([&](size_t i) { return signs[i]; });
    const auto largest = std::max_element(v.values.begin(), v.values.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
    const auto column = static_cast<size_t>(largest - v.values.begin());
    const double next = solved([&](size_t i) { return i == column ? 1.0 : 0.0; });
    if (!(next > inverse)) break;
    inverse = next;
  }
  // a vector that the climb cannot be blind to
  const double other = solved(
      [&](size_t i) { return (i % 2 == 0 ? 1.0 : -1.0) * (1 + static_cast<double>(i) / static_cast<double>(std::max<size_t>(n - 1, 1))); });
  // rounding must not make it less than any condition is
  return std::max(1.0, norm_ * std::max(inverse, 2 * other / (3 * static_cast<double>(n))));
}

}  // namespace latentwire
