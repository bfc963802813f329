// AVX2 and FMA: vectors of 32 bytes. Compiled with -mavx2 -mfma; runs only on processors that have both.
#include <immintrin.h>

#include <cstdint>

#include "bits-generic.h"

namespace {

typedef float Floats __attribute__((vector_size(32)));
constexpr int kFloats = 8, kVectors = 4;
template <int Width>
struct PairsOfBits : GenericBits<Width> {
    static constexpr bool in_pairs = true;
};
struct Bits32 : PairsOfBits<32> {
    static T look_up(const uint8_t* table, T places) {
        const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
        return T(_mm256_shuffle_epi8(bytes, __m256i(places)));
    }
};
using Bits8 = PairsOfBits<8>;

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

using Vectors = VectorsOfBits<Bits32, Bits8>;
constexpr bool kLooksUp = true;

}  // namespace

#include "kernels-inl.h"
#include "products-inl.h"

namespace {

// Products of bytes: sums of 16 bits hold those of 64 groups, because a group adds at most 2 * 255 to one.
struct Products256 : Products<Products256, 8> {
    static constexpr int channels = 4, vectors = 2, most_steps = 4;
    using Sum = __m256i;
    using Input = __m256i;
    static Input read(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static const uint8_t* weights(const uint8_t* p) { return p; }
    template <int I>
    static Sum dot(Sum sum, Input x, const uint8_t* weights) {
        int four;
        std::memcpy(&four, weights + 4 * I, 4);
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(x, _mm256_set1_epi32(four)));
    }
    static Lanes total(Sum sum) { return Lanes(_mm256_madd_epi16(sum, _mm256_set1_epi16(1))); }
};
constexpr biprop::MatrixKernels kProducts = {
    products<Products256>, generic_pack_quantised, nullptr, 128, 0, true, 600, 120};

void gathered(const BitTile& t) { bits_in<Gathered>(t); }

constexpr biprop::Kernels avx2_kernels() {
    biprop::Kernels table = shared_kernels(Vectors());
    table.name = "avx2";
    table.cycles_per_plane[0] = 1.7f;
    table.cycles_per_plane[1] = 1.4f;
    table.cycles_per_popcount = 6.0f;
    table.gathered = gathered;
    table.group = Gathered::channels;
    table.cycles_per_gather = 3.3f;
    table.matrices = &kProducts;
    return table;
}

}  // namespace

constexpr biprop::Kernels biprop::kAvx2 = avx2_kernels();
