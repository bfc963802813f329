// NEON (AArch64): vectors of 16 bytes.
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "bits-generic.h"

namespace {

typedef float Floats __attribute__((vector_size(16)));
constexpr int kFloats = 4, kVectors = 4;
using Bits16 = GenericBits<16>;
using Bits8 = GenericBits<8>;

uint64x2_t ones(uint64x2_t x) { return vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(vcntq_u8(vreinterpretq_u8_u64(x))))); }

void popcounts(const uint64_t* x, int positions, const uint64_t* mask, const uint64_t* sign, int words,
               int16_t* counts) {
    for (int p = 0; p < positions; p += 2) {
        uint64x2_t sum = vdupq_n_u64(0);
        for (int w = 0; w < words; ++w)
            sum = vaddq_u64(sum,
                            ones(vbicq_u64(vdupq_n_u64(mask[w]),
                                           veorq_u64(vld1q_u64(x + size_t(w) * positions + p), vdupq_n_u64(sign[w])))));
        counts[p] = int16_t(vgetq_lane_u64(sum, 0));
        counts[p + 1] = int16_t(vgetq_lane_u64(sum, 1));
    }
}

void popcount(const uint64_t* x, const uint64_t* mask, const uint64_t* sign, int words, int16_t* count) {
    uint64x2_t sum = vdupq_n_u64(0);
    for (int w = 0; w < words; w += 2)
        sum = vaddq_u64(sum, ones(vbicq_u64(vld1q_u64(mask + w), veorq_u64(vld1q_u64(x + w), vld1q_u64(sign + w)))));
    *count = int16_t(vaddvq_u64(sum));
}

Floats multiply_add(Floats a, Floats b, Floats c) {
    return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

unsigned signs_of(Floats x) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgezq_f32((float32x4_t)x), vld1q_u32(weights)));
}
constexpr auto widen = generic_widen<16>;
constexpr auto compare = generic_compare;
constexpr auto largest_of_halves = generic_largest_of_halves;

using Vectors = VectorsOfBits<Bits16, Bits8>;
constexpr bool kLooksUp = false;

}  // namespace

#include "kernels-inl.h"

namespace {

constexpr biprop::Kernels neon_kernels() {
    biprop::Kernels table = shared_kernels(Vectors());
    table.name = "neon";
    table.cycles_per_plane[0] = 1.2f;
    table.cycles_per_plane[1] = 1.2f;
    table.cycles_per_popcount = 8.0f;
    table.cycles_per_load = 0.5f;
    return table;
}

}  // namespace

constexpr biprop::Kernels biprop::kNeon = neon_kernels();
