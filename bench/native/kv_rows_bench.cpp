// Rows D2 and D3 for what caches of llama.cpp hold: its blocks from f32 and back, from one format to another, and keys turned to other
// positions, on one thread against memcpy of the f32 bytes.
#include "bench_support.h"
#include "kv/rope.h"
#include "kv/rows.h"

using namespace latentwire;
using namespace latentwire::bench;

namespace {

constexpr int32_t head_dim = 128;
constexpr int64_t heads = 8;
constexpr int32_t channels = head_dim * heads;
constexpr int64_t rows = 16384;
constexpr size_t count = static_cast<size_t>(rows) * channels;
constexpr double bytes = 4.0 * count;

struct Job {
  const char* name;
  const char* what;
  std::function<void()> run;
};

}  // namespace

int main(int argc, char** argv) {
  parse(argc, argv);
  std::vector<float> x(count), y(count), turned(count);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  for (float& value : x) value = normal(engine);
  turned = x;
  std::vector<uint8_t> f16(count * 2), q8(count * 2), q4(count), other(count * 2);
  const CacheRows halves{RowFormat::f16, channels, 0}, eights{RowFormat::q8_0, channels, 0}, fours{RowFormat::q4_0, channels, 0};
  const CacheRows rotated{RowFormat::q8_0, channels, head_dim};
  require(encode(halves, x.data(), rows, f16.data()));
  const std::vector<int32_t> shifts(rows, 777);
  Rope rope;
  RopeParameters parameters;
  parameters.head_dim = parameters.rotated = head_dim;
  require(make_rope(parameters, &rope));

  const std::vector<Job> jobs = {
      {"D2", "f32 to q8_0", [&] { require(encode(eights, x.data(), rows, q8.data())); }},
      {"D2", "q8_0 to f32", [&] { decode(eights, q8.data(), rows, y.data()); }},
      {"D2", "f32 to q4_0", [&] { require(encode(fours, x.data(), rows, q4.data())); }},
      {"D2", "q4_0 to f32", [&] { decode(fours, q4.data(), rows, y.data()); }},
      {"D2", "f16 to rotated q8_0", [&] { require(transcode(halves, rotated, f16.data(), rows, other.data())); }},
      {"D3", "keys turned by 777 positions", [&] { rotate(rope, shifts.data(), turned.data(), rows, heads); }},
  };
  for (const Job& job : jobs) {
    if (!wanted(job.name)) continue;
    const Samples samples = interleave({{"ours", job.run}, {"memcpy", [&] { std::memcpy(y.data(), x.data(), count * sizeof(float)); }}});
    print({.name = job.name,
           .shape = std::string(job.what) + ", " + std::to_string(static_cast<size_t>(bytes) >> 20) + " MiB of f32",
           .dtype = "f32",
           .peers = {"memcpy"},
           .targets = std::strcmp(job.name, "D3") == 0 ? std::vector<Target>{within(1.35, "memcpy")} : std::vector<Target>{},
           .bytes = bytes,
           .threads = 1},
          samples);
  }
}
