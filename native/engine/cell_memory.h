// The cells of a cache that is read and written where llama.cpp keeps it: in memory of the host, or of a device that a backend works on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "device/content.h"
#include "engine/cache_view.h"
#include "kv/content.h"

namespace latentwire {

class CellMemory {
 public:
  // `parts` are those of `layout`. Where they do not lie on the host, or `asks_of_host`, `backend` is asked which device's they are.
  // Errors: kv_layout (several devices, a device that is not the first), device_unavailable, out_of_memory.
  static Status open(const CacheLayout& layout, std::vector<CacheView::Part> parts, const std::function<const Backend&()>& backend,
                     bool asks_of_host, std::unique_ptr<CellMemory>* out);
  virtual ~CellMemory() = default;
  CellMemory(const CellMemory&) = delete;
  CellMemory& operator=(const CellMemory&) = delete;

  virtual bool on_device() const noexcept = 0;
  // The rows of cells, in this order, on the host. Needs no room on a device. Error: out_of_memory, and those of a device.
  virtual Status gather(const std::vector<int32_t>& cells, KvSegment* out) = 0;
  // Row i of a content, whose rows are stored as the cells' and which may lack its log, goes to cells[i]. With a move, which is for a
  // device only and needs room there, keys are turned on the way and all numbers are looked at. Errors: non_finite, out_of_memory, and
  // those of a device.
  virtual Status scatter(const KvContent& content, const KeyMove* move, const std::vector<int32_t>& cells) = 0;

  // The same on a device, and for one only: `entries` gets its rows.
  virtual Status gather(const std::vector<int32_t>& cells, KvContent entries, DeviceContent* out) = 0;
  // All numbers are looked at, and keys are turned on the way. Errors: non_finite, out_of_memory, and those of a device.
  virtual Status scatter(const DeviceContent& content, const KeyMove* move, const std::vector<int32_t>& cells) = 0;

 protected:
  CellMemory(const CacheLayout& layout, std::vector<CacheView::Part> parts) : layout_(layout), parts_(std::move(parts)) {}

  CacheLayout layout_;
  std::vector<CacheView::Part> parts_;
};

// Whether a device can turn keys that are stored so.
bool turns_on_device(const CacheLayout& layout) noexcept;

}  // namespace latentwire
