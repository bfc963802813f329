// The kernels, once for all instruction sets. A file that includes this defines first
//
//   Floats          a vector of floats (GCC's vector extension), kFloats its lanes, kVectors: how many 16-float vectors
//   a tile of
//                   sums may have, so that its accumulators stay in registers
//   multiply_add    a * b + c of Floats
//   popcount(s)     see kernels.h
//   signs_of        one bit a lane of Floats: x >= 0
//   widen, compare  see kernels.h
//   largest_of_halves see bits-generic.h
//
// Everything is in an unnamed namespace: code for one instruction set must never be the copy that the linker keeps for
// another.
#include "kernels.h"

#include <cstring>
#include <type_traits>

#define BIPROP_INLINE inline __attribute__((always_inline))

namespace {

using biprop::Act;
using biprop::BitTile;
using biprop::Finish;
using biprop::QuantisedTile;
using biprop::SumRange;
using biprop::SumTile;
using biprop::TapRange;

BIPROP_INLINE Floats load_floats(const float* p) {
    Floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
BIPROP_INLINE void store_floats(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

template <class T>
T* shifted(T* p, size_t bytes) {
    return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) + bytes);
}

constexpr int kParts = 16 / kFloats;  // registers of one vector of 16 floats

// x >= 0 of 64 numbers, none of them -0; a file may have its own.
template <class Vector>
BIPROP_INLINE void store_signs(const Vector* x, uint8_t* to) {
    uint64_t bits = 0;
    for (int i = 0; i < 64 / kFloats; ++i) bits |= uint64_t(signs_of(x[i])) << (i * kFloats);
    std::memcpy(to, &bits, 8);
}

// ---- scale, shift, activation: plain loops, which compilers turn into vectors ----

BIPROP_INLINE float act_of(float y, Act act) {
    switch (act) {
        case Act::relu: return y > 0 ? y : 0;
        case Act::sign: return y >= 0 ? 1.0f : -1.0f;
        case Act::sign0: return y > 0 ? 1.0f : y < 0 ? -1.0f : 0.0f;
        default: return y;
    }
}

BIPROP_INLINE Floats act_of(Floats y, Act act) {
    const Floats zero = {}, one = zero + 1.0f;
    if (act == Act::relu) return y > 0 ? y : zero;
    if (act == Act::sign) return y >= 0 ? one : -one;
    if (act == Act::sign0) return (y > 0 ? one : zero) - (y < 0 ? one : zero);
    return y;
}

template <Act A, class Value>
BIPROP_INLINE void finish_as(int n, const Finish& f, const float* residual, float* out, const Value& value) {
    if (residual)
        for (int i = 0; i < n; ++i) out[i] = act_of(f.scale * value(i) + f.shift + f.residual_scale * residual[i], A);
    else
        for (int i = 0; i < n; ++i) out[i] = act_of(f.scale * value(i) + f.shift, A);
}

template <class Value>
BIPROP_INLINE void finish_any(int n, const Finish& f, const float* residual, float* out, const Value& value) {
    switch (f.act) {
        case Act::relu: return finish_as<Act::relu>(n, f, residual, out, value);
        case Act::sign: return finish_as<Act::sign>(n, f, residual, out, value);
        case Act::sign0: return finish_as<Act::sign0>(n, f, residual, out, value);
        default: return finish_as<Act::none>(n, f, residual, out, value);
    }
}

// ---- 1/1, bit-sliced: one full adder takes two planes; a count is a column of bits over 5 + High planes ----

// Eight planes, or their complements, to a plane of eights. Adders that do not wait for each other come first:
// complements of three planes have the complements of their sum and carry. Where an adder is many instructions, and
// registers are few, one after the other.
template <class V, bool Not>
BIPROP_INLINE typename V::T eight(typename V::T& one, typename V::T& two, typename V::T& four, const uint8_t* planes,
                                  const uint16_t* tap) {
    using T = typename V::T;
    const auto plane = V::reader(planes, tap);
    T a, b, c, d, e;
    if constexpr (V::in_chains) {
        V::template add<Not>(one, plane(0), plane(1), a);
        V::template add<Not>(one, plane(2), plane(3), b);
        V::template add<false>(two, a, b, c);
        V::template add<Not>(one, plane(4), plane(5), a);
        V::template add<Not>(one, plane(6), plane(7), b);
        V::template add<false>(two, a, b, d);
    } else {
        T first = plane(0), second = plane(3), f, g;
        V::template add<false>(first, plane(1), plane(2), a);
        V::template add<false>(second, plane(4), plane(5), b);
        V::template add<Not>(one, plane(6), plane(7), f);
        V::template add<Not>(one, first, second, g);
        V::template add<Not>(two, a, b, c);
        V::template add<false>(two, f, g, d);
    }
    V::template add<false>(four, c, d, e);
    return e;
}

// Lists of a large network come from the third cache, a page of 4 KB at a time; the processor does not look ahead
// further than its end.
constexpr int kAhead = 2048;  // taps

template <class V, int High>
struct Counter {
    using T = typename V::T;
    static_assert(High >= 1 && High <= 11);
    T one = V::zero(), two = one, four = one, eights = one, sixteens = one;
    T high[High];
    T waiting = one;  // an eight without its partner
    bool waits = false;

    BIPROP_INLINE Counter() { clear<0>(); }

    // Places are template arguments, so that compilers keep all of `high` in registers.
    template <int I>
    BIPROP_INLINE void clear() {
        high[I] = one;
        if constexpr (I + 1 < High) clear<I + 1>();
    }
    template <int I>
    BIPROP_INLINE void carry(T c) {
        const T next = V::both(high[I], c);
        high[I] = V::differ(high[I], c);
        if constexpr (I + 1 < High) carry<I + 1>(next);
    }
    BIPROP_INLINE void sixteen(T a, T b) {
        T c;
        V::template add<false>(eights, a, b, c);
        const T next = V::both(sixteens, c);
        sixteens = V::differ(sixteens, c);
        carry<0>(next);
    }
    template <bool Not>
    BIPROP_INLINE const uint16_t* add(const uint8_t* planes, const uint16_t* tap, int groups) {
        for (; groups >= 4; groups -= 4, tap += 4 * V::per_eight) {
            for (int line = 0; line < 4 * V::per_eight; line += 32) __builtin_prefetch(tap + kAhead + line, 0, 2);
            T a = eight<V, Not>(one, two, four, planes, tap),
              b = eight<V, Not>(one, two, four, planes, tap + V::per_eight), c, d, e;
            V::template add<false>(eights, a, b, c);
            a = eight<V, Not>(one, two, four, planes, tap + 2 * V::per_eight);
            b = eight<V, Not>(one, two, four, planes, tap + 3 * V::per_eight);
            V::template add<false>(eights, a, b, d);
            V::template add<false>(sixteens, c, d, e);
            carry<0>(e);
        }
        for (; groups; --groups, tap += V::per_eight) {
            const T a = eight<V, Not>(one, two, four, planes, tap);
            if (waits) sixteen(waiting, a);
            waiting = a;
            waits = !waits;
        }
        return tap;
    }
    BIPROP_INLINE void finish() {
        if (waits) sixteen(waiting, V::zero());
    }
    template <int I>
    BIPROP_INLINE T bit() const {
        if constexpr (I == 0)
            return one;
        else if constexpr (I == 1)
            return two;
        else if constexpr (I == 2)
            return four;
        else if constexpr (I == 3)
            return eights;
        else if constexpr (I == 4)
            return sixteens;
        else
            return high[I - 5];
    }
    // use(plane, i) for the lowest `bits` planes, from the lowest up
    template <int I = 0, class Use>
    BIPROP_INLINE void each(int bits, const Use& use) const {
        if (I >= bits) return;
        use(bit<I>(), I);
        if constexpr (I + 1 < 5 + High) each<I + 1>(bits, use);
    }
};

// count >= threshold, compared from the lowest bit up
template <class V, int High, class Threshold>
BIPROP_INLINE typename V::T at_least(const Counter<V, High>& count, int bits, const Threshold& threshold) {
    typename V::T result = V::ones();
    count.each(bits, [&](typename V::T plane, int i) { result = V::at_least_step(plane, threshold(i), result); });
    return result;
}

BIPROP_INLINE void finish_counts(const int16_t* counts, const int32_t* corrections, int shift, int n, const Finish& f,
                                 const float* residual, float* out) {
    if (!shift)
        return finish_any(n, f, residual, out,
                          [&](int i) { return float(2 * int(uint16_t(counts[i])) - corrections[i]); });
    const int run = 1 << shift;
    for (int from = 0; from < n; from += run) {
        const int same = corrections[from >> shift];
        finish_any(n - from < run ? n - from : run, f, residual ? residual + from : nullptr, out + from,
                   [&](int i) { return float(2 * int(uint16_t(counts[from + i])) - same); });
    }
}

// Counts of N lanes from `lane` to floats of the tile; or, where it has none, returns their signs.
template <int N>
BIPROP_INLINE uint64_t finish_lanes(const BitTile& t, const int16_t* counts, const int32_t* corrections, size_t c,
                                    int lane) {
    const float* residual = t.residual_floats ? shifted(t.residual_floats, c * t.residual_floats_step) + lane : nullptr;
    alignas(64) float room[N];
    float* y = t.floats ? shifted(t.floats, c * t.floats_step) + lane : room;
    finish_counts(counts, corrections, t.shift ? 6 : 0, N, t.finishes[c], residual, y);
    uint64_t bits = 0;
    for (int i = 0; i < N && !t.floats; i += kFloats) bits |= uint64_t(signs_of(load_floats(room + i))) << i;
    return bits;
}

// A loop would become single numbers.
BIPROP_INLINE void finish_sixteen(const float* x, const Finish& f, float* out) {
    for (int i = 0; i < 16; i += kFloats) store_floats(out + i, act_of(load_floats(x + i) * f.scale + f.shift, f.act));
}

// Counts of 64 lanes, each in a column of bits of `sliced`, to floats or their signs.
void finish_word(const BitTile& t, const uint64_t* sliced, size_t step, int c, int word) {
    int16_t counts[64];
    widen(sliced, step, t.bits, counts);
    if (t.classes) {
        alignas(64) float largest[16];
        const int16_t* const corrections[2] = {t.class_corrections + 16 * c, t.class_corrections + 16 * c};
        const uint16_t* const classes[2] = {t.classes, t.classes + 32};
        largest_of_halves(counts, corrections, classes, largest);
        return finish_sixteen(largest, t.finishes[c], shifted(t.floats, c * t.floats_step));
    }
    const int32_t* corrections = t.corrections + c * t.corrections_step + (word * 64 >> t.shift);
    const uint64_t bits = finish_lanes<64>(t, counts, corrections, c, word * 64);
    if (!t.floats) std::memcpy(t.out + c * t.out_step + word * 8, &bits, 8);
}

// The same of two channels, of each half a plane of 8x8 positions.
void finish_halves(const BitTile& t, const uint64_t* sliced, size_t step, const uint32_t* channels) {
    int16_t counts[64];
    widen(sliced, step, t.bits, counts);
    if (t.classes) {
        alignas(64) float largest[16], y[16];
        const int16_t* const corrections[2] = {t.class_corrections + 16 * channels[0],
                                               t.class_corrections + 16 * channels[1]};
        const uint16_t* const classes[2] = {t.classes, t.classes};
        largest_of_halves(counts, corrections, classes, largest);
        for (int i = 0; i < 2; ++i) {  // a whole vector, of which half is the channel's
            finish_sixteen(largest, t.finishes[channels[i]], y);
            std::memcpy(shifted(t.floats, channels[i] * t.floats_step), y + 8 * i, 8 * sizeof(float));
        }
        return;
    }
    for (int i = 0; i < 2; ++i) {
        const uint32_t c = channels[i];
        const auto rows = uint32_t(finish_lanes<32>(t, counts + 32 * i, t.corrections + c * t.corrections_step, c, 0));
        if (!t.floats) std::memcpy(t.out + c * t.out_step, &rows, 4);
    }
}

// The same of four channels with 4x4 positions.
void finish_quarters(const BitTile& t, const uint64_t* sliced, size_t step, const uint32_t* channels) {
    int16_t counts[64];
    widen(sliced, step, t.bits, counts);
    for (int i = 0; i < 4; ++i) {
        const uint32_t c = channels[i];
        const uint32_t rows = rows_of_quarter(
            uint32_t(finish_lanes<16>(t, counts + 16 * i, t.corrections + c * t.corrections_step, c, 0)));
        if (!t.floats) std::memcpy(t.out + c * t.out_step, &rows, 4);
    }
}

// The same where a channel has a word of rows, of which it uses four times four bits.
void finish_rows_of_quarters(const BitTile& t, const uint64_t* sliced, size_t step, const uint32_t* channels) {
    uint64_t quarters[16] = {};
    for (int b = 0; b < t.bits; ++b)
        for (int i = 0; i < 4; ++i) quarters[b] |= uint64_t(quarter_of_rows(uint32_t(sliced[b * step + i]))) << 16 * i;
    finish_quarters(t, quarters, 1, channels);
}

template <class V, int High>
void bits_of(const BitTile& t) {
    using T = typename V::T;
    constexpr int words = int(sizeof(T)) / 8 > V::width / 8 && V::channels == 1 ? V::width / 8 : int(sizeof(T)) / 8;
    for (int at = t.first; at < t.last; ++at) {
        const int c = V::channels > 1 ? at : int(t.order[at]);  // a channel, or a group of them
        Counter<V, High> count;
        const TapRange range = t.ranges[c];
        const uint16_t* tap = t.taps + size_t(range.start) * V::per_eight;
        if (t.sliced && at + 1 < t.last) {
            const uint8_t* next =
                t.sliced + (V::channels > 1 ? size_t(at + 1) : size_t(t.order[at + 1])) * t.sliced_step;
            const int bytes = t.bits * (V::tabled ? 16 : 8 * words);
            for (int line = 0; line < bytes; line += 64) __builtin_prefetch(next + line, 0, 3);
        }
        tap = count.template add<false>(t.planes, tap, range.positive);
        count.template add<true>(t.planes, tap, range.negative);
        count.finish();
        if (t.counts || t.finishes) {
            alignas(64) uint64_t sliced[(5 + High) * words];
            count.each(t.bits,
                       [&](T plane, int i) { V::store(reinterpret_cast<uint8_t*>(sliced + i * words), plane); });
            for (int w = 0; w < words && t.counts; ++w)
                widen(sliced + w, words, t.bits, t.counts + (size_t(at - t.first) * words + w) * 64);
            for (int w = 0; w < words && t.finishes; ++w) {
                const uint32_t* const channels = t.order + c * V::channels;  // where there are several
                if (V::channels == 1) {
                    if (w < t.words) finish_word(t, sliced + w, words, c, w);
                } else if (V::channels == 32) {
                    finish_quarters(t, sliced + w, words, channels + 4 * w);
                } else if (V::channels == 16) {
                    finish_halves(t, sliced + w, words, channels + 2 * w);
                } else if (!t.quarters) {
                    finish_word(t, sliced + w, words, int(channels[w]), 0);
                } else if (w % 4 == 0) {
                    finish_rows_of_quarters(t, sliced + w, words, channels + w);
                }
            }
            continue;
        }
        const auto compare = [&](const uint8_t* sliced, const uint16_t* lanes) {
            if (sliced) {
                const uint8_t* own = sliced + c * t.sliced_step;
                if constexpr (V::tabled) {
                    const T places = V::load(t.places);
                    return at_least<V, High>(count, t.bits, [&](int i) { return V::look_up(own + 16 * i, places); });
                }
                return at_least<V, High>(count, t.bits,
                                         [&](int i) { return V::load(own + i * sizeof(uint64_t) * words); });
            }
            const T own = V::widen(lanes + c * t.lanes_step);
            return at_least<V, High>(count, t.bits, [&](int i) { return V::lane_bit(own, i); });
        };
        T result = compare(t.sliced, t.lanes);
        if (t.residual)
            result = V::choose(V::load_out(t.residual, t.residual_step, c, t.order),
                               compare(t.sliced_plus, t.lanes_plus), result);
        result = V::differ(result, V::load_flips(t.flips, c, t.order));
        if (t.valid) result = V::both(result, V::load_valid(t.valid));
        V::store_out(t.out, t.out_step, c, t.order, result);
    }
}

// Thresholds as tables of bytes: a type of its own, as one more branch makes compilers do the sums worse.
template <class V>
struct Tabled : V {
    static constexpr bool tabled = true;
};

// As few high planes as the counts need: each costs two instructions for every 32 taps.
template <class V>
void bits_in(const BitTile& t) {
    switch (t.bits) {
        case 9: return bits_of<V, 4>(t);
        case 10: return bits_of<V, 5>(t);
        case 11: return bits_of<V, 6>(t);
        case 12: return bits_of<V, 7>(t);
        default: return t.bits <= 6 ? bits_of<V, 1>(t) : t.bits <= 8 ? bits_of<V, 3>(t) : bits_of<V, 11>(t);
    }
}

template <class V>
void words_in(const uint8_t* rows, size_t plane, int channels, const uint64_t* turns, const uint64_t* masks, int taps,
              uint8_t* out) {
    const auto at = [](const uint64_t* words, int k) { return V::load(reinterpret_cast<const uint8_t*>(words + k)); };
    for (int c = 0; c < channels; ++c, rows += plane, out += size_t(taps) * 8) {
        uint64_t word;
        std::memcpy(&word, rows, 8);
        for (int k = 0; k < taps; k += V::width / 8)
            V::store(out + k * 8, V::both(V::turn(V::same(word), at(turns, k)), at(masks, k)));
    }
}

template <class V>
void rows_in(const uint8_t* plane, const int32_t* offset, const int64_t* shift, const uint64_t* mask, int taps,
             uint8_t* out) {
    for (int k = 0; k < taps; ++k, out += V::width) {
        const typename V::T x = V::load(plane + offset[k]);
        V::store(out, V::both(V::shift_or_turn(x, shift[k]), V::same(mask[k])));
    }
}

template <class V>
void cells_in(const uint8_t* plane, const int32_t* offset, const uint8_t* masks, int taps, uint8_t* out) {
    for (int k = 0; k < taps; ++k, out += V::width)
        V::store(out, V::both(V::load(plane + offset[k]), V::load(masks + size_t(k) * V::width)));
}

// The magic number makes the sum round to a whole number, halves to even, without asking the processor for its mode;
// its last 16 bits are the level.
BIPROP_INLINE void store_quantised(int16_t* to, Floats y, const biprop::QuantisedFinish& f) {
    typedef int32_t Ints __attribute__((vector_size(sizeof(Floats))));
    typedef int16_t Shorts __attribute__((vector_size(sizeof(Floats) / 2)));
    const Floats zero = {}, low = zero + f.low, high = zero + f.high;
    y *= f.per_step;
    y = y < low ? low : y;
    y = (y > high ? high : y) + 12582912.0f;
    Ints bits;
    std::memcpy(&bits, &y, sizeof bits);
    const Shorts whole = __builtin_convertvector(bits, Shorts);
    std::memcpy(to, &whole, sizeof whole);
}

// ---- 1/32: sparse sums of tiles that stay in the fastest cache ----

// Weights +1 and -1 as a stream: the taps of a range take theirs from kSigns + kMostSigns - positive. A multiplication
// with them is exact, and one loop for both signs, over ranges in the order of their length, ends where the processor
// expects it to.
constexpr int kMostSigns = 2048;
struct SignTable {
    float values[2 * kMostSigns];
    constexpr SignTable() : values() {
        for (int i = 0; i < 2 * kMostSigns; ++i) values[i] = i < kMostSigns ? 1.0f : -1.0f;
    }
};
constexpr SignTable kSigns;

// With few vectors several taps at once, because an addition waits for the one before it.
template <int Vectors>
void sum_of(const SumTile& t) {
    constexpr int regs = Vectors * kParts,
                  chains = regs >= 8   ? 1
                           : regs >= 4 ? 2
                                       : 4,
                  half = Vectors > 1 ? regs / 2 : regs;
    const auto place = [](auto* first, auto* second, int r) {
        return r < half ? first + r * kFloats : second + (r - half) * kFloats;
    };
    const float* const second = t.input + t.second;
    for (int at = t.first; at < t.last; ++at) {
        const SumRange range = t.ranges[at];
        const uint32_t c = range.channel;
        float* part = t.part + c * t.part_step;
        Floats sum[chains][regs];
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) {
            sum[0][r] = t.begin ? Floats{} : load_floats(part + r * kFloats);
            for (int k = 1; k < chains; ++k) sum[k][r] = Floats{};
        }
        const auto add = [&](const uint16_t* tap, const float* weight, int count) {
            int i = 0;
            for (; i + chains <= count; i += chains)
#pragma GCC unroll 4
                for (int k = 0; k < chains; ++k) {
                    const float *source = t.input + tap[i + k], *lower = second + tap[i + k];
                    const Floats w =
                        weight[i + k] - Floats{};  // 0 is not subtracted, but would be added, for the sake of -0
#pragma GCC unroll 32
                    for (int r = 0; r < regs; ++r)
                        sum[k][r] = multiply_add(load_floats(place(source, lower, r)), w, sum[k][r]);
                }
            if (chains > 1)
                for (; i < count; ++i) {
                    const float *source = t.input + tap[i], *lower = second + tap[i];
                    const Floats w = weight[i] - Floats{};
#pragma GCC unroll 32
                    for (int r = 0; r < regs; ++r)
                        sum[0][r] = multiply_add(load_floats(place(source, lower, r)), w, sum[0][r]);
                }
        };
        const uint16_t* tap = t.taps + range.start;
        int positive = range.positive, negative = range.negative;
        if (t.weights) {
            add(tap, t.weights + range.start, positive);
        } else {
            for (; positive > kMostSigns; positive -= kMostSigns, tap += kMostSigns)
                add(tap, kSigns.values, kMostSigns);
            const int some = negative < kMostSigns ? negative : kMostSigns;
            add(tap, kSigns.values + kMostSigns - positive, positive + some);
            for (tap += positive + some, negative -= some; negative > 0; negative -= kMostSigns, tap += kMostSigns)
                add(tap, kSigns.values + kMostSigns, negative < kMostSigns ? negative : kMostSigns);
        }
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r)
            for (int k = 1; k < chains; ++k) sum[0][r] += sum[k][r];
        if (!t.out && !t.signs && !t.quantised) {
#pragma GCC unroll 32
            for (int r = 0; r < regs; ++r) store_floats(part + r * kFloats, sum[0][r]);
            continue;
        }
        const Finish& f = t.finishes[c].finish;
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) sum[0][r] = sum[0][r] * f.scale + f.shift;
        if (t.residual) {
            const float* residual = shifted(t.residual, c * t.residual_step);
#pragma GCC unroll 32
            for (int r = 0; r < regs; ++r)
                sum[0][r] += load_floats(place(residual, residual + t.out_second, r)) * f.residual_scale;
        }
        if (t.signs) {
            uint8_t* out = t.signs + c * t.out_step;
            if constexpr (Vectors % 4 == 0) {
#pragma GCC unroll 32
                for (int v = 0; v < Vectors; v += 4) store_signs(sum[0] + v * kParts, out + 2 * v);
            } else {
                for (int v = 0; v < Vectors; ++v) {
                    unsigned bits = 0;
                    for (int k = 0; k < kParts; ++k) bits |= signs_of(sum[0][v * kParts + k]) << (k * kFloats);
                    const auto piece = uint16_t(bits);
                    std::memcpy(out + 2 * v, &piece, 2);
                }
            }
            continue;
        }
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) sum[0][r] = act_of(sum[0][r], f.act);
        if (t.quantised) {
            int16_t* quantised = shifted(t.quantised, c * t.out_step);
#pragma GCC unroll 32
            for (int r = 0; r < regs; ++r)
                store_quantised(place(quantised, quantised + t.out_second, r), sum[0][r], t.finishes[c]);
            continue;
        }
        float* out = shifted(t.out, c * t.out_step);
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) store_floats(place(out, out + t.out_second, r), sum[0][r]);
    }
}

void sum(const SumTile& t) {
    if constexpr (kVectors >= 16)
        if (t.vectors == 16) return sum_of<16>(t);
    if constexpr (kVectors >= 8)
        if (t.vectors == 8) return sum_of<8>(t);
    if (t.vectors == 4) return sum_of<4>(t);
    if (t.vectors == 2) return sum_of<2>(t);
    return sum_of<1>(t);
}

// One output position of one image; a file may have its own.
[[maybe_unused]] float generic_dot(const float* x, const uint16_t* tap, int positive, int negative) {
    float sum[8] = {};
    for (int i = 0; i < positive; ++i, tap += 8)
        for (int k = 0; k < 8; ++k) sum[k] += x[tap[k]];
    for (int i = 0; i < negative; ++i, tap += 8)
        for (int k = 0; k < 8; ++k) sum[k] -= x[tap[k]];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// ---- 1/32 on 8-bit levels ----

typedef int16_t Int16s __attribute__((vector_size(kFloats * 4)));

BIPROP_INLINE Int16s load_int16s(const int16_t* p) {
    Int16s v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

BIPROP_INLINE int16_t quantise(float y, float per_step, float low, float high) {
    float x = y * per_step;
    x = x < low ? low : x > high ? high : x;
    return int16_t(int((x + 12582912.0f) - 12582912.0f));
}

BIPROP_INLINE void quantise_all(const float* y, int n, const biprop::QuantisedFinish& f, int16_t* quantised) {
    for (int i = 0; i < n; ++i) quantised[i] = quantise(y[i], f.per_step, f.low, f.high);
}

// Whole vectors.
template <Act A>
BIPROP_INLINE void finish_quantised_as(const float* x, int n, const biprop::QuantisedFinish& f, const float* residual,
                                       int16_t* quantised) {
    for (int i = 0; i < n; i += kFloats) {
        Floats y = load_floats(x + i) * f.finish.scale + f.finish.shift;
        if (residual) y += load_floats(residual + i) * f.finish.residual_scale;
        store_quantised(quantised + i, act_of(y, A), f);
    }
}

void finish_quantised(const float* x, int n, const biprop::QuantisedFinish& f, const float* residual,
                      int16_t* quantised) {
    const int whole = n / kFloats * kFloats;
    switch (f.finish.act) {
        case Act::relu:
            residual ? finish_quantised_as<Act::relu>(x, whole, f, residual, quantised)
                     : finish_quantised_as<Act::relu>(x, whole, f, nullptr, quantised);
            break;
        case Act::sign: finish_quantised_as<Act::sign>(x, whole, f, residual, quantised); break;
        case Act::sign0: finish_quantised_as<Act::sign0>(x, whole, f, residual, quantised); break;
        default:
            residual ? finish_quantised_as<Act::none>(x, whole, f, residual, quantised)
                     : finish_quantised_as<Act::none>(x, whole, f, nullptr, quantised);
    }
    if (whole == n) return;
    float y[kFloats];
    finish_any(n - whole, f.finish, residual ? residual + whole : nullptr, y, [&](int i) { return x[whole + i]; });
    quantise_all(y, n - whole, f, quantised + whole);
}

template <class Value>
BIPROP_INLINE void finish_quantised_lanes(const QuantisedTile& t, uint32_t c, const Value& value) {
    const biprop::QuantisedFinish& f = t.finishes[c];
    for (int from = 0; from < t.lanes; from += 64) {
        alignas(64) float residual[64], y[64];
        const int n = t.lanes - from < 64 ? t.lanes - from : 64;
        const float* rest = nullptr;
        if (t.residual) rest = shifted(t.residual, c * t.residual_step) + from;
        if (t.residual_quantised) {
            const int16_t* quantised = shifted(t.residual_quantised, c * t.residual_step) + from;
            for (int i = 0; i < n; ++i) residual[i] = float(quantised[i]);
            rest = residual;
        }
        finish_any(n, f.finish, rest, t.quantised ? y : shifted(t.floats, c * t.out_step) + from,
                   [&](int i) { return value(from + i); });
        if (t.quantised) quantise_all(y, n, f, shifted(t.quantised, c * t.out_step) + from);
    }
}

template <int Vectors>
void sum_quantised_of(const QuantisedTile& t) {
    constexpr int regs = Vectors * kParts, lanes = Vectors * 32, per = kFloats * 2;
    for (int at = t.first; at < t.last; ++at) {
        const SumRange range = t.ranges[at];
        const uint32_t c = range.channel;
        int16_t* part = t.part + size_t(c) * lanes;
        Int16s sum[regs];
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) sum[r] = t.begin || t.wide ? Int16s{} : load_int16s(part + r * per);
        const uint16_t* tap = t.taps + range.start;
        for (int i = 0; i < range.positive; ++i, ++tap)
#pragma GCC unroll 32
            for (int r = 0; r < regs; ++r) sum[r] += load_int16s(t.input + *tap + r * per);
        for (int i = 0; i < range.negative; ++i, ++tap)
#pragma GCC unroll 32
            for (int r = 0; r < regs; ++r) sum[r] -= load_int16s(t.input + *tap + r * per);
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) std::memcpy(part + r * per, &sum[r], sizeof sum[r]);
        if (int32_t* wide = t.wide ? t.wide + size_t(c) * lanes : nullptr) {
            if (t.begin)
                for (int i = 0; i < lanes; ++i) wide[i] = part[i];
            else
                for (int i = 0; i < lanes; ++i) wide[i] += part[i];
            if (t.finishes) finish_quantised_lanes(t, c, [&](int i) { return float(wide[i]); });
        } else if (t.finishes) {
            finish_quantised_lanes(t, c, [&](int i) { return float(part[i]); });
        }
    }
}

void sum_quantised(const QuantisedTile& t) {
    if constexpr (kVectors >= 8)
        if (t.vectors == 8) return sum_quantised_of<8>(t);
    if (t.vectors == 4) return sum_quantised_of<4>(t);
    if (t.vectors == 2) return sum_quantised_of<2>(t);
    return sum_quantised_of<1>(t);
}

// ---- what is called beside the sums ----

template <bool Least>
BIPROP_INLINE void pool_counts_of(const int16_t* const counts[2], const int32_t* const corrections[2], int positions,
                                  float* out) {
    constexpr int per = kFloats * 2;
    const auto further = [](Int16s a, Int16s b) { return (Least ? a < b : a > b) ? a : b; };
    for (int p = 0; p < positions; p += 2)
        for (int i = 0; i < 64; i += per, out += per) {
            const auto x = [&](int row, int column) {
                const Int16s count = load_int16s(counts[row] + (p + column) * 64 + i);
                return count + count - int16_t(corrections[row][p + column]);
            };
            const Int16s most = further(further(x(0, 0), x(0, 1)), further(x(1, 0), x(1, 1)));
            int16_t lanes[per];
            std::memcpy(lanes, &most, sizeof lanes);
            for (int k = 0; k < per; ++k) out[k] = lanes[k];
        }
}

void pool_counts(const int16_t* const counts[2], const int32_t* const corrections[2], int positions, bool least,
                 float* out) {
    least ? pool_counts_of<true>(counts, corrections, positions, out)
          : pool_counts_of<false>(counts, corrections, positions, out);
}

void finish_floats(const float* x, int n, const Finish& f, const float* residual, float* out) {
    finish_any(n, f, residual, out, [&](int i) { return x[i]; });
}

void signs(const float* x, int n, const Finish& f, const float* residual, uint8_t* bits) {
    for (int i = 0; i < n; i += 16) {
        alignas(64) float y[16];
        const float* rest = residual ? residual + i : nullptr;
        if (n - i >= 16) {
            finish_as<Act::none>(16, f, rest, y, [&](int k) { return x[i + k]; });
        } else {
            for (int k = 0; k < 16; ++k) y[k] = -1;
            finish_as<Act::none>(n - i, f, rest, y, [&](int k) { return x[i + k]; });
        }
        unsigned piece = 0;
        for (int k = 0; k < kParts; ++k) piece |= signs_of(load_floats(y + k * kFloats)) << (k * kFloats);
        bits[i / 8] = uint8_t(piece);
        if (n - i > 8) bits[i / 8 + 1] = uint8_t(piece >> 8);
    }
}

template <class Number>
BIPROP_INLINE Number larger_of(Number a, Number b) {
    return a > b ? a : b;
}

// Sizes that the compiler knows become vectors and shuffles.
template <int Width, int Images, class Number>
void pool_of(const Number* x, int width, int images, int out_height, int out_width, Number* out) {
    if (Width) {
        width = Width;
        out_width = Width / 2;
    }
    if (Images) images = Images;
    for (int y = 0; y < out_height; ++y, x += 2 * width * images)
        for (int i = 0; i < out_width; ++i, out += images) {
            const Number *a = x + 2 * i * images, *b = a + width * images;
            for (int k = 0; k < images; ++k)
                out[k] = larger_of(larger_of(a[k], b[k]), larger_of(a[k + images], b[k + images]));
        }
}

template <class Number>
BIPROP_INLINE void pool_any(const Number* x, int width, int images, int out_height, int out_width, Number* out) {
    if (images == 16) return pool_of<0, 16>(x, width, images, out_height, out_width, out);
    if (images == 32) return pool_of<0, 32>(x, width, images, out_height, out_width, out);
    if (images > 1) return pool_of<0, 0>(x, width, images, out_height, out_width, out);
    if (width == 8) return pool_of<8, 1>(x, width, images, out_height, out_width, out);
    if (width == 16) return pool_of<16, 1>(x, width, images, out_height, out_width, out);
    if (width == 32) return pool_of<32, 1>(x, width, images, out_height, out_width, out);
    return pool_of<0, 1>(x, width, images, out_height, out_width, out);
}

void pool_floats(const float* x, int width, int images, int out_height, int out_width, float* out) {
    pool_any(x, width, images, out_height, out_width, out);
}
void pool_quantised(const int16_t* x, int width, int images, int out_height, int out_width, int16_t* out) {
    pool_any(x, width, images, out_height, out_width, out);
}

void pool_cells(const uint64_t* a, const uint64_t* b, int n, bool all, uint64_t* out) {
    if (all)
        for (int i = 0; i < n; ++i) out[i] = a[2 * i] & a[2 * i + 1] & b[2 * i] & b[2 * i + 1];
    else
        for (int i = 0; i < n; ++i) out[i] = a[2 * i] | a[2 * i + 1] | b[2 * i] | b[2 * i + 1];
}

// The even bits of each `Row` bits of a word, side by side in their lower half.
template <int Row>
BIPROP_INLINE uint64_t even_columns(uint64_t x) {
    x &= 0x5555555555555555u;
    x = (x | (x >> 1)) & 0x3333333333333333u;
    x = (x | (x >> 2)) & 0x0f0f0f0f0f0f0f0fu;
    if (Row > 8) x = (x | (x >> 4)) & 0x00ff00ff00ff00ffu;
    if (Row > 16) x = (x | (x >> 8)) & 0x0000ffff0000ffffu;
    if (Row > 32) x = (x | (x >> 16)) & 0x00000000ffffffffu;
    return x;
}

// Rows of half as many bits, but at least 8: of the even rows of a word the even columns, side by side.
template <int Row>
struct Halved {
    static constexpr int rows = Row == 64 ? 1 : 32 / Row, bits = Row == 8 ? 8 : Row / 2;
    using Word = typename std::conditional<rows * bits == 32, uint32_t, uint16_t>::type;
    static BIPROP_INLINE Word of(uint64_t x) {
#ifdef __BMI2__  // where rows of a word must come together; compilers make vectors of whole words
        if (Row == 16) return Word(_pext_u64(x, 0x0000555500005555u));
        if (Row == 8) return Word(_pdep_u64(_pext_u64(x, 0x0055005500550055u), 0x0f0f0f0fu));
#endif
        const uint64_t columns = even_columns<Row>(x);
        uint64_t word = 0;
        for (int k = 0; k < rows; ++k)
            word |= ((columns >> (2 * k * Row % 64)) & ((uint64_t(1) << bits) - 1)) << (k * bits);
        return Word(word);
    }
    // The first `count` rows.
    static BIPROP_INLINE void store(uint8_t* to, Word word, int count) {
        if (rows == 1 || count >= rows)
            std::memcpy(to, &word, sizeof word);
        else
            std::memcpy(to, &word, size_t(count) * bits / 8);
    }
};

template <int Row>
void split_of(const uint8_t* rows, int height, size_t sub, uint8_t* to) {
    using Half = Halved<Row>;
    for (int y = 0; y < height; y += 64 / Row, rows += 8) {
        uint64_t word;
        std::memcpy(&word, rows, 8);
        for (int odd = 0; odd < 2; ++odd)  // columns
            for (int below = 0; below < (Row == 64 ? 1 : 2); ++below)
                Half::store(to + ((y + below) % 2 * 2 + odd) * sub + size_t(y / 2) * (Half::bits / 8),
                            Half::of(word >> (below * Row % 64 + odd)), (height - y - below + 1) / 2);
    }
}

void split(const uint8_t* rows, int row, int height, size_t sub, uint8_t* to) {
    if (row == 8) return split_of<8>(rows, height, sub, to);
    if (row == 16) return split_of<16>(rows, height, sub, to);
    if (row == 32) return split_of<32>(rows, height, sub, to);
    return split_of<64>(rows, height, sub, to);
}

// Rows of 8 to 64 bits, several a word: first the rows in pairs, then the columns, then the even columns side by side.
template <int Row>
void pool_rows_of(const uint64_t* words, int out_height, uint64_t columns, bool all, uint8_t* out) {
    using Half = Halved<Row>;
    uint64_t keep = 0;
    for (int k = 0; k < Half::rows; ++k) keep |= columns << (k * Half::bits);
    for (int y = 0; y < out_height; y += Half::rows, out += sizeof(typename Half::Word)) {
        const uint64_t a = *words++, b = Row == 64 ? *words++ : a >> (Row % 64);
        const uint64_t x = all ? a & b : a | b;
        Half::store(out, typename Half::Word(Half::of(all ? x & (x >> 1) : x | (x >> 1)) & keep), out_height - y);
    }
}

void pool_rows(const uint64_t* words, int row, int out_height, uint64_t columns, bool all, uint8_t* out) {
    if (row == 8) return pool_rows_of<8>(words, out_height, columns, all, out);
    if (row == 16) return pool_rows_of<16>(words, out_height, columns, all, out);
    if (row == 32) return pool_rows_of<32>(words, out_height, columns, all, out);
    return pool_rows_of<64>(words, out_height, columns, all, out);
}

}  // namespace
