#include "core/cpu_features.h"

#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace latentwire {

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) names.emplace_back("avx2");
  if (__builtin_cpu_supports("fma")) names.emplace_back("fma");
  if (__builtin_cpu_supports("avx512f")) names.emplace_back("avx512f");
  if (__builtin_cpu_supports("avx512bw")) names.emplace_back("avx512bw");
  if (__builtin_cpu_supports("avx512vl")) names.emplace_back("avx512vl");
  if (__builtin_cpu_supports("avx512dq")) names.emplace_back("avx512dq");
  if (__builtin_cpu_supports("avx512vnni")) names.emplace_back("avx512_vnni");
  if (__builtin_cpu_supports("avx512bf16")) names.emplace_back("avx512_bf16");
#elif defined(__linux__) && defined(__aarch64__)
  const unsigned long first = getauxval(AT_HWCAP);
  const unsigned long second = getauxval(AT_HWCAP2);
  if ((first & HWCAP_ASIMD) != 0) names.emplace_back("asimd");
  if ((first & HWCAP_ASIMDDP) != 0) names.emplace_back("asimddp");
  if ((first & HWCAP_SVE) != 0) names.emplace_back("sve");
  if ((second & HWCAP2_BF16) != 0) names.emplace_back("bf16");
  if ((second & HWCAP2_I8MM) != 0) names.emplace_back("i8mm");
#endif
  return names;
}

}  // namespace latentwire
