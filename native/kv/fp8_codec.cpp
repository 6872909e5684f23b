// fp8 tiles: the scales of all groups, row by row, then the codes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "kernels/tile.h"
#include "kv/codec.h"

namespace latentwire {
namespace {

constexpr TileFormat format{TileCode::fp8, TileScale::f32, 128};

// Rows of f32 may lie anywhere, where numbers must not.
std::optional<Dtype> read_in_place(const CacheRows& rows) noexcept {
  const std::optional<Dtype> dtype = rows.dtype();
  return dtype == Dtype::f32 ? std::nullopt : dtype;
}

class Fp8Codec final : public KvCodec {
 public:
  std::string name() const override { return "fp8"; }
  Status fits(const CacheLayout&, int64_t) const override { return {}; }
  std::optional<TileFormat> tile_format(const CacheRows& rows) const noexcept override {
    return rows.dtype() ? std::optional(format) : std::nullopt;
  }

  int64_t most_bytes(const KvTile& tile) const override { return tile.count * format.row_bytes(tile.rows.channels); }

  Status encode(const KvTile& tile, const uint8_t* rows, uint8_t* out, int64_t* written) const override {
    const int64_t columns = tile.rows.channels;
    std::vector<float> numbers;
    const std::optional<Dtype> dtype = read_in_place(tile.rows);
    Rows x{dtype.value_or(Dtype::f32), rows, tile.count, columns, 0};
    if (!dtype) {
      numbers.resize(static_cast<size_t>(tile.numbers()));
      latentwire::decode(tile.rows, rows, tile.count, numbers.data());
      x.data = numbers.data();
    }
    // records lie anywhere, numbers do not
    std::vector<float> scales(scales_of(tile));
    const size_t scale_bytes = scales.size() * sizeof(float);
    if (Status status = quantise(x, columns, format, {out + scale_bytes, scales.data(), nullptr}); !status.ok()) return status;
    if (scale_bytes > 0) std::memcpy(out, scales.data(), scale_bytes);
    *written = most_bytes(tile);
    return {};
  }

  Status decode(const KvTile& tile, const uint8_t* bytes, int64_t size, uint8_t* rows) const override {
    if (size != most_bytes(tile)) return unsound_tile(tile, "has another size");
    std::vector<float> scales(scales_of(tile));
    const size_t scale_bytes = scales.size() * sizeof(float);
    if (scale_bytes > 0) std::memcpy(scales.data(), bytes, scale_bytes);
    const uint8_t* codes = bytes + scale_bytes;
    const bool sound = std::all_of(scales.begin(), scales.end(), [](float scale) { return std::isfinite(scale) && !std::signbit(scale); });
    if (!sound || has_nan(codes, tile.numbers())) return unsound_tile(tile, "holds NaN, or a scale that is none");
    const int64_t columns = tile.rows.channels;
    const ConstTiles from{codes, scales.data(), nullptr};
    if (const std::optional<Dtype> dtype = read_in_place(tile.rows)) {
      if (Status status = dequantise(format, from, tile.count, columns, *dtype, rows, columns); !status.ok()) return status;
      if (first_non_finite_row(tile.rows, rows, tile.count) == tile.count) return {};
    } else {
      std::vector<float> numbers(static_cast<size_t>(tile.numbers()));
      if (Status status = dequantise(format, from, tile.count, columns, Dtype::f32, numbers.data(), columns); !status.ok()) return status;
      if (latentwire::encode(tile.rows, numbers.data(), tile.count, rows).ok()) return {};
    }
    return unsound_tile(tile, "holds numbers too large");
  }

 private:
  static size_t scales_of(const KvTile& tile) noexcept { return static_cast<size_t>(tile.count * format.groups(tile.rows.channels)); }

  // Without an early exit, so that it vectorises.
  static bool has_nan(const uint8_t* codes, int64_t count) noexcept {
    uint8_t found = 0;
    for (int64_t i = 0; i < count; i++) found |= static_cast<uint8_t>((codes[i] & 0x7f) == 0x7f);
    return found != 0;
  }
};

}  // namespace

std::shared_ptr<const KvCodec> fp8_codec() { return std::make_shared<Fp8Codec>(); }

}  // namespace latentwire
