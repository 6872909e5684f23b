// Lets the prebuilt binary run on the glibc that official Node binaries need (2.28). The static libstdc++ of GCC 11 and later reads
// __libc_single_threaded, which glibc has only since 2.32; this hidden definition satisfies it. Zero means "assume threads", which
// is always right in Node. Compiled only when linking against an older sysroot (LATENTWIRE_GLIBC_SYSROOT).

extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
