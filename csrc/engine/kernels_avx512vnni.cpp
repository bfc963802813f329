// AVX512-VNNI beside AVX-512: products of bytes, 64 an instruction. The same for vectors of 32 bytes stands in for
// AVX-VNNI, which has the same instruction in another encoding.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 finds its own header's undefined vectors
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "pack-avx512-inl.h"
#include "products-inl.h"
#include "vnni256-inl.h"

namespace {

struct Vnni512 : Products<Vnni512, 16> {
    static constexpr int channels = 8, vectors = 3, most_steps = 1 << 24;
    using Sum = __m512i;
    using Input = __m512i;
    static Input read(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static const uint8_t* weights(const uint8_t* p) { return p; }
    template <int I>
    static Sum dot(Sum sum, Input x, const uint8_t* weights) {
        int four;
        std::memcpy(&four, weights + 4 * I, 4);
        return _mm512_dpbusd_epi32(sum, x, _mm512_set1_epi32(four));
    }
    static Lanes total(Sum sum) { return Lanes(sum); }
};

struct Vl {
    static __m256i dot(__m256i sum, __m256i x, __m256i weights) { return _mm256_dpbusd_epi32(sum, x, weights); }
};

}  // namespace

constexpr biprop::MatrixKernels biprop::kAvx512Vnni = {products<Vnni512>, pack_quantised, nullptr, 128, 0, true, 512,
                                                       100};
constexpr biprop::MatrixKernels biprop::kVnni256 = {products<Vnni256<Vl>>, generic_pack_quantised, nullptr, 128, 0,
                                                    true, 600, 100};
