// KV caches of Qwen3-4B: 36 layers of keys and of values, 8 heads of 128 channels of f16, 4096 cells that lie anywhere.
#include <memory>
#include <vector>

#include "../memory.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::bench;

constexpr int64_t layers = 36;
constexpr int64_t parts = 2 * layers;
constexpr int64_t cells = 4096;
constexpr int64_t channels = 1024;
constexpr double cache_bytes = static_cast<double>(parts * cells * channels) * 2;

// A permutation: with runs of 64, as a cache has them that several sequences share, or of single cells.
std::vector<int32_t> places(int64_t run) {
  std::vector<int32_t> order;
  const int64_t runs = cells / run;
  for (int64_t i = 0; i < runs; i++) {
    // 1237 is prime to the powers of two
    for (int64_t j = 0; j < run; j++) order.push_back(static_cast<int32_t>(i * 1237 % runs * run + j));
  }
  return order;
}

struct Cache {
  Buffer numbers{parts * cells * channels, Dtype::f16, 1, 1};
  Buffer copy{static_cast<size_t>(cache_bytes)};
  Buffer codes{static_cast<size_t>(parts * cells * channels)};
  Buffer scales{static_cast<size_t>(parts * cells * channels / 32) * 4};
  Buffer minima{static_cast<size_t>(parts * cells * channels / 32) * 4};
  Buffer order{static_cast<size_t>(cells) * 4};
  Buffer first_bad{sizeof(int64_t)};
};

void bench_tiles(const Cache& cache, const TileFormat& format, const char* name, int64_t run) {
  const std::vector<int32_t> order = places(run);
  cache.order.upload(order.data(), order.size() * 4);
  std::vector<TilePart> tiles;
  for (int64_t p = 0; p < parts; p++) {
    const int64_t rows = p * cells;
    tiles.push_back({cache.numbers.as<uint16_t>() + rows * channels, cache.codes.as<uint8_t>() + rows * format.row_code_bytes(channels),
                     cache.scales.as<uint8_t>() + rows * format.row_scale_bytes(channels),
                     cache.minima.as<uint8_t>() + rows * format.row_scale_bytes(channels)});
  }
  TileArgs a;
  a.format = format;
  a.dtype = Dtype::f16;
  a.rows = cells;
  a.columns = channels;
  a.stride = channels;
  a.cells = cache.order.as<int32_t>();
  a.parts = tiles.data();
  a.part_count = parts;
  a.first_bad = cache.first_bad.as<int64_t>();
  Entry entry;
  entry.shape = std::string("72 x 4096 x 1024 f16, ") + name + (run > 1 ? ", runs of 64" : "");
  entry.bytes = cache_bytes +
                static_cast<double>(parts * cells *
                                    (format.row_code_bytes(channels) + format.row_scale_bytes(channels) * (format.has_minima() ? 2 : 1)));
  entry.op = "gather_quantise";
  entry.launch = [&](int, cudaStream_t stream) { return quantise(a, stream); };
  measure(entry);
  entry.op = "dequantise_scatter";
  entry.launch = [&](int, cudaStream_t stream) { return dequantise(a, stream); };
  measure(entry);
}

LATENT_BENCH(tiles) {
  const Cache cache;
  bench_tiles(cache, {TileCode::i8, TileScale::f16, 128}, "i8 f16 128", 1);
  bench_tiles(cache, {TileCode::i8, TileScale::f16, 128}, "i8 f16 128", 64);
  bench_tiles(cache, {TileCode::fp8, TileScale::f32, 128}, "fp8 f32 128", 1);
  bench_tiles(cache, {TileCode::i4, TileScale::f16, 32}, "i4 f16 32", 1);
  bench_tiles(cache, {TileCode::i4_zero, TileScale::f16, 32}, "i4_zero f16 32", 1);
}

LATENT_BENCH(cells) {
  const Cache cache;
  const std::vector<int32_t> order = places(1);
  cache.order.upload(order.data(), order.size() * 4);
  std::vector<CellPart> moves;
  for (int64_t p = 0; p < parts; p++)
    moves.push_back({cache.numbers.as<uint16_t>() + p * cells * channels, cache.copy.as<uint16_t>() + p * cells * channels});
  CellArgs a;
  a.count = cells;
  a.row_bytes = a.from_stride = a.to_stride = channels * 2;
  a.from_cells = cache.order.as<int32_t>();
  a.parts = moves.data();
  a.part_count = parts;
  Entry entry;
  entry.op = "gather";
  entry.shape = "72 x 4096 x 1024 f16";
  entry.bytes = 2 * cache_bytes;
  entry.launch = [&](int, cudaStream_t stream) { return copy_cells(a, stream); };
  measure(entry);
  a.to_cells = a.from_cells;
  a.from_cells = nullptr;
  entry.op = "scatter";
  measure(entry);
  TransposedCellArgs t;
  t.count = cells;
  t.channels = channels;
  t.channel_stride = cells;
  t.row_stride = channels;
  t.parts = moves.data();
  t.part_count = layers;
  entry.shape = "36 x 4096 x 1024 f16";
  entry.bytes = cache_bytes;
  entry.op = "gather_transposed";
  entry.launch = [&](int, cudaStream_t stream) { return copy_transposed_cells(t, stream); };
  measure(entry);
  entry.op = "scatter_transposed";
  t.scatter = true;
  measure(entry);
}

LATENT_BENCH(rope) {
  const Cache cache;
  const std::vector<int32_t> shifts(static_cast<size_t>(cells), 1000);
  std::vector<double> frequencies;
  double power = 1;
  for (int i = 0; i < 64; i++, power *= 0.8) frequencies.push_back(power);
  const Buffer shift_buffer(static_cast<size_t>(cells) * 4);
  const Buffer frequency_buffer(64 * 8);
  shift_buffer.upload(shifts.data(), shifts.size() * 4);
  frequency_buffer.upload(frequencies.data(), frequencies.size() * 8);
  std::vector<void*> rows;
  for (int64_t p = 0; p < layers; p++) rows.push_back(cache.numbers.as<uint16_t>() + 2 * p * cells * channels);
  RopeArgs a;
  a.head_dim = a.rotated = 128;
  a.frequencies = frequency_buffer.as<double>();
  a.shifts = shift_buffer.as<int32_t>();
  a.count = cells;
  a.heads = 8;
  a.stride = channels;
  a.dtype = Dtype::f16;
  a.rows = rows.data();
  a.part_count = layers;
  const Buffer workspace(rope_workspace(a));
  a.workspace = workspace.data();
  Entry entry;
  entry.op = "rope";
  entry.bytes = cache_bytes;
  entry.launch = [&](int, cudaStream_t stream) { return rope_shift(a, stream); };
  for (const RopePairs pairs : {RopePairs::neox, RopePairs::norm}) {
    a.pairs = pairs;
    entry.shape = std::string("36 x 4096 x 8 x 128 f16, ") + (pairs == RopePairs::neox ? "neox" : "norm");
    measure(entry);
  }
}

LATENT_BENCH(hadamard) {
  constexpr int64_t rows = 65536;
  const Buffer x(rows * channels, Dtype::f32, 1, 3);
  Entry entry;
  entry.op = "hadamard";
  entry.bytes = 2.0 * rows * channels * 4;
  for (const int64_t block : {64, 128, 1024}) {
    entry.shape = "65536 x 1024 f32, blocks of " + std::to_string(block);
    entry.launch = [&](int, cudaStream_t stream) { return hadamard({x.as<float>(), rows, channels, channels, block}, stream); };
    measure(entry);
  }
}

LATENT_BENCH(digest) {
  const Cache cache;
  constexpr int64_t tile_bytes = 256 * channels * 2;
  constexpr int64_t tiles = parts * cells / 256;
  const Buffer digests(tiles * sizeof(Digest128));
  Entry entry;
  entry.op = "digest";
  for (const int64_t count : {int64_t{1}, int64_t{72}, tiles}) {
    entry.shape = std::to_string(count) + " tiles of 512 KiB";
    entry.bytes = static_cast<double>(count * tile_bytes);
    entry.launch = [&](int, cudaStream_t stream) {
      return digest_tiles({cache.numbers.data(), count, tile_bytes, tile_bytes, digests.as<Digest128>()}, stream);
    };
    measure(entry);
  }
}

}  // namespace
