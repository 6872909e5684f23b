// The state reader on states built byte by byte: sound ones of every layout, of one cache and of two, of one stream and of several, and
// every way in which a foreign one can be wrong.
#include "kv/llama_state.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace latentwire {
namespace {

constexpr uint32_t kMagic = 0xaf143cd8;
constexpr int32_t kF32 = 0, kF16 = 1, kQ4 = 2, kQ8 = 8, kBf16 = 30;

struct Blob {
  std::vector<uint8_t> bytes;
  std::vector<size_t> boundaries;  // the end of each structural part

  template <typename T>
  void put(T value) {
    const auto* at = reinterpret_cast<const uint8_t*>(&value);
    bytes.insert(bytes.end(), at, at + sizeof value);
    boundaries.push_back(bytes.size());
  }
};

StateGeometry geometry_of(int32_t type, uint64_t row_bytes, size_t layers = 2) {
  StateGeometry geometry;
  geometry.layers.assign(layers, StateLayer{type, row_bytes, type, row_bytes});
  geometry.max_cells = 16;
  return geometry;
}

// A model's caches of its global and its local layers.
StateGeometry two_caches(int32_t type, uint64_t row_bytes) {
  StateGeometry geometry = geometry_of(type, row_bytes, 3);
  geometry.sections = {{1}, {0, 2}};
  return geometry;
}

// What one stream has of the cells of the sequence.
void put_cells(const StateGeometry& geometry, const std::vector<int32_t>& layers, const std::vector<int32_t>& positions, Blob* out) {
  Blob& blob = *out;
  blob.put<uint32_t>(static_cast<uint32_t>(positions.size()));
  if (positions.empty()) return;
  for (const int32_t position : positions) {
    blob.put<int32_t>(position);
    blob.put<uint32_t>(1);
    if (geometry.extended_positions) {
      for (const int32_t value : {0, 0, 7}) blob.put<int32_t>(value);
    }
    blob.put<int32_t>(3);
  }
  blob.put<uint32_t>(geometry.transposed_values ? 1 : 0);
  blob.put<uint32_t>(static_cast<uint32_t>(layers.size()));
  for (const bool values : {false, true}) {
    for (const int32_t index : layers) {
      const StateLayer& layer = geometry.layers[static_cast<size_t>(index)];
      const uint64_t row_bytes = values ? layer.value_row_bytes : layer.key_row_bytes;
      blob.put<int32_t>(values ? layer.value_type : layer.key_type);
      if (values && geometry.transposed_values) {
        const uint32_t element_bytes = layer.value_type == kF32 ? 4 : 2;
        blob.put<uint32_t>(element_bytes);
        blob.put<uint32_t>(static_cast<uint32_t>(row_bytes / element_bytes));
      } else {
        blob.put<uint64_t>(row_bytes);
      }
      blob.bytes.insert(blob.bytes.end(), static_cast<size_t>(row_bytes) * positions.size(), 0x11);
      blob.boundaries.push_back(blob.bytes.size());
    }
  }
}

// The sequence lies in the stream `slot`.
Blob state_of(const StateGeometry& geometry, const std::vector<int32_t>& positions, uint32_t slot = 0) {
  Blob blob;
  blob.put<uint32_t>(kMagic);
  blob.put<int32_t>(3);
  std::vector<std::vector<int32_t>> sections = geometry.sections;
  if (sections.empty()) {
    sections.emplace_back();
    for (size_t i = 0; i < geometry.layers.size(); ++i) sections.back().push_back(static_cast<int32_t>(i));
  }
  for (const std::vector<int32_t>& layers : sections) {
    blob.put<uint32_t>(geometry.streams);
    for (uint32_t stream = 0; stream < geometry.streams; ++stream)
      put_cells(geometry, layers, stream == slot ? positions : std::vector<int32_t>{}, &blob);
  }
  return blob;
}

Code inspect(const std::vector<uint8_t>& bytes, const StateGeometry& geometry, StateSummary* summary = nullptr) {
  StateSummary ignored;
  // an exact copy on the heap, so that a sanitizer sees a read past the end
  const std::vector<uint8_t> copy(bytes.begin(), bytes.end());
  return inspect_state(copy.data(), copy.size(), geometry, summary == nullptr ? &ignored : summary).code;
}

template <typename T>
std::vector<uint8_t> with(std::vector<uint8_t> bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
  return bytes;
}

constexpr size_t kCells = 16;  // offset of the first cell

}  // namespace

TEST_CASE("sound states of every layout") {
  StateGeometry transposed = geometry_of(kF16, 32);
  transposed.transposed_values = true;
  StateGeometry extended = geometry_of(kF16, 32);
  extended.extended_positions = true;
  StateGeometry mixed = geometry_of(kQ8, 68, 3);
  mixed.layers[1].value_type = kQ4;
  mixed.layers[1].value_row_bytes = 36;
  StateGeometry transposed_pair = two_caches(kF32, 64);
  transposed_pair.transposed_values = true;
  for (const StateGeometry& geometry : {geometry_of(kF32, 64), geometry_of(kF16, 32), geometry_of(kBf16, 32), geometry_of(kQ8, 68),
                                        transposed, extended, mixed, two_caches(kF16, 32), two_caches(kQ4, 36), transposed_pair}) {
    const Blob blob = state_of(geometry, {4, 0, 15, 2});
    StateSummary summary;
    REQUIRE(inspect(blob.bytes, geometry, &summary) == Code::ok);
    REQUIRE(summary.positions.size() == std::max<size_t>(geometry.sections.size(), 1));
    for (const auto& positions : summary.positions) CHECK(positions == std::vector<int32_t>{4, 0, 15, 2});

    StateGeometry learned;
    REQUIRE(learn_geometry(blob.bytes.data(), blob.bytes.size(), 4, &learned).ok());
    CHECK(learned.layers == geometry.layers);
    REQUIRE(learned.sections.size() == geometry.sections.size());
    for (size_t i = 0; i < learned.sections.size(); ++i) CHECK(learned.sections[i].size() == geometry.sections[i].size());
    CHECK(learned.transposed_values == geometry.transposed_values);
    CHECK(learned.extended_positions == geometry.extended_positions);
  }
  StateSummary empty;
  CHECK(inspect(state_of(geometry_of(kF16, 32), {}).bytes, geometry_of(kF16, 32), &empty) == Code::ok);
  CHECK(empty.positions == std::vector<std::vector<int32_t>>{{}});
}

TEST_CASE("8. a sequence may lie in any of several streams") {
  for (StateGeometry geometry : {geometry_of(kF16, 32), two_caches(kF16, 32)}) {
    for (const uint32_t streams : {1U, 4U, 256U}) {
      geometry.streams = streams;
      for (const uint32_t slot : {0U, streams / 2, streams - 1}) {
        StateSummary summary;
        const Blob blob = state_of(geometry, {4, 0, 2}, slot);
        REQUIRE(inspect(blob.bytes, geometry, &summary) == Code::ok);
        CHECK(summary.positions.back() == std::vector<int32_t>{4, 0, 2});
        if (slot == 0) CHECK(blob.bytes.size() == state_bytes(geometry, 3));
      }
      std::vector<uint8_t> state(state_bytes(geometry, 3), 0x11);
      std::vector<uint8_t*> parts;
      begin_state(geometry, {4, 0, 2}, state.data(), &parts);
      // but for the number of the sequence
      Blob blob = state_of(geometry, {4, 0, 2});
      CHECK(inspect(state, geometry) == Code::ok);
      CHECK(state.size() == blob.bytes.size());
    }
    geometry.streams = 2;
    const Blob one = state_of(geometry, {4, 0, 2}, 1);
    // a second stream with cells, and more streams than llama.cpp has
    Blob both;
    both.put<uint32_t>(kMagic);
    both.put<int32_t>(3);
    both.put<uint32_t>(2);
    const StateGeometry plain = geometry_of(kF16, 32);
    for (int stream = 0; stream < 2; ++stream) put_cells(plain, {0, 1}, {1, 2}, &both);
    CHECK(inspect(both.bytes, plain) == Code::kv_format);
    for (const uint32_t streams : {0U, 257U, 0xffffffffU}) CHECK(inspect(with(one.bytes, 8, streams), geometry) == Code::kv_layout);
  }
}

TEST_CASE("34. two caches must hold the same positions, each layer once") {
  const StateGeometry geometry = two_caches(kF16, 32);
  const std::vector<uint8_t> sound = state_of(geometry, {0, 1, 2}).bytes;
  const size_t second = 8 + 8 + 3 * 12 + 8 + 2 * (12 + 3 * 32);  // where the section of the local layers begins
  const size_t cells = second + 8;
  REQUIRE(inspect(sound, geometry) == Code::ok);
  CHECK(inspect(with(sound, cells, 7), geometry) == Code::kv_position);
  CHECK(inspect(with(sound, cells, 1), geometry) == Code::kv_position);
  CHECK(inspect(with(sound, cells, -1), geometry) == Code::kv_position);
  CHECK(inspect({sound.begin(), sound.begin() + static_cast<ptrdiff_t>(second)}, geometry) == Code::kv_truncated);
  // in another order is sound: each cache has cells of its own
  StateSummary summary;
  REQUIRE(inspect(with(with(sound, cells, 2), cells + 24, 0), geometry, &summary) == Code::ok);
  CHECK(summary.positions[1] == std::vector<int32_t>{2, 1, 0});
  // what a window has dropped is found missing in foreign states, and told of our own
  Blob dropped;
  dropped.put<uint32_t>(kMagic);
  dropped.put<int32_t>(3);
  dropped.put<uint32_t>(1);
  put_cells(geometry, {1}, {0, 1, 2}, &dropped);
  dropped.put<uint32_t>(1);
  put_cells(geometry, {0, 2}, {1, 2}, &dropped);
  CHECK(inspect(dropped.bytes, geometry) == Code::kv_position);
  REQUIRE(locate_rows(dropped.bytes.data(), dropped.bytes.size(), geometry, &summary).ok());
  CHECK(summary.positions[1].size() == 2);
  StateGeometry learned;
  CHECK(learn_geometry(dropped.bytes.data(), dropped.bytes.size(), 3, &learned).code == Code::kv_layout);
  // and so is a state with one of the two alone, or with the other pattern of layers
  CHECK(inspect(sound, geometry_of(kF16, 32, 3)) == Code::kv_layout);
  CHECK(inspect(state_of(geometry_of(kF16, 32, 3), {0, 1, 2}).bytes, geometry) == Code::kv_layout);
  StateGeometry other = geometry;
  other.sections = {{0, 2}, {1}};
  CHECK(inspect(sound, other) == Code::kv_layout);
}

TEST_CASE("transposed values have elements of their type") {
  StateGeometry geometry = geometry_of(kF16, 32, 1);
  geometry.transposed_values = true;
  const std::vector<uint8_t> sound = state_of(geometry, {0, 1, 2}).bytes;
  const size_t values = sound.size() - 3 * 32 - 8;
  REQUIRE(inspect(sound, geometry) == Code::ok);
  CHECK(inspect(with(with(sound, values, 4U), values + 4, 8U), geometry) == Code::kv_layout);
  CHECK(inspect(with(with(sound, values, 1U), values + 4, 32U), geometry) == Code::kv_layout);
}

TEST_CASE("37. a state of a big-endian machine is refused") {
  const std::vector<uint8_t> sound = state_of(geometry_of(kF16, 32), {0, 1, 2}).bytes;
  std::vector<uint8_t> swapped = sound;
  for (size_t at = 0; at + 4 <= swapped.size(); at += 4)
    std::reverse(swapped.begin() + static_cast<ptrdiff_t>(at), swapped.begin() + static_cast<ptrdiff_t>(at) + 4);
  CHECK(inspect(swapped, geometry_of(kF16, 32)) == Code::kv_format);
  // with our magic, as a machine of mixed order might have it
  std::copy_n(sound.begin(), 4, swapped.begin());
  CHECK(inspect(swapped, geometry_of(kF16, 32)) == Code::kv_layout);
  StateGeometry learned;
  CHECK(learn_geometry(swapped.data(), swapped.size(), 3, &learned).code == Code::kv_layout);
}

TEST_CASE("a state cut at any byte, and most of all around each part, is refused") {
  StateGeometry streams = geometry_of(kF16, 32);
  streams.streams = 3;
  for (const StateGeometry& geometry : {geometry_of(kQ8, 34), two_caches(kQ8, 34), streams}) {
    const Blob blob = state_of(geometry, {0, 1, 2});
    for (size_t size = 0; size < blob.bytes.size(); ++size) {
      const std::vector<uint8_t> cut(blob.bytes.begin(), blob.bytes.begin() + static_cast<ptrdiff_t>(size));
      CHECK(inspect(cut, geometry) == Code::kv_truncated);
    }
    for (const size_t boundary : blob.boundaries) {
      std::vector<uint8_t> grown = blob.bytes;
      grown.insert(grown.begin() + static_cast<ptrdiff_t>(boundary), 0x11);
      CHECK(inspect(grown, geometry) != Code::ok);
    }
  }
}

TEST_CASE("cells that llama.cpp would take and that would poison the sequence") {
  const StateGeometry geometry = geometry_of(kF16, 32);
  const std::vector<uint8_t> sound = state_of(geometry, {0, 1, 2}).bytes;
  for (const int32_t position : {-1, -7, 16, 0x7fffffff, 1}) CHECK(inspect(with(sound, kCells, position), geometry) == Code::kv_position);
  for (const uint32_t owners : {0u, 2u, 0xffffffffu}) CHECK(inspect(with(sound, kCells + 4, owners), geometry) == Code::kv_format);
}

TEST_CASE("12. what number the source gave its sequence means nothing, so none of them can reach the engine") {
  const StateGeometry geometry = geometry_of(kF16, 32);
  const std::vector<uint8_t> sound = state_of(geometry, {0, 1, 2}).bytes;
  for (const int32_t id : {-1, -2, 256, 12345, INT32_MIN, INT32_MAX})
    CHECK(inspect(with(with(sound, 4, id), kCells + 8, id), geometry) == Code::ok);
}

TEST_CASE("13. a state whose rows stayed on a device, so that only the rest of it is there, is refused") {
  for (const StateGeometry& geometry : {geometry_of(kF16, 32), two_caches(kF16, 32)}) {
    std::vector<uint8_t> bytes = state_of(geometry, {0, 1, 2}).bytes;
    const std::vector<uint8_t> row(3 * 32, 0x11);
    for (auto at = bytes.begin(); (at = std::search(at, bytes.end(), row.begin(), row.end())) != bytes.end();)
      at = bytes.erase(at, at + static_cast<ptrdiff_t>(row.size()));
    CHECK(inspect(bytes, geometry) != Code::ok);
  }
}

TEST_CASE("counts that announce more than there is are refused without allocating for them") {
  const StateGeometry geometry = geometry_of(kF16, 32);
  const std::vector<uint8_t> sound = state_of(geometry, {0, 1, 2}).bytes;
  for (const uint32_t cells : {0u, 2u, 4u, 17u, 0x7fffffffu, 0xffffffffu})
    CHECK(inspect(with(sound, 12, cells), geometry) == (cells > 16 ? Code::kv_limit : Code::kv_format));
  std::vector<uint8_t> bomb(sound.begin(), sound.begin() + kCells);
  StateGeometry wide = geometry;
  wide.max_cells = 0x7fffffff;
  CHECK(inspect(with(bomb, 12, 0x7fffffffu), wide) == Code::kv_truncated);
}

TEST_CASE("states of another layout") {
  const StateGeometry geometry = geometry_of(kF16, 32);
  const auto made_by = [&](const std::function<void(StateGeometry&)>& change) {
    StateGeometry other = geometry;
    change(other);
    return inspect(state_of(other, {0, 1, 2}).bytes, geometry);
  };
  CHECK(made_by([](StateGeometry& g) { g.layers.pop_back(); }) == Code::kv_layout);
  CHECK(made_by([](StateGeometry& g) { g.layers.emplace_back(g.layers[0]); }) == Code::kv_layout);
  CHECK(made_by([](StateGeometry& g) { g.layers[1].key_row_bytes = 64; }) == Code::kv_layout);
  CHECK(made_by([](StateGeometry& g) { g.layers[1].value_row_bytes = 64; }) == Code::kv_layout);
  CHECK(made_by([](StateGeometry& g) { g.layers[0].key_type = kBf16; }) == Code::kv_layout);
  CHECK(made_by([](StateGeometry& g) { g.layers[0].value_type = kQ8; }) == Code::kv_layout);
  CHECK(made_by([](StateGeometry& g) { g.transposed_values = true; }) == Code::kv_layout);
  CHECK(made_by([](StateGeometry& g) { g.extended_positions = true; }) != Code::ok);
  const std::vector<uint8_t> sound = state_of(geometry, {0, 1, 2}).bytes;
  CHECK(inspect(with(sound, 0, 0u), geometry) == Code::kv_format);
}

TEST_CASE("a number that is not finite is found wherever it is") {
  struct Case {
    int32_t type;
    uint64_t row_bytes;
    std::vector<uint8_t> infinity;
    size_t stride;
  };
  for (const Case& c : {Case{kF32, 64, {0, 0, 0x80, 0x7f}, 4}, Case{kF16, 32, {0, 0x7c}, 2}, Case{kF16, 32, {1, 0xfe}, 2},
                        Case{kBf16, 32, {0x80, 0xff}, 2}, Case{kQ8, 68, {0, 0x7c}, 34}, Case{kQ4, 36, {0, 0xfc}, 18}}) {
    const StateGeometry geometry = geometry_of(c.type, c.row_bytes);
    const Blob blob = state_of(geometry, {0, 1, 2});
    const size_t rows = static_cast<size_t>(c.row_bytes) * 3;
    for (const size_t part : {size_t{0}, size_t{3}}) {  // first keys, last values
      const size_t start = blob.bytes.size() - (4 - part) * rows - (3 - part) * 12;
      for (size_t at = start; at < start + rows; at += c.stride) {
        std::vector<uint8_t> poisoned = blob.bytes;
        std::copy(c.infinity.begin(), c.infinity.end(), poisoned.begin() + static_cast<ptrdiff_t>(at));
        CHECK(inspect(poisoned, geometry) == Code::non_finite);
      }
    }
  }
}

TEST_CASE("ten thousand states with flipped bits neither crash nor pass with other structure") {
  std::mt19937 engine(1);
  for (const StateGeometry& geometry : {geometry_of(kQ8, 34), two_caches(kQ8, 34)}) {
    const Blob blob = state_of(geometry, {0, 1, 2});
    for (int i = 0; i < 10000; ++i) {
      std::vector<uint8_t> bytes = blob.bytes;
      for (uint32_t flips = 1 + engine() % 8; flips > 0; --flips)
        bytes[engine() % bytes.size()] ^= static_cast<uint8_t>(1u << engine() % 8);
      StateSummary summary;
      if (inspect(bytes, geometry, &summary) == Code::ok) {
        for (const auto& positions : summary.positions) CHECK(positions.size() == 3);
      }
    }
  }
}

TEST_CASE("a geometry is only learned from whole caches of keys and values") {
  const StateGeometry geometry = geometry_of(kF16, 32);
  const std::vector<uint8_t> sound = state_of(geometry, {0, 1}).bytes;
  StateGeometry learned;
  CHECK(learn_geometry(sound.data(), sound.size(), 3, &learned).code == Code::kv_layout);
  CHECK(learn_geometry(sound.data(), sound.size(), 0, &learned).code == Code::kv_layout);
  CHECK(learn_geometry(sound.data(), 0, 2, &learned).code == Code::kv_layout);
  CHECK(learn_geometry(sound.data(), 8, 2, &learned).code == Code::kv_layout);
  // keys alone, as latent attention has them
  std::vector<uint8_t> keys(sound.begin(), sound.end() - 2 * (12 + 2 * 32));
  CHECK(learn_geometry(keys.data(), keys.size(), 2, &learned).code == Code::kv_layout);
  // a second cache behind the first, and something else behind it
  std::vector<uint8_t> more = sound;
  more.push_back(0);
  CHECK(learn_geometry(more.data(), more.size(), 2, &learned).code == Code::kv_layout);
  more.pop_back();
  more.insert(more.end(), sound.begin() + 8, sound.end() - 1);
  CHECK(learn_geometry(more.data(), more.size(), 2, &learned).code == Code::kv_layout);
  CHECK(learned.layers.empty());
  more.push_back(sound.back());
  CHECK(learn_geometry(more.data(), more.size(), 2, &learned).ok());
  CHECK(learned.sections == std::vector<std::vector<int32_t>>{{0, 1}, {2, 3}});
}

}  // namespace latentwire
