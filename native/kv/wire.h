// Content as a stream of records, each with a digest, from a manifest to a root that covers them all. Whoever reads it can take the records
// in pieces of any size, knows of each what is still missing, and has nothing to use before the root has come.
//
//   "LWKV" u16 major, u16 minor, u64 check of these 8 bytes
//   record: u32 kind, u32 flags (1: must be understood), u32 first, u32 part, u64 bytes, digest[16] of the payload, u64 check of these 40
//     'HEAD'  the manifest; first and part are 0
//     'ENTR'  of the entries from `first` on: tokens i32[n], positions i32[n], latents f32[.., dimension]; part is n
//     'TILE'  of the same entries: rows [n, row bytes] of `part`, 2 * layer for keys and 2 * layer + 1 for values
//     'SIGN'  the bytes of a signature, before the root, if there is one; flags, first and part are 0
//     'ROOT'  root[16]; first and part are 0
//
// Entries come in chunks of 256, each followed by one tile a part. Digests are XXH3-128, low half first; checks are the low half. The root
// is that of a binary tree; its leaves are the digests of the first 40 bytes of each record's header, which hold the payload's digest: of
// the manifest, then chunk by chunk of the entries and their tiles. A parent is the digest of its two children, and one without a neighbour
// moves up as it is. Known kinds have no flag but 1: what a later version adds must not be taken for what this one knows.
//
// Where tiles travel in codecs, the manifest names them, and its header and those of the encoded tiles have the flags 3: who knows no
// codecs refuses them. The payload of such a tile is what its codec made of the rows, and digests are of that.
//
// XXH3 finds damage and not forgery, so what is signed is a seal: the BLAKE3 digest of the leaves in their order, where a leaf is the
// digest of the first 40 bytes of a header and the digest of its payload. Who does not verify a signature passes over it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/status.h"
#include "kernels/blake3.h"
#include "kernels/stats.h"
#include "kv/codec.h"

namespace latentwire {

constexpr int64_t chunk_entries = 256;
constexpr uint16_t wire_major = 1;
constexpr uint16_t wire_minor = 0;
constexpr size_t preamble_bytes = 16;
constexpr size_t record_header_bytes = 48;
constexpr size_t sealed_bytes = 40;  // of a header: all but its check
constexpr size_t max_signature_bytes = 4096;

// The codec of each part, [2 * layers], nullptr for rows as they are; or empty for none at all.
using PartCodecs = std::vector<std::shared_ptr<const KvCodec>>;

// invalid_argument, unless each of them can carry its part of such a cache.
Status check_codecs(const PartCodecs& codecs, const CacheLayout& layout);

// Of records in the order of the stream.
Digest128 root_of(std::vector<Digest128> leaves);

// What writer and reader both know of it.
namespace wire {

constexpr uint32_t kind_of(const char (&name)[5]) noexcept {
  return static_cast<uint32_t>(name[0]) | static_cast<uint32_t>(name[1]) << 8 | static_cast<uint32_t>(name[2]) << 16 |
         static_cast<uint32_t>(name[3]) << 24;
}
constexpr uint32_t magic = kind_of("LWKV");
constexpr uint32_t head_kind = kind_of("HEAD");
constexpr uint32_t entries_kind = kind_of("ENTR");
constexpr uint32_t tile_kind = kind_of("TILE");
constexpr uint32_t sign_kind = kind_of("SIGN");
constexpr uint32_t root_kind = kind_of("ROOT");
constexpr uint32_t must_understand = 1;
constexpr uint32_t with_codecs = 3;  // and there are codecs
constexpr size_t root_bytes = 16;

// At the end of a preamble or a header, of the bytes before it.
uint64_t check_of(const uint8_t* bytes, size_t size);
Blake3Digest sealed_leaf_of(const uint8_t* header, const uint8_t* payload, size_t bytes);
Blake3Digest seal_of(const std::vector<Blake3Digest>& leaves);
int64_t latents_in(const int32_t* tokens, int64_t count);

}  // namespace wire

}  // namespace latentwire
