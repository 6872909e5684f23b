#include "fit/row_maps.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <utility>

#include "fit/eigen.h"
#include "fit/random.h"
#include "kernels/cosine.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

constexpr int64_t block_rows = 256;

size_t at(int64_t i) noexcept { return static_cast<size_t>(i); }

Status check(const FloatRows& x) {
  if (x.columns < 1) return Status::fail(Code::invalid_argument, "rows need at least one column");
  for (int64_t i = 0; i < x.rows; i++) {
    if (!kernels().rows.all_finite(x.data + i * x.columns, x.columns))
      return Status::fail(Code::non_finite, "row " + std::to_string(i) + " holds NaN or an infinity");
  }
  return {};
}

// What came out, where numbers may have grown beyond f32.
Status check_result(const float* out, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i++) {
    if (!kernels().rows.all_finite(out + i * columns, columns))
      return Status::fail(Code::non_finite, "row " + std::to_string(i) + " of the result is beyond f32");
  }
  return {};
}

// Calls body(row) for all rows, on all threads.
template <class Body>
Status for_rows(int64_t rows, const std::atomic<bool>* cancel, const Body& body) {
  return guarded([&]() -> Status {
    for_blocks(rows, block_rows, [&](int64_t begin, int64_t end) {
      if (is_cancelled(cancel)) return;
      for (int64_t i = begin; i < end; i++) body(i);
    });
    return is_cancelled(cancel) ? cancelled_fit() : Status{};
  });
}

}  // namespace

Status column_statistics(const FloatRows& x, const std::atomic<bool>* cancel, ColumnStatistics* out) {
  if (x.rows < 1) return Status::fail(Code::invalid_argument, "statistics of no rows");
  if (Status status = check(x); !status.ok()) return status;
  return guarded([&]() -> Status {
    const auto n = static_cast<double>(x.rows);
    ColumnStatistics found;
    found.mean.resize(at(x.columns));
    for (int64_t i = 0; i < x.rows; i++) {
      if (is_cancelled(cancel)) return cancelled_fit();
      double squares = 0;
      for (int64_t k = 0; k < x.columns; k++) {
        const double value = x.data[i * x.columns + k];
        found.mean[at(k)] += value / n;
        squares += value * value;
      }
      found.mean_norm += std::sqrt(squares) / n;
    }
    std::vector<double> about_mean(at(x.columns));
    for (int64_t i = 0; i < x.rows; i++) {
      if (is_cancelled(cancel)) return cancelled_fit();
      for (int64_t k = 0; k < x.columns; k++) {
        const double difference = x.data[i * x.columns + k] - found.mean[at(k)];
        about_mean[at(k)] += difference * difference;
      }
    }
    double sum = 0;
    for (size_t k = 0; k < about_mean.size(); k++) {
      sum += about_mean[k];
      const double deviation = x.rows > 1 ? std::sqrt(about_mean[k] / (n - 1)) : 0;
      const double rounding = 10 * static_cast<double>(std::numeric_limits<float>::epsilon()) * std::abs(found.mean[k]);
      found.deviation.push_back(deviation > rounding ? deviation : 0);
    }
    found.centred_norm = std::sqrt(sum / n);
    *out = std::move(found);
    return {};
  });
}

Status map_rows(const FloatRows& x, const RowMap& map, const std::atomic<bool>* cancel, float* out) {
  if (Status status = check(x); !status.ok()) return status;
  const int64_t d = x.columns;
  const Status status = for_rows(x.rows, cancel, [&](int64_t i) {
    const float* in = x.data + i * d;
    float* row = out + i * d;
    std::copy_n(in, d, row);
    if (map.subtract != nullptr) std::transform(row, row + d, map.subtract, row, std::minus<>());
    if (map.multiply != nullptr) std::transform(row, row + d, map.multiply, row, std::multiplies<>());
    if (map.unit) {
      double squares = 0;
      for (int64_t k = 0; k < d; k++) squares += static_cast<double>(row[k]) * static_cast<double>(row[k]);
      const double factor = squares > 0 ? 1 / std::sqrt(squares) : 0;
      for (int64_t k = 0; k < d; k++) row[k] = static_cast<float>(static_cast<double>(row[k]) * factor);
    }
    if (map.add != nullptr) std::transform(row, row + d, map.add, row, std::plus<>());
  });
  return status.ok() ? check_result(out, x.rows, d) : status;
}

Status average_rows(const FloatRows& x, const std::vector<int32_t>& indices, int64_t k, const std::atomic<bool>* cancel, float* out) {
  if (k < 1 || static_cast<int64_t>(indices.size()) % k != 0)
    return Status::fail(Code::invalid_argument, "every mean needs its " + std::to_string(k) + " indices");
  for (const int32_t index : indices) {
    if (index < 0 || index >= x.rows)
      return Status::fail(Code::invalid_argument, "row " + std::to_string(index) + " is not one of the " + std::to_string(x.rows));
  }
  if (Status status = check(x); !status.ok()) return status;
  const int64_t d = x.columns;
  return for_rows(static_cast<int64_t>(indices.size()) / k, cancel, [&](int64_t i) {
    std::vector<double> sums(at(d));
    for (int64_t j = 0; j < k; j++) {
      const float* row = x.data + indices[at(i * k + j)] * d;
      for (int64_t c = 0; c < d; c++) sums[at(c)] += static_cast<double>(row[c]);
    }
    for (int64_t c = 0; c < d; c++) out[i * d + c] = static_cast<float>(sums[at(c)] / static_cast<double>(k));
  });
}

Status combine_rows(const std::vector<FloatRows>& parts, Combination how, const std::atomic<bool>* cancel, float* out) {
  if (parts.empty()) return Status::fail(Code::invalid_argument, "nothing to combine");
  int64_t width = 0;
  for (const FloatRows& part : parts) {
    if (part.rows != parts[0].rows) return Status::fail(Code::invalid_argument, "all parts must have the same number of rows");
    if (how != Combination::concat && part.columns != parts[0].columns)
      return Status::fail(Code::invalid_argument, "a sum or mean needs parts of one width");
    if (Status status = check(part); !status.ok()) return status;
    width += part.columns;
  }
  if (how == Combination::concat) {
    return for_rows(parts[0].rows, cancel, [&](int64_t i) {
      float* row = out + i * width;
      for (const FloatRows& part : parts) row = std::copy_n(part.data + i * part.columns, part.columns, row);
    });
  }
  const int64_t d = parts[0].columns;
  const double factor = how == Combination::mean ? 1 / static_cast<double>(parts.size()) : 1;
  const Status status = for_rows(parts[0].rows, cancel, [&](int64_t i) {
    for (int64_t k = i * d; k < (i + 1) * d; k++) {
      double sum = 0;
      for (const FloatRows& part : parts) sum += static_cast<double>(part.data[k]);
      out[k] = static_cast<float>(sum * factor);
    }
  });
  return status.ok() ? check_result(out, parts[0].rows, d) : status;
}

Status add_noise(const FloatRows& x, double snr, uint64_t seed, const std::atomic<bool>* cancel, float* out, double* deviation) {
  if (std::isnan(snr) || snr == -std::numeric_limits<double>::infinity())
    return Status::fail(Code::invalid_argument, "snr must be a number of decibels, or infinity");
  if (Status status = check(x); !status.ok()) return status;
  const int64_t d = x.columns;
  double power = 0;
  for (int64_t i = 0; i < x.rows * d; i++) power += static_cast<double>(x.data[i]) * static_cast<double>(x.data[i]);
  if (x.rows > 0) power /= static_cast<double>(x.rows * d);
  const double sigma = std::sqrt(power * std::pow(10.0, -snr / 10));
  *deviation = sigma;
  const CounterRandom random(seed);
  const Status status = for_rows(x.rows, cancel, [&](int64_t i) {
    for (int64_t k = i * d; k < (i + 1) * d; k++) {
      if (sigma == 0) {
        out[k] = x.data[k];
        continue;
      }
      // Box and Muller 1958; the radius is never infinite
      const auto pair = static_cast<uint64_t>(k) * 2;
      const double radius = std::sqrt(-2 * std::log((static_cast<double>(random.at(pair) >> 11U) + 0.5) * 0x1p-53));
      const double angle = 2 * std::numbers::pi * (static_cast<double>(random.at(pair + 1) >> 11U) * 0x1p-53);
      out[k] = static_cast<float>(static_cast<double>(x.data[k]) + sigma * radius * std::cos(angle));
    }
  });
  return status.ok() ? check_result(out, x.rows, d) : status;
}

Status quantise_rows(const FloatRows& x, int bits, const std::atomic<bool>* cancel, float* out) {
  if (bits < 1 || bits > 16) return Status::fail(Code::invalid_argument, "a quantiser has 1 to 16 bits");
  if (Status status = check(x); !status.ok()) return status;
  const int64_t d = x.columns;
  const double levels = std::ldexp(1.0, bits);
  return for_rows(x.rows, cancel, [&](int64_t i) {
    const float* in = x.data + i * d;
    double largest = 0;
    for (int64_t k = 0; k < d; k++) largest = std::max(largest, std::abs(static_cast<double>(in[k])));
    const double step = 2 * largest / levels;
    for (int64_t k = 0; k < d; k++) {
      const double code = step > 0 ? std::clamp(std::floor((in[k] + largest) / step), 0.0, levels - 1) : 0;
      out[i * d + k] = static_cast<float>((code + 0.5) * step - largest);
    }
  });
}

Status lp_distances(const FloatRows& x, const FloatRows& anchors, double p, const std::atomic<bool>* cancel, float* out) {
  if (!(p >= 1) || !std::isfinite(p)) return Status::fail(Code::invalid_argument, "p must be a number of 1 or more");
  if (x.columns != anchors.columns) return Status::fail(Code::invalid_argument, "rows and anchors must have the same dimension");
  for (const FloatRows* rows : {&x, &anchors}) {
    if (Status status = check(*rows); !status.ok()) return status;
  }
  const int64_t d = x.columns;
  const Status status = for_rows(x.rows, cancel, [&](int64_t i) {
    for (int64_t j = 0; j < anchors.rows; j++) {
      const float* a = x.data + i * d;
      const float* b = anchors.data + j * d;
      // powers of numbers up to 1 neither overflow nor vanish all together
      double largest = 0;
      for (int64_t k = 0; k < d; k++) largest = std::max(largest, std::abs(static_cast<double>(a[k]) - static_cast<double>(b[k])));
      double sum = 0;
      for (int64_t k = 0; k < d && largest > 0; k++)
        sum += std::pow(std::abs(static_cast<double>(a[k]) - static_cast<double>(b[k])) / largest, p);
      out[i * anchors.rows + j] = static_cast<float>(largest * std::pow(sum, 1 / p));
    }
  });
  return status.ok() ? check_result(out, x.rows, anchors.rows) : status;
}

Status decode_codes(const uint8_t* codes, int64_t rows, int64_t columns, int bits, const std::atomic<bool>* cancel, float* out) {
  if (bits != 8 && bits != 4 && bits != 1) return Status::fail(Code::invalid_argument, "codes have 8, 4 or 1 bits");
  const int64_t row_bytes = code_row_bytes(columns, bits);
  return for_rows(rows, cancel, [&](int64_t i) {
    const uint8_t* in = codes + i * row_bytes;
    float* row = out + i * columns;
    for (int64_t j = 0; j < columns; j++) {
      if (bits == 8) {
        row[j] = static_cast<float>(static_cast<int8_t>(in[j])) / 127.0F;
      } else if (bits == 4) {
        const int code = (in[j / 2] >> (4 * (j % 2))) & 15;
        row[j] = static_cast<float>(code < 8 ? code : code - 16) / 7.0F;
      } else {
        row[j] = ((in[j / 8] >> (j % 8)) & 1) != 0 ? 1.0F : -1.0F;
      }
    }
  });
}

}  // namespace latentwire
