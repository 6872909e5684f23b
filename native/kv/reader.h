// Content on its way in, from records of kv/wire.h that somebody else wrote.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "kv/content.h"
#include "kv/manifest.h"
#include "kv/wire.h"

namespace latentwire {

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
