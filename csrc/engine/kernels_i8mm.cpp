// NEON with products of matrices of 2 x 8 by 8 x 2 bytes (smmla): 32 products an instruction. Only the table of products
// is here.
#include <arm_neon.h>

#include "products-inl.h"

namespace {

int8x16_t bytes_at(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }

// The first or the last two of four lanes (or channels), of eight input channels each, from two groups of four.
template <bool Last>
int8x16_t pair_of(int8x16_t group, int8x16_t next) {
    const int32x4_t a = vreinterpretq_s32_s8(group), b = vreinterpretq_s32_s8(next);
    return vreinterpretq_s8_s32(Last ? vzip2q_s32(a, b) : vzip1q_s32(a, b));
}

struct I8mm : Products<I8mm, 4> {
    static constexpr int channels = 8, vectors = 2, most_steps = 1 << 24;

    // Sums of two channels and two lanes in each register: [pair of channels][pair of lanes].
    template <int N>
    struct Block {
        int32x4_t sum[channels / 2][2 * N];

        BIPROP_INLINE void clear() {
            for (auto& pair : sum)
                for (auto& s : pair) s = vdupq_n_s32(0);
        }
        // Two groups at a time. The weights of a last group without a partner have zeros beside them.
        BIPROP_INLINE void add(const uint8_t* input, const int32_t* places, size_t group_step, const uint8_t* weights,
                               int groups) {
            for (int g = 0; g < groups; g += 2, input += 2 * group_step, weights += 2 * kChunkGroupBytes) {
                int8x16_t x[2 * N], own[channels / 2];
#pragma GCC unroll 2
                for (int n = 0; n < N; ++n) {
                    const int8x16_t a = bytes_at(input + places[n]), b = bytes_at(input + places[n] + group_step);
                    x[2 * n] = pair_of<false>(a, b);
                    x[2 * n + 1] = pair_of<true>(a, b);
                }
#pragma GCC unroll 2
                for (int i = 0; i < 2; ++i) {
                    const int8x16_t a = bytes_at(weights + 16 * i), b = bytes_at(weights + 16 * i + kChunkGroupBytes);
                    own[2 * i] = pair_of<false>(a, b);
                    own[2 * i + 1] = pair_of<true>(a, b);
                }
#pragma GCC unroll 4
                for (int c = 0; c < channels / 2; ++c)
#pragma GCC unroll 4
                    for (int n = 0; n < 2 * N; ++n) sum[c][n] = vmmlaq_s32(sum[c][n], own[c], x[n]);
            }
        }
        BIPROP_INLINE void total(Lanes* totals) const {
            for (int c = 0; c < channels / 2; ++c)
                for (int n = 0; n < N; ++n) {
                    const int32x4_t a = sum[c][2 * n], b = sum[c][2 * n + 1];
                    totals[2 * c * N + n] = Lanes(vcombine_s32(vget_low_s32(a), vget_low_s32(b)));
                    totals[(2 * c + 1) * N + n] = Lanes(vcombine_s32(vget_high_s32(a), vget_high_s32(b)));
                }
        }
    };
};

}  // namespace

constexpr biprop::MatrixKernels biprop::kI8mm = {
    products<I8mm>, generic_pack_quantised, nullptr, 0, 128, true, 800, 160};
