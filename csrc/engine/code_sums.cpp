// Sparse sums of floats in machine code, written for the kept weights of a layer: one instruction for each of them.
//
// The sums of some output channels stay in registers while the inputs of all taps go by. Each input is loaded once for
// these channels, and added to the sums of those that keep its weight, or subtracted. The kernels of sums.cpp, which
// read lists of taps, load it once for each kept weight; but their lists are a third as large as the code.
#include <algorithm>

#include "caches.h"
#include "machine_code.h"
#include "step.h"

namespace biprop {

namespace {

constexpr size_t kMostCode = 640 << 10;  // bytes of a layer
constexpr size_t kLeastBytes = 4;  // of an addition
constexpr int kInputs = 2;  // registers for inputs, in turns
constexpr double kNearLoad = 0.6, kFarLoad = 1.1;  // cycles, from the first and the second cache

class CodeSum final : public Step {
  public:
    CodeSum(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels)
        : Step(op, shapes),
          row_(out_.width * out_.images),
          pitch_(pitch(op, out_)),
          input_row_(input_row(op, out_)),
          floats_(floats_of_vector(row_, kernels.floats)),
          sums_((floats_ == 16 ? 32 : 16) - kInputs),
          addition_(kernels.cycles_per_addition * float(floats_) / float(kernels.floats)),
          rows_(rows_of_strip(op, in_, out_)),
          distance_(int32_t(round_up(size_t(rows_) * row_ + floats_, 16))) {
        for (int i = 0; i < phases(op); ++i) phases_.push_back(phase(i));
        const int groups = (out_.channels + sums_ - 1) / sums_;
        for (int g = 0; g < groups; ++g) {
            const int first = out_.channels * g / groups;
            groups_.push_back({first, out_.channels * (g + 1) / groups - first, 0});
        }
    }

    static bool fits(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels) {
        const Shape &in = shapes[op.in], &out = shapes[op.out];
        return kernels.cycles_per_addition > 0 && op.is_masked() && in.plain() &&
               (out.images == 1 || out.images % 8 == 0) && window_bytes(op, in, out) <= second_cache();
    }

    // Writes the code. Returns whether it takes less than `most` cycles, is of bearable size, and the system allows it.
    bool write(double most) {
        kept_ = op_.count_kept(0, size_t(out_.channels) * in_.channels * op_.area());
        if (kLeastBytes * size_t(kept_) > kMostCode) return false;
        CodeWriter writer(floats_);
        for (Group& group : groups_) {
            group.offset = writer.bytes().size();
            write_group(group, writer);
        }
        if (writer.bytes().size() > kMostCode || cycles() >= most) return false;
        code_ = MachineCode::of(writer.bytes());
        return bool(code_);
    }

    void run(const Frame& frame) const override {
        const int groups = int(groups_.size()), parts = std::min(groups, this->parts(frame, strips()));
        frame.each(strips() * parts, [&](int item, int thread) {
            const int part = item % parts;
            compute(frame, item / parts * rows_, groups * part / parts, groups * (part + 1) / parts,
                    reinterpret_cast<float*>((*frame.scratch)[thread].data()));
        });
    }

    std::string name() const override {
        return "sparse sum, machine code for " + std::to_string(sums_) + " channels by " + std::to_string(floats_) +
               " lanes";
    }
    double cycles() const override {
        const int vectors = out_.height * vectors_of_row(row_, floats_);
        const double copied = double(in_.channels) * strips() * rows_of_input() * input_row_;
        const double load = window_bytes(op_, in_, out_) > first_cache() ? kFarLoad : kNearLoad;
        return vectors * (addition_ * kept_ + load * loads_ + 30.0 * double(groups_.size())) +
               (op_.stride == 1 ? 0.3 : 0.8) * copied + 0.5 * out_.channels * double(out_.lanes());
    }
    size_t scratch() const override {
        return (buffer_floats() + size_t(sums_ + 1) * size_t(distance_)) * sizeof(float);
    }
    void memory(Held& held) const override { held[this] += code_->bytes(); }
    size_t machine_code() const override { return code_->bytes(); }

  private:
    // Output channels whose sums are in registers together.
    struct Group {
        int first, count;
        size_t offset;  // of their function
    };

    // Columns of a row that are `stride` apart: numbers of the row, and of the row of the buffer.
    struct Phase {
        int from, to, count;
    };

    // Calls use(tap, signs) for each tap of which a channel of the group keeps the weight: 1, -1 or 0 for each channel.
    template <class Use>
    void each_tap(const Group& group, const Use& use) const {
        const int taps = in_.channels * op_.area();
        std::vector<int8_t> signs(size_t(taps) * group.count, 0);
        for (int c = 0; c < group.count; ++c) {
            const size_t from = size_t(group.first + c) * taps;
            for (const bool negative : {false, true})
                op_.each_kept(from, from + taps, negative,
                              [&](size_t i) { signs[(i - from) * group.count + c] = negative ? -1 : 1; });
        }
        for (int tap = 0; tap < taps; ++tap) {
            const int8_t* own = signs.data() + size_t(tap) * group.count;
            if (std::any_of(own, own + group.count, [](int8_t sign) { return sign != 0; })) use(tap, own);
        }
    }

    void write_group(const Group& group, CodeWriter& writer) {
        for (int c = 0; c < group.count; ++c) writer.zero(kInputs + c);
        each_tap(group, [&](int tap, const int8_t* signs) {
            const int channel = tap / op_.area(), y = tap % op_.area() / op_.kernel_width, x = tap % op_.kernel_width;
            const int input = loads_++ % kInputs;
            const int column = x % op_.stride * pitch_ + x / op_.stride * out_.images;
            writer.load(input, int32_t(sizeof(float) * (channel * channel_floats() + size_t(y) * input_row_ + column)));
            for (int c = 0; c < group.count; ++c) {
                if (signs[c] > 0) writer.add(kInputs + c, input);
                if (signs[c] < 0) writer.subtract(kInputs + c, input);
            }
        });
        for (int c = 0; c < group.count; ++c) writer.store(kInputs + c, int32_t(sizeof(float)) * c * distance_);
        writer.end();
    }

    // The rows of output from `top` on, of some groups of channels.
    void compute(const Frame& frame, int top, int first, int last, float* buffer) const {
        const int rows = std::min(rows_, out_.height - top), lanes = rows * row_;
        float *sums = buffer + buffer_floats(), *room = sums + size_t(sums_) * distance_;
        copy_input(frame, top, buffer);
        for (int g = first; g < last; ++g) {
            const Group& group = groups_[g];
            const VectorFunction sum = code_->function(group.offset);
            for (int y = 0; y < rows; ++y)
                // What the last vector of a row has too much is overwritten by the next row.
                for (int x = 0; x < row_; x += floats_)
                    sum(sums + y * row_ + x, buffer + size_t(y) * op_.stride * input_row_ + x);
            for (int c = 0; c < group.count; ++c)
                emit(frame, group.first + c, top * row_, lanes, sums + size_t(c) * distance_, room);
        }
    }

    // The rows of input that `rows_` rows of output see, with zeros around them: [channel][row][phase][pitch_]. With a
    // stride of 2, phase 0 has the even columns and phase 1 the odd ones, so that a vector's inputs lie side by side.
    void copy_input(const Frame& frame, int top, float* buffer) const {
        const int first = top * op_.stride - op_.padding, last = std::min(first + rows_of_input(), in_.height);
        const int row = in_.width * in_.images;
        std::memset(buffer, 0, in_.channels * channel_floats() * sizeof(float));
        for (int c = 0; c < in_.channels; ++c, buffer += channel_floats()) {
            const float* plane = in_.floats(frame.values[op_.in], c);
            for (int y = std::max(0, first); y < last; ++y)
                for (const Phase& phase : phases_)
                    copy_columns(plane + size_t(y) * row + phase.from, phase.count,
                                 buffer + size_t(y - first) * input_row_ + phase.to);
        }
    }

    // Copies every stride-th column.
    void copy_columns(const float* from, int count, float* to) const {
        const int images = in_.images, distance = op_.stride * images;
        if (distance == images)
            std::memcpy(to, from, sizeof(float) * count * images);
        else if (distance == 2)  // compilers vectorise it
            for (int x = 0; x < count; ++x) to[x] = from[2 * x];
        else
            for (int x = 0; x < count; ++x) std::memcpy(to + x * images, from + x * distance, sizeof(float) * images);
    }

    // The columns of a phase that lie in the image.
    Phase phase(int number) const {
        const int stride = op_.stride, first = number - op_.padding, pitch = pitch_ / in_.images;
        const int begin = first < 0 ? std::min(pitch, (stride - 1 - first) / stride) : 0;
        const int end = std::clamp((in_.width - first + stride - 1) / stride, begin, pitch);
        return {(first + begin * stride) * in_.images, number * pitch_ + begin * in_.images, end - begin};
    }
    // Strips are equally high, and their input fits into a quarter of the second cache where it can.
    static int rows_of_strip(const Op& op, const Shape& in, const Shape& out) {
        const int fitting = int(second_cache() / 4 / (sizeof(float) * input_row(op, out) * in.channels));
        const int most = std::clamp((fitting - op.kernel_height) / op.stride + 1, 1, out.height);
        const int strips = (out.height + most - 1) / most;
        return (out.height + strips - 1) / strips;
    }
    static int phases(const Op& op) { return std::min(op.stride, op.kernel_width); }
    // Floats of a phase of a row of the buffer, and of a row.
    static int pitch(const Op& op, const Shape& out) {
        return (out.width + (op.kernel_width - 1) / op.stride) * out.images;
    }
    static int input_row(const Op& op, const Shape& out) { return phases(op) * pitch(op, out); }
    // Of the input that a row of output sees.
    static size_t window_bytes(const Op& op, const Shape& in, const Shape& out) {
        return sizeof(float) * input_row(op, out) * op.kernel_height * in.channels;
    }
    int rows_of_input() const { return (rows_ - 1) * op_.stride + op_.kernel_height; }
    int strips() const { return (out_.height + rows_ - 1) / rows_; }
    size_t channel_floats() const { return size_t(rows_of_input()) * input_row_; }
    // With what the last vector of the last row reads too much.
    size_t buffer_floats() const { return round_up(size_t(in_.channels) * channel_floats() + floats_, 16); }

    static int vectors_of_row(int row, int floats) { return (row + floats - 1) / floats; }
    // Of 16 floats where the processor has these, unless half of the last one would be too much.
    static int floats_of_vector(int row, int most) {
        return most == 16 && 2 * vectors_of_row(row, 16) > vectors_of_row(row, 8) ? 8 : most;
    }

    const int row_, pitch_, input_row_;  // floats of a row of output, of a phase of the buffer, and of its rows
    const int floats_, sums_;  // of a vector; vectors in registers
    const double addition_;  // cycles of one
    const int rows_;  // of a strip
    const int32_t distance_;  // of two channels' sums
    std::vector<Phase> phases_;
    std::vector<Group> groups_;
    int kept_ = 0, loads_ = 0;
    std::unique_ptr<MachineCode> code_;
};

}  // namespace

std::unique_ptr<Step> make_code_step(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels,
                                     double most) {
    if (!BIPROP_MACHINE_CODE || !CodeSum::fits(op, shapes, kernels)) return nullptr;
    auto step = std::make_unique<CodeSum>(op, shapes, kernels);
    if (!step->write(most)) return nullptr;
    return step;
}

}  // namespace biprop
