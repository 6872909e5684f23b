// The kernels of one instruction set, as a table of functions. Each instruction set has a translation unit of its own that overrides what
// it does better than those before it, so a table is whole on every processor. Nothing here allocates, throws or starts a thread.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/blake3_kernels.h"
#include "kernels/block_kernels.h"
#include "kernels/codebook_kernels.h"
#include "kernels/double_kernels.h"
#include "kernels/gemm_kernels.h"
#include "kernels/probe_kernels.h"
#include "kernels/row_kernels.h"
#include "kernels/stats_kernels.h"
#include "kernels/thought_kernels.h"
#include "kernels/tile_kernels.h"
#include "kernels/transpose_kernels.h"

namespace latentwire {

enum class Isa { scalar, avx2, avx512, avx512_vnni, avx512_bf16, neon, neon_dotprod, neon_i8mm, neon_bf16 };

// "avx512_vnni"
std::string_view isa_name(Isa isa) noexcept;

struct Kernels {
  Isa isa = Isa::scalar;
  GemmKernels gemm;
  RowKernels rows;
  ProbeKernels probe;
  ThoughtKernels thought;
  TileKernels tiles;
  BlockKernels blocks;
  StatsKernels stats;
  CodebookKernels codebook;
  DoubleKernels doubles;
  TransposeKernels transpose;
  Blake3Kernels blake3;
};

// The best table that the processor and the environment variable LATENTWIRE_ISA (a name; "scalar" to "avx512_bf16") allow; chosen once. A
// name that this processor cannot run, or that is unknown, is ignored.
const Kernels& kernels() noexcept;

// All that this processor runs, the plainest first; for tests.
const std::vector<Kernels>& all_kernels();

// One per translation unit.
void install_scalar(Kernels& table) noexcept;
void install_avx2(Kernels& table) noexcept;
void install_avx512(Kernels& table) noexcept;
void install_avx512_vnni(Kernels& table) noexcept;
void install_avx512_bf16(Kernels& table) noexcept;
void install_neon(Kernels& table) noexcept;
void install_neon_dotprod(Kernels& table) noexcept;
void install_neon_i8mm(Kernels& table) noexcept;
void install_neon_bf16(Kernels& table) noexcept;

}  // namespace latentwire
