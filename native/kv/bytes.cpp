// The one function that grows the buffer: inlined into the code that writes single numbers, GCC 12 sees overflows where there are none.
#include "kv/bytes.h"

namespace latentwire {

void ByteWriter::append(const void* from, size_t size) {
  const auto* start = static_cast<const uint8_t*>(from);
  bytes_.insert(bytes_.end(), start, start + size);
}

}  // namespace latentwire
