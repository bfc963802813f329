#include "bits.h"

#include <algorithm>
#include <cmath>

namespace biprop {

BitStep::BitStep(const Op& op, const std::vector<Shape>& shapes, std::shared_ptr<const TapLists> lists)
    : Step(op, shapes),
      taps_(in_.channels * op.area()),
      lists_(std::move(lists)),
      rows_(out_.height, in_.height, op.kernel_height, op.stride, op.padding),
      columns_(out_.width, in_.width, op.kernel_width, op.stride, op.padding),
      by_threshold_(out_.bits && (op.residual == kNone || residual_.bits)),
      flips_(out_.channels) {
    const int classes = int(rows_.inside.size() * columns_.inside.size());
    if (by_threshold_)
        thresholds_.resize(size_t(out_.channels) * classes);
    else
        corrections_.resize(size_t(out_.channels) * corrections_step());
    if (by_threshold_ && op.residual != kNone) thresholds_plus_.resize(thresholds_.size());
    int most = 0;
    for (int c = 0; c < out_.channels; ++c) {
        most = std::max(most, lists_->kept[c]);
        fill(c, classes);
    }
    bits_ = std::max(1, bit_length(uint32_t(most) + 1));  // a threshold may be one more than any count
}

void BitStep::emit_counts(const Frame& frame, int c, int lane, int n, const int16_t* counts, float* room) const {
    const int shift = correction_shift();
    const int32_t* corrections = corrections_.data() + size_t(c) * corrections_step() + (lane >> shift);
    const float* residual = this->residual(frame, c, lane, n, room + n);
    float* to = out_.bits ? room : out_.floats(frame.values[op_.out], c) + lane;
    frame.kernels->finish_counts(counts, corrections, shift, n, finishes_[c], residual, to);
    if (out_.bits) emit_signs(frame, c, lane, n, room, {1, 0, 0, Act::none}, nullptr);
}

void BitStep::fill(int c, int classes) {
    std::vector<int32_t> by_class(classes);
    std::vector<int> kept(op_.area()), negative(op_.area());
    lists_->each_kept(c, [&](int tap, bool is_negative) {
        ++kept[tap % op_.area()];
        negative[tap % op_.area()] += is_negative;
    });
    for (int k = 0; k < classes; ++k) {
        const auto [top, bottom] = rows_.inside[k / columns_.inside.size()];
        const auto [left, right] = columns_.inside[k % columns_.inside.size()];
        int outside = 0, outside_negative = 0;
        for (int y = 0; y < op_.kernel_height; ++y)
            for (int x = 0; x < op_.kernel_width; ++x)
                if (y < top || y >= bottom || x < left || x >= right) {
                    outside += kept[y * op_.kernel_width + x];
                    outside_negative += negative[y * op_.kernel_width + x];
                }
        const size_t at = size_t(c) * classes + k;
        const int correction = lists_->kept[c] - outside + 2 * outside_negative;
        if (!by_threshold_) {
            by_class[k] = correction;
        } else if (op_.residual == kNone) {
            thresholds_[at] = threshold(c, correction, 0);
        } else {
            thresholds_[at] = threshold(c, correction, -op_.residual_scale[c]);
            thresholds_plus_[at] = threshold(c, correction, op_.residual_scale[c]);
        }
    }
    flips_[c] = op_.scale[c] < 0 ? 255 : 0;
    for (size_t p = 0; !by_threshold_ && p < corrections_step(); ++p)
        corrections_[c * corrections_step() + p] = by_class[position_class(int(p))];
}

uint16_t BitStep::threshold(int c, int correction, double residual) const {
    const double scale = op_.scale[c], shift = op_.shift[c] + residual;
    const int never = lists_->kept[c] + 1;
    if (scale == 0) return uint16_t(shift >= 0 ? 0 : never);
    const auto positive = [&](double accumulation) { return scale * accumulation + shift >= 0; };
    // The smallest accumulation from which on the result is the one for +infinity. The division may round, so the
    // condition itself decides.
    double least = std::ceil(std::clamp(-shift / scale, -1e6, 1e6));
    if (scale > 0) {
        while (least > -1e6 && positive(least - 1)) --least;
        while (least < 1e6 && !positive(least)) ++least;
    } else {
        while (least > -1e6 && !positive(least - 1)) --least;
        while (least < 1e6 && positive(least)) ++least;
    }
    return uint16_t(std::clamp(std::ceil((least + correction) / 2), 0.0, double(never)));
}

std::unique_ptr<Step> make_bit_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                    const Kernels& kernels, Packed& packed) {
    const Shape &in = shapes[op.in], &out = shapes[op.out];
    const int width = sliced_width(op, in, out, kernels);
    std::shared_ptr<const TapLists> lists = packed.lists;
    if (!lists || lists->width != width) lists = std::make_shared<TapLists>(op, in.channels * op.area(), width);
    std::unique_ptr<Step> step = make_sliced(op, pool, shapes, kernels, lists);
    if (out.images == 1 && step->cycles() > popcount_cycles(op, in, out, kernels))
        step = make_popcount(op, shapes, kernels, lists);
    const bool is_packed = lists == packed.lists;
    if (lists.use_count() > 1 + is_packed)
        packed.lists = lists;  // the step keeps them
    else if (is_packed)
        packed.lists.reset();
    return step;
}

}  // namespace biprop
