// Loops over arrays of registers must be unrolled whole, and what takes such arrays by reference inlined, or the compiler keeps them in
// memory.
#pragma once

#ifdef _MSC_VER
#define LATENTWIRE_UNROLL
#define LATENTWIRE_INLINE __forceinline
#else
#define LATENTWIRE_UNROLL _Pragma("GCC unroll 64")
#define LATENTWIRE_INLINE __attribute__((always_inline)) inline
#endif
