// Rows D1 to D3: a KV cache's worth of f16 as tiles, back, and copied with its digest, against memcpy of the same f16 bytes.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "bench_support.h"
#include "kernels/stats.h"
#include "kernels/tile.h"

using namespace latentwire;
using namespace latentwire::bench;

namespace {

constexpr int64_t columns = 1024;
constexpr int64_t rows = int64_t{65536};
constexpr size_t count = static_cast<size_t>(rows * columns);
constexpr size_t bytes = 2 * count;
const std::string mib = std::to_string(bytes >> 20) + " MiB of f16";

struct Free {
  void operator()(void* memory) const noexcept { std::free(memory); }
};
using Memory = std::unique_ptr<char, Free>;

// Aligned and present: page faults are not what is measured.
Memory memory(size_t size) {
  Memory out(static_cast<char*>(std::aligned_alloc(64, size)));
  std::memset(out.get(), 1, size);
  return out;
}

// Finite, of either sign, of many sizes.
Memory halves() {
  Memory out = memory(bytes);
  auto* x = reinterpret_cast<uint16_t*>(out.get());
  uint64_t state = 1;
  for (size_t i = 0; i < count; i++) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    x[i] = static_cast<uint16_t>(0x3000U + (state >> 52) + ((state >> 33) & 1U) * 0x8000U);
  }
  return out;
}

struct Job {
  const char* name;
  const char* what;
  TileFormat format;
  bool back;
  double limit;  // in times of memcpy
};

void measure(const Job& job, const Memory& from, const Memory& to) {
  if (!wanted(job.name)) return;
  const Memory codes = memory(count), scales = memory(count / 8), minima = memory(count / 8), numbers = memory(bytes);
  const Rows x{Dtype::f16, from.get(), rows, columns, 0};
  const Tiles tiles{reinterpret_cast<uint8_t*>(codes.get()), scales.get(), minima.get()};
  const auto encode = [&] { require(quantise(x, columns, job.format, tiles)); };
  const auto decode = [&] {
    require(dequantise(job.format, {tiles.codes, tiles.scales, tiles.minima}, rows, columns, Dtype::f16, numbers.get(), columns));
  };
  if (job.back) encode();
  std::vector<Case> cases = {{"ours", encode}, {"memcpy", [&] { std::memcpy(to.get(), from.get(), bytes); }}};
  if (job.back) cases[0].run = decode;
  const Samples samples = interleave(cases);
  print({.name = job.name,
         .shape = std::string(job.what) + ", " + mib,
         .dtype = "f16",
         .peers = {"memcpy"},
         .targets = {within(job.limit, "memcpy")},
         .bytes = job.back ? static_cast<double>(rows * job.format.row_bits(columns) / 8) : static_cast<double>(bytes)},
        samples);
}

void measure_copies(const Memory& from, const Memory& to) {
  if (!wanted("D1") && !wanted("D3")) return;
  const Memory target = memory(bytes);
  const StatsKernels& stats = kernels().stats;
  Digest128 digest;
  bool finite = false;
  Samples samples = interleave({
      {"copy",
       [&] {
         stats.stream_copy(from.get(), target.get(), static_cast<int64_t>(bytes));
         stats.fence();
       }},
      {"digest", [&] { require(copy_and_digest(from.get(), target.get(), bytes, Dtype::f16, &digest, &finite)); }},
      {"memcpy", [&] { std::memcpy(to.get(), from.get(), bytes); }},
      {"XXH3", [&] { digest.low ^= XXH3_128bits(to.get(), bytes).low64; }},
  });
  samples.sum("memcpy, then XXH3", {"memcpy", "XXH3"});
  Row row{.name = "D1",
          .shape = "copy, " + mib,
          .dtype = "f16",
          .peers = {"memcpy"},
          .targets = {within(1.05, "memcpy")},
          .bytes = bytes,
          .ours = "copy",
          .threads = 1};
  if (wanted(row.name)) print(row, samples);
  row.name = "D3";
  row.shape = "copy, XXH3-128 and a look for NaN, " + mib;
  row.peers = {"memcpy", "memcpy, then XXH3"};
  row.targets = {within(1.45, "memcpy")};
  row.ours = "digest";
  if (wanted(row.name)) print(row, samples);
}

}  // namespace

int main(int argc, char** argv) {
  parse(argc, argv);
  const Memory from = halves(), to = memory(bytes);
  measure({"D1", "f16 to int8 of 128", {TileCode::i8, TileScale::f16, 128}, false, 1.15}, from, to);
  measure_copies(from, to);
  const std::vector<Job> others = {
      {"D2", "f16 to fp8 of 128, scales ue8m0", {TileCode::fp8, TileScale::ue8m0, 128}, false, 1.2},
      {"D2", "f16 to fp8 of 128, scales f32", {TileCode::fp8, TileScale::f32, 128}, false, 1.2},
      {"D2", "f16 to int4 of 32", {TileCode::i4, TileScale::f16, 32}, false, 1.35},
      {"D2", "f16 to int4 of 32 with a minimum", {TileCode::i4_zero, TileScale::f16, 32}, false, 1.35},
      {"D2", "int8 of 128 to f16", {TileCode::i8, TileScale::f16, 128}, true, 1.25},
      {"D2", "fp8 of 128 to f16", {TileCode::fp8, TileScale::f32, 128}, true, 1.25},
      {"D2", "int4 of 32 to f16", {TileCode::i4, TileScale::f16, 32}, true, 1.25},
      {"D2", "int4 of 32 with a minimum to f16", {TileCode::i4_zero, TileScale::f16, 32}, true, 1.25},
  };
  for (const Job& job : others) measure(job, from, to);
}
