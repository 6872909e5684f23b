#include "kernels/table.h"

#include <array>
#include <cstdlib>

#include "core/cpu_features.h"

namespace latentwire {
namespace {

struct Step {
  Isa isa;
  std::string_view name;
  void (*install)(Kernels&) noexcept;
  bool (*runs)(const CpuFeatures&) noexcept;
};

bool always(const CpuFeatures&) noexcept { return true; }

// the other compilers' flags and intrinsics are not sorted out: they get the plain table
#if defined(__GNUC__) && defined(__x86_64__)
bool has_avx2(const CpuFeatures& cpu) noexcept { return cpu.avx2 && cpu.fma && cpu.f16c; }
bool has_avx512(const CpuFeatures& cpu) noexcept { return has_avx2(cpu) && cpu.avx512f && cpu.avx512bw && cpu.avx512vl && cpu.avx512dq; }
bool has_avx512_vnni(const CpuFeatures& cpu) noexcept { return has_avx512(cpu) && cpu.avx512vnni; }
bool has_avx512_bf16(const CpuFeatures& cpu) noexcept { return has_avx512_vnni(cpu) && cpu.avx512bf16; }

constexpr std::array steps = {
    Step{Isa::scalar, "scalar", install_scalar, always},
    Step{Isa::avx2, "avx2", install_avx2, has_avx2},
    Step{Isa::avx512, "avx512", install_avx512, has_avx512},
    Step{Isa::avx512_vnni, "avx512_vnni", install_avx512_vnni, has_avx512_vnni},
    Step{Isa::avx512_bf16, "avx512_bf16", install_avx512_bf16, has_avx512_bf16},
};
#elif defined(__GNUC__) && defined(__aarch64__)
bool has_dotprod(const CpuFeatures& cpu) noexcept { return cpu.dotprod; }
bool has_i8mm(const CpuFeatures& cpu) noexcept { return has_dotprod(cpu) && cpu.i8mm; }
bool has_bf16(const CpuFeatures& cpu) noexcept { return has_i8mm(cpu) && cpu.bf16; }

constexpr std::array steps = {
    Step{Isa::scalar, "scalar", install_scalar, always},
    Step{Isa::neon, "neon", install_neon, always},
    Step{Isa::neon_dotprod, "neon_dotprod", install_neon_dotprod, has_dotprod},
    Step{Isa::neon_i8mm, "neon_i8mm", install_neon_i8mm, has_i8mm},
    Step{Isa::neon_bf16, "neon_bf16", install_neon_bf16, has_bf16},
};
#else
constexpr std::array steps = {Step{Isa::scalar, "scalar", install_scalar, always}};
#endif

// Each table is the one before it with some functions replaced.
std::vector<Kernels> make_tables() {
  std::vector<Kernels> tables;
  Kernels table;
  for (const Step& step : steps) {
    if (!step.runs(cpu_features())) break;
    step.install(table);
    table.isa = step.isa;
    tables.push_back(table);
  }
  return tables;
}

const Kernels& choose() {
  const std::vector<Kernels>& tables = all_kernels();
  if (const char* wanted = std::getenv("LATENTWIRE_ISA"); wanted != nullptr) {
    for (const Kernels& table : tables) {
      if (isa_name(table.isa) == wanted) return table;
    }
  }
  return tables.back();
}

}  // namespace

std::string_view isa_name(Isa isa) noexcept {
  for (const Step& step : steps) {
    if (step.isa == isa) return step.name;
  }
  return "unknown";
}

const std::vector<Kernels>& all_kernels() {
  static const std::vector<Kernels> tables = make_tables();
  return tables;
}

const Kernels& kernels() noexcept {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace latentwire
