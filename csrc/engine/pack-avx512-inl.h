// Packing of quantised activations for products of matrices, with AVX-512 (F, BW, VL): see MatrixKernels.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace {

// Stride 0 stands for any stride.
template <int Channels, int Stride>
void pack_quantised_of(const int16_t* from, size_t plane, int lanes, int stride, uint8_t flip, uint8_t* to) {
    const auto at = [&](int c) {
        return reinterpret_cast<const int16_t*>(reinterpret_cast<const uint8_t*>(from) + c * plane);
    };
    for (int i = 0; i < lanes; i += 16) {
        const __mmask16 there = lanes - i >= 16 ? 0xffff : __mmask16((1u << (lanes - i)) - 1);
        const auto read = [&](int c) {
            if (c >= Channels) return _mm256_setzero_si256();
            if (Stride == 1) return _mm256_maskz_loadu_epi16(there, at(c) + i);
            if (Stride == 2) {  // every second is the lower half of 32 bits
                const int count = lanes - i < 16 ? 2 * (lanes - i) - 1 : 31;
                return _mm512_cvtepi32_epi16(_mm512_maskz_loadu_epi16(__mmask32((1u << count) - 1), at(c) + i * 2));
            }
            int16_t some[16] = {};
            for (int k = 0; k < 16 && i + k < lanes; ++k) some[k] = at(c)[(i + k) * stride];
            return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(some));
        };
        // Joins the lower bytes of 16 bits, of two channels and then of four.
        const auto pair = [&](int c) {
            return _mm512_cvtepu16_epi32(
                _mm256_mask_blend_epi8(0xaaaaaaaa, read(c), _mm256_slli_epi16(read(c + 1), 8)));
        };
        const __m512i bytes = _mm512_or_si512(pair(0), _mm512_slli_epi32(pair(2), 16));
        _mm512_mask_storeu_epi32(to + i * 4, there, _mm512_xor_si512(bytes, _mm512_set1_epi8(char(flip))));
    }
}

void pack_quantised(const int16_t* from, size_t plane, int channels, int lanes, int stride, uint8_t flip,
                    uint8_t* to) {
    if (channels == 4 && stride == 1) return pack_quantised_of<4, 1>(from, plane, lanes, stride, flip, to);
    if (channels == 4 && stride == 2) return pack_quantised_of<4, 2>(from, plane, lanes, stride, flip, to);
    if (channels == 4) return pack_quantised_of<4, 0>(from, plane, lanes, stride, flip, to);
    if (channels == 3) return pack_quantised_of<3, 0>(from, plane, lanes, stride, flip, to);
    if (channels == 2) return pack_quantised_of<2, 0>(from, plane, lanes, stride, flip, to);
    return pack_quantised_of<1, 0>(from, plane, lanes, stride, flip, to);
}

}  // namespace
