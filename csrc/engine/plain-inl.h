// Part of kernels-inl.h: plain operations on floats (activation functions, arithmetic, reductions, norms, softmax,
// products, convolutions without masked kernels). Sums are in the same order with every number of lanes.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "finish-inl.h"

namespace {

using biprop::ActWithNumbers;
using biprop::Binary;
using biprop::Grid;
using biprop::LanesOfA;
using biprop::Reduce;
using biprop::Walk;

// ---- activation functions ----

// e^x to about 2 ulp, without branches, so that compilers vectorise it: 2^n times a polynomial (Cephes, expf).
BIPROP_INLINE float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // its lowest bits are the rounded integer
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float mantissa = p * r * r + r + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const auto exponent = int32_t((uint32_t(bits) - 0x4b400000u + 127u) << 23);
    float power;
    std::memcpy(&power, &exponent, sizeof power);
    return mantissa * power;
}

BIPROP_INLINE float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }
BIPROP_INLINE float tanh_of(float x) { return 1.0f - 2.0f / (exp_of(2.0f * x) + 1.0f); }
BIPROP_INLINE float hardsigmoid_of(float x) {
    const float y = x / 6.0f + 0.5f;
    const float low = y < 0.0f ? 0.0f : y;
    return low > 1.0f ? 1.0f : low;
}

// The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
BIPROP_INLINE float erf_of(float x) {
    const float size = x < 0.0f ? -x : x;
    const float t = 1.0f / (1.0f + 0.3275911f * size);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float y = 1.0f - p * t * exp_of(-size * size);
    return x < 0.0f ? -y : y;
}

template <Act A>
BIPROP_INLINE float activated(float x, float first, float second) {
    switch (A) {
        case Act::silu: return x * sigmoid_of(x);
        case Act::sigmoid: return sigmoid_of(x);
        case Act::tanh: return tanh_of(x);
        case Act::hardswish: return x * hardsigmoid_of(x);
        case Act::hardsigmoid: return hardsigmoid_of(x);
        case Act::gelu: return 0.5f * x * (1.0f + erf_of(x * 0.70710678f));
        case Act::gelu_tanh: {
            const float inner = 0.79788456f * (x + 0.044715f * x * x * x);
            return 0.5f * x * (1.0f + tanh_of(inner));
        }
        case Act::leaky_relu: {
            const float scaled = first * x;
            return x > 0.0f ? x : scaled;
        }
        case Act::elu: {
            const float below = first * (exp_of(x) - 1.0f);
            return x > 0.0f ? x : below;
        }
        case Act::clamp: {
            const float low = x < first ? first : x;
            return low > second ? second : low;
        }
        default: return act_of(x, A);
    }
}

template <Act A>
using OfAct = std::integral_constant<Act, A>;

template <class Use>
void with_act(Act act, const Use& use) {
    switch (act) {
        case Act::relu: return use(OfAct<Act::relu>());
        case Act::sign: return use(OfAct<Act::sign>());
        case Act::sign0: return use(OfAct<Act::sign0>());
        case Act::silu: return use(OfAct<Act::silu>());
        case Act::sigmoid: return use(OfAct<Act::sigmoid>());
        case Act::tanh: return use(OfAct<Act::tanh>());
        case Act::hardswish: return use(OfAct<Act::hardswish>());
        case Act::hardsigmoid: return use(OfAct<Act::hardsigmoid>());
        case Act::gelu: return use(OfAct<Act::gelu>());
        case Act::gelu_tanh: return use(OfAct<Act::gelu_tanh>());
        case Act::leaky_relu: return use(OfAct<Act::leaky_relu>());
        case Act::elu: return use(OfAct<Act::elu>());
        case Act::clamp: return use(OfAct<Act::clamp>());
        default: return use(OfAct<Act::none>());
    }
}

void elementwise(const float* x, int n, float scale, float shift, const ActWithNumbers& act, float* out) {
    const float first = act.first, second = act.second;
    with_act(act.act, [&](auto of) {
        constexpr Act kind = decltype(of)::value;
#pragma GCC ivdep
        for (int i = 0; i < n; ++i) out[i] = activated<kind>(scale * x[i] + shift, first, second);
    });
}

// ---- arithmetic ----

template <Binary B>
BIPROP_INLINE float combined(float a, float b) {
    return B == Binary::add ? a + b : B == Binary::multiply ? a * b : a / b;
}

template <Binary B, class StepA, class StepB>
BIPROP_INLINE void binary_rows(const Grid& g, StepA step_a, StepB step_b) {
    for (int row = 0; row < g.rows; ++row) {
        float* __restrict out = g.out + row * g.row_step[0];
        const float* __restrict a = g.a + row * g.row_step[1];
        const float* __restrict b = g.b + row * g.row_step[2];
        if (g.lane_step[0] == 1)
            for (int i = 0; i < g.lanes; ++i) out[i] = combined<B>(a[i * step_a], b[i * step_b]);
        else
            for (int i = 0; i < g.lanes; ++i) out[i * g.lane_step[0]] = combined<B>(a[i * step_a], b[i * step_b]);
    }
}

template <Binary B>
void binary_of(const Grid& g) {
    using One = std::integral_constant<int, 1>;
    using Zero = std::integral_constant<int, 0>;
    if (g.lane_step[1] == 1 && g.lane_step[2] == 1) return binary_rows<B>(g, One(), One());
    if (g.lane_step[1] == 1 && g.lane_step[2] == 0) return binary_rows<B>(g, One(), Zero());
    if (g.lane_step[1] == 0 && g.lane_step[2] == 1) return binary_rows<B>(g, Zero(), One());
    binary_rows<B>(g, g.lane_step[1], g.lane_step[2]);
}

void binary(const Grid& g, Binary which, const ActWithNumbers& act) {
    which == Binary::add        ? binary_of<Binary::add>(g)
    : which == Binary::multiply ? binary_of<Binary::multiply>(g)
                                : binary_of<Binary::divide>(g);
    if (act.act == Act::none) return;
    for (int row = 0; row < g.rows; ++row) {
        float* out = g.out + row * g.row_step[0];
        if (g.lane_step[0] == 1)
            elementwise(out, g.lanes, 1, 0, act, out);
        else
            for (int i = 0; i < g.lanes; ++i)
                elementwise(out + i * g.lane_step[0], 1, 1, 0, act, out + i * g.lane_step[0]);
    }
}

// ---- walks ----

constexpr int kLanesAtOnce = 64;

// Registers that hold 16 * Vectors lanes.
template <int Vectors>
struct Lanes {
    static constexpr int regs = Vectors * kParts;
    Floats of[regs];

    void fill(float value) {
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) of[r] = value - Floats{};
    }
    template <class Combine>
    BIPROP_INLINE void with(const float* x, const Combine& combine) {
#pragma GCC unroll 32
        for (int r = 0; r < regs; ++r) of[r] = combine(of[r], load_floats(x + r * kFloats), r);
    }
    void store(float* out, int lanes) const {
        if (lanes == regs * kFloats) {
#pragma GCC unroll 32
            for (int r = 0; r < regs; ++r) store_floats(out + r * kFloats, of[r]);
        } else {
            std::memcpy(out, of, sizeof(float) * lanes);
        }
    }
};

template <int Vectors, class Combine>
BIPROP_INLINE void walk_lanes(const Walk& w, Lanes<Vectors>& lanes, const Combine& combine) {
    for (int i = 0; i < w.outer; ++i) {
        const float* x = w.x + i * w.outer_step;
        for (int k = 0; k < w.inner; ++k, x += w.inner_step) lanes.with(x, combine);
    }
}

// Visits blocks of at most 64 lanes: use(first lane, lanes, number of vectors as a type).
template <class Use>
BIPROP_INLINE void each_block(int lanes, const Use& use) {
    int first = 0;
    for (; lanes - first > 16; first += kLanesAtOnce) {
        const int some = lanes - first < kLanesAtOnce ? lanes - first : kLanesAtOnce;
        use(first, some, std::integral_constant<int, 4>());
    }
    if (first < lanes) use(first, lanes - first, std::integral_constant<int, 1>());
}

Walk moved(const Walk& w, int64_t by) { return {w.x + by, w.outer, w.inner, w.outer_step, w.inner_step}; }

// One lane whose numbers are neighbours: a vector goes along them. `each` takes a number, or a vector.
template <class Each>
BIPROP_INLINE float sum_along(const Walk& w, const Each& each) {
    Floats sums = {};
    float rest = 0;
    for (int i = 0; i < w.outer; ++i) {
        const float* x = w.x + i * w.outer_step;
        int k = 0;
        if (w.inner_step == 1)
            for (; k + kFloats <= w.inner; k += kFloats) sums += each(load_floats(x + k));
        for (; k < w.inner; ++k) rest += each(x[k * w.inner_step]);
    }
    for (int r = 0; r < kFloats; ++r) rest += sums[r];
    return rest;
}

BIPROP_INLINE float largest_along(const Walk& w) {
    float most = w.x[0];
    for (int i = 0; i < w.outer; ++i) {
        const float* x = w.x + i * w.outer_step;
        int k = 0;
        if (w.inner_step == 1 && w.inner >= kFloats) {
            Floats largest = load_floats(x);
            for (k = kFloats; k + kFloats <= w.inner; k += kFloats) {
                const Floats own = load_floats(x + k);
                largest = largest > own ? largest : own;
            }
            for (int r = 0; r < kFloats; ++r) most = most > largest[r] ? most : largest[r];
        }
        for (; k < w.inner; ++k) most = most > x[k * w.inner_step] ? most : x[k * w.inner_step];
    }
    return most;
}

BIPROP_INLINE float count_of(const Walk& w) { return float(double(w.outer) * w.inner); }

template <class Use>
BIPROP_INLINE void each_place(const Walk& w, const Walk& to, const Use& use) {
    for (int i = 0; i < w.outer; ++i)
        for (int k = 0; k < w.inner; ++k)
            use(w.x + i * w.outer_step + k * w.inner_step, i * to.outer_step + k * to.inner_step, i, k);
}

void reduce(const Walk& w, int lanes, Reduce which, float* out) {
    if (lanes == 1) {
        *out = which == Reduce::max ? largest_along(w) : sum_along(w, [](auto x) { return x; });
        if (which == Reduce::mean) *out /= count_of(w);
        return;
    }
    each_block(lanes, [&](int first, int some, auto vectors) {
        Lanes<vectors()> acc;
        const Walk own = moved(w, first);
        if (which == Reduce::max) {
            acc.fill(-HUGE_VALF);
            walk_lanes(own, acc, [](Floats a, Floats x, int) { return a > x ? a : x; });
        } else {
            acc.fill(0);
            walk_lanes(own, acc, [](Floats a, Floats x, int) { return a + x; });
        }
        if (which == Reduce::mean)
            for (Floats& a : acc.of) a /= count_of(w);
        acc.store(out + first, some);
    });
}

void normalise(const Walk& w, int lanes, float eps, const Walk& affine, const float* scale, const float* shift,
               const Walk& to, float* out) {
    const float count = count_of(w);
    const auto numbers = [&](int i, int k, float& factor, float& term) {
        const int64_t at = i * affine.outer_step + k * affine.inner_step;
        factor = scale ? scale[at] : 1.0f;
        term = scale ? shift[at] : 0.0f;
    };
    if (lanes == 1) {
        const float mean = sum_along(w, [](auto x) { return x; }) / count;
        const float variance = sum_along(w, [&](auto x) { return (x - mean) * (x - mean); }) / count;
        const float inverse = 1.0f / std::sqrt(variance + eps);
        const bool plain = w.inner_step == 1 && to.inner_step == 1 && (!scale || affine.inner_step == 0);
        if (plain) {
            for (int i = 0; i < w.outer; ++i) {
                float factor, term;
                numbers(i, 0, factor, term);
                const float* __restrict x = w.x + i * w.outer_step;
                float* __restrict y = out + i * to.outer_step;
                for (int k = 0; k < w.inner; ++k) y[k] = (x[k] - mean) * inverse * factor + term;
            }
            return;
        }
        each_place(w, to, [&](const float* x, int64_t at, int i, int k) {
            float factor, term;
            numbers(i, k, factor, term);
            out[at] = (*x - mean) * inverse * factor + term;
        });
        return;
    }
    each_block(lanes, [&](int first, int some, auto vectors) {
        constexpr int regs = Lanes<vectors()>::regs;
        Lanes<vectors()> mean, variance, result;
        const Walk own = moved(w, first);
        mean.fill(0);
        walk_lanes(own, mean, [](Floats a, Floats x, int) { return a + x; });
        for (Floats& m : mean.of) m /= count;
        variance.fill(0);
        walk_lanes(own, variance, [&](Floats a, Floats x, int r) { return a + (x - mean.of[r]) * (x - mean.of[r]); });
        float inverse[regs * kFloats];
        std::memcpy(inverse, variance.of, sizeof inverse);
        for (float& v : inverse) v = 1.0f / std::sqrt(v / count + eps);
        std::memcpy(variance.of, inverse, sizeof inverse);
        each_place(own, to, [&](const float* x, int64_t at, int i, int k) {
            float factor, term;
            numbers(i, k, factor, term);
            for (int r = 0; r < regs; ++r)
                result.of[r] = (load_floats(x + r * kFloats) - mean.of[r]) * variance.of[r] * factor + term;
            result.store(out + at + first, some);
        });
    });
}

// Lanes of one place at a time; `out` holds the powers until their sum is known.
void softmax(const Walk& w, int lanes, bool logarithm, const Walk& to, float* out) {
    for (int first = 0; first < lanes; first += kLanesAtOnce) {
        const int some = lanes - first < kLanesAtOnce ? lanes - first : kLanesAtOnce;
        float most[kLanesAtOnce], sum[kLanesAtOnce] = {};
        const Walk own = moved(w, first);
        reduce(own, some, Reduce::max, most);
        each_place(own, to, [&](const float* x, int64_t at, int, int) {
            float* y = out + at + first;
            for (int l = 0; l < some; ++l) {
                const float power = exp_of(x[l] - most[l]);
                y[l] = power;
                sum[l] += power;
            }
        });
        for (int l = 0; l < some; ++l) sum[l] = logarithm ? std::log(sum[l]) : 1.0f / sum[l];
        each_place(own, to, [&](const float* x, int64_t at, int, int) {
            float* y = out + at + first;
            if (logarithm)
                for (int l = 0; l < some; ++l) y[l] = x[l] - most[l] - sum[l];
            else
                for (int l = 0; l < some; ++l) y[l] *= sum[l];
        });
    }
}

// ---- products ----

template <LanesOfA A>
void contract_of(const Walk& a, const Walk& b, int lanes, float* out) {
    each_block(lanes, [&](int first, int some, auto vectors) {
        Lanes<vectors()> acc;
        acc.fill(0);
        for (int i = 0; i < b.outer; ++i) {
            const float* x = a.x + i * a.outer_step + (A == LanesOfA::all ? first : 0);
            const float* y = b.x + i * b.outer_step + first;
            for (int k = 0; k < b.inner; ++k, x += a.inner_step, y += b.inner_step) {
                acc.with(y, [&](Floats s, Floats v, int r) {
                    if (A == LanesOfA::one) return multiply_add(*x - Floats{}, v, s);
                    const int own = A == LanesOfA::sixteen ? r % kParts : r;
                    return multiply_add(load_floats(x + own * kFloats), v, s);
                });
            }
        }
        acc.store(out + first, some);
    });
}

void contract(const Walk& a, const Walk& b, int lanes, LanesOfA of_a, float* out) {
    of_a == LanesOfA::one       ? contract_of<LanesOfA::one>(a, b, lanes, out)
    : of_a == LanesOfA::sixteen ? contract_of<LanesOfA::sixteen>(a, b, lanes, out)
                                : contract_of<LanesOfA::all>(a, b, lanes, out);
}

void convolve(const float* x, const int32_t* offsets, const float* weights, int taps, int lanes, float* out) {
    each_block(lanes, [&](int first, int some, auto vectors) {
        Lanes<vectors()> acc;
        acc.fill(0);
        for (int t = 0; t < taps; ++t) {
            const Floats weight = weights[t] - Floats{};
            acc.with(x + offsets[t] + first, [&](Floats s, Floats v, int) { return multiply_add(weight, v, s); });
        }
        acc.store(out + first, some);
    });
}

constexpr biprop::PlainKernels kPlain = {elementwise, binary, reduce, normalise, softmax, contract, convolve};

}  // namespace
