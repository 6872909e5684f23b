#include "kernels/stats.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/table.h"

namespace latentwire {
namespace {

// Only after a check that it is one of the three.
size_t dtype_index(Dtype dtype) noexcept { return static_cast<size_t>(dtype); }

const char* row_of(const Rows& x, int64_t row) noexcept {
  return static_cast<const char*>(x.data) + row * x.stride * static_cast<int64_t>(dtype_size(x.dtype));
}

Status check(const Rows& x, int64_t columns) {
  if (!is_float(x.dtype)) return Status::fail(Code::dtype, "rows must be f32, f16 or bf16");
  if (x.count < 0 || columns < 0) return Status::fail(Code::invalid_argument, "rows and columns must not be negative");
  return {};
}

Status not_finite(const Rows& x, int64_t row) {
  return Status::fail(Code::non_finite, "row " + std::to_string(x.first + row) + " holds NaN or an infinity");
}

bool row_is_finite(const Rows& x, int64_t row, int64_t columns) noexcept {
  return kernels().stats.finite[dtype_index(x.dtype)](row_of(x, row), columns);
}

}  // namespace

int64_t first_non_finite_row(const Rows& x, int64_t columns) noexcept {
  for (int64_t row = 0; row < x.count; row++) {
    if (!row_is_finite(x, row, columns)) return row;
  }
  return x.count;
}

Status row_norms(const Rows& x, int64_t columns, float* norms) {
  if (Status status = check(x, columns); !status.ok()) return status;
  const auto dots = kernels().stats.dots[dtype_index(x.dtype)];
  for (int64_t row = 0; row < x.count; row++) {
    if (!row_is_finite(x, row, columns)) return not_finite(x, row);
    float out[3];
    dots(row_of(x, row), row_of(x, row), row_of(x, row), columns, out);
    // squares of sizes between 1e-15 and 1e15 neither vanish nor overflow; the others are rare
    if (out[0] >= 1e-30F && out[0] <= 1e30F) {
      norms[row] = std::sqrt(out[0]);
      continue;
    }
    double square = 0;
    for (int64_t k = 0; k < columns; k++) {
      const double value = float_element(x.dtype, row_of(x, row), k);
      square += value * value;
    }
    norms[row] = static_cast<float>(std::sqrt(square));
  }
  return {};
}

Status drift(const Rows& x, int64_t columns, const Drift& out) {
  if (Status status = check(x, columns); !status.ok()) return status;
  const auto dots = kernels().stats.dots[dtype_index(x.dtype)];
  for (int64_t row = 0; row < x.count; row++) {
    if (!row_is_finite(x, row, columns)) return not_finite(x, row);
    const void* at = row_of(x, row);
    const void* previous = row == 0 ? out.previous : row_of(x, row - 1);
    const void* first = out.first != nullptr ? out.first : row_of(x, 0);
    float products[3];
    dots(at, previous != nullptr ? previous : at, first, columns, products);
    if (out.squares != nullptr) out.squares[row] = products[0];
    if (out.to_previous != nullptr) out.to_previous[row] = previous != nullptr ? products[1] : 0;
    if (out.to_first != nullptr) out.to_first[row] = products[2];
  }
  return {};
}

Status add_to_mean(const Rows& x, int64_t columns, float* mean, int64_t* count) {
  if (Status status = check(x, columns); !status.ok()) return status;
  if (*count < 0) return Status::fail(Code::invalid_argument, "a mean is not of fewer than 0 rows");
  const auto blend = kernels().stats.blend[dtype_index(x.dtype)];
  // all of them before the first changes the mean
  if (const int64_t row = first_non_finite_row(x, columns); row < x.count) return not_finite(x, row);
  for (int64_t row = 0; row < x.count; row++) {
    // the memory of a mean of nothing may hold anything
    if (*count == 0) std::fill_n(mean, columns, 0.0F);
    ++*count;
    blend(row_of(x, row), columns, static_cast<float>(1.0 / static_cast<double>(*count)), mean);
  }
  return {};
}

Status entropy_bits(const Rows& p, int64_t columns, float* bits) {
  if (p.dtype != Dtype::f32) return Status::fail(Code::dtype, "probabilities must be f32");
  if (Status status = check(p, columns); !status.ok()) return status;
  for (int64_t row = 0; row < p.count; row++) {
    const float found = kernels().stats.entropy(reinterpret_cast<const float*>(row_of(p, row)), columns);
    if (std::isfinite(found)) {
      bits[row] = found;
      continue;
    }
    if (!row_is_finite(p, row, columns)) return not_finite(p, row);
    const auto* at = reinterpret_cast<const float*>(row_of(p, row));
    if (std::any_of(at, at + columns, [](float x) { return x < 0; }))
      return Status::fail(Code::invalid_argument, "row " + std::to_string(p.first + row) + " holds a negative probability");
    return Status::fail(Code::non_finite, "the entropy of row " + std::to_string(p.first + row) + " is beyond f32");
  }
  return {};
}

}  // namespace latentwire
