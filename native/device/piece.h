// Content on its way from the device into a stream, some chunks at a time, so that the next ones travel while these are written. What a
// codec makes with the kernel that the device has as well is made there, and only the tiles travel.
#pragma once

#include "device/content.h"
#include "kv/writer.h"

namespace latentwire {

// Entries [from, to), at least one, from a multiple of chunk_entries on, for the issuing thread of a stream. `codecs` have passed
// check_codecs. Waits. Where the device has no room, only rows travel. Errors: out_of_memory, non_finite (rows that a codec cannot hold),
// cancelled.
Status download_piece(DeviceStream& stream, const DeviceContent& content, const PartCodecs& codecs, int64_t from, int64_t to,
                      const std::atomic<bool>* cancel, KvPiece* out);

}  // namespace latentwire
