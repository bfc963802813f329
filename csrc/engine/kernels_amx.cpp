// AMX beside AVX-512: products of matrices, which the processor holds in tiles of 16 rows of 64 bytes. Only have_amx
// may run on any processor.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 finds its own header's undefined vectors
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include "pack-avx512-inl.h"

namespace {

using biprop::MatrixTile;

struct alignas(64) TileConfig {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

template <class Bits>
Bits load(const uint8_t* p) {
    Bits bits;
    std::memcpy(&bits, p, sizeof bits);
    return bits;
}

// Expands the bits of the kept and of the negative weights of a step to numbers, 64 bytes a row.
inline __attribute__((always_inline)) void expand(const uint8_t* kept, const uint8_t* negative, bool quantised,
                                                  uint8_t* to) {
    for (int i = 0; i < 32; ++i, to += 64) {
        __m512i row;
        if (quantised)
            row = _mm512_mask_set1_epi8(_mm512_maskz_set1_epi8(load<uint64_t>(kept + 8 * i), 1),
                                        load<uint64_t>(negative + 8 * i), -1);
        else
            row = _mm512_mask_set1_epi16(_mm512_maskz_set1_epi16(load<uint32_t>(kept + 4 * i), 0x3f80),
                                         load<uint32_t>(negative + 4 * i), short(0xbf80));
        _mm512_storeu_si512(to, row);
    }
}

// The instructions name tiles by constants.
#define BIPROP_PRODUCT(SUMS, WEIGHTS, INPUT)           \
    do {                                               \
        if (Kind == MatrixTile::floats)                \
            _tile_dpbf16ps(SUMS, WEIGHTS, INPUT);      \
        else if (Kind == MatrixTile::signed_quantised) \
            _tile_dpbssd(SUMS, WEIGHTS, INPUT);        \
        else                                           \
            _tile_dpbsud(SUMS, WEIGHTS, INPUT);        \
    } while (false)

// Tiles 0 .. 3: sums, of two times 16 output channels by two times 16 lanes; 4 and 5: weights; 6 and 7: input.
template <int Kind, bool Two>
void tiles_of(const MatrixTile& t, int tile, int first, int last) {
    const uint8_t* input = t.input + t.tiles[tile];
    const int apart = Two ? t.tiles[tile + 1] - t.tiles[tile] : 0;
    const size_t lanes = t.sum_step;
    float* to = t.sums + tile * 16;
    if (first) {
        _tile_loadd(0, to, lanes * 4);
        _tile_loadd(1, to + 16 * lanes, lanes * 4);
        if (Two) _tile_loadd(2, to + 16, lanes * 4);
        if (Two) _tile_loadd(3, to + 16 * lanes + 16, lanes * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    uint8_t* weights = t.weights;
    const auto expand_step = [&](int k, uint8_t* to) {
        const size_t done = size_t(k) * 32 * (Kind != MatrixTile::floats ? 8 : 4);
        expand(t.kept + done, t.negative + done, Kind != MatrixTile::floats, to);
    };
    if (tile == 0) expand_step(first, weights);
    for (int k = first; k < last; ++k, weights += 2048) {
        if (tile == 0 && k + 1 < last) expand_step(k + 1, weights + 2048);  // while tiles are multiplied
        asm volatile("" ::: "memory");  // GCC does not know that tiles are read from memory
        const uint8_t* from = input + t.steps[k];
        for (int part = 0; part < (Kind == MatrixTile::floats ? 3 : 1); ++part, from += t.part_step) {
            if (part == 0) _tile_loadd(4, weights, 64);
            _tile_loadd(6, from, t.group_step);
            BIPROP_PRODUCT(0, 4, 6);
            if (part == 0) _tile_loadd(5, weights + 1024, 64);
            BIPROP_PRODUCT(1, 5, 6);
            if (!Two) continue;
            _tile_loadd(7, from + apart, t.group_step);
            BIPROP_PRODUCT(2, 4, 7);
            BIPROP_PRODUCT(3, 5, 7);
        }
    }
    _tile_stored(0, to, lanes * 4);
    _tile_stored(1, to + 16 * lanes, lanes * 4);
    if (Two) _tile_stored(2, to + 16, lanes * 4);
    if (Two) _tile_stored(3, to + 16 * lanes + 16, lanes * 4);
    if (Kind == MatrixTile::floats || last < t.step_count) return;
    for (int c = 0; c < 32; ++c, to += lanes)
        for (int v = 0; v < (Two ? 32 : 16); v += 16)
            _mm512_storeu_ps(to + v, _mm512_cvtepi32_ps(_mm512_loadu_si512(to + v)));
}

template <int Kind>
void multiply_of(const MatrixTile& t) {
    // Not on the stack: GCC assumes that only the first bytes are read, and would not write the others.
    static constexpr TileConfig config;
    _tile_loadconfig(&config);
    for (int first = 0; first < t.step_count; first += t.at_once) {
        const int last = first + t.at_once < t.step_count ? first + t.at_once : t.step_count;
        int tile = 0;
        for (; tile + 2 <= t.tile_count; tile += 2) tiles_of<Kind, true>(t, tile, first, last);
        if (tile < t.tile_count) tiles_of<Kind, false>(t, tile, first, last);
    }
    _tile_release();
}

void multiply(const MatrixTile& t) {
    if (t.kind == MatrixTile::floats) return multiply_of<MatrixTile::floats>(t);
    if (t.kind == MatrixTile::signed_quantised) return multiply_of<MatrixTile::signed_quantised>(t);
    multiply_of<MatrixTile::unsigned_quantised>(t);
}

// The upper half of a float's bits is a bfloat16 number of eight significant bits; doing this twice more with the
// remainder gives the exact sum of three.
template <bool Both, bool Next>
void pack_floats_of(const float* from, const float* second, int lanes, int stride, size_t part_step, uint8_t* to) {
    if (Next) stride = 1;
    for (int i = 0; i < lanes; i += 16) {
        const __mmask16 there = lanes - i >= 16 ? 0xffff : __mmask16((1u << (lanes - i)) - 1);
        const __m512i upper = _mm512_set1_epi32(int(0xffff0000));
        const __m512i places = _mm512_mullo_epi32(
            _mm512_set1_epi32(stride), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        const auto read = [&](const float* p) {
            return Next ? _mm512_maskz_loadu_ps(there, p + i)
                        : _mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, places, p + i * stride, 4);
        };
        __m512 a = read(from), b = Both ? read(second) : _mm512_setzero_ps();
        for (int part = 0; part < 3; ++part) {
            const __m512i high_a = _mm512_and_si512(_mm512_castps_si512(a), upper);
            const __m512i high_b = _mm512_and_si512(_mm512_castps_si512(b), upper);
            _mm512_mask_storeu_epi32(to + part * part_step + i * 4, there,
                                     _mm512_or_si512(_mm512_srli_epi32(high_a, 16), high_b));
            a = _mm512_sub_ps(a, _mm512_castsi512_ps(high_a));
            b = _mm512_sub_ps(b, _mm512_castsi512_ps(high_b));
        }
    }
}

void pack_floats(const float* from, size_t plane, int channels, int lanes, int stride, size_t part_step, uint8_t* to) {
    const float* second = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(from) + plane);
    if (channels == 1) return pack_floats_of<false, false>(from, from, lanes, stride, part_step, to);
    if (stride == 1) return pack_floats_of<true, true>(from, second, lanes, 1, part_step, to);
    pack_floats_of<true, false>(from, second, lanes, stride, part_step, to);
}

}  // namespace

constexpr biprop::MatrixKernels biprop::kAmx = {multiply, pack_quantised, pack_floats, 0, 0, false, 30, 80};

bool biprop::have_amx() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25;
    if ((d & bf16) == 0 || (d & tile) == 0 || (d & int8) == 0) return false;
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, for the whole process
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}
