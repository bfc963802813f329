// Max and mean pools. A max pool of bits is "any" of them; or "all" where the scale is negative, because then the
// sign came before the pool and reversed the order.
#include <algorithm>
#include <limits>

#include "step.h"

namespace biprop {

namespace {

int ones(uint64_t x) {
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return int((x * 0x0101010101010101u) >> 56);
}

class PoolStep final : public Step {
  public:
    PoolStep(const Op& op, const std::vector<Shape>& shapes)
        : Step(op, shapes),
          halves_(op.halves()),
          selects_(halves_ && op.selects() && !in_.bits && !out_.bits && out_.step == in_.step && out_.low == in_.low &&
                   out_.high == in_.high) {}

    void run(const Frame& frame) const override {
        constexpr int chunk = 16;
        frame.each((out_.channels + chunk - 1) / chunk, [&](int item, int thread) {
            auto* room = reinterpret_cast<float*>((*frame.scratch)[thread].data());
            for (int c = item * chunk; c < std::min(out_.channels, (item + 1) * chunk); ++c)
                in_.bits&& out_.bits&& op_.kind == Kind::max_pool ? bits(frame, c) : floats(frame, c, room);
        });
    }
    std::string name() const override { return op_.kind == Kind::max_pool ? "max pool" : "mean pool"; }
    double cycles() const override {
        if (halves_ && in_.bits && out_.bits) return in_.channels * (in_.images > 1 ? 110 + 0.0075 * in_.lanes() : 28);
        if (halves_ && !in_.bits) return in_.channels * (9.0 * out_.height + 0.05 * in_.lanes() + (selects_ ? 0 : 60));
        const double per = in_.bits ? (out_.bits ? 0.02 : 1) : 0.5;
        return per * in_.channels * in_.lanes() * op_.area() / (op_.stride * op_.stride);
    }
    size_t scratch() const override {
        return (round_up(in_.lanes(), 16) + round_up(out_.lanes(), 16) + 64) * sizeof(float);
    }

  private:
    void bits(const Frame& frame, int c) const {
        const bool all = op_.scale[c] < 0;
        uint8_t *from = frame.values[op_.in], *to = frame.values[op_.out];
        if (halves_ && in_.images > 1) {
            for (int y = 0; y < out_.height; ++y) {
                const uint64_t* a = in_.cells(from, c) + size_t(2 * y) * in_.width;
                frame.kernels->pool_cells(a, a + in_.width, out_.width, all,
                                          out_.cells(to, c) + size_t(y) * out_.width);
            }
            return;
        }
        const int half = std::max(8, in_.row / 2);
        if (halves_ && out_.row == half) {
            const auto* words = reinterpret_cast<const uint64_t*>(in_.rows(from, c));
            return frame.kernels->pool_rows(words, in_.row, out_.height, (uint64_t(1) << out_.width) - 1, all,
                                            out_.rows(to, c));
        }
        bits_of_any_window(from, to, c, all);
    }

    void bits_of_any_window(uint8_t* from, uint8_t* to, int c, bool all) const {
        for (int y = 0; y < out_.height; ++y) {
            uint64_t row = 0;
            for (int x = 0; x < out_.width; ++x) {
                uint64_t value = all ? ~uint64_t(0) : 0;
                each_input(y, x, [&](int position) {
                    const uint64_t input = input_bits(from, c, position);
                    value = all ? value & input : value | input;
                });
                if (out_.images > 1)
                    out_.cells(to, c)[y * out_.width + x] = value;
                else
                    row |= (value & 1) << x;
            }
            if (out_.images == 1) out_.store_row(to, c, y, row);
        }
    }

    // One bit for each image of a group; for one image, in the lowest bit.
    uint64_t input_bits(uint8_t* base, int c, int position) const {
        if (in_.images > 1) return in_.cells(base, c)[position];
        return in_.load_row(base, c, position / in_.width) >> (position % in_.width) & 1;
    }

    template <class Use>
    void each_input(int y, int x, const Use& use) const {
        const int top = y * op_.stride - op_.padding, left = x * op_.stride - op_.padding;
        for (int r = std::max(0, top); r < std::min(in_.height, top + op_.kernel_height); ++r)
            for (int q = std::max(0, left); q < std::min(in_.width, left + op_.kernel_width); ++q)
                use(r * in_.width + q);
    }

    // The mean over all positions of a binary activation, by counting bits.
    void count(const Frame& frame, int c, float* y) const {
        uint8_t* base = frame.values[op_.in];
        if (in_.images == 1) {
            int sum = 0;
            const int bytes = in_.height * in_.row / 8;  // a column that does not exist is 0
            for (int i = 0; i < bytes; i += 8) {
                uint64_t word = 0;
                std::memcpy(&word, in_.rows(base, c) + i, 8);  // the rows below are 0 too
                sum += ones(word);
            }
            y[0] = float(2 * sum - in_.positions()) / float(op_.area());
        } else {
            int16_t sums[64] = {}, lanes[64];
            for (int p = 0; p < in_.positions(); ++p) {
                frame.kernels->widen(in_.cells(base, c) + p, 1, 1, lanes);
                for (int i = 0; i < 64; ++i) sums[i] = int16_t(sums[i] + lanes[i]);
            }
            for (int i = 0; i < in_.images; ++i) y[i] = float(2 * sums[i] - in_.positions()) / float(op_.area());
        }
    }

    const float* input(const Frame& frame, int c, float* room) const {
        uint8_t* base = frame.values[op_.in];
        if (in_.plain()) return in_.floats(base, c);
        in_.read(base, c, 0, in_.lanes(), room);
        return room;
    }

    void select(const Frame& frame, int c) const {
        uint8_t *from = frame.values[op_.in], *to = frame.values[op_.out];
        if (in_.quantised())
            frame.kernels->pool_quantised(in_.int16s(from, c), in_.width, in_.images, out_.height, out_.width,
                                          out_.int16s(to, c));
        else
            frame.kernels->pool_floats(in_.floats(from, c), in_.width, in_.images, out_.height, out_.width,
                                       out_.floats(to, c));
    }

    // 2x2 maxima of quantised activations, as floats.
    void quantised(const Frame& frame, int c, int16_t* room, float* y) const {
        frame.kernels->pool_quantised(in_.int16s(frame.values[op_.in], c), in_.width, in_.images, out_.height,
                                      out_.width, room);
        for (int i = 0; i < out_.lanes(); ++i) y[i] = in_.step * float(room[i]);
    }

    void floats(const Frame& frame, int c, float* room) const {
        if (in_.bits && op_.kind == Kind::mean_pool && out_.positions() == 1 && !op_.padding &&
            op_.area() == in_.positions() && in_.positions() < 32768) {
            count(frame, c, room);
            return emit(frame, c, 0, out_.lanes(), room, nullptr);
        }
        if (selects_) return select(frame, c);
        float* y = room + round_up(in_.lanes(), 16);
        if (halves_ && in_.quantised()) {
            quantised(frame, c, reinterpret_cast<int16_t*>(room), y);
            return emit(frame, c, 0, out_.lanes(), y, nullptr);
        }
        const float* x = input(frame, c, room);
        if (op_.kind == Kind::mean_pool && !op_.padding && op_.area() == in_.positions())
            global_mean(x, y);
        else if (halves_)
            frame.kernels->pool_floats(x, in_.width, in_.images, out_.height, out_.width, y);
        else
            floats_of_any_window(x, y);
        emit(frame, c, 0, out_.lanes(), y, nullptr);
    }

    void global_mean(const float* x, float* y) const {
        const int g = in_.images;
        if (g == 1) {
            float sums[4] = {};  // an addition waits for the one before it
            for (int p = 0; p < in_.positions(); ++p) sums[p % 4] += x[p];
            y[0] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) / float(op_.area());
            return;
        }
        std::copy(x, x + g, y);
        for (int p = 1; p < in_.positions(); ++p)
            for (int i = 0; i < g; ++i) y[i] += x[p * g + i];
        for (int i = 0; i < g; ++i) y[i] /= float(op_.area());
    }

    void floats_of_any_window(const float* x, float* y) const {
        const int g = in_.images;
        const bool max = op_.kind == Kind::max_pool;
        for (int p = 0; p < out_.positions(); ++p) {
            float* to = y + p * g;
            std::fill(to, to + g, max ? -std::numeric_limits<float>::infinity() : 0.0f);
            each_input(p / out_.width, p % out_.width, [&](int position) {
                const float* from = x + position * g;
                if (max)
                    for (int i = 0; i < g; ++i) to[i] = std::max(to[i], from[i]);
                else
                    for (int i = 0; i < g; ++i) to[i] += from[i];
            });
            if (!max)
                for (int i = 0; i < g; ++i) to[i] /= float(op_.area());  // padding counts, as in PyTorch
        }
    }

    const bool halves_, selects_;  // selects_: a maximum of floats, or of integers of the same step size
};

}  // namespace

std::unique_ptr<Step> make_pool_step(const Op& op, const std::vector<Shape>& shapes) {
    return std::make_unique<PoolStep>(op, shapes);
}

}  // namespace biprop
