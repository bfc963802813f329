// AVX2 and FMA: vectors of 32 bytes. Compiled with -mavx2 -mfma; runs only on processors that have both.
#include <immintrin.h>

#include <cstdint>

#include "bits-generic.h"

namespace {

typedef float Floats __attribute__((vector_size(32)));
constexpr int kFloats = 8, kVectors = 4;
struct Bits32 : GenericBits<32> {
    static T look_up(const uint8_t* table, T places) {
        const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
        return T(_mm256_shuffle_epi8(bytes, __m256i(places)));
    }
};
using Bits8 = GenericBits<8>;

// Planes of 64 positions, four channels at once.
struct Gathered : Bits32 {
    static constexpr int width = 8, channels = 4;
    static uint64_t word(const uint8_t* p) {
        uint64_t word;
        std::memcpy(&word, p, sizeof word);
        return word;
    }
    template <class Word>
    static T of_four(const Word& word) {
        return T{word(0), word(1), word(2), word(3)};
    }
    static constexpr int per_eight = 32;
    static auto reader(const uint8_t* planes, const uint16_t* tap) {
        return [=](int i) {
            const uint16_t* own = tap + 4 * i;
            return of_four([=](int k) { return word(planes + size_t(own[k]) * 8); });
        };
    }
    static T load_out(const uint8_t* p, size_t step, int group, const uint32_t* order) {
        return of_four([&](int i) { return word(p + order[4 * group + i] * step); });
    }
    static void store_out(uint8_t* p, size_t step, int group, const uint32_t* order, T v) {
        for (int i = 0; i < 4; ++i) std::memcpy(p + order[4 * group + i] * step, &v[i], 8);
    }
    static T load_flips(const uint8_t* flips, int group, const uint32_t* order) {
        return of_four([&](int i) { return flips[order[4 * group + i]] ? ~uint64_t(0) : 0; });
    }
    static T load_valid(const uint8_t* p) { return same(word(p)); }
};

// Population count of bytes by two table look-ups (Mula's method), summed to 64-bit lanes.
__m256i ones(__m256i x) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                           2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i sum = _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(x, low)),
                                        _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), low)));
    return _mm256_sad_epu8(sum, _mm256_setzero_si256());
}

__m256i load(const uint64_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

void popcounts(const uint64_t* x, int positions, const uint64_t* mask, const uint64_t* sign, int words,
               int16_t* counts) {
    for (int p = 0; p < positions; p += 4) {
        __m256i sum = _mm256_setzero_si256();
        const uint64_t* from = x + p;
        for (int w = 0; w < words; ++w, from += positions) {
            const __m256i differ = _mm256_xor_si256(load(from), _mm256_set1_epi64x((long long)sign[w]));
            sum = _mm256_add_epi64(sum, ones(_mm256_andnot_si256(differ, _mm256_set1_epi64x((long long)mask[w]))));
        }
        uint64_t parts[4];
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(parts), sum);
        for (int i = 0; i < 4; ++i) counts[p + i] = int16_t(parts[i]);
    }
}

void popcount(const uint64_t* x, const uint64_t* mask, const uint64_t* sign, int words, int16_t* count) {
    __m256i sum = _mm256_setzero_si256();
    for (int w = 0; w < words; w += 4)
        sum = _mm256_add_epi64(
            sum, ones(_mm256_andnot_si256(_mm256_xor_si256(load(x + w), load(sign + w)), load(mask + w))));
    uint64_t parts[4];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(parts), sum);
    *count = int16_t(parts[0] + parts[1] + parts[2] + parts[3]);
}

Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

unsigned signs_of(Floats x) { return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GE_OQ))); }
constexpr auto widen = generic_widen<32>;
constexpr auto compare = generic_compare;
constexpr auto largest_of_halves = generic_largest_of_halves;

}  // namespace

#include "kernels-inl.h"

namespace {

void gathered(const BitTile& t) { bits_in<Gathered>(t); }
void bits(const BitTile& t, int width) {
    if (t.places) return bits_in<Tabled<Bits32>>(t);
    width == 32 ? bits_in<Bits32>(t) : bits_in<Bits8>(t);
}
void pack_rows(const uint8_t* plane, const int32_t* offset, const int64_t* shift, const uint64_t* mask, int taps,
               int width, uint8_t* out) {
    if (width == 32) return rows_in<Bits32>(plane, offset, shift, mask, taps, out);
    rows_in<Bits8>(plane, offset, shift, mask, taps, out);
}
constexpr auto pack_words = words_in<Bits32>;
void pack_cells(const uint8_t* plane, const int32_t* offset, const uint8_t* masks, int taps, int width, uint8_t* out) {
    width == 32 ? cells_in<Bits32>(plane, offset, masks, taps, out) : cells_in<Bits8>(plane, offset, masks, taps, out);
}

}  // namespace

const biprop::Kernels biprop::kAvx2 = {
    "avx2",
    {32, 8, 0},
    {1.7f, 1.4f, 0},
    6.0f,
    kVectors,
    bits,
    gathered,
    4,
    3.3f,
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
    true,
};
