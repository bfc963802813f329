// AVX2 and FMA: vectors of 32 bytes. Compiled with -mavx2 -mfma; runs only on processors that have both.
#include <immintrin.h>

#include <cstdint>

#include "bits-generic.h"
#include "kernels.h"

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
        for (int i = 0; i < 4; ++i) {
            const uint64_t word = v[i];  // clang knows no address of a vector's element
            std::memcpy(p + order[4 * group + i] * step, &word, sizeof word);
        }
    }
    static T load_flips(const uint8_t* flips, int group, const uint32_t* order) {
        return of_four([&](int i) { return flips[order[4 * group + i]] ? ~uint64_t(0) : 0; });
    }
    static T load_valid(const uint8_t* p) { return same(word(p)); }
};

// Bytes of such planes, sixteen channels at once, by permutations: see ShuffleForm::bytes. The lower half of a vector
// has one byte of each channel, and the upper half another.
template <bool Quarters>
struct ShuffledBytes : Bits32 {
    static constexpr int width = 8, channels = 16, per_eight = 1 + 4 + 4 * 8;
    static constexpr bool bytes_apart = true;
    struct Planes {
        const uint8_t* slots;
        size_t second;
    };
    template <class Tile>
    static Planes planes_of(const Tile& t) {
        return {t.planes, t.second};
    }
    static __m128i sixteen(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
    static auto reader(const Planes& planes, const uint16_t* tap) {
        const uint8_t *first = planes.slots + *tap, *further = reinterpret_cast<const uint8_t*>(tap + 1);
        const size_t second = planes.second;
        return [=](int i) {
            const __m256i two = _mm256_broadcastsi128_si256(sixteen(tap + 5 + i / 2 * 8));
            const __m256i index = _mm256_and_si256(i % 2 ? _mm256_srli_epi16(two, 4) : two, _mm256_set1_epi8(15));
            const uint8_t* window = first + further[i];
            const __m256i bytes =
                _mm256_inserti128_si256(_mm256_castsi128_si256(sixteen(window)), sixteen(window + second), 1);
            return T(_mm256_shuffle_epi8(bytes, index));
        };
    }
    // From words of 16 bits, one for each channel, to their lower bytes and their upper bytes, and back.
    static T apart(const uint16_t* words) {
        const __m256i x = __m256i(load(words));
        const __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srli_epi16(x, 8));
        return T(_mm256_permute4x64_epi64(bytes, 0xd8));
    }
    static T side_by_side(T v) {
        const __m256i bytes = _mm256_permute4x64_epi64(__m256i(v), 0xd8);
        return T(_mm256_unpacklo_epi8(bytes, _mm256_unpackhi_epi64(bytes, bytes)));
    }
    static T load_out(const uint8_t* p, size_t step, int group, const uint32_t* order) {
        alignas(32) uint16_t words[16];
        for (int i = 0; i < 16; ++i) {
            uint32_t rows = 0;
            std::memcpy(&rows, p + order[16 * group + i] * step, Quarters ? 4 : 2);
            words[i] = Quarters ? quarter_of_rows(rows) : uint16_t(rows);
        }
        return apart(words);
    }
    static void store_out(uint8_t* p, size_t step, int group, const uint32_t* order, T v) {
        alignas(32) uint16_t words[16];
        store(words, side_by_side(v));
        for (int i = 0; i < 16; ++i) {
            const uint32_t rows = Quarters ? rows_of_quarter(words[i]) : words[i];
            std::memcpy(p + order[16 * group + i] * step, &rows, Quarters ? 4 : 2);
        }
    }
    static T load_flips(const uint8_t* flips, int group, const uint32_t* order) {
        alignas(32) uint16_t words[16];
        for (int i = 0; i < 16; ++i) words[i] = uint16_t(flips[order[16 * group + i]] * 257);
        return apart(words);
    }
    static T load_valid(const uint8_t* p) {
        if (Quarters) return ones();
        return T(_mm256_set_m128i(_mm_set1_epi8(char(p[1])), _mm_set1_epi8(char(p[0]))));
    }
};

// Four planes of 8 bytes: the word of 16 bits that slots take of each, in 64 bits.
__m256i words_for_slots(const uint8_t* planes, bool quarters, __m128i shift) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(planes));
    const __m256i word = _mm256_set1_epi64x(0xffff);
    if (!quarters) return _mm256_and_si256(_mm256_srl_epi64(x, shift), word);
    __m256i rows = _mm256_and_si256(x, _mm256_set1_epi64x(0x0f0f0f0f));  // as quarter_of_rows
    rows = _mm256_and_si256(_mm256_or_si256(rows, _mm256_srli_epi64(rows, 4)), _mm256_set1_epi64x(0x00ff00ff));
    return _mm256_and_si256(_mm256_or_si256(rows, _mm256_srli_epi64(rows, 8)), word);
}

// 15 planes and a zero at a time. Reads behind the last plane, but no list names those slots.
void to_slots(const uint8_t* planes, int taps, const biprop::ShuffleForm& form, bool quarters, int part,
              uint8_t* slots) {
    const size_t second = form.second(taps);
    const __m128i shift = _mm_cvtsi32_si128(16 * part);
    // Packing takes pairs of planes from either half.
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, -1));
    for (; taps > 0; taps -= 15, planes += 15 * 8, slots += 16) {
        __m256i words[4];
        for (int i = 0; i < 4; ++i) words[i] = words_for_slots(planes + 32 * i, quarters, shift);
        const __m256i sixteen =
            _mm256_packus_epi32(_mm256_packus_epi32(words[0], words[1]), _mm256_packus_epi32(words[2], words[3]));
        const __m256i bytes =
            _mm256_packus_epi16(_mm256_and_si256(sixteen, _mm256_set1_epi16(255)), _mm256_srli_epi16(sixteen, 8));
        const __m256i all = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(bytes, 0xd8), order);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(slots), _mm256_castsi256_si128(all));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(slots + second), _mm256_extracti128_si256(all, 1));
    }
}

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
struct Maddubs256 {
    using Register = __m256i;
    static constexpr int lanes = 8, channels = 4, vectors = 2, most_steps = 4;
    static Register to_all_lanes(int four) { return _mm256_set1_epi32(four); }
    static Register dot(Register sum, Register x, Register weights) {
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(x, weights));
    }
    static Register total(Register sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
};
constexpr biprop::MatrixKernels kProducts =
    products_table<Broadcasting<Maddubs256>>(generic_pack_quantised, Bytes::unsigned_by_signed, 740, 130);

void gathered(const BitTile& t) { bits_in<Gathered>(t); }
void shuffled(const BitTile& t, const biprop::ShuffleForm&) {
    t.quarters ? bits_in<ShuffledBytes<true>>(t) : bits_in<ShuffledBytes<false>>(t);
}
constexpr biprop::ShuffleForm kBytes = {biprop::ShuffleForm::bytes, 16, 2, 16, 1};
constexpr biprop::ShuffleKernels kShuffles = {shuffled, to_slots, kBytes, kBytes, kBytes, 2.3f};

constexpr biprop::Kernels avx2_kernels() {
    biprop::Kernels table = shared_kernels(Vectors());
    table.name = "avx2";
    table.images = 8;
    table.cycles_per_plane[0] = 1.7f;
    table.cycles_per_plane[1] = 1.4f;
    table.cycles_per_popcount = 6.0f;
    table.cycles_per_load = 0.6f;
    table.cycles_per_addition = 0.45f;
    table.gathered = gathered;
    table.group = Gathered::channels;
    table.cycles_per_gather = 3.3f;
    table.matrices = &kProducts;
    table.shuffles = &kShuffles;
    return table;
}

}  // namespace

constexpr biprop::Kernels biprop::kAvx2 = avx2_kernels();
