// Tiles against memcpy of the same source bytes, each round interleaved: a KV cache's worth of f16 (D1 to D3 of the performance targets).
// Prints one JSON line a job; times are medians in ms, the ratio is the median of the rounds' ratios.
//
//   build/tile_bench [MiB of f16, default 128] [rounds, default 15] [only jobs with this text]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/stats.h"
#include "kernels/table.h"
#include "kernels/tile.h"

using namespace latentwire;

namespace {

double milliseconds(const std::function<void()>& job) {
  const auto begin = std::chrono::steady_clock::now();
  job();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t mebibytes = argc > 1 ? std::atoll(argv[1]) : 128;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 15;
  const int64_t columns = 1024;
  const int64_t rows = (mebibytes << 20) / (2 * columns);
  const auto n = static_cast<size_t>(rows * columns);
  // no zeros: zeros are fast
  std::vector<uint16_t> f16(n), copy(n, 1);
  uint64_t state = 1;
  for (uint16_t& x : f16) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    x = static_cast<uint16_t>(0x3000U + (state >> 52) + ((state >> 33) & 1U) * 0x8000U);
  }
  char* codes = static_cast<char*>(std::aligned_alloc(64, n));
  std::memset(codes, 1, n);
  std::vector<char> scales(n / 4, 1), minima(n / 4, 1);

  struct Job {
    const char* name;
    const char* what;
    TileFormat format;
    bool back;
  };
  const std::vector<Job> jobs = {
      {"D1", "f16 -> int8 g128", {TileCode::i8, TileScale::f16, 128}, false},
      {"D2", "f16 -> fp8 ue8m0", {TileCode::fp8, TileScale::ue8m0, 128}, false},
      {"D2", "f16 -> fp8 f32", {TileCode::fp8, TileScale::f32, 128}, false},
      {"D2", "f16 -> int4 g32", {TileCode::i4, TileScale::f16, 32}, false},
      {"D2", "f16 -> int4 zero g32", {TileCode::i4_zero, TileScale::f16, 32}, false},
      {"D2", "int8 g128 -> f16", {TileCode::i8, TileScale::f16, 128}, true},
      {"D2", "fp8 -> f16", {TileCode::fp8, TileScale::f32, 128}, true},
      {"D2", "int4 g32 -> f16", {TileCode::i4, TileScale::f16, 32}, true},
      {"D2", "int4 zero g32 -> f16", {TileCode::i4_zero, TileScale::f16, 32}, true},
  };
  char* numbers = static_cast<char*>(std::aligned_alloc(64, 2 * n));
  std::memset(numbers, 1, 2 * n);
  for (const Job& job : jobs) {
    if (argc > 3 && std::strstr(job.what, argv[3]) == nullptr) continue;
    TileRows t{rows,
               columns,
               columns,
               job.format.group == 128 ? 7 : 5,
               job.format.scale,
               job.format.row_code_bytes(columns),
               job.format.groups(columns),
               true};
    const auto code = static_cast<size_t>(job.format.code);
    const TileKernels& k = kernels().tiles;
    // one thread: the kernels themselves
    const auto run = [&] {
      if (job.back)
        k.dequantise[code][1](t, reinterpret_cast<uint8_t*>(codes), scales.data(), minima.data(), numbers);
      else if (k.quantise[1][code](t, f16.data(), reinterpret_cast<uint8_t*>(codes), scales.data(), minima.data()) != rows)
        std::abort();
    };
    if (job.back && k.quantise[1][code](t, f16.data(), reinterpret_cast<uint8_t*>(codes), scales.data(), minima.data()) != rows)
      std::abort();
    run();
    std::vector<double> ours, peer, ratio;
    for (int round = 0; round < rounds; round++) {
      ours.push_back(milliseconds(run));
      peer.push_back(milliseconds([&] { std::memcpy(copy.data(), f16.data(), 2 * n); }));
      ratio.push_back(ours.back() / peer.back());
    }
    std::printf(R"({"name":"%s","what":"%s","isa":"%s","bytes":%lld,"ms":%.3f,"peers":{"memcpy":%.3f},"ratio":%.3f})"
                "\n",
                job.name, job.what, std::string(isa_name(kernels().isa)).c_str(), static_cast<long long>(2 * n), median(ours), median(peer),
                median(ratio));
    std::fflush(stdout);
  }
  if (argc <= 3 || std::strstr("copy + xxh3-128 + finite", argv[3]) != nullptr) {
    Digest128 digest;
    bool finite = false;
    std::vector<double> ours, peer, ratio;
    for (int round = 0; round < rounds; round++) {
      ours.push_back(milliseconds([&] {
        if (!copy_and_digest(f16.data(), numbers, 2 * n, Dtype::f16, &digest, &finite).ok() || !finite) std::abort();
      }));
      peer.push_back(milliseconds([&] { std::memcpy(copy.data(), f16.data(), 2 * n); }));
      ratio.push_back(ours.back() / peer.back());
    }
    std::printf(R"({"name":"D3","what":"copy + xxh3-128 + finite","bytes":%lld,"ms":%.3f,"peers":{"memcpy":%.3f},"ratio":%.3f})"
                "\n",
                static_cast<long long>(2 * n), median(ours), median(peer), median(ratio));
  }
  std::free(codes);
  std::free(numbers);
  return copy[n / 2] == f16[n / 2] ? 0 : 1;
}
