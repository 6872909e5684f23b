#include "kv/codec.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace latentwire {
namespace {

// The entries of a tile that are not kept as they are, and how many of those that are lie before and behind them.
struct Inner {
  int64_t before;
  int64_t behind;
  KvTile tile;

  explicit Inner(const KvTile& whole) : tile(whole) {
    const int64_t end = whole.first + whole.count;
    const int64_t from = std::clamp(exact_first_entries, whole.first, end);
    const int64_t to = std::clamp(whole.entries - exact_last_entries, from, end);
    before = from - whole.first;
    behind = end - to;
    tile.first = from;
    tile.count = to - from;
    tile.positions = whole.positions + before;
  }
};

class OutsideCodec final : public KvCodec {
 public:
  explicit OutsideCodec(std::string name) : name_(std::move(name)) {}

  std::string name() const override { return name_; }
  Status fits(const CacheLayout&, int64_t) const override { return {}; }
  // Twice what the numbers take as f32: no codec has use for more, and a receiver must not be filled up.
  int64_t most_bytes(const KvTile& tile) const override { return 1024 + tile.numbers() * 8; }
  bool outside() const noexcept override { return true; }
  Status encode(const KvTile&, const uint8_t*, uint8_t*, int64_t*) const override { return not_here(); }
  Status decode(const KvTile&, const uint8_t*, int64_t, uint8_t*) const override { return not_here(); }

 private:
  Status not_here() const { return Status::fail(Code::invalid_argument, "the codec '" + name_ + "' works outside of native code"); }

  std::string name_;
};

}  // namespace

int64_t InnerCodec::most_bytes(const KvTile& tile) const {
  const Inner inner(tile);
  return (inner.before + inner.behind) * tile.rows.row_bytes() + (inner.tile.count == 0 ? 0 : most_inner_bytes(inner.tile));
}

Status InnerCodec::encode(const KvTile& tile, const uint8_t* rows, uint8_t* out, int64_t* written) const {
  const Inner inner(tile);
  const int64_t row_bytes = tile.rows.row_bytes();
  const uint8_t* from = rows + inner.before * row_bytes;
  uint8_t* at = std::copy(rows, from, out);
  at = std::copy_n(from + inner.tile.count * row_bytes, inner.behind * row_bytes, at);
  int64_t inner_bytes = 0;
  if (inner.tile.count > 0) {
    std::vector<float> numbers(static_cast<size_t>(inner.tile.numbers()));
    latentwire::decode(tile.rows, from, inner.tile.count, numbers.data());
    if (Status status = encode_inner(inner.tile, numbers.data(), at, &inner_bytes); !status.ok()) return status;
  }
  *written = at - out + inner_bytes;
  return {};
}

Status InnerCodec::decode(const KvTile& tile, const uint8_t* bytes, int64_t size, uint8_t* rows) const {
  const Inner inner(tile);
  const int64_t row_bytes = tile.rows.row_bytes();
  const int64_t exact = (inner.before + inner.behind) * row_bytes;
  if (size < exact) return unsound_tile(tile, "is too short");
  uint8_t* from = std::copy_n(bytes, inner.before * row_bytes, rows);
  std::copy_n(bytes + inner.before * row_bytes, inner.behind * row_bytes, from + inner.tile.count * row_bytes);
  if (inner.tile.count > 0) {
    std::vector<float> numbers(static_cast<size_t>(inner.tile.numbers()));
    if (Status status = decode_inner(inner.tile, bytes + exact, size - exact, numbers.data()); !status.ok()) return status;
    if (!latentwire::encode(tile.rows, numbers.data(), inner.tile.count, from).ok()) return unsound_tile(tile, "holds numbers too large");
  } else if (size != exact) {
    return unsound_tile(tile, "is too long");
  }
  if (first_non_finite_row(tile.rows, rows, tile.count) != tile.count) return unsound_tile(tile, "holds NaN or an infinity");
  return {};
}

std::shared_ptr<const KvCodec> built_in_codec(std::string_view name) {
  if (name == "q8_0") return row_codec(RowFormat::q8_0);
  if (name == "q4_0") return row_codec(RowFormat::q4_0);
  if (name == "fp8") return fp8_codec();
  if (name == "kivi4") return kivi_codec(4);
  if (name == "kivi2") return kivi_codec(2);
  return nullptr;
}

std::shared_ptr<const KvCodec> outside_codec(std::string name) { return std::make_shared<OutsideCodec>(std::move(name)); }

Status unsound_tile(const KvTile& tile, std::string_view why) {
  return Status::fail(Code::kv_format, "the encoded " + std::string(tile.keys() ? "keys" : "values") + " of layer " +
                                           std::to_string(tile.part / 2) + " from entry " + std::to_string(tile.first) +
                                           " on: a tile that " + std::string(why));
}

}  // namespace latentwire
