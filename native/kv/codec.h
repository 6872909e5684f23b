// How the rows of a tile travel when they are not sent as they are stored: fewer bytes for numbers that are about the same. A codec is
// chosen for each part, the manifest names it, and the receiver decodes on arrival into rows as the sender's cache had them. All sizes
// follow from the tile and the parameters of the codec, so what comes from outside is held against them before it is used. One thread;
// codecs are constant and shared.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/status.h"
#include "kernels/tile.h"
#include "kv/content.h"

namespace latentwire {

// Rows of one part for neighbouring entries of a content.
struct KvTile {
  CacheRows rows;  // as both sides store them
  int64_t part = 0;
  int64_t first = 0;                   // entry of the content
  int64_t count = 0;                   // at most 256
  int64_t entries = 0;                 // of the whole content
  const int32_t* positions = nullptr;  // [count], those that keys are turned to

  bool keys() const noexcept { return part % 2 == 0; }
  int64_t numbers() const noexcept { return count * rows.channels; }
};

class KvCodec {
 public:
  KvCodec() = default;
  virtual ~KvCodec() = default;
  KvCodec(const KvCodec&) = delete;
  KvCodec& operator=(const KvCodec&) = delete;

  // What the manifest calls it: with all that decoding depends on, or a digest of it.
  virtual std::string name() const = 0;
  // Error: invalid_argument, where this part of such a cache cannot travel in it.
  virtual Status fits(const CacheLayout& layout, int64_t part) const = 0;
  // No encoded tile has more.
  virtual int64_t most_bytes(const KvTile& tile) const = 0;
  // Whether it is code of the user that encodes and decodes, outside of this room: then the two functions below are not called.
  virtual bool outside() const noexcept { return false; }
  // Where an encoded tile is what `quantise` makes of such rows as they lie, scales before codes: how. Whoever has that kernel where the
  // rows are can encode there.
  virtual std::optional<TileFormat> tile_format(const CacheRows&) const noexcept { return std::nullopt; }

  // `rows` are finite, and `out` has most_bytes. Errors: non_finite (a number that the codec cannot hold), out_of_memory.
  virtual Status encode(const KvTile& tile, const uint8_t* rows, uint8_t* out, int64_t* written) const = 0;
  // Bytes of a foreign sender, at most most_bytes; the rows that come of them are finite. Errors: kv_format, and then `rows` are
  // unspecified; out_of_memory.
  virtual Status decode(const KvTile& tile, const uint8_t* bytes, int64_t size, uint8_t* rows) const = 0;
};

// Attention leans on the first entries of a content, and most on the last ones: so many of them stay as they are in codecs that are meant
// for few bits (KIVI, KVTC).
constexpr int64_t exact_first_entries = 4;
constexpr int64_t exact_last_entries = 128;

// A codec that keeps those entries as they are. Its tiles: the exact rows, in their order, then what the codec makes of the numbers
// between.
class InnerCodec : public KvCodec {
 public:
  int64_t most_bytes(const KvTile& tile) const final;
  Status encode(const KvTile& tile, const uint8_t* rows, uint8_t* out, int64_t* written) const final;
  Status decode(const KvTile& tile, const uint8_t* bytes, int64_t size, uint8_t* rows) const final;

 protected:
  // The same of a tile of which nothing is kept; its numbers are f32 [count, channels].
  virtual int64_t most_inner_bytes(const KvTile& tile) const = 0;
  virtual Status encode_inner(const KvTile& tile, float* numbers, uint8_t* out, int64_t* written) const = 0;
  virtual Status decode_inner(const KvTile& tile, const uint8_t* bytes, int64_t size, float* numbers) const = 0;
};

// q8_0, q4_0, fp8, kivi4 or kivi2; nullptr for another name.
std::shared_ptr<const KvCodec> built_in_codec(std::string_view name);

// What the files of the codecs define for it. Rows of a smaller format, rotated where there are multiples of 64 channels.
std::shared_ptr<const KvCodec> row_codec(RowFormat format);
// e4m3 with one f32 scale, max |x| / 448, for each 128 neighbours: 8.25 bits a number.
std::shared_ptr<const KvCodec> fp8_codec();
// KIVI (Liu et al. 2024): codes of 4 or 2 bits above the least number of a group; keys in groups of 32 entries of a channel, values in
// groups of 32 channels of an entry, each with f16 scale and minimum: 5 or 3 bits a number.
std::shared_ptr<const KvCodec> kivi_codec(int bits);

// Of a plug-in, which gives tiles of its own to the writer and takes them from the reader.
std::shared_ptr<const KvCodec> outside_codec(std::string name);

// kv_format, for a tile whose bytes cannot have come out of an encoder.
Status unsound_tile(const KvTile& tile, std::string_view why);

}  // namespace latentwire
