// Part of kernels-inl.h: convolutions on binary activations, bit-sliced. One full adder adds two planes to a third; the
// count of a lane is a column of bits, over 5 + High planes.
#pragma once

#include "finish-inl.h"

namespace {

// Adds eight planes, or their complements, to the counters of ones, twos and fours; returns the plane of eights. The
// complements of three planes have the complements of their sum and carry. Independent adders come first, except
// in_chains, where an adder is many instructions and registers are few.
template <class V, bool Not, class Planes>
BIPROP_INLINE typename V::T eight(typename V::T& one, typename V::T& two, typename V::T& four, const Planes& planes,
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

// Two planes of one weight: the first, and whether the second differs from it. Two full adders in a row take eight
// instructions on such pairs, and give another pair (A. Kojevnikov, A. Kulikov, G. Yaroslavtsev, Finding efficient
// circuits using SAT-solvers, 2009). A plane takes five instructions with full adders, and four and a half with these:
// the first ones have to compare their planes.
template <class T>
struct Pair {
    T first, differ;
};

// Adds a pair to `sum`; returns the carry.
template <class T>
BIPROP_INLINE T add_pair(T& sum, Pair<T> p) {
    const T either = p.differ | (p.first ^ sum);
    sum ^= p.differ;
    return either ^ sum;
}

// Adds two pairs; returns the pair of carries.
template <class T>
BIPROP_INLINE Pair<T> add_pairs(T& sum, Pair<T> p, Pair<T> q) {
    const T either = p.differ | (p.first ^ sum);
    const T between = sum ^ p.differ;
    const T only = ~q.differ & (q.first ^ between);
    sum = between ^ q.differ;
    return {either ^ between, either ^ only};
}

// As `eight`, but returns the pair of fours.
template <class V, class Planes>
BIPROP_INLINE Pair<typename V::T> pair_of_fours(typename V::T& one, typename V::T& two, const Planes& planes,
                                                const uint16_t* tap) {
    using T = typename V::T;
    const auto plane = V::reader(planes, tap);
    const auto pair = [&](int i) BIPROP_LAMBDA_INLINE {
        const T first = plane(i);
        return Pair<T>{first, first ^ plane(i + 1)};
    };
    const Pair<T> a = add_pairs(one, pair(0), pair(2));
    const Pair<T> b = add_pairs(one, pair(4), pair(6));
    return add_pairs(two, a, b);
}

// The lists of a large network come from the third cache. The processor prefetches only to the end of a page of 4 KB.
constexpr int kAhead = 2048;  // taps

template <class V, int High>
struct Counter {
    using T = typename V::T;
    static_assert(High >= 1 && High <= 11);
    T one = V::zero(), two = one, four = one, eights = one, sixteens = one;
    T high[High];
    T waiting = one;  // a plane of eights without its partner
    bool waits = false;

    BIPROP_INLINE Counter() { clear<0>(); }

    // Indices are template arguments, so that compilers keep all of `high` in registers.
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
    // Adds the planes of `groups` times eight taps, or their complements; returns the end of the list.
    template <bool Not, class Planes>
    BIPROP_INLINE const uint16_t* add(const Planes& planes, const uint16_t* tap, int groups) {
        if constexpr (V::in_pairs) return add_in_pairs<Not>(planes, tap, groups);
        for (; groups >= 4; groups -= 4, tap += 4 * V::per_eight) {
            for (int line = 0; line < 4 * V::per_eight; line += 32) __builtin_prefetch(tap + kAhead + line, 0, 2);
            T c, d, e;
            T a = eight<V, Not>(one, two, four, planes, tap);
            T b = eight<V, Not>(one, two, four, planes, tap + V::per_eight);
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
    // The carry of a full adder of complements is the complement of the carry, so complements are added by way of the
    // complements of the sums.
    template <bool Not, class Planes>
    BIPROP_INLINE const uint16_t* add_in_pairs(const Planes& planes, const uint16_t* tap, int groups) {
        if (Not) complement();
        const auto fours = [&](int i) BIPROP_LAMBDA_INLINE {
            return pair_of_fours<V>(one, two, planes, tap + i * V::per_eight);
        };
        for (; groups >= 4; groups -= 4, tap += 4 * V::per_eight) {
            for (int line = 0; line < 4 * V::per_eight; line += 32) __builtin_prefetch(tap + kAhead + line, 0, 2);
            Pair<T> a = fours(0), b = fours(1);
            const Pair<T> c = add_pairs(four, a, b);
            a = fours(2);
            b = fours(3);
            const Pair<T> d = add_pairs(four, a, b);
            const T e = add_pair(sixteens, add_pairs(eights, c, d));
            carry<0>(Not ? ~e : e);
        }
        if (groups & 2) {
            const Pair<T> a = fours(0), b = fours(1);
            carry_sixteen<Not>(add_pair(eights, add_pairs(four, a, b)));
            tap += 2 * V::per_eight;
        }
        if (groups & 1) {
            const T a = add_pair(four, fours(0));
            carry_sixteen<Not>(half_add<Not>(eights, a));
            tap += V::per_eight;
        }
        if (Not) complement();
        return tap;
    }
    BIPROP_INLINE void complement() {
        one = ~one;
        two = ~two;
        four = ~four;
        eights = ~eights;
        sixteens = ~sixteens;
    }
    // sum + a becomes sum + 2 carry; with Not, all are complements.
    template <bool Not>
    BIPROP_INLINE static T half_add(T& sum, T a) {
        const T carry = Not ? sum | a : sum & a;
        sum ^= Not ? ~a : a;
        return carry;
    }
    template <bool Not>
    BIPROP_INLINE void carry_sixteen(T a) {
        const T next = half_add<Not>(sixteens, a);
        carry<0>(Not ? ~next : next);
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
    // Calls use(plane, i) for the lowest `bits` planes, from the lowest up.
    template <int I = 0, class Use>
    BIPROP_INLINE void each(int bits, const Use& use) const {
        if (I >= bits) return;
        use(bit<I>(), I);
        if constexpr (I + 1 < 5 + High) each<I + 1>(bits, use);
    }
};

// One bit a lane: count >= threshold, compared from the lowest bit up.
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

// Finishes the counts of N lanes from `lane` to the floats of the tile; where it has none, returns their signs.
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

// In whole vectors: compilers would not vectorise a loop over numbers here.
BIPROP_INLINE void finish_sixteen(const float* x, const Finish& f, float* out) {
    for (int i = 0; i < 16; i += kFloats) store_floats(out + i, act_of(load_floats(x + i) * f.scale + f.shift, f.act));
}

// Finishes the counts of 64 lanes, each in a column of bits of `sliced`, to floats or their signs.
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

// The 2x2 maxima of 2 count - correction of two rows of 8x8 maps, of four channels.
BIPROP_INLINE void largest_of_two_rows(const BitTile& t, const int16_t* counts, const uint32_t* channels,
                                       float* largest) {
    const auto larger = [](int16_t a, int16_t b) { return a > b ? a : b; };
    for (int i = 0; i < 4; ++i, counts += 16) {
        const int16_t* corrections = t.class_corrections + 16 * channels[i];
        int16_t x[16];
        for (int p = 0; p < 16; ++p) x[p] = int16_t(2 * counts[p] - corrections[t.classes[p]]);
        for (int p = 0; p < 8; p += 2) *largest++ = larger(larger(x[p], x[p + 1]), larger(x[p + 8], x[p + 9]));
    }
}

// The same for several channels, each of N positions of a plane of 8x8.
template <int N>
void finish_rows(const BitTile& t, const uint64_t* sliced, size_t step, const uint32_t* channels) {
    int16_t counts[64];
    widen(sliced, step, t.bits, counts);
    if (t.classes) {
        alignas(64) float largest[16], y[16];
        if (N == 32) {
            const int16_t* const corrections[2] = {t.class_corrections + 16 * channels[0],
                                                   t.class_corrections + 16 * channels[1]};
            const uint16_t* const classes[2] = {t.classes, t.classes};
            largest_of_halves(counts, corrections, classes, largest);
        } else {
            largest_of_two_rows(t, counts, channels, largest);
        }
        for (int i = 0; i < 64 / N; ++i) {  // a whole vector, of which some lanes are the channel's
            finish_sixteen(largest, t.finishes[channels[i]], y);
            std::memcpy(shifted(t.floats, channels[i] * t.floats_step), y + N / 4 * i, N / 4 * sizeof(float));
        }
        return;
    }
    for (int i = 0; i < 64 / N; ++i) {
        const uint32_t c = channels[i];
        const uint64_t rows = finish_lanes<N>(t, counts + N * i, t.corrections + c * t.corrections_step, c, 0);
        if (!t.floats) std::memcpy(t.out + c * t.out_step, &rows, N / 8);
    }
}

// The same for four channels of 4x4 positions.
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

// The same where a channel has a word of rows, of which it uses four bits of four rows.
void finish_rows_of_quarters(const BitTile& t, const uint64_t* sliced, size_t step, const uint32_t* channels) {
    uint64_t quarters[16] = {};
    for (int b = 0; b < t.bits; ++b)
        for (int i = 0; i < 4; ++i) quarters[b] |= uint64_t(quarter_of_rows(uint32_t(sliced[b * step + i]))) << 16 * i;
    finish_quarters(t, quarters, 1, channels);
}

// The number of 64-bit words of lanes in a vector of planes.
template <class V>
constexpr int words_of() {
    constexpr int in_vector = int(sizeof(typename V::T)) / 8;
    return in_vector > V::width / 8 && V::channels == 1 ? V::width / 8 : in_vector;
}

// Stores the counts of channel c, at place `at` of the order, as they are, as floats or as signs.
template <class V, int High>
BIPROP_INLINE void store_counts(const BitTile& t, const Counter<V, High>& count, int at, int c) {
    constexpr int words = words_of<V>();
    alignas(64) uint64_t sliced[(5 + High) * words];
    count.each(t.bits, [&](typename V::T plane, int i) { V::store(sliced + i * words, V::side_by_side(plane)); });
    for (int w = 0; w < words && t.counts; ++w)
        widen(sliced + w, words, t.bits, t.counts + (size_t(at - t.first) * words + w) * 64);
    for (int w = 0; w < words && t.finishes; ++w) {
        const uint32_t* const channels = t.order + c * V::channels;  // where there are several
        if (V::channels == 1) {
            if (w < t.words) finish_word(t, sliced + w, words, c, w);
        } else if (V::channels == 32 || (V::bytes_apart && t.quarters)) {
            finish_quarters(t, sliced + w, words, channels + 4 * w);
        } else if (V::channels == 16) {
            constexpr int lanes = V::bytes_apart ? 16 : 32;
            finish_rows<lanes>(t, sliced + w, words, channels + 64 / lanes * w);
        } else if (!t.quarters) {
            finish_word(t, sliced + w, words, int(channels[w]), 0);
        } else if (w % 4 == 0) {
            finish_rows_of_quarters(t, sliced + w, words, channels + w);
        }
    }
}

template <class V>
BIPROP_INLINE void prefetch_thresholds(const BitTile& t, int at) {
    const uint8_t* next = t.sliced + (V::channels > 1 ? size_t(at) : size_t(t.order[at])) * t.sliced_step;
    const int bytes = t.bits * (V::tabled ? 16 : 8 * words_of<V>());
    for (int line = 0; line < bytes; line += 64) __builtin_prefetch(next + line, 0, 3);
}

template <class V, int High>
void bits_of(const BitTile& t) {
    using T = typename V::T;
    constexpr int words = words_of<V>();
    for (int at = t.first; at < t.last; ++at) {
        const int c = V::channels > 1 ? at : int(t.order[at]);  // a channel, or a group of them
        Counter<V, High> count;
        const TapRange range = t.ranges[c];
        const uint16_t* tap = t.taps + size_t(range.start) * V::per_eight;
        if (t.sliced && at + 1 < t.last) prefetch_thresholds<V>(t, at + 1);
        tap = count.template add<false>(V::planes_of(t), tap, range.positive);
        count.template add<true>(V::planes_of(t), tap, range.negative);
        count.finish();
        if (t.counts || t.finishes) {
            store_counts<V, High>(t, count, at, c);
            continue;
        }
        // Thresholds are bit-sliced, as tables of bytes or as planes; or there is one for each 64-bit lane.
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

// Thresholds as tables of bytes. This is a type of its own, because one more branch makes compilers generate slower
// sums.
template <class V>
struct Tabled : V {
    static constexpr bool tabled = true;
};

// Uses as few high planes as the counts need: each costs two instructions for every 32 taps.
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

// Calls use(V()) with the vector of bits of `width` bytes.
template <class V, class... Narrower, class Use>
BIPROP_INLINE void with_vector_of(VectorsOfBits<V, Narrower...>, int width, const Use& use) {
    if constexpr (sizeof...(Narrower) > 0)
        if (width != V::width) return with_vector_of(VectorsOfBits<Narrower...>(), width, use);
    use(V());
}

void bits(const BitTile& t, int width) {
    with_vector_of(Vectors(), width, [&](auto vector) {
        using V = decltype(vector);
        if constexpr (kLooksUp && V::width > 8)
            if (t.places) return bits_in<Tabled<V>>(t);
        bits_in<V>(t);
    });
}

// In the widest vector.
template <class V, class... Narrower>
BIPROP_INLINE void words_in(VectorsOfBits<V, Narrower...>, const uint8_t* rows, size_t plane, int channels,
                            const uint64_t* turns, const uint64_t* masks, int taps, uint8_t* out) {
    const auto at = [](const uint64_t* words, int k) { return V::load(reinterpret_cast<const uint8_t*>(words + k)); };
    for (int c = 0; c < channels; ++c, rows += plane, out += size_t(taps) * 8) {
        uint64_t word;
        std::memcpy(&word, rows, 8);
        for (int k = 0; k < taps; k += V::width / 8)
            V::store(out + k * 8, V::both(V::turn(V::same(word), at(turns, k)), at(masks, k)));
    }
}

void pack_words(const uint8_t* rows, size_t plane, int channels, const uint64_t* turns, const uint64_t* masks, int taps,
                uint8_t* out) {
    words_in(Vectors(), rows, plane, channels, turns, masks, taps, out);
}

template <class V>
void rows_in(const uint8_t* plane, const int32_t* offset, const int64_t* shift, const uint64_t* mask, int taps,
             uint8_t* out) {
    for (int k = 0; k < taps; ++k, out += V::width) {
        const typename V::T x = V::load(plane + offset[k]);
        V::store(out, V::both(V::shift_or_turn(x, shift[k]), V::same(mask[k])));
    }
}

void pack_rows(const uint8_t* plane, const int32_t* offset, const int64_t* shift, const uint64_t* mask, int taps,
               int width, uint8_t* out) {
    with_vector_of(Vectors(), width,
                   [&](auto vector) { rows_in<decltype(vector)>(plane, offset, shift, mask, taps, out); });
}

template <class V>
void cells_in(const uint8_t* plane, const int32_t* offset, const uint8_t* masks, int taps, uint8_t* out) {
    for (int k = 0; k < taps; ++k, out += V::width)
        V::store(out, V::both(V::load(plane + offset[k]), V::load(masks + size_t(k) * V::width)));
}

void pack_cells(const uint8_t* plane, const int32_t* offset, const uint8_t* masks, int taps, int width, uint8_t* out) {
    with_vector_of(Vectors(), width, [&](auto vector) { cells_in<decltype(vector)>(plane, offset, masks, taps, out); });
}

}  // namespace
