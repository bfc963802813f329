// AVX-VNNI beside AVX2: products of bytes, 32 an instruction.
#include <immintrin.h>

#include "vnni256-inl.h"

namespace {

struct AvxVnni {
    static __m256i dot(__m256i sum, __m256i x, __m256i weights) { return _mm256_dpbusd_avx_epi32(sum, x, weights); }
};

}  // namespace

constexpr biprop::MatrixKernels biprop::kAvxVnni = {products<Vnni256<AvxVnni>>, generic_pack_quantised, nullptr, 128, 0,
                                                    true, 600, 100};
