// Lets the prebuilt binary run on the glibc that official Node binaries need (2.28). The static libstdc++ of GCC 11 and later reads
// __libc_single_threaded, which glibc has only since 2.32; this hidden definition satisfies it. Zero means "assume threads", which
// is always right in Node. Compiled only when linking against an older sysroot (LATENTWIRE_GLIBC_SYSROOT).

extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;

// exp, exp2, log, log2 and pow have a newer version since glibc 2.29, which differs in how it reports errors and nothing else. The linker
// sends every call here (--wrap), and from here it goes to the version that was there before.
#if defined(__x86_64__)
#define LATENTWIRE_FIRST_GLIBC "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define LATENTWIRE_FIRST_GLIBC "GLIBC_2.17"
#else
#error "which glibc was the first on this processor?"
#endif
#define LATENTWIRE_OLD(name)                                                       \
  extern "C" double latentwire_old_##name(double);                                 \
  __asm__(".symver latentwire_old_" #name ", " #name "@" LATENTWIRE_FIRST_GLIBC);  \
  extern "C" __attribute__((visibility("hidden"))) double __wrap_##name(double x); \
  double __wrap_##name(double x) { return latentwire_old_##name(x); }
LATENTWIRE_OLD(exp)
LATENTWIRE_OLD(exp2)
LATENTWIRE_OLD(log)
LATENTWIRE_OLD(log2)

extern "C" double latentwire_old_pow(double, double);
__asm__(".symver latentwire_old_pow, pow@" LATENTWIRE_FIRST_GLIBC);
extern "C" __attribute__((visibility("hidden"))) double __wrap_pow(double x, double y);
double __wrap_pow(double x, double y) { return latentwire_old_pow(x, y); }
