#include "device/piece.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "core/large_memory.h"

namespace latentwire {
namespace {

// Places in one block of memory, which the device fills and the host gets in one copy.
class Block {
 public:
  size_t add(int64_t bytes) {
    const size_t at = bytes_;
    bytes_ += device_aligned(static_cast<size_t>(bytes));
    return at;
  }
  size_t bytes() const noexcept { return bytes_; }

 private:
  size_t bytes_ = 0;
};

// Tiles of one chunk that one launch encodes.
struct Launch {
  TileFormat format;
  std::vector<size_t> parts;
  std::vector<size_t> places;  // of their tiles in the block
  int64_t first = 0;           // entry of the content
  int64_t count = 0;
  size_t flag = 0;  // place of its first bad row
};

std::optional<TileFormat> format_on_device(const PartCodecs& codecs, const CacheLayout& layout, size_t part) {
  if (codecs.empty() || codecs[part] == nullptr) return std::nullopt;
  return codecs[part]->tile_format(layout.parts[part]);
}

// Parts of rows of one size that travel in one way: as they are, or in tiles of one format.
struct Group {
  std::vector<size_t> parts;
  std::optional<TileFormat> format;
};
std::vector<Group> groups_of(const PartCodecs& codecs, const CacheLayout& layout) {
  std::vector<Group> groups;
  for (const std::vector<size_t>& alike : parts_of_one_size(layout)) {
    const auto first = static_cast<ptrdiff_t>(groups.size());
    for (const size_t part : alike) {
      const std::optional<TileFormat> format = format_on_device(codecs, layout, part);
      const auto same = std::find_if(groups.begin() + first, groups.end(), [&](const Group& group) { return group.format == format; });
      if (same == groups.end())
        groups.push_back({{part}, format});
      else
        same->parts.push_back(part);
    }
  }
  return groups;
}

int64_t tile_bytes(const TileFormat& format, int64_t count, int64_t columns) {
  return count * (format.row_scale_bytes(columns) + format.row_code_bytes(columns));
}

Status encode(DeviceStream& stream, const DeviceContent& content, const Launch& launch, std::byte* block) {
  const CacheRows& rows = content.entries.layout.parts[launch.parts.front()];
  std::vector<latent_tile_part> parts;
  for (size_t i = 0; i < launch.parts.size(); i++) {
    std::byte* numbers = content.parts[launch.parts[i]] + launch.first * rows.row_bytes();
    std::byte* scales = block + launch.places[i];
    std::byte* codes = scales + launch.count * launch.format.row_scale_bytes(rows.channels);
    parts.push_back({numbers, reinterpret_cast<uint8_t*>(codes), scales, nullptr});
  }
  latent_tile_args args{};
  args.parts = parts.data();
  args.part_count = static_cast<int64_t>(parts.size());
  args.rows = launch.count;
  args.columns = args.stride = rows.channels;
  args.first_bad = reinterpret_cast<int64_t*>(block + launch.flag);
  args.code = static_cast<int32_t>(launch.format.code);
  args.scale = static_cast<int32_t>(launch.format.scale);
  args.group = static_cast<int32_t>(launch.format.group);
  args.dtype = static_cast<int32_t>(*rows.dtype());
  // every byte of it
  Status status = DeviceStream::call(stream.api().fill, stream.handle(), static_cast<void*>(block + launch.flag), 0x7F, sizeof(int64_t));
  if (status.ok()) status = DeviceStream::call(stream.api().quantise, stream.handle(), static_cast<const latent_tile_args*>(&args));
  return status;
}

Status require_coded(const CacheLayout& layout, const Launch& launch, const uint8_t* block) {
  int64_t first_bad = 0;
  std::memcpy(&first_bad, block + launch.flag, sizeof first_bad);
  if (first_bad == LATENT_NO_BAD_ROW) return {};
  return non_finite_part(layout, launch.parts[static_cast<size_t>(first_bad / launch.count)]);
}

}  // namespace

Status download_piece(DeviceStream& stream, const DeviceContent& content, const PartCodecs& codecs, int64_t from, int64_t to,
                      const std::atomic<bool>* cancel, KvPiece* out) {
  const CacheLayout& layout = content.entries.layout;
  const int64_t count = to - from;
  KvPiece piece;
  piece.entries = content.entries.slice(from, to);
  piece.tiles.resize(layout.parts.size());

  Block block;
  std::vector<Launch> launches;
  struct Copy {
    std::vector<size_t> parts;
    std::vector<size_t> places;
  };
  std::vector<Copy> copies;
  for (Group& group : groups_of(codecs, layout)) {
    const CacheRows& rows = layout.parts[group.parts.front()];
    if (!group.format) {
      Copy& copy = copies.emplace_back();
      copy.parts = std::move(group.parts);
      for (size_t i = 0; i < copy.parts.size(); i++) copy.places.push_back(block.add(count * rows.row_bytes()));
      continue;
    }
    for (int64_t first = from; first < to; first += chunk_entries) {
      Launch& launch = launches.emplace_back();
      launch.format = *group.format;
      launch.parts = group.parts;
      launch.first = first;
      launch.count = std::min(chunk_entries, to - first);
      launch.flag = block.add(sizeof(int64_t));
      for (size_t i = 0; i < launch.parts.size(); i++)
        launch.places.push_back(block.add(tile_bytes(launch.format, launch.count, rows.channels)));
    }
  }

  std::shared_ptr<DeviceBuffer> there;
  if (Status status = stream.allocate(block.bytes(), &there); !status.ok()) return status;
  for (const Launch& launch : launches) {
    if (Status status = encode(stream, content, launch, there->data()); !status.ok()) return status;
  }
  for (const Copy& copy : copies) {
    const int64_t row_bytes = layout.parts[copy.parts.front()].row_bytes();
    std::vector<latent_cell_part> pairs;
    for (size_t i = 0; i < copy.parts.size(); i++)
      pairs.push_back({content.parts[copy.parts[i]] + from * row_bytes, there->data() + copy.places[i]});
    const latent_cell_args args{pairs.data(), static_cast<int64_t>(pairs.size()), count, row_bytes, row_bytes, row_bytes, nullptr, nullptr};
    if (Status status = DeviceStream::call(stream.api().copy_cells, stream.handle(), &args); !status.ok()) return status;
  }
  const std::shared_ptr<uint8_t> here = large_memory(block.bytes());
  if (here == nullptr) return Status::fail(Code::out_of_memory, "no memory for " + std::to_string(block.bytes()) + " bytes of records");
  if (Status status = stream.download(here.get(), there->data(), block.bytes(), cancel); !status.ok()) return status;

  if (count > 0) {
    KvSegment& segment = piece.entries.segments.emplace_back();
    segment.owner = here;
    segment.count = count;
    segment.parts.resize(layout.parts.size(), nullptr);
    for (const Copy& copy : copies) {
      for (size_t i = 0; i < copy.parts.size(); i++) segment.parts[copy.parts[i]] = here.get() + copy.places[i];
    }
  }
  for (const Launch& launch : launches) {
    if (Status status = require_coded(layout, launch, here.get()); !status.ok()) return status;
    for (size_t i = 0; i < launch.parts.size(); i++) {
      const int64_t size = tile_bytes(launch.format, launch.count, layout.parts[launch.parts[i]].channels);
      piece.tiles[launch.parts[i]].push_back({std::shared_ptr<const uint8_t>(here, here.get() + launch.places[i]), size});
    }
  }
  *out = std::move(piece);
  return {};
}

}  // namespace latentwire
