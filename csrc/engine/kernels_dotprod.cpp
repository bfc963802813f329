// NEON with dot products of bytes (sdot): 16 products an instruction. Only the table of products is here.
#include <arm_neon.h>

#include "products-inl.h"

namespace {

struct DotProd : Products<DotProd, 4> {
    static constexpr int channels = 8, vectors = 2, most_steps = 1 << 24;
    using Sum = int32x4_t;
    using Input = int8x16_t;
    static Input read(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
    static int8x16_t weights(const uint8_t* p) { return read(p); }  // of four channels
    template <int I>
    static Sum dot(Sum sum, Input x, int8x16_t weights) {
        return vdotq_laneq_s32(sum, x, weights, I);
    }
    static Lanes total(Sum sum) { return Lanes(sum); }
};

}  // namespace

constexpr biprop::MatrixKernels biprop::kDotProd = {
    products<DotProd>, generic_pack_quantised, nullptr, 0, 128, true, 1200, 160};
