// Rows of a smaller format of caches as a codec: what `convert` makes of the whole content, for some parts of it and for the way alone.
#include "kv/codec.h"

namespace latentwire {
namespace {

class RowCodec final : public KvCodec {
 public:
  explicit RowCodec(RowFormat format) : format_(format) {}

  std::string name() const override { return std::string(row_format_name(format_)); }

  Status fits(const CacheLayout& layout, int64_t part) const override { return check_rows(kind(layout.parts[static_cast<size_t>(part)])); }

  int64_t most_bytes(const KvTile& tile) const override { return tile.count * kind(tile.rows).row_bytes(); }

  Status encode(const KvTile& tile, const uint8_t* rows, uint8_t* out, int64_t* written) const override {
    *written = most_bytes(tile);
    return transcode(tile.rows, kind(tile.rows), rows, tile.count, out);
  }

  Status decode(const KvTile& tile, const uint8_t* bytes, int64_t size, uint8_t* rows) const override {
    const CacheRows from = kind(tile.rows);
    if (size != most_bytes(tile)) return unsound_tile(tile, "has another size");
    if (first_non_finite_row(from, bytes, tile.count) != tile.count || !transcode(from, tile.rows, bytes, tile.count, rows).ok())
      return unsound_tile(tile, "holds NaN, an infinity or a number too large");
    return {};
  }

 private:
  // Rotated in blocks of 64 neighbours, so that an outlier spreads over them. Rows of this format already stay as they are.
  CacheRows kind(const CacheRows& rows) const noexcept {
    return rows.format == format_ ? rows : CacheRows{format_, rows.channels, rows.channels % 64 == 0 ? 64 : 0};
  }

  RowFormat format_;
};

}  // namespace

std::shared_ptr<const KvCodec> row_codec(RowFormat format) { return std::make_shared<RowCodec>(format); }

}  // namespace latentwire
