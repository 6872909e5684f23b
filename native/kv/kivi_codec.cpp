// KIVI tiles. Channels of keys have outliers, so a key is coded among the same channel of 32 entries; values have none, and are coded among
// 32 channels of one entry. A group has the f16 minimum m and the f16 scale s, and its numbers are m + code * s. The last group may be
// shorter.
//
//   keys, for each 32 entries: minima f16[channels], scales f16[channels], codes [entries][packed channels]
//   values, for each entry: minima f16[groups], scales f16[groups], codes [packed channels]
//
// The first code of a byte is in its lowest bits; unused bits are 0.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/table.h"
#include "kernels/tile.h"
#include "kv/codec.h"
#include "kv/finite.h"

namespace latentwire {
namespace {

constexpr int64_t group = 32;
constexpr uint16_t f16_sign = 0x8000;
constexpr uint16_t f16_infinity = 0x7c00;

float from_f16(uint16_t bits) noexcept {
  float x = 0;
  kernels().rows.from_f16(&bits, 1, &x);
  return x;
}

// The nearest f16 above and below, by one step on the number line where rounding went the other way.
uint16_t step_up(uint16_t bits) noexcept {
  if (bits == f16_sign) return 1;
  return static_cast<uint16_t>((bits & f16_sign) != 0 ? bits - 1 : bits + 1);
}
uint16_t step_down(uint16_t bits) noexcept { return static_cast<uint16_t>(step_up(bits ^ f16_sign) ^ f16_sign); }

// Minima and scales of `count` groups, as they are stored and as numbers. In: the least and greatest number of each group.
struct Ranges {
  std::vector<float> least;
  std::vector<float> greatest;
  std::vector<float> inverse;  // of the scale, 0 for a scale of 0
  std::vector<uint16_t> minima;
  std::vector<uint16_t> scales;

  explicit Ranges(int64_t count)
      : least(static_cast<size_t>(count)), greatest(least.size()), inverse(least.size()), minima(least.size()), scales(least.size()) {}

  // Minima rounded down and scales up, so that no number is cut off; then `least` are the minima as they are stored. False if one of them
  // is no f16.
  bool round(float levels) {
    const auto n = static_cast<int64_t>(least.size());
    const RowKernels& rows = kernels().rows;
    rows.to_f16(least.data(), n, minima.data());
    rows.from_f16(minima.data(), n, inverse.data());
    for (size_t i = 0; i < minima.size(); i++) {
      if (inverse[i] <= least[i]) continue;
      minima[i] = step_down(minima[i]);
    }
    rows.from_f16(minima.data(), n, least.data());
    for (size_t i = 0; i < scales.size(); i++) greatest[i] = (greatest[i] - least[i]) / levels;
    rows.to_f16(greatest.data(), n, scales.data());
    rows.from_f16(scales.data(), n, inverse.data());
    bool sound = true;
    for (size_t i = 0; i < scales.size(); i++) {
      if (inverse[i] < greatest[i]) {
        scales[i] = step_up(scales[i]);
        inverse[i] = from_f16(scales[i]);
      }
      sound = sound && (scales[i] & f16_infinity) != f16_infinity && (minima[i] & f16_infinity) != f16_infinity;
      inverse[i] = inverse[i] > 0 ? 1 / inverse[i] : 0;
    }
    return sound;
  }
};

class KiviCodec final : public InnerCodec {
 public:
  explicit KiviCodec(int bits) : bits_(bits), levels_(static_cast<float>((1 << bits) - 1)) {}

  std::string name() const override { return "kivi" + std::to_string(bits_); }
  Status fits(const CacheLayout&, int64_t) const override { return {}; }

 protected:
  int64_t most_inner_bytes(const KvTile& tile) const override {
    const int64_t ranges = tile.keys() ? groups(tile.count) * tile.rows.channels : tile.count * groups(tile.rows.channels);
    return ranges * 4 + tile.count * packed(tile.rows.channels);
  }

  Status encode_inner(const KvTile& tile, float* numbers, uint8_t* out, int64_t* written) const override {
    *written = most_inner_bytes(tile);
    if (tile.keys() ? encode_keys(tile, numbers, out) : encode_values(tile, numbers, out)) return {};
    return Status::fail(Code::non_finite, "the " + std::string(tile.keys() ? "keys" : "values") + " of layer " +
                                              std::to_string(tile.part / 2) + " hold a number too large for " + name());
  }

  Status decode_inner(const KvTile& tile, const uint8_t* bytes, int64_t size, float* numbers) const override {
    if (size != most_inner_bytes(tile)) return unsound_tile(tile, "has another size");
    if (!(tile.keys() ? decode_keys(tile, bytes, numbers) : decode_values(tile, bytes, numbers)))
      return unsound_tile(tile, "holds a range that is none, or unused bits");
    return {};
  }

 private:
  static int64_t groups(int64_t count) noexcept { return (count + group - 1) / group; }
  int64_t packed(int64_t channels) const noexcept { return packed_bytes(channels, bits_); }

  bool encode_keys(const KvTile& tile, const float* numbers, uint8_t* out) const {
    const int64_t channels = tile.rows.channels;
    Ranges ranges(channels);
    std::vector<uint8_t> codes(static_cast<size_t>(channels));
    for (int64_t from = 0; from < tile.count; from += group) {
      const int64_t n = std::min(group, tile.count - from);
      const float* first = numbers + from * channels;
      std::copy_n(first, channels, ranges.least.begin());
      std::copy_n(first, channels, ranges.greatest.begin());
      float* least = ranges.least.data();
      float* greatest = ranges.greatest.data();
      for (int64_t i = 1; i < n; i++) {
        const float* x = first + i * channels;
        for (int64_t k = 0; k < channels; k++) {
          least[k] = x[k] < least[k] ? x[k] : least[k];
          greatest[k] = x[k] > greatest[k] ? x[k] : greatest[k];
        }
      }
      if (!ranges.round(levels_)) return false;
      out = put_ranges(ranges, out);
      for (int64_t i = 0; i < n; i++) {
        const float* x = first + i * channels;
        for (int64_t k = 0; k < channels; k++)
          codes[static_cast<size_t>(k)] = code_of(x[k], least[k], ranges.inverse[static_cast<size_t>(k)]);
        out = pack(codes, out);
      }
    }
    return true;
  }

  bool encode_values(const KvTile& tile, const float* numbers, uint8_t* out) const {
    const int64_t channels = tile.rows.channels;
    Ranges ranges(groups(channels));
    std::vector<uint8_t> codes(static_cast<size_t>(channels));
    for (int64_t i = 0; i < tile.count; i++) {
      const float* x = numbers + i * channels;
      for (int64_t g = 0; g < groups(channels); g++) {
        const int64_t end = std::min((g + 1) * group, channels);
        float least = x[g * group];
        float greatest = least;
        for (int64_t k = g * group + 1; k < end; k++) {
          least = x[k] < least ? x[k] : least;
          greatest = x[k] > greatest ? x[k] : greatest;
        }
        ranges.least[static_cast<size_t>(g)] = least;
        ranges.greatest[static_cast<size_t>(g)] = greatest;
      }
      if (!ranges.round(levels_)) return false;
      out = put_ranges(ranges, out);
      for (int64_t g = 0; g < groups(channels); g++) {
        const float least = ranges.least[static_cast<size_t>(g)];
        const float inverse = ranges.inverse[static_cast<size_t>(g)];
        for (int64_t k = g * group; k < std::min((g + 1) * group, channels); k++)
          codes[static_cast<size_t>(k)] = code_of(x[k], least, inverse);
      }
      out = pack(codes, out);
    }
    return true;
  }

  bool decode_keys(const KvTile& tile, const uint8_t* bytes, float* numbers) const {
    const int64_t channels = tile.rows.channels;
    Ranges ranges(channels);
    std::vector<uint8_t> codes(static_cast<size_t>(channels));
    for (int64_t from = 0; from < tile.count; from += group) {
      if (!take_ranges(&bytes, &ranges)) return false;
      for (int64_t i = from; i < std::min(from + group, tile.count); i++) {
        if (!unpack(&bytes, &codes)) return false;
        float* x = numbers + i * channels;
        for (int64_t k = 0; k < channels; k++) {
          const auto c = static_cast<size_t>(k);
          x[k] = ranges.least[c] + static_cast<float>(codes[c]) * ranges.greatest[c];
        }
      }
    }
    return true;
  }

  bool decode_values(const KvTile& tile, const uint8_t* bytes, float* numbers) const {
    const int64_t channels = tile.rows.channels;
    Ranges ranges(groups(channels));
    std::vector<uint8_t> codes(static_cast<size_t>(channels));
    for (int64_t i = 0; i < tile.count; i++) {
      if (!take_ranges(&bytes, &ranges) || !unpack(&bytes, &codes)) return false;
      float* x = numbers + i * channels;
      for (int64_t g = 0; g < groups(channels); g++) {
        const float least = ranges.least[static_cast<size_t>(g)];
        const float scale = ranges.greatest[static_cast<size_t>(g)];
        for (int64_t k = g * group; k < std::min((g + 1) * group, channels); k++)
          x[k] = least + static_cast<float>(codes[static_cast<size_t>(k)]) * scale;
      }
    }
    return true;
  }

  uint8_t code_of(float x, float least, float inverse) const noexcept {
    const float code = (x - least) * inverse + 0.5F;
    return static_cast<uint8_t>(static_cast<int32_t>(code > levels_ ? levels_ : code));
  }

  static uint8_t* put_ranges(const Ranges& ranges, uint8_t* out) {
    const size_t bytes = ranges.minima.size() * sizeof(uint16_t);
    std::memcpy(out, ranges.minima.data(), bytes);
    std::memcpy(out + bytes, ranges.scales.data(), bytes);
    return out + 2 * bytes;
  }

  // Minima as `least`, scales as `greatest`. False if one is no range: not finite, or a scale below 0.
  static bool take_ranges(const uint8_t** bytes, Ranges* ranges) {
    const size_t each = ranges->minima.size() * sizeof(uint16_t);
    std::memcpy(ranges->minima.data(), *bytes, each);
    std::memcpy(ranges->scales.data(), *bytes + each, each);
    const bool finite = all_finite(*bytes, 2 * each, {sizeof(uint16_t), NumberLayout::Number::f16, 1});
    *bytes += 2 * each;
    uint16_t signs = 0;
    for (const uint16_t scale : ranges->scales) signs |= scale;
    if (!finite || (signs & f16_sign) != 0) return false;
    const auto n = static_cast<int64_t>(ranges->minima.size());
    kernels().rows.from_f16(ranges->minima.data(), n, ranges->least.data());
    kernels().rows.from_f16(ranges->scales.data(), n, ranges->greatest.data());
    return true;
  }

  uint8_t* pack(const std::vector<uint8_t>& codes, uint8_t* out) const {
    const size_t each = static_cast<size_t>(8 / bits_);
    const size_t whole = codes.size() / each;
    for (size_t i = 0; i < whole; i++) {
      const uint8_t* c = codes.data() + i * each;
      out[i] = static_cast<uint8_t>(bits_ == 4 ? c[0] | c[1] << 4 : c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6);
    }
    out += whole;
    if (whole * each == codes.size()) return out;
    uint32_t last = 0;
    for (size_t i = whole * each; i < codes.size(); i++) last |= uint32_t{codes[i]} << (i % each * static_cast<size_t>(bits_));
    *out = static_cast<uint8_t>(last);
    return out + 1;
  }

  // False if unused bits are set.
  bool unpack(const uint8_t** bytes, std::vector<uint8_t>* codes) const {
    const size_t each = static_cast<size_t>(8 / bits_);
    const size_t whole = codes->size() / each;
    const uint8_t* in = *bytes;
    for (size_t i = 0; i < whole; i++) {
      uint8_t* c = codes->data() + i * each;
      if (bits_ == 4) {
        c[0] = in[i] & 15;
        c[1] = in[i] >> 4;
      } else {
        c[0] = in[i] & 3;
        c[1] = in[i] >> 2 & 3;
        c[2] = in[i] >> 4 & 3;
        c[3] = in[i] >> 6;
      }
    }
    *bytes += packed(static_cast<int64_t>(codes->size()));
    uint32_t last = whole * each == codes->size() ? 0 : in[whole];
    for (size_t i = whole * each; i < codes->size(); i++, last >>= bits_) (*codes)[i] = static_cast<uint8_t>(last & ((1U << bits_) - 1));
    return last == 0;
  }

  int bits_;
  float levels_;
};

}  // namespace

std::shared_ptr<const KvCodec> kivi_codec(int bits) { return std::make_shared<KiviCodec>(bits); }

}  // namespace latentwire
