// Sizes of this processor's data caches.
#pragma once

#include <algorithm>
#include <cstddef>

#ifdef __linux__
#include <unistd.h>
#endif

namespace biprop {

namespace caches {

// A size in bytes as the system tells it, or else the usual one; not below `least` or above `most`.
inline size_t bytes([[maybe_unused]] int name, size_t usual, size_t least, size_t most) {
    long found = 0;
#ifdef _SC_LEVEL1_DCACHE_SIZE
    found = sysconf(name);
#endif
    return found > 0 ? std::clamp<size_t>(size_t(found), least, most) : usual;
}

#ifdef _SC_LEVEL1_DCACHE_SIZE
constexpr int kFirst = _SC_LEVEL1_DCACHE_SIZE, kSecond = _SC_LEVEL2_CACHE_SIZE;
#else
constexpr int kFirst = 0, kSecond = 0;
#endif

}  // namespace caches

// The first data cache, the fastest.
inline size_t first_cache() {
    static const size_t bytes = caches::bytes(caches::kFirst, 32 << 10, 16 << 10, 128 << 10);
    return bytes;
}

// The second one, of a core.
inline size_t second_cache() {
    static const size_t bytes = caches::bytes(caches::kSecond, 1 << 20, 256 << 10, 4 << 20);
    return bytes;
}

}  // namespace biprop
