// Convolutions as products of matrices, for processors that multiply matrices, or many bytes at once. All weights take
// part, kept or not, but so many at once that this can be faster than sparse sums. Products of quantised activations are
// exact integers. A float is the exact sum of three bfloat16 numbers, and the weights are 1, 0 and -1, so only the sums
// are rounded.
//
// Instructions that multiply unsigned bytes by signed ones, or only signed ones, read signed (unsigned) activations as
// bytes that are greater (less) by 128; each channel's sums begin with what makes up for this. Padding is 128 then.
//
// For a strip of output rows, the input that it sees is copied to a buffer, once for all output channels:
//
//   [group of channels][part of a float][copy][row][column][image][channel of the group]
//
// so that 16 lanes are 64 bytes, and a tap is an offset. With a stride there is a copy for each remainder of rows and
// of columns modulo the stride. Where 16 lanes would span rows, there is a copy for each column of the kernel
// instead, in which rows follow each other. Strips of one row share a ring of rows: each new row replaces the one
// that is no longer needed.
#include <algorithm>
#include <limits>

#include "step.h"

namespace biprop {

namespace {

constexpr int kRows = 16, kPanel = 2 * kRows;  // output channels
constexpr size_t kStripBytes = 768 << 10;  // of the second cache
constexpr int kStripLanes = 2048;
constexpr int kStepsAtOnce = 10;  // of 2 KB of weights
constexpr size_t kStepCodes = 2048 / 4;  // bytes

class MatrixSum final : public Step {
  public:
    MatrixSum(const Op& op, const Op* pool, const std::vector<Shape>& shapes, const MatrixKernels& kernels,
              std::shared_ptr<const MatrixWeights>& weights)
        : Step(op, shapes),
          kernels_(kernels),
          quantised_(in_.quantised()),
          flip_(in_.low < 0 ? kernels.flip_signed : kernels.flip_unsigned),
          unit_(quantised_ ? 4 : 2),
          parts_(quantised_ ? 1 : 3) {
        const int images = out_.images, stride = op.stride;
        const bool one_row = images % 16 == 0;  // 16 lanes never span two
        blocks_ = (in_.channels + kRows * unit_ - 1) / (kRows * unit_);
        row_copies_ = std::min(op.kernel_height, stride);
        column_copies_ = one_row ? std::min(op.kernel_width, stride) : op.kernel_width;
        more_rows_ = (op.kernel_height - 1) / stride;
        width_ = out_.width + (one_row ? (op.kernel_width - 1) / stride : 0);
        const size_t row_bytes = size_t(width_) * images * 4 * parts_ * row_copies_ * column_copies_ * kRows * blocks_;
        rows_ = std::clamp(std::min(int(kStripBytes / row_bytes) - more_rows_, kStripLanes / (out_.width * images)), 1,
                           out_.height);
        strips_ = (out_.height + rows_ - 1) / rows_;
        rows_ = (out_.height + strips_ - 1) / strips_;
        // The fused max pool comes before scale and rounding, which must keep the order; strips then have whole pairs
        // of rows.
        if (pool && pool->selects() && op.rising() && out_.height % 2 == 0 && out_.width % 2 == 0) {
            pool_ = pool;
            pooled_ = shapes[pool->out];
            rows_ += rows_ % 2;
        }
        strips_ = (out_.height + rows_ - 1) / rows_;
        copy_step_ = size_t(rows_ + more_rows_) * width_ * images * 4;
        part_step_ = round_up(copy_step_ * row_copies_ * column_copies_ + 64, 64);
        group_step_ = part_step_ * parts_;
        if (group_step_ % 128 == 0) group_step_ += 64;  // else 16 groups would compete for a few lines of the cache
        shares_ = one_row && more_rows_ > 0;
        ring_ = shares_ && rows_ == 1 ? 1 + more_rows_ : 0;
        for (int phase = 0; phase < std::max(1, ring_); ++phase)
            for (int block = 0; block < blocks_; ++block)
                for (int ky = 0; ky < op.kernel_height; ++ky)
                    for (int kx = 0; kx < op.kernel_width; ++kx) {
                        const int column = one_row ? kx % stride : kx;
                        const size_t copy = (ky % stride) * column_copies_ + column;
                        const size_t lane =
                            (size_t(place(phase, ky / stride)) * width_ + (one_row ? kx / stride : 0)) * images;
                        steps_.push_back(int32_t(block * kRows * group_step_ + copy * copy_step_ + lane * 4));
                    }
        step_count_ = int(steps_.size()) / std::max(1, ring_);
        for (int lane = 0, in_row = out_.width * images; lane < rows_ * in_row; lane += 16)
            tiles_.push_back(4 * (one_row ? lane / in_row * width_ * images + lane % in_row : lane));
        if (!weights || weights->quantised != quantised_)
            weights = std::make_shared<MatrixWeights>(kernels.codes ? pack_codes() : pack_weights());
        weights_ = weights;
        if (kernels.codes) corrections_ = make_corrections();
        for (Finish& finish : finishes_) {
            finish.scale *= quantised_ ? in_.step : 1;
            if (residual_.quantised()) finish.residual_scale *= residual_.step;
        }
    }

    void run(const Frame& frame) const override {
        // Strips that share rows form one item for each thread; two where there are many strips, because a thread may
        // be delayed.
        const int threads = frame.threads();
        const int most_items = threads > 1 && strips_ >= 8 * threads ? 2 * threads : threads;
        const int items = shares_ ? std::min(strips_, most_items) : strips_;
        const int parts = std::min(panels(), this->parts(frame, items));
        frame.each(items * parts, [&](int item, int thread) {
            const int part = item % parts, share = item / parts;
            const int first = strips_ * share / items, last = strips_ * (share + 1) / items;
            for (int strip = first; strip < last; ++strip)
                compute(frame, strip * rows_, strip > first ? more_rows_ : 0, panels() * part / parts,
                        panels() * (part + 1) / parts, (*frame.scratch)[thread].data());
        });
    }
    std::string name() const override {
        return std::string(quantised_ ? "product of quantisation levels, " : "product of floats, ") +
               std::to_string(rows_ * out_.width * out_.images) + " lanes" + (pool_ ? ", max pool" : "");
    }
    // Whether 32 bits name every byte of the buffer.
    bool can_name_all() const { return group_step_ * kRows * blocks_ <= size_t(std::numeric_limits<int32_t>::max()); }
    const Op& last() const override { return pool_ ? *pool_ : op_; }
    double cycles() const override {
        // Codes leave out the groups, and eights of output channels, that do not exist.
        const double groups = op_.area() * (kernels_.codes ? groups_of(in_.channels) / double(kRows) : blocks_);
        const double channels = kernels_.codes ? (out_.channels + 7) / 8 / 4.0 : panels();
        const double tiles = double(strips_) * double(tiles_.size()) * channels * groups;
        return tiles * parts_ * kernels_.cycles_per_tile +
               double(strips_) * panels() * step_count_ * kernels_.cycles_per_step +
               0.3 * double(strips_ * group_step_ * kRows * blocks_) / 4 + 0.2 * out_.channels * out_.lanes();
    }
    size_t scratch() const override {
        return group_step_ * kRows * blocks_ + 64 + at_once() * kPanel * 64 + sums_bytes() * 2;
    }
    void memory(Held& held) const override {
        held[weights_.get()] = weights_->kept.size() + weights_->negative.size() + weights_->codes.size();
    }

  private:
    // The place in the buffer of row `row` of what output row `top` sees.
    int place(int top, int row) const { return ring_ ? (top + row) % ring_ : row; }
    int at_once() const { return std::max(1, kStepsAtOnce / op_.area()) * op_.area(); }
    int panels() const { return (out_.channels + kPanel - 1) / kPanel; }
    int groups_of(int channels) const { return (channels + unit_ - 1) / unit_; }
    // An odd number of cache lines, so that rows do not compete for a few lines of the cache.
    size_t sum_step() const { return (tiles_.size() | 1) * 16; }
    size_t sums_bytes() const { return sum_step() * kPanel * sizeof(float); }

    MatrixWeights pack_weights() const {
        const int per_row = kRows * unit_;  // input channels
        const size_t row_bytes = per_row / 8;
        MatrixWeights packed;
        packed.quantised = quantised_;
        packed.kept.resize(size_t(panels()) * step_count_ * kPanel * row_bytes);
        packed.negative.resize(packed.kept.size());
        for (int c = 0; c < out_.channels; ++c)
            for (int k = 0; k < op_.area() * blocks_; ++k)
                for (int i = 0; i < std::min(per_row, in_.channels - k / op_.area() * per_row); ++i) {
                    const size_t from =
                        (size_t(c) * in_.channels + k / op_.area() * per_row + i) * op_.area() + k % op_.area();
                    const size_t to =
                        ((c / kPanel * size_t(step_count_) + k) * kPanel + c % kPanel) * row_bytes + i / 8;
                    if (op_.kept(from)) {
                        packed.kept[to] |= uint8_t(1 << i % 8);
                        packed.negative[to] |= uint8_t(!op_.positive(from) << i % 8);
                    }
                }
        return packed;
    }

    // See MatrixKernels for the order of codes.
    MatrixWeights pack_codes() const {
        MatrixWeights packed;
        packed.quantised = quantised_;
        packed.codes.assign(size_t(panels()) * step_count_ * kStepCodes, 0x55);  // four zeros
        const size_t per_channel = size_t(in_.channels) * op_.area();
        for (size_t from = 0; from < out_.channels * per_channel; ++from) {
            if (!op_.kept(from)) continue;
            const int c = int(from / per_channel), i = int(from % per_channel) / op_.area(), k = int(from % op_.area());
            const size_t step = size_t(c / kPanel) * step_count_ + i / (kRows * unit_) * op_.area() + k;
            const int number = c % kPanel / 8 * 512 + i / 4 % kRows * 32 + c % 8 * 4 + i % 4;
            const int shift = number % 256 / 64 * 2;
            uint8_t& codes = packed.codes[step * kStepCodes + number / 256 * 64 + number % 64];
            codes = uint8_t((codes & ~(3 << shift)) | (op_.positive(from) ? 2 : 0) << shift);
        }
        return packed;
    }

    std::vector<int32_t> make_corrections() const {
        std::vector<int32_t> corrections(size_t(panels()) * kPanel);
        const size_t per_channel = size_t(in_.channels) * op_.area();
        const int greater = in_.low < 0 ? flip_ : -flip_;  // than the activations are the bytes
        for (size_t i = 0; greater && i < out_.channels * per_channel; ++i)
            if (op_.kept(i)) corrections[i / per_channel] -= op_.positive(i) ? greater : -greater;
        return corrections;
    }

    MatrixTile::Kind kind() const {
        if (!quantised_) return MatrixTile::floats;
        return in_.low < 0 ? MatrixTile::signed_quantised : MatrixTile::unsigned_quantised;
    }

    // The first `fresh` rows of the input are in the buffer already.
    void compute(const Frame& frame, int top, int fresh, int first, int last, uint8_t* room) const {
        uint8_t *buffer = room, *weights = buffer + group_step_ * kRows * blocks_ + 64;
        auto* sums = reinterpret_cast<float*>(weights + at_once() * kPanel * 64);
        float* room_for_residual = sums + sums_bytes() / sizeof(float);
        const int rows = std::min(rows_, out_.height - top), lanes = rows * out_.width * out_.images;
        for (int group = 0; group < kRows * blocks_; ++group)
            pack(frame, top, rows, fresh, group, buffer + group * group_step_);
        MatrixTile t{};
        t.kind = kind();
        t.weights = weights;
        t.input = buffer;
        t.group_step = group_step_;
        t.part_step = part_step_;
        t.steps = steps_.data() + place(top, 0) * step_count_;
        t.step_count = step_count_;
        t.tiles = tiles_.data();
        t.tile_count = (lanes + 15) / 16;
        t.sums = sums;
        t.sum_step = sum_step();
        t.at_once = at_once();
        t.whole_steps = in_.channels / (kRows * unit_) * op_.area();
        t.groups_of_last = groups_of(in_.channels % (kRows * unit_));
        for (int panel = first; panel < last; ++panel) {
            set_weights(panel, t);
            kernels_.multiply(t);
            for (int c = panel * kPanel; c < panel * kPanel + t.channels; ++c) {
                const float* x = sums + c % kPanel * t.sum_step;
                if (!pool_)
                    emit_products(frame, c, top * out_.width * out_.images, lanes, x, room_for_residual);
                else
                    emit_pooled(frame, c, top / 2, rows / 2, x, room_for_residual);
            }
        }
    }

    void set_weights(int panel, MatrixTile& t) const {
        t.channels = std::min(kPanel, out_.channels - panel * kPanel);
        if (kernels_.codes) {
            t.codes = &weights_->codes[size_t(panel) * step_count_ * kStepCodes];
            t.corrections = &corrections_[size_t(panel) * kPanel];
            return;
        }
        const size_t panel_bytes = size_t(step_count_) * kPanel * kRows * unit_ / 8;
        t.kept = &weights_->kept[panel * panel_bytes];
        t.negative = &weights_->negative[panel * panel_bytes];
    }

    // Like Step::emit, but the residual's levels are multiplied by step and scale at once, as in sums of quantised
    // activations: both round alike.
    void emit_products(const Frame& frame, int c, int lane, int n, const float* x, float* room) const {
        if (!residual_.quantised()) return emit(frame, c, lane, n, x, room);
        n = std::min(n, out_.lanes() - lane);
        const int16_t* levels = residual_.int16s(frame.values[op_.residual], c) + lane;
        for (int i = 0; i < n; ++i) room[i] = float(levels[i]);
        if (out_.bits) return emit_signs(frame, c, lane, n, x, finishes_[c], room);
        store(frame, out_, frame.values[op_.out], c, lane, n, x, finishes_[c], room);
    }

    void emit_pooled(const Frame& frame, int c, int top, int rows, const float* x, float* room) const {
        frame.kernels->pool_floats(x, out_.width, out_.images, rows, pooled_.width, room);
        const int row = pooled_.width * pooled_.images;
        store(frame, pooled_, frame.values[pool_->out], c, top * row, rows * row, room, finishes_[c], nullptr);
    }

    // One group of channels of the input, and the buffer that it is packed into.
    struct Group {
        const uint8_t* planes;
        int channels;
        uint8_t* to;
    };

    // The rows of a strip of one group of channels, in all copies.
    void pack(const Frame& frame, int top, int rows, int fresh, int group, uint8_t* to) const {
        const int channels = std::min(unit_, in_.channels - group * unit_);
        if (channels <= 0) {
            if (!fresh && !kernels_.codes) std::memset(to, 0, group_step_);
            return;
        }
        if (fresh && !ring_) move_rows(fresh, to);
        const uint8_t* planes = frame.values[op_.in] + size_t(group) * unit_ * in_.plane;
        const bool rows_follow =
            op_.stride == 1 && width_ == in_.width && column_copies_ == op_.kernel_width && !shares_;
        for (int copy = 0; copy < row_copies_ * column_copies_; ++copy, to += copy_step_) {
            if (rows_follow)
                pack_whole_rows({planes, channels, to}, top, rows, copy);
            else
                pack_each_row({planes, channels, to}, top, rows, fresh, copy);
        }
    }

    // The last rows of the strip before become the first ones of this one.
    void move_rows(int fresh, uint8_t* to) const {
        const size_t row_step = size_t(width_) * in_.images * 4;
        for (int part = 0; part < parts_; ++part)
            for (int copy = 0; copy < row_copies_ * column_copies_; ++copy) {
                uint8_t* const own = to + part * part_step_ + copy * copy_step_;
                std::memmove(own, own + rows_ * row_step, fresh * row_step);
            }
    }

    // The input's column at the first column of a copy.
    int left_of(int copy) const { return copy % column_copies_ - op_.padding; }
    // The columns [first, end) of a copy that are inside the input; the others are padding.
    std::pair<int, int> columns_inside(int copy) const {
        const int stride = op_.stride, left = left_of(copy);
        const int first = std::min(width_, left < 0 ? (-left + stride - 1) / stride : 0);
        const int end = std::max(first, std::min(width_, (in_.width - left + stride - 1) / stride));
        return {first, end};
    }
    int cell() const { return in_.images * 4; }  // bytes of a position

    void zero(uint8_t* at, int columns) const {
        for (int part = 0; part < parts_ && columns > 0; ++part)
            std::memset(at + part * part_step_, flip_, size_t(columns) * cell());
    }

    // `count` lanes from a position, every `step`th.
    void pack_lanes(const Group& group, uint8_t* at, int position, int count, int step) const {
        const int from = position * in_.images;
        if (quantised_)
            kernels_.pack_quantised(reinterpret_cast<const int16_t*>(group.planes) + from, in_.plane, group.channels,
                                    count, step, flip_, at);
        else
            kernels_.pack_floats(reinterpret_cast<const float*>(group.planes) + from, in_.plane, group.channels, count,
                                 step, part_step_, at);
    }

    // Rows follow each other in the input and in the buffer: one copy, then zeros where it wraps around.
    void pack_whole_rows(const Group& group, int top, int rows, int copy) const {
        const auto [first, end] = columns_inside(copy);
        const int above = std::min(rows + more_rows_, std::max(0, op_.padding - top));
        const int below = std::clamp(in_.height + op_.padding - top, above, rows + more_rows_);
        zero(group.to, above * width_);
        pack_lanes(group, group.to + above * width_ * cell(), (top + above - op_.padding) * in_.width + left_of(copy),
                   (below - above) * width_ * in_.images, 1);
        zero(group.to + below * width_ * cell(), (rows + more_rows_ - below) * width_);
        for (int row = above; row < below && (first || end < width_); ++row) {
            zero(group.to + row * width_ * cell(), first);
            zero(group.to + (row * width_ + end) * cell(), width_ - end);
        }
    }

    void pack_each_row(const Group& group, int top, int rows, int fresh, int copy) const {
        const int stride = op_.stride, images = in_.images;
        const auto [first, end] = columns_inside(copy);
        for (int row = fresh; row < rows + more_rows_; ++row) {
            uint8_t* at = group.to + size_t(place(top, row)) * width_ * cell();
            const int y = (top + row) * stride + copy / column_copies_ - op_.padding;
            if (y < 0 || y >= in_.height) {
                zero(at, width_);
                continue;
            }
            const int position = y * in_.width + left_of(copy) + first * stride;
            zero(at, first);
            if (stride == 1)
                pack_lanes(group, at + first * cell(), position, (end - first) * images, 1);
            else if (images == 1)
                pack_lanes(group, at + first * cell(), position, end - first, stride);
            else
                for (int x = first; x < end; ++x)
                    pack_lanes(group, at + x * cell(), position + (x - first) * stride, images, 1);
            zero(at + end * cell(), width_ - end);
        }
    }

    const MatrixKernels& kernels_;
    const Op* pool_ = nullptr;  // fused into this step; or null
    Shape pooled_;
    const bool quantised_;
    const uint8_t flip_;  // of the bytes that are multiplied, beside those of quantised activations
    const int unit_, parts_;  // channels of a group; bfloat16 parts of a number
    int blocks_, row_copies_, column_copies_, more_rows_, width_, rows_, strips_;
    bool shares_;  // whether a strip shares rows of the input with the one before
    int ring_, step_count_;  // rows in the ring, for strips of one row; else 0
    size_t copy_step_, part_step_, group_step_;
    std::vector<int32_t> steps_, tiles_;  // steps_: for each place of the first row in the ring
    std::shared_ptr<const MatrixWeights> weights_;
    std::vector<int32_t> corrections_;  // by output channel
};

}  // namespace

std::unique_ptr<Step> make_matrix_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                       const Kernels& kernels, Packed& packed) {
    if (!kernels.matrices || op.dense) return nullptr;
    if (!shapes[op.in].quantised() && !kernels.matrices->pack_floats) return nullptr;
    auto step = std::make_unique<MatrixSum>(op, pool, shapes, *kernels.matrices, packed.matrix);
    if (!step->can_name_all()) return nullptr;
    return step;
}

}  // namespace biprop
