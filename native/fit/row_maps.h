// What is done to rows on their way into a map or out of one: moved, scaled, brought to length 1, averaged, put side by side, and spoilt as
// a channel spoils them. Rows are f32 [n, d]; what is computed for one row depends on no other.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "fit/matrix.h"

namespace latentwire {

struct ColumnStatistics {
  std::vector<double> mean;       // [d]
  std::vector<double> deviation;  // [d], divisor n - 1; 0 where a column varies by no more than ten roundings of f32, or n is 1
  double mean_norm = 0;           // of the rows as they are
  double centred_norm = 0;        // the root of the mean |x - mean|^2
};

// n >= 1. Fails with invalid_argument, non_finite, cancelled or out_of_memory, as all below.
Status column_statistics(const FloatRows& x, const std::atomic<bool>* cancel, ColumnStatistics* out);

// unit((x - subtract) * multiply) + add, each [d] or nullptr for none; a row of zeros has no length and stays one.
struct RowMap {
  const float* subtract = nullptr;
  const float* multiply = nullptr;
  bool unit = false;
  const float* add = nullptr;
};

// out: [n, d]
Status map_rows(const FloatRows& x, const RowMap& map, const std::atomic<bool>* cancel, float* out);

// Row i of out [m, d] is the mean of the k rows that indices [m, k] names.
Status average_rows(const FloatRows& x, const std::vector<int32_t>& indices, int64_t k, const std::atomic<bool>* cancel, float* out);

// concat [n, sum of d], or the sum or mean [n, d] of rows of one width.
enum class Combination { concat, sum, mean };

Status combine_rows(const std::vector<FloatRows>& parts, Combination how, const std::atomic<bool>* cancel, float* out);

// Additive white Gaussian noise of variance mean(x^2) / 10^(snr / 10), `snr` in decibels; the noise of an element is a function of seed and
// place. Infinity adds nothing, bit for bit. `deviation` becomes that of the noise.
Status add_noise(const FloatRows& x, double snr, uint64_t seed, const std::atomic<bool>* cancel, float* out, double* deviation);

// Rows as a uniform quantiser of 2^bits levels over [-m, m], m the largest magnitude of the row, gives them back: no element is off by more
// than half a step, m / 2^bits. 1 <= bits <= 16.
Status quantise_rows(const FloatRows& x, int bits, const std::atomic<bool>* cancel, float* out);

// (sum |x_k - a_k|^p)^(1/p) of every row x [n, d] and anchor a [m, d], p >= 1 and finite, in f64: for the powers that no kernel is made
// for. out: [n, m]
Status lp_distances(const FloatRows& x, const FloatRows& anchors, double p, const std::atomic<bool>* cancel, float* out);

// The cosines that relative_codes has rounded to 8, 4 or 1 bits, about: code / 127, code / 7, or 1 and -1. codes: [rows, code_row_bytes],
// out: [rows, columns].
Status decode_codes(const uint8_t* codes, int64_t rows, int64_t columns, int bits, const std::atomic<bool>* cancel, float* out);

}  // namespace latentwire
