// Content on the device and in cells that are read and written in place, on the mock backend: what comes back is what went, whatever the
// cells' order; what may not come in does not; and nothing else changes.
#include "device/content.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>

#include "device/piece.h"
#include "device/segment.h"
#include "engine/cell_memory.h"
#include "kv/rope.h"
#include "kv_support.h"
#include "mock_support.h"

namespace latentwire {
namespace {

using namespace test;

constexpr SegmentNonce nonce = {16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1};

struct Opened {
  Opened() { REQUIRE(DeviceStream::create(mock, 0, &stream).ok()); }
  ~Opened() { stream->close(); }
  std::shared_ptr<DeviceStream> stream;
};

// The memory of the host passes for that of the device.
struct HostIsDevice {
  HostIsDevice() { setenv("LATENTWIRE_MOCK_HOST", "1", 1); }
  ~HostIsDevice() { unsetenv("LATENTWIRE_MOCK_HOST"); }
};

void expect_same(const KvContent& got, const KvContent& want) {
  CHECK(got.tokens == want.tokens);
  CHECK(got.positions == want.positions);
  CHECK(got.rows == want.rows);
  CHECK(got.layout == want.layout);
  for (size_t part = 0; part < want.layout.parts.size(); part++)
    CHECK(rows_of(got, static_cast<int64_t>(part)) == rows_of(want, static_cast<int64_t>(part)));
}

// Keys and values of other sizes and formats.
CacheLayout odd_layout() {
  CacheLayout layout = layout_of(3, RowFormat::f16);
  layout.parts[1] = {RowFormat::f32, 36, 0};
  layout.parts[4] = {RowFormat::q8_0, 96, 32};
  layout.parts[5] = {RowFormat::q4_0, 32, 0};
  return layout;
}

constexpr RowFormat formats[] = {RowFormat::f32, RowFormat::f16, RowFormat::bf16, RowFormat::q8_0, RowFormat::q4_0};

// A cache as an engine keeps it: for each part the rows of so many cells, full of a pattern.
struct Cache {
  Cache(const CacheLayout& layout, int64_t cells) {
    for (const CacheRows& rows : layout.parts) {
      memory.emplace_back(static_cast<size_t>(cells * rows.row_bytes()), uint8_t{0x5A});
      parts.push_back({reinterpret_cast<std::byte*>(memory.back().data()), rows.row_bytes(), cells, true});
    }
  }
  std::vector<std::vector<uint8_t>> memory;
  std::vector<CacheView::Part> parts;
};

std::vector<int32_t> some_cells(std::mt19937& random, int64_t count, int64_t of) {
  std::vector<int32_t> all(static_cast<size_t>(of));
  std::iota(all.begin(), all.end(), 0);
  // runs, and single cells here and there
  for (int i = 0; i < 5; i++) {
    const auto at = static_cast<ptrdiff_t>(random() % all.size());
    std::rotate(all.begin(), all.begin() + at, all.end());
    std::swap(all[0], all[all.size() / 2]);
  }
  all.resize(static_cast<size_t>(count));
  return all;
}

void spoil(KvContent* content, size_t part, int64_t row) {
  // the number or the scale that the row begins with
  auto* at = const_cast<uint8_t*>(content->segments.front().parts[part]) + row * content->layout.parts[part].row_bytes();
  const RowFormat format = content->layout.parts[part].format;
  if (format == RowFormat::f32) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(at, &nan, sizeof nan);
  } else {
    const uint16_t infinity = format == RowFormat::bf16 ? 0x7F80 : 0x7C00;
    std::memcpy(at, &infinity, sizeof infinity);
  }
}

void add_record(KvWriter& writer, int64_t number, std::vector<uint8_t>* out) {
  const std::vector<uint8_t> one = record(writer, number);
  out->insert(out->end(), one.begin(), one.end());
}

}  // namespace

TEST_CASE("content goes to the device and back, of any format and size") {
  REQUIRE(mock().api != nullptr);
  const Opened opened;
  std::vector<CacheLayout> layouts{odd_layout()};
  for (const RowFormat format : formats) layouts.push_back(layout_of(2, format));
  for (const CacheLayout& layout : layouts) {
    for (const int64_t n : {0, 1, 7, 300}) {
      const KvContent whole = content_of(layout, n, 3);
      KvContent sent = whole;
      if (n > 3) REQUIRE(whole.slice(0, 2).concat(whole.slice(2, n), &sent).ok());
      DeviceContent there;
      KvContent back;
      const Status status = opened.stream->complete([&](DeviceStream& stream) {
        Status done = upload_content(stream, sent, nullptr, &there);
        if (done.ok()) done = require_finite(stream, there.entries.layout, there.parts, there.entries.size());
        if (done.ok()) done = download_content(stream, there, nullptr, &back);
        return done;
      });
      REQUIRE(status.ok());
      CHECK(there.entries.segments.empty());
      expect_same(back, whole);
    }
  }
}

TEST_CASE("numbers that are none are found on the device, and the layer is named") {
  const Opened opened;
  for (const RowFormat format : formats) {
    for (const auto& [part, name] : {std::pair<size_t, const char*>{0, "the keys of layer 0"}, {5, "the values of layer 2"}}) {
      KvContent content = content_of(layout_of(3, format), 20);
      spoil(&content, part, 19);
      const Status status = opened.stream->complete([&](DeviceStream& stream) {
        DeviceContent there;
        Status done = upload_content(stream, content, nullptr, &there);
        return done.ok() ? require_finite(stream, there.entries.layout, there.parts, there.entries.size()) : done;
      });
      CHECK(status.code == Code::non_finite);
      CHECK(status.message.find(name) != std::string::npos);
    }
  }
}

TEST_CASE("a stream that is written piece by piece from the device is the host's, whatever the codec") {
  REQUIRE(mock().api != nullptr);
  const Opened opened;
  std::vector<CacheLayout> layouts{odd_layout()};
  for (const RowFormat format : formats) layouts.push_back(layout_of(2, format, 64));
  // neither groups of the codec nor rows of whole vectors
  layouts.push_back(layout_of(2, RowFormat::f16, 36));
  std::vector<PartCodecs> choices{{}};
  for (const char* name : {"fp8", "q8_0", "kivi4"}) choices.push_back({built_in_codec(name)});
  for (const CacheLayout& layout : layouts) {
    for (const PartCodecs& choice : choices) {
      PartCodecs codecs;
      // every third part as it is
      for (size_t part = 0; part < layout.parts.size() && !choice.empty(); part++) codecs.push_back(part % 3 == 1 ? nullptr : choice[0]);
      if (!check_codecs(codecs, layout).ok()) continue;
      for (const int64_t n : {0, 1, 255, 256, 257, 700}) {
        const KvContent whole = content_of(layout, n, 3);
        KvWriter host(std::make_shared<const KvContent>(whole), manifest_of(layout), true, n, codecs);
        std::vector<uint8_t> want;
        for (int64_t i = 0; i < host.records(); i++) add_record(host, i, &want);
        DeviceContent there;
        REQUIRE(opened.stream->complete([&](DeviceStream& stream) { return upload_content(stream, whole, nullptr, &there); }).ok());
        for (const auto& [step, no_room] : {std::pair<int64_t, bool>{256, false}, {512, false}, {256, true}}) {
          const std::unique_ptr<Faults> faults = no_room ? std::make_unique<Faults>("allocate") : nullptr;
          KvWriter writer(std::make_shared<const KvContent>(there.entries), manifest_of(layout), true, n, codecs);
          std::vector<uint8_t> got;
          int64_t next = 0;
          const auto write = [&] {
            while (next < writer.ready()) add_record(writer, next++, &got);
          };
          for (int64_t from = 0; from < n; from += step) {
            KvPiece piece;
            const int64_t to = std::min(from + step, n);
            const Status status = opened.stream->complete(
                [&](DeviceStream& stream) { return download_piece(stream, there, codecs, from, to, nullptr, &piece); });
            REQUIRE(status.ok());
            REQUIRE(writer.append(piece).ok());
            write();
          }
          write();
          CHECK(got == want);
          CHECK(writer.seal() == host.seal());
        }
      }
    }
  }
}

TEST_CASE("a piece is refused where it does not belong, and rows that were let go are not written") {
  const Opened opened;
  const CacheLayout layout = layout_of(2, RowFormat::f16, 64);
  const KvContent whole = content_of(layout, 600);
  DeviceContent there;
  const auto piece_of = [&](int64_t from, int64_t to, const PartCodecs& codecs) {
    KvPiece piece;
    const Status status =
        opened.stream->complete([&](DeviceStream& stream) { return download_piece(stream, there, codecs, from, to, nullptr, &piece); });
    REQUIRE(status.ok());
    return piece;
  };
  REQUIRE(opened.stream->complete([&](DeviceStream& stream) { return upload_content(stream, whole, nullptr, &there); }).ok());
  for (const PartCodecs& codecs : {PartCodecs{}, PartCodecs(4, fp8_codec())}) {
    KvWriter writer(std::make_shared<const KvContent>(there.entries), manifest_of(layout), false, 600, codecs);
    CHECK(writer.ready() == 1);
    CHECK(writer.append(KvPiece{}).code == Code::invalid_argument);
    CHECK(writer.append(piece_of(0, 100, codecs)).code == Code::invalid_argument);
    CHECK(writer.append(piece_of(256, 512, codecs)).code == Code::invalid_argument);
    KvPiece narrow = piece_of(0, 512, codecs);
    narrow.rows.parts.pop_back();
    CHECK(writer.append(narrow).code == Code::invalid_argument);
    CHECK(writer.append(piece_of(0, 512, codecs)).ok());
    CHECK(writer.append(piece_of(0, 256, codecs)).code == Code::invalid_argument);
    CHECK(writer.append(piece_of(500, 600, codecs)).code == Code::invalid_argument);
    CHECK(writer.ready() == 1 + 2 * 5);
    std::vector<uint8_t> bytes;
    add_record(writer, 2, &bytes);
    CHECK(writer.append(piece_of(512, 600, codecs)).ok());
    CHECK(writer.ready() == writer.records());
    std::vector<uint8_t> out(static_cast<size_t>(writer.record_bytes(3)));
    int64_t written = 0;
    // a tile that waits to be written waits on
    const Code code = codecs.empty() ? Code::invalid_argument : Code::ok;
    CHECK(writer.write(3, out.data(), &written).code == code);
    CHECK(writer.pass_over(4).code == code);
  }
}

TEST_CASE("a piece that is given up has ended before what it reads can go") {
  const Opened reader;
  const KvContent whole = content_of(layout_of(4, RowFormat::f16, 256), 600);
  for (const char* fault : {"slow 20", "slow 20\nlaunch 2"}) {
    const Opened owner;
    auto there = std::make_unique<DeviceContent>();
    REQUIRE(owner.stream->complete([&](DeviceStream& stream) { return upload_content(stream, whole, nullptr, there.get()); }).ok());
    const Faults faults(fault);
    const std::atomic<bool> cancel = std::string(fault).find("launch") == std::string::npos;
    const PartCodecs codecs{fp8_codec(), fp8_codec(), nullptr, fp8_codec(), nullptr, fp8_codec(), nullptr, fp8_codec()};
    KvPiece piece;
    const Status status =
        reader.stream->complete([&](DeviceStream& stream) { return download_piece(stream, *there, codecs, 0, 600, &cancel, &piece); });
    CHECK(status.code == (cancel ? Code::cancelled : Code::device_failed));
    // the mock loses the device when a kernel reads what was freed
    there.reset();
    owner.stream->close();
    CHECK(reader.stream->complete([](DeviceStream& stream) { return DeviceStream::call(stream.api().stream_wait, stream.handle()); }).ok());
  }
}

TEST_CASE("numbers that are none are not encoded on the device, and the layer is named") {
  const Opened opened;
  for (const RowFormat format : {RowFormat::f32, RowFormat::f16, RowFormat::bf16}) {
    KvContent content = content_of(layout_of(3, format, 64), 300);
    spoil(&content, 3, 299);
    const Status status = opened.stream->complete([&](DeviceStream& stream) {
      DeviceContent there;
      KvPiece piece;
      Status done = upload_content(stream, content, nullptr, &there);
      return done.ok() ? download_piece(stream, there, PartCodecs(6, fp8_codec()), 0, 300, nullptr, &piece) : done;
    });
    CHECK(status.code == Code::non_finite);
    CHECK(status.message.find("the values of layer 1") != std::string::npos);
  }
}

TEST_CASE("cells in place give what was put into them, in any order, and others stay as they were") {
  std::mt19937 random(11);
  for (const bool on_device : {false, true}) {
    const std::unique_ptr<HostIsDevice> pretence = on_device ? std::make_unique<HostIsDevice>() : nullptr;
    for (int round = 0; round < 20; round++) {
      const CacheLayout layout = round % 2 == 0 ? odd_layout() : layout_of(2, formats[static_cast<size_t>(round / 2) % 5]);
      const int64_t n = std::vector<int64_t>{1, 2, 33, 150}[random() % 4];
      Cache cache(layout, 200);
      const auto before = cache.memory;
      std::unique_ptr<CellMemory> cells;
      REQUIRE(CellMemory::open(layout, cache.parts, mock, on_device, &cells).ok());
      CHECK(cells->on_device() == on_device);
      const std::vector<int32_t> places = some_cells(random, n, 200);
      const KvContent content = content_of(layout, n);
      if (on_device && round % 3 == 0) {
        const Opened opened;
        DeviceContent there;
        REQUIRE(opened.stream->complete([&](DeviceStream& stream) { return upload_content(stream, content, nullptr, &there); }).ok());
        REQUIRE(cells->scatter(there, nullptr, places).ok());
      } else {
        REQUIRE(cells->scatter(content, nullptr, places).ok());
      }
      for (size_t part = 0; part < layout.parts.size(); part++) {
        const auto row_bytes = static_cast<size_t>(layout.parts[part].row_bytes());
        auto want = before[part];
        const std::vector<uint8_t> rows = rows_of(content, static_cast<int64_t>(part));
        for (size_t i = 0; i < places.size(); i++)
          std::copy_n(rows.begin() + static_cast<ptrdiff_t>(i * row_bytes), row_bytes,
                      want.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(places[i]) * row_bytes));
        CHECK(cache.memory[part] == want);
      }
      KvContent got = content;
      got.segments.assign(1, {});
      REQUIRE(cells->gather(places, &got.segments.front()).ok());
      expect_same(got, content);
      DeviceContent there;
      const Status gathered = cells->gather(places, content, &there);
      CHECK(gathered.code == (on_device ? Code::ok : Code::device_unavailable));
      if (!on_device) continue;
      const Opened opened;
      KvContent back;
      REQUIRE(opened.stream->complete([&](DeviceStream& stream) { return download_content(stream, there, nullptr, &back); }).ok());
      expect_same(back, content);
    }
  }
}

TEST_CASE("where the device has no room, cells are read and written run by run; keys are not turned then") {
  const HostIsDevice pretence;
  std::mt19937 random(13);
  const CacheLayout layout = odd_layout();
  const KvContent content = content_of(layout, 90);
  Cache cache(layout, 200);
  const std::vector<int32_t> places = some_cells(random, 90, 200);
  std::unique_ptr<CellMemory> cells;
  REQUIRE(CellMemory::open(layout, cache.parts, mock, true, &cells).ok());
  const auto before = cache.memory;
  const Faults faults("allocate");
  const KeyMove move{std::vector<std::shared_ptr<const Rope>>(3), std::vector<int32_t>(90, 1)};
  CHECK(cells->scatter(content, &move, places).code == Code::out_of_memory);
  CHECK(cache.memory == before);
  REQUIRE(cells->scatter(content, nullptr, places).ok());
  KvContent got = content;
  got.segments.assign(1, {});
  REQUIRE(cells->gather(places, &got.segments.front()).ok());
  expect_same(got, content);
}

TEST_CASE("keys are turned on the way into cells, as on the host, and what holds NaN does not come in") {
  const HostIsDevice pretence;
  const Opened opened;
  for (const RowFormat format : {RowFormat::f32, RowFormat::f16, RowFormat::bf16}) {
    const CacheLayout layout = layout_of(3, format);
    const int64_t n = 40;
    KvContent content = content_of(layout, n);
    // two layers turn alike, one otherwise
    KeyMove move;
    for (const float base : {10000.0F, 500.0F}) {
      RopeParameters parameters;
      parameters.head_dim = parameters.rotated = 32;
      parameters.base = base;
      Rope rope;
      REQUIRE(make_rope(parameters, &rope).ok());
      move.ropes.push_back(std::make_shared<const Rope>(rope));
    }
    move.ropes.push_back(move.ropes.front());
    for (int64_t i = 0; i < n; i++) move.shifts.push_back(static_cast<int32_t>(i % 3 == 0 ? 0 : 5 * i - 60));
    KvSegment turned;
    std::vector<uint8_t*> targets;
    REQUIRE(allocate_segment(layout, n, &turned, &targets).ok());
    REQUIRE(write_rows(content, layout, &move, targets, false, nullptr).ok());

    Cache cache(layout, 64);
    const auto before = cache.memory;
    std::unique_ptr<CellMemory> cells;
    REQUIRE(CellMemory::open(layout, cache.parts, mock, true, &cells).ok());
    std::mt19937 random(12);
    const std::vector<int32_t> places = some_cells(random, n, 64);
    const auto put = [&](bool from_host) {
      if (from_host) return cells->scatter(content, &move, places);
      DeviceContent there;
      REQUIRE(opened.stream->complete([&](DeviceStream& stream) { return upload_content(stream, content, nullptr, &there); }).ok());
      return cells->scatter(there, &move, places);
    };
    for (const bool from_host : {false, true}) {
      for (size_t part = 0; part < before.size(); part++) std::copy(before[part].begin(), before[part].end(), cache.memory[part].begin());
      REQUIRE(put(from_host).ok());
      CHECK(cache.memory != before);
      KvContent got = content;
      got.segments.assign(1, {});
      REQUIRE(cells->gather(places, &got.segments.front()).ok());
      for (size_t part = 0; part < layout.parts.size(); part++) {
        const auto bytes = static_cast<size_t>(n * layout.parts[part].row_bytes());
        CHECK(std::equal(targets[part], targets[part] + bytes, got.segments.front().parts[part]));
      }
    }
    const auto after = cache.memory;
    spoil(&content, 3, 17);
    for (const bool from_host : {false, true}) {
      CHECK(put(from_host).code == Code::non_finite);
      CHECK(cache.memory == after);
    }
  }
}

TEST_CASE("cells in several places, or on a device that nobody works on, are refused") {
  const CacheLayout layout = layout_of(1, RowFormat::f16);
  Cache cache(layout, 8);
  std::unique_ptr<CellMemory> cells;
  static const Backend none = load_backend("/nowhere/latentwire_cuda.so", "");
  std::vector<CacheView::Part> away = cache.parts;
  for (CacheView::Part& part : away) part.on_host = false;
  CHECK(CellMemory::open(
            layout, away, []() -> const Backend& { return none; }, false, &cells)
            .code == Code::device_unavailable);
  // not the device's, says the backend
  CHECK(CellMemory::open(layout, away, mock, false, &cells).code == Code::kv_layout);
  // one part here, the other there
  void* memory = nullptr;
  const Opened opened;
  REQUIRE(opened.stream
              ->complete(
                  [&](DeviceStream& stream) { return DeviceStream::call(stream.api().allocate, stream.handle(), uint64_t{4096}, &memory); })
              .ok());
  std::vector<CacheView::Part> split = cache.parts;
  split[1].data = static_cast<std::byte*>(memory);
  split[1].on_host = false;
  CHECK(CellMemory::open(layout, split, mock, false, &cells).code == Code::kv_layout);
  CHECK(cells == nullptr);
  REQUIRE(opened.stream->complete([&](DeviceStream& stream) { return DeviceStream::call(stream.api().release, stream.handle(), memory); })
              .ok());
}

TEST_CASE("a segment on the device is taken as it was shared, and refused if a byte of its head is another") {
  const Opened opened;
  const CacheLayout layout = odd_layout();
  const KvExpectation expected = expectation_of(layout, 64);
  const KvContent content = content_of(layout, 21, 5);
  latent_shared_handle handle{};
  std::shared_ptr<DeviceBuffer> memory;
  REQUIRE(opened.stream
              ->complete([&](DeviceStream& stream) {
                DeviceContent there;
                Status status = upload_content(stream, content, nullptr, &there);
                if (status.ok()) status = share_on_device(stream, there, manifest_of(layout), nonce, &handle, &memory);
                return status;
              })
              .ok());
  const auto open = [&](KvContent* back, const SegmentNonce& drawn, const KvExpectation& wanted) {
    return opened.stream->complete([&](DeviceStream& stream) {
      DeviceContent there;
      KvManifest manifest;
      Status status = open_on_device(stream, handle, drawn, wanted, &there, &manifest);
      // notes are the sender's, whatever they say
      if (status.ok()) CHECK(manifest.identity == manifest_of(layout).identity);
      if (status.ok()) status = download_content(stream, there, nullptr, back);
      return status;
    });
  };
  KvContent back;
  REQUIRE(open(&back, nonce, expected).ok());
  expect_same(back, content);
  CHECK(open(&back, SegmentNonce{}, expected).code == Code::kv_unreachable);
  CHECK(open(&back, nonce, expectation_of(layout, 20)).code == Code::kv_limit);
  CHECK(open(&back, nonce, expectation_of(layout_of(3, RowFormat::f16, 128), 64)).code == Code::kv_layout);

  // what anybody who has the handle could write there
  std::vector<uint8_t> whole(memory->bytes());
  const auto copy = [&](bool to_device) {
    return opened.stream
        ->complete([&](DeviceStream& stream) {
          return to_device ? stream.upload(memory->data(), whole.data(), whole.size(), nullptr)
                           : stream.download(whole.data(), memory->data(), whole.size(), nullptr);
        })
        .ok();
  };
  REQUIRE(copy(false));
  const std::vector<uint8_t> sound = whole;
  const size_t head = write_segment_head(content, manifest_of(layout), nonce, {0, 256}, 0).size();
  std::mt19937 random(13);
  int refused = 0;
  for (int round = 0; round < 400; round++) {
    whole = sound;
    const size_t at = round < 60 ? static_cast<size_t>(round) : random() % head;
    whole[at] = static_cast<uint8_t>(whole[at] ^ (1U << (random() % 8)));
    REQUIRE(copy(true));
    const Status status = open(&back, nonce, expected);
    if (!status.ok()) refused++;
    CHECK(status.code != Code::device_lost);
    // bits of tokens, positions and latents may be others and still be sound
    if (status.ok()) CHECK(back.size() == content.size());
  }
  CHECK(refused > 200);
  // lengths that lead elsewhere
  for (const size_t field : {size_t{24}, size_t{32}}) {
    for (const uint64_t value : {uint64_t{0}, uint64_t{39}, uint64_t{41}, uint64_t{1} << 40, ~uint64_t{0}, uint64_t{sound.size() + 1},
                                 uint64_t{sound.size() - 256}}) {
      whole = sound;
      std::memcpy(whole.data() + field, &value, sizeof value);
      REQUIRE(copy(true));
      const Status status = open(&back, nonce, expected);
      CHECK(!status.ok());
      CHECK(status.code != Code::device_lost);
    }
  }
  whole = sound;
  REQUIRE(copy(true));
  REQUIRE(open(&back, nonce, expected).ok());
  expect_same(back, content);
}

}  // namespace latentwire
