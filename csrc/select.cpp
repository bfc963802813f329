// Top-k selection of weights by |score|, and the weights and gradients of a masked layer, on the CPU: each is a
// single pass over the weights.
//
// The 31 bits of |score| as an integer have the order of the floats. One pass with a window of such integers finds
// which scores are above it (kept) and which are inside (to be ranked). The window is a guess around the last
// threshold. Where there is none, or the guess was wrong, a histogram of the 13 highest bits gives the window: 8,192
// bins, few enough for the fastest cache. All functions have a C interface, for ctypes, and no global state.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core.h"
#include "instructions.h"

namespace {

constexpr int kShift = 18, kBins = 1 << (31 - kShift), kBlock = 64;

std::uint32_t magnitude_bits(float score) {
    std::uint32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    return bits & 0x7fffffffu;
}

// A block of |scores| as integers, compared with the window. Always inlined, so that the compiler knows the count.
struct Block {
    std::int32_t magnitudes[kBlock], above = 0, inside = 0, largest = 0;

    BIPROP_INLINE Block(const float* scores, std::uint8_t* mask, int count, std::int32_t low, std::int32_t high) {
        std::memcpy(magnitudes, scores, sizeof(float) * count);
        for (int i = 0; i < count; ++i) {
            magnitudes[i] &= 0x7fffffff;
            largest = std::max(largest, magnitudes[i]);
            above += magnitudes[i] > high;
            inside += magnitudes[i] >= low;
        }
        for (int i = 0; i < count; ++i) mask[i] = magnitudes[i] > high;
        inside -= above;
    }
};

}  // namespace

// Counts the |scores| in each bin, for part first / grain. histograms: [parts, 8192], zero before the call.
BIPROP_EXPORT void biprop_histogram(const float* scores, std::uint32_t* histograms, std::int64_t first,
                                    std::int64_t last, int grain) {
    std::uint32_t* histogram = histograms + first / grain * kBins;
    // Four histograms: neighbouring scores in the same bin would wait for each other's increment.
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

namespace {

BIPROP_INLINE inline void choose(const float* __restrict scores, std::uint8_t* __restrict mask, std::int64_t first,
                                 std::int64_t last, int grain, std::int32_t low, std::int32_t high, std::int64_t room,
                                 std::int64_t* __restrict tallies, std::int64_t* __restrict places) {
    const std::int64_t part = first / grain;
    std::int64_t* next = places + part * room;
    std::int64_t above = 0, inside = 0;
    std::int32_t largest = 0;
    for (std::int64_t begin = first; begin < last; begin += kBlock) {
        const int count = static_cast<int>(std::min<std::int64_t>(kBlock, last - begin));
        const Block block = count == kBlock ? Block(scores + begin, mask + begin, kBlock, low, high)
                                            : Block(scores + begin, mask + begin, count, low, high);
        if (block.inside && inside + block.inside <= room) {
            for (int i = 0; i < count; ++i) {
                if (block.magnitudes[i] >= low && block.magnitudes[i] <= high) *next++ = begin + i;
            }
        }
        above += block.above;
        inside += block.inside;
        largest = std::max(largest, block.largest);
    }
    tallies[3 * part] = above;
    tallies[3 * part + 1] = inside;
    tallies[3 * part + 2] = largest >= 0x7f800000;
}

BIPROP_INLINE inline void kept_magnitudes(const float* __restrict weight, const std::uint8_t* __restrict mask,
                                          float* __restrict result, std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) result[i] = std::fabs(weight[i]) * static_cast<float>(mask[i]);
}

BIPROP_INLINE inline void binary_weight(const float* __restrict weight, const std::uint8_t* __restrict mask,
                                        const float* gain, float* __restrict result, std::int64_t first,
                                        std::int64_t last) {
    const float plus = *gain, minus = -*gain;
    for (std::int64_t i = first; i < last; ++i) {
        const float kept = static_cast<float>(mask[i]);
        result[i] = kept * (weight[i] > 0 ? plus : weight[i] < 0 ? minus : 0.0f);
    }
}

BIPROP_INLINE inline void score_gradient(const float* __restrict scores, const float* __restrict weight,
                                         const float* __restrict grad, float* __restrict result, std::int64_t first,
                                         std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
        const float sign = scores[i] > 0 ? 1.0f : scores[i] < 0 ? -1.0f : 0.0f;
        result[i] = sign * weight[i] * grad[i];
    }
}

}  // namespace

// Selects in part first / grain. Its row of tallies [parts, 3] becomes: how many |scores| are above the window, how
// many inside, and whether one is infinite or not a number. mask: 1 above the window low .. high, else 0. The indices
// of the scores inside go to places[part], as far as there is room.
BIPROP_EXPORT void biprop_choose(const float* scores, std::uint8_t* mask, std::int64_t first, std::int64_t last,
                                 int grain, std::int32_t low, std::int32_t high, std::int64_t room,
                                 std::int64_t* tallies, std::int64_t* places) {
    biprop::run_fastest<choose>(scores, mask, first, last, grain, low, high, room, tallies, places);
}

// result = |weight| * mask.
BIPROP_EXPORT void biprop_kept_magnitudes(const float* weight, const std::uint8_t* mask, float* result,
                                          std::int64_t first, std::int64_t last) {
    biprop::run_fastest<kept_magnitudes>(weight, mask, result, first, last);
}

// result = gain * sign(weight) * mask; the sign of 0 is 0. gain: one number.
BIPROP_EXPORT void biprop_binary_weight(const float* weight, const std::uint8_t* mask, const float* gain, float* result,
                                        std::int64_t first, std::int64_t last) {
    biprop::run_fastest<binary_weight>(weight, mask, gain, result, first, last);
}

// result = grad * weight * sign(scores); the sign of 0 is 0.
BIPROP_EXPORT void biprop_score_gradient(const float* scores, const float* weight, const float* grad, float* result,
                                         std::int64_t first, std::int64_t last) {
    biprop::run_fastest<score_gradient>(scores, weight, grad, result, first, last);
}
