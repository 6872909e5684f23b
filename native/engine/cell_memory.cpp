#include "engine/cell_memory.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "core/thread_pool.h"
#include "kv/rope.h"

namespace latentwire {
namespace {

Status not_there() { return Status::fail(Code::device_unavailable, "this cache does not lie on a device"); }

// Calls copy(first entry, first cell, count) for runs of neighbouring cells.
template <typename Copy>
void for_runs(const std::vector<int32_t>& cells, const Copy& copy) {
  for (size_t first = 0; first < cells.size();) {
    size_t count = 1;
    while (first + count < cells.size() && cells[first + count] == cells[first] + static_cast<int32_t>(count)) count++;
    copy(first, static_cast<size_t>(cells[first]), count);
    first += count;
  }
}

// Calls copy(part, first entry, first cell, count) for them in each part, on all threads.
template <typename Copy>
void for_all_runs(size_t parts, const std::vector<int32_t>& cells, const Copy& copy) {
  ThreadPool::get().parallel_for(static_cast<int64_t>(parts), 1, [&](int64_t begin, int64_t end) {
    for (auto part = static_cast<size_t>(begin); part < static_cast<size_t>(end); part++)
      for_runs(cells, [&](size_t entry, size_t cell, size_t count) { copy(part, entry, cell, count); });
  });
}

class HostCells final : public CellMemory {
 public:
  HostCells(const CacheLayout& layout, std::vector<CacheView::Part> parts) : CellMemory(layout, std::move(parts)) {}

  bool on_device() const noexcept override { return false; }

  Status gather(const std::vector<int32_t>& cells, KvSegment* out) override {
    std::vector<uint8_t*> targets;
    if (Status status = allocate_segment(layout_, static_cast<int64_t>(cells.size()), out, &targets); !status.ok()) return status;
    for_all_runs(parts_.size(), cells, [&](size_t part, size_t entry, size_t cell, size_t count) {
      const auto row_bytes = static_cast<size_t>(parts_[part].row_bytes);
      std::memcpy(targets[part] + entry * row_bytes, parts_[part].data + cell * row_bytes, count * row_bytes);
    });
    return {};
  }

  Status scatter(const KvContent& content, const KeyMove* move, const std::vector<int32_t>& cells) override {
    if (move != nullptr) return not_there();
    for_all_runs(parts_.size(), cells, [&](size_t part, size_t entry, size_t cell, size_t count) {
      std::byte* to = parts_[part].data + cell * static_cast<size_t>(parts_[part].row_bytes);
      const auto first = static_cast<int64_t>(entry);
      content.for_pieces(static_cast<int64_t>(part), first, first + static_cast<int64_t>(count), [&](const uint8_t* rows, int64_t piece) {
        const auto bytes = static_cast<size_t>(piece * parts_[part].row_bytes);
        std::memcpy(to, rows, bytes);
        to += bytes;
      });
    });
    return {};
  }

  Status gather(const std::vector<int32_t>&, KvContent, DeviceContent*) override { return not_there(); }
  Status scatter(const DeviceContent&, const KeyMove*, const std::vector<int32_t>&) override { return not_there(); }
};

// Work of a pool on a stream of its own; each call waits until its work is done, for llama.cpp uses the cells right after.
class DeviceCells final : public CellMemory {
 public:
  DeviceCells(const CacheLayout& layout, std::vector<CacheView::Part> parts, std::shared_ptr<DeviceStream> stream)
      : CellMemory(layout, std::move(parts)), groups_(parts_of_one_size(layout)), stream_(std::move(stream)) {}
  ~DeviceCells() override { stream_->close(); }

  bool on_device() const noexcept override { return true; }

  Status gather(const std::vector<int32_t>& cells, KvContent entries, DeviceContent* out) override {
    return stream_->complete([&](DeviceStream& stream) {
      std::shared_ptr<DeviceBuffer> places;
      Status status = allocate_content(stream, std::move(entries), out);
      if (status.ok()) status = upload_list(stream, cells, &places);
      if (status.ok()) status = copy(stream, out->parts, cells.size(), nullptr, places->as<int32_t>());
      return status;
    });
  }

  // Through the device's own memory, some parts at a time; where there is none, run by run.
  Status gather(const std::vector<int32_t>& cells, KvSegment* out) override {
    std::vector<uint8_t*> targets;
    if (Status status = allocate_segment(layout_, static_cast<int64_t>(cells.size()), out, &targets); !status.ok()) return status;
    Status status = stream_->complete([&](DeviceStream& stream) {
      std::shared_ptr<DeviceBuffer> places;
      if (Status ready = upload_list(stream, cells, &places); !ready.ok()) return ready;
      return in_passes(stream, cells.size(), [&](const std::vector<std::byte*>& rows) {
        Status done = copy(stream, rows, cells.size(), nullptr, places->as<int32_t>());
        for (size_t part = 0; part < rows.size() && done.ok(); part++) {
          if (rows[part] != nullptr) done = stream.download(targets[part], rows[part], bytes_of(part, cells.size()), nullptr);
        }
        return done;
      });
    });
    if (status.code != Code::out_of_memory) return status;
    return run_by_run(cells, [&](DeviceStream& stream, size_t part, size_t entry, std::byte* cell, size_t count) {
      return stream.download(targets[part] + bytes_of(part, entry), cell, bytes_of(part, count), nullptr);
    });
  }

  Status scatter(const KvContent& content, const KeyMove* move, const std::vector<int32_t>& cells) override {
    Status status = stream_->complete([&](DeviceStream& stream) {
      std::shared_ptr<DeviceBuffer> places;
      std::shared_ptr<DeviceBuffer> shifts;
      Status ready = upload_list(stream, cells, &places);
      if (ready.ok() && move != nullptr) ready = upload_list(stream, move->shifts, &shifts);
      if (!ready.ok()) return ready;
      const auto count = static_cast<int64_t>(cells.size());
      return in_passes(stream, cells.size(), [&](const std::vector<std::byte*>& rows) {
        Status done;
        for (size_t part = 0; part < rows.size() && done.ok(); part++) {
          if (rows[part] != nullptr) done = upload_rows(stream, content, part, 0, count, nullptr, rows[part]);
        }
        if (done.ok() && move != nullptr) done = turn(stream, rows, *move, shifts->as<int32_t>());
        if (done.ok() && move != nullptr) done = require_finite(stream, layout_, rows, count);
        if (done.ok()) done = copy(stream, rows, cells.size(), places->as<int32_t>(), nullptr);
        return done;
      });
    });
    if (status.code != Code::out_of_memory || move != nullptr) return status;
    return run_by_run(cells, [&](DeviceStream& stream, size_t part, size_t entry, std::byte* cell, size_t count) {
      return upload_rows(stream, content, part, static_cast<int64_t>(entry), static_cast<int64_t>(count), nullptr, cell);
    });
  }

  Status scatter(const DeviceContent& content, const KeyMove* move, const std::vector<int32_t>& cells) override {
    return stream_->complete([&](DeviceStream& stream) {
      DeviceContent turned;
      std::shared_ptr<DeviceBuffer> places;
      Status status;
      if (move != nullptr) status = turned_copy(stream, content, *move, &turned);
      const DeviceContent& source = move == nullptr ? content : turned;
      if (status.ok()) status = require_finite(stream, layout_, source.parts, content.entries.size());
      if (status.ok()) status = upload_list(stream, cells, &places);
      if (status.ok()) status = copy(stream, source.parts, cells.size(), places->as<int32_t>(), nullptr);
      return status;
    });
  }

 private:
  static constexpr size_t pass_bytes = size_t{64} << 20;

  size_t bytes_of(size_t part, size_t count) const noexcept { return count * static_cast<size_t>(parts_[part].row_bytes); }

  static Status upload_list(DeviceStream& stream, const std::vector<int32_t>& list, std::shared_ptr<DeviceBuffer>* out) {
    const size_t bytes = list.size() * sizeof(int32_t);
    if (Status status = stream.allocate(bytes, out); !status.ok()) return status;
    return stream.upload((*out)->data(), list.data(), bytes, nullptr);
  }

  // Rows without gaps, [2 * layers] with nullptr for parts that are left out, into the cells `to` or from the cells `from`.
  Status copy(DeviceStream& stream, const std::vector<std::byte*>& rows, size_t count, const int32_t* to, const int32_t* from) const {
    for (const std::vector<size_t>& group : groups_) {
      std::vector<latent_cell_part> pairs;
      for (const size_t part : group) {
        if (rows[part] == nullptr) continue;
        pairs.push_back(to != nullptr ? latent_cell_part{rows[part], parts_[part].data} : latent_cell_part{parts_[part].data, rows[part]});
      }
      if (pairs.empty()) continue;
      const int64_t row_bytes = parts_[group.front()].row_bytes;
      const latent_cell_args args{
          pairs.data(), static_cast<int64_t>(pairs.size()), static_cast<int64_t>(count), row_bytes, row_bytes, row_bytes, from, to};
      if (Status status = DeviceStream::call(stream.api().copy_cells, stream.handle(), &args); !status.ok()) return status;
    }
    return {};
  }

  // Calls body(rows) for as many parts at a time as fit a pass, or one, with memory for their rows, [2 * layers] with nullptr for the
  // others.
  template <typename Body>
  Status in_passes(DeviceStream& stream, size_t count, const Body& body) const {
    for (size_t first = 0; first < parts_.size();) {
      size_t bytes = 0;
      size_t end = first;
      for (; end < parts_.size() && (end == first || bytes + bytes_of(end, count) <= pass_bytes); end++)
        bytes += device_aligned(bytes_of(end, count));
      std::shared_ptr<DeviceBuffer> room;
      if (Status status = stream.allocate(bytes, &room); !status.ok()) return status;
      std::vector<std::byte*> rows(parts_.size(), nullptr);
      std::byte* at = room->data();
      for (size_t part = first; part < end; part++) {
        rows[part] = at;
        at += device_aligned(bytes_of(part, count));
      }
      if (Status status = body(rows); !status.ok()) return status;
      first = end;
    }
    return {};
  }

  // Calls move(stream, part, first entry, address of its cell, count) for runs of neighbouring cells, until one fails.
  template <typename Move>
  Status run_by_run(const std::vector<int32_t>& cells, const Move& move) const {
    return stream_->complete([&](DeviceStream& stream) {
      Status status;
      for (size_t part = 0; part < parts_.size(); part++) {
        for_runs(cells, [&](size_t entry, size_t cell, size_t count) {
          if (status.ok()) status = move(stream, part, entry, parts_[part].data + bytes_of(part, cell), count);
        });
      }
      return status;
    });
  }

  // A content with a copy of the keys, which are turned: it may have other users.
  Status turned_copy(DeviceStream& stream, const DeviceContent& content, const KeyMove& move, DeviceContent* out) const {
    const auto count = static_cast<size_t>(content.entries.size());
    size_t all = 0;
    for (size_t part = 0; part < parts_.size(); part += 2) all += device_aligned(bytes_of(part, count));
    *out = content;
    if (Status status = stream.allocate(all, &out->buffer); !status.ok()) return status;
    std::byte* at = out->buffer->data();
    for (size_t part = 0; part < parts_.size(); part += 2) {
      out->parts[part] = at;
      at += device_aligned(bytes_of(part, count));
      Status status = DeviceStream::call(stream.api().copy, stream.handle(), static_cast<void*>(out->parts[part]),
                                         static_cast<const void*>(content.parts[part]), bytes_of(part, count), latent_on_device);
      if (!status.ok()) return status;
    }
    std::shared_ptr<DeviceBuffer> shifts;
    if (Status status = upload_list(stream, move.shifts, &shifts); !status.ok()) return status;
    return turn(stream, out->parts, move, shifts->as<int32_t>());
  }

  // The keys among rows without gaps, [2 * layers] with nullptr for parts that are left out.
  Status turn(DeviceStream& stream, const std::vector<std::byte*>& rows, const KeyMove& move, const int32_t* shifts) const {
    std::vector<bool> done(move.ropes.size());
    const auto turns = [&](size_t layer) { return !done[layer] && move.ropes[layer] != nullptr && rows[2 * layer] != nullptr; };
    for (size_t layer = 0; layer < move.ropes.size(); layer++) {
      if (!turns(layer)) continue;
      const Rope& rope = *move.ropes[layer];
      const CacheRows& stored = layout_.parts[2 * layer];
      std::vector<void*> keys;
      for (size_t other = layer; other < move.ropes.size(); other++) {
        if (!turns(other) || *move.ropes[other] != rope || layout_.parts[2 * other] != stored) continue;
        keys.push_back(rows[2 * other]);
        done[other] = true;
      }
      std::shared_ptr<DeviceBuffer> frequencies;
      const size_t bytes = rope.frequencies.size() * sizeof(double);
      Status status = stream.allocate(bytes, &frequencies);
      if (status.ok()) status = stream.upload(frequencies->data(), rope.frequencies.data(), bytes, nullptr);
      if (!status.ok()) return status;
      latent_rope_args args{};
      args.rows = keys.data();
      args.part_count = static_cast<int64_t>(keys.size());
      args.frequencies = frequencies->as<double>();
      args.shifts = shifts;
      args.count = static_cast<int64_t>(move.shifts.size());
      args.heads = stored.channels / rope.head_dim;
      args.stride = stored.channels;
      args.pairs = rope.pairs == Rope::Pairs::neox ? latent_neox : latent_norm_pairs;
      args.head_dim = rope.head_dim;
      args.rotated = rope.rotated;
      args.dtype = static_cast<int32_t>(*stored.dtype());  // or turns_on_device was not asked
      status = DeviceStream::call(stream.api().rope_shift, stream.handle(), static_cast<const latent_rope_args*>(&args));
      if (!status.ok()) return status;
    }
    return {};
  }

  std::vector<std::vector<size_t>> groups_;
  std::shared_ptr<DeviceStream> stream_;
};

// The device that holds all parts; -1 for the host. Errors: kv_layout, and those of the backend.
Status find_device(const std::vector<CacheView::Part>& parts, const latent_backend_v1& api, int32_t* device) {
  for (size_t i = 0; i < parts.size(); i++) {
    int32_t found = -1;
    if (Status status = DeviceStream::call(api.memory_device, static_cast<const void*>(parts[i].data), &found); !status.ok()) return status;
    if (i > 0 && found != *device) return Status::fail(Code::kv_layout, "its layers lie in several places");
    *device = found;
  }
  return {};
}

}  // namespace

Status CellMemory::open(const CacheLayout& layout, std::vector<CacheView::Part> parts, const std::function<const Backend&()>& backend,
                        bool asks_of_host, std::unique_ptr<CellMemory>* out) {
  const bool on_host = std::all_of(parts.begin(), parts.end(), [](const CacheView::Part& part) { return part.on_host; });
  int32_t device = -1;
  if (!on_host || asks_of_host) {
    const Backend& there = backend();
    if (there.api != nullptr) {
      if (Status status = find_device(parts, *there.api, &device); !status.ok()) return status;
    } else if (!on_host) {
      return Status::fail(Code::device_unavailable, there.reason + ": " + there.message);
    }
  }
  if (device < 0 && !on_host) return Status::fail(Code::kv_layout, "it lies on a device that is not of CUDA");
  if (device > 0) return Status::fail(Code::kv_layout, "it lies on device " + std::to_string(device) + ", and only the first is used");
  if (device < 0) {
    *out = std::make_unique<HostCells>(layout, std::move(parts));
    return {};
  }
  std::shared_ptr<DeviceStream> stream;
  if (Status status = DeviceStream::create(backend, device, &stream); !status.ok()) return status;
  *out = std::make_unique<DeviceCells>(layout, std::move(parts), std::move(stream));
  return {};
}

bool turns_on_device(const CacheLayout& layout) noexcept {
  for (size_t part = 0; part < layout.parts.size(); part += 2) {
    if (!layout.parts[part].dtype()) return false;
  }
  return true;
}

}  // namespace latentwire
