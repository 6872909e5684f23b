// The kernels of the mock backend. Arguments hold addresses of the device; each runs as work of a stream and throws IllegalAddress where
// one of them is none.
#pragma once

#include <vector>

#include "latentwire/backend_kernels.h"

namespace latentwire::mock {

uint64_t packed_bytes(int32_t storage, int64_t outputs, int64_t depth) noexcept;
void pack(const latent_pack_args& args);
void cosine(const latent_cosine_args& args);
void projection(const latent_projection_args& args);
void codeword(const latent_codeword_args& args);
void thought(const latent_thought_args& args);
// `parts` stands for the host's array, which may be gone by now.
void quantise(const latent_tile_args& args, const std::vector<latent_tile_part>& parts);
void dequantise(const latent_tile_args& args, const std::vector<latent_tile_part>& parts);
void hadamard_rows(const latent_hadamard_args& args);
void copy_cells(const latent_cell_args& args, const std::vector<latent_cell_part>& parts);
void copy_transposed_cells(const latent_transposed_cell_args& args, const std::vector<latent_cell_part>& parts);
void rope_shift(const latent_rope_args& args, const std::vector<void*>& rows);
void find_non_finite(const latent_finite_args& args, const std::vector<const void*>& parts);
void digest(const latent_digest_args& args);

}  // namespace latentwire::mock
