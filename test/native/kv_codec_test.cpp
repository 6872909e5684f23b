// Codecs of tiles: what comes back is as near as the method promises, sizes are exact, what is exact stays so bit by bit, and tiles that no
// encoder wrote, right digest or not, are refused or give finite numbers. The numbers in the titles are those of the conformance list of KV
// transfer.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <random>

#include "engine/kvtc_fit.h"
#include "kernels_support.h"
#include "kv/rans.h"
#include "kv_support.h"

namespace latentwire {
namespace {

using namespace test;
using testing::rounds;

constexpr int64_t lengths[] = {0, 1, 4, 5, 131, 132, 133, 164, 255, 256, 257, 600};
const std::string names[] = {"q8_0", "q4_0", "fp8", "kivi4", "kivi2"};

PartCodecs all_parts(const CacheLayout& layout, const std::shared_ptr<const KvCodec>& codec) {
  return PartCodecs(layout.parts.size(), codec);
}

KvExpectation expecting(const CacheLayout& layout, std::vector<std::shared_ptr<const KvCodec>> codecs = {}) {
  KvExpectation expected = expectation_of(layout);
  expected.codecs = std::move(codecs);
  return expected;
}

Status read(const std::vector<uint8_t>& bytes, KvExpectation expected, std::shared_ptr<const KvContent>* content,
            int64_t* tile_bytes = nullptr) {
  KvReader reader(std::move(expected));
  if (Status status = reader.feed(bytes.data(), bytes.size()); !status.ok()) return status;
  if (tile_bytes != nullptr) *tile_bytes = reader.tile_bytes();
  KvManifest manifest;
  return reader.finish(content, &manifest);
}

Code code_of(const std::vector<uint8_t>& bytes, KvExpectation expected) {
  std::shared_ptr<const KvContent> content;
  return read(bytes, std::move(expected), &content).code;
}

EncodedTile tile_with(std::vector<uint8_t> bytes) {
  const auto owner = std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
  return {std::shared_ptr<const uint8_t>(owner, owner->data()), static_cast<int64_t>(owner->size())};
}

std::vector<float> floats_of(const KvContent& content, int64_t part) {
  const CacheRows& kind = content.layout.parts[static_cast<size_t>(part)];
  std::vector<float> numbers(static_cast<size_t>(content.size() * kind.channels));
  float* to = numbers.data();
  content.for_pieces(part, 0, content.size(), [&](const uint8_t* rows, int64_t count) {
    decode(kind, rows, count, to);
    to += count * kind.channels;
  });
  return numbers;
}

// Content with numbers of its own for each part.
KvContent content_with(const CacheLayout& layout, const std::vector<std::vector<float>>& numbers, int64_t n, int32_t first_position = 0) {
  KvContent content = content_of(layout, n, first_position);
  std::vector<uint8_t*> parts;
  KvSegment segment;
  REQUIRE(allocate_segment(layout, n, &segment, &parts).ok());
  for (size_t part = 0; part < parts.size(); part++) REQUIRE(encode(layout.parts[part], numbers[part].data(), n, parts[part]).ok());
  content.segments = {segment};
  return content;
}

int64_t exact_rows(int64_t n) { return std::min<int64_t>(n, exact_first_entries + exact_last_entries); }

// What the tiles of one part have, exactly.
int64_t bytes_of(const std::string& name, const CacheRows& rows, bool keys, int64_t n) {
  const int64_t c = rows.channels;
  if (name == "q8_0") return n * c / 32 * 34;
  if (name == "q4_0") return n * c / 32 * 18;
  if (name == "fp8") return n * (c + (c + 127) / 128 * 4);
  const int64_t bits = name == "kivi4" ? 4 : 2;
  int64_t bytes = exact_rows(n) * rows.row_bytes();
  for (int64_t first = 0; first < n; first += chunk_entries) {
    const int64_t inner =
        std::max<int64_t>(0, std::min(first + chunk_entries, n - exact_last_entries) - std::max(first, exact_first_entries));
    bytes += inner * ((c * bits + 7) / 8) + 4 * (keys ? (inner + 31) / 32 * c : inner * ((c + 31) / 32));
  }
  return bytes;
}

// The nearest number of e4m3.
double e4m3(double x) {
  if (x == 0) return 0;
  const double step = std::ldexp(1.0, std::max(std::ilogb(x), -6) - 3);
  return std::copysign(std::min(std::abs(std::nearbyint(x / step) * step), 448.0), x);
}

std::shared_ptr<const Rope> rope_of(int32_t head) {
  RopeParameters parameters;
  parameters.head_dim = parameters.rotated = head;
  auto rope = std::make_shared<Rope>();
  REQUIRE(make_rope(parameters, rope.get()).ok());
  return rope;
}

// Rows that lie near a plane of `rank` dimensions away from 0, keys then turned to their positions: what caches look like.
std::vector<std::vector<float>> low_rank(const CacheLayout& layout, int64_t n, int64_t rank, uint64_t seed, int32_t first_position,
                                         const Rope& rope) {
  testing::Numbers planes(7);
  testing::Numbers random(seed);
  std::vector<std::vector<float>> parts;
  for (size_t part = 0; part < layout.parts.size(); part++) {
    const int64_t c = layout.parts[part].channels;
    const std::vector<float> mean = planes.normals(c, 2);
    const std::vector<float> plane = planes.normals(rank * c);
    std::vector<float> numbers;
    for (int64_t i = 0; i < n; i++) {
      std::vector<float> row = random.normals(c, 0.01F);
      for (size_t k = 0; k < row.size(); k++) row[k] += mean[k];
      for (int64_t r = 0; r < rank; r++) {
        const float z = random.normal() / static_cast<float>(r + 1);
        for (int64_t k = 0; k < c; k++) row[static_cast<size_t>(k)] += z * plane[static_cast<size_t>(r * c + k)];
      }
      numbers.insert(numbers.end(), row.begin(), row.end());
    }
    if (part % 2 == 0) turn_keys(&rope, positions_from(first_position, n).data(), false, numbers.data(), n, c);
    parts.push_back(std::move(numbers));
  }
  return parts;
}

struct Fitted {
  CacheLayout layout = layout_of(2, RowFormat::f32, 64);
  std::shared_ptr<const Rope> rope = rope_of(32);
  std::shared_ptr<const KvContent> sample;
  std::shared_ptr<const Kvtc> codec;

  explicit Fitted(double bits, int64_t rank = 6) {
    sample = std::make_shared<const KvContent>(content_with(layout, low_rank(layout, 1500, rank, 1, 0, *rope), 1500));
    REQUIRE(fit_kvtc({{{"weights", "a"}}, {rope, rope}, {sample}, std::vector<double>(4, bits)}, nullptr, &codec).ok());
  }
};

double relative_error(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < x.size(); i++) {
    error += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
    norm += std::pow(static_cast<double>(x[i]), 2);
  }
  return std::sqrt(error / norm);
}

}  // namespace

TEST_CASE("built-in codecs: exact sizes, finite rows of the sender's kind, and the ends of KIVI's contents bit by bit") {
  for (const std::string& name : names) {
    for (const RowFormat format : {RowFormat::f32, RowFormat::f16, RowFormat::bf16, RowFormat::q8_0}) {
      for (const int32_t channels : {32, 64, 160}) {
        for (const int64_t n : lengths) {
          const CacheLayout layout = layout_of(1, format, channels, format == RowFormat::q8_0 && channels == 64 ? 64 : 0);
          KvContent whole = content_of(layout, n);
          KvContent cut = whole;
          if (n > 7) REQUIRE(whole.slice(0, 3).concat(whole.slice(3, n), &cut).ok());
          const PartCodecs codecs = all_parts(layout, built_in_codec(name));
          REQUIRE(check_codecs(codecs, layout).ok());
          const std::vector<uint8_t> bytes = stream_of(cut, codecs);
          CHECK(bytes == stream_of(whole, codecs));
          std::shared_ptr<const KvContent> content;
          int64_t tile_bytes = 0;
          REQUIRE(read(bytes, expecting(layout), &content, &tile_bytes).ok());
          CHECK(tile_bytes == bytes_of(name, layout.parts[0], true, n) + bytes_of(name, layout.parts[1], false, n));
          CHECK(content->layout == layout);
          CHECK(content->positions == whole.positions);
          CHECK(require_finite(*content, nullptr).ok());
          if (!name.starts_with("kivi")) continue;
          const int64_t last = std::max<int64_t>(n - exact_last_entries, std::min<int64_t>(n, exact_first_entries));
          for (const int64_t part : {0, 1}) {
            CHECK(rows_of(content->slice(last, n), part) == rows_of(whole.slice(last, n), part));
            const int64_t first = std::min<int64_t>(n, exact_first_entries);
            CHECK(rows_of(content->slice(0, first), part) == rows_of(whole.slice(0, first), part));
          }
        }
      }
    }
  }
}

TEST_CASE("fp8: each number is the nearest e4m3 of its group's scale, and odd channels are as good as others") {
  testing::Numbers random(3);
  for (int round = 0; round < rounds(20); round++) {
    const auto channels = static_cast<int32_t>(1 + random.below(300));
    CacheLayout layout = layout_of(1, RowFormat::f32, channels);
    const int64_t n = random.below(20);
    std::vector<std::vector<float>> numbers;
    for (int part = 0; part < 2; part++)
      numbers.push_back(random.normals(n * channels, std::ldexp(1.0F, static_cast<int>(random.below(40)) - 20)));
    const KvContent whole = content_with(layout, numbers, n);
    std::shared_ptr<const KvContent> content;
    REQUIRE(read(stream_of(whole, all_parts(layout, fp8_codec())), expecting(layout), &content).ok());
    for (const int64_t part : {0, 1}) {
      const std::vector<float> got = floats_of(*content, part);
      const std::vector<float>& x = numbers[static_cast<size_t>(part)];
      for (int64_t i = 0; i < n; i++) {
        for (int64_t g = 0; g < channels; g += 128) {
          double largest = 0;
          const int64_t end = std::min<int64_t>(g + 128, channels);
          for (int64_t k = g; k < end; k++)
            largest = std::max(largest, std::abs(static_cast<double>(x[static_cast<size_t>(i * channels + k)])));
          const double scale = largest / 448;
          for (int64_t k = g; k < end; k++) {
            const auto at = static_cast<size_t>(i * channels + k);
            const auto want = static_cast<double>(x[at]);
            const double best = std::abs(e4m3(want / scale) * scale - want);
            CHECK(std::abs(static_cast<double>(got[at]) - want) <= best + 1e-6 * largest);
          }
        }
      }
    }
  }
}

TEST_CASE(
    "KIVI: each number is within half a step of its group, whose range is of f16; groups are of keys' channels and of values' entries") {
  testing::Numbers random(4);
  for (int round = 0; round < rounds(24); round++) {
    const int bits = round % 2 == 0 ? 4 : 2;
    const auto channels = static_cast<int32_t>(1 + random.below(100));
    const CacheLayout layout = layout_of(1, RowFormat::f32, channels);
    const int64_t n = 133 + random.below(400);
    std::vector<std::vector<float>> numbers;
    for (int part = 0; part < 2; part++) {
      numbers.push_back(random.normals(n * channels));
      // an outlier channel far from 0, and one that is constant
      for (int64_t i = 0; i < n; i++) numbers.back()[static_cast<size_t>(i * channels)] = 40 + random.normal();
      for (int64_t i = 0; i < n && channels > 2; i++) numbers.back()[static_cast<size_t>(i * channels + 1)] = -0.3F;
    }
    const KvContent whole = content_with(layout, numbers, n);
    std::shared_ptr<const KvContent> content;
    REQUIRE(read(stream_of(whole, all_parts(layout, kivi_codec(bits))), expecting(layout), &content).ok());
    for (const int64_t part : {0, 1}) {
      const std::vector<float> got = floats_of(*content, part);
      const std::vector<float>& x = numbers[static_cast<size_t>(part)];
      const auto number = [&](const std::vector<float>& of, int64_t i, int64_t k) {
        return static_cast<double>(of[static_cast<size_t>(i * channels + k)]);
      };
      for (int64_t i = exact_first_entries; i < n - exact_last_entries; i++) {
        for (int64_t k = 0; k < channels; k++) {
          // the group that it is in
          const int64_t chunk = i / chunk_entries * chunk_entries;
          const int64_t begin = std::max(chunk, exact_first_entries);
          const int64_t from = part == 0 ? begin + (i - begin) / 32 * 32 : k / 32 * 32;
          const int64_t limit = part == 0 ? std::min(chunk + chunk_entries, n - exact_last_entries) : channels;
          double least = number(x, i, k);
          double greatest = least;
          for (int64_t j = from; j < std::min(from + 32, limit); j++) {
            const double one = part == 0 ? number(x, j, k) : number(x, i, j);
            least = std::min(least, one);
            greatest = std::max(greatest, one);
          }
          const double down = std::abs(least) * std::ldexp(1.0, -10) + 1e-7;
          const double step = (greatest - least + down) / ((1 << bits) - 1) * (1 + std::ldexp(1.0, -10)) + 1e-7;
          CHECK(std::abs(number(got, i, k) - number(x, i, k)) <= step / 2 + 1e-5);
        }
      }
    }
  }
}

TEST_CASE("a codec a part: layers with few bits beside layers that are exact, and rows without whole blocks are refused by name") {
  const CacheLayout layout = layout_of(3, RowFormat::f16, 64);
  const KvContent whole = content_of(layout, 300);
  const PartCodecs codecs{nullptr, kivi_codec(2), fp8_codec(), fp8_codec(), row_codec(RowFormat::q4_0), nullptr};
  std::shared_ptr<const KvContent> content;
  int64_t bytes = 0;
  REQUIRE(read(stream_of(whole, codecs), expecting(layout), &content, &bytes).ok());
  const CacheRows& rows = layout.parts[0];
  CHECK(bytes ==
        2 * 300 * 128 + bytes_of("kivi2", rows, false, 300) + 2 * bytes_of("fp8", rows, true, 300) + bytes_of("q4_0", rows, true, 300));
  for (const int64_t part : {0, 5}) CHECK(rows_of(*content, part) == rows_of(whole, part));
  for (const int64_t part : {1, 2, 3, 4}) CHECK(rows_of(*content, part) != rows_of(whole, part));
  // nothing but nullptr is no codec at all
  CHECK(stream_of(whole, PartCodecs(6)) == stream_of(whole));
  const CacheLayout odd = layout_of(1, RowFormat::f16, 33);
  for (const char* name : {"q8_0", "q4_0"}) {
    const Status status = check_codecs(all_parts(odd, built_in_codec(name)), odd);
    CHECK(status.code == Code::invalid_argument);
    CHECK(status.message.find(std::string("rows of ") + name + " cannot have 33 channels") != std::string::npos);
  }
  CHECK(check_codecs(PartCodecs(3), layout).code == Code::invalid_argument);
  CHECK(built_in_codec("q5_1") == nullptr);
}

TEST_CASE("numbers that a codec cannot hold, and cells that are not finite, fail when they are sent") {
  const CacheLayout layout = layout_of(1, RowFormat::f32, 32);
  for (const float bad : {testing::not_a_number, testing::infinity, 1e30F}) {
    std::vector<std::vector<float>> numbers(2, std::vector<float>(200 * 32, 1.0F));
    numbers[1][10 * 32 + 3] = bad == 1e30F ? bad : 0;
    KvContent content = content_with(layout, numbers, 200);
    if (bad != 1e30F) std::memcpy(const_cast<uint8_t*>(content.segments[0].parts[1]) + (10 * 32 + 3) * 4, &bad, sizeof bad);
    for (const std::string& name : names) {
      KvWriter writer(std::make_shared<const KvContent>(content), manifest_of(layout), false, content.size(),
                      all_parts(layout, built_in_codec(name)));
      std::vector<uint8_t> out(static_cast<size_t>(writer.record_bytes(3)));
      int64_t written = 0;
      const Code code = writer.write(3, out.data(), &written).code;
      CHECK(code == (bad == 1e30F && name == "fp8" ? Code::ok : Code::non_finite));
      CHECK(writer.pass_over(3).code == code);
    }
  }
}

TEST_CASE("2. and 3. encoded streams that are cut or have a bit flipped") {
  const Fitted fitted(3);
  for (const std::string name : {"fp8", "kivi2", "kvtc"}) {
    const bool own = name == "kvtc";
    const CacheLayout layout = own ? fitted.layout : layout_of(1, RowFormat::f16, 16);
    const std::shared_ptr<const KvCodec> codec = own ? fitted.codec : built_in_codec(name);
    // all but six entries of KIVI and KVTC are exact, and those are what is looked at
    const KvContent whole = content_of(layout, name == "fp8" ? 6 : 138);
    const std::vector<uint8_t> bytes = stream_of(whole, all_parts(layout, codec));
    const auto known = [&] {
      return expecting(layout, own ? std::vector<std::shared_ptr<const KvCodec>>{codec} : std::vector<std::shared_ptr<const KvCodec>>{});
    };
    REQUIRE(code_of(bytes, known()) == Code::ok);
    const size_t stride = bytes.size() > 20000 ? 97 : 7;
    for (size_t at = 0; at < bytes.size(); at += stride) {
      CHECK(code_of({bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(at)}, known()) == Code::kv_truncated);
      std::vector<uint8_t> flipped = bytes;
      flipped[at] ^= static_cast<uint8_t>(1 << (at % 8));
      CHECK(code_of(flipped, known()) == Code::kv_checksum);
    }
  }
}

TEST_CASE("9. tiles with a right digest and nonsense in them are refused by name, or are finite numbers") {
  const Fitted fitted(3);
  std::mt19937 engine(5);
  std::vector<std::shared_ptr<const KvCodec>> codecs{fitted.codec};
  for (const std::string& name : names) codecs.push_back(built_in_codec(name));
  for (const auto& codec : codecs) {
    for (const RowFormat format : {RowFormat::f32, RowFormat::f16}) {
      const std::vector<int32_t> positions = positions_from(40, 64);
      const KvTile tile{{format, 64, 0}, 2, 4, 64, 300, positions.data()};
      const std::vector<float> numbers = numbers_of(layout_of(1, RowFormat::f32, 64), 0, 64);
      std::vector<uint8_t> rows(static_cast<size_t>(64 * tile.rows.row_bytes()));
      REQUIRE(encode(tile.rows, numbers.data(), 64, rows.data()).ok());
      std::vector<uint8_t> sound(static_cast<size_t>(codec->most_bytes(tile)));
      int64_t size = 0;
      REQUIRE(codec->encode(tile, rows.data(), sound.data(), &size).ok());
      REQUIRE(size <= static_cast<int64_t>(sound.size()));
      sound.resize(static_cast<size_t>(size));
      int64_t refused = 0;
      const auto take = [&](const std::vector<uint8_t>& bytes) {
        const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
        const Status status = codec->decode(tile, exact.data(), static_cast<int64_t>(exact.size()), rows.data());
        CHECK((status.ok() || status.code == Code::kv_format));
        if (status.ok()) CHECK(first_non_finite_row(tile.rows, rows.data(), 64) == 64);
        refused += status.ok() ? 0 : 1;
        return status.code;
      };
      CHECK(take(sound) == Code::ok);
      for (const int by : {-1, 1, -static_cast<int>(size)}) {
        std::vector<uint8_t> other = sound;
        other.resize(sound.size() + static_cast<size_t>(by), 0);
        CHECK(take(other) == Code::kv_format);
      }
      for (int round = 0; round < rounds(300); round++) {
        std::vector<uint8_t> other = sound;
        for (uint32_t k = 0; k < 1 + engine() % 20; k++)
          other[engine() % other.size()] = round % 3 == 0 ? 0xff : static_cast<uint8_t>(engine());
        take(other);
      }
      // 0xff in the scales of ggml's blocks, of f32 and of f16, is NaN
      CHECK(refused > 3);
    }
  }
}

TEST_CASE("30. who does not know the codec says so, and headers that disagree with the manifest are refused") {
  const CacheLayout layout = layout_of(1, RowFormat::f16, 64);
  const KvContent whole = content_of(layout, 20);
  const auto own = outside_codec("mine");
  KvWriter writer(std::make_shared<const KvContent>(whole), manifest_of(layout), false, whole.size(), {nullptr, own});
  CHECK(writer.outside_tiles(0, writer.records()) == std::vector<int64_t>{3});
  CHECK(writer.provide(2, {}).code == Code::invalid_argument);
  CHECK(writer.provide(3, tile_with(std::vector<uint8_t>(static_cast<size_t>(own->most_bytes(writer.tile_of(3))) + 1))).code ==
        Code::kv_limit);
  std::vector<uint8_t> scratch(1 << 16);
  int64_t written = 0;
  CHECK(writer.write(3, scratch.data(), &written).code == Code::invalid_argument);
  REQUIRE(writer.provide(3, tile_with({1, 2, 3})).ok());
  std::vector<uint8_t> bytes;
  std::vector<size_t> starts;
  for (int64_t i = 0; i < writer.records(); i++) {
    starts.push_back(bytes.size() + (i == 0 ? preamble_bytes : 0));
    const std::vector<uint8_t> one = record(writer, i);
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  const std::vector<std::shared_ptr<const KvCodec>> others{outside_codec("other")};
  const std::vector<std::shared_ptr<const KvCodec>> mine{own};
  CHECK(code_of(bytes, expecting(layout)) == Code::kv_codec);
  CHECK(code_of(bytes, expecting(layout, others)) == Code::kv_codec);
  // it waits for its numbers, and takes what is one a channel and finite
  KvReader reader(expecting(layout, mine));
  REQUIRE(reader.feed(bytes.data(), bytes.size()).ok());
  std::shared_ptr<const KvContent> content;
  KvManifest manifest;
  CHECK(reader.finish(&content, &manifest).code == Code::kv_truncated);
  REQUIRE(reader.outside() != nullptr);
  CHECK(reader.outside()->bytes == std::vector<uint8_t>{1, 2, 3});
  CHECK(reader.outside()->tile.part == 1);
  std::vector<float> numbers(20 * 64, 0.5F);
  CHECK(reader.take_decoded(numbers.data(), 20 * 64 - 1).code == Code::kv_format);
  numbers[7] = testing::infinity;
  CHECK(reader.take_decoded(numbers.data(), 20 * 64).code == Code::kv_format);
  numbers[7] = 0.25F;
  REQUIRE(reader.take_decoded(numbers.data(), 20 * 64).ok());
  CHECK(reader.outside() == nullptr);
  CHECK(reader.take_decoded(numbers.data(), 20 * 64).code == Code::invalid_argument);
  REQUIRE(reader.finish(&content, &manifest).ok());
  CHECK(manifest.codecs == std::vector<std::string>{"mine"});
  CHECK(manifest.part_codecs == std::vector<uint32_t>{0, 1});
  CHECK(floats_of(*content, 1) == numbers);
  CHECK(rows_of(*content, 0) == rows_of(whole, 0));
  // flags that say something else than the manifest: of itself, of a plain tile and of an encoded one
  for (const auto& [index, flags] : {std::pair<size_t, uint32_t>{0, 1}, {2, 3}, {3, 1}}) {
    std::vector<uint8_t> lying = bytes;
    std::memcpy(lying.data() + starts[index] + 4, &flags, sizeof flags);
    const uint64_t check = digest_of(lying.data() + starts[index], 40).low;
    std::memcpy(lying.data() + starts[index] + 40, &check, sizeof check);
    CHECK(code_of(lying, expecting(layout, mine)) == Code::kv_format);
  }
}

TEST_CASE("the manifest of codecs has one way to be written") {
  KvManifest manifest = manifest_of(layout_of(2, RowFormat::f16), 3);
  const auto code = [&] {
    const std::vector<uint8_t> bytes = write_manifest(manifest);
    KvManifest out;
    const Status status = read_manifest(bytes.data(), bytes.size(), &out);
    if (status.ok()) CHECK(out == manifest);
    for (size_t size = write_manifest(manifest_of(manifest.layout, 3)).size() + 1; status.ok() && size < bytes.size(); size++)
      CHECK(read_manifest(bytes.data(), size, &out).code == Code::kv_truncated);
    return status.code;
  };
  manifest.codecs = {"a", "b"};
  manifest.part_codecs = {0, 1, 2, 1};
  CHECK(code() == Code::ok);
  for (const std::vector<uint32_t>& wrong :
       {std::vector<uint32_t>{2, 1, 0, 0}, {1, 1, 1, 1}, {0, 0, 0, 0}, {1, 2, 3, 0}, {0xffffffff, 1, 2, 0}}) {
    manifest.part_codecs = wrong;
    CHECK(code() == Code::kv_format);
  }
  manifest.part_codecs = {0, 1, 2, 1};
  manifest.codecs = {"a", "a"};
  CHECK(code() == Code::kv_format);
  manifest.codecs = {"a", ""};
  CHECK(code() == Code::kv_limit);
  manifest.codecs = {"a", std::string(max_codec_name + 1, 'b')};
  CHECK(code() == Code::kv_limit);
  manifest.codecs = {"a", "b", "c", "d", "e"};
  CHECK(code() == Code::kv_limit);
}

TEST_CASE("20. an encoded stream that broke off is resumed, and a seal covers what was sent") {
  const Fitted fitted(2);
  const KvContent whole = content_of(fitted.layout, 700);
  const PartCodecs codecs{fitted.codec, kivi_codec(4), fp8_codec(), nullptr};
  const std::vector<uint8_t> bytes = stream_of(whole, codecs);
  KvExpectation expected = expecting(fitted.layout, {fitted.codec});
  expected.sealed = true;
  KvReader reader(expected);
  REQUIRE(reader.feed(bytes.data(), bytes.size() / 2).ok());
  const std::vector<uint8_t> held = reader.held();
  reader.restart();
  KvWriter writer(std::make_shared<const KvContent>(whole), manifest_of(fitted.layout), true, whole.size(), codecs);
  size_t sent = 0;
  for (int64_t i = 0; i < writer.records(); i++) {
    const auto byte = static_cast<size_t>(i / 8);
    if (i > 0 && i + 1 < writer.records() && byte < held.size() && (held[byte] >> (i % 8) & 1) == 1) {
      REQUIRE(writer.pass_over(i).ok());
      continue;
    }
    const std::vector<uint8_t> one = record(writer, i);
    sent += one.size();
    REQUIRE(reader.feed(one.data(), one.size()).ok());
  }
  CHECK(sent < bytes.size() * 3 / 4);
  CHECK(reader.seal() == writer.seal());
  std::shared_ptr<const KvContent> content;
  std::shared_ptr<const KvContent> once;
  KvManifest manifest;
  REQUIRE(reader.finish(&content, &manifest).ok());
  REQUIRE(read(bytes, expecting(fitted.layout, {fitted.codec}), &once).ok());
  for (const int64_t part : {0, 1, 2, 3}) CHECK(rows_of(*content, part) == rows_of(*once, part));
}

TEST_CASE("rANS: any symbols of any tables come back, in about as many bits as they are worth") {
  std::mt19937 engine(11);
  for (int round = 0; round < rounds(60); round++) {
    std::vector<SymbolTable> tables(1 + engine() % 4);
    for (SymbolTable& table : tables) {
      std::vector<int64_t> counts(1 + engine() % 255);
      for (int64_t& count : counts) count = engine() % 3 == 0 ? static_cast<int64_t>(engine() % 100000) : 0;
      REQUIRE(table.assign(frequencies_of(counts)));
    }
    std::vector<std::pair<size_t, uint32_t>> symbols(engine() % 3000);
    double bits = 0;
    for (auto& [table, symbol] : symbols) {
      table = engine() % tables.size();
      // by the frequencies mostly, and any at times
      symbol = round % 2 == 0 ? tables[table].symbol_at(engine() % SymbolTable::total)
                              : static_cast<uint32_t>(engine() % static_cast<uint32_t>(tables[table].symbols()));
      bits += SymbolTable::frequency_bits - std::log2(tables[table].frequency(symbol));
    }
    RansEncoder encoder;
    for (auto at = symbols.rbegin(); at != symbols.rend(); ++at) encoder.put(tables[at->first], at->second);
    std::vector<uint8_t> bytes(static_cast<size_t>(most_rans_bytes(static_cast<int64_t>(symbols.size()))));
    const int64_t size = encoder.finish(bytes.data());
    CHECK(size <= static_cast<int64_t>(bytes.size()));
    CHECK(static_cast<double>(size) * 8 <= bits * 1.001 + 64);
    bytes.resize(static_cast<size_t>(size));
    RansDecoder decoder(bytes.data(), size);
    for (const auto& [table, symbol] : symbols) REQUIRE(decoder.get(tables[table]) == symbol);
    CHECK(decoder.ended());
    RansDecoder less(bytes.data(), size - 2);
    for (const auto& one : symbols) less.get(tables[one.first]);
    CHECK(!less.ended());
  }
  SymbolTable table;
  CHECK(!table.assign({}));
  CHECK(!table.assign({4095}));
  CHECK(!table.assign({4096, 0}));
  CHECK(!table.assign(std::vector<uint16_t>(256, 16)));
  CHECK(table.assign({4096}));
}

TEST_CASE("KVTC: few bits carry what has few dimensions, at any position, within the budget, and the ends are exact") {
  std::vector<double> errors;
  for (const double bits : {0.25, 0.5, 1.0, 2.0, 4.0}) {
    const Fitted fitted(bits);
    const KvContent other = content_with(fitted.layout, low_rank(fitted.layout, 1500, 6, 2, 500, *fitted.rope), 1500, 500);
    double worst = 0;
    for (const KvContent* content : {fitted.sample.get(), &other}) {
      std::shared_ptr<const KvContent> got;
      int64_t bytes = 0;
      REQUIRE(
          read(stream_of(*content, all_parts(fitted.layout, fitted.codec)), expecting(fitted.layout, {fitted.codec}), &got, &bytes).ok());
      const double coded = static_cast<double>(bytes) - 4.0 * 132 * 64 * 4;
      CHECK(coded * 8 / (4 * (1500 - 132) * 64) < bits * 1.02 + 0.05);
      for (const int64_t part : {0, 1, 2, 3}) {
        worst = std::max(worst, relative_error(floats_of(*content, part), floats_of(*got, part)));
        CHECK(rows_of(got->slice(0, 4), part) == rows_of(content->slice(0, 4), part));
        CHECK(rows_of(got->slice(1500 - 128, 1500), part) == rows_of(content->slice(1500 - 128, 1500), part));
      }
    }
    errors.push_back(worst);
  }
  for (size_t i = 1; i < errors.size(); i++) CHECK(errors[i] < errors[i - 1]);
  CHECK(errors[1] < 0.06);
  CHECK(errors[2] < 0.02);
}

TEST_CASE("KVTC: budgets of 0, of parts, and numbers that are none") {
  const Fitted nothing(0);
  for (const KvtcPart& part : nothing.codec->model().parts) CHECK(part.rank() == 0);
  std::shared_ptr<const KvContent> got;
  REQUIRE(
      read(stream_of(*nothing.sample, all_parts(nothing.layout, nothing.codec)), expecting(nothing.layout, {nothing.codec}), &got).ok());
  std::shared_ptr<const Kvtc> codec;
  KvtcFit fit{{}, {nothing.rope, nullptr}, {nothing.sample}, {0, 1, 2, 3}};
  REQUIRE(fit_kvtc(fit, nullptr, &codec).ok());
  CHECK(codec->model().parts[0].rank() == 0);
  CHECK(codec->model().parts[3].rank() > codec->model().parts[1].rank());
  CHECK(codec->name() != nothing.codec->name());
  // a constant cache has its mean
  const CacheLayout layout = layout_of(1, RowFormat::f16, 32);
  const auto flat = std::make_shared<const KvContent>(content_with(layout, {2, std::vector<float>(300 * 32, 0.5F)}, 300));
  REQUIRE(fit_kvtc({{}, {nullptr}, {flat}, {4, 4}}, nullptr, &codec).ok());
  REQUIRE(read(stream_of(*flat, all_parts(layout, codec)), expecting(layout, {codec}), &got).ok());
  for (const int64_t part : {0, 1}) CHECK(rows_of(*got, part) == rows_of(*flat, part));
  const auto code = [&](const KvtcFit& wrong) { return fit_kvtc(wrong, nullptr, &codec).code; };
  CHECK(code({{}, {nullptr}, {}, {4, 4}}) == Code::invalid_argument);
  CHECK(code({{}, {nullptr}, {flat}, {4}}) == Code::invalid_argument);
  CHECK(code({{}, {}, {flat}, {4, 4}}) == Code::invalid_argument);
  CHECK(code({{}, {nullptr}, {std::make_shared<const KvContent>(flat->slice(0, 5))}, {4, 4}}) == Code::invalid_argument);
  CHECK(code({{}, {nullptr, nullptr}, {flat, nothing.sample}, {4, 4, 4, 4}}) == Code::invalid_argument);
  const std::atomic<bool> cancel = true;
  CHECK(fit_kvtc(fit, &cancel, &codec).code == Code::cancelled);
  // and a cache of another shape is none for it
  CHECK(nothing.codec->fits(layout, 0).code == Code::invalid_argument);
}

TEST_CASE("KVTC: its file comes back as it was, and what is cut, flipped or made up is refused") {
  const Fitted fitted(0.5);
  const std::vector<uint8_t>& file = fitted.codec->file();
  std::shared_ptr<const Kvtc> codec;
  REQUIRE(Kvtc::read(file.data(), file.size(), &codec).ok());
  CHECK(codec->name() == fitted.codec->name());
  CHECK(codec->file() == file);
  const KvContent content = content_of(fitted.layout, 200);
  CHECK(stream_of(content, all_parts(fitted.layout, codec)) == stream_of(content, all_parts(fitted.layout, fitted.codec)));
  for (size_t size = 0; size < file.size(); size += 1 + size / 50) {
    const std::vector<uint8_t> cut(file.begin(), file.begin() + static_cast<ptrdiff_t>(size));
    const Code code = Kvtc::read(cut.data(), cut.size(), &codec).code;
    CHECK((code == Code::kv_truncated || code == Code::kv_checksum));
  }
  for (size_t at = 0; at < file.size(); at += 1 + at / 50) {
    std::vector<uint8_t> flipped = file;
    flipped[at] ^= static_cast<uint8_t>(1 << (at % 8));
    const Code code = Kvtc::read(flipped.data(), flipped.size(), &codec).code;
    CHECK((code == Code::kv_checksum || (at < 4 && code == Code::kv_format) || (at < 8 && code == Code::kv_version)));
  }
  // with a right digest: refused, or a codec that is sound
  std::mt19937 engine(3);
  int refused = 0;
  for (int round = 0; round < rounds(500); round++) {
    std::vector<uint8_t> other = file;
    for (uint32_t k = 0; k < 1 + engine() % 4; k++)
      other[8 + engine() % std::min<size_t>(other.size() - 40, 700)] = static_cast<uint8_t>(engine());
    const Blake3Digest digest = blake3({reinterpret_cast<const std::byte*>(other.data()), other.size() - 32});
    std::copy(digest.begin(), digest.end(), other.end() - 32);
    const Status status = Kvtc::read(other.data(), other.size(), &codec);
    refused += status.ok() ? 0 : 1;
    CHECK((status.ok() || status.code == Code::kv_format || status.code == Code::kv_truncated || status.code == Code::kv_limit));
    const PartCodecs codecs = all_parts(fitted.layout, codec);
    if (!status.ok() || !check_codecs(codecs, fitted.layout).ok()) continue;
    KvWriter writer(std::make_shared<const KvContent>(content), manifest_of(fitted.layout), false, content.size(), codecs);
    for (int64_t tile = 2; tile < 6; tile++) {
      std::vector<uint8_t> out(static_cast<size_t>(writer.record_bytes(tile)));
      int64_t written = 0;
      const Code code = writer.write(tile, out.data(), &written).code;
      CHECK((code == Code::ok || code == Code::non_finite));
      CHECK(written <= static_cast<int64_t>(out.size()));
    }
  }
  CHECK(refused > rounds(500) / 5);
}

TEST_CASE("18. q4_0 moved 32 times from the copy that is kept drifts by one quantisation, and not by 32") {
  const CacheLayout layout = with_format(layout_of(1, RowFormat::f32, 64), RowFormat::q4_0);
  const CacheLayout plain = layout_of(1, RowFormat::f32, 64);
  const auto rope = rope_of(32);
  const int64_t n = 64;
  const std::vector<float> numbers = numbers_of(plain, 0, n);
  const KvContent kept = content_with(layout, {numbers, numbers}, n);
  const double once = relative_error(numbers, floats_of(kept, 0));
  const auto moved = [&](const KvContent& from, int32_t by) {
    KvContent out = from;
    std::vector<uint8_t*> targets;
    REQUIRE(allocate_segment(layout, n, &out.segments[0], &targets).ok());
    const KeyMove move{{rope}, std::vector<int32_t>(static_cast<size_t>(n), by)};
    REQUIRE(write_rows(from, layout, &move, targets, false, nullptr).ok());
    return out;
  };
  KvContent chain = kept;
  double worst = 0;
  int32_t at = 0;
  for (int32_t i = 1; i <= 32; i++) {
    const int32_t by = i % 2 == 1 ? 17 * i : -13 * i;
    at += by;
    std::vector<float> want = numbers;
    const std::vector<int32_t> shifts(static_cast<size_t>(n), at);
    rotate(*rope, shifts.data(), want.data(), n, 2);
    worst = std::max(worst, relative_error(want, floats_of(moved(kept, at), 0)));
    chain = moved(chain, by);
    if (i < 32) continue;
    // what moving the moved rows costs
    CHECK(relative_error(want, floats_of(chain, 0)) > 3 * once);
  }
  // the rounding of the copy, and that of the cache that it goes into
  CHECK(worst < 1.6 * once);
}

TEST_CASE("the format does not change: a stream of version 1 in codecs, byte by byte, and what it means") {
  CacheLayout layout = layout_of(2, RowFormat::f16, 32);
  layout.parts[3].channels = 64;
  const KvContent content = content_of(layout, 170, 3);
  const PartCodecs codecs{built_in_codec("fp8"), built_in_codec("kivi2"), built_in_codec("q8_0"), built_in_codec("kivi4")};
  std::ifstream file(std::string(LATENTWIRE_SOURCE_DIR) + "/test/fuzz/corpus/kv_stream/codecs-1", std::ios::binary);
  const std::vector<uint8_t> golden{std::istreambuf_iterator<char>(file), {}};
  CHECK(stream_of(content, codecs) == golden);
  KvReader reader(expectation_of(layout));
  REQUIRE(reader.feed(golden.data(), golden.size()).ok());
  std::shared_ptr<const KvContent> read;
  KvManifest manifest;
  REQUIRE(reader.finish(&read, &manifest).ok());
  CHECK(read->tokens == content.tokens);
  CHECK(read->positions == content.positions);
  for (int64_t part = 0; part < 4; part++) CHECK(relative_error(floats_of(content, part), floats_of(*read, part)) < 0.2);
}

}  // namespace latentwire
