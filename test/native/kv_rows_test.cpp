// Rows of caches against plain code: the blocks of ggml bit for bit in every table, and rows of every format with and without rotation.
#include "kv/rows.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/table.h"
#include "kernels_support.h"

using namespace latentwire;
using latentwire::testing::infinity;
using latentwire::testing::not_a_number;
using latentwire::testing::Numbers;

namespace {

using Bytes = std::vector<uint8_t>;

constexpr std::array formats = {RowFormat::f32, RowFormat::f16, RowFormat::bf16, RowFormat::q8_0, RowFormat::q4_0};

// Products are stored before they are added to: no compiler may make one rounding of two.
float product(float a, float b) {
  const volatile float x = a * b;
  return x;
}
float inverse(float scale) {
  const float x = 1.0F / scale;
  return std::isfinite(x) ? x : 0.0F;
}
void put_scale(float scale, Bytes* out) {
  const uint16_t half = f32_to_f16(scale);
  out->push_back(static_cast<uint8_t>(half));
  out->push_back(static_cast<uint8_t>(half >> 8));
}

// ggml's reference quantisers, as they are documented.
void plain_q8_0(const float* x, Bytes* out) {
  float most = 0;
  for (int i = 0; i < 32; i++) most = std::max(most, std::fabs(x[i]));
  const float scale = most / 127.0F;
  put_scale(scale, out);
  for (int i = 0; i < 32; i++) out->push_back(static_cast<uint8_t>(static_cast<int8_t>(std::round(product(x[i], inverse(scale))))));
}
void plain_q4_0(const float* x, Bytes* out) {
  float most = 0;
  float of_most = 0;
  for (int i = 0; i < 32; i++) {
    if (std::fabs(x[i]) <= most) continue;
    most = std::fabs(x[i]);
    of_most = x[i];
  }
  const float scale = of_most / -8.0F;
  put_scale(scale, out);
  const auto code = [&](float v) { return std::min(15, static_cast<int>(product(v, inverse(scale)) + 8.5F)); };
  for (int i = 0; i < 16; i++) out->push_back(static_cast<uint8_t>(code(x[i]) | (code(x[i + 16]) << 4)));
}

// [blocks, 32] of all kinds of numbers that can be stored.
std::vector<float> blocks_to_store() {
  Numbers numbers(7);
  std::vector<float> x;
  const auto block = [&](auto value) {
    for (int i = 0; i < 32; i++) x.push_back(value(i));
  };
  for (int k = 0; k < 300; k++) block([&](int) { return numbers.normal(); });
  for (const float scale : {1e-45F, 1e-40F, 1e-38F, 3e-38F, 1e-36F, 1e-20F, 1e-7F, 1e-3F, 1e3F, 1e5F}) {
    for (int k = 0; k < 20; k++) block([&](int) { return scale * numbers.normal(); });
  }
  block([](int) { return 0.0F; });
  block([](int) { return -0.0F; });
  block([](int i) { return i == 9 ? 1e-44F : -0.0F; });
  // the largest that f16 can scale
  block([](int i) { return i % 2 == 0 ? 65504.0F * 8 : -65504.0F * 8; });
  // the largest magnitude twice, with either sign first
  block([](int i) { return i == 3 ? 2.0F : i == 20 ? -2.0F : 0.1F * static_cast<float>(i % 5); });
  block([](int i) { return i == 3 ? -2.0F : i == 20 ? 2.0F : 0.1F * static_cast<float>(i % 5); });
  // ties of q8_0 (scale 1) and of q4_0 (scale -1 and 1), and the numbers beside them
  for (const float most : {127.0F, -127.0F, 8.0F, -8.0F}) {
    for (const float step : {0.5F, 1.5F, 2.5F, 3.5F, 6.5F}) {
      block([&](int i) {
        if (i == 0) return most;
        const float tie = i % 2 == 0 ? step : -step;
        return i % 3 == 0 ? tie : std::nextafter(tie, i % 3 == 1 ? infinity : -infinity);
      });
    }
  }
  return x;
}

Bytes plain_blocks(RowFormat format, const std::vector<float>& x) {
  Bytes out;
  for (size_t i = 0; i < x.size(); i += 32) (format == RowFormat::q8_0 ? plain_q8_0 : plain_q4_0)(x.data() + i, &out);
  return out;
}

Bytes encoded(const CacheRows& kind, const std::vector<float>& x, int64_t count) {
  Bytes out(static_cast<size_t>(count * kind.row_bytes()));
  const Status status = encode(kind, x.data(), count, out.data());
  REQUIRE_MESSAGE(status.ok(), status.message);
  return out;
}
std::vector<float> decoded(const CacheRows& kind, const Bytes& rows, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count * kind.channels));
  decode(kind, rows.data(), count, out.data());
  return out;
}
double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); i++) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(difference / size);
}

// What rounding to a format costs at most for normal numbers.
double tolerance(RowFormat format) {
  switch (format) {
    case RowFormat::f32:
      return 1e-6;
    case RowFormat::f16:
      return 1e-3;
    case RowFormat::bf16:
      return 4e-3;
    case RowFormat::q8_0:
      return 1e-2;
    default:
      return 0.12;
  }
}

}  // namespace

TEST_SUITE_BEGIN("kernels");

TEST_CASE("blocks are ggml's, bit for bit, in every table") {
  const std::vector<float> x = blocks_to_store();
  const auto blocks = static_cast<int64_t>(x.size() / 32);
  for (const Kernels& table : all_kernels()) {
    CAPTURE(isa_name(table.isa));
    const Bytes q8 = plain_blocks(RowFormat::q8_0, x);
    Bytes got(q8.size() + 1, 0xA5);
    CHECK(table.blocks.encode_q8_0(x.data(), blocks, got.data()) == blocks);
    CHECK(got.back() == 0xA5);
    got.pop_back();
    CHECK(got == q8);
    const Bytes q4 = plain_blocks(RowFormat::q4_0, x);
    got.assign(q4.size() + 1, 0xA5);
    CHECK(table.blocks.encode_q4_0(x.data(), blocks, got.data()) == blocks);
    CHECK(got.back() == 0xA5);
    got.pop_back();
    CHECK(got == q4);
  }
}

TEST_CASE("blocks are read back as scale times code in every table") {
  const std::vector<float> x = blocks_to_store();
  const auto blocks = static_cast<int64_t>(x.size() / 32);
  const Bytes q8 = plain_blocks(RowFormat::q8_0, x);
  const Bytes q4 = plain_blocks(RowFormat::q4_0, x);
  std::vector<float> want8(x.size()), want4(x.size()), got(x.size());
  const auto scale_at = [](const uint8_t* at) { return f16_to_f32(static_cast<uint16_t>(at[0] | (at[1] << 8))); };
  for (size_t b = 0; b < x.size() / 32; b++) {
    const uint8_t* eight = q8.data() + b * 34;
    const uint8_t* four = q4.data() + b * 18;
    for (size_t i = 0; i < 32; i++) {
      want8[b * 32 + i] = scale_at(eight) * static_cast<float>(static_cast<int8_t>(eight[2 + i]));
      want4[b * 32 + i] = scale_at(four) * static_cast<float>((i < 16 ? four[2 + i] & 15 : four[2 + i - 16] >> 4) - 8);
    }
  }
  for (const Kernels& table : all_kernels()) {
    CAPTURE(isa_name(table.isa));
    table.blocks.decode_q8_0(q8.data(), blocks, got.data());
    CHECK(got == want8);
    table.blocks.decode_q4_0(q4.data(), blocks, got.data());
    CHECK(got == want4);
  }
}

TEST_CASE("a block that cannot be stored is found at any place in every table") {
  for (const Kernels& table : all_kernels()) {
    CAPTURE(isa_name(table.isa));
    for (const auto& [encode_blocks, limit] :
         {std::pair{table.blocks.encode_q8_0, 65520.0F * 127}, {table.blocks.encode_q4_0, 65520.0F * 8}}) {
      Bytes out(3 * 34);
      for (const float bad : {not_a_number, -not_a_number, infinity, -infinity, std::numeric_limits<float>::max(), limit * 1.0001F}) {
        for (size_t at = 0; at < 96; at++) {
          std::vector<float> x = Numbers(at).normals(96);
          x[at] = bad;
          CHECK(encode_blocks(x.data(), 3, out.data()) == static_cast<int64_t>(at / 32));
        }
      }
      std::vector<float> x(96, 1.0F);
      x[40] = -limit * 0.9999F;
      CHECK(encode_blocks(x.data(), 3, out.data()) == 3);
      CHECK(encode_blocks(x.data(), 0, out.data()) == 0);
    }
  }
}

TEST_CASE("rows of every format come back, rotated or not") {
  Numbers numbers(11);
  for (const RowFormat format : formats) {
    CAPTURE(row_format_name(format));
    for (const int32_t rotation : {0, 1, 2, 64, 128, 256, 2048}) {
      CAPTURE(rotation);
      for (const int64_t count : {0, 1, 3, 17}) {
        const CacheRows kind{format, rotation == 2048 ? 4096 : 768, rotation};
        REQUIRE(check_rows(kind).ok());
        const std::vector<float> x = numbers.normals(count * kind.channels);
        const Bytes rows = encoded(kind, x, count);
        if (count > 0) CHECK(relative_error(decoded(kind, rows, count), x) < tolerance(format));
        CHECK(first_non_finite_row(kind, rows.data(), count) == count);
        // the rotation is the orthonormal transform of each block
        std::vector<float> turned = x;
        for (size_t i = 0; rotation != 0 && i < x.size(); i += static_cast<size_t>(rotation))
          kernels().tiles.hadamard(turned.data() + i, rotation);
        CHECK(encoded({format, kind.channels, 0}, turned, count) == rows);
      }
    }
  }
}

TEST_CASE("rows that are stored again are the same") {
  for (const RowFormat format : formats) {
    const CacheRows kind{format, 1024, 0};
    const Bytes rows = encoded(kind, Numbers(13).normals(64 * 1024), 64);
    CHECK(encoded(kind, decoded(kind, rows, 64), 64) == rows);
  }
}

TEST_CASE("plain formats round to nearest, ties to even") {
  const std::vector<float> x = blocks_to_store();
  const auto channels = static_cast<int32_t>(x.size());
  std::vector<uint16_t> want(x.size());
  Bytes rows(x.size() * 2);
  f32_to_bf16(x.data(), want.data(), x.size());
  rows = encoded({RowFormat::bf16, channels, 0}, x, 1);
  CHECK(std::memcmp(rows.data(), want.data(), rows.size()) == 0);
  std::vector<float> small = x;
  for (float& value : small) value = std::clamp(value, -65519.0F, 65519.0F);
  f32_to_f16(small.data(), want.data(), x.size());
  rows = encoded({RowFormat::f16, channels, 0}, small, 1);
  CHECK(std::memcmp(rows.data(), want.data(), rows.size()) == 0);
  const std::vector<float> same = decoded({RowFormat::f32, channels, 0}, encoded({RowFormat::f32, channels, 0}, x, 1), 1);
  CHECK(std::memcmp(same.data(), x.data(), x.size() * sizeof(float)) == 0);
}

TEST_CASE("the row that cannot be stored is named") {
  const int64_t count = 9;
  for (const RowFormat format : formats) {
    CAPTURE(row_format_name(format));
    for (const int32_t rotation : {0, 64}) {
      const CacheRows kind{format, 640, rotation};
      for (const int64_t row : {0, 3, 8}) {
        for (const int64_t channel : {0, 31, 639}) {
          for (const float bad : {not_a_number, infinity, -infinity}) {
            std::vector<float> x = Numbers(3).normals(count * kind.channels);
            x[static_cast<size_t>(row * kind.channels + channel)] = bad;
            Bytes out(static_cast<size_t>(count * kind.row_bytes()));
            const Status status = encode(kind, x.data(), count, out.data());
            CHECK(status.code == Code::non_finite);
            CHECK(status.message.starts_with("row " + std::to_string(row) + " "));
          }
        }
      }
    }
  }
  // finite in f32, but not in f16, nor as the scale of a block
  std::vector<float> x(64, 1.0F);
  x[33] = 65520.0F;
  Bytes out(64 * 4);
  CHECK(encode({RowFormat::f16, 32, 0}, x.data(), 2, out.data()).message.starts_with("row 1 "));
  CHECK(encode({RowFormat::q4_0, 32, 0}, x.data(), 2, out.data()).ok());
  CHECK(encode({RowFormat::bf16, 32, 0}, x.data(), 2, out.data()).ok());
  x[33] = std::numeric_limits<float>::max();
  for (const RowFormat format : {RowFormat::bf16, RowFormat::q8_0, RowFormat::q4_0})
    CHECK(encode({format, 32, 0}, x.data(), 2, out.data()).code == Code::non_finite);
  CHECK(encode({RowFormat::f32, 32, 0}, x.data(), 2, out.data()).ok());
}

TEST_CASE("stored rows that are not finite are found") {
  const int64_t count = 40;
  for (const RowFormat format : formats) {
    CAPTURE(row_format_name(format));
    const CacheRows kind{format, 320, 64};
    const Bytes sound = encoded(kind, Numbers(5).normals(count * kind.channels), count);
    const int64_t units = kind.channels / row_unit_columns(format);
    for (const int64_t row : {0, 1, 7, 39}) {
      for (const int64_t unit : {int64_t{0}, int64_t{3}, units - 1}) {
        Bytes rows = sound;
        const auto at = static_cast<size_t>(row * kind.row_bytes() + unit * row_unit_bytes(format));
        const Bytes bad = format == RowFormat::f32    ? Bytes{0, 0, 0x80, 0xff}
                          : format == RowFormat::bf16 ? Bytes{1, 0x7f + 0x80}
                                                      : Bytes{0, 0x7c};
        std::copy(bad.begin(), bad.end(), rows.begin() + static_cast<ptrdiff_t>(at));
        if (format == RowFormat::bf16) rows[at] = 0x80;
        CHECK(first_non_finite_row(kind, rows.data(), count) == row);
      }
    }
  }
}

TEST_CASE("rows of one kind become rows of another") {
  const int64_t count = 13;
  for (const RowFormat from_format : formats) {
    for (const RowFormat to_format : formats) {
      for (const auto& [from_rotation, to_rotation] : {std::pair{0, 0}, {0, 64}, {128, 0}, {64, 128}, {64, 64}}) {
        const CacheRows from{from_format, 384, from_rotation};
        const CacheRows to{to_format, 384, to_rotation};
        const std::vector<float> x = Numbers(9).normals(count * from.channels);
        const Bytes rows = encoded(from, x, count);
        Bytes out(static_cast<size_t>(count * to.row_bytes()));
        const Status status = transcode(from, to, rows.data(), count, out.data());
        REQUIRE_MESSAGE(status.ok(), status.message);
        if (from == to) {
          CHECK(out == rows);
        } else if (from_rotation != to_rotation) {
          CHECK(out == encoded(to, decoded(from, rows, count), count));
        } else {
          // as they lie, without a way through the rotation
          CHECK(out == encoded({to_format, 384, 0}, decoded({from_format, 384, 0}, rows, count), count));
        }
      }
    }
  }
  std::vector<float> x(64, 1e30F);
  Bytes out(64 * 2);
  const Status status =
      transcode({RowFormat::f32, 64, 0}, {RowFormat::f16, 64, 0}, reinterpret_cast<const uint8_t*>(x.data()), 1, out.data());
  CHECK(status.code == Code::non_finite);
}

TEST_CASE("kinds of rows that there are not") {
  CHECK(check_rows({RowFormat::q4_K, 256, 0}).code == Code::invalid_argument);
  CHECK(check_rows({RowFormat::q8_0, 48, 0}).code == Code::invalid_argument);
  CHECK(check_rows({RowFormat::f16, 0, 0}).code == Code::invalid_argument);
  CHECK(check_rows({RowFormat::f16, 96, 64}).code == Code::invalid_argument);
  CHECK(check_rows({RowFormat::f16, 96, 48}).code == Code::invalid_argument);
  CHECK(check_rows({RowFormat::f16, 96, -32}).code == Code::invalid_argument);
  CHECK(check_rows({RowFormat::f16, 4096, 4096}).code == Code::invalid_argument);
  CHECK(check_rows({RowFormat::f16, 96, 32}).ok());
}

TEST_SUITE_END();
