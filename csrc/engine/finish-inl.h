// Part of kernels-inl.h: from sums and counts to activations, by scale, shift, residual and activation function, and
// then to floats, to signs or to quantised activations. Most are plain loops, which compilers vectorise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels.h"

#define BIPROP_INLINE inline __attribute__((always_inline))
#define BIPROP_LAMBDA_INLINE __attribute__((always_inline))

namespace {

using biprop::Act;
using biprop::BitTile;
using biprop::Finish;
using biprop::QuantisedFinish;
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

// The bits x >= 0 of 64 numbers, none of them -0. An instruction set may overload it.
template <class Vector>
BIPROP_INLINE void store_signs(const Vector* x, uint8_t* to) {
    uint64_t bits = 0;
    for (int i = 0; i < 64 / kFloats; ++i) bits |= uint64_t(signs_of(x[i])) << (i * kFloats);
    std::memcpy(to, &bits, 8);
}

// ---- scale, shift, activation function ----

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

// Adding the magic number rounds to an integer, half to even, independent of the processor's rounding mode; the
// lowest 16 bits of the sum are that integer.
BIPROP_INLINE void store_quantised(int16_t* to, Floats y, const QuantisedFinish& f) {
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

BIPROP_INLINE void quantise_all(const float* y, int n, const QuantisedFinish& f, int16_t* quantised) {
    for (int i = 0; i < n; ++i) quantised[i] = quantise(y[i], f.per_step, f.low, f.high);
}

// n is a multiple of kFloats.
template <Act A>
BIPROP_INLINE void finish_quantised_as(const float* x, int n, const QuantisedFinish& f, const float* residual,
                                       int16_t* quantised) {
    for (int i = 0; i < n; i += kFloats) {
        Floats y = load_floats(x + i) * f.finish.scale + f.finish.shift;
        if (residual) y += load_floats(residual + i) * f.finish.residual_scale;
        store_quantised(quantised + i, act_of(y, A), f);
    }
}

void finish_quantised(const float* x, int n, const QuantisedFinish& f, const float* residual, int16_t* quantised) {
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

}  // namespace
