// Products of 17 to 64 rows of 16-bit floats on Hopper, which are bound by reading the matrix: 64 outputs are the tall side of warpgroup
// products and the rows, 32 or 64 of them, the other, so both operands come from shared memory as the copy engine leaves them there and
// pass no registers. A ring of boxes, 64 of depth each, is filled with the matrix before the kernel before has ended, and with rows once it
// has. Blocks of a cluster share the depth (product_few.cuh).
//
// The kernel behind may begin once all of this one's matrix has been asked for: earlier, it would take the memory from this one; later, the
// memory would be idle while this one ends.
#include "product_few.cuh"
#include "product_wgmma.cuh"

namespace latentwire::cuda {

#ifdef LATENT_WGMMA

// sums [64 outputs, 32 rows] as Wgmma<T, 64> of wgmma.cuh has them.
#define LATENT_WGMMA_32(type)                                                                                                   \
  asm volatile(                                                                                                                 \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 1, 1;\n"                                                                                \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type                                                               \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, 1, 0, 0;\n}"                    \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), \
        "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])                                            \
      : "l"(a), "l"(b))

template <class T>
struct Wgmma<T, 32> {
  static __device__ void multiply(float (&d)[16], uint64_t a, uint64_t b) noexcept {
    if constexpr (std::is_same_v<T, __half>) {
      LATENT_WGMMA_32("f16");
    } else {
      LATENT_WGMMA_32("bf16");
    }
  }
};

#undef LATENT_WGMMA_32

#endif  // LATENT_WGMMA

namespace {

constexpr int outputs = 64;
constexpr int pitch = outputs + 4;
constexpr int multipliers = 128;  // the threads of the warpgroup; one more warp copies
constexpr int threads = multipliers + 32;
constexpr int step_depth = 64;
constexpr int step_bytes = step_depth * 2;
constexpr int matrix_bytes = outputs * step_bytes;

template <int rows>
struct Ring {
  static constexpr int stage_bytes = matrix_bytes + rows * step_bytes;
  // two blocks of a processor: the next kernel's is filled while this one is emptied
  static constexpr int stages = rows == 32 ? 8 : 5;
  static constexpr int sum_bytes = rows * pitch * static_cast<int>(sizeof(float));
  // with the sums, and room to begin at a multiple of 1024
  static constexpr int bytes = stages * stage_bytes + sum_bytes + 1024;
};

#ifdef LATENT_WGMMA

constexpr int cached_steps = 6;  // that are asked for behind those in the ring, into the second-level cache

__device__ inline void prefetch_box(const CUtensorMap* map, int32_t k, int32_t row) noexcept {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(reinterpret_cast<uint64_t>(map)), "r"(k), "r"(row)
               : "memory");
}

// 128 / rows neighbouring lanes share a row, whose chunk c lies at c ^ (row % 8).
template <class T, int rows, Stats kind>
__device__ inline void gather_stats(RowStats<kind>& stats, const uint4* tile, int depth_left) noexcept {
  if constexpr (kind != Stats::none) {
    constexpr int of_row = multipliers / rows;
    constexpr int chunks = 8 / of_row;
    const int row = static_cast<int>(threadIdx.x) / of_row;
    const int first = static_cast<int>(threadIdx.x % of_row) * chunks;
    float x[8 * chunks];
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      float eight[8];
      unpack(tile[row * 8 + ((first + i) ^ (row % 8))], eight, T{});
#pragma unroll
      for (int e = 0; e < 8; e++) x[8 * i + e] = eight[e];
    }
    stats.add(x, depth_left - first * 8);
  }
}

#endif  // LATENT_WGMMA

template <class T, int rows, Stats kind>
__global__ void __launch_bounds__(threads, 2)
    few_wgmma_product(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                      const __grid_constant__ Product p) {
#ifdef LATENT_WGMMA
  using R = Ring<rows>;
  extern __shared__ uint8_t memory[];
  __shared__ uint64_t full[R::stages];
  __shared__ uint64_t empty[R::stages];
  __shared__ float4 shared_stats[rows];
  uint8_t* ring = memory + ((1024 - shared_address(memory) % 1024) % 1024);
  float* shared_sums = reinterpret_cast<float*>(ring + R::stages * R::stage_bytes);  // [rows, pitch]
  const auto blocks = static_cast<uint32_t>(p.splits);
  const uint32_t tile = blockIdx.x / blocks;
  const uint32_t rank = blockIdx.x % blocks;
  const auto steps = static_cast<uint32_t>(ceil_div<int64_t>(p.depth, step_depth));
  const auto begin = static_cast<int>(uint64_t{steps} * rank / blocks);
  const int count = static_cast<int>(uint64_t{steps} * (rank + 1) / blocks) - begin;

  if (threadIdx.x == 0) {
    for (int i = 0; i < R::stages; i++) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], multipliers / 32);
    }
    barrier_init_fence();
  }
  __syncthreads();

  if (threadIdx.x >= multipliers) {
    if (threadIdx.x == multipliers) {
      prefetch_map(&x_map);
      const auto copy_matrix = [&](int step) {
        const int stage = step % R::stages;
        barrier_expect(&full[stage], R::stage_bytes);
        load_box(&w_map, ring + stage * R::stage_bytes, &full[stage], (begin + step) * step_depth, static_cast<int>(tile) * outputs);
      };
      const auto copy_rows = [&](int step) {
        const int stage = step % R::stages;
        load_box(&x_map, ring + stage * R::stage_bytes + matrix_bytes, &full[stage], (begin + step) * step_depth, 0);
      };
      const auto prefetch = [&](int step) { prefetch_box(&w_map, (begin + step) * step_depth, static_cast<int>(tile) * outputs); };
      const int at_once = min(count, R::stages);
      for (int step = 0; step < at_once; step++) copy_matrix(step);
      for (int step = at_once; step < min(count, at_once + cached_steps); step++) prefetch(step);
      if (count <= at_once + cached_steps) let_next_begin();
      wait_for_previous();
      for (int step = 0; step < at_once; step++) copy_rows(step);
      for (int step = at_once; step < count; step++) {
        barrier_wait(&empty[step % R::stages], static_cast<uint32_t>(step / R::stages - 1) & 1);
        copy_matrix(step);
        copy_rows(step);
        if (step + cached_steps < count) prefetch(step + cached_steps);
        if (step + cached_steps == count - 1) let_next_begin();
      }
    }
    __syncwarp();
  } else {
    wait_for_previous();
    const auto warp = static_cast<int>(threadIdx.x / 32);
    const auto lane = static_cast<int>(threadIdx.x % 32);
    const auto release = [&](int step) {
      __syncwarp();
      if (lane == 0) barrier_arrive(&empty[step % R::stages]);
    };
    float sums[rows / 2];
#pragma unroll
    for (int i = 0; i < rows / 2; i++) sums[i] = 0;
    hold(sums);
    RowStats<kind> stats;
    for (int step = 0; step < count; step++) {
      const int stage = step % R::stages;
      const uint8_t* matrix = ring + stage * R::stage_bytes;
      barrier_wait(&full[stage], static_cast<uint32_t>(step / R::stages) & 1);
      const uint64_t a = tile_descriptor(matrix);
      const uint64_t b = tile_descriptor(matrix + matrix_bytes);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < step_depth / 16; i++) Wgmma<T, rows>::multiply(sums, a + i * descriptor_step, b + i * descriptor_step);
      wgmma_commit();
      gather_stats<T, rows>(stats, reinterpret_cast<const uint4*>(matrix + matrix_bytes),
                            static_cast<int>(p.depth) - (begin + step) * step_depth);
      if (step > 0) {
        wgmma_wait<1>();
        release(step - 1);
      }
    }
    wgmma_wait<0>();
    hold(sums);
    const int output = warp * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < rows / 2; i++) {
      const int row = i / 4 * 8 + lane % 4 * 2 + i % 2;
      shared_sums[row * pitch + output + i / 2 % 2 * 8] = sums[i];
    }
    if constexpr (kind != Stats::none) {
      constexpr int of_row = multipliers / rows;
#pragma unroll
      for (int distance = 1; distance < of_row; distance *= 2) stats.merge(shuffled(stats, lane ^ distance));
      if (threadIdx.x % of_row == 0) shared_stats[threadIdx.x / of_row] = stats_word(stats);
    }
  }
  meet_blocks(blocks);
  if (threadIdx.x < multipliers) finish_tile<kind, outputs, pitch, multipliers>(p, shared_sums, shared_stats, tile, rank, blocks);
  if (blocks > 1) meet_blocks(blocks);  // no block may leave while another reads its sums
#else
  __trap();  // there is code for sm_90a in every library that is built as it should be
#endif
}

template <class T, int rows, Stats kind>
cudaError_t launch(Product p, const Few& few, cudaStream_t stream) noexcept {
  const auto kernel = few_wgmma_product<T, rows, kind>;
  int processors = 0;
  LATENT_CUDA_TRY(device_attribute(cudaDevAttrMultiProcessorCount, &processors));
  if (p.depth > INT32_MAX - step_depth) return cudaErrorInvalidValue;
  CUtensorMap x_map, w_map;
  LATENT_CUDA_TRY(hopper::make_map(p.dtype, p.x, p.n, p.depth, p.x_stride, rows, hopper::step_depth, &x_map));
  LATENT_CUDA_TRY(hopper::make_map(p.dtype, p.w, p.outputs, p.depth, p.w_stride, outputs, hopper::step_depth, &w_map));
  LATENT_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Ring<rows>::bytes));
  const int64_t tiles = ceil_div<int64_t>(p.outputs, outputs);
  // two blocks fit a processor, so that some may have two
  p.splits = few.blocks > 0 ? few.blocks : few_blocks(tiles, ceil_div<int64_t>(p.depth, step_depth), processors * 5 / 4);
  return launch_early(kernel, dim3(static_cast<unsigned>(tiles * p.splits)), threads, Ring<rows>::bytes, static_cast<unsigned>(p.splits),
                      stream, x_map, w_map, p);
}

template <class T, Stats kind>
cudaError_t launch_with(const Product& p, const Few& few, cudaStream_t stream) noexcept {
  return p.n <= 32 ? launch<T, 32, kind>(p, few, stream) : launch<T, 64, kind>(p, few, stream);
}

template <class T>
cudaError_t launch_of(const Product& p, const Few& few, cudaStream_t stream) noexcept {
  switch (p.stats()) {
    case Stats::squares:
      return launch_with<T, Stats::squares>(p, few, stream);
    case Stats::layer:
      return launch_with<T, Stats::layer>(p, few, stream);
    case Stats::none:
      break;
  }
  return launch_with<T, Stats::none>(p, few, stream);
}

}  // namespace

cudaError_t product_few_wgmma(const Product& p, const Few& few, cudaStream_t stream) noexcept {
  return p.dtype == Dtype::f16 ? launch_of<__half>(p, few, stream) : launch_of<__nv_bfloat16>(p, few, stream);
}

}  // namespace latentwire::cuda
