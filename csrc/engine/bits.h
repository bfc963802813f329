// What both kinds of convolutions on bits, sliced.cpp and popcount.cpp, share: corrections and thresholds.
//
// A kept tap agrees with its weight if its input has the sign of the weight. Padding is read as -1. Then, with
// `count` kept taps that agree,
//     accumulation = 2 count - correction,    correction = kept - outside + 2 outside_negative,
// where `outside` counts the kept taps that are in the padding at this position. So zero padding is exact, and the
// sign of a batch norm's output is a threshold on the count.
#pragma once

#include <map>
#include <utility>

#include "step.h"

namespace biprop {

// Output positions along one side that have the same taps in the padding.
struct Classes {
    std::vector<int> of;  // by position: its class
    std::vector<std::pair<int, int>> inside;  // by class: the taps [first, last) that are not in the padding

    Classes(int outputs, int inputs, int kernel, int stride, int padding) {
        std::map<std::pair<int, int>, int> known;
        for (int o = 0; o < outputs; ++o) {
            const int start = o * stride - padding;
            const std::pair<int, int> range{std::max(0, -start), std::min(kernel, inputs - start)};
            const auto [entry, is_new] = known.emplace(range, int(inside.size()));
            if (is_new) inside.push_back(range);
            of.push_back(entry->second);
        }
    }
};

inline int bit_length(uint32_t n) {
    int bits = 0;
    for (; n; n >>= 1) ++bits;
    return bits;
}
inline uint64_t low_bits(int n) { return n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; }

class BitStep : public Step {
  public:
    BitStep(const Op& op, const std::vector<Shape>& shapes, std::shared_ptr<const TapLists> lists);
    void memory(Held& held) const override {
        held[this] = (thresholds_.size() + thresholds_plus_.size()) * 2 + corrections_.size() * 4 + flips_.size();
        if (lists_) held[lists_.get()] = lists_->bytes();
    }
    std::shared_ptr<const TapLists> lists() const override { return lists_; }

  protected:
    int position_class(int position) const {
        return rows_.of[position / out_.width] * int(columns_.inside.size()) + columns_.of[position % out_.width];
    }
    int classes() const { return int(rows_.inside.size() * columns_.inside.size()); }
    // Finishes the counts of n lanes from `lane` and stores them. `room` holds 2 n floats.
    void emit_counts(const Frame& frame, int c, int lane, int n, const int16_t* counts, float* room) const;

    // Corrections of a channel: one where all positions are of one class, else one for each position.
    size_t corrections_step() const { return classes() == 1 ? 1 : out_.positions(); }
    // A lane shifted right by this gives the index of its correction.
    int correction_shift() const {
        if (classes() == 1) return 30;
        return out_.images > 1 ? 6 : 0;
    }

    const int taps_;
    std::shared_ptr<const TapLists> lists_;
    const Classes rows_, columns_;
    const bool by_threshold_;  // from counts to bits directly; else by way of floats
    int bits_ = 0;
    std::vector<int32_t> corrections_;  // [channel][position], or [channel]; empty where there are thresholds
    std::vector<uint16_t> thresholds_, thresholds_plus_;  // [channel][class]; the second where the residual is +1
    std::vector<uint8_t> flips_;

  private:
    void fill(int c, int classes);
    // The threshold t such that scale * accumulation + shift >= 0 means count >= t where scale > 0, and count < t
    // where scale < 0. With scale 0 the sign does not depend on the count.
    uint16_t threshold(int c, int correction, double residual) const;
};

// Bit-sliced: the cost is proportional to the kept weights. `lists` are for tiles of sliced_width() bytes.
int sliced_width(const Op& op, const Shape& in, const Shape& out, const Kernels& kernels);
std::unique_ptr<Step> make_sliced(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                  const Kernels& kernels, std::shared_ptr<const TapLists> lists);
// By masked population counts, for one image: the cost does not depend on the density.
double popcount_cycles(const Op& op, const Shape& in, const Shape& out, const Kernels& kernels);
std::unique_ptr<Step> make_popcount(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels,
                                    std::shared_ptr<const TapLists> lists);

}  // namespace biprop
