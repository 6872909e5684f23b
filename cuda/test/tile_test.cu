// Tiles against a reference that finds codes by definition, and the transform against f64: codes, scales and numbers must be the same bits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "../memory.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

std::vector<TileFormat> formats() {
  std::vector<TileFormat> all;
  for (const int32_t group : {32, 64, 128}) {
    for (const TileScale scale : {TileScale::f32, TileScale::ue8m0}) all.push_back({TileCode::fp8, scale, group});
    for (const TileCode code : {TileCode::i8, TileCode::i4, TileCode::i4_zero}) {
      for (const TileScale scale : {TileScale::f32, TileScale::f16}) all.push_back({code, scale, group});
    }
  }
  return all;
}

std::string name_of(const TileFormat& f) {
  const char* codes[] = {"fp8", "i8", "i4", "i4_zero"};
  const char* scales[] = {"f32", "f16", "ue8m0"};
  return std::string(codes[static_cast<int>(f.code)]) + " " + scales[static_cast<int>(f.scale)] + " " + std::to_string(f.group);
}

// --- The reference -----------------------------------------------------------------------------------------------------------------------

double e4m3_value(int code) {
  const int exponent = code >> 3 & 15;
  const int fraction = code & 7;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return (code & 128) != 0 ? -magnitude : magnitude;
}

// The nearest code, the even one of two.
uint8_t e4m3_code(float y) {
  int best = 0;
  double distance = INFINITY;
  for (int code = 0; code < 127; code++) {
    const double d = std::fabs(std::fabs(static_cast<double>(y)) - e4m3_value(code));
    if (d < distance || (d == distance && code % 2 == 0)) {
      best = code;
      distance = d;
    }
  }
  return static_cast<uint8_t>(best | (std::signbit(y) ? 128 : 0));
}

float half_value(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

// The number as it is stored, and what that is worth; false if it is none.
bool store(TileScale type, bool up, float* value, std::vector<uint8_t>* out) {
  if (type == TileScale::f32) {
    const auto* p = reinterpret_cast<const uint8_t*>(value);
    out->insert(out->end(), p, p + 4);
    return true;
  }
  if (type == TileScale::ue8m0) {
    // the least power of two from the number on
    int exponent = -127;
    if (*value > 0) {
      exponent = -126;
      while (std::ldexp(1.0, exponent) < static_cast<double>(*value)) exponent++;
      *value = std::ldexp(1.0F, exponent);
    }
    out->push_back(static_cast<uint8_t>(exponent + 127));
    return true;
  }
  // the next half above (or below) that is not less (not more)
  uint16_t bits = __half_as_ushort(__float2half_rn(*value));
  if (up && half_value(bits) < *value) bits++;
  if (!up && half_value(bits) > *value) bits = static_cast<uint16_t>((bits & 0x8000) != 0 ? bits + 1 : bits - 1);
  const float stored = half_value(bits);
  out->push_back(static_cast<uint8_t>(bits & 255));
  out->push_back(static_cast<uint8_t>(bits >> 8));
  *value = stored;
  return std::isfinite(stored);
}

struct Coded {
  std::vector<uint8_t> codes, scales, minima;
};

// Appends a row; false if it is bad.
bool quantise_row(const TileFormat& f, const float* x, int64_t columns, Coded* out) {
  const float levels = f.code == TileCode::fp8 ? 448.0F : f.code == TileCode::i8 ? 127.0F : f.code == TileCode::i4 ? 7.0F : 15.0F;
  bool good = true;
  std::vector<int> symbols;
  for (int64_t begin = 0; begin < columns; begin += f.group) {
    const int64_t end = std::min(begin + f.group, columns);
    float range = 0;
    float least = 0;
    for (int64_t i = begin; i < end; i++) good &= std::isfinite(x[i]);
    if (!good) return false;
    if (f.has_minima()) {
      float most = x[begin];
      least = x[begin];
      for (int64_t i = begin; i < end; i++) {
        most = std::max(most, x[i]);
        if (x[i] < least || (x[i] == least && std::signbit(x[i]))) least = x[i];
      }
      good &= store(f.scale, false, &least, &out->minima);
      range = most - least;
    } else {
      for (int64_t i = begin; i < end; i++) range = std::max(range, std::fabs(x[i]));
    }
    float scale = range / levels;
    if (scale < 0x1p-127F) scale = 0;
    const float slack = levels > 127 ? 1.0625F : 1.000001F;
    good &= std::isfinite(scale * (levels * slack) + (f.has_minima() ? least : 0.0F));
    good &= store(f.scale, true, &scale, &out->scales);
    const float inverse = scale > 0 ? 1 / scale : 0;
    for (int64_t i = begin; i < end && good; i++) {
      const float y = (f.has_minima() ? x[i] - least : x[i]) * inverse;
      symbols.push_back(f.code == TileCode::fp8 ? e4m3_code(y) : static_cast<int>(std::nearbyint(y)));
    }
  }
  if (f.code_bits() == 8) {
    for (const int symbol : symbols) out->codes.push_back(static_cast<uint8_t>(symbol));
  } else {
    for (size_t i = 0; i < symbols.size(); i += 2)
      out->codes.push_back(static_cast<uint8_t>((symbols[i] & 15) | (i + 1 < symbols.size() ? (symbols[i + 1] & 15) << 4 : 0)));
  }
  return good;
}

float scale_value(TileScale type, const std::vector<uint8_t>& bytes, size_t at) {
  if (type == TileScale::ue8m0) return bytes[at] == 255 ? NAN : std::ldexp(1.0F, bytes[at] - 127);
  if (type == TileScale::f16) return half_value(static_cast<uint16_t>(bytes[2 * at] | (bytes[2 * at + 1] << 8)));
  float value;
  std::memcpy(&value, bytes.data() + 4 * at, 4);
  return value;
}

std::vector<float> dequantise_rows(const TileFormat& f, const Coded& c, int64_t rows, int64_t columns) {
  std::vector<float> y;
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t i = 0; i < columns; i++) {
      const auto group = static_cast<size_t>(row * f.groups(columns) + i / f.group);
      const size_t byte = static_cast<size_t>(row * f.row_code_bytes(columns) + i * f.code_bits() / 8);
      const int nibble = c.codes[byte] >> (i % 2 * 4) & 15;
      const float scale = scale_value(f.scale, c.scales, group);
      if (f.code == TileCode::fp8)
        y.push_back((c.codes[byte] & 127) == 127 ? NAN : static_cast<float>(e4m3_value(c.codes[byte])) * scale);
      else if (f.code == TileCode::i8)
        y.push_back(static_cast<float>(static_cast<int8_t>(c.codes[byte])) * scale);
      else if (f.code == TileCode::i4)
        y.push_back(static_cast<float>(nibble < 8 ? nibble : nibble - 16) * scale);
      else
        y.push_back(std::fma(static_cast<float>(nibble), scale, scale_value(f.scale, c.minima, group)));
    }
  }
  return y;
}

// --- Numbers in all sorts of places
// --------------------------------------------------------------------------------------------------------

std::vector<float> numbers(Random& random, int64_t n, Dtype dtype) {
  std::vector<float> x(static_cast<size_t>(n));
  float scale = 1;
  float shift = 0;
  int kind = 0;
  for (int64_t i = 0; i < n; i++) {
    if (i % 32 == 0) {
      kind = static_cast<int>(random.between(0, 7));
      scale = std::ldexp(1.0F, static_cast<int>(kind == 1 ? random.between(-140, -100) : random.between(-12, 10)));
      shift = kind == 2 ? static_cast<float>(random.normal()) * 20 : 0;
    }
    float v = static_cast<float>(random.normal()) * scale + shift;
    if (kind == 3) v = 0;
    if (kind == 4) v = random.chance(0.5) ? -0.0F : 0.0F;
    if (kind == 5) v = static_cast<float>(random.between(-254, 254)) * 0.5F;  // ties
    if (kind == 6 && random.chance(0.05)) v *= 100;
    x[static_cast<size_t>(i)] = v;
  }
  return rounded(x, dtype);
}

struct Shape {
  int64_t rows, columns, stride, slots;
  std::vector<int32_t> cells;  // empty: none
  int64_t parts;
};

Shape shape_of(Random& random) {
  Shape s;
  s.rows = random.of<int64_t>({0, 1, 2, 3, 7, 16, 33, 70});
  s.columns = random.of<int64_t>({0, 1, 7, 8, 31, 32, 33, 40, 64, 96, 128, 130, 200, 256, 1024, 1000, 333});
  s.stride = s.columns + random.of<int64_t>({0, 0, 0, 8, 3});
  s.parts = random.between(1, 3);
  s.slots = s.rows + (random.chance(0.5) ? random.between(0, 9) : 0);
  if (s.slots > s.rows || random.chance(0.3)) {
    for (int32_t i = 0; i < s.slots; i++) s.cells.push_back(i);
    for (int64_t i = s.slots - 1; i > 0; i--)
      std::swap(s.cells[static_cast<size_t>(i)], s.cells[static_cast<size_t>(random.between(0, i))]);
    s.cells.resize(static_cast<size_t>(s.rows));
  }
  return s;
}

int64_t slot_of(const Shape& s, int64_t row) { return s.cells.empty() ? row : s.cells[static_cast<size_t>(row)]; }

// The tiles of all parts on the device.
struct Tiles {
  std::vector<Buffer<uint8_t>> numbers, codes, scales, minima;
  std::vector<TilePart> parts;
  Buffer<int32_t> cells;
  Buffer<int64_t> first_bad{1};
  TileArgs args;

  Tiles(const TileFormat& f, Dtype dtype, const Shape& s, size_t offset) : cells(s.cells) {
    for (int64_t p = 0; p < s.parts; p++) {
      numbers.emplace_back(s.slots * s.stride * static_cast<int64_t>(dtype_size(dtype)), offset * dtype_size(dtype));
      codes.emplace_back(s.rows * f.row_code_bytes(s.columns), offset);
      scales.emplace_back(s.rows * f.row_scale_bytes(s.columns), offset * static_cast<size_t>(f.scale_bytes()));
      minima.emplace_back(f.has_minima() ? s.rows * f.row_scale_bytes(s.columns) : 0, offset * static_cast<size_t>(f.scale_bytes()));
    }
    for (size_t p = 0; p < numbers.size(); p++)
      parts.push_back({numbers[p].data(), codes[p].data(), scales[p].data(), f.has_minima() ? minima[p].data() : nullptr});
    args.format = f;
    args.dtype = dtype;
    args.rows = s.rows;
    args.columns = s.columns;
    args.stride = s.stride;
    args.cells = s.cells.empty() ? nullptr : cells.data();
    args.parts = parts.data();
    args.part_count = s.parts;
    args.first_bad = first_bad.data();
  }
};

std::string describe(const TileFormat& f, Dtype dtype, const Shape& s) {
  return name_of(f) + " " + latentwire::cuda::test::name_of(dtype) + " " + std::to_string(s.parts) + " x " + std::to_string(s.rows) +
         " x " + std::to_string(s.columns) + " (stride " + std::to_string(s.stride) + (s.cells.empty() ? ")" : ", cells)");
}

std::vector<uint8_t> first(const std::vector<uint8_t>& bytes, int64_t count) {
  return {bytes.begin(), bytes.begin() + static_cast<int64_t>(std::min<size_t>(bytes.size(), static_cast<size_t>(count)))};
}

void check_quantise(Random& random, const TileFormat& f, Dtype dtype) {
  const Shape s = shape_of(random);
  const std::string what = "quantise " + describe(f, dtype, s);
  Tiles tiles(f, dtype, s, random.of<size_t>({0, 0, 0, 1, 5}));
  const bool spoil = s.rows > 0 && s.columns > 0 && random.chance(0.3);
  int64_t bad = no_bad_row;
  std::vector<Coded> wanted(static_cast<size_t>(s.parts));
  std::vector<int64_t> sound(static_cast<size_t>(s.parts), s.rows);
  for (int64_t p = 0; p < s.parts; p++) {
    std::vector<float> x = numbers(random, s.slots * s.stride, dtype);
    if (spoil && random.chance(0.6)) {
      const int64_t at = slot_of(s, random.between(0, s.rows - 1)) * s.stride + random.between(0, s.columns - 1);
      x[static_cast<size_t>(at)] = random.of<float>({NAN, INFINITY, -INFINITY, dtype == Dtype::f16 ? NAN : 3e38F});
      x = rounded(x, dtype);
    }
    tiles.numbers[static_cast<size_t>(p)].upload(encode(x, dtype));
    Coded& c = wanted[static_cast<size_t>(p)];
    for (int64_t row = 0; row < s.rows; row++) {
      if (!quantise_row(f, x.data() + slot_of(s, row) * s.stride, s.columns, &c)) {
        bad = std::min(bad, p * s.rows + row);
        sound[static_cast<size_t>(p)] = row;
        break;
      }
    }
  }
  run([&](cudaStream_t stream) { return quantise(tiles.args, stream); }, what);
  const int64_t found = tiles.first_bad.download()[0];
  expect(found == bad, what + ": bad row " + std::to_string(found) + ", not " + std::to_string(bad));
  for (size_t p = 0; p < wanted.size(); p++) {
    const Coded& c = wanted[p];
    const int64_t rows = sound[p];
    const std::string part = what + ", part " + std::to_string(p);
    const int64_t codes = rows * f.row_code_bytes(s.columns);
    const int64_t scales = rows * f.row_scale_bytes(s.columns);
    expect_same(first(tiles.codes[p].download(), codes), first(c.codes, codes), part + ": codes");
    expect_same(first(tiles.scales[p].download(), scales), first(c.scales, scales), part + ": scales");
    if (f.has_minima()) expect_same(first(tiles.minima[p].download(), scales), first(c.minima, scales), part + ": minima");
  }
}

void check_dequantise(Random& random, const TileFormat& f, Dtype dtype) {
  const Shape s = shape_of(random);
  const std::string what = "dequantise " + describe(f, dtype, s);
  Tiles tiles(f, dtype, s, random.of<size_t>({0, 0, 0, 1, 5}));
  std::vector<std::vector<float>> wanted;
  for (size_t p = 0; p < static_cast<size_t>(s.parts); p++) {
    Coded c;
    const auto any = [&](size_t bytes) {
      std::vector<uint8_t> all(bytes);
      for (uint8_t& byte : all) byte = static_cast<uint8_t>(random.next());
      return all;
    };
    c.codes = any(tiles.codes[p].bytes());
    const auto factors = [&](int64_t bytes) {
      if (f.scale == TileScale::ue8m0) return any(static_cast<size_t>(bytes));
      return encode(random.normals(bytes / f.scale_bytes(), 0.1F), f.scale == TileScale::f32 ? Dtype::f32 : Dtype::f16);
    };
    c.scales = factors(tiles.scales[p].size());
    c.minima = factors(tiles.minima[p].size());
    tiles.codes[p].upload(c.codes);
    tiles.scales[p].upload(c.scales);
    tiles.minima[p].upload(c.minima);
    // what is not written stays poison
    std::vector<float> y = decode(tiles.numbers[p].download(), dtype);
    const std::vector<float> rows = rounded(dequantise_rows(f, c, s.rows, s.columns), dtype);
    for (int64_t row = 0; row < s.rows; row++)
      std::copy_n(rows.begin() + row * s.columns, s.columns, y.begin() + slot_of(s, row) * s.stride);
    wanted.push_back(std::move(y));
  }
  run([&](cudaStream_t stream) { return dequantise(tiles.args, stream); }, what);
  for (size_t p = 0; p < wanted.size(); p++) {
    const std::vector<float> y = decode(tiles.numbers[p].download(), dtype);
    size_t different = 0;
    for (size_t i = 0; i < y.size(); i++)
      different += std::memcmp(&y[i], &wanted[p][i], sizeof(float)) != 0 && !(std::isnan(y[i]) && std::isnan(wanted[p][i]));
    expect(different == 0, what + ", part " + std::to_string(p) + ": " + std::to_string(different) + " numbers differ");
  }
}

void check_hadamard(Random& random, int64_t block) {
  const int64_t rows = random.of<int64_t>({0, 1, 3, 17});
  const int64_t columns = block * random.between(0, 3);
  const int64_t stride = columns + random.of<int64_t>({0, 0, 4, 1});
  const std::string what = "hadamard of " + std::to_string(block) + ", " + std::to_string(rows) + " x " + std::to_string(columns);
  const std::vector<float> x = random.normals(rows * stride);
  Buffer<float> buffer(x, random.of<size_t>({0, 0, 4}));
  run([&](cudaStream_t stream) { return hadamard({buffer.data(), rows, columns, stride, block}, stream); }, what);
  const std::vector<float> y = buffer.download();
  std::vector<float> wanted = x;
  std::vector<double> exact(x.begin(), x.end());
  const float factor = 1 / std::sqrt(static_cast<float>(block));
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t begin = row * stride; begin < row * stride + columns; begin += block) {
      for (int64_t h = 1; h < block; h *= 2) {
        for (int64_t i = 0; i < block; i++) {
          if ((i & h) != 0) continue;
          const auto low = static_cast<size_t>(begin + i);
          const auto high = static_cast<size_t>(begin + i + h);
          const float a = wanted[low];
          const float b = wanted[high];
          wanted[low] = a + b;
          wanted[high] = a - b;
          const double c = exact[low];
          const double d = exact[high];
          exact[low] = c + d;
          exact[high] = c - d;
        }
      }
      for (int64_t i = begin; i < begin + block; i++) {
        wanted[static_cast<size_t>(i)] *= factor;
        exact[static_cast<size_t>(i)] /= std::sqrt(static_cast<double>(block));
      }
    }
  }
  expect_same(bytes_of(y), bytes_of(wanted), what);
  expect_close(y, exact, 1e-6, what);
}

LATENT_TEST(tile_quantise_gives_the_bits_of_the_cpu) {
  for (int round = 0; round < rounds(6); round++) {
    Random random(100 + static_cast<uint64_t>(round));
    for (const TileFormat& format : formats()) {
      for (const Dtype dtype : dtypes()) check_quantise(random, format, dtype);
    }
  }
}

LATENT_TEST(tile_dequantise_gives_the_bits_of_the_cpu) {
  for (int round = 0; round < rounds(6); round++) {
    Random random(200 + static_cast<uint64_t>(round));
    for (const TileFormat& format : formats()) {
      for (const Dtype dtype : dtypes()) check_dequantise(random, format, dtype);
    }
  }
}

// More parts and rows than one launch and one block of threads take.
LATENT_TEST(tile_quantise_many_parts) {
  if (reduced()) return;
  Random random(300);
  const TileFormat format{TileCode::i8, TileScale::f16, 128};
  Shape s{129, 256, 256, 129, {}, 70};
  Tiles tiles(format, Dtype::bf16, s, 0);
  std::vector<Coded> wanted(static_cast<size_t>(s.parts));
  for (size_t p = 0; p < wanted.size(); p++) {
    std::vector<float> x = numbers(random, s.rows * s.columns, Dtype::bf16);
    if (p == 67) x[static_cast<size_t>(128 * s.columns)] = NAN;
    tiles.numbers[p].upload(encode(x, Dtype::bf16));
    for (int64_t row = 0; row < s.rows; row++) quantise_row(format, x.data() + row * s.columns, s.columns, &wanted[p]);
  }
  run([&](cudaStream_t stream) { return quantise(tiles.args, stream); }, "many parts");
  expect(tiles.first_bad.download()[0] == 67 * s.rows + 128, "the bad row of many parts");
  for (size_t p = 0; p < wanted.size(); p++) {
    if (p != 67) expect_same(tiles.codes[p].download(), wanted[p].codes, "codes of part " + std::to_string(p));
  }
}

LATENT_TEST(tile_refuses_what_no_kernel_takes) {
  TileArgs args;
  args.format = {TileCode::fp8, TileScale::f16, 128};
  expect(quantise(args, nullptr) == cudaErrorInvalidValue, "fp8 with f16 scales");
  args.format = {TileCode::i8, TileScale::ue8m0, 128};
  expect(quantise(args, nullptr) == cudaErrorInvalidValue, "i8 with ue8m0 scales");
  args.format = {TileCode::i8, TileScale::f32, 48};
  expect(dequantise(args, nullptr) == cudaErrorInvalidValue, "groups of 48");
  expect(hadamard({nullptr, 1, 12, 12, 6}, nullptr) == cudaErrorInvalidValue, "blocks of 6");
  expect(hadamard({nullptr, 1, 12, 12, 8}, nullptr) == cudaErrorInvalidValue, "blocks of 8 in 12 columns");
  expect(hadamard({nullptr, 1, 2 * largest_hadamard, 2 * largest_hadamard, 2 * largest_hadamard}, nullptr) == cudaErrorInvalidValue,
         "blocks too large");
}

LATENT_TEST(tile_hadamard_gives_the_bits_of_the_cpu) {
  for (int round = 0; round < rounds(4); round++) {
    Random random(400 + static_cast<uint64_t>(round));
    for (int64_t block = 1; block <= largest_hadamard; block *= 2) check_hadamard(random, block);
  }
}

LATENT_TEST(tile_is_independent_of_timing) {
  Random random(500);
  std::vector<std::shared_ptr<Tiles>> all;
  std::vector<Case> cases;
  const Shape s{reduced() ? 40 : 700, 512, 512, reduced() ? 40 : 700, {}, 2};
  for (const TileFormat& format : {TileFormat{TileCode::fp8, TileScale::f32, 128}, TileFormat{TileCode::i4_zero, TileScale::f16, 32}}) {
    const auto tiles = std::make_shared<Tiles>(format, Dtype::f16, s, 0);
    for (auto& buffer : tiles->numbers) buffer.upload(encode(random.normals(s.rows * s.stride), Dtype::f16));
    all.push_back(tiles);
    cases.push_back({[tiles] {
                       for (auto& buffer : tiles->codes) buffer.poison();
                       for (auto& buffer : tiles->scales) buffer.poison();
                       tiles->first_bad.poison();
                     },
                     [tiles](cudaStream_t stream) { return quantise(tiles->args, stream); },
                     [tiles] {
                       std::vector<uint8_t> bytes = tiles->codes[1].download();
                       const std::vector<uint8_t> scales = tiles->scales[1].download();
                       bytes.insert(bytes.end(), scales.begin(), scales.end());
                       return bytes;
                     }});
  }
  for (const int64_t block : {64, 2048}) {
    const std::vector<float> x = random.normals(96 * 2048);
    const auto buffer = std::make_shared<Buffer<float>>(x);
    cases.push_back({[=] { buffer->upload(x); },
                     [=](cudaStream_t stream) {
                       return hadamard({buffer->data(), 96, 2048, 2048, block}, stream);
                     },
                     [=] { return bytes_of(buffer->download()); }});
  }
  expect_independent_of_timing(cases, "tiles");
}

}  // namespace
