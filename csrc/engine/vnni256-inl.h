// Products of bytes with vectors of 32 bytes: see products-inl.h.
#pragma once

#include <immintrin.h>

#include "products-inl.h"

namespace {

// What instructions have in common that add the products of four bytes to 32-bit sums; see Broadcasting.
struct Vnni256 {
    using Register = __m256i;
    static constexpr int lanes = 8, channels = 4, vectors = 3, most_steps = 1 << 24;
    static Register to_all_lanes(int four) { return _mm256_set1_epi32(four); }
    static Register total(Register sum) { return sum; }
};

}  // namespace
