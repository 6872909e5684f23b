// Of rows with a bad number here and there, the first must be found, and none where all are sound.
#include <algorithm>
#include <cstring>

#include "../memory.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

struct Kind {
  RowFormat format;
  int64_t block_bytes;   // from number to number, or from scale to scale
  int64_t number_bytes;  // of what must be finite
  uint32_t exponent;
};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {{RowFormat::f32, 4, 4, 0x7F80'0000},
                                        {RowFormat::f16, 2, 2, 0x7C00},
                                        {RowFormat::bf16, 2, 2, 0x7F80},
                                        {RowFormat::q8_0, 34, 2, 0x7C00},
                                        {RowFormat::q4_0, 18, 2, 0x7C00}};
  return all;
}

void put(std::vector<uint8_t>& bytes, int64_t at, int64_t size, uint32_t bits) {
  std::memcpy(&bytes[static_cast<size_t>(at)], &bits, static_cast<size_t>(size));
}

// Any bytes, but for the numbers, which are finite; the other bytes of blocks may look like anything.
std::vector<uint8_t> sound_rows(Random& random, const Kind& kind, int64_t size) {
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.next());
  const uint32_t top = kind.exponent & ~(kind.exponent << 1);  // the lowest bit of the exponent
  for (int64_t at = 0; at < size; at += kind.block_bytes) {
    uint32_t bits = 0;
    std::memcpy(&bits, &bytes[static_cast<size_t>(at)], static_cast<size_t>(kind.number_bytes));
    if ((bits & kind.exponent) == kind.exponent) put(bytes, at, kind.number_bytes, bits & ~top);
  }
  return bytes;
}

LATENT_TEST(finite_finds_the_first_bad_row) {
  for (int round = 0; round < rounds(150); round++) {
    Random random(4100 + static_cast<uint64_t>(round));
    const Kind kind = random.of(kinds());
    const auto rows = random.of<int64_t>({0, 1, 3, 64, 257});
    const int64_t row_bytes = kind.block_bytes * random.of<int64_t>({0, 1, 3, 8, 17, 64, 200});
    const auto part_count = random.of<int64_t>({1, 2, 5, 131});
    const auto offset = random.of<size_t>({0, 0, 16, static_cast<size_t>(kind.number_bytes)});
    std::vector<Buffer<uint8_t>> buffers;
    std::vector<const void*> parts;
    int64_t wanted = no_bad_row;
    for (int64_t part = 0; part < part_count; part++) {
      std::vector<uint8_t> bytes = sound_rows(random, kind, rows * row_bytes);
      const int64_t numbers = rows * row_bytes / kind.block_bytes;
      if (numbers > 0 && random.chance(0.3)) {
        for (int64_t i = random.between(1, 3); i > 0; i--) {
          const int64_t at = random.between(0, numbers - 1) * kind.block_bytes;
          const uint32_t sign = random.chance(0.5) ? (kind.number_bytes == 4 ? 0x8000'0000U : 0x8000U) : 0;
          put(bytes, at, kind.number_bytes, kind.exponent | sign | (random.chance(0.5) ? 1U : 0U));
          wanted = std::min(wanted, part * rows + at / row_bytes);
        }
      }
      buffers.emplace_back(bytes, offset);
    }
    for (const auto& buffer : buffers) parts.push_back(buffer.data());
    const Buffer<int64_t> first_bad(std::vector<int64_t>{no_bad_row});
    const FiniteArgs args{kind.format, parts.data(), part_count, rows, row_bytes, first_bad.data()};
    const std::string what = std::to_string(part_count) + " parts of " + std::to_string(rows) + " rows of " + std::to_string(row_bytes) +
                             " bytes, format " + std::to_string(static_cast<int>(kind.format));
    run([&](cudaStream_t stream) { return find_non_finite(args, stream); }, what);
    const int64_t found = first_bad.download()[0];
    expect(found == wanted, what + ": row " + std::to_string(found) + " instead of " + std::to_string(wanted));
  }
}

LATENT_TEST(finite_refuses_rows_of_no_whole_blocks) {
  const Buffer<uint8_t> bytes(100);
  const Buffer<int64_t> first_bad(std::vector<int64_t>{no_bad_row});
  const void* part = bytes.data();
  expect(find_non_finite({RowFormat::q8_0, &part, 1, 1, 33, first_bad.data()}, nullptr) == cudaErrorInvalidValue, "33 bytes of q8_0");
  expect(find_non_finite({RowFormat::q6_K, &part, 1, 1, 34, first_bad.data()}, nullptr) == cudaErrorInvalidValue, "q6_K");
  expect(find_non_finite({RowFormat::f16, &part, 1, -1, 34, first_bad.data()}, nullptr) == cudaErrorInvalidValue, "-1 rows");
}

}  // namespace
