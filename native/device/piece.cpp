#include "device/piece.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "core/large_memory.h"

namespace latentwire {
namespace {

// A part, and where what travels of it lies in a block of memory that the device fills and the host gets in one copy.
struct Placed {
  size_t part;
  size_t at;
};

// Tiles of one chunk that one launch encodes.
struct Encoding {
  TileFormat format;
  int64_t first = 0;  // entry of the content
  int64_t count = 0;
  size_t first_bad_at = 0;
  std::vector<Placed> tiles;
};

// What travels of entries [from, to).
struct Plan {
  std::vector<Encoding> encodings;
  std::vector<std::vector<Placed>> rows;  // as they are, those of one size together
  size_t bytes = 0;

  size_t add(int64_t more) {
    const size_t at = bytes;
    bytes += device_aligned(static_cast<size_t>(more));
    return at;
  }
};

// Parts that travel in tiles which the device makes, all of one format; or, without one, as they are.
struct Group {
  std::optional<TileFormat> format;
  std::vector<size_t> parts;
};
std::vector<Group> groups_of(const PartCodecs& codecs, const CacheLayout& layout) {
  std::vector<Group> groups;
  for (const std::vector<size_t>& alike : parts_of_one_size(layout)) {
    const auto begin = static_cast<ptrdiff_t>(groups.size());
    for (const size_t part : alike) {
      std::optional<TileFormat> format;
      if (!codecs.empty() && codecs[part] != nullptr) format = codecs[part]->tile_format(layout.parts[part]);
      const auto same = std::find_if(groups.begin() + begin, groups.end(), [&](const Group& group) { return group.format == format; });
      if (same == groups.end())
        groups.push_back({format, {part}});
      else
        same->parts.push_back(part);
    }
  }
  return groups;
}

Plan plan_of(const PartCodecs& codecs, const CacheLayout& layout, int64_t from, int64_t to) {
  Plan plan;
  for (const Group& group : groups_of(codecs, layout)) {
    const CacheRows& rows = layout.parts[group.parts.front()];
    if (!group.format) {
      std::vector<Placed>& placed = plan.rows.emplace_back();
      for (const size_t part : group.parts) placed.push_back({part, plan.add((to - from) * rows.row_bytes())});
      continue;
    }
    for (int64_t first = from; first < to; first += chunk_entries) {
      Encoding& encoding = plan.encodings.emplace_back();
      encoding.format = *group.format;
      encoding.first = first;
      encoding.count = std::min(chunk_entries, to - first);
      encoding.first_bad_at = plan.add(sizeof(int64_t));
      for (const size_t part : group.parts)
        encoding.tiles.push_back({part, plan.add(encoding.count * encoding.format.row_bytes(rows.channels))});
    }
  }
  return plan;
}

Status launch(DeviceStream& stream, const DeviceContent& content, const Encoding& encoding, std::byte* block) {
  const CacheRows& rows = content.entries.layout.parts[encoding.tiles.front().part];
  std::vector<latent_tile_part> parts;
  for (const auto& [part, at] : encoding.tiles) {
    std::byte* numbers = content.parts[part] + encoding.first * rows.row_bytes();
    std::byte* scales = block + at;
    std::byte* codes = scales + encoding.count * encoding.format.row_scale_bytes(rows.channels);
    parts.push_back({numbers, reinterpret_cast<uint8_t*>(codes), scales, nullptr});
  }
  latent_tile_args args{};
  args.parts = parts.data();
  args.part_count = static_cast<int64_t>(parts.size());
  args.rows = encoding.count;
  args.columns = args.stride = rows.channels;
  args.first_bad = reinterpret_cast<int64_t*>(block + encoding.first_bad_at);
  args.code = static_cast<int32_t>(encoding.format.code);
  args.scale = static_cast<int32_t>(encoding.format.scale);
  args.group = static_cast<int32_t>(encoding.format.group);
  args.dtype = static_cast<int32_t>(*rows.dtype());
  return DeviceStream::call(stream.api().quantise, stream.handle(), static_cast<const latent_tile_args*>(&args));
}

Status launch_copies(DeviceStream& stream, const DeviceContent& content, const std::vector<Placed>& rows, int64_t from, int64_t count,
                     std::byte* block) {
  const int64_t row_bytes = content.entries.layout.parts[rows.front().part].row_bytes();
  std::vector<latent_cell_part> pairs;
  for (const auto& [part, at] : rows) pairs.push_back({content.parts[part] + from * row_bytes, block + at});
  const latent_cell_args args{pairs.data(), static_cast<int64_t>(pairs.size()), count, row_bytes, row_bytes, row_bytes, nullptr, nullptr};
  return DeviceStream::call(stream.api().copy_cells, stream.handle(), &args);
}

Status require_coded(const CacheLayout& layout, const Encoding& encoding, const uint8_t* block) {
  int64_t first_bad = 0;
  std::memcpy(&first_bad, block + encoding.first_bad_at, sizeof first_bad);
  if (first_bad == LATENT_NO_BAD_ROW) return {};
  return non_finite_part(layout, encoding.tiles[static_cast<size_t>(first_bad / encoding.count)].part);
}

KvPiece piece_of(const Plan& plan, const CacheLayout& layout, int64_t first, int64_t count, const std::shared_ptr<uint8_t>& block) {
  KvPiece piece;
  piece.first = first;
  piece.memory = plan.bytes;
  piece.rows = {block, count, std::vector<const uint8_t*>(layout.parts.size(), nullptr)};
  piece.tiles.resize(layout.parts.size());
  for (const std::vector<Placed>& rows : plan.rows) {
    for (const auto& [part, at] : rows) piece.rows.parts[part] = block.get() + at;
  }
  for (const Encoding& encoding : plan.encodings) {
    for (const auto& [part, at] : encoding.tiles) {
      const int64_t size = encoding.count * encoding.format.row_bytes(layout.parts[part].channels);
      piece.tiles[part].push_back({std::shared_ptr<const uint8_t>(block, block.get() + at), size});
    }
  }
  return piece;
}

}  // namespace

Status download_piece(DeviceStream& stream, const DeviceContent& content, const PartCodecs& codecs, int64_t from, int64_t to,
                      const std::atomic<bool>* cancel, KvPiece* out) {
  const CacheLayout& layout = content.entries.layout;
  const Plan plan = plan_of(codecs, layout, from, to);
  std::shared_ptr<DeviceBuffer> there;
  Status status = stream.allocate(plan.bytes, &there);
  if (status.code == Code::out_of_memory) {
    // part by part, which takes no memory there; then the writer encodes
    KvPiece piece;
    piece.first = from;
    status = download_rows(stream, content, from, to, cancel, &piece.rows);
    if (!status.ok()) return status;
    piece.memory = static_cast<size_t>((to - from) * layout.position_bytes());
    *out = std::move(piece);
    return {};
  }
  if (!status.ok()) return status;
  for (const Encoding& encoding : plan.encodings) {
    if (status = launch(stream, content, encoding, there->data()); !status.ok()) return status;
  }
  for (const std::vector<Placed>& rows : plan.rows) {
    if (status = launch_copies(stream, content, rows, from, to - from, there->data()); !status.ok()) return status;
  }
  const std::shared_ptr<uint8_t> here = large_memory(plan.bytes);
  if (here == nullptr) return Status::fail(Code::out_of_memory, "no memory for " + std::to_string(plan.bytes) + " bytes of records");
  if (status = stream.download(here.get(), there->data(), plan.bytes, cancel); !status.ok()) return status;
  for (const Encoding& encoding : plan.encodings) {
    if (status = require_coded(layout, encoding, here.get()); !status.ok()) return status;
  }
  *out = piece_of(plan, layout, from, to - from, here);
  return {};
}

}  // namespace latentwire
