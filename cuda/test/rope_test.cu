// Keys that move to other positions against the rotation in f64.
#include <algorithm>
#include <cmath>
#include <memory>

#include "../memory.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

struct Turn {
  RopeArgs args;
  Buffer<double> frequencies;
  Buffer<int32_t> shifts, cells;
  Buffer<uint8_t> workspace;
  std::vector<std::vector<float>> before;
  std::vector<std::vector<double>> wanted;
  std::vector<Buffer<uint8_t>> rows;
  std::vector<void*> pointers;

  void reset() {
    workspace.poison();
    for (size_t p = 0; p < rows.size(); p++) rows[p].upload(encode(before[p], args.dtype));
  }
};

std::shared_ptr<Turn> turn_of(Random& random, Dtype dtype, RopePairs pairs, int64_t count, int32_t head_dim, int32_t rotated, int64_t heads,
                              int64_t gap, int64_t parts, size_t offset) {
  std::vector<double> frequencies;
  for (int32_t i = 0; i < rotated / 2; i++) frequencies.push_back(std::pow(10000.0, -2.0 * i / rotated));
  std::vector<int32_t> shifts, cells;
  const bool one_shift = random.chance(0.5);
  const auto common = static_cast<int32_t>(random.between(-40000, 40000));
  const int64_t slots = count + random.between(0, 4);
  for (int64_t i = 0; i < count; i++)
    shifts.push_back(one_shift ? common : static_cast<int32_t>(random.chance(0.2) ? 0 : random.between(-9000, 9000)));
  for (int32_t i = 0; i < slots; i++) cells.push_back(i);
  for (int64_t i = slots - 1; i > 0; i--) std::swap(cells[static_cast<size_t>(i)], cells[static_cast<size_t>(random.between(0, i))]);
  cells.resize(static_cast<size_t>(count));
  const bool indexed = slots > count;
  RopeArgs args;
  args.pairs = pairs;
  args.head_dim = head_dim;
  args.rotated = rotated;
  args.count = count;
  args.heads = heads;
  args.stride = heads * head_dim + gap;
  args.dtype = dtype;
  args.part_count = parts;
  auto turn = std::make_shared<Turn>(Turn{args,
                                          Buffer<double>(frequencies),
                                          Buffer<int32_t>(shifts),
                                          Buffer<int32_t>(cells),
                                          Buffer<uint8_t>(static_cast<int64_t>(rope_workspace(args))),
                                          {},
                                          {},
                                          {},
                                          {}});
  for (int64_t p = 0; p < parts; p++) {
    turn->before.push_back(rounded(random.normals(slots * args.stride), dtype));
    std::vector<double> after(turn->before.back().begin(), turn->before.back().end());
    for (int64_t i = 0; i < count; i++) {
      const int64_t cell = indexed ? cells[static_cast<size_t>(i)] : i;
      for (int64_t head = 0; head < heads; head++) {
        for (int32_t k = 0; k < rotated / 2; k++) {
          const int64_t base = cell * args.stride + head * head_dim;
          const auto a = static_cast<size_t>(base + (pairs == RopePairs::neox ? k : 2 * k));
          const auto b = static_cast<size_t>(base + (pairs == RopePairs::neox ? k + rotated / 2 : 2 * k + 1));
          const double angle = frequencies[static_cast<size_t>(k)] * shifts[static_cast<size_t>(i)];
          const double x = after[a];
          const double y = after[b];
          after[a] = x * std::cos(angle) - y * std::sin(angle);
          after[b] = x * std::sin(angle) + y * std::cos(angle);
        }
      }
    }
    turn->wanted.push_back(std::move(after));
    turn->rows.emplace_back(slots * args.stride * static_cast<int64_t>(dtype_size(dtype)), offset * dtype_size(dtype));
  }
  for (const auto& buffer : turn->rows) turn->pointers.push_back(buffer.data());
  turn->args.frequencies = turn->frequencies.data();
  turn->args.shifts = turn->shifts.data();
  turn->args.cells = indexed ? turn->cells.data() : nullptr;
  turn->args.rows = turn->pointers.data();
  turn->args.workspace = turn->workspace.data();
  turn->reset();
  return turn;
}

LATENT_TEST(rope_turns_keys) {
  for (int round = 0; round < rounds(16); round++) {
    Random random(1000 + static_cast<uint64_t>(round));
    for (const Dtype dtype : dtypes()) {
      for (const RopePairs pairs : {RopePairs::neox, RopePairs::norm}) {
        const auto head_dim = random.of<int32_t>({2, 10, 64, 80, 128, 128});
        const int32_t rotated = random.chance(0.7) ? head_dim : static_cast<int32_t>(2 * random.between(1, head_dim / 2));
        const auto heads = random.of<int64_t>({0, 1, 3, 8});
        const auto count = random.of<int64_t>({0, 1, 5, 130});
        const auto turn = turn_of(random, dtype, pairs, count, head_dim, rotated, heads, random.of<int64_t>({0, 0, 8, 3}),
                                  random.between(1, 3), random.of<size_t>({0, 0, 1}));
        const std::string what = std::string(pairs == RopePairs::neox ? "neox " : "norm ") + name_of(dtype) + " " + std::to_string(count) +
                                 " x " + std::to_string(heads) + " x " + std::to_string(rotated) + " of " + std::to_string(head_dim);
        run([&](cudaStream_t stream) { return rope_shift(turn->args, stream); }, what);
        for (size_t p = 0; p < turn->rows.size(); p++)
          expect_close(decode(turn->rows[p].download(), dtype), turn->wanted[p], dtype == Dtype::f32 ? 1e-6 : 4e-3,
                       what + ", part " + std::to_string(p));
      }
    }
  }
}

// Back and forth: f32 keys return to where they were.
LATENT_TEST(rope_turns_back) {
  Random random(1100);
  const auto turn = turn_of(random, Dtype::f32, RopePairs::neox, 40, 128, 128, 4, 0, 1, 0);
  run([&](cudaStream_t stream) { return rope_shift(turn->args, stream); }, "there");
  std::vector<int32_t> shifts = turn->shifts.download();
  for (int32_t& shift : shifts) shift = -shift;
  turn->shifts.upload(shifts);
  run([&](cudaStream_t stream) { return rope_shift(turn->args, stream); }, "back");
  expect_close(decode(turn->rows[0].download(), Dtype::f32), {turn->before[0].begin(), turn->before[0].end()}, 1e-6, "there and back");
}

LATENT_TEST(rope_refuses_what_no_kernel_takes) {
  RopeArgs args;
  args.head_dim = 8;
  args.rotated = 10;
  expect(rope_shift(args, nullptr) == cudaErrorInvalidValue, "more rotated than there are");
  args.rotated = 3;
  expect(rope_shift(args, nullptr) == cudaErrorInvalidValue, "an odd number rotated");
  args.rotated = 8;
  args.count = -1;
  expect(rope_shift(args, nullptr) == cudaErrorInvalidValue, "a negative count");
}

LATENT_TEST(rope_is_independent_of_timing) {
  Random random(1200);
  std::vector<Case> cases;
  for (int i = 0; i < 4; i++) {
    const auto turn = turn_of(random, i % 2 == 0 ? Dtype::f16 : Dtype::bf16, i < 2 ? RopePairs::neox : RopePairs::norm,
                              reduced() ? 20 : 300, 128, 128, 8, 0, 2, 0);
    cases.push_back({[turn] { turn->reset(); }, [turn](cudaStream_t stream) { return rope_shift(turn->args, stream); },
                     [turn] { return turn->rows[1].download(); }});
  }
  expect_independent_of_timing(cases, "rope");
}

}  // namespace
