// Content in memory that processes of one host share: sealed before its name goes out, so that what was checked stays as it was, and laid
// out so that llama.cpp reads the rows where they are. Little-endian:
//
//   u32 "LWKS", u32 version (1), nonce[16], u64 bytes of it all, u64 bytes of the manifest
//   manifest, tokens i32[n], positions i32[n], latents f32[.., dimension]
//   zeros up to a multiple of 64, then the state as llama.cpp reads it (llama_state.h)
//
// There are no digests: the memory is that of the host, and its pages are checked as any other's.
#pragma once

#include <array>
#include <memory>

#include "core/sealed_memory.h"
#include "kv/reader.h"

namespace latentwire {

// Drawn by the sender and said along with the name.
using SegmentNonce = std::array<uint8_t, 16>;

// What stands before the rows of a segment, here and in the memory of a device (device/segment.h, which has a mark of its own and rows
// without heads): everything up to the zeros.
struct SegmentForm {
  uint32_t mark;       // its first four bytes
  uint64_t alignment;  // of the rows, a power of two
};
constexpr size_t segment_first_bytes = 40;
// Zeros included. `rows` follow: so many bytes.
std::vector<uint8_t> write_segment_head(const KvContent& content, KvManifest manifest, const SegmentNonce& nonce, const SegmentForm& form,
                                        uint64_t rows);
// The sizes that its first segment_first_bytes say. Errors: kv_unreachable, kv_version.
Status read_segment_first(const uint8_t* bytes, const SegmentNonce& nonce, const SegmentForm& form, uint64_t* whole,
                          uint64_t* manifest_bytes);
// Layout and log of a content, of bytes that end with the head or go on, and where the rows begin. Errors: those of read_segment.
Status read_segment_head(const uint8_t* bytes, size_t size, const SegmentNonce& nonce, const SegmentForm& form,
                         const KvExpectation& expected, KvContent* content, KvManifest* manifest, size_t* rows);
// No head that can be used is larger, and no rows take more than those of this layout.
uint64_t most_head_bytes(const KvExpectation& expected, const SegmentForm& form);
CacheLayout widest_layout(const KvExpectation& expected);

// Errors: those of SealedMemory::make.
Status share_content(const KvContent& content, KvManifest manifest, const SegmentNonce& nonce, const std::atomic<bool>* cancel,
                     std::shared_ptr<const SealedMemory>* out);

// Content whose rows stay where they are; numbers of rows are looked at when they are used, as of any content. Errors: those of map_sealed,
// and of read_segment.
Status open_content(const SealedName& name, const SegmentNonce& nonce, const KvExpectation& expected,
                    std::shared_ptr<const KvContent>* content, KvManifest* manifest);

// The same of bytes that are there already, which nobody may change as long as the content lives. Errors: kv_unreachable (another nonce, or
// no segment), kv_version, kv_truncated, kv_format, kv_limit, kv_model_mismatch, kv_layout, kv_position, non_finite, out_of_memory.
Status read_segment(const std::shared_ptr<const uint8_t>& bytes, size_t size, const SegmentNonce& nonce, const KvExpectation& expected,
                    std::shared_ptr<const KvContent>* content, KvManifest* manifest);

}  // namespace latentwire
