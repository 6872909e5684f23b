// Hopper's own instructions (sm_90a): bulk tensor copies that complete on barriers in shared memory, and products of a warpgroup with both
// operands in shared memory. Tiles are rows of 128 bytes of depth with the 128-byte swizzle: 16-byte chunk c of row r lies at c ^ (r % 8).
#pragma once

#include <cuda.h>

#include <cstdint>
#include <type_traits>

#include "device.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LATENT_WGMMA 1
#endif

namespace latentwire::cuda {

__device__ inline uint32_t shared_address(const void* p) noexcept { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

#ifdef LATENT_WGMMA

__device__ inline void barrier_init(uint64_t* barrier, uint32_t arrivals) noexcept {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Makes initialised barriers known to the copy engine; a block barrier must follow.
__device__ inline void barrier_init_fence() noexcept {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void barrier_arrive(uint64_t* barrier) noexcept {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// On the barrier at the same place in a block of the cluster. Not `.release.cluster`, which would wait for all that the thread has stored
// anywhere: what is handed over is room that was read.
__device__ inline void barrier_arrive_at(uint64_t* barrier, uint32_t block) noexcept {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(block)
      : "memory");
}
// The threads of one warpgroup; `name` 0 is the block's own barrier.
__device__ inline void warpgroup_barrier(int name) noexcept { asm volatile("bar.sync %0, 128;" ::"r"(name) : "memory"); }
// Of two warpgroups.
__device__ inline void warpgroups_barrier(int name) noexcept { asm volatile("bar.sync %0, 256;" ::"r"(name) : "memory"); }
// All threads of all blocks of the cluster; what was written before is seen after.
__device__ inline void cluster_barrier() noexcept {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The same for barriers that passed `barrier_init_fence` alone: it waits for no other write.
__device__ inline void cluster_start() noexcept {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// From the same place in the shared memory of a block of the cluster.
__device__ inline float4 load_from(const float4* own, uint32_t block) noexcept {
  float4 v;
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];\n"
      "}"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(shared_address(own)), "r"(block)
      : "memory");
  return v;
}
__device__ inline void barrier_expect(uint64_t* barrier, uint32_t bytes) noexcept {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Until the phase of that parity is complete; of a fresh barrier, the phase before its first has parity 1.
__device__ inline void barrier_wait(uint64_t* barrier, uint32_t parity) noexcept {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// A box of a matrix [rows, depth], from column `k` of row `row` on; what lies outside arrives as zeros.
__device__ inline void load_box(const CUtensorMap* map, void* to, uint64_t* barrier, int32_t k, int32_t row) noexcept {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                   shared_address(to)),
               "l"(reinterpret_cast<uint64_t>(map)), "r"(shared_address(barrier)), "r"(k), "r"(row)
               : "memory");
}
// The same into all blocks of the cluster that are in the mask, at the same place, each with its own barrier.
__device__ inline void load_box_for(const CUtensorMap* map, void* to, uint64_t* barrier, int32_t k, int32_t row, uint16_t blocks) noexcept {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], "
      "%5;" ::"r"(shared_address(to)),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(shared_address(barrier)), "r"(k), "r"(row), "h"(blocks)
      : "memory");
}
// A box from shared memory into a matrix, asynchronously; what lies outside is left out. The writers of the box must have passed
// `store_fence` and a barrier before.
__device__ inline void store_box(const CUtensorMap* map, const void* from, int32_t column, int32_t row) noexcept {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(reinterpret_cast<uint64_t>(map)),
               "r"(shared_address(from)), "r"(column), "r"(row)
               : "memory");
}
__device__ inline void store_fence() noexcept { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void store_commit() noexcept { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until at most `pending` groups of this thread's stores have yet to read what they store.
template <int pending>
__device__ inline void store_wait_read() noexcept {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}
// Until all of this thread's stores are done.
__device__ inline void store_wait() noexcept { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
__device__ inline void prefetch_map(const CUtensorMap* map) noexcept {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(map)) : "memory");
}

// Eight rows of 128 bytes are 1024 bytes apart from the next eight; 64 elements of 2 bytes are one swizzled row.
__device__ inline uint64_t tile_descriptor(const void* tile) noexcept {
  constexpr uint64_t leading = 1, group_stride = 1024 >> 4, swizzle_128 = 1;
  return ((shared_address(tile) & 0x3FFFFU) >> 4) | (leading << 16) | (group_stride << 32) | (swizzle_128 << 62);
}
// 16 elements further along the depth.
constexpr uint64_t descriptor_step = 32 >> 4;

__device__ inline void wgmma_fence() noexcept { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() noexcept { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `pending` of the groups are unfinished.
template <int pending>
__device__ inline void wgmma_wait() noexcept {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// Four 8 x 8 matrices of 16-bit floats to shared memory: of matrix m, lane 4 r + c holds elements 2 c and 2 c + 1 of row r in bits[m], and
// lane 8 m + r names where row r goes.
__device__ inline void store_matrices(void* row, const uint32_t (&bits)[4]) noexcept {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(bits[0]), "r"(bits[1]),
               "r"(bits[2]), "r"(bits[3])
               : "memory");
}
// Keeps the compiler from moving uses of sums across a wait.
template <int count>
__device__ inline void hold(float (&sums)[count]) noexcept {
#pragma unroll
  for (int i = 0; i < count; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

template <int registers>
__device__ inline void give_registers() noexcept {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ inline void take_registers() noexcept {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// sums [64, columns] += A [64, 16] B [columns, 16]': lane l of warp w holds row 16 w + l / 4 (+ 8 for odd pairs of four) and columns
// 8 (i / 4) + 2 (l % 4) + i % 2.
template <class T, int columns>
struct Wgmma;

// The names and the operands of so many sums.
#define LATENT_NAMES_32                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LATENT_NAMES_64                                                              \
  LATENT_NAMES_32                                                                    \
  ", "                                                                               \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LATENT_NAMES_96                                                              \
  LATENT_NAMES_64                                                                    \
  ", "                                                                               \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define LATENT_NAMES_128                                                                         \
  LATENT_NAMES_96                                                                                \
  ", "                                                                                           \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define LATENT_SUMS_32                                                                                                                  \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),  \
      "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
      "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), \
      "+f"(d[31])
#define LATENT_SUMS_64                                                                                                                  \
  LATENT_SUMS_32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),  \
      "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), \
      "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), \
      "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define LATENT_SUMS_96                                                                                                                  \
  LATENT_SUMS_64, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), "+f"(d[72]),  \
      "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), \
      "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), \
      "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define LATENT_SUMS_128                                                                                                             \
  LATENT_SUMS_96, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),       \
      "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), \
      "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), "+f"(d[121]), \
      "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
#define LATENT_PRODUCT(columns, type, names, operands)                                                                                   \
  "{\n.reg .pred p;\nsetp.eq.u32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" names "}, " operands \
  ";\n}"

template <class T>
struct Wgmma<T, 64> {
  static __device__ void multiply(float (&d)[32], uint64_t a, uint64_t b) noexcept {
    if constexpr (std::is_same_v<T, __half>) {
      asm volatile(LATENT_PRODUCT("64", "f16", LATENT_NAMES_32, "%32, %33, p, 1, 1, 0, 0") : LATENT_SUMS_32 : "l"(a), "l"(b));
    } else {
      asm volatile(LATENT_PRODUCT("64", "bf16", LATENT_NAMES_32, "%32, %33, p, 1, 1, 0, 0") : LATENT_SUMS_32 : "l"(a), "l"(b));
    }
  }
};

template <class T>
struct Wgmma<T, 128> {
  static __device__ void multiply(float (&d)[64], uint64_t a, uint64_t b) noexcept {
    if constexpr (std::is_same_v<T, __half>) {
      asm volatile(LATENT_PRODUCT("128", "f16", LATENT_NAMES_64, "%64, %65, p, 1, 1, 0, 0") : LATENT_SUMS_64 : "l"(a), "l"(b));
    } else {
      asm volatile(LATENT_PRODUCT("128", "bf16", LATENT_NAMES_64, "%64, %65, p, 1, 1, 0, 0") : LATENT_SUMS_64 : "l"(a), "l"(b));
    }
  }
};

template <class T>
struct Wgmma<T, 192> {
  static __device__ void multiply(float (&d)[96], uint64_t a, uint64_t b) noexcept {
    if constexpr (std::is_same_v<T, __half>) {
      asm volatile(LATENT_PRODUCT("192", "f16", LATENT_NAMES_96, "%96, %97, p, 1, 1, 0, 0") : LATENT_SUMS_96 : "l"(a), "l"(b));
    } else {
      asm volatile(LATENT_PRODUCT("192", "bf16", LATENT_NAMES_96, "%96, %97, p, 1, 1, 0, 0") : LATENT_SUMS_96 : "l"(a), "l"(b));
    }
  }
};

template <class T>
struct Wgmma<T, 256> {
  static __device__ void multiply(float (&d)[128], uint64_t a, uint64_t b) noexcept {
    if constexpr (std::is_same_v<T, __half>) {
      asm volatile(LATENT_PRODUCT("256", "f16", LATENT_NAMES_128, "%128, %129, p, 1, 1, 0, 0") : LATENT_SUMS_128 : "l"(a), "l"(b));
    } else {
      asm volatile(LATENT_PRODUCT("256", "bf16", LATENT_NAMES_128, "%128, %129, p, 1, 1, 0, 0") : LATENT_SUMS_128 : "l"(a), "l"(b));
    }
  }
};

#undef LATENT_NAMES_32
#undef LATENT_NAMES_64
#undef LATENT_NAMES_96
#undef LATENT_NAMES_128
#undef LATENT_SUMS_32
#undef LATENT_SUMS_64
#undef LATENT_SUMS_96
#undef LATENT_SUMS_128
#undef LATENT_PRODUCT

#endif  // LATENT_WGMMA

}  // namespace latentwire::cuda
