// Products of at most 64 rows, which are bound by reading the matrix, by warp products: for f32, for at most 16 rows, and for processors
// beside Hopper. Each lane copies 16 bytes at a time to a ring of its own in shared memory, which it alone reads: nobody waits for anybody,
// and the ring is filled before the kernel before has ended. Which elements of the depth meet in a product does not matter as long as both
// operands agree, so lane t of a quad takes 16 bytes beside each other where the product's layout would have it pick pairs.
//
// The warps of a block share the depth of 16 or 32 outputs; where that would leave processors idle, so do several blocks: of a cluster
// (product_few.cuh), or before Hopper through memory, and a second kernel adds. Sums are added in an order that depends on the sizes alone.
#include "product_few.cuh"

#include "gemm.h"
#include "mma.cuh"

namespace latentwire::cuda {
namespace {

constexpr int warps = 8;
constexpr int group_bytes = 128;  // of the depth of each output that a warp takes at once, as two steps of 64
constexpr int steps = 2;
// Of all lanes: four groups of 16 outputs or two of 32. The warps' sums pass through the same memory.
constexpr int ring_bytes = 64 << 10;

// Lane l of a warp loads 16 of every 64 bytes, at l % 4, of outputs l / 4, l / 4 + 8, … and of rows l / 4, ….
template <class T, int row_tiles, int output_tiles, Stats kind>
__global__ void __launch_bounds__(warps * 32, row_tiles == 1   ? 3
                                              : row_tiles == 2 ? 2
                                                               : 1) few_product(const __grid_constant__ Product p) {
  if constexpr (has_mma<T>) {
    constexpr int chunk = 16 / static_cast<int>(sizeof(T));
    constexpr int group = group_bytes / static_cast<int>(sizeof(T));
    constexpr bool promotes = std::is_same_v<T, float>;  // the matrix unit rounds towards zero
    constexpr int slot_chunks = output_tiles * 2 * steps * 32;
    constexpr int slots = ring_bytes / 16 / warps / slot_chunks;
    // rows come groups ahead too, or a step, where there are registers for it
    constexpr bool early_rows = row_tiles <= 2 || (row_tiles == 4 && !promotes);
    constexpr bool early_steps = !early_rows && !promotes;
    constexpr int rows_ahead = row_tiles == 1 ? 3 : early_rows ? 2 : 1;
    constexpr int at_once = row_tiles < 4 ? row_tiles : 4;
    constexpr int rows = row_tiles * 8;
    constexpr int outputs = output_tiles * 16;
    constexpr int pitch = outputs + 4;
    extern __shared__ __align__(128) uint8_t memory[];
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int g = lane / 4;
    const int t = lane % 4;
    const auto blocks = static_cast<uint32_t>(p.splits);
    const int64_t tile = blockIdx.x / blocks;
    const uint32_t rank = blockIdx.x % blocks;
    const int64_t column0 = tile * outputs;

    // groups of this block, then every eighth for this warp
    const int64_t groups = ceil_div<int64_t>(p.depth, group);
    const int64_t begin = groups * rank / blocks;
    const int64_t end = groups * (rank + 1) / blocks;

    const T* w[output_tiles][2];
#pragma unroll
    for (int i = 0; i < output_tiles; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int64_t output = column0 + i * 16 + half * 8 + g;  // beyond the last, the last again
        w[i][half] = static_cast<const T*>(p.w) + (output < p.outputs ? output : p.outputs - 1) * p.w_stride + t * chunk;
      }
    }
    const T* x = static_cast<const T*>(p.x) + g * p.x_stride + t * chunk;

    uint4* const ring = reinterpret_cast<uint4*>(memory) + warp * slots * slot_chunks + lane;
    const auto place = [&](int slot, int i, int half, int s) { return ring + slot * slot_chunks + ((i * 2 + half) * steps + s) * 32; };
    const auto fetch = [&](int64_t at, int slot) {
      if (at < end) {
#pragma unroll
        for (int i = 0; i < output_tiles; i++) {
#pragma unroll
          for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int s = 0; s < steps; s++) copy_chunk(place(slot, i, half, s), w[i][half] + at * group + s * (group / steps), true);
          }
        }
      }
      commit_copies();
    };

    float sums[output_tiles][row_tiles][4] = {};
    RowStats<kind> stats[row_tiles];
    // not by __ldg, which would let the compiler load them before the wait
    const auto load_rows = [&](int64_t at, int s, uint4(&to)[row_tiles]) {
      const int64_t k = at * group + s * (group / steps);
#pragma unroll
      for (int j = 0; j < row_tiles; j++) {
        const bool valid = at < end && j * 8 + g < p.n && k + t * chunk < p.depth;
        to[j] = valid ? *reinterpret_cast<const uint4*>(x + j * 8 * p.x_stride + k) : make_uint4(0, 0, 0, 0);
      }
    };
    const auto use = [&](int64_t at, int slot, uint4(&rows_of)[steps][row_tiles]) {
      const auto multiply_group = [&](float(&into)[output_tiles][row_tiles][4]) {
#pragma unroll
        for (int s = 0; s < steps; s++) {
          const int64_t k = at * group + s * (group / steps);
          uint4(&of_rows)[row_tiles] = rows_of[s];
          if constexpr (early_steps) {
            load_rows(s == 0 ? at : at + warps, 1 - s, rows_of[1 - s]);
          } else if constexpr (!early_rows) {
            load_rows(at, s, of_rows);
          }
#pragma unroll
          for (int half = 0; half < 2; half++) {  // the first and the last 8 bytes of each 16
            Fragment<T, 4> a[output_tiles];
#pragma unroll
            for (int i = 0; i < output_tiles; i++) {
              const uint4 upper = *place(slot, i, 0, s), lower = *place(slot, i, 1, s);
              a[i].bits[0] = half == 0 ? upper.x : upper.z;
              a[i].bits[1] = half == 0 ? lower.x : lower.z;
              a[i].bits[2] = half == 0 ? upper.y : upper.w;
              a[i].bits[3] = half == 0 ? lower.y : lower.w;
              a[i].prepare();
            }
#pragma unroll
            for (int first = 0; first < row_tiles; first += at_once) {
              Fragment<T, 2> b[at_once];
#pragma unroll
              for (int j = 0; j < at_once; j++) {
                b[j].bits[0] = half == 0 ? of_rows[first + j].x : of_rows[first + j].z;
                b[j].bits[1] = half == 0 ? of_rows[first + j].y : of_rows[first + j].w;
                b[j].prepare();
              }
#pragma unroll
              for (int i = 0; i < output_tiles; i++) multiply_fragments(into[i], first, a[i], b);
            }
          }
          if constexpr (kind != Stats::none) {
#pragma unroll
            for (int j = 0; j < row_tiles; j++) {
              float values[chunk];
              unpack(of_rows[j], values, T{});
              stats[j].add(values, p.depth - k - t * chunk);
            }
          }
        }
      };
      if constexpr (promotes) {
        float part[output_tiles][row_tiles][4] = {};
        multiply_group(part);
#pragma unroll
        for (int i = 0; i < output_tiles; i++) {
#pragma unroll
          for (int j = 0; j < row_tiles; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][j][e] += part[i][j][e];
          }
        }
      } else {
        multiply_group(sums);
      }
    };

    // the kernel behind may begin once all of the matrix has been asked for
    if (begin + warp + slots * warps >= end) let_next_begin();
#pragma unroll
    for (int i = 0; i < slots; i++) fetch(begin + warp + i * warps, i);
    wait_for_previous();
    uint4 of_rows[rows_ahead][steps][row_tiles];
    const auto load_group_rows = [&](int64_t at, uint4(&to)[steps][row_tiles]) {
      if constexpr (early_rows) {
#pragma unroll
        for (int s = 0; s < steps; s++) load_rows(at, s, to[s]);
      }
    };
#pragma unroll
    for (int i = 0; i < rows_ahead; i++) load_group_rows(begin + warp + i * warps, of_rows[i]);
    if constexpr (early_steps) load_rows(begin + warp, 0, of_rows[0][0]);
    int slot = 0;
    for (int64_t first = begin + warp; first < end; first += rows_ahead * warps) {
#pragma unroll
      for (int i = 0; i < rows_ahead; i++) {
        const int64_t at = first + i * warps;
        if (at >= end) break;
        wait_copies<slots - 1>();
        use(at, slot, of_rows[i]);
        load_group_rows(at + rows_ahead * warps, of_rows[i]);
        fetch(at + slots * warps, slot);
        if (at + (slots + 1) * warps >= end) let_next_begin();
        slot = slot + 1 == slots ? 0 : slot + 1;
      }
    }
    wait_copies<0>();

    // the warps' sums, in a fixed order: 4 to 7 onto 0 to 3, then those four
    using Sums = float[rows][pitch];
    Sums* const shared_sums = reinterpret_cast<Sums*>(memory);                                  // [warps / 2]
    float4* const shared_stats = reinterpret_cast<float4*>(memory + warps / 2 * sizeof(Sums));  // [warps, rows], then [rows]
    static_assert(warps / 2 * sizeof(Sums) + (warps + 1) * rows * sizeof(float4) <= ring_bytes);
    const auto each = [&](auto f) {
#pragma unroll
      for (int i = 0; i < output_tiles; i++) {
#pragma unroll
        for (int j = 0; j < row_tiles; j++) {
#pragma unroll
          for (int e = 0; e < 4; e++) f(shared_sums[warp % (warps / 2)][j * 8 + t * 2 + e % 2][i * 16 + g + e / 2 * 8], sums[i][j][e]);
        }
      }
    };
    __syncthreads();  // all have left the ring
    if (warp >= warps / 2) each([](float& shared, float own) { shared = own; });
    if constexpr (kind != Stats::none) {
#pragma unroll
      for (int j = 0; j < row_tiles; j++) {
        stats[j].merge(shuffled(stats[j], lane ^ 1));
        stats[j].merge(shuffled(stats[j], lane ^ 2));
        if (t == 0) shared_stats[warp * rows + j * 8 + g] = stats_word(stats[j]);
      }
    }
    __syncthreads();
    if (warp < warps / 2) each([](float& shared, float own) { shared += own; });
    __syncthreads();
    for (int at = static_cast<int>(threadIdx.x); at < rows * outputs; at += warps * 32) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < warps / 2; i++) sum += shared_sums[i][at / outputs][at % outputs];
      shared_sums[0][at / outputs][at % outputs] = sum;
    }
    if constexpr (kind != Stats::none) {
      if (threadIdx.x < rows) {
        RowStats<kind> of_row;
#pragma unroll
        for (int i = 0; i < warps; i++) of_row.merge(stats_of<kind>(shared_stats[i * rows + threadIdx.x]));
        shared_stats[warps * rows + threadIdx.x] = stats_word(of_row);
      }
    }
#if __CUDA_ARCH__ >= 900
    meet_blocks(blocks);
    finish_tile<kind, outputs, pitch, warps * 32>(p, shared_sums[0][0], shared_stats + warps * rows, tile, rank, blocks);
    if (blocks > 1) meet_blocks(blocks);  // no block may leave while another reads its sums
#else
    __syncthreads();
    if (blocks == 1) {
      finish_tile<kind, outputs, pitch, warps * 32>(p, shared_sums[0][0], shared_stats + warps * rows, tile, 0, 1);
      return;
    }
    for (int at = static_cast<int>(threadIdx.x); at < p.n * outputs; at += warps * 32) {
      const int row = at / outputs;
      const int64_t column = column0 + at % outputs;
      if (column >= p.outputs) continue;
      p.partial[(rank * p.n + row) * p.outputs + column] = shared_sums[0][row][at % outputs];
      if (kind != Stats::none && column == 0) {
        const float4 word = shared_stats[warps * rows + row];
        float* const to = p.partial_stats + (rank * p.n + row) * 3;
        to[0] = word.x;
        to[1] = word.y;
        to[2] = word.z;
      }
    }
#endif
  } else {
    __trap();  // `product` sends nothing here that the processor cannot do
  }
}

template <Stats kind>
__global__ void __launch_bounds__(256) add_splits(const __grid_constant__ Product p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = at / p.outputs;
  const int64_t column = at % p.outputs;
  if (row >= p.n) return;
  float sum = 0;
  RowStats<kind> stats;
  for (int i = 0; i < p.splits; i++) {
    sum += p.partial[(i * p.n + row) * p.outputs + column];
    const float* of_row = p.partial_stats + (i * p.n + row) * 3;
    if constexpr (kind != Stats::none) stats.merge(stats_of<kind>({of_row[0], of_row[1], of_row[2], 0}));
  }
  store_value(p, row_affine(p, stats, row), row, column, sum);
}

// Blocks of a cluster for each tile. Where rows are few the matrix's way in is what counts, which more blocks share; many are bound by
// products, and two blocks help only where most processors would have nothing to do.
int blocks_of_floats(const Product& p, int64_t tiles, int processors) noexcept {
  if (p.n <= 8) return few_blocks(tiles, p.depth / 1024, 4 * processors);
  return p.n > 16 && p.depth >= 256 && 4 * tiles <= processors ? 2 : 1;
}

template <class T, int row_tiles, Stats kind>
cudaError_t launch(Product p, const Device& device, const Few& few, cudaStream_t stream) noexcept {
  constexpr int output_tiles = row_tiles > 2 ? 2 : 1;
  const auto kernel = few_product<T, row_tiles, output_tiles, kind>;
  LATENT_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ring_bytes));
  const int64_t tiles = ceil_div<int64_t>(p.outputs, output_tiles * 16);
  const bool clusters = device.version >= 90;
  if (clusters) {
    p.splits = few.blocks > 0 ? few.blocks : std::is_same_v<T, float> ? blocks_of_floats(p, tiles, device.processors) : 1;
  }
  LATENT_CUDA_TRY(launch_early(kernel, dim3(static_cast<unsigned>(tiles * p.splits)), warps * 32, ring_bytes,
                               clusters ? static_cast<unsigned>(p.splits) : 1, stream, p));
  if (clusters || p.splits == 1) return cudaSuccess;
  add_splits<kind><<<static_cast<unsigned>(ceil_div<int64_t>(p.n * p.outputs, 256)), 256, 0, stream>>>(p);
  return cudaGetLastError();
}

template <class T, Stats kind>
cudaError_t launch_with(const Product& p, const Device& device, const Few& few, cudaStream_t stream) noexcept {
  if (p.n <= 8) return launch<T, 1, kind>(p, device, few, stream);
  if (p.n <= 16) return launch<T, 2, kind>(p, device, few, stream);
  return p.n <= 32 ? launch<T, 4, kind>(p, device, few, stream) : launch<T, 8, kind>(p, device, few, stream);
}

// Of up to 16 rows the lanes' own rings are faster than boxes, which one thread has to ask for.
bool takes_warpgroups(const Device& device, Dtype dtype, int64_t n) noexcept {
  return device.version == 90 && dtype != Dtype::f32 && n > 16;
}

}  // namespace

int64_t few_tiles(Dtype dtype, int64_t n, int64_t outputs, int64_t depth) noexcept {
  Device device;
  if (this_device(&device) != cudaSuccess || n > 64 || depth < 1 || (device.version < 80 && dtype != Dtype::f16)) return 0;
  return ceil_div<int64_t>(outputs, takes_warpgroups(device, dtype, n) ? 64 : few_outputs(n));
}

cudaError_t product_few(Product p, cudaStream_t stream, Few few) noexcept {
  Device device;
  LATENT_CUDA_TRY(this_device(&device));
  if (p.n == 1) p.x_stride = packed_leading(p.dtype, p.depth);  // means nothing, but copies want it to be sound
  if (takes_warpgroups(device, p.dtype, p.n) && !few.warps) return product_few_wgmma(p, few, stream);
  return for_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    switch (p.stats()) {
      case Stats::squares:
        return launch_with<T, Stats::squares>(p, device, few, stream);
      case Stats::layer:
        if constexpr (!std::is_same_v<T, float>) return launch_with<T, Stats::layer>(p, device, few, stream);
        return cudaErrorNotSupported;
      case Stats::none:
        break;
    }
    return launch_with<T, Stats::none>(p, device, few, stream);
  });
}

}  // namespace latentwire::cuda
