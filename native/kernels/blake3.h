// BLAKE3 of a range of bytes: the digest of what comes from somebody who might forge, where XXH3 (`stats.h`) only finds damage. One thread:
// callers share out tiles.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace latentwire {

using Blake3Digest = std::array<uint8_t, 32>;
using Blake3Key = std::array<uint8_t, 32>;

Blake3Digest blake3(std::span<const std::byte> data) noexcept;
// The keyed mode, a message authentication code.
Blake3Digest blake3(std::span<const std::byte> data, const Blake3Key& key) noexcept;

}  // namespace latentwire
