// What the tests of fits share: small float64 matrices by plain loops, planted rotations, and digests to compare runs by.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "fit/matrix.h"
#include "kernels_support.h"

namespace latentwire::testing {

inline DenseMatrix random_dense(int64_t rows, int64_t columns, uint64_t seed) {
  Numbers numbers(seed);
  DenseMatrix out(rows, columns);
  for (double& value : out.values) value = static_cast<double>(numbers.normal());
  return out;
}

inline DenseMatrix transposed(const DenseMatrix& a) {
  DenseMatrix out(a.columns, a.rows);
  for (int64_t i = 0; i < a.rows; i++) {
    for (int64_t j = 0; j < a.columns; j++) out.row(j)[i] = a.row(i)[j];
  }
  return out;
}

inline DenseMatrix multiplied(const DenseMatrix& a, const DenseMatrix& b) {
  DenseMatrix out(a.rows, b.columns);
  for (int64_t i = 0; i < a.rows; i++) {
    for (int64_t k = 0; k < a.columns; k++) {
      for (int64_t j = 0; j < b.columns; j++) out.row(i)[j] += a.row(i)[k] * b.row(k)[j];
    }
  }
  return out;
}

inline DenseMatrix identity(int64_t n) {
  DenseMatrix out(n, n);
  for (int64_t i = 0; i < n; i++) out.row(i)[i] = 1;
  return out;
}

// a + scale * b
inline DenseMatrix plus(const DenseMatrix& a, double scale, const DenseMatrix& b) {
  DenseMatrix out = a;
  for (size_t i = 0; i < out.values.size(); i++) out.values[i] += scale * b.values[i];
  return out;
}

// Gauss-Jordan with partial pivoting.
inline DenseMatrix inverse(DenseMatrix a) {
  DenseMatrix out = identity(a.rows);
  const int64_t n = a.rows;
  for (int64_t k = 0; k < n; k++) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; i++) {
      if (std::abs(a.row(i)[k]) > std::abs(a.row(pivot)[k])) pivot = i;
    }
    if (pivot != k) std::swap_ranges(a.row(k), a.row(k) + n, a.row(pivot));
    if (pivot != k) std::swap_ranges(out.row(k), out.row(k) + n, out.row(pivot));
    const double scale = 1 / a.row(k)[k];
    for (int64_t j = 0; j < n; j++) {
      a.row(k)[j] *= scale;
      out.row(k)[j] *= scale;
    }
    for (int64_t i = 0; i < n; i++) {
      const double factor = i == k ? 0 : a.row(i)[k];
      if (factor == 0) continue;
      for (int64_t j = 0; j < n; j++) {
        a.row(i)[j] -= factor * a.row(k)[j];
        out.row(i)[j] -= factor * out.row(k)[j];
      }
    }
  }
  return out;
}

inline double largest_difference(const DenseMatrix& a, const DenseMatrix& b) {
  if (a.rows != b.rows || a.columns != b.columns) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < a.values.size(); i++) worst = std::max(worst, std::abs(a.values[i] - b.values[i]));
  return worst;
}

inline double squared_norm(const DenseMatrix& a) {
  double sum = 0;
  for (const double value : a.values) sum += value * value;
  return sum;
}

inline double norm(const DenseMatrix& a) { return std::sqrt(squared_norm(a)); }

inline std::vector<float> as_floats(const DenseMatrix& a) {
  std::vector<float> out;
  for (const double value : a.values) out.push_back(static_cast<float>(value));
  return out;
}

// Orthonormal columns by Gram-Schmidt, twice; rows >= columns.
inline DenseMatrix random_orthonormal(int64_t rows, int64_t columns, uint64_t seed) {
  DenseMatrix q = transposed(random_dense(rows, columns, seed));
  for (int64_t i = 0; i < columns; i++) {
    for (int pass = 0; pass < 2; pass++) {
      for (int64_t j = 0; j < i; j++) {
        double dot = 0;
        for (int64_t k = 0; k < rows; k++) dot += q.row(i)[k] * q.row(j)[k];
        for (int64_t k = 0; k < rows; k++) q.row(i)[k] -= dot * q.row(j)[k];
      }
    }
    double squares = 0;
    for (int64_t k = 0; k < rows; k++) squares += q.row(i)[k] * q.row(i)[k];
    for (int64_t k = 0; k < rows; k++) q.row(i)[k] /= std::sqrt(squares);
  }
  return transposed(q);
}

// FNV-1a of the bits, on stdout: equal lines mean equal results, for runs with different numbers of threads.
inline void print_digest(const char* name, const std::vector<std::vector<double>>& parts) {
  uint64_t hash = 0xcbf29ce484222325U;
  for (const auto& part : parts) {
    for (const double value : part) {
      uint64_t bits = 0;
      std::memcpy(&bits, &value, sizeof bits);
      hash = (hash ^ bits) * 0x100000001b3U;
    }
  }
  std::printf("digest %s %016llx\n", name, static_cast<unsigned long long>(hash));
}

}  // namespace latentwire::testing
