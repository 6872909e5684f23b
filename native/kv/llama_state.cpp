// One pass with a cursor that cannot leave the blob: header, then for each section its cells and each layer's rows, which are scanned for
// non-finite numbers in place.
#include "kv/llama_state.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "kv/bytes.h"
#include "kv/finite.h"

namespace latentwire {
namespace {

constexpr uint32_t kMagic = 0xaf143cd8;
constexpr size_t kCellBytes = 12;
constexpr size_t kExtendedBytes = 12;
constexpr size_t kRowsHeadBytes = 12;

using Number = NumberLayout::Number;
struct TypeLayout {
  int32_t type;
  NumberLayout numbers;
};
// The types that llama.cpp offers for a KV cache.
constexpr std::array<TypeLayout, 9> kTypes = {{
    {0, {4, Number::f32, 1}},    // f32
    {1, {2, Number::f16, 1}},    // f16
    {30, {2, Number::bf16, 1}},  // bf16
    {2, {18, Number::f16, 1}},   // q4_0
    {3, {20, Number::f16, 2}},   // q4_1: scale and minimum
    {6, {22, Number::f16, 1}},   // q5_0
    {7, {24, Number::f16, 2}},   // q5_1
    {8, {34, Number::f16, 1}},   // q8_0
    {20, {18, Number::f16, 1}},  // iq4_nl
}};

const NumberLayout* layout_of(int32_t type) {
  const auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeLayout& layout) { return layout.type == type; });
  return found == kTypes.end() ? nullptr : &found->numbers;
}

template <typename T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

Status damaged(Code code, const ByteReader& reader, const std::string& what) {
  return Status::fail(code, "damaged state: at byte " + std::to_string(reader.at()) + ": " + what);
}
Status malformed(const ByteReader& reader, const std::string& what) { return damaged(Code::kv_format, reader, what); }
Status cut_off(const ByteReader& reader, const std::string& what) { return damaged(Code::kv_truncated, reader, what); }

Status mismatch(const std::string& what) { return Status::fail(Code::kv_layout, "the state is of another cache layout: " + what); }

// The head of one layer's keys or values.
struct RowsHead {
  int32_t type = 0;
  uint64_t row_bytes = 0;
  uint32_t element_bytes = 0;  // of transposed values
};

bool read_rows_head(ByteReader* reader, bool transposed, RowsHead* head) {
  if (!reader->read(&head->type)) return false;
  if (!transposed) return reader->read(&head->row_bytes);
  uint32_t channels = 0;
  if (!reader->read(&head->element_bytes) || !reader->read(&channels)) return false;
  head->row_bytes = static_cast<uint64_t>(head->element_bytes) * channels;
  return true;
}

// Only numbers that stand alone can lie channel by channel.
bool can_be_transposed(const RowsHead& head, const NumberLayout& layout) {
  return (head.type == 0 || head.type == 1 || head.type == 30) && head.element_bytes == layout.block_bytes;
}

// The layers of each section, spelled out.
std::vector<std::vector<int32_t>> sections_of(const StateGeometry& geometry) {
  if (!geometry.sections.empty()) return geometry.sections;
  std::vector<int32_t> all(geometry.layers.size());
  std::iota(all.begin(), all.end(), 0);
  return {all};
}

Status read_prefix(ByteReader* reader) {
  uint32_t magic = 0;
  int32_t source = 0;
  if (!reader->read(&magic) || !reader->read(&source)) return cut_off(*reader, "the header is cut off");
  if (magic != kMagic) return malformed(*reader, "not a llama.cpp sequence state (wrong magic)");
  return {};
}

// Reads the section that a locally written state goes on with, under one reading of its cell records, and appends its layers; false when it
// does not fit.
bool learn_section(ByteReader* reader, uint64_t cells, StateGeometry* geometry) {
  uint32_t streams = 0;
  uint32_t found = 0;
  if (!reader->read(&streams) || streams != 1 || !reader->read(&found) || found != cells) return false;
  if (reader->take(cells * (kCellBytes + (geometry->extended_positions ? kExtendedBytes : 0))) == nullptr) return false;
  uint32_t transposed = 0, layers = 0;
  if (!reader->read(&transposed) || !reader->read(&layers) || transposed > 1 || layers == 0) return false;
  if (!geometry->layers.empty() && geometry->transposed_values != (transposed == 1)) return false;
  // each of them has two heads
  if (!reader->fits(layers, 2 * kRowsHeadBytes)) return false;
  geometry->transposed_values = transposed == 1;
  const size_t first = geometry->layers.size();
  geometry->layers.resize(first + layers);
  geometry->sections.emplace_back(layers);
  std::iota(geometry->sections.back().begin(), geometry->sections.back().end(), static_cast<int32_t>(first));
  for (const bool values : {false, true}) {
    for (size_t i = first; i < geometry->layers.size(); ++i) {
      const bool by_channel = values && transposed == 1;
      RowsHead head;
      if (!read_rows_head(reader, by_channel, &head)) return false;
      const NumberLayout* layout = layout_of(head.type);
      if (layout == nullptr || head.row_bytes == 0 || head.row_bytes % layout->block_bytes != 0) return false;
      if (by_channel && !can_be_transposed(head, *layout)) return false;
      if (!reader->fits(cells, head.row_bytes)) return false;
      reader->take(cells * head.row_bytes);
      StateLayer& layer = geometry->layers[i];
      (values ? layer.value_type : layer.key_type) = head.type;
      (values ? layer.value_row_bytes : layer.key_row_bytes) = head.row_bytes;
    }
  }
  return true;
}

Status read_positions(ByteReader* reader, uint32_t cells, const StateGeometry& local, std::vector<int32_t>* positions) {
  const size_t record = kCellBytes + (local.extended_positions ? kExtendedBytes : 0);
  if (!reader->fits(cells, record)) return cut_off(*reader, std::to_string(cells) + " cells announced, more than the state can hold");
  std::vector<bool> seen(static_cast<size_t>(local.max_cells));
  positions->reserve(cells);
  for (uint32_t cell = 0; cell < cells; ++cell) {
    const uint8_t* at = reader->take(record);
    const int32_t position = load<int32_t>(at);
    const uint32_t owners = load<uint32_t>(at + 4);
    if (owners != 1) return malformed(*reader, "cell " + std::to_string(cell) + " has " + std::to_string(owners) + " owners");
    if (position < 0 || position >= local.max_cells) {
      return damaged(Code::kv_position, *reader,
                     "cell " + std::to_string(cell) + " has position " + std::to_string(position) + ", outside the context");
    }
    if (seen[static_cast<size_t>(position)])
      return damaged(Code::kv_position, *reader, "position " + std::to_string(position) + " occurs twice");
    seen[static_cast<size_t>(position)] = true;
    positions->push_back(position);
  }
  return {};
}

Status check_part(ByteReader* reader, uint32_t cells, size_t layer, bool values, const StateGeometry& local, bool numbers, size_t* offset) {
  const StateLayer& want = local.layers[layer];
  const int32_t type = values ? want.value_type : want.key_type;
  const uint64_t row_bytes = values ? want.value_row_bytes : want.key_row_bytes;
  const std::string which = std::string(values ? "values" : "keys") + " of layer " + std::to_string(layer);
  RowsHead head;
  const size_t start = reader->at();
  const bool by_channel = values && local.transposed_values;
  if (!read_rows_head(reader, by_channel, &head)) return cut_off(*reader, which + " are cut off");
  if (head.type != type || head.row_bytes != row_bytes) {
    return mismatch("at byte " + std::to_string(start) + ": " + which + " have type " + std::to_string(head.type) + " and rows of " +
                    std::to_string(head.row_bytes) + " bytes, here type " + std::to_string(type) + " and " + std::to_string(row_bytes));
  }
  if (!reader->fits(cells, row_bytes)) return cut_off(*reader, which + " are cut off");
  const NumberLayout* layout = layout_of(type);
  if (layout == nullptr) return mismatch(which + " have type " + std::to_string(type) + ", whose numbers cannot be checked");
  if (by_channel && !can_be_transposed(head, *layout)) {
    return mismatch("at byte " + std::to_string(start) + ": " + which + " have elements of " + std::to_string(head.element_bytes) +
                    " bytes");
  }
  const uint64_t bytes = cells * row_bytes;
  *offset = reader->at();
  const uint8_t* rows = reader->take(bytes);
  if (numbers && !all_finite(rows, bytes, *layout))
    return Status::fail(Code::non_finite, "the state holds NaN or an infinity in the " + which);
  return {};
}

Status read_cells(ByteReader* reader, uint32_t cells, const std::vector<int32_t>& layers, const StateGeometry& local, bool numbers,
                  std::vector<int32_t>* positions, std::vector<size_t>* parts) {
  if (Status status = read_positions(reader, cells, local, positions); !status.ok()) return status;
  uint32_t transposed = 0, count = 0;
  if (!reader->read(&transposed) || !reader->read(&count)) return cut_off(*reader, "the layer table is cut off");
  if (transposed > 1) return malformed(*reader, "neither plain nor transposed values");
  if ((transposed == 1) != local.transposed_values) return mismatch("its values are laid out for the other flash-attention setting");
  if (count != layers.size()) return mismatch(std::to_string(count) + " layers, here " + std::to_string(layers.size()));
  for (const size_t values : {0, 1}) {
    for (const int32_t layer : layers) {
      const auto l = static_cast<size_t>(layer);
      if (Status status = check_part(reader, cells, l, values == 1, local, numbers, &(*parts)[2 * l + values]); !status.ok()) return status;
    }
  }
  return {};
}

Status read_section(ByteReader* reader, const std::vector<int32_t>& layers, const StateGeometry& local, bool numbers,
                    std::vector<int32_t>* positions, std::vector<size_t>* parts) {
  uint32_t streams = 0;
  if (!reader->read(&streams)) return cut_off(*reader, "the header is cut off");
  if (streams < 1 || streams > max_streams) return mismatch("it has " + std::to_string(streams) + " streams");
  for (uint32_t stream = 0; stream < streams; ++stream) {
    uint32_t cells = 0;
    if (!reader->read(&cells)) return cut_off(*reader, "the header is cut off");
    if (cells == 0) continue;
    if (!positions->empty()) return malformed(*reader, "the cells of one sequence lie in two streams");
    if (cells > static_cast<uint64_t>(std::max<int64_t>(local.max_cells, 0))) {
      return damaged(Code::kv_limit, *reader,
                     std::to_string(cells) + " cells, more than the context of " + std::to_string(local.max_cells));
    }
    if (Status status = read_cells(reader, cells, layers, local, numbers, positions, parts); !status.ok()) return status;
  }
  return {};
}

std::vector<int32_t> sorted(std::vector<int32_t> positions) {
  std::sort(positions.begin(), positions.end());
  return positions;
}

// `foreign`: nothing is believed.
Status read_state(const uint8_t* blob, size_t size, const StateGeometry& local, bool foreign, StateSummary* out) {
  ByteReader reader(blob, size);
  if (Status status = read_prefix(&reader); !status.ok()) return status;
  StateSummary summary;
  summary.parts.resize(2 * local.layers.size());
  for (const std::vector<int32_t>& layers : sections_of(local)) {
    std::vector<int32_t>& positions = summary.positions.emplace_back();
    if (Status status = read_section(&reader, layers, local, foreign, &positions, &summary.parts); !status.ok()) return status;
    if (foreign && sorted(positions) != sorted(summary.positions.front()))
      return damaged(Code::kv_position, reader, "its caches hold other positions each");
  }
  if (reader.left() != 0) return malformed(reader, std::to_string(reader.left()) + " bytes after the end");
  *out = std::move(summary);
  return {};
}

// Calls visit(offset, head, part) -> whether to go on, for what comes before the rows of each part.
template <typename Visit>
bool for_heads(const StateGeometry& local, const std::vector<int32_t>& positions, const Visit& visit) {
  const StateHeads heads = state_heads(local, positions);
  size_t offset = 0;
  for (size_t i = 0; i < heads.bytes.size(); i++) {
    const size_t part = i < heads.parts.size() ? heads.parts[i] : SIZE_MAX;
    if (!visit(offset, heads.bytes[i], part)) return false;
    offset += heads.bytes[i].size();
    if (part == SIZE_MAX) continue;
    const StateLayer& layer = local.layers[part / 2];
    offset += positions.size() * (part % 2 == 1 ? layer.value_row_bytes : layer.key_row_bytes);
  }
  return true;
}

}  // namespace

bool same_form(const StateGeometry& a, const StateGeometry& b) {
  StateGeometry c = b;
  c.max_cells = a.max_cells;
  return a == c;
}

Status learn_geometry(const uint8_t* blob, size_t size, int64_t cells, StateGeometry* out) {
  ByteReader whole(blob, size);
  if (Status status = read_prefix(&whole); !status.ok()) return mismatch(status.message);
  if (cells < 1) return mismatch("no cells");
  for (const bool extended : {false, true}) {
    ByteReader reader = whole;
    StateGeometry geometry;
    geometry.extended_positions = extended;
    geometry.max_cells = cells;
    bool fits = reader.left() > 0;
    while (fits && reader.left() > 0) fits = learn_section(&reader, static_cast<uint64_t>(cells), &geometry);
    if (!fits) continue;
    if (geometry.sections.size() == 1) geometry.sections.clear();
    *out = std::move(geometry);
    return {};
  }
  return mismatch("not " + std::to_string(cells) + " cells with keys and values in each layer");
}

Status inspect_state(const uint8_t* blob, size_t size, const StateGeometry& local, StateSummary* out) {
  return read_state(blob, size, local, true, out);
}

Status locate_rows(const uint8_t* blob, size_t size, const StateGeometry& local, StateSummary* out) {
  return read_state(blob, size, local, false, out);
}

uint64_t state_bytes(const StateGeometry& local, uint64_t cells) {
  const uint64_t sections = std::max<uint64_t>(local.sections.size(), 1);
  uint64_t bytes = 2 * sizeof(uint32_t) + sections * (1 + local.streams) * sizeof(uint32_t);
  if (cells == 0) return bytes;
  bytes += sections * (cells * kCellBytes + 2 * sizeof(uint32_t));
  for (const StateLayer& layer : local.layers) bytes += 2 * kRowsHeadBytes + cells * (layer.key_row_bytes + layer.value_row_bytes);
  return bytes;
}

StateHeads state_heads(const StateGeometry& local, const std::vector<int32_t>& positions) {
  StateHeads heads;
  ByteWriter head;
  const auto put_part = [&](size_t layer, bool values) {
    const StateLayer& kind = local.layers[layer];
    const int32_t type = values ? kind.value_type : kind.key_type;
    const uint64_t row_bytes = values ? kind.value_row_bytes : kind.key_row_bytes;
    head.put(type);
    if (values && local.transposed_values) {
      const uint32_t element_bytes = layout_of(type)->block_bytes;
      head.put(element_bytes);
      head.put(static_cast<uint32_t>(row_bytes / element_bytes));
    } else {
      head.put(row_bytes);
    }
    heads.bytes.push_back(head.take());
    head = ByteWriter();
    heads.parts.push_back(2 * layer + (values ? 1 : 0));
  };
  head.put(kMagic);
  head.put(int32_t{0});
  for (const std::vector<int32_t>& layers : sections_of(local)) {
    head.put(local.streams);
    head.put(static_cast<uint32_t>(positions.size()));
    if (!positions.empty()) {
      for (const int32_t position : positions) {
        head.put(position);
        head.put(uint32_t{1});
        head.put(int32_t{0});
      }
      head.put(uint32_t{local.transposed_values ? 1U : 0U});
      head.put(static_cast<uint32_t>(layers.size()));
      for (const bool values : {false, true}) {
        for (const int32_t layer : layers) put_part(static_cast<size_t>(layer), values);
      }
    }
    // the sequence lies in the first stream
    for (uint32_t stream = 1; stream < local.streams; ++stream) head.put(uint32_t{0});
  }
  if (std::vector<uint8_t> rest = head.take(); !rest.empty()) heads.bytes.push_back(std::move(rest));
  return heads;
}

void begin_state(const StateGeometry& local, const std::vector<int32_t>& positions, uint8_t* blob, std::vector<uint8_t*>* parts) {
  parts->assign(2 * local.layers.size(), nullptr);
  for_heads(local, positions, [&](size_t offset, const std::vector<uint8_t>& head, size_t part) {
    std::memcpy(blob + offset, head.data(), head.size());
    if (part < parts->size()) (*parts)[part] = blob + offset + head.size();
    return true;
  });
}

bool begins_as(const StateGeometry& local, const std::vector<int32_t>& positions, const uint8_t* blob, std::vector<const uint8_t*>* parts) {
  parts->assign(2 * local.layers.size(), blob);
  return for_heads(local, positions, [&](size_t offset, const std::vector<uint8_t>& head, size_t part) {
    if (part < parts->size()) (*parts)[part] = blob + offset + head.size();
    return std::memcmp(blob + offset, head.data(), head.size()) == 0;
  });
}

}  // namespace latentwire
