#include "core/cpu_features.h"

#include <array>
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#define LATENTWIRE_X86 1
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#define LATENTWIRE_ARM 1
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

namespace latentwire {
namespace {

#ifdef LATENTWIRE_X86

struct Registers {
  uint32_t eax, ebx, ecx, edx;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) noexcept {
#ifdef _MSC_VER
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  return {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]), static_cast<uint32_t>(out[3])};
#else
  Registers out{};
  __cpuid_count(leaf, subleaf, out.eax, out.ebx, out.ecx, out.edx);
  return out;
#endif
}

// The register sets that the operating system saves.
uint64_t enabled_state() noexcept {
#ifdef _MSC_VER
  return _xgetbv(0);
#else
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

constexpr bool bit(uint32_t word, int index) noexcept { return ((word >> index) & 1U) != 0; }

CpuFeatures detect() noexcept {
  CpuFeatures cpu;
  const uint32_t leaves = cpuid(0, 0).eax;
  const Registers one = cpuid(1, 0);
  cpu.sse42 = bit(one.ecx, 20);
  if (!bit(one.ecx, 27)) return cpu;  // the system saves no extended state
  const uint64_t state = enabled_state();
  const bool ymm = (state & 0x6) == 0x6;
  const bool zmm = (state & 0xE6) == 0xE6;
  const bool tiles = (state & 0x60000) == 0x60000;
  const Registers seven = leaves >= 7 ? cpuid(7, 0) : Registers{};
  const Registers seven_one = leaves >= 7 && seven.eax >= 1 ? cpuid(7, 1) : Registers{};

  cpu.avx = ymm && bit(one.ecx, 28);
  cpu.fma = cpu.avx && bit(one.ecx, 12);
  cpu.f16c = cpu.avx && bit(one.ecx, 29);
  cpu.avx2 = cpu.avx && bit(seven.ebx, 5);
  cpu.avx512f = zmm && bit(seven.ebx, 16);
  cpu.avx512dq = cpu.avx512f && bit(seven.ebx, 17);
  cpu.avx512bw = cpu.avx512f && bit(seven.ebx, 30);
  cpu.avx512vl = cpu.avx512f && bit(seven.ebx, 31);
  cpu.avx512vnni = cpu.avx512f && bit(seven.ecx, 11);
  cpu.avx512fp16 = cpu.avx512f && bit(seven.edx, 23);
  cpu.avx512bf16 = cpu.avx512f && bit(seven_one.eax, 5);
  cpu.amx_tile = tiles && bit(seven.edx, 24);
  cpu.amx_int8 = cpu.amx_tile && bit(seven.edx, 25);
  cpu.amx_bf16 = cpu.amx_tile && bit(seven.edx, 22);
  return cpu;
}

#elif defined(LATENTWIRE_ARM)

#ifdef __APPLE__
bool sysctl_flag(const char* name) noexcept {
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
#endif

CpuFeatures detect() noexcept {
  CpuFeatures cpu;
  cpu.neon = true;
#if defined(__linux__)
  // bit numbers of the kernel's arm64 hwcaps; spelled out because older headers lack the later names
  const unsigned long first = getauxval(AT_HWCAP);
  const unsigned long second = getauxval(AT_HWCAP2);
  const auto bit = [](unsigned long word, int index) { return ((word >> index) & 1UL) != 0; };
  cpu.fp16 = bit(first, 10);
  cpu.dotprod = bit(first, 20);
  cpu.sve = bit(first, 22);
  cpu.sve2 = bit(second, 1);
  cpu.i8mm = bit(second, 13);
  cpu.bf16 = bit(second, 14);
#elif defined(__APPLE__)
  cpu.fp16 = sysctl_flag("hw.optional.arm.FEAT_FP16");
  cpu.dotprod = sysctl_flag("hw.optional.arm.FEAT_DotProd");
  cpu.i8mm = sysctl_flag("hw.optional.arm.FEAT_I8MM");
  cpu.bf16 = sysctl_flag("hw.optional.arm.FEAT_BF16");
#endif
  return cpu;
}

#else

CpuFeatures detect() noexcept { return {}; }

#endif

struct Named {
  std::string_view name;
  bool CpuFeatures::*present;
};

constexpr std::array<Named, 22> all = {{
    {"sse4.2", &CpuFeatures::sse42},
    {"avx", &CpuFeatures::avx},
    {"avx2", &CpuFeatures::avx2},
    {"fma", &CpuFeatures::fma},
    {"f16c", &CpuFeatures::f16c},
    {"avx512f", &CpuFeatures::avx512f},
    {"avx512bw", &CpuFeatures::avx512bw},
    {"avx512dq", &CpuFeatures::avx512dq},
    {"avx512vl", &CpuFeatures::avx512vl},
    {"avx512vnni", &CpuFeatures::avx512vnni},
    {"avx512bf16", &CpuFeatures::avx512bf16},
    {"avx512fp16", &CpuFeatures::avx512fp16},
    {"amx-tile", &CpuFeatures::amx_tile},
    {"amx-int8", &CpuFeatures::amx_int8},
    {"amx-bf16", &CpuFeatures::amx_bf16},
    {"neon", &CpuFeatures::neon},
    {"fp16", &CpuFeatures::fp16},
    {"dotprod", &CpuFeatures::dotprod},
    {"i8mm", &CpuFeatures::i8mm},
    {"bf16", &CpuFeatures::bf16},
    {"sve", &CpuFeatures::sve},
    {"sve2", &CpuFeatures::sve2},
}};

}  // namespace

const CpuFeatures& cpu_features() noexcept {
  static const CpuFeatures features = detect();
  return features;
}

std::vector<std::string_view> cpu_feature_names() {
  std::vector<std::string_view> names;
  for (const Named& feature : all) {
    if (cpu_features().*feature.present) names.push_back(feature.name);
  }
  return names;
}

}  // namespace latentwire
