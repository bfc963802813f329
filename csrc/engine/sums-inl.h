// Part of kernels-inl.h: convolutions on floats and on quantised activations as sparse sums, of tiles that stay in the
// fastest cache.
#pragma once

#include <type_traits>

#include "finish-inl.h"

namespace {

// The weights +1 and -1 as a stream: a range of taps takes its weights from kSigns + kMostSigns - positive on.
// Multiplying by them is exact. With one loop for both signs, and ranges in the order of their length, the processor
// predicts where loops end.
constexpr int kMostSigns = 2048;
struct SignTable {
    float values[2 * kMostSigns];
    constexpr SignTable() : values() {
        for (int i = 0; i < 2 * kMostSigns; ++i) values[i] = i < kMostSigns ? 1.0f : -1.0f;
    }
};
constexpr SignTable kSigns;
constexpr int kRangesAhead = 2;  // of which the results are fetched
constexpr int kAtOnce = 4;  // taps; lists hold multiples of it where they can

// The address of register r of a tile, whose second half of lanes need not follow the first one.
template <int Vectors, class Number>
BIPROP_INLINE Number* place(Number* first, Number* second, int r) {
    constexpr int regs = Vectors * kParts, half = Vectors > 1 ? regs / 2 : regs;
    return r < half ? first + r * kFloats : second + (r - half) * kFloats;
}

template <int Vectors>
BIPROP_INLINE void store_sign_bits(const Floats* sum, uint8_t* out) {
    if constexpr (Vectors % 4 == 0) {
#pragma GCC unroll 32
        for (int v = 0; v < Vectors; v += 4) store_signs(sum + v * kParts, out + 2 * v);
    } else {
        for (int v = 0; v < Vectors; ++v) {
            unsigned bits = 0;
            for (int k = 0; k < kParts; ++k) bits |= signs_of(sum[v * kParts + k]) << (k * kFloats);
            const auto piece = uint16_t(bits);
            std::memcpy(out + 2 * v, &piece, 2);
        }
    }
}

// Fetches what finish_sums will read and write for channel c: with many images it is not in a near cache.
template <int Vectors>
BIPROP_INLINE void prefetch_finish(const SumTile& t, uint32_t c) {
    constexpr int line = 16, half = Vectors * 8;  // floats
    if (t.residual) {
        const float* residual = shifted(t.residual, c * t.residual_step);
        for (int i = 0; i < half; i += line) {
            __builtin_prefetch(residual + i);
            __builtin_prefetch(residual + t.out_second + i);
        }
    }
    if (t.out) {
        const float* out = shifted(t.out, c * t.out_step);
        for (int i = 0; i < half; i += line) {
            __builtin_prefetch(out + i, 1);
            __builtin_prefetch(out + t.out_second + i, 1);
        }
    }
}

// Finishes the last sums of channel c and stores them as floats, as signs, or quantised.
template <int Vectors>
BIPROP_INLINE void finish_sums(const SumTile& t, uint32_t c, Floats* sum) {
    constexpr int regs = Vectors * kParts;
    const Finish& f = t.finishes[c].finish;
#pragma GCC unroll 32
    for (int r = 0; r < regs; ++r) sum[r] = sum[r] * f.scale + f.shift;
    if (t.residual) {
        const float* residual = shifted(t.residual, c * t.residual_step);
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r)
            sum[r] += load_floats(place<Vectors>(residual, residual + t.out_second, r)) * f.residual_scale;
    }
    if (t.signs) return store_sign_bits<Vectors>(sum, t.signs + c * t.out_step);
#pragma GCC unroll 32
    for (int r = 0; r < regs; ++r) sum[r] = act_of(sum[r], f.act);
    if (t.quantised) {
        int16_t* quantised = shifted(t.quantised, c * t.out_step);
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r)
            store_quantised(place<Vectors>(quantised, quantised + t.out_second, r), sum[r], t.finishes[c]);
        return;
    }
    float* out = shifted(t.out, c * t.out_step);
#pragma GCC unroll 32
    for (int r = 0; r < regs; ++r) store_floats(place<Vectors>(out, out + t.out_second, r), sum[r]);
}

// Lists are read once for each tile, and those of a network do not stay in the second cache: fetches what follows 4 KB
// behind the list of `taps` taps.
BIPROP_INLINE void prefetch_taps(const uint16_t* list, int taps) {
    for (int i = 0; i < taps; i += 32) __builtin_prefetch(list + 2048 + i);
}

// Register r of the input of a tile. With gaps, rows of `Row` registers are one register apart.
template <int Vectors, int Row>
BIPROP_INLINE Floats load_tap(const float* first, const float* second, int r) {
    if constexpr (Row > 0) return load_floats(first + (r + r / Row) * kFloats);
    return load_floats(place<Vectors>(first, second, r));
}

// sum[r] += weight * input, for the registers of a tile.
template <int Vectors, int Row>
BIPROP_INLINE void add_tap(const SumTile& t, const float* second, uint16_t tap, float weight, Floats* sum) {
    const float *source = t.input + tap, *lower = second + tap;
    const Floats w = weight - Floats{};  // subtracting 0 keeps -0, adding 0 would not
#pragma GCC unroll 32
    for (int r = 0; r < Vectors * kParts; ++r)
        sum[r] = multiply_add(load_tap<Vectors, Row>(source, lower, r), w, sum[r]);
}

// The same for the weight +1 or -1.
template <int Vectors, int Row, bool Negative>
BIPROP_INLINE void add_signed_tap(const SumTile& t, const float* second, uint16_t tap, Floats* sum) {
    const float *source = t.input + tap, *lower = second + tap;
#pragma GCC unroll 32
    for (int r = 0; r < Vectors * kParts; ++r) {
        const Floats x = load_tap<Vectors, Row>(source, lower, r);
        sum[r] = Negative ? sum[r] - x : sum[r] + x;
    }
}

// One loop for both signs, for tiles of many registers.
template <int Vectors, class Add>
BIPROP_INLINE void add_by_weights(const SumTile& t, const SumRange& range, const Add& add) {
    const uint16_t* tap = t.taps + range.start;
    int positive = range.positive, negative = range.negative;
    if (t.weights) return add(tap, t.weights + range.start, positive);
    for (; positive > kMostSigns; positive -= kMostSigns, tap += kMostSigns) add(tap, kSigns.values, kMostSigns);
    const int some = negative < kMostSigns ? negative : kMostSigns;
    add(tap, kSigns.values + kMostSigns - positive, positive + some);
    for (tap += positive + some, negative -= some; negative > 0; negative -= kMostSigns, tap += kMostSigns)
        add(tap, kSigns.values + kMostSigns, negative < kMostSigns ? negative : kMostSigns);
}

// Calls add(i, chain) for all i < count, four at a time.
template <int Chains, class Add>
BIPROP_INLINE void in_chains(int count, const Add& add) {
    int i = 0;
    for (; i + kAtOnce <= count; i += kAtOnce)
#pragma GCC unroll 8
        for (int k = 0; k < kAtOnce; ++k) add(i + k, k % Chains);
    for (; i < count; ++i) add(i, 0);
}

// With few registers, several taps are summed side by side, in chains, because an addition waits for the one before it;
// and there is a loop for each sign, because weights would be a large part of what is loaded.
template <int Vectors, int Row>
void sum_of(const SumTile& t) {
    constexpr int regs = Vectors * kParts, chains = regs >= 8 ? 1 : regs >= 4 ? 2 : 4;
    const float* const second = t.input + t.second;
    for (int at = t.first; at < t.last; ++at) {
        const SumRange range = t.ranges[at];
        const uint32_t c = range.channel;
        float* part = t.part + c * t.part_step;
        prefetch_taps(t.taps + range.start, range.positive + range.negative);
        if (at + kRangesAhead < t.last) prefetch_finish<Vectors>(t, t.ranges[at + kRangesAhead].channel);
        Floats sum[chains][regs];
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) {
            sum[0][r] = t.begin ? Floats{} : load_floats(part + r * kFloats);
            for (int k = 1; k < chains; ++k) sum[k][r] = Floats{};
        }
        if (chains == 1 || t.weights) {
            add_by_weights<Vectors>(t, range, [&](const uint16_t* tap, const float* weight, int count) {
                in_chains<chains>(count,
                                  [&](int i, int k) { add_tap<Vectors, Row>(t, second, tap[i], weight[i], sum[k]); });
            });
        } else {
            const uint16_t* tap = t.taps + range.start;
            in_chains<chains>(range.positive,
                              [&](int i, int k) { add_signed_tap<Vectors, Row, false>(t, second, tap[i], sum[k]); });
            tap += range.positive;
            in_chains<chains>(range.negative,
                              [&](int i, int k) { add_signed_tap<Vectors, Row, true>(t, second, tap[i], sum[k]); });
        }
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r)
            for (int k = 1; k < chains; ++k) sum[0][r] += sum[k][r];
        if (t.out || t.signs || t.quantised) {
            finish_sums<Vectors>(t, c, sum[0]);
            continue;
        }
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) store_floats(part + r * kFloats, sum[0][r]);
    }
}

// Calls the kernel for rows of as many registers; where a row is the tile, there are no gaps within it.
template <int Registers, class Tile, class Kernel>
BIPROP_INLINE void by_row(const Tile& t, const Kernel& kernel) {
    constexpr int most = biprop::kRowsWithGaps ? Registers : 1;
    if constexpr (most > 1)
        if (t.row_registers == 1) return kernel(std::integral_constant<int, 1>());
    if constexpr (most > 2)
        if (t.row_registers == 2) return kernel(std::integral_constant<int, 2>());
    if constexpr (most > 4)
        if (t.row_registers == 4) return kernel(std::integral_constant<int, 4>());
    if constexpr (most > 8)
        if (t.row_registers == 8) return kernel(std::integral_constant<int, 8>());
    kernel(std::integral_constant<int, 0>());
}

template <int Vectors>
void sum_vectors(const SumTile& t) {
    by_row<Vectors * kParts>(t, [&](auto row) { sum_of<Vectors, row()>(t); });
}

void sum(const SumTile& t) {
    if constexpr (kVectors >= 16)
        if (t.vectors == 16) return sum_vectors<16>(t);
    if constexpr (kVectors >= 8)
        if (t.vectors == 8) return sum_vectors<8>(t);
    if (t.vectors == 4) return sum_vectors<4>(t);
    if (t.vectors == 2) return sum_vectors<2>(t);
    return sum_vectors<1>(t);
}

// The sum for one output position of one image. An instruction set may have its own.
[[maybe_unused]] float generic_dot(const float* x, const uint16_t* tap, int positive, int negative) {
    float sum[8] = {};
    for (int i = 0; i < positive; ++i, tap += 8)
        for (int k = 0; k < 8; ++k) sum[k] += x[tap[k]];
    for (int i = 0; i < negative; ++i, tap += 8)
        for (int k = 0; k < 8; ++k) sum[k] -= x[tap[k]];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// ---- quantised activations ----

// Registers of 16-bit lanes, for tiles of `Vectors` times 16 lanes: half a register where that is all.
template <int Vectors>
struct Levels {
    static constexpr int per = kFloats * 2 < 16 * Vectors ? kFloats * 2 : 16 * Vectors;  // lanes
    static constexpr int regs = Vectors * 16 / per;
    typedef int16_t Register __attribute__((vector_size(per * 2)));
    static BIPROP_INLINE Register load(const int16_t* p) {
        Register v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
};

// Eight or sixteen integers of 16 or 32 bits as floats.
template <class Integer>
BIPROP_INLINE Floats floats_of(const Integer* p) {
    typedef Integer Integers __attribute__((vector_size(kFloats * sizeof(Integer))));
    Integers x;
    std::memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, Floats);
}

template <class Integer>
BIPROP_INLINE void finish_levels(const QuantisedTile& t, uint32_t c, const Integer* sums) {
    const QuantisedFinish& f = t.finishes[c];
    const float* rest = t.residual ? shifted(t.residual, c * t.residual_step) : nullptr;
    const int16_t* levels = t.residual_quantised ? shifted(t.residual_quantised, c * t.residual_step) : nullptr;
    int16_t* quantised = t.quantised ? shifted(t.quantised, c * t.out_step) : nullptr;
    float* out = t.quantised ? nullptr : shifted(t.floats, c * t.out_step);
    const auto finish = [&](int i) {
        Floats y = floats_of(sums + i) * f.finish.scale + f.finish.shift;
        if (levels)
            y += floats_of(levels + i) * f.finish.residual_scale;
        else if (rest)
            y += load_floats(rest + i) * f.finish.residual_scale;
        return act_of(y, f.finish.act);
    };
    const int whole = t.lanes / kFloats * kFloats;
    for (int i = 0; i < whole; i += kFloats) {
        if (quantised)
            store_quantised(quantised + i, finish(i), f);
        else
            store_floats(out + i, finish(i));
    }
    if (whole == t.lanes) return;
    // Sums and residuals have slack behind them; what follows the result does not change.
    int16_t some[kFloats];
    float others[kFloats];
    if (quantised)
        store_quantised(some, finish(whole), f);
    else
        store_floats(others, finish(whole));
    for (int i = whole; i < t.lanes; ++i) {
        if (quantised)
            quantised[i] = some[i - whole];
        else
            out[i] = others[i - whole];
    }
}

template <int Vectors, int Row>
void sum_quantised_of(const QuantisedTile& t) {
    using L = Levels<Vectors>;
    constexpr int regs = L::regs, per = L::per, lanes = Vectors * 16, chains = regs == 1 ? 2 : 1;
    for (int at = t.first; at < t.last; ++at) {
        const SumRange range = t.ranges[at];
        const uint32_t c = range.channel;
        int16_t* part = t.part + size_t(c) * lanes;
        const uint16_t* tap = t.taps + range.start;
        prefetch_taps(tap, range.positive + range.negative);
        typename L::Register sum[chains][regs];
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) {
            sum[0][r] = t.begin || t.wide ? typename L::Register{} : L::load(part + r * per);
            for (int k = 1; k < chains; ++k) sum[k][r] = typename L::Register{};
        }
        in_chains<chains>(range.positive, [&](int i, int k) {
#pragma GCC unroll 32
            for (int r = 0; r < regs; ++r)
                sum[k][r] += L::load(t.input + tap[i] + (r + (Row ? r / (Row ? Row : 1) : 0)) * per);
        });
        tap += range.positive;
        in_chains<chains>(range.negative, [&](int i, int k) {
#pragma GCC unroll 32
            for (int r = 0; r < regs; ++r)
                sum[k][r] -= L::load(t.input + tap[i] + (r + (Row ? r / (Row ? Row : 1) : 0)) * per);
        });
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) {
            for (int k = 1; k < chains; ++k) sum[0][r] += sum[k][r];
            std::memcpy(part + r * per, &sum[0][r], sizeof sum[0][r]);
        }
        if (int32_t* wide = t.wide ? t.wide + size_t(c) * lanes : nullptr) {
            if (t.begin)
                for (int i = 0; i < lanes; ++i) wide[i] = part[i];
            else
                for (int i = 0; i < lanes; ++i) wide[i] += part[i];
            if (t.finishes) finish_levels(t, c, wide);
        } else if (t.finishes) {
            finish_levels(t, c, part);
        }
    }
}

template <int Vectors>
void sum_quantised_vectors(const QuantisedTile& t) {
    by_row<Levels<Vectors>::regs>(t, [&](auto row) { sum_quantised_of<Vectors, row()>(t); });
}

void sum_quantised(const QuantisedTile& t) {
    if constexpr (kVectors >= 8)
        if (t.vectors == 16) return sum_quantised_vectors<16>(t);
    if (t.vectors == 8) return sum_quantised_vectors<8>(t);
    if (t.vectors == 4) return sum_quantised_vectors<4>(t);
    if (t.vectors == 2) return sum_quantised_vectors<2>(t);
    return sum_quantised_vectors<1>(t);
}

}  // namespace
