// Rows of cells from place to place: nothing but bytes, in the widest units that all addresses allow, several of them on their way at once.
#include "index.cuh"
#include "memory.h"

namespace latentwire::cuda {
namespace {

constexpr int threads = 256;
constexpr int depth = 4;
constexpr int parts_at_once = 128;

struct Parts {
  CellPart part[parts_at_once];
};

// One launch; sizes in units.
struct Job {
  int64_t from_stride;
  int64_t to_stride;
  const int32_t* from_cells;
  const int32_t* to_cells;
  int64_t first;
  Divisor row_units;
  uint32_t units;
};

template <class Unit>
__device__ inline Unit load_unit(const Unit* p) noexcept {
  if constexpr (sizeof(Unit) == 16)
    return load_once(p);
  else
    return *p;
}
template <class Unit>
__device__ inline void store_unit(Unit* p, Unit v) noexcept {
  if constexpr (sizeof(Unit) == 16)
    store_once(p, v);
  else
    *p = v;
}

template <class Unit>
__global__ void __launch_bounds__(threads) copy_kernel(const __grid_constant__ Parts parts, const __grid_constant__ Job job) {
  const auto* from = static_cast<const Unit*>(parts.part[blockIdx.y].from);
  auto* to = static_cast<Unit*>(parts.part[blockIdx.y].to);
  // units behind the end are those of the last one, so that loads need no condition
  int64_t source[depth];
  int64_t target[depth];
  uint32_t column[depth];
  bool inside[depth];
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const uint32_t at = (blockIdx.x * depth + i) * threads + threadIdx.x;
    inside[i] = at < job.units;
    const uint32_t unit = min(at, job.units - 1);
    const uint32_t row = job.row_units.quotient(unit);
    column[i] = unit - row * job.row_units.by;
    source[i] = target[i] = job.first + row;
  }
  if (job.from_cells != nullptr) {
#pragma unroll
    for (int i = 0; i < depth; i++) source[i] = job.from_cells[source[i]];
  }
  if (job.to_cells != nullptr) {
#pragma unroll
    for (int i = 0; i < depth; i++) target[i] = job.to_cells[target[i]];
  }
  Unit units[depth];
#pragma unroll
  for (int i = 0; i < depth; i++) units[i] = load_unit(from + source[i] * job.from_stride + column[i]);
#pragma unroll
  for (int i = 0; i < depth; i++) {
    if (inside[i]) store_unit(to + target[i] * job.to_stride + column[i], units[i]);
  }
}

template <class Unit>
cudaError_t copy_as(const CellArgs& a, cudaStream_t stream) noexcept {
  constexpr int64_t size = sizeof(Unit);
  const int64_t row_units = a.row_bytes / size;
  if (row_units > most_index / 2) return cudaErrorInvalidValue;
  const int64_t rows_at_once = most_index / 2 / row_units;
  for (int64_t first = 0; first < a.part_count; first += parts_at_once) {
    const int64_t count = a.part_count - first < parts_at_once ? a.part_count - first : parts_at_once;
    Parts parts;
    for (int64_t i = 0; i < count; i++) parts.part[i] = a.parts[first + i];
    for (int64_t row = 0; row < a.count; row += rows_at_once) {
      const int64_t rows = a.count - row < rows_at_once ? a.count - row : rows_at_once;
      Job job;
      job.from_stride = a.from_stride / size;
      job.to_stride = a.to_stride / size;
      job.from_cells = a.from_cells;
      job.to_cells = a.to_cells;
      job.first = row;
      job.row_units = Divisor(static_cast<uint32_t>(row_units));
      job.units = static_cast<uint32_t>(rows * row_units);
      const dim3 grid(ceil_div<uint32_t>(job.units, threads * depth), static_cast<uint32_t>(count));
      copy_kernel<Unit><<<grid, threads, 0, stream>>>(parts, job);
      LATENT_CUDA_TRY(cudaGetLastError());
    }
  }
  return cudaSuccess;
}

// Cells by channels of a tile that passes through shared memory, so that both sides are touched along their rows.
constexpr int tile = 64;

struct TransposedJob {
  int64_t count;
  int64_t channels;
  int64_t channel_stride;
  int64_t row_stride;
  const int32_t* cells;
  bool scatter;
};

template <class Unit>
__global__ void __launch_bounds__(threads)
    transpose_kernel(const __grid_constant__ Parts parts, const __grid_constant__ TransposedJob job) {
  __shared__ Unit room[tile][tile + 4 / sizeof(Unit)];  // [channel][cell], rows shifted by a bank each
  const int lane = static_cast<int>(threadIdx.x % tile);
  const int line = static_cast<int>(threadIdx.x / tile);
  constexpr int lines = threads / tile;
  const int64_t first_cell = int64_t{blockIdx.x} * tile;
  const int64_t first_channel = int64_t{blockIdx.y} * tile;
  const CellPart& part = parts.part[blockIdx.z];
  const int64_t cell = first_cell + lane;
  const int64_t slot = cell >= job.count ? -1 : job.cells == nullptr ? cell : job.cells[cell];
  const int64_t channel = first_channel + lane;
  const auto along_cells = [&](auto each) {
    if (slot < 0) return;
#pragma unroll 4
    for (int i = line; i < tile; i += lines) {
      if (first_channel + i < job.channels) each((first_channel + i) * job.channel_stride + slot, room[i][lane]);
    }
  };
  const auto along_channels = [&](auto each) {
    if (channel >= job.channels) return;
#pragma unroll 4
    for (int i = line; i < tile; i += lines) {
      if (first_cell + i < job.count) each((first_cell + i) * job.row_stride + channel, room[lane][i]);
    }
  };
  const auto* from = static_cast<const Unit*>(part.from);
  auto* to = static_cast<Unit*>(part.to);
  const auto load = [&](int64_t at, Unit& unit) { unit = from[at]; };
  const auto store = [&](int64_t at, const Unit& unit) { to[at] = unit; };
  if (job.scatter)
    along_channels(load);
  else
    along_cells(load);
  __syncthreads();
  if (job.scatter)
    along_cells(store);
  else
    along_channels(store);
}

template <class Unit>
cudaError_t transpose_as(const TransposedCellArgs& a, cudaStream_t stream) noexcept {
  const int64_t columns = ceil_div<int64_t>(a.channels, tile);
  if (columns > 65535 || a.count > most_index) return cudaErrorInvalidValue;
  const TransposedJob job{a.count, a.channels, a.channel_stride, a.row_stride, a.cells, a.scatter};
  for (int64_t first = 0; first < a.part_count; first += parts_at_once) {
    const int64_t count = a.part_count - first < parts_at_once ? a.part_count - first : parts_at_once;
    Parts parts;
    for (int64_t i = 0; i < count; i++) parts.part[i] = a.parts[first + i];
    const dim3 grid(static_cast<uint32_t>(ceil_div<int64_t>(a.count, tile)), static_cast<uint32_t>(columns), static_cast<uint32_t>(count));
    transpose_kernel<Unit><<<grid, threads, 0, stream>>>(parts, job);
    LATENT_CUDA_TRY(cudaGetLastError());
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t copy_cells(const CellArgs& a, cudaStream_t stream) noexcept {
  if (a.count < 0 || a.row_bytes < 0 || a.part_count < 0) return cudaErrorInvalidValue;
  if (a.count == 0 || a.row_bytes == 0) return cudaSuccess;
  uint64_t all = static_cast<uint64_t>(a.row_bytes) | static_cast<uint64_t>(a.from_stride) | static_cast<uint64_t>(a.to_stride);
  for (int64_t i = 0; i < a.part_count; i++)
    all |= reinterpret_cast<uintptr_t>(a.parts[i].from) | reinterpret_cast<uintptr_t>(a.parts[i].to);
  if (all % 16 == 0) return copy_as<uint4>(a, stream);
  if (all % 4 == 0) return copy_as<uint32_t>(a, stream);
  if (all % 2 == 0) return copy_as<uint16_t>(a, stream);
  return copy_as<uint8_t>(a, stream);
}

cudaError_t copy_transposed_cells(const TransposedCellArgs& a, cudaStream_t stream) noexcept {
  if (a.count < 0 || a.channels < 0 || a.part_count < 0) return cudaErrorInvalidValue;
  if (a.count == 0 || a.channels == 0) return cudaSuccess;
  if (a.element_bytes == 2) return transpose_as<uint16_t>(a, stream);
  if (a.element_bytes == 4) return transpose_as<uint32_t>(a, stream);
  return cudaErrorInvalidValue;
}

}  // namespace latentwire::cuda
