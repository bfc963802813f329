// The steps of plain operations, on one image or on a group.
#include <algorithm>
#include <array>
#include <string>

#include "plain.h"

namespace biprop {

namespace {

constexpr unsigned kKept = 1u << Loop::kept, kReduced = 1u << Loop::reduced, kAll = ~0u;
constexpr int kQueries = 64;  // lanes of attention that are computed together

class PlainStep : public Step {
  public:
    PlainStep(const Op& op, const std::vector<Shape>& shapes, const char* name)
        : Step(op, shapes), plain_(*op.plain), name_(name), operands_{shapes[op.out]} {
        for (const int input : op.inputs) operands_.push_back(shapes[input]);
    }
    std::string name() const override { return name_; }
    size_t scratch() const override { return 64; }
    void memory(Held& held) const override {
        held[&plain_] = (plain_.values.size() + plain_.scale.size() * 2) * sizeof(float);
    }

  protected:
    std::vector<const Shape*> pointers(bool affine = false) const {
        std::vector<const Shape*> pointers;
        for (const Shape& shape : operands_) pointers.push_back(&shape);
        if (affine) pointers.push_back(nullptr);
        return pointers;
    }
    // The first numbers of an operand: the result is 0.
    float* address(const Frame& frame, int operand) const {
        return reinterpret_cast<float*>(frame.values[operand ? op_.inputs[size_t(operand) - 1] : op_.out]);
    }
    int images() const { return out_.images; }
    double numbers() const { return double(out_.channels) * out_.lanes(); }

    const Plain& plain_;
    const std::string name_;
    std::vector<Shape> operands_;
};

// ---- elementwise ----

class Elementwise final : public PlainStep {
  public:
    Elementwise(const Op& op, const std::vector<Shape>& shapes) : PlainStep(op, shapes, "elementwise") {}
    void run(const Frame& frame) const override {
        frame.each(out_.channels, [&](int c, int) {
            frame.kernels->plain->elementwise(in_.floats(frame.values[op_.in], c), out_.lanes(),
                                              plain_.scale[size_t(c)], plain_.shift[size_t(c)], plain_.act,
                                              out_.floats(frame.values[op_.out], c));
        });
    }
    double cycles() const override {
        return numbers() * (plain_.act.act > Act::sign0 ? 1.5 : 0.3) + 10.0 * out_.channels;
    }
};

class BinaryStep final : public PlainStep {
  public:
    BinaryStep(const Op& op, const std::vector<Shape>& shapes)
        : PlainStep(op, shapes, "arithmetic"), nest_(plain_.blocks[0], kAll, pointers()) {
        nest_.add_images(images(), pointers());
        nest_.merge();
        lanes_ = nest_.take_last();
        rows_ = nest_.take_last();
    }
    void run(const Frame& frame) const override {
        frame.each(int(nest_.count()), [&](int item, int) {
            int64_t at[kMostOperands];
            nest_.at(item, at);
            Grid grid{rows_.size,
                      lanes_.size,
                      address(frame, 0) + at[0],
                      address(frame, 1) + at[1],
                      address(frame, 2) + at[2],
                      {},
                      {}};
            std::copy(rows_.step, rows_.step + 3, grid.row_step);
            std::copy(lanes_.step, lanes_.step + 3, grid.lane_step);
            frame.kernels->plain->binary(grid, Binary(plain_.which), plain_.act);
        });
    }
    double cycles() const override { return numbers() * (lanes_.size >= 8 ? 0.4 : 2) + 20.0 * double(nest_.count()); }

  private:
    Nest nest_;
    Nest::Axis rows_, lanes_;
};

// ---- moves ----

void copy_numbers(float* to, int64_t to_step, const float* from, int64_t from_step, int count) {
    if (to_step == 1 && from_step == 1)
        std::memcpy(to, from, sizeof(float) * size_t(count));
    else
        for (int i = 0; i < count; ++i) to[i * to_step] = from[i * from_step];
}

class Move final : public PlainStep {
  public:
    Move(const Op& op, const std::vector<Shape>& shapes) : PlainStep(op, shapes, "move") {
        for (size_t i = 0; i < plain_.blocks.size(); ++i) {
            const std::vector<const Shape*> both{&operands_[0], &operands_[i + 1]};
            Nest nest(plain_.blocks[i], kAll, both);
            nest.add_images(images(), both);
            nest.merge();
            const Nest::Axis lanes = nest.take_last();
            parts_.push_back({nest, nest.take_last(), lanes});
            parts_.back().nest = nest;
        }
    }
    void run(const Frame& frame) const override {
        if (plain_.fills)
            for (int c = 0; c < out_.channels; ++c) {
                float* to = out_.floats(frame.values[op_.out], c);
                std::fill(to, to + out_.lanes(), plain_.number);
            }
        for (size_t i = 0; i < parts_.size(); ++i) {
            const Part& part = parts_[i];
            float* to = address(frame, 0);
            const float* from = address(frame, int(i) + 1);
            frame.each(int(part.nest.count()), [&](int item, int) {
                int64_t at[kMostOperands];
                part.nest.at(item, at);
                for (int row = 0; row < part.rows.size; ++row)
                    copy_numbers(to + at[0] + row * part.rows.step[0], part.lanes.step[0],
                                 from + at[1] + row * part.rows.step[1], part.lanes.step[1], part.lanes.size);
            });
        }
    }
    double cycles() const override { return numbers(); }

  private:
    struct Part {
        Nest nest;
        Nest::Axis rows, lanes;
    };
    std::vector<Part> parts_;
};

class Constant final : public PlainStep {
  public:
    Constant(const Op& op, const std::vector<Shape>& shapes) : PlainStep(op, shapes, "constant") {}
    void run(const Frame& frame) const override {
        const float* from = plain_.values.data();
        for (int c = 0; c < out_.channels; ++c) {
            float* to = out_.floats(frame.values[op_.out], c);
            for (int p = 0; p < out_.positions(); ++p, to += images(), ++from) std::fill(to, to + images(), *from);
        }
    }
    double cycles() const override { return numbers() * 0.3; }
};

class Embedding final : public PlainStep {
  public:
    Embedding(const Op& op, const std::vector<Shape>& shapes) : PlainStep(op, shapes, "embedding") {}
    void run(const Frame& frame) const override {
        const int width = out_.channels, positions = in_.positions();
        for (int c = 0; c < in_.channels; ++c)
            for (int lane = 0; lane < in_.lanes(); ++lane) {
                const float number = in_.floats(frame.values[op_.in], c)[lane];
                const float most = float(plain_.groups - 1);  // what no row has is the last or the first
                const float row = number >= 0 ? std::min(number, most) : 0;
                const float* from = plain_.values.data() + size_t(row) * size_t(width);
                for (int k = 0; k < width; ++k)
                    out_.floats(frame.values[op_.out], k)[c * positions * images() + lane] = from[k];
            }
    }
    double cycles() const override { return numbers() * 2; }
};

// ---- along an axis ----

// What reductions, norms and softmax share: kept loops, whose innermost may be lanes, and at most two reduced ones.
class AlongAxes : public PlainStep {
  public:
    AlongAxes(const Op& op, const std::vector<Shape>& shapes, const char* name, bool affine)
        : PlainStep(op, shapes, name),
          kept_(plain_.blocks[0], kKept, pointers(affine)),
          reduced_(plain_.blocks[0], kReduced, pointers(affine)) {
        kept_.add_images(images(), pointers(affine));
        kept_.merge();
        reduced_.merge();
        inner_ = reduced_.take_last();
        outer_ = reduced_.take_last();
        lanes_ = {1, {}};
        if (kept_.axes.empty()) return;
        const Nest::Axis& last = kept_.axes.back();
        if (last.step[0] == 1 && last.step[1] == 1 && (!affine || last.step[2] == 0)) lanes_ = kept_.take_last();
    }
    void run(const Frame& frame) const override {
        frame.each(int(kept_.count()), [&](int item, int) {
            int64_t at[kMostOperands];
            kept_.at(item, at);
            compute(frame, walk(1, address(frame, 1) + at[1]), address(frame, 0) + at[0], at);
        });
    }
    double cycles() const override {
        const double vectors = lanes_.size == 1 ? inner_.size / 16.0 : (lanes_.size + 15) / 16;
        return double(kept_.count()) *
               (20 + 2.0 * passes() * vectors * outer_.size * (lanes_.size == 1 ? 1 : inner_.size));
    }

  protected:
    virtual void compute(const Frame& frame, const Walk& from, float* out, const int64_t* at) const = 0;
    virtual double passes() const { return 1; }
    Walk walk(int operand, const float* x) const {
        return {x, outer_.size, inner_.size, outer_.step[operand], inner_.step[operand]};
    }

    Nest kept_, reduced_;
    Nest::Axis outer_, inner_, lanes_;
};

class Reduction final : public AlongAxes {
  public:
    Reduction(const Op& op, const std::vector<Shape>& shapes) : AlongAxes(op, shapes, "reduction", false) {}

  protected:
    void compute(const Frame& frame, const Walk& from, float* out, const int64_t*) const override {
        frame.kernels->plain->reduce(from, lanes_.size, Reduce(plain_.which), out);
    }
};

class Norm final : public AlongAxes {
  public:
    Norm(const Op& op, const std::vector<Shape>& shapes) : AlongAxes(op, shapes, "norm", true) {}

  protected:
    void compute(const Frame& frame, const Walk& from, float* out, const int64_t* at) const override {
        frame.kernels->plain->normalise(from, lanes_.size, plain_.number, walk(2, nullptr), plain_.scale.data() + at[2],
                                        plain_.shift.data() + at[2], walk(0, nullptr), out);
    }
    double passes() const override { return 3; }
};

class Softmax final : public AlongAxes {
  public:
    Softmax(const Op& op, const std::vector<Shape>& shapes) : AlongAxes(op, shapes, "softmax", false) {}

  protected:
    void compute(const Frame& frame, const Walk& from, float* out, const int64_t*) const override {
        frame.kernels->plain->softmax(from, lanes_.size, plain_.which, walk(0, nullptr), out);
    }
    double passes() const override { return 10; }
};

// ---- products ----

class Contract final : public PlainStep {
  public:
    Contract(const Op& op, const std::vector<Shape>& shapes)
        : PlainStep(op, shapes, "matmul"),
          kept_(plain_.blocks[0], kKept, pointers()),
          reduced_(plain_.blocks[0], kReduced, pointers()) {
        kept_.add_images(images(), pointers());
        kept_.merge();
        reduced_.merge();
        inner_ = reduced_.take_last();
        outer_ = reduced_.take_last();
        if (kept_.axes.empty()) return;
        const Nest::Axis& last = kept_.axes.back();
        const auto can_be = [&](int one, int other) {
            return last.step[0] == 1 && last.step[one] == 1 && (last.step[other] == 0 || last.step[other] == 1);
        };
        if (!can_be(1, 2) && !can_be(2, 1)) return;
        if (!can_be(2, 1)) std::swap(a_, b_);
        lanes_ = kept_.take_last();
    }
    void run(const Frame& frame) const override {
        frame.each(int(kept_.count()), [&](int item, int) {
            int64_t at[kMostOperands];
            kept_.at(item, at);
            frame.kernels->plain->contract(walk(frame, a_, at), walk(frame, b_, at), lanes_.size,
                                           lanes_.step[a_] ? LanesOfA::all : LanesOfA::one, address(frame, 0) + at[0]);
        });
    }
    double cycles() const override {
        return double(kept_.count()) * (20 + double(outer_.size) * inner_.size * ((lanes_.size + 15) / 16 + 1));
    }

  private:
    Walk walk(const Frame& frame, int operand, const int64_t* at) const {
        return {address(frame, operand) + at[operand], outer_.size, inner_.size, outer_.step[operand],
                inner_.step[operand]};
    }
    Nest kept_, reduced_;
    Nest::Axis outer_, inner_, lanes_ = {1, {}};
    int a_ = 1, b_ = 2;  // operands; lanes of b are neighbours
};

// softmax(query key' scale + mask) value, for some queries, or for the images of one query, at a time.
class Attention final : public PlainStep {
  public:
    Attention(const Op& op, const std::vector<Shape>& shapes)
        : PlainStep(op, shapes, "attention"),
          kept_(plain_.blocks[0], kKept, pointers()),
          query_(axis(Loop::query)),
          key_(axis(Loop::key)),
          width_(axis(Loop::width)),
          value_width_(axis(Loop::value_width)) {
        kept_.merge();
        const bool neighbours = query_.step[0] == images() && query_.step[1] == images();
        const bool can_share = images() == 1 || images() == 16;
        at_once_ = neighbours && can_share ? std::min(kQueries / images(), query_.size) : 1;
        of_key_ = images() == 1 ? LanesOfA::one : images() == 16 ? LanesOfA::sixteen : LanesOfA::all;
    }
    void run(const Frame& frame) const override {
        const int blocks = (query_.size + at_once_ - 1) / at_once_;
        frame.each(int(kept_.count()) * blocks, [&](int item, int thread) {
            int64_t at[kMostOperands];
            kept_.at(item / blocks, at);
            const int first = item % blocks * at_once_;
            for (int o = 0; o < kMostOperands; ++o) at[o] += first * query_.step[o];
            const int queries = std::min(at_once_, query_.size - first);
            compute(frame, at, first, queries, reinterpret_cast<float*>((*frame.scratch)[size_t(thread)].data()));
        });
    }
    double cycles() const override {
        const double lanes = images() * at_once_, rows = double(kept_.count()) * query_.size * images() / lanes;
        return rows * key_.size * ((double(width_.size) + value_width_.size) * ((lanes + 15) / 16 + 1) + lanes * 2);
    }
    size_t scratch() const override { return size_t(key_.size) * std::max(kQueries, images()) * sizeof(float); }

  private:
    Nest::Axis axis(Loop::Role role) const {
        Nest nest(plain_.blocks[0], 1u << role, pointers());
        nest.merge();
        return nest.take_last();
    }
    void compute(const Frame& frame, const int64_t* at, int first, int queries, float* scores) const {
        const PlainKernels& kernels = *frame.kernels->plain;
        const int lanes = images() * queries;
        const Walk query{address(frame, 1) + at[1], 1, width_.size, 0, width_.step[1]};
        for (int k = 0; k < key_.size; ++k) {
            const Walk key{address(frame, 2) + at[2] + k * key_.step[2], 1, width_.size, 0, width_.step[2]};
            kernels.contract(key, query, lanes, of_key_, scores + int64_t(k) * lanes);
        }
        kernels.elementwise(scores, key_.size * lanes, plain_.number, 0, {Act::none, 0, 0}, scores);
        if (operands_.size() == 5) add_mask(frame, at, lanes, scores);
        if (plain_.which) hide_later(first, lanes, scores);
        const Walk all{scores, 1, key_.size, 0, lanes};
        kernels.softmax(all, lanes, false, {nullptr, 1, key_.size, 0, lanes}, scores);
        for (int w = 0; w < value_width_.size; ++w) {
            const Walk value{address(frame, 3) + at[3] + w * value_width_.step[3], 1, key_.size, 0, key_.step[3]};
            kernels.contract(value, all, lanes, of_key_, address(frame, 0) + at[0] + w * value_width_.step[0]);
        }
    }
    void add_mask(const Frame& frame, const int64_t* at, int lanes, float* scores) const {
        const float* mask = address(frame, 4) + at[4];
        for (int k = 0; k < key_.size; ++k)
            for (int l = 0; l < lanes; ++l)
                scores[int64_t(k) * lanes + l] += mask[k * key_.step[4] + l / images() * query_.step[4] + l % images()];
    }
    // A query sees the keys up to its own place.
    void hide_later(int first, int lanes, float* scores) const {
        for (int k = 0; k < key_.size; ++k)
            for (int l = 0; l < lanes; ++l)
                if (k > first + l / images()) scores[int64_t(k) * lanes + l] = -1e30f;
    }

    Nest kept_;
    Nest::Axis query_, key_, width_, value_width_;
    int at_once_;  // queries
    LanesOfA of_key_;
};

// ---- windows ----

// The channels of a group are copied once, with zeros around them and split by remainders of the stride, so that every
// tap of a row of results is a row of neighbouring numbers.
class PlainConv final : public PlainStep {
  public:
    PlainConv(const Op& op, const std::vector<Shape>& shapes)
        : PlainStep(op, shapes, op.plain->groups > 1 ? "grouped convolution" : "dense convolution") {
        per_group_ = in_.channels / plain_.groups;
        int64_t step = images();
        for (int i = 2; i >= 0; --i) {
            part_step_[size_t(i)] = step;
            step *= axis(i).part();
        }
        for (int i = 2; i >= 0; --i) {
            phase_step_[size_t(i)] = step;
            step *= axis(i).stride;
        }
        channel_ = step;
        by_row_ = axis(2).out * images() >= 64;
        for (int c = 0; c < out_.channels; ++c) add_taps(c);
    }
    void run(const Frame& frame) const override {
        frame.each(plain_.groups, [&](int group, int thread) {
            auto* room = reinterpret_cast<float*>((*frame.scratch)[size_t(thread)].data());
            copy_group(frame, group, room);
            const int outputs = out_.channels / plain_.groups;
            for (int c = group * outputs; c < (group + 1) * outputs; ++c)
                compute(frame, c, room, room + round_up(size_t(channel_) * size_t(per_group_), 16));
        });
    }
    std::string name() const override {
        const bool depthwise = plain_.groups == in_.channels;
        return (depthwise ? "depthwise convolution" : name_) + ", " + std::to_string(axis(1).kernel) + "x" +
               std::to_string(axis(2).kernel);
    }
    double cycles() const override {
        const double lanes = by_row_ ? double(out_.lanes()) : double(run_length());
        return double(taps_.size()) * lanes / 16 * 0.75 + 0.5 * double(channel_) * in_.channels + numbers();
    }
    size_t scratch() const override {
        const int64_t results = by_row_ ? axis(2).out * images() : run_length();
        return (round_up(size_t(channel_) * size_t(per_group_), 16) + round_up(size_t(results), 16) + 128) *
               sizeof(float);
    }
    void memory(Held& held) const override {
        PlainStep::memory(held);
        held[this] = taps_.size() * 8;
    }

  private:
    const WindowAxis& axis(int i) const { return plain_.windows[size_t(i)]; }
    // Lanes from the first result to the last one, with the padding between.
    int64_t run_length() const {
        int64_t last = 0;
        for (int i = 0; i < 3; ++i) last += (axis(i).out - 1) * part_step_[size_t(i)];
        return last + images();
    }
    int64_t tap_offset(int channel, const std::array<int, 3>& tap) const {
        int64_t offset = channel * channel_;
        for (size_t i = 0; i < 3; ++i) {
            const int place = tap[i] * axis(int(i)).dilation, stride = axis(int(i)).stride;
            offset += place % stride * phase_step_[i] + place / stride * part_step_[i];
        }
        return offset;
    }
    void add_taps(int c) {
        starts_.push_back(taps_.size());
        const float* weight = plain_.values.data() + size_t(c) * size_t(per_group_) * size_t(area());
        for (int channel = 0; channel < per_group_; ++channel)
            for (int z = 0; z < axis(0).kernel; ++z)
                for (int y = 0; y < axis(1).kernel; ++y)
                    for (int x = 0; x < axis(2).kernel; ++x, ++weight) {
                        if (*weight == 0) continue;
                        taps_.push_back(int32_t(tap_offset(channel, {z, y, x})));
                        weights_.push_back(*weight);
                    }
        if (c + 1 == out_.channels) starts_.push_back(taps_.size());
    }
    int area() const { return axis(0).kernel * axis(1).kernel * axis(2).kernel; }

    void copy_group(const Frame& frame, int group, float* room) const {
        const bool is_padded = channel_ > in_.lanes();
        if (is_padded) std::fill(room, room + channel_ * per_group_, 0.0f);
        for (int k = 0; k < per_group_; ++k) {
            const float* from = in_.floats(frame.values[op_.in], group * per_group_ + k);
            for (int z = 0; z < axis(0).in; ++z)
                for (int y = 0; y < axis(1).in; ++y, from += axis(2).in * images())
                    copy_row(from, room + k * channel_ + place(0, z) + place(1, y));
        }
    }
    // Where index i of an axis of the input lies.
    int64_t place(int a, int i) const {
        const int padded = i + axis(a).padding, stride = axis(a).stride;
        return padded % stride * phase_step_[size_t(a)] + padded / stride * part_step_[size_t(a)];
    }
    void copy_row(const float* from, float* to) const {
        const int count = axis(2).in, g = images();
        if (axis(2).stride == 1) {
            std::memcpy(to + axis(2).padding * g, from, sizeof(float) * size_t(count) * size_t(g));
            return;
        }
        for (int x = 0; x < count; ++x) std::memcpy(to + place(2, x), from + x * g, sizeof(float) * size_t(g));
    }

    void compute(const Frame& frame, int c, const float* room, float* results) const {
        const PlainKernels& kernels = *frame.kernels->plain;
        const size_t start = starts_[size_t(c)];
        const int taps = int(starts_[size_t(c) + 1] - start), row = axis(2).out * images();
        const auto convolve = [&](const float* x, int lanes) {
            kernels.convolve(x, taps_.data() + start, weights_.data() + start, taps, lanes, results);
        };
        if (!by_row_) convolve(room, int(run_length()));
        float* out = out_.floats(frame.values[op_.out], c);
        for (int z = 0; z < axis(0).out; ++z)
            for (int y = 0; y < axis(1).out; ++y, out += row) {
                const int64_t at = z * part_step_[0] + y * part_step_[1];
                if (by_row_) convolve(room + at, row);
                kernels.elementwise(results + (by_row_ ? 0 : at), row, plain_.scale[size_t(c)], plain_.shift[size_t(c)],
                                    plain_.act, out);
            }
    }

    int per_group_;  // input channels
    std::array<int64_t, 3> part_step_, phase_step_;  // floats in the copy
    int64_t channel_;
    bool by_row_;
    std::vector<int32_t> taps_;  // by output channel: offsets in the copy
    std::vector<float> weights_;
    std::vector<size_t> starts_;
};

class PlainPool final : public PlainStep {
  public:
    PlainPool(const Op& op, const std::vector<Shape>& shapes)
        : PlainStep(op, shapes, op.plain->which ? "mean" : "max") {}
    // The rows of a window are combined first, for all columns side by side, and then the columns.
    void run(const Frame& frame) const override {
        frame.each(out_.channels, [&](int c, int thread) {
            auto* row = reinterpret_cast<float*>((*frame.scratch)[size_t(thread)].data());
            const float* x = in_.floats(frame.values[op_.in], c);
            float* out = out_.floats(frame.values[op_.out], c);
            for (const PoolPlace& z : plain_.pools[0].places)
                for (const PoolPlace& y : plain_.pools[1].places) {
                    if (plain_.which) {
                        combine_rows(x, z, y, row, [](float a, float b) { return a + b; });
                        out = mean_columns(row, float(double(z.count) * y.count), out);
                    } else {
                        combine_rows(x, z, y, row, [](float a, float b) { return a > b ? a : b; });
                        out = combine_columns(row, out, [](float a, float b) { return a > b ? a : b; });
                    }
                }
        });
    }
    double cycles() const override { return double(in_.channels) * in_.lanes() + 4 * numbers(); }
    size_t scratch() const override { return round_up(size_t(width()), 16) * sizeof(float); }

  private:
    int width() const { return plain_.pools[2].in * images(); }

    template <class Combine>
    void combine_rows(const float* x, const PoolPlace& z, const PoolPlace& y, float* row,
                      const Combine& combine) const {
        const int numbers = width();
        for (int i = z.start; i < z.stop; i += z.step)
            for (int j = y.start; j < y.stop; j += y.step) {
                const float* from = x + (int64_t(i) * plain_.pools[1].in + j) * numbers;
                if (i == z.start && j == y.start)
                    std::copy(from, from + numbers, row);
                else
                    for (int k = 0; k < numbers; ++k) row[k] = combine(row[k], from[k]);
            }
    }
    template <class Combine>
    float* combine_columns(const float* row, float* out, const Combine& combine) const {
        const int g = images();
        for (const PoolPlace& w : plain_.pools[2].places) {
            std::copy(row + w.start * g, row + (w.start + 1) * g, out);
            for (int k = w.start + w.step; k < w.stop; k += w.step)
                for (int i = 0; i < g; ++i) out[i] = combine(out[i], row[k * g + i]);
            out += g;
        }
        return out;
    }
    float* mean_columns(const float* row, float count, float* out) const {
        float* const end = combine_columns(row, out, [](float a, float b) { return a + b; });
        for (const PoolPlace& w : plain_.pools[2].places)
            for (int i = 0; i < images(); ++i, ++out) *out /= count * float(w.count);
        return end;
    }
};

}  // namespace

std::unique_ptr<Step> make_plain_step(const Op& op, const std::vector<Shape>& shapes) {
    switch (op.kind) {
        case Kind::elementwise: return std::make_unique<Elementwise>(op, shapes);
        case Kind::binary: return std::make_unique<BinaryStep>(op, shapes);
        case Kind::move: return std::make_unique<Move>(op, shapes);
        case Kind::plain_conv: return std::make_unique<PlainConv>(op, shapes);
        case Kind::plain_pool: return std::make_unique<PlainPool>(op, shapes);
        case Kind::reduce: return std::make_unique<Reduction>(op, shapes);
        case Kind::normalise: return std::make_unique<Norm>(op, shapes);
        case Kind::softmax: return std::make_unique<Softmax>(op, shapes);
        case Kind::contract: return std::make_unique<Contract>(op, shapes);
        case Kind::attention: return std::make_unique<Attention>(op, shapes);
        case Kind::constant: return std::make_unique<Constant>(op, shapes);
        default: return std::make_unique<Embedding>(op, shapes);
    }
}

}  // namespace biprop
