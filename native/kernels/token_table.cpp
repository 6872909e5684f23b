#include "kernels/token_table.h"

#include <algorithm>
#include <array>
#include <string>

#include "kernels/table.h"

namespace latentwire {

std::string_view row_format_name(RowFormat format) noexcept {
  constexpr std::array<std::string_view, 7> names = {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_K", "q6_K"};
  return names[static_cast<size_t>(format)];
}

Status check_readable(const TokenTable& table) {
  const auto refuse = [](std::string why) { return Status::fail(Code::invalid_argument, std::move(why)); };
  const std::string format(row_format_name(table.format));
  const int64_t columns = row_unit_columns(table.format);
  if (table.width < 1 || table.width % columns != 0)
    return refuse("rows of " + format + " cannot have " + std::to_string(table.width) + " columns");
  if (table.stride() < table.tight_bytes())
    return refuse("rows of " + std::to_string(table.stride()) + " bytes are too short for " + std::to_string(table.width) + " columns");
  if (table.data == nullptr) return refuse("the table of tokens has no data");
  const int64_t alignment = columns == 1 ? row_unit_bytes(table.format) : 1;
  if (table.stride() % alignment != 0 || reinterpret_cast<uintptr_t>(table.data) % static_cast<uintptr_t>(alignment) != 0)
    return refuse("rows of " + format + " must lie at multiples of their element's size");
  return {};
}

void read_rows(const TokenTable& table, const int32_t* ids, int64_t first, int64_t count, float* out) noexcept {
  const auto sum_rows = kernels().thought.sum_rows;
  const float one = 1;
  std::fill_n(out, count * table.width, 0.0F);
  for (int64_t i = 0; i < count; i++) {
    const int64_t row = ids == nullptr ? first + i : ids[i];
    sum_rows({table.format, static_cast<const uint8_t*>(table.data), table.stride(), table.width, nullptr, row, 1, &one, 1, 1,
              out + i * table.width, table.width});
  }
}

}  // namespace latentwire
