// AVX-VNNI beside AVX2: products of bytes, 32 an instruction.
#include <immintrin.h>

#include "vnni256-inl.h"

namespace {

struct AvxVnni : Vnni256 {
    static __m256i dot(__m256i sum, __m256i x, __m256i weights) { return _mm256_dpbusd_avx_epi32(sum, x, weights); }
};

}  // namespace

constexpr biprop::MatrixKernels biprop::kAvxVnni =
    products_table<Broadcasting<AvxVnni>>(generic_pack_quantised, Bytes::unsigned_by_signed, 680, 130);
