// Who is kept, and what a masked layer computes with, on the CPU: each a single pass over the weights.
//
// |score| as an unsigned integer of 31 bits has the order of the floats, so the weights are sorted into 8,192 bins by their 13
// highest bits (few enough for the fastest cache), and only the bin that holds the threshold has to be looked at closely. All functions are plain C for ctypes and
// touch nothing global.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core.h"

namespace {

constexpr int kShift = 18, kBins = 1 << (31 - kShift);

std::uint32_t magnitude_bits(float score) {
    std::uint32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    return bits & 0x7fffffffu;
}

}  // namespace

// Count the |scores| in each bin, for part first / grain. histograms: [parts, 8192], zero before.
BIPROP_EXPORT void biprop_histogram(const float* scores, std::uint32_t* histograms, std::int64_t first, std::int64_t last, int grain) {
    std::uint32_t* histogram = histograms + first / grain * kBins;
    // Four histograms: neighbours in one bin would wait for each other's increment.
    std::vector<std::uint16_t> counts(4 * kBins);
    for (std::int64_t begin = first; begin < last; begin += 1 << 16) {
        const std::int64_t end = std::min<std::int64_t>(begin + (1 << 16), last);
        std::int64_t i = begin;
        for (; i + 4 <= end; i += 4) {
            for (int lane = 0; lane < 4; ++lane) ++counts[lane * kBins + (magnitude_bits(scores[i + lane]) >> kShift)];
        }
        for (; i < end; ++i) ++counts[magnitude_bits(scores[i]) >> kShift];
        for (int bin = 0; bin < kBins; ++bin) {
            for (int lane = 0; lane < 4; ++lane) histogram[bin] += counts[lane * kBins + bin];
        }
        std::fill(counts.begin(), counts.end(), 0);
    }
}

// mask: 1 in bins above `bin`, 0 elsewhere. The places of what is in `bin` itself go to candidates + offsets[part].
BIPROP_EXPORT void biprop_mask(
    const float* scores, std::uint8_t* mask, std::int64_t first, std::int64_t last, int grain, int bin, const std::int64_t* offsets,
    std::int64_t* candidates) {
    std::int64_t* next = candidates + offsets[first / grain];
    const std::uint32_t low = static_cast<std::uint32_t>(bin) << kShift, high = low | ((1u << kShift) - 1);
    for (std::int64_t i = first; i < last; ++i) mask[i] = magnitude_bits(scores[i]) > high;
    for (std::int64_t i = first; i < last; ++i) {
        if (magnitude_bits(scores[i]) - low <= high - low) *next++ = i;
    }
}

// result = gain * sign(weight) * mask; the sign of 0 is 0. gain: one number.
BIPROP_EXPORT void biprop_binary_weight(
    const float* __restrict weight, const std::uint8_t* __restrict mask, const float* gain, float* __restrict result, std::int64_t first,
    std::int64_t last) {
    const float plus = *gain, minus = -*gain;
    for (std::int64_t i = first; i < last; ++i) {
        const float kept = static_cast<float>(mask[i]);
        result[i] = kept * (weight[i] > 0 ? plus : weight[i] < 0 ? minus : 0.0f);
    }
}

// result = grad * weight * sign(scores); the sign of 0 is 0.
BIPROP_EXPORT void biprop_score_gradient(
    const float* __restrict scores, const float* __restrict weight, const float* __restrict grad, float* __restrict result,
    std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
        const float sign = scores[i] > 0 ? 1.0f : scores[i] < 0 ? -1.0f : 0.0f;
        result[i] = sign * weight[i] * grad[i];
    }
}
