// What the processor and the operating system together allow: an instruction set counts only if its registers are saved on a context
// switch.
#pragma once

#include <string_view>
#include <vector>

namespace latentwire {

struct CpuFeatures {
  // x86-64
  bool sse42 = false, avx = false, avx2 = false, fma = false, f16c = false;
  bool avx512f = false, avx512bw = false, avx512dq = false, avx512vl = false;
  bool avx512vnni = false, avx512bf16 = false, avx512fp16 = false;
  // Present and enabled; on Linux a process must still ask for the tile registers before the first use.
  bool amx_tile = false, amx_int8 = false, amx_bf16 = false;
  // arm64
  bool neon = false, fp16 = false, dotprod = false, i8mm = false, bf16 = false, sve = false, sve2 = false;
};

// Detected once.
const CpuFeatures& cpu_features() noexcept;
// The names of those present, as "avx512vnni" or "amx-int8".
std::vector<std::string_view> cpu_feature_names();

}  // namespace latentwire
