// Rows D1 to D3: a KV cache's worth of f16 as tiles, back, transposed, copied with its digest, and hashed by BLAKE3, against memcpy of the
// same f16 bytes on one thread.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "bench_support.h"
#include "kernels/blake3.h"
#include "kernels/stats.h"
#include "kernels/tile.h"
#include "kernels/transpose.h"

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

// [tokens][heads][128] to [heads][tokens][128] and back, and [tokens][channels] to [channels][tokens].
void measure_transposes(const Memory& from, const Memory& to) {
  if (!wanted("D1")) return;
  const Memory target = memory(bytes);
  constexpr int64_t heads = 8, tokens = rows * columns / (heads * 128), head_bytes = 256;
  const auto job = [&](const Transpose& matrix) { return [&, matrix] { require(transpose(matrix, from.get(), target.get())); }; };
  const Samples samples = interleave({
      {"heads first", job({tokens, heads, head_bytes})},
      {"tokens first", job({heads, tokens, head_bytes})},
      {"channels first", job({rows, columns, 2})},
      {"memcpy", [&] { std::memcpy(to.get(), from.get(), bytes); }},
  });
  const std::vector<Target> targets = {within(options().threads == 1 ? 1.05 : 0.65, "memcpy")};
  Row row{.name = "D1", .shape = "", .dtype = "f16", .peers = {"memcpy"}, .targets = targets, .bytes = bytes};
  const auto show = [&](const std::string& name, const std::string& what) {
    row.ours = name;
    row.shape = "transpose " + what + ", " + mib;
    print(row, samples);
  };
  show("heads first", "[t][8][128] to [8][t][128]");
  show("tokens first", "[8][t][128] to [t][8][128]");
  row.targets.clear();
  show("channels first", "[t][1024] to [1024][t]");
}

void measure_blake3(const Memory& from, const Memory& to) {
  if (!wanted("D3")) return;
  Blake3Digest digest{};
  const Samples samples = interleave({
      {"ours",
       [&] {
         digest[0] ^= blake3({reinterpret_cast<const std::byte*>(from.get()), bytes})[0];
       }},
      {"memcpy", [&] { std::memcpy(to.get(), from.get(), bytes); }},
  });
  print({.name = "D3",
         .shape = "BLAKE3, " + mib,
         .dtype = "f16",
         .peers = {"memcpy"},
         .targets = {within(2.4, "memcpy")},
         .bytes = bytes,
         .threads = 1},
        samples);
}

}  // namespace

int main(int argc, char** argv) {
  parse(argc, argv);
  const Memory from = halves(), to = memory(bytes);
  measure({"D1", "f16 to int8 of 128", {TileCode::i8, TileScale::f16, 128}, false, 1.15}, from, to);
  measure_copies(from, to);
  measure_transposes(from, to);
  measure_blake3(from, to);
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
