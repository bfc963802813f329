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

}  // namespace

#include "kernels-inl.h"

namespace {

void bits(const BitTile& t, int width) { width == 16 ? bits_in<Bits16>(t) : bits_in<Bits8>(t); }
void pack_rows(const uint8_t* plane, const int32_t* offset, const int64_t* shift, const uint64_t* mask, int taps,
               int width, uint8_t* out) {
    if (width == 16) return rows_in<Bits16>(plane, offset, shift, mask, taps, out);
    rows_in<Bits8>(plane, offset, shift, mask, taps, out);
}
constexpr auto pack_words = words_in<Bits16>;
void pack_cells(const uint8_t* plane, const int32_t* offset, const uint8_t* masks, int taps, int width, uint8_t* out) {
    width == 16 ? cells_in<Bits16>(plane, offset, masks, taps, out) : cells_in<Bits8>(plane, offset, masks, taps, out);
}

}  // namespace

const biprop::Kernels biprop::kNeon = {
    "neon",
    {16, 8, 0},
    {1.2f, 1.2f, 0},
    8.0f,
    kVectors,
    bits,
    nullptr,
    0,
    0,
    sum,
    sum_quantised,
    generic_dot,
    finish_quantised,
    pack_rows,
    pack_words,
    pack_cells,
    popcounts,
    popcount,
    widen,
    finish_counts,
    pool_counts,
    finish_floats,
    signs,
    compare,
    pool_floats,
    pool_quantised,
    pool_cells,
    pool_rows,
    split,
    false,
};
