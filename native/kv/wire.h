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
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "core/status.h"
#include "kernels/blake3.h"
#include "kernels/stats.h"
#include "kv/codec.h"
#include "kv/content.h"
#include "kv/manifest.h"

namespace latentwire {

constexpr int64_t chunk_entries = 256;
constexpr uint16_t wire_major = 1;
constexpr uint16_t wire_minor = 0;
constexpr size_t preamble_bytes = 16;
constexpr size_t record_header_bytes = 48;
constexpr size_t sealed_bytes = 40;  // of a header: all but its check
constexpr size_t max_signature_bytes = 4096;

// Of records in the order of the stream.
Digest128 root_of(std::vector<Digest128> leaves);

// The codec of each part, [2 * layers], nullptr for rows as they are; or empty for none at all.
using PartCodecs = std::vector<std::shared_ptr<const KvCodec>>;

// invalid_argument, unless each of them can carry its part of such a cache.
Status check_codecs(const PartCodecs& codecs, const CacheLayout& layout);

// A tile as its codec made it, elsewhere than in the writer.
struct EncodedTile {
  std::shared_ptr<const uint8_t> bytes;
  int64_t size = 0;
};

// Rows of the next entries of a content that is never here as a whole, which begin and end where chunks do, or the content. Parts whose
// tiles are there already have no rows, but nullptr.
struct KvPiece {
  KvSegment rows;
  std::vector<std::vector<EncodedTile>> tiles;  // [2 * layers], each [chunks], or empty where there are rows
  size_t memory = 0;                            // of all of it

  size_t bytes() const noexcept { return memory; }
};

// One content as records, by number: 0 is the manifest (with the preamble before it), the last one the root. Any thread; the content is not
// copied, a record is written when it is asked for.
class KvWriter {
 public:
  // `sealed`: the seal will be asked for. The content has `entries` in all. Those that are not there yet are appended, and of a log without
  // rows these. `codecs` have passed check_codecs.
  KvWriter(std::shared_ptr<const KvContent> content, KvManifest manifest, bool sealed, int64_t entries, PartCodecs codecs = {});
  KvWriter(const std::shared_ptr<const KvContent>& content, KvManifest manifest)
      : KvWriter(content, std::move(manifest), false, content->size()) {}

  // The next entries. Not while a record is being written. Errors: kv_layout (they are stored differently), kv_limit (more than the
  // manifest says).
  Status append(const KvContent& next);
  // The next rows of a log that has none. Those before them should have been written, for they are let go. Error: invalid_argument (they
  // begin or end within a chunk, or beyond the log).
  Status append(KvPiece next);
  // How many can be written by now: those of whole chunks, and all of them once the last entry is there.
  int64_t ready() const noexcept;
  int64_t records() const noexcept { return 2 + chunks_of(entries_) * records_a_chunk(); }
  // With its header; of one that is ready. Of a tile that travels in a codec, the most that it can have.
  int64_t record_bytes(int64_t record) const noexcept;
  // `out` has record_bytes bytes; `written` is how many it took, all of them unless there is a codec. The root can be written when all
  // others have been written or passed over, in any order, one at a time. Errors: non_finite (rows that a codec cannot hold),
  // invalid_argument (a tile that was not provided, rows that were let go), out_of_memory.
  Status write(int64_t record, uint8_t* out, int64_t* written);
  // Takes the record into the root without writing it. Errors: as above.
  Status pass_over(int64_t record);
  // The numbers of the tiles [from, to) that are encoded outside, which `provide` takes before they are written. Kept until then.
  std::vector<int64_t> outside_tiles(int64_t from, int64_t to) const;
  const PartCodecs& codecs() const noexcept { return codecs_; }
  // The tile of a record: where it belongs.
  KvTile tile_of(int64_t record) const noexcept;
  // nullptr if they lie in several pieces, or are not there.
  const uint8_t* rows_in_one_piece(const KvTile& tile) const;
  // Error: kv_limit (more bytes than a receiver takes).
  Status provide(int64_t record, EncodedTile encoded);
  // What a signature signs; when the root can be written.
  Blake3Digest seal() const;

 private:
  static int64_t chunks_of(int64_t entries) noexcept { return (entries + chunk_entries - 1) / chunk_entries; }
  int64_t records_a_chunk() const noexcept { return 1 + static_cast<int64_t>(content_->layout.parts.size()); }
  int64_t payload_bytes(int64_t record) const noexcept;
  // The part of the tile that a record is, -1 of another record.
  int64_t part_of(int64_t record) const noexcept;
  // nullptr where it travels as it is.
  const KvCodec* codec_of(int64_t record) const noexcept;
  // Error: invalid_argument (rows that were let go).
  Status write_payload(int64_t record, uint8_t* out) const;
  Status copy_rows(const KvTile& tile, uint8_t* out) const;
  Status encode(int64_t record, uint8_t* out, int64_t* written);
  // `payload` are the bytes that the header is for.
  void write_header(int64_t record, const uint8_t* payload, int64_t bytes, uint8_t* out);

  void count_latents();

  int64_t rows_here() const noexcept;
  // Calls body(rows, count) for the rows of a tile, nullptr where they were let go.
  template <typename Body>
  void for_rows(const KvTile& tile, const Body& body) const;

  std::shared_ptr<const KvContent> content_;  // what there is by now, but for
  std::vector<KvSegment> segments_;           // its rows
  int64_t entries_;                           // in all
  std::vector<uint8_t> manifest_;
  std::vector<Digest128> leaves_;            // [records - 1]
  std::vector<Blake3Digest> sealed_leaves_;  // [records - 1] if it is sealed
  std::vector<int64_t> latents_ = {0};       // [ready chunks + 1]: latents before each chunk
  PartCodecs codecs_;
  std::map<int64_t, EncodedTile> provided_;  // by record
};

// The record with a signature, of at most max_signature_bytes.
std::vector<uint8_t> signature_record(const std::vector<uint8_t>& signature);

// What a reader holds foreign bytes against: all sizes come from the local model, none from the sender.
struct KvExpectation {
  KvManifest manifest;
  int32_t vocabulary = 0;
  int64_t max_entries = 0;
  bool sealed = false;  // the seal will be asked for
  // Those that content may travel in besides the built-in ones.
  std::vector<std::shared_ptr<const KvCodec>> codecs;
};

// A tile that came encoded and that somebody outside must decode.
struct OutsideTile {
  std::string codec;
  KvTile tile;  // its positions are those of the reader, and live as long
  std::vector<uint8_t> bytes;
};

// Whether content of this manifest may come at all. Errors: kv_model_mismatch, kv_layout, kv_limit (more entries than may be).
Status check_expected(const KvManifest& sent, const KvExpectation& expected);

// Whether these can be entries of such content: tokens of the vocabulary, positions, and latents in f32, `dimension` numbers each, one for
// each `row_entry`. Errors: kv_format, kv_position, non_finite.
Status check_entries(const std::vector<int32_t>& tokens, const std::vector<int32_t>& positions, const std::vector<float>& rows,
                     const KvExpectation& expected);

class KvReader {
 public:
  explicit KvReader(KvExpectation expected) : expected_(std::move(expected)) {}

  // Takes the next bytes of the stream. After an error the reader takes nothing more from this stream; `restart` keeps all records that
  // were whole, unless they turned out to be of another content. Errors: kv_version, kv_format, kv_checksum, kv_model_mismatch, kv_layout,
  // kv_limit, kv_position, kv_codec (one that is not known here), non_finite, out_of_memory.
  Status feed(const uint8_t* bytes, size_t size);
  // The sender was lost: the next bytes come from the beginning of a stream of the same content, of which records may be left out.
  void restart();

  // The first tile that waits for a codec outside; nullptr if there is none.
  const OutsideTile* outside() const noexcept { return outside_.empty() ? nullptr : &outside_.front(); }
  // The numbers of that tile, f32 [count, channels]; then it waits no longer. Errors: kv_format (another number of them, or one that is not
  // finite or too large for the rows), and invalid_argument if none waits.
  Status take_decoded(const float* numbers, int64_t count);

  // Error kv_truncated before the root has come, and while a tile waits for a codec outside.
  Status finish(std::shared_ptr<const KvContent>* content, KvManifest* manifest) const;
  bool done() const noexcept { return done_; }
  // Of all that has come, once it is done, if it was expected.
  Blake3Digest seal() const;
  // Empty if none has come.
  const std::vector<uint8_t>& signature() const noexcept { return signature_; }
  // Numbers of the records that are there, of all but the root, as bits from the lowest of the first byte on.
  std::vector<uint8_t> held() const;
  int64_t payload_bytes() const noexcept { return payload_bytes_; }  // of whole records that were taken in
  int64_t tile_bytes() const noexcept { return tile_bytes_; }        // of the tiles among them

 private:
  struct Chunk {
    bool known = false;  // its entries have come
    std::vector<int32_t> tokens;
    std::vector<int32_t> positions;
    std::vector<float> rows;
    KvSegment segment;
    std::vector<uint8_t*> writable;
    std::vector<bool> parts;
    std::vector<Digest128> leaves;            // of the entries, then of the parts
    std::vector<Blake3Digest> sealed_leaves;  // of the same, if they are sealed
  };
  struct Header {
    uint32_t kind = 0;
    uint32_t flags = 0;
    uint32_t first = 0;
    uint32_t part = 0;
    uint64_t bytes = 0;
    Digest128 digest;
  };
  // What the next bytes are: pieces that are gathered, the rows of a tile, which go to their place at once, or what is passed over.
  enum class State { preamble, header, payload, rows, skip, failed };

  Status take_preamble();
  Status take_header();
  Status take_payload();
  Status take_manifest();
  Status begin_entries();
  Status take_entries();
  Status begin_tile();
  Status end_tile();
  Status take_encoded();
  void hold_tile(const uint8_t* payload);
  KvTile tile_at(int64_t first, int64_t part) const;
  Status resolve_codecs(const KvManifest& manifest);
  Status take_root();
  void expect(State state, uint64_t bytes);
  // The sealed leaf of the record that is being read, nothing if it is not sealed.
  Blake3Digest sealed_leaf(const uint8_t* payload, size_t bytes) const;
  Status another_content();
  void forget();

  KvExpectation expected_;
  State state_ = State::preamble;
  uint64_t wanted_ = preamble_bytes;  // bytes of this state that are still to come
  std::vector<uint8_t> gathered_;
  Header header_;
  uint8_t* target_ = nullptr;  // of the next row bytes

  bool manifest_known_ = false;
  KvManifest manifest_;
  uint8_t sealed_header_[sealed_bytes] = {};  // the first bytes of the header of the record that is being read
  Digest128 leaf_;                            // of that record
  Digest128 manifest_leaf_;
  Blake3Digest sealed_manifest_leaf_{};
  std::vector<uint8_t> signature_;
  std::vector<Chunk> chunks_;
  PartCodecs codecs_;  // of the manifest
  std::deque<OutsideTile> outside_;
  int64_t payload_bytes_ = 0;
  int64_t tile_bytes_ = 0;
  bool done_ = false;
};

}  // namespace latentwire
