// Macros that all files of the core use.
#pragma once

#ifdef _MSC_VER
#define BIPROP_EXPORT extern "C" __declspec(dllexport)
#define BIPROP_INLINE __forceinline
#else
#define BIPROP_EXPORT extern "C" __attribute__((visibility("default")))
#define BIPROP_INLINE __attribute__((always_inline))
#endif
