// Fuzz target of the codecs of tiles and of the file of a fitted one. The first byte chooses the codec, the second the shape; the rest is a
// tile of a foreign sender. What is accepted has finite rows, and can be encoded again within the size that the codec names.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "../native/kv_support.h"
#include "kv/kvtc.h"

namespace {

using namespace latentwire;

// Two layers with heads of 8: keys that are turned, a group with few symbols and one with many.
std::shared_ptr<const Kvtc> fitted() {
  KvtcModel model;
  model.identity = {{"weights", "fuzz"}};
  model.key_head = 8;
  auto rope = std::make_shared<Rope>();
  RopeParameters parameters;
  parameters.head_dim = parameters.rotated = 8;
  if (!make_rope(parameters, rope.get()).ok()) std::abort();
  model.ropes = {rope, nullptr};
  for (int part = 0; part < 4; part++) {
    KvtcPart& one = model.parts.emplace_back();
    one.channels = 32;
    one.mean.assign(32, 0.25F);
    // 0, 4, 16 + 4 and 16 + 16 components
    const int32_t components[][2] = {{0, 0}, {4, 0}, {16, 4}, {16, 16}};
    one.basis.assign(static_cast<size_t>(components[part][0] + components[part][1]) * 32, 0x3400);
    for (int g = 0; g < 2 && components[part][g] > 0; g++) {
      KvtcGroup& group = one.groups.emplace_back();
      group.components = components[part][g];
      group.step = 0.125F;
      if (!group.table.assign(frequencies_of(std::vector<int64_t>(g == 0 ? 3 : 255, 1)))) std::abort();
    }
  }
  std::shared_ptr<const Kvtc> made;
  if (!Kvtc::make(std::move(model), &made).ok()) std::abort();
  return made;
}

// The file with its digest made right, for no fuzzer finds it.
void read_file(const uint8_t* bytes, size_t size) {
  if (size < sizeof(Blake3Digest)) return;
  std::vector<uint8_t> file(bytes, bytes + size);
  const size_t body = size - sizeof(Blake3Digest);
  const Blake3Digest digest = blake3({reinterpret_cast<const std::byte*>(bytes), body});
  std::copy(digest.begin(), digest.end(), file.begin() + static_cast<ptrdiff_t>(body));
  std::shared_ptr<const Kvtc> codec;
  if (Kvtc::read(file.data(), size, &codec).ok() && codec->file() != file) std::abort();
}

void decode_tile(const KvCodec& codec, const KvTile& tile, const uint8_t* bytes, int64_t size) {
  if (size > codec.most_bytes(tile)) return;
  std::vector<uint8_t> rows(static_cast<size_t>(tile.count * tile.rows.row_bytes()));
  const Status status = codec.decode(tile, bytes, size, rows.data());
  if (!status.ok()) {
    if (status.code != Code::kv_format) std::abort();
    return;
  }
  if (first_non_finite_row(tile.rows, rows.data(), tile.count) != tile.count) std::abort();
  std::vector<uint8_t> again(static_cast<size_t>(codec.most_bytes(tile)));
  int64_t written = 0;
  if (codec.encode(tile, rows.data(), again.data(), &written).ok() && written > codec.most_bytes(tile)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  static const std::shared_ptr<const Kvtc> kvtc = fitted();
  static const std::vector<int32_t> positions = positions_from(1000, chunk_entries);
  read_file(bytes, size);
  if (size < 2) return 0;
  const char* names[] = {"q8_0", "q4_0", "fp8", "kivi4", "kivi2"};
  const uint8_t which = bytes[0] % 6;
  const std::shared_ptr<const KvCodec> codec = which == 5 ? kvtc : built_in_codec(names[which]);
  const uint8_t shape = bytes[1];
  // the exact ends, a tile between them, one with both, and an empty one
  constexpr int64_t contents[][3] = {{0, 10, 10}, {256, 64, 1000}, {0, 140, 140}, {0, 0, 0}};  // first, count, entries
  const auto& [first, count, entries] = contents[shape >> 3 & 3];
  const CacheRows rows{shape % 2 == 0 ? RowFormat::f32 : RowFormat::f16, 32, 0};
  decode_tile(*codec, {rows, (shape >> 1) % 4, first, count, entries, positions.data()}, bytes + 2, static_cast<int64_t>(size) - 2);
  return 0;
}
