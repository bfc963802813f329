// Convolutions of one image on bits by masked population counts, with input channels in the bits of a word: for small
// maps and high densities.
#include <algorithm>

#include "bits.h"

namespace biprop {

namespace {

// 64 words of 64 bits: bit j of word i becomes bit i of word j (H. S. Warren, Hacker's Delight, section 7-3).
void transpose(uint64_t* words) {
    uint64_t mask = 0x00000000ffffffffu;
    for (int j = 32; j; j >>= 1, mask ^= mask << j)
        for (int k = 0; k < 64; k = (k + j + 1) & ~j) {
            const uint64_t t = ((words[k] >> j) ^ words[k + j]) & mask;
            words[k] ^= t << j;
            words[k + j] ^= t;
        }
}

class Popcount final : public BitStep {
  public:
    Popcount(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels,
             std::shared_ptr<const TapLists> lists)
        : BitStep(op, shapes, std::move(lists)),
          blocks_((in_.channels + 63) / 64),
          words_(words(op, in_)),
          padded_(padded(out_)),
          cycles_(kernels.cycles_per_popcount) {
        mask_.resize(size_t(out_.channels) * words_);
        sign_.resize(mask_.size());
        for (int c = 0; c < out_.channels; ++c)
            for (int t = 0; t < taps_; ++t) {
                const size_t i = size_t(c) * taps_ + t;
                const int channel = t / op.area(), at = t % op.area() * blocks_ + channel / 64;
                const uint64_t bit = uint64_t(1) << (channel % 64);
                if (op.kept(i)) mask_[size_t(c) * words_ + at] |= bit;
                if (op.positive(i)) sign_[size_t(c) * words_ + at] |= bit;
            }
        const auto spread = [&](const std::vector<uint16_t>& thresholds) {
            std::vector<uint16_t> all;
            for (int c = 0; !thresholds.empty() && c < out_.channels; ++c)
                for (int p = 0; p < out_.positions(); ++p)
                    all.push_back(thresholds[size_t(c) * classes() + position_class(p)]);
            return all;
        };
        by_position_ = spread(thresholds_);
        by_position_plus_ = spread(thresholds_plus_);
        lists_.reset();  // mask_ and sign_ hold the weights
    }

    void run(const Frame& frame) const override {
        const int positions = out_.positions();
        auto* x = reinterpret_cast<uint64_t*>((*frame.scratch)[0].data());
        pack(frame, x);
        constexpr int chunk = 16;
        frame.each((out_.channels + chunk - 1) / chunk, [&](int item, int) {
            std::vector<int16_t> counts(padded_);
            std::vector<float> room(2 * positions);
            for (int c = item * chunk; c < std::min(out_.channels, (item + 1) * chunk); ++c) {
                const uint64_t *mask = mask_.data() + size_t(c) * words_, *sign = sign_.data() + size_t(c) * words_;
                if (padded_ == 1)
                    frame.kernels->popcount(x, mask, sign, words_, counts.data());
                else
                    frame.kernels->popcounts(x, padded_, mask, sign, words_, counts.data());
                if (by_threshold_)
                    emit_thresholds(frame, c, counts.data());
                else
                    emit_counts(frame, c, 0, positions, counts.data(), room.data());
            }
        });
    }

    std::string name() const override { return "popcount"; }
    double cycles() const override { return cost(op_, in_, out_, cycles_); }
    static double cost(const Op& op, const Shape& in, const Shape& out, double per_vector) {
        const double work = double(padded(out)) * words(op, in);
        return out.channels * (work / 8 * per_vector + 40 + out.positions()) + 2 * work +
               1500.0 * ((in.channels + 63) / 64);
    }
    size_t scratch() const override {
        return (size_t(padded_) * words_ + size_t(blocks_) * round_up(size_t(in_.height) * in_.row, 64)) * 8;
    }
    void memory(Held& held) const override {
        BitStep::memory(held);
        held[this] += (mask_.size() + sign_.size()) * 8 + (by_position_.size() + by_position_plus_.size()) * 2;
    }

  private:
    static int padded(const Shape& out) { return out.positions() == 1 ? 1 : int(round_up(out.positions(), 8)); }
    static int words(const Op& op, const Shape& in) {
        return int(round_up(size_t((in.channels + 63) / 64) * op.area(), 8));
    }

    void emit_thresholds(const Frame& frame, int c, const int16_t* counts) const {
        const int positions = out_.positions(), width = out_.width;
        uint8_t *base = frame.values[op_.out], *other = op_.residual == kNone ? nullptr : frame.values[op_.residual];
        const uint16_t* thresholds = by_position_.data() + size_t(c) * positions;
        const uint16_t* thresholds_plus = other ? by_position_plus_.data() + size_t(c) * positions : nullptr;
        for (int row = 0; row < out_.height;) {  // as many rows as fit into a word
            const int rows = std::min(out_.height - row, std::max(1, 64 / width)), from = row * width, n = rows * width;
            uint64_t bits = frame.kernels->compare(counts + from, thresholds + from, n);
            if (other) {
                uint64_t residual = 0;
                for (int y = 0; y < rows; ++y) residual |= residual_.load_row(other, c, row + y) << (y * width);
                bits =
                    (residual & frame.kernels->compare(counts + from, thresholds_plus + from, n)) | (~residual & bits);
            }
            if (flips_[c]) bits = ~bits;
            for (int y = 0; y < rows; ++y) out_.store_row(base, c, row + y, bits >> (y * width) & low_bits(width));
            row += rows;
        }
    }

    // Fills x[tap][block][position] with what each output position sees. The padding is 0, as the corrections assume.
    void pack(const Frame& frame, uint64_t* x) const {
        uint8_t* base = frame.values[op_.in];
        const int per_plane = int(round_up(size_t(in_.height) * in_.row, 64)) / 64;
        uint64_t* by_place = x + size_t(padded_) * words_;  // [block][place in a plane of rows]
        for (int block = 0; block < blocks_; ++block)
            for (int w = 0; w < per_plane; ++w) {
                uint64_t words[64] = {};
                const int channels = std::min(64, in_.channels - block * 64);
                for (int c = 0; c < channels; ++c) {
                    const size_t left = size_t(in_.height) * in_.row / 8 - size_t(w) * 8;
                    std::memcpy(&words[c], in_.rows(base, block * 64 + c) + size_t(w) * 8, std::min<size_t>(8, left));
                }
                transpose(words);
                std::memcpy(by_place + (size_t(block) * per_plane + w) * 64, words, sizeof words);
            }
        std::memset(x, 0, size_t(padded_) * words_ * 8);
        for (int p = 0; p < out_.positions(); ++p)
            for (int k = 0; k < op_.area(); ++k) {
                const int row = p / out_.width * op_.stride + k / op_.kernel_width - op_.padding;
                const int column = p % out_.width * op_.stride + k % op_.kernel_width - op_.padding;
                if (row < 0 || row >= in_.height || column < 0 || column >= in_.width) continue;
                for (int block = 0; block < blocks_; ++block)
                    x[size_t(k * blocks_ + block) * padded_ + p] =
                        by_place[size_t(block) * per_plane * 64 + row * in_.row + column];
            }
    }

    const int blocks_, words_, padded_;  // padded_: positions, rounded up to a multiple of 8 unless there is only one
    const float cycles_;
    std::vector<uint64_t> mask_, sign_;
    std::vector<uint16_t> by_position_, by_position_plus_;  // thresholds, [channel][position]
};

}  // namespace

double popcount_cycles(const Op& op, const Shape& in, const Shape& out, const Kernels& kernels) {
    return Popcount::cost(op, in, out, kernels.cycles_per_popcount);
}

std::unique_ptr<Step> make_popcount(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels,
                                    std::shared_ptr<const TapLists> lists) {
    return std::make_unique<Popcount>(op, shapes, kernels, std::move(lists));
}

}  // namespace biprop
