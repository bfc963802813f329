// Plain C++, for every processor: the reference for the others.
#include <cstddef>
#include <cstdint>

#include "bits-generic.h"

namespace {

typedef float Floats __attribute__((vector_size(16)));
constexpr int kFloats = 4, kVectors = 4;
using Bits8 = GenericBits<8>;

// Adds neighbouring bits: the compiler's builtin would need an instruction or a library.
int ones(uint64_t x) {
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return int((x * 0x0101010101010101u) >> 56);
}

void popcounts(const uint64_t* x, int positions, const uint64_t* mask, const uint64_t* sign, int words,
               int16_t* counts) {
    for (int p = 0; p < positions; ++p) {
        int count = 0;
        for (int w = 0; w < words; ++w) count += ones(mask[w] & ~(x[size_t(w) * positions + p] ^ sign[w]));
        counts[p] = int16_t(count);
    }
}

void popcount(const uint64_t* x, const uint64_t* mask, const uint64_t* sign, int words, int16_t* count) {
    popcounts(x, 1, mask, sign, words, count);
}

Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

unsigned signs_of(Floats x) {
    unsigned bits = 0;
    for (int i = 0; i < kFloats; ++i) bits |= unsigned(x[i] >= 0) << i;
    return bits;
}
constexpr auto widen = generic_widen<16>;
constexpr auto compare = generic_compare;
constexpr auto largest_of_halves = generic_largest_of_halves;

using Vectors = VectorsOfBits<Bits8>;
constexpr bool kLooksUp = false;

}  // namespace

#include "kernels-inl.h"

namespace {

constexpr biprop::Kernels scalar_kernels() {
    biprop::Kernels table = shared_kernels(Vectors());
    table.name = "scalar";
    table.cycles_per_plane[0] = 1.4f;
    table.cycles_per_popcount = 30.0f;
    table.cycles_per_load = 0.6f;
    return table;
}

}  // namespace

constexpr biprop::Kernels biprop::kScalar = scalar_kernels();
