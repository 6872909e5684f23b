// Cells that move must arrive as they were, and nothing else may change.
#include <algorithm>
#include <memory>

#include "../memory.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

std::vector<int32_t> some_cells(Random& random, int64_t count, int64_t slots) {
  std::vector<int32_t> cells;
  for (int32_t i = 0; i < slots; i++) cells.push_back(i);
  for (int64_t i = slots - 1; i > 0; i--) std::swap(cells[static_cast<size_t>(i)], cells[static_cast<size_t>(random.between(0, i))]);
  cells.resize(static_cast<size_t>(count));
  return cells;
}
std::vector<uint8_t> noise(Random& random, int64_t bytes) {
  std::vector<uint8_t> all(static_cast<size_t>(bytes));
  for (uint8_t& byte : all) byte = static_cast<uint8_t>(random.next());
  return all;
}

struct Move {
  CellArgs args;
  std::vector<Buffer<uint8_t>> from, to;
  std::vector<std::vector<uint8_t>> before, wanted;
  std::vector<CellPart> parts;
  Buffer<int32_t> from_cells, to_cells;

  Move(Random& random, int64_t count, int64_t row_bytes, int64_t part_count, size_t offset, int64_t gap) {
    const int64_t slots = count + random.between(0, 5);
    const bool gather = random.chance(0.7);
    const bool scatter = random.chance(0.5);
    const std::vector<int32_t> sources = some_cells(random, count, slots);
    const std::vector<int32_t> targets = some_cells(random, count, slots);
    from_cells = Buffer<int32_t>(sources);
    to_cells = Buffer<int32_t>(targets);
    args.count = count;
    args.row_bytes = row_bytes;
    args.from_stride = row_bytes + gap;
    args.to_stride = row_bytes + (random.chance(0.5) ? gap : 0);
    args.from_cells = gather ? from_cells.data() : nullptr;
    args.to_cells = scatter ? to_cells.data() : nullptr;
    for (int64_t p = 0; p < part_count; p++) {
      before.push_back(noise(random, slots * args.from_stride));
      from.emplace_back(before.back(), offset);
      to.emplace_back(slots * args.to_stride, random.chance(0.5) ? offset : 0);
      std::vector<uint8_t> after(to.back().bytes(), 0xFF);
      for (int64_t i = 0; i < count; i++) {
        const int64_t source = gather ? sources[static_cast<size_t>(i)] : i;
        const int64_t target = scatter ? targets[static_cast<size_t>(i)] : i;
        std::copy_n(before.back().begin() + source * args.from_stride, row_bytes, after.begin() + target * args.to_stride);
      }
      wanted.push_back(std::move(after));
    }
    for (size_t p = 0; p < from.size(); p++) parts.push_back({from[p].data(), to[p].data()});
    args.parts = parts.data();
    args.part_count = part_count;
  }
};

LATENT_TEST(cells_copy_rows) {
  for (int round = 0; round < rounds(60); round++) {
    Random random(600 + static_cast<uint64_t>(round));
    const auto count = random.of<int64_t>({0, 1, 2, 5, 64, 257});
    const auto row_bytes = random.of<int64_t>({0, 1, 2, 6, 16, 18, 34, 48, 128, 1000, 2048});
    const Move move(random, count, row_bytes, random.of<int64_t>({1, 2, 5}), random.of<size_t>({0, 0, 1, 2, 4, 16}),
                    random.of<int64_t>({0, 0, 1, 2, 16, 32}));
    const std::string what = "copy " + std::to_string(count) + " cells of " + std::to_string(row_bytes) + " bytes";
    run([&](cudaStream_t stream) { return copy_cells(move.args, stream); }, what);
    for (size_t p = 0; p < move.to.size(); p++) expect_same(move.to[p].download(), move.wanted[p], what + ", part " + std::to_string(p));
  }
}

LATENT_TEST(cells_copy_more_parts_than_a_launch_takes) {
  Random random(700);
  const Move move(random, 3, 32, 150, 0, 0);
  run([&](cudaStream_t stream) { return copy_cells(move.args, stream); }, "150 parts");
  for (size_t p = 0; p < move.to.size(); p++) expect_same(move.to[p].download(), move.wanted[p], "part " + std::to_string(p) + " of 150");
}

template <class Unit>
void check_transposed(Random& random, bool scatter) {
  const auto count = random.of<int64_t>({0, 1, 3, 63, 64, 65, 200});
  const auto channels = random.of<int64_t>({0, 1, 8, 64, 70, 128, 333});
  const int64_t slots = count + random.between(0, 20);
  const std::vector<int32_t> cells = some_cells(random, count, slots);
  const bool indexed = slots > count || random.chance(0.5);
  const Buffer<int32_t> cell_buffer(cells);
  TransposedCellArgs args;
  args.count = count;
  args.channels = channels;
  args.element_bytes = sizeof(Unit);
  args.channel_stride = slots + random.between(0, 3);
  args.row_stride = channels + random.between(0, 3);
  args.cells = indexed ? cell_buffer.data() : nullptr;
  args.scatter = scatter;
  args.part_count = random.between(1, 3);
  const std::string what = std::string(scatter ? "scatter" : "gather") + " transposed " + std::to_string(count) + " x " +
                           std::to_string(channels) + " of " + std::to_string(sizeof(Unit)) + " bytes";
  std::vector<Buffer<Unit>> caches, rows;
  std::vector<std::vector<Unit>> wanted;
  std::vector<CellPart> parts;
  for (int64_t p = 0; p < args.part_count; p++) {
    std::vector<Unit> from(static_cast<size_t>(scatter ? count * args.row_stride : channels * args.channel_stride));
    for (Unit& unit : from) unit = static_cast<Unit>(random.next());
    std::vector<Unit> to(static_cast<size_t>(scatter ? channels * args.channel_stride : count * args.row_stride),
                         static_cast<Unit>(~Unit{0}));
    for (int64_t i = 0; i < count; i++) {
      for (int64_t channel = 0; channel < channels; channel++) {
        const auto cache = static_cast<size_t>(channel * args.channel_stride + (indexed ? cells[static_cast<size_t>(i)] : i));
        const auto row = static_cast<size_t>(i * args.row_stride + channel);
        if (scatter)
          to[cache] = from[row];
        else
          to[row] = from[cache];
      }
    }
    (scatter ? rows : caches).emplace_back(from);
    (scatter ? caches : rows).emplace_back(static_cast<int64_t>(to.size()));
    wanted.push_back(std::move(to));
  }
  for (size_t p = 0; p < wanted.size(); p++)
    parts.push_back({scatter ? rows[p].data() : caches[p].data(), scatter ? caches[p].data() : rows[p].data()});
  args.parts = parts.data();
  run([&](cudaStream_t stream) { return copy_transposed_cells(args, stream); }, what);
  for (size_t p = 0; p < wanted.size(); p++)
    expect_same(bytes_of((scatter ? caches : rows)[p].download()), bytes_of(wanted[p]), what + ", part " + std::to_string(p));
}

LATENT_TEST(cells_copy_transposed_values) {
  for (int round = 0; round < rounds(24); round++) {
    Random random(800 + static_cast<uint64_t>(round));
    check_transposed<uint16_t>(random, round % 2 == 0);
    check_transposed<uint32_t>(random, round % 2 == 0);
  }
}

LATENT_TEST(cells_are_independent_of_timing) {
  Random random(900);
  std::vector<Case> cases;
  for (int i = 0; i < 4; i++) {
    const auto move = std::make_shared<Move>(random, reduced() ? 50 : 900, 1024, 3, 0, 16);
    cases.push_back({[move] {
                       for (auto& buffer : move->to) buffer.poison();
                     },
                     [move](cudaStream_t stream) { return copy_cells(move->args, stream); }, [move] { return move->to[2].download(); }});
  }
  expect_independent_of_timing(cases, "cells");
}

}  // namespace
