// Contents: cutting and joining without a copy, the order of cells, conversion between formats, and keys that move while they are written.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "kv/llama_state.h"
#include "kv/rope.h"
#include "kv_support.h"

namespace latentwire {
namespace {

using namespace test;

std::vector<float> decoded(const KvContent& content, int64_t part) {
  const CacheRows& kind = content.layout.parts[static_cast<size_t>(part)];
  const std::vector<uint8_t> rows = rows_of(content, part);
  std::vector<float> numbers(static_cast<size_t>(content.size() * kind.channels));
  decode(kind, rows.data(), content.size(), numbers.data());
  return numbers;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  REQUIRE(got.size() == want.size());
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < got.size(); i++) {
    error += std::pow(static_cast<double>(got[i]) - want[i], 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  return size == 0 ? error : std::sqrt(error / size);
}

}  // namespace

TEST_CASE("slices and joins hold the same entries as the whole, at any cut") {
  const KvContent whole = content_of(layout_of(2, RowFormat::f16), 23, 100);
  for (const auto& [from, to] : {std::pair<int64_t, int64_t>{0, 23}, {0, 0}, {5, 5}, {0, 7}, {4, 5}, {9, 23}, {22, 23}}) {
    const KvContent cut = whole.slice(from, to);
    CHECK(cut.size() == to - from);
    CHECK(cut.bytes() == cut.size() * whole.layout.position_bytes());
    CHECK(cut.tokens == std::vector<int32_t>(whole.tokens.begin() + from, whole.tokens.begin() + to));
    CHECK(cut.latents() == std::count(cut.tokens.begin(), cut.tokens.end(), row_entry));
    for (int64_t part = 0; part < 4; part++) {
      const std::vector<uint8_t> all = rows_of(whole, part);
      const auto row_bytes = whole.layout.parts[static_cast<size_t>(part)].row_bytes();
      CHECK(rows_of(cut, part) == std::vector<uint8_t>(all.begin() + from * row_bytes, all.begin() + to * row_bytes));
    }
    KvContent again;
    KvContent behind;
    REQUIRE(whole.slice(0, from).concat(cut, &again).ok());
    REQUIRE(again.concat(whole.slice(to, 23), &behind).ok());
    CHECK(behind.tokens == whole.tokens);
    CHECK(behind.rows == whole.rows);
    CHECK(behind.positions == whole.positions);
    for (int64_t part = 0; part < 4; part++) CHECK(rows_of(behind, part) == rows_of(whole, part));
    // a cut of what was joined goes across its seams
    const KvContent middle = behind.slice(3, 20);
    for (int64_t part = 0; part < 4; part++) CHECK(rows_of(middle, part) == rows_of(whole.slice(3, 20), part));
  }
  KvContent out;
  CHECK(whole.concat(content_of(layout_of(2, RowFormat::q8_0), 2), &out).code == Code::kv_layout);
}

TEST_CASE("15. cells in any order become rows in the order of their positions") {
  const KvContent whole = content_of(layout_of(2, RowFormat::q8_0), 9);
  const std::vector<int32_t> cells = {30, 2, 11, 4, 25, 7, 1, 19, 3};
  // a state whose parts lie as the segment's
  const uint8_t* start = whole.segments.front().parts.front();
  StateSummary summary{{cells}, {}};
  for (const uint8_t* part : whole.segments.front().parts) summary.parts.push_back(static_cast<size_t>(part - start));
  const std::shared_ptr<const uint8_t> owner(whole.segments.front().owner, start);
  KvSegment sorted;
  REQUIRE(segment_of_state(whole.layout, {}, summary, owner, &sorted).ok());
  std::vector<int32_t> order(cells.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return cells[static_cast<size_t>(a)] < cells[static_cast<size_t>(b)]; });
  for (size_t part = 0; part < 4; part++) {
    const auto row_bytes = static_cast<size_t>(whole.layout.parts[part].row_bytes());
    for (size_t i = 0; i < cells.size(); i++) {
      const uint8_t* want = whole.segments.front().parts[part] + static_cast<size_t>(order[i]) * row_bytes;
      CHECK(std::memcmp(sorted.parts[part] + i * row_bytes, want, row_bytes) == 0);
    }
  }
}

TEST_CASE("8. every format becomes every other, within the error of the coarser one; the same one keeps its bits") {
  struct Kind {
    RowFormat format;
    int32_t rotation;
    double error;
  };
  const Kind kinds[] = {{RowFormat::f32, 0, 0},      {RowFormat::f16, 0, 0.001},  {RowFormat::bf16, 0, 0.004}, {RowFormat::q8_0, 0, 0.01},
                        {RowFormat::q8_0, 64, 0.01}, {RowFormat::q4_0, 64, 0.12}, {RowFormat::q4_0, 0, 0.12}};
  for (const Kind& from : kinds) {
    for (const Kind& to : kinds) {
      const KvContent source = content_of(layout_of(2, from.format, 128, from.rotation), 70);
      KvContent converted;
      REQUIRE(convert(source, layout_of(2, to.format, 128, to.rotation), nullptr, &converted).ok());
      CHECK(converted.tokens == source.tokens);
      CHECK(converted.positions == source.positions);
      for (int64_t part = 0; part < 4; part++) {
        if (from.format == to.format && from.rotation == to.rotation) CHECK(rows_of(converted, part) == rows_of(source, part));
        CHECK(relative_error(decoded(converted, part), decoded(source, part)) <= to.error);
      }
    }
  }
  KvContent out;
  CHECK(convert(content_of(layout_of(2, RowFormat::f16), 3), layout_of(3, RowFormat::f16), nullptr, &out).code == Code::kv_layout);
  const std::atomic<bool> cancel{true};
  CHECK(convert(content_of(layout_of(2, RowFormat::f16), 3), layout_of(2, RowFormat::f32), &cancel, &out).code == Code::cancelled);
}

TEST_CASE("rows that are quantised are rotated by heads, as llama.cpp does it, and what has the format keeps its bits") {
  CacheLayout layout = layout_of(1, RowFormat::f16, 384);
  for (const auto& [head, keys, values] : {std::tuple{32, 0, 0}, {64, 64, 64}, {96, 0, 0}, {128, 128, 64}, {192, 64, 64}}) {
    layout.key_head = layout.value_head = head;
    const CacheLayout quantised = with_format(layout, RowFormat::q8_0);
    CHECK(quantised.parts[0] == CacheRows{RowFormat::q8_0, 384, keys});
    CHECK(quantised.parts[1] == CacheRows{RowFormat::q8_0, 384, values});
    CHECK(with_format(quantised, RowFormat::bf16).parts[0] == CacheRows{RowFormat::bf16, 384, 0});
  }
  layout.parts[0] = {RowFormat::q8_0, 384, 32};
  CHECK(with_format(layout, RowFormat::q8_0).parts[0] == layout.parts[0]);
}

TEST_CASE("9. a number that is not finite, or that the other format cannot hold, is refused by its layer") {
  for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30F}) {
    for (int64_t part = 0; part < 4; part++) {
      KvContent content = content_of(layout_of(2, RowFormat::f32), 130);
      const_cast<float*>(reinterpret_cast<const float*>(content.segments[0].parts[static_cast<size_t>(part)]))[129 * 64 + 63] = wrong;
      KvContent out;
      const Status status = convert(content, layout_of(2, RowFormat::f16), nullptr, &out);
      CHECK(status.code == Code::non_finite);
      CHECK(status.message.find("layer " + std::to_string(part / 2)) != std::string::npos);
      CHECK(status.message.find(part % 2 == 0 ? "keys" : "values") != std::string::npos);
      if (!std::isfinite(wrong)) CHECK(convert(content, content.layout, nullptr, &out).code == Code::non_finite);
    }
  }
}

TEST_CASE("16. keys move while they are written, each by its own shift; values, and keys that stay, keep their bits") {
  RopeParameters parameters;
  parameters.head_dim = 32;
  parameters.rotated = 32;
  Rope rope;
  REQUIRE(make_rope(parameters, &rope).ok());
  for (const RowFormat format : {RowFormat::f32, RowFormat::f16}) {
    const KvContent source = content_of(layout_of(2, format), 150);
    KeyMove move;
    move.ropes = {std::make_shared<const Rope>(rope), nullptr};
    for (int32_t i = 0; i < 150; i++) move.shifts.push_back(i < 70 ? 0 : i < 100 ? 17 : -i);
    KvContent moved;
    moved.layout = source.layout;
    moved.tokens = source.tokens;
    std::vector<uint8_t*> parts;
    REQUIRE(allocate_segment(moved.layout, 150, &moved.segments.emplace_back(), &parts).ok());
    // segments of odd sizes, so that runs of equal shifts cross them
    KvContent pieces;
    REQUIRE(source.slice(0, 33).concat(source.slice(33, 150), &pieces).ok());
    REQUIRE(write_rows(pieces, moved.layout, &move, parts, false, nullptr).ok());
    for (const int64_t part : {1, 2, 3}) CHECK(rows_of(moved, part) == rows_of(source, part));
    std::vector<float> want = decoded(source, 0);
    rotate(rope, move.shifts.data(), want.data(), 150, 2);
    const std::vector<float> got = decoded(moved, 0);
    CHECK(relative_error(got, want) < (format == RowFormat::f32 ? 1e-6 : 5e-4));
    for (size_t i = 0; i < 70 * 64; i++) CHECK(got[i] == decoded(source.slice(0, 70), 0)[i]);
  }
}

TEST_CASE("a state that is written is the state that is read") {
  StateGeometry plain;
  plain.layers.assign(3, StateLayer{1, 128, 8, 68});
  plain.max_cells = 64;
  StateGeometry two = plain;
  two.sections = {{2}, {0, 1}};
  StateGeometry transposed = two;
  transposed.layers.assign(3, StateLayer{1, 128, 1, 128});
  transposed.transposed_values = true;
  transposed.streams = 3;
  for (const StateGeometry& geometry : {plain, two, transposed}) {
    for (const int32_t n : {0, 1, 9}) {
      std::vector<int32_t> positions = positions_from(5, n);
      std::vector<uint8_t> state(state_bytes(geometry, static_cast<uint64_t>(n)), 0x11);
      std::vector<uint8_t*> parts;
      begin_state(geometry, positions, state.data(), &parts);
      StateSummary summary;
      REQUIRE(inspect_state(state.data(), state.size(), geometry, &summary).ok());
      for (const auto& there : summary.positions) CHECK(there == positions);
      for (size_t part = 0; part < summary.parts.size() && n > 0; part++) CHECK(state.data() + summary.parts[part] == parts[part]);
    }
  }
}

TEST_CASE(
    "8. rows go into a state whose values lie channel by channel, and of one with its cells in any order and two caches, come out again") {
  for (const RowFormat format : {RowFormat::f32, RowFormat::f16, RowFormat::bf16}) {
    for (const int64_t n : {1, 2, 63, 64, 65, 200}) {
      const CacheLayout layout = layout_of(3, format);
      const KvContent whole = content_of(layout, n);
      KvContent content;  // of pieces, whose seams lie anywhere in a block
      REQUIRE(whole.slice(0, n / 3).concat(whole.slice(n / 3, n), &content).ok());
      const auto row_bytes = static_cast<uint64_t>(layout.parts[0].row_bytes());
      const int32_t type = format == RowFormat::f32 ? 0 : format == RowFormat::f16 ? 1 : 30;
      StateGeometry geometry;
      geometry.layers.assign(3, StateLayer{type, row_bytes, type, row_bytes});
      geometry.sections = {{1}, {0, 2}};
      geometry.transposed_values = true;
      geometry.max_cells = 1024;
      std::vector<int32_t> positions = positions_from(0, n);
      const std::shared_ptr<std::vector<uint8_t>> state =
          std::make_shared<std::vector<uint8_t>>(state_bytes(geometry, static_cast<uint64_t>(n)));
      std::vector<uint8_t*> parts;
      begin_state(geometry, positions, state->data(), &parts);
      REQUIRE(write_rows(content, layout, nullptr, parts, true, nullptr).ok());
      const std::shared_ptr<const uint8_t> owner(state, state->data());
      StateSummary summary;
      REQUIRE(inspect_state(state->data(), state->size(), geometry, &summary).ok());
      KvContent back;
      back.layout = layout;
      back.tokens = whole.tokens;
      REQUIRE(segment_of_state(layout, geometry, summary, owner, &back.segments.emplace_back()).ok());
      for (int64_t part = 0; part < 6; part++) CHECK(rows_of(back, part) == rows_of(whole, part));

      // the first cache backwards: what was row i of its layer is row n - 1 - i
      std::reverse(summary.positions[0].begin(), summary.positions[0].end());
      REQUIRE(segment_of_state(layout, geometry, summary, owner, &back.segments.front()).ok());
      for (int64_t part = 0; part < 6; part++) {
        std::vector<uint8_t> want = rows_of(whole, part);
        if (part / 2 == 1) {
          const std::vector<uint8_t> rows = want;
          for (int64_t i = 0; i < n; i++)
            std::copy_n(rows.begin() + i * static_cast<int64_t>(row_bytes), row_bytes,
                        want.begin() + (n - 1 - i) * static_cast<int64_t>(row_bytes));
        }
        CHECK(rows_of(back, part) == want);
      }
    }
  }
}

}  // namespace latentwire
