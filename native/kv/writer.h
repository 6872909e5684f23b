// Content on its way out, as the records of kv/wire.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "core/status.h"
#include "kv/content.h"
#include "kv/manifest.h"
#include "kv/wire.h"

namespace latentwire {

// A tile as its codec made it, elsewhere than in the writer.
struct EncodedTile {
  std::shared_ptr<const uint8_t> bytes;
  int64_t size = 0;
};

// Rows of the next entries of a content that is never here as a whole, which begin and end where chunks do, or the content. Parts whose
// tiles are there already have no rows, but nullptr.
struct KvPiece {
  int64_t first = 0;  // entry of the content
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
  // are not the next, end within a chunk or beyond the log, or are of another layout).
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

  // Calls body(rows, count) for the rows of a tile, nullptr where they were let go.
  template <typename Body>
  void for_rows(const KvTile& tile, const Body& body) const;

  std::shared_ptr<const KvContent> content_;  // what there is by now, but for
  std::vector<KvSegment> segments_;           // its rows,
  int64_t rows_here_ = 0;                     // so many
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

}  // namespace latentwire
