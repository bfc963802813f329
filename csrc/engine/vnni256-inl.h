// Products of bytes with vectors of 32 bytes: see products-inl.h.
#pragma once

#include <immintrin.h>

#include "products-inl.h"

namespace {

// Instruction::dot adds the products of four bytes to 32-bit sums.
template <class Instruction>
struct Vnni256 : Products<Vnni256<Instruction>, 8> {
    using Base = Products<Vnni256<Instruction>, 8>;
    static constexpr int channels = 4, vectors = 3, most_steps = 1 << 24;
    using Sum = __m256i;
    using Input = __m256i;
    static Input read(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static const uint8_t* weights(const uint8_t* p) { return p; }
    template <int I>
    static Sum dot(Sum sum, Input x, const uint8_t* weights) {
        int four;
        std::memcpy(&four, weights + 4 * I, 4);
        return Instruction::dot(sum, x, _mm256_set1_epi32(four));
    }
    static typename Base::Lanes total(Sum sum) { return typename Base::Lanes(sum); }
};

}  // namespace
