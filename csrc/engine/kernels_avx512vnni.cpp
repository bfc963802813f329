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

struct Vnni512 {
    using Register = __m512i;
    static constexpr int lanes = 16, channels = 8, vectors = 3, most_steps = 1 << 24;
    static Register to_all_lanes(int four) { return _mm512_set1_epi32(four); }
    static Register dot(Register sum, Register x, Register weights) { return _mm512_dpbusd_epi32(sum, x, weights); }
    static Register total(Register sum) { return sum; }
};

struct Vl : Vnni256 {
    static __m256i dot(__m256i sum, __m256i x, __m256i weights) { return _mm256_dpbusd_epi32(sum, x, weights); }
};

}  // namespace

constexpr biprop::MatrixKernels biprop::kAvx512Vnni =
    products_table<Broadcasting<Vnni512>>(pack_quantised, Bytes::unsigned_by_signed, 512, 100);
constexpr biprop::MatrixKernels biprop::kVnni256 =
    products_table<Broadcasting<Vl>>(generic_pack_quantised, Bytes::unsigned_by_signed, 680, 130);
