// Kernels that exchange the two axes of a matrix of elements: [rows][columns] -> [columns][rows].
#pragma once

#include <cstdint>

namespace latentwire {

// Part of a matrix; strides in bytes from one row to the next, of what is read and of what is written.
struct TransposeShape {
  int64_t rows;
  int64_t columns;
  int64_t bytes;  // of an element
  int64_t from_stride;
  int64_t to_stride;
  bool stream;  // write past the caches where the addresses allow it
};

using TransposeKernel = void (*)(const TransposeShape& shape, const uint8_t* from, uint8_t* to) noexcept;

// What is written past the caches is in order only after a fence (`StatsKernels`).
struct TransposeKernels {
  TransposeKernel two_bytes = nullptr;
  TransposeKernel four_bytes = nullptr;
  TransposeKernel any = nullptr;  // each element is copied: for long ones
};

}  // namespace latentwire
