// AVX-512 (F, BW, DQ, VL, VPOPCNTDQ): a full adder is two ternary-logic instructions. Runs only on processors that
// have these.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 finds its own header's undefined vectors
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored \
    "-Warray-bounds"  // it takes `widen` to read more planes than the counter that it inlines it for has
#endif
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "bits-generic.h"
#include "kernels.h"

namespace {

typedef float Floats __attribute__((vector_size(64)));
constexpr int kFloats = 16, kVectors = 16;

// The tables of ternary logic are the columns of results for a = 11110000, b = 11001100, c = 10101010.
#define BIPROP_TERNARY_BITS(NAME, WIDTH, TYPE, PREFIX, SUFFIX, LOAD, STORE)                                     \
    struct NAME {                                                                                               \
        using T = TYPE;                                                                                         \
        static constexpr int width = WIDTH, channels = 1;                                                       \
        static constexpr bool in_chains = false, in_pairs = false, tabled = false, bytes_apart = false;         \
        static constexpr int per_eight = 8;                                                                     \
        template <class Tile>                                                                                   \
        static const uint8_t* planes_of(const Tile& t) {                                                        \
            return t.planes;                                                                                    \
        }                                                                                                       \
        static T side_by_side(T v) { return v; }                                                                \
        static auto reader(const uint8_t* planes, const uint16_t* tap) {                                        \
            return [=](int i) { return load(planes + size_t(tap[i]) * 8); };                                    \
        }                                                                                                       \
        static T load_out(const uint8_t* p, size_t step, int c, const uint32_t*) { return load(p + c * step); } \
        static void store_out(uint8_t* p, size_t step, int c, const uint32_t*, T v) { store(p + c * step, v); } \
        static T load_flips(const uint8_t* flips, int c, const uint32_t*) {                                     \
            return same(flips[c] ? ~uint64_t(0) : 0);                                                           \
        }                                                                                                       \
        static T load_valid(const uint8_t* p) { return load(p); }                                               \
        static T load(const void* p) { return LOAD; }                                                           \
        static void store(void* p, T v) { STORE; }                                                              \
        static T same(uint64_t x) { return PREFIX##_set1_epi64##SUFFIX((long long)x); }                         \
        static T zero() { return PREFIX##_set1_epi64##SUFFIX(0); }                                              \
        static T ones() { return PREFIX##_set1_epi64##SUFFIX(-1); }                                             \
        static T both(T a, T b) { return a & b; }                                                               \
        static T differ(T a, T b) { return a ^ b; }                                                             \
        static T choose(T where, T a, T b) { return PREFIX##_ternarylogic_epi64(where, a, b, 0xca); }           \
        static T shift_or_turn(T x, int64_t n) { return turn(x, same(uint64_t(n))); }                           \
        static T turn(T x, T n) { return PREFIX##_rorv_epi64(x, n); }                                           \
        template <bool Not>                                                                                     \
        static void add(T& sum, T a, T b, T& carry) {                                                           \
            sum = PREFIX##_ternarylogic_epi64(sum, a, b, 0x96);                                                 \
            carry = PREFIX##_ternarylogic_epi64(b, a, sum, Not ? 0x17 : 0xd4);                                  \
        }                                                                                                       \
        static T at_least_step(T count, T threshold, T below) {                                                 \
            return PREFIX##_ternarylogic_epi64(count, threshold, below, 0xb2);                                  \
        }                                                                                                       \
        static T lane_bit(T lanes, int i) {                                                                     \
            return PREFIX##_maskz_set1_epi64(PREFIX##_test_epi64_mask(lanes, same(uint64_t(1) << i)), -1);      \
        }                                                                                                       \
        static T widen(const uint16_t* lanes);                                                                  \
        static T look_up(const uint8_t* table, T places);                                                       \
    };

BIPROP_TERNARY_BITS(Bits64, 64, __m512i, _mm512, , _mm512_loadu_si512(p), _mm512_storeu_si512(p, v))
BIPROP_TERNARY_BITS(Bits32, 32, __m256i, _mm256, x, _mm256_loadu_si256(static_cast<const __m256i*>(p)),
                    _mm256_storeu_si256(static_cast<__m256i*>(p), v))
BIPROP_TERNARY_BITS(Bits8, 8, __m128i, _mm, x, _mm_loadl_epi64(static_cast<const __m128i*>(p)),
                    _mm_storel_epi64(static_cast<__m128i*>(p), v))

Bits64::T Bits64::widen(const uint16_t* lanes) {
    return _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes)));
}
Bits32::T Bits32::widen(const uint16_t* lanes) {
    return _mm256_cvtepu16_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(lanes)));
}
Bits8::T Bits8::widen(const uint16_t* lanes) { return _mm_cvtsi32_si128(lanes[0]); }

__m128i table_of(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
Bits64::T Bits64::look_up(const uint8_t* table, T places) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table_of(table)), places);
}
Bits32::T Bits32::look_up(const uint8_t* table, T places) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table_of(table)), places);
}

// Planes of 64 positions, eight channels at once. (A gather takes 1.6 times less than eight loads into eight
// registers would.)
struct Gathered : Bits64 {
    static constexpr int width = 8, channels = 8;
    static T gather(const uint8_t* p, const uint16_t* index) {
        return _mm512_i32gather_epi64(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index))),
                                      p, 8);
    }
    static constexpr int per_eight = 64;
    static auto reader(const uint8_t* planes, const uint16_t* tap) {
        return [=](int i) { return gather(planes, tap + 8 * i); };
    }
    static T load_out(const uint8_t* p, size_t step, int group, const uint32_t* order) {
        return _mm512_i32gather_epi64(_mm256_mullo_epi32(channels_of(group, order), _mm256_set1_epi32(int(step / 8))),
                                      p, 8);
    }
    static void store_out(uint8_t* p, size_t step, int group, const uint32_t* order, T v) {
        _mm512_i32scatter_epi64(p, _mm256_mullo_epi32(channels_of(group, order), _mm256_set1_epi32(int(step / 8))), v,
                                8);
    }
    static T load_flips(const uint8_t* flips, int group, const uint32_t* order) {
        uint64_t words[8];
        for (int i = 0; i < 8; ++i) words[i] = flips[order[8 * group + i]] ? ~uint64_t(0) : 0;
        return load(words);
    }
    static T load_valid(const uint8_t* p) {
        long long word;
        __builtin_memcpy(&word, p, 8);
        return _mm512_set1_epi64(word);
    }
    static __m256i channels_of(int group, const uint32_t* order) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(order + 8 * group));
    }
};

// Keeps x in a register: GCC would load it again for every shift, across the boundary of a cache line.
__m512i in_register(__m512i x) {
#if defined(__GNUC__)
    __asm__("" : "+v"(x));
#endif
    return x;
}

// Halves of such planes, sixteen channels at once, by permutations: see ShuffleKernels. A window is 32 slots, two
// lines of 64 bytes.
template <int Grain>
struct ShuffledHalves : Bits64 {
    static constexpr int width = 8, channels = 16, per_eight = 5 + 32 + 8;
    static auto reader(const uint8_t* slots, const uint16_t* tap) {
        const uint8_t *first = slots + size_t(*tap) * 64, *further = reinterpret_cast<const uint8_t*>(tap + 1);
        const __m512i six = in_register(load(tap + 5));
        const __m512i rest = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tap + 37)));
        return [=](int i) {
            const auto index_of_seventh_or_eighth = [=] {
                return i == 6 ? rest : _mm512_shldi_epi32(_mm512_srli_epi32(rest, 5), six, 2);
            };
            const __m512i index = i < 6 ? _mm512_srli_epi32(six, unsigned(5 * i)) : index_of_seventh_or_eighth();
            const uint8_t* window = first + size_t(further[i]) * 8;
            return _mm512_permutex2var_epi32(load(window), index, load(window + 16 / Grain * 64));
        };
    }
    static __m512i places(size_t step, int group, const uint32_t* order) {
        return _mm512_mullo_epi32(load(order + 16 * group), _mm512_set1_epi32(int(step / 4)));
    }
    static T load_out(const uint8_t* p, size_t step, int group, const uint32_t* order) {
        return _mm512_i32gather_epi32(places(step, group, order), p, 4);
    }
    static void store_out(uint8_t* p, size_t step, int group, const uint32_t* order, T v) {
        _mm512_i32scatter_epi32(p, places(step, group, order), v, 4);
    }
    static T load_flips(const uint8_t* flips, int group, const uint32_t* order) {
        uint32_t words[16];
        for (int i = 0; i < 16; ++i) words[i] = flips[order[16 * group + i]] ? ~0u : 0;
        return load(words);
    }
    static T load_valid(const uint8_t* p) {
        int word;
        __builtin_memcpy(&word, p, 4);
        return _mm512_set1_epi32(word);
    }
};

// Planes of 4x4 positions, 32 channels at once. A window is 32 slots; an index has five bits.
struct ShuffledQuarters : Bits64 {
    static constexpr int width = 8, channels = 32, per_eight = 5 + 3 * 32;
    static auto reader(const uint8_t* slots, const uint16_t* tap) {
        const uint8_t *first = slots + size_t(*tap) * 2, *further = reinterpret_cast<const uint8_t*>(tap + 1);
        const __m512i index[3] = {in_register(load(tap + 5)), in_register(load(tap + 37)), in_register(load(tap + 69))};
        return [=](int i) {
            const __m512i own = _mm512_srli_epi16(i < 3 ? index[0] : i < 6 ? index[1] : index[2], unsigned(i % 3 * 5));
            return _mm512_permutexvar_epi16(own, load(first + size_t(further[i]) * 2));
        };
    }
    template <class Word>
    static T of_channels(int group, const uint32_t* order, const Word& word) {
        alignas(64) uint16_t words[32];
        for (int i = 0; i < 32; ++i) words[i] = word(order[32 * group + i]);
        return load(words);
    }
    static T load_out(const uint8_t* p, size_t step, int group, const uint32_t* order) {
        return of_channels(group, order, [&](uint32_t c) {
            uint32_t rows;
            __builtin_memcpy(&rows, p + c * step, 4);
            return quarter_of_rows(rows);
        });
    }
    static void store_out(uint8_t* p, size_t step, int group, const uint32_t* order, T v) {
        alignas(64) uint16_t words[32];
        store(words, v);
        for (int i = 0; i < 32; ++i) {
            const uint32_t rows = rows_of_quarter(words[i]);
            __builtin_memcpy(p + order[32 * group + i] * step, &rows, 4);
        }
    }
    static T load_flips(const uint8_t* flips, int group, const uint32_t* order) {
        return of_channels(group, order, [&](uint32_t c) { return uint16_t(flips[c] * 257); });
    }
    static T load_valid(const uint8_t*) { return ones(); }
};

// Reads behind the last plane, but no list names those slots.
void to_slots(const uint8_t* planes, int taps, const biprop::ShuffleForm& form, bool, int half, uint8_t* slots) {
    const int grain = form.grain;
    const __m512i lower = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i halves = _mm512_add_epi32(lower, _mm512_set1_epi32(half));
    const auto line = [&](int first, int ninth, __mmask16 there) {  // planes
        return _mm512_maskz_permutex2var_epi32(there, _mm512_loadu_si512(planes + first * 8), halves,
                                               _mm512_loadu_si512(planes + ninth * 8));
    };
    for (; grain > 1 && taps > 0; taps -= 31, planes += 31 * 8, slots += 32 / grain * 64) {
        _mm512_storeu_si512(slots, line(0, 8, 0xffff));
        _mm512_storeu_si512(slots + 16 / grain * 64, line(16, 24, 0x7fff));
        if (grain == 16) continue;
        _mm512_storeu_si512(slots + 64, line(8, 16, 0xffff));
        _mm512_storeu_si512(slots + 192, line(24, 31, 0xff7f));
    }
    const auto sixteen = [&](const uint8_t* from, __mmask8 high) {
        const __m512i x =
            _mm512_permutex2var_epi32(_mm512_loadu_si512(from), lower, _mm512_maskz_loadu_epi64(high, from + 64));
        const __m512i rows = _mm512_and_si512(x, _mm512_set1_epi32(0x0f0f0f0f));  // of four bits
        return _mm512_cvtepi16_epi8(_mm512_or_si512(rows, _mm512_srli_epi32(rows, 4)));
    };
    for (; taps > 0; taps -= 31, planes += 31 * 8, slots += 64) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(slots), sixteen(planes, 0xff));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(slots + 32), sixteen(planes + 16 * 8, 0x7f));
    }
}

__m512i agree(__m512i mask, __m512i sign, __m512i x) {
    return _mm512_ternarylogic_epi64(mask, sign, x, 0x90);
}  // mask & ~(x ^ sign)

template <int Vectors>
void popcounts_of(const uint64_t* x, int positions, const uint64_t* mask, const uint64_t* sign, int words,
                  int16_t* counts) {
    __m512i sum[Vectors];
    for (auto& s : sum) s = _mm512_setzero_si512();
    for (int w = 0; w < words; ++w, x += positions) {
        const __m512i m = _mm512_set1_epi64((long long)mask[w]), s = _mm512_set1_epi64((long long)sign[w]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v)
            sum[v] = _mm512_add_epi64(sum[v], _mm512_popcnt_epi64(agree(m, s, _mm512_loadu_si512(x + 8 * v))));
    }
    for (int v = 0; v < Vectors; ++v)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(counts + 8 * v), _mm512_cvtepi64_epi16(sum[v]));
}

void popcounts(const uint64_t* x, int positions, const uint64_t* mask, const uint64_t* sign, int words,
               int16_t* counts) {
    int p = 0;
    for (; p + 32 <= positions; p += 32) popcounts_of<4>(x + p, positions, mask, sign, words, counts + p);
    for (; p + 16 <= positions; p += 16) popcounts_of<2>(x + p, positions, mask, sign, words, counts + p);
    for (; p < positions; p += 8) popcounts_of<1>(x + p, positions, mask, sign, words, counts + p);
}

void popcount(const uint64_t* x, const uint64_t* mask, const uint64_t* sign, int words, int16_t* count) {
    const auto load = [](const uint64_t* p) { return _mm512_loadu_si512(p); };
    __m512i sum = _mm512_setzero_si512();
    for (int w = 0; w < words; w += 8)
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(agree(load(mask + w), load(sign + w), load(x + w))));
    *count = int16_t(_mm512_reduce_add_epi64(sum));
}

Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

unsigned signs_of(Floats x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ); }

// 64 signs by way of bytes: four instructions for one execution unit, instead of two for each vector.
inline void store_signs(const Floats* x, uint8_t* to) {
    const auto pair = [&](int i) {
        return _mm512_packs_epi32(_mm512_castps_si512(x[i]), _mm512_castps_si512(x[i + 1]));
    };
    const __m512i bytes = _mm512_packs_epi16(pair(0), pair(2));  // each quarter has four numbers of each vector
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    // Stored as a mask: GCC would collect two words in a vector.
    _store_mask64(reinterpret_cast<__mmask64*>(to),
                  _knot_mask64(_mm512_movepi8_mask(_mm512_permutexvar_epi32(order, bytes))));
}

uint64_t compare(const int16_t* counts, const uint16_t* thresholds, int n) {
    uint64_t bits = 0;
    for (int i = 0; i < n; i += 32) {
        const __mmask32 there = n - i >= 32 ? ~0u : (1u << (n - i)) - 1;
        const __m512i a = _mm512_maskz_loadu_epi16(there, counts + i);
        const __m512i b = _mm512_maskz_loadu_epi16(there, thresholds + i);
        bits |= uint64_t(_mm512_mask_cmpge_epu16_mask(there, a, b)) << i;
    }
    return bits;
}

void widen(const uint64_t* sliced, size_t step, int bits, int16_t* lanes) {
    __m512i bytes = _mm512_setzero_si512();  // of the lowest eight planes
    const auto add = [&](int i) {
        bytes = _mm512_mask_add_epi8(bytes, __mmask64(sliced[i * step]), bytes, _mm512_set1_epi8(char(1 << i)));
    };
    if (bits >= 8) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) add(i);  // with constants
    } else {
        for (int i = 0; i < bits; ++i) add(i);
    }
    __m512i low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(bytes));
    __m512i high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(bytes, 1));
    for (int i = 8; i < bits; ++i) {
        const __m512i value = _mm512_set1_epi16(int16_t(1 << i));
        low = _mm512_mask_add_epi16(low, __mmask32(sliced[i * step]), low, value);
        high = _mm512_mask_add_epi16(high, __mmask32(sliced[i * step] >> 32), high, value);
    }
    _mm512_storeu_si512(lanes, low);
    _mm512_storeu_si512(lanes + 32, high);
}

void largest_of_halves(const int16_t* counts, const int16_t* const corrections[2], const uint16_t* const classes[2],
                       float* largest) {
    const auto rows = [&](int half) {
        const __m512i count = _mm512_loadu_si512(counts + 32 * half), own = _mm512_loadu_si512(classes[half]);
        const __m512i table =
            _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(corrections[half])));
        return _mm512_sub_epi16(_mm512_add_epi16(count, count), _mm512_permutexvar_epi16(own, table));
    };
    const __m512i upper = rows(0), lower = rows(1);
    const __m512i pairs =
        _mm512_max_epi16(_mm512_shuffle_i64x2(upper, lower, 0x88), _mm512_shuffle_i64x2(upper, lower, 0xdd));
    const __m512i most = _mm512_max_epi16(pairs, _mm512_srli_epi32(pairs, 16));  // in the lower half of 32 bits
    _mm512_storeu_ps(largest, _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(most, 16), 16)));
}

using Vectors = VectorsOfBits<Bits64, Bits32, Bits8>;
constexpr bool kLooksUp = true;

}  // namespace

#include "kernels-inl.h"
#include "pack-avx512-inl.h"
#include "products-inl.h"

namespace {

// As with AVX2.
struct Maddubs512 {
    using Register = __m512i;
    static constexpr int lanes = 16, channels = 8, vectors = 2, most_steps = 4;
    static Register to_all_lanes(int four) { return _mm512_set1_epi32(four); }
    static Register dot(Register sum, Register x, Register weights) {
        return _mm512_add_epi16(sum, _mm512_maddubs_epi16(x, weights));
    }
    static Register total(Register sum) { return _mm512_madd_epi16(sum, _mm512_set1_epi16(1)); }
};
constexpr biprop::MatrixKernels kProducts =
    products_table<Broadcasting<Maddubs512>>(pack_quantised, Bytes::unsigned_by_signed, 600, 100);

float dot(const float* x, const uint16_t* tap, int positive, int negative) {
    const auto sum = [&](int groups) {
        __m512 all = _mm512_setzero_ps();
        for (; groups > 1; groups -= 2, tap += 16) {
            const __m256i own = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tap));
            all = _mm512_add_ps(all, _mm512_i32gather_ps(_mm512_cvtepu16_epi32(own), x, 4));
        }
        if (!groups) return all;
        const __m256i own = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tap)));
        tap += 8;
        return _mm512_add_ps(all,
                             _mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xff, _mm512_cvtepu16_epi32(own), x, 4));
    };
    const __m512 plus = sum(positive), minus = sum(negative);
    return _mm512_reduce_add_ps(_mm512_sub_ps(plus, minus));
}

void gathered(const BitTile& t) { bits_in<Gathered>(t); }
void shuffled(const BitTile& t, const biprop::ShuffleForm& form) {
    if (form.slots == biprop::ShuffleForm::quarters) return bits_in<ShuffledQuarters>(t);
    if (form.grain == 8) return bits_in<ShuffledHalves<8>>(t);
    bits_in<ShuffledHalves<16>>(t);
}
constexpr biprop::ShuffleKernels kShuffles = {shuffled,
                                              to_slots,
                                              {biprop::ShuffleForm::quarters, 32, 2, 32, 1},
                                              {biprop::ShuffleForm::halves, 16, 4, 32, 8},
                                              {biprop::ShuffleForm::halves, 16, 4, 32, 16},
                                              2.7f};

// A tile of one vector is a map of 4x4, whose taps are at multiples of 16 bytes: a load of 64 bytes crosses two cache
// lines more often than two of 32 do.
void sum_by_size(const biprop::SumTile& t) { t.vectors == 1 ? biprop::kAvx2.sum(t) : sum(t); }

constexpr biprop::Kernels avx512_kernels() {
    biprop::Kernels table = shared_kernels(Vectors());
    table.name = "avx512";
    table.cycles_per_plane[0] = 1.2f;
    table.cycles_per_plane[1] = 0.9f;
    table.cycles_per_plane[2] = 0.8f;
    table.cycles_per_popcount = 2.0f;
    table.cycles_per_load = 1.15f;
    table.cycles_per_addition = 0.95f;
    table.sum = sum_by_size;
    table.gathered = gathered;
    table.group = Gathered::channels;
    table.cycles_per_gather = 5.0f;
    table.dot = dot;
    table.shuffles = &kShuffles;
    table.matrices = &kProducts;
    return table;
}

}  // namespace

constexpr biprop::Kernels biprop::kAvx512 = avx512_kernels();
