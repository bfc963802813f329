// NEON (AArch64): vectors of 16 bytes.
#include <arm_neon.h>

#include "vectors16-inl.h"

namespace {

// A full adder is three instructions, because one selects bits from two registers. There are enough registers for trees
// of adders, of which few add complements.
struct Bits16 : GenericBits<16> {
    static constexpr bool in_chains = false;
    static T choose(T where, T a, T b) { return T(vbslq_u64(uint64x2_t(where), uint64x2_t(a), uint64x2_t(b))); }
    template <bool Not>
    static void add(T& sum, T a, T b, T& carry) {
        const T u = a ^ b;
        carry = choose(u, sum, Not ? ~a : a);
        sum ^= u;
    }
    static T at_least_step(T count, T threshold, T below) { return choose(count ^ threshold, count, below); }
};
using Vectors = VectorsOfBits<Bits16, GenericBits<8>>;

// How many bits of 64 channels agree, in bytes.
uint8x16_t agreeing(uint64x2_t x, uint64x2_t mask, uint64x2_t sign) {
    return vcntq_u8(vreinterpretq_u8_u64(vbicq_u64(mask, veorq_u64(x, sign))));
}

// Eight positions in four registers of 16-bit numbers, which hold the sums of 65,533 taps: four numbers a position, one
// after adding neighbours twice.
void popcounts(const uint64_t* x, int positions, const uint64_t* mask, const uint64_t* sign, int words,
               int16_t* counts) {
    for (int p = 0; p < positions; p += 8) {
        uint16x8_t sum[4] = {vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0)};
        const uint64_t* from = x + p;
        for (int w = 0; w < words; ++w, from += positions) {
            const uint64x2_t m = vdupq_n_u64(mask[w]), s = vdupq_n_u64(sign[w]);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) sum[i] = vpadalq_u8(sum[i], agreeing(vld1q_u64(from + 2 * i), m, s));
        }
        const uint16x8_t four = vpaddq_u16(sum[0], sum[1]), others = vpaddq_u16(sum[2], sum[3]);
        vst1q_s16(counts + p, vreinterpretq_s16_u16(vpaddq_u16(four, others)));
    }
}

void popcount(const uint64_t* x, const uint64_t* mask, const uint64_t* sign, int words, int16_t* count) {
    uint16x8_t sum = vdupq_n_u16(0);
    for (int w = 0; w < words; w += 2)
        sum = vpadalq_u8(sum, agreeing(vld1q_u64(x + w), vld1q_u64(mask + w), vld1q_u64(sign + w)));
    *count = int16_t(vaddvq_u16(sum));
}

Floats multiply_add(Floats a, Floats b, Floats c) {
    return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

unsigned signs_of(Floats x) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgezq_f32((float32x4_t)x), vld1q_u32(weights)));
}

// 64 bits from 64 bytes that are 0 or 255.
uint64_t bits_of_bytes(const uint8x16_t* bytes) {
    const uint8x16_t places = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    uint8x16_t own[4];
    for (int i = 0; i < 4; ++i) own[i] = vandq_u8(bytes[i], places);
    const uint8x16_t quarters = vpaddq_u8(vpaddq_u8(own[0], own[1]), vpaddq_u8(own[2], own[3]));
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(quarters, quarters)), 0);
}

// The signs of 64 numbers by way of bytes.
inline void store_signs(const Floats* x, uint8_t* to) {
    const auto pair = [&](int i) {
        return vuzp1q_u16(vreinterpretq_u16_u32(vcgezq_f32((float32x4_t)x[i])),
                          vreinterpretq_u16_u32(vcgezq_f32((float32x4_t)x[i + 1])));
    };
    uint8x16_t bytes[4];
    for (int i = 0; i < 4; ++i)
        bytes[i] = vuzp1q_u8(vreinterpretq_u8_u16(pair(4 * i)), vreinterpretq_u8_u16(pair(4 * i + 2)));
    const uint64_t bits = bits_of_bytes(bytes);
    std::memcpy(to, &bits, 8);
}

uint64_t compare(const int16_t* counts, const uint16_t* thresholds, int n) {
    if (n < 64) return generic_compare(counts, thresholds, n);
    const auto eight = [&](int i) {
        const uint16x8_t own = vreinterpretq_u16_s16(vld1q_s16(counts + i));
        return vreinterpretq_u8_u16(vcgeq_u16(own, vld1q_u16(thresholds + i)));
    };
    uint8x16_t bytes[4];
    for (int i = 0; i < 4; ++i) bytes[i] = vuzp1q_u8(eight(16 * i), eight(16 * i + 8));
    return bits_of_bytes(bytes);
}

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
