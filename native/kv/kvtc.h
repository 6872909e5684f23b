// KVTC (Staniszewski & Łańcucki 2026): keys are turned back to position 0, the numbers of a part of the cache are written in their
// principal components, which were fitted to samples of the same model, each group of components is rounded to steps of its own, as fine as
// its share of a budget of bits allows, and what comes of it is entropy coded. The paper packs codes of whole bits and deflates them; here
// the range of a group's codes and their frequencies are part of the fit, which needs no table in a tile, spends fractions of bits, and
// cannot inflate.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/blake3.h"
#include "kernels/packed_matrix.h"
#include "kv/codec.h"
#include "kv/manifest.h"
#include "kv/rans.h"
#include "kv/rope.h"

namespace latentwire {

// Neighbouring components that share a step and a table: codes from -half to half, [2 * half + 1] frequencies. All groups of a part but the
// last have so many.
constexpr int32_t kvtc_group_components = 16;
struct KvtcGroup {
  int32_t components = 0;
  float step = 0;
  SymbolTable table;

  int32_t half() const noexcept { return static_cast<int32_t>(table.symbols() / 2); }
};

// Of the keys or values of a layer. Components that have no bits are left out.
struct KvtcPart {
  int32_t channels = 0;
  std::vector<float> mean;      // [channels]
  std::vector<uint16_t> basis;  // [rank, channels] f16, orthonormal rows up to rounding
  std::vector<KvtcGroup> groups;

  int64_t rank() const noexcept;
};

struct KvtcModel {
  KvManifest::Fields identity;  // of the content that it was fitted to, and is for
  int32_t key_head = 0;
  std::vector<std::shared_ptr<const Rope>> ropes;  // [layers], nullptr where keys are not rotated
  std::vector<KvtcPart> parts;                     // [2 * layers]
};

// Rows [count, channels] of keys turned on by their positions, or back to position 0. Without a rope they stay as they are.
void turn_keys(const Rope* rope, const int32_t* positions, bool back, float* numbers, int64_t count, int64_t channels);

class Kvtc final : public InnerCodec {
 public:
  // Errors: invalid_argument (a model that is none), non_finite, out_of_memory.
  static Status make(KvtcModel model, std::shared_ptr<const Kvtc>* out);
  // What `file` gave. Errors: kv_truncated, kv_format, kv_version, kv_checksum, kv_limit, out_of_memory.
  static Status read(const uint8_t* bytes, size_t size, std::shared_ptr<const Kvtc>* out);

  // "LWTC" u16 major, u16 minor; identity as in a manifest; u32 channels of a head of keys, u32 layers
  //   u32 ropes, ropes x { u32 pairs (0 neox, 1 norm), u32 head, u32 rotated, frequencies f64[rotated / 2] }, layers x u32 rope + 1, 0 for
  //   none layers x K|V: { u32 channels, u32 groups, groups x { u32 components, f32 step, u32 symbols, frequencies u16[symbols] },
  //                   mean f32[channels], basis f16[rank, channels] }
  //   the BLAKE3 digest of all that
  const std::vector<uint8_t>& file() const noexcept { return file_; }
  const KvtcModel& model() const noexcept { return model_; }
  // Of memory.
  size_t bytes() const noexcept;

  // "kvtc-" and half of the file's digest: who decodes needs the very fit.
  std::string name() const override { return name_; }
  Status fits(const CacheLayout& layout, int64_t part) const override;

 protected:
  int64_t most_inner_bytes(const KvTile& tile) const override;
  Status encode_inner(const KvTile& tile, float* numbers, uint8_t* out, int64_t* written) const override;
  Status decode_inner(const KvTile& tile, const uint8_t* bytes, int64_t size, float* numbers) const override;

 private:
  // Of one part: numbers to coordinates, and back; both nullptr if it has no component.
  struct Maps {
    std::shared_ptr<const PackedMatrix> to;
    std::shared_ptr<const PackedMatrix> from;
  };

  const Rope* rope_of(const KvTile& tile) const noexcept {
    return tile.keys() ? model_.ropes[static_cast<size_t>(tile.part / 2)].get() : nullptr;
  }

  KvtcModel model_;
  std::vector<Maps> maps_;  // [2 * layers]
  std::vector<uint8_t> file_;
  std::string name_;
};

}  // namespace latentwire
