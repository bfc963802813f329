// A network as a list of operations, as engine/lower.py writes it; docs/engine.md has the format.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "kernels.h"

namespace biprop {

struct ProgramError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct TooLarge : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Empties a vector and returns its memory, which an assignment of {} keeps.
template <class T>
void release(std::vector<T>& numbers) {
    std::vector<T>().swap(numbers);
}

constexpr int kNone = -1;
constexpr int kMostTaps = 65533;  // what 16 bits can name, beside the planes of zeros and of ones

struct Value {
    bool bits;  // a binary activation, +1 and -1; else floats
    int channels, height, width;
    int positions() const { return height * width; }
};

// Those after mean_pool are plain operations (plain.h), of version 2 of the format.
enum class Kind : uint32_t {
    conv = 1,
    max_pool = 2,
    mean_pool = 3,
    elementwise = 4,
    binary = 5,
    move = 6,
    plain_conv = 7,
    plain_pool = 8,
    reduce = 9,
    normalise = 10,
    softmax = 11,
    contract = 12,
    attention = 13,
    constant = 14,
    embedding = 15,
};
constexpr uint32_t kLastKind = 15;

struct Plain;

// out = act(scale * op(in) + shift + residual_scale * residual), per channel of `out`.
struct Op {
    Kind kind;
    int in, out, residual;  // indices of values; residual may be kNone
    Act act;
    int kernel_height, kernel_width, stride, padding;
    std::vector<double> scale, shift, residual_scale;
    bool dense = false;  // a convolution with float weights; else with weights -1, 0 and 1, in mask and sign
    std::vector<uint8_t> mask, sign;  // packed bits in C order of [out][in][row][column]
    std::vector<float> weights;
    std::shared_ptr<const Plain> plain;  // a plain operation: all that it reads and computes; null for others
    std::vector<int> inputs;  // values that a plain operation reads

    // The values that the operation reads.
    std::vector<int> reads() const {
        if (plain) return inputs;
        return residual == kNone ? std::vector<int>{in} : std::vector<int>{in, residual};
    }
    int area() const { return kernel_height * kernel_width; }
    bool halves() const {
        return kind == Kind::max_pool && kernel_height == 2 && kernel_width == 2 && stride == 2 && !padding;
    }
    // Whether the operation is a max pool whose output numbers are input numbers, unchanged.
    bool selects() const {
        const auto all = [](const std::vector<double>& numbers, double one) {
            return std::all_of(numbers.begin(), numbers.end(), [&](double x) { return x == one; });
        };
        return kind == Kind::max_pool && act == Act::none && residual == kNone && all(scale, 1) && all(shift, 0);
    }
    // Whether all scales are positive, so that larger sums give larger results.
    bool rising() const {
        return std::all_of(scale.begin(), scale.end(), [](double x) { return x > 0; });
    }
    bool kept(size_t i) const { return mask[i / 8] >> (i % 8) & 1; }
    bool positive(size_t i) const { return sign[i / 8] >> (i % 8) & 1; }
    // Mask and sign of `count` weights, of which none is kept at first. An operation takes them when they are complete:
    // half a mask would pass for a whole one after memory ran out.
    struct Kept {
        std::vector<uint8_t> mask, sign;
        explicit Kept(size_t count) : mask((count + 7) / 8), sign((count + 7) / 8) {}
        void keep(size_t i, bool negative) {
            mask[i / 8] |= uint8_t(1 << i % 8);
            if (!negative) sign[i / 8] |= uint8_t(1 << i % 8);
        }
    };
    void take(Kept&& kept) noexcept {
        mask.swap(kept.mask);
        sign.swap(kept.sign);
    }
    // Calls use(i) for the kept weights first <= i < last of one sign, in ascending order. By words, because most bits
    // are 0.
    template <class Use>
    void each_kept(size_t first, size_t last, bool negative, const Use& use) const {
        while (first < last) {
            const size_t skip = first % 8, count = std::min(64 - skip, last - first);
            uint64_t word = word_of(mask, first / 8);
            word &= negative ? ~word_of(sign, first / 8) : word_of(sign, first / 8);
            word = word >> skip & ~uint64_t(0) >> (64 - count);
            for (; word; word &= word - 1) use(first + size_t(__builtin_ctzll(word)));
            first += count;
        }
    }
    int count_kept(size_t first, size_t last) const {
        int count = 0;
        for (const bool negative : {false, true}) each_kept(first, last, negative, [&](size_t) { ++count; });
        return count;
    }
    // Whether the weights are a mask and a sign.
    bool is_masked() const { return kind == Kind::conv && !dense; }

  private:
    // The bits from byte `at` on, up to 64; those behind the last byte are 0.
    static uint64_t word_of(const std::vector<uint8_t>& bits, size_t at) {
        uint64_t word = 0;
        std::memcpy(&word, bits.data() + at, std::min<size_t>(8, bits.size() - at));
        return word;
    }
};

struct Program {
    std::vector<float> mean, std;  // per channel of the input; empty where it is not normalised
    std::vector<Value> values;  // the first is the input, the last the output
    std::vector<Op> ops;

    // Throws ProgramError for a damaged program, TooLarge for a layer that the kernels cannot count.
    static Program read(const uint8_t* bytes, size_t size);
};

}  // namespace biprop
