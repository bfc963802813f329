// Part of kernels-inl.h: convolutions on floats and on quantised activations as sparse sums, of tiles that stay in the
// fastest cache.
#pragma once

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

template <int Vectors>
BIPROP_INLINE void add_tap(const SumTile& t, const float* second, uint16_t tap, float weight, Floats* sum) {
    const float *source = t.input + tap, *lower = second + tap;
    const Floats w = weight - Floats{};  // subtracting 0 keeps -0, adding 0 would not
#pragma GCC unroll 32
    for (int r = 0; r < Vectors * kParts; ++r)
        sum[r] = multiply_add(load_floats(place<Vectors>(source, lower, r)), w, sum[r]);
}

// With few vectors several taps are summed side by side, in chains, because an addition waits for the one before it.
template <int Vectors>
void sum_of(const SumTile& t) {
    constexpr int regs = Vectors * kParts, chains = regs >= 8 ? 1 : regs >= 4 ? 2 : 4;
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
                for (int k = 0; k < chains; ++k) add_tap<Vectors>(t, second, tap[i + k], weight[i + k], sum[k]);
            if (chains > 1)
                for (; i < count; ++i) add_tap<Vectors>(t, second, tap[i], weight[i], sum[0]);
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
        if (t.out || t.signs || t.quantised) {
            finish_sums<Vectors>(t, c, sum[0]);
            continue;
        }
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) store_floats(part + r * kFloats, sum[0][r]);
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

// The sum for one output position of one image. An instruction set may have its own.
[[maybe_unused]] float generic_dot(const float* x, const uint16_t* tap, int positive, int negative) {
    float sum[8] = {};
    for (int i = 0; i < positive; ++i, tap += 8)
        for (int k = 0; k < 8; ++k) sum[k] += x[tap[k]];
    for (int i = 0; i < negative; ++i, tap += 8)
        for (int k = 0; k < 8; ++k) sum[k] -= x[tap[k]];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

template <class Value>
BIPROP_INLINE void finish_quantised_lanes(const QuantisedTile& t, uint32_t c, const Value& value) {
    const QuantisedFinish& f = t.finishes[c];
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

}  // namespace
