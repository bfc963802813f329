// What all files of the core share.
#pragma once

#ifdef _MSC_VER
#define BIPROP_EXPORT extern "C" __declspec(dllexport)
#define BIPROP_INLINE __forceinline
#else
#define BIPROP_EXPORT extern "C" __attribute__((visibility("default")))
#define BIPROP_INLINE __attribute__((always_inline))
#endif

// Compiled for three generations of processors; the fitting one is chosen when the library is loaded.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define BIPROP_FASTEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define BIPROP_FASTEST
#endif
