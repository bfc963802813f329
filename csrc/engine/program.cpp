#include "program.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "plain.h"

namespace biprop {

namespace {

constexpr std::array<const char*, 2> kMagic = {"BIPROG01", "BIPROG02"};  // versions 1 and 2
constexpr uint32_t kMostSide = 1 << 14, kMostChannels = 1 << 24, kMostItems = 1 << 16;
constexpr uint32_t kMostPlainNumbers = 1 << 28;
constexpr uint64_t kMostNumbers = uint64_t(1) << 31;

void check(bool holds, const char* what) {
    if (!holds) throw ProgramError(what);
}

class Reader {
  public:
    Reader(const uint8_t* bytes, size_t size) : at_(bytes), left_(size) {}

    uint32_t number(uint32_t most, uint32_t least = 0) {
        uint32_t value;
        take(&value, sizeof value);
        check(value >= least && value <= most, "a number out of its range");
        return value;
    }
    template <class T>
    std::vector<T> array(uint64_t count) {
        check(count <= kMostNumbers && count * sizeof(T) <= left_, "truncated");
        std::vector<T> values(count);
        take(values.data(), count * sizeof(T));
        return values;
    }
    template <class T>
    std::vector<T> finite(uint64_t count) {
        auto values = array<T>(count);
        for (T value : values) check(std::isfinite(value), "a number that is not finite");
        return values;
    }
    // Double precision, but within the range of floats, because kernels convert them to floats.
    std::vector<double> factors(uint64_t count) {
        auto values = finite<double>(count);
        for (double value : values) check(std::fabs(value) <= std::numeric_limits<float>::max(), "a number too large");
        return values;
    }
    bool done() const { return left_ == 0; }

  private:
    void take(void* to, size_t size) {
        check(size <= left_, "truncated");
        if (size) std::memcpy(to, at_, size);
        at_ += size;
        left_ -= size;
    }
    const uint8_t* at_;
    size_t left_;
};

int output_side(int side, int kernel, int stride, int padding) {
    const int room = side + 2 * padding - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

void check_shapes(const Op& op, const std::vector<Value>& values) {
    const Value &from = values[op.in], &to = values[op.out];
    check(output_side(from.height, op.kernel_height, op.stride, op.padding) == to.height &&
              output_side(from.width, op.kernel_width, op.stride, op.padding) == to.width,
          "shapes that do not fit");
    check(op.padding < op.kernel_height && op.padding < op.kernel_width, "padding as wide as the kernel");
    check(!to.bits || op.act == Act::sign, "bits without a sign");
    if (op.residual == kNone) return;
    const Value& residual = values[op.residual];
    const bool fits = residual.channels == to.channels && residual.height == to.height && residual.width == to.width;
    check(op.kind == Kind::conv && fits, "a residual that does not fit");
}

void check_pool(const Op& op, const Value& from, const Value& to) {
    check(from.channels == to.channels, "a pool that changes the channels");
    const bool max_of_bits = op.kind == Kind::max_pool && from.bits && to.bits;
    for (double shift : op.shift) check(shift == 0 || !max_of_bits, "a maximum of bits with a shift");
}

void read_weights(Reader& in, const Value& from, const Value& to, Op& op) {
    const uint64_t taps = uint64_t(from.channels) * op.area();
    if (taps > kMostTaps)
        throw TooLarge("a layer of " + std::to_string(taps) + " inputs; the kernels count up to 65533");
    const uint64_t count = taps * to.channels;
    op.dense = in.number(1);
    check(!op.dense || !from.bits, "float weights on bits");
    if (op.dense) {
        op.weights = in.finite<float>(count);
    } else {
        op.mask = in.array<uint8_t>((count + 7) / 8);
        op.sign = in.array<uint8_t>((count + 7) / 8);
    }
}

Op read_plain_op(Reader& in, Kind kind, const std::vector<Value>& values, std::vector<bool>& known) {
    Op op{};
    const auto last = uint32_t(values.size() - 1);
    op.kind = kind;
    op.residual = kNone;
    op.kernel_height = op.kernel_width = op.stride = 1;
    op.out = int(in.number(last));
    check(!known[op.out], "an operation out of order");
    for (uint32_t left = in.number(kMostItems); left > 0; --left) {
        op.inputs.push_back(int(in.number(last - 1)));
        check(known[op.inputs.back()], "an operation out of order");
    }
    op.in = op.inputs.empty() ? 0 : op.inputs.front();
    const auto numbers = in.array<int32_t>(in.number(kMostPlainNumbers));
    op.plain = read_plain(kind, op.inputs, op.out, numbers, in.finite<float>(in.number(kMostPlainNumbers)), values);
    known[op.out] = true;
    return op;
}

Op read_op(Reader& in, uint32_t last_kind, const std::vector<Value>& values, std::vector<bool>& known) {
    Op op;
    op.kind = Kind(in.number(last_kind, 1));
    if (op.kind > Kind::mean_pool) return read_plain_op(in, op.kind, values, known);
    const auto last = uint32_t(values.size() - 1);
    op.in = int(in.number(last));
    op.out = int(in.number(last));
    const uint32_t residual = in.number(last + 1);
    op.residual = residual ? int(residual) - 1 : kNone;
    op.act = Act(in.number(3));
    op.kernel_height = int(in.number(kMostSide, 1));
    op.kernel_width = int(in.number(kMostSide, 1));
    op.stride = int(in.number(kMostSide, 1));
    op.padding = int(in.number(kMostSide));
    check(known[op.in] && (op.residual == kNone || known[op.residual]) && !known[op.out], "an operation out of order");
    check(op.in != int(last) && op.residual != int(last), "an operation on the output");
    known[op.out] = true;
    check_shapes(op, values);
    const Value& to = values[op.out];
    op.scale = in.factors(to.channels);
    op.shift = in.factors(to.channels);
    op.residual_scale = in.factors(op.residual == kNone ? 0 : to.channels);
    if (op.kind == Kind::conv)
        read_weights(in, values[op.in], to, op);
    else
        check_pool(op, values[op.in], to);
    return op;
}

}  // namespace

Program Program::read(const uint8_t* bytes, size_t size) {
    const auto version = std::find_if(kMagic.begin(), kMagic.end(), [&](const char* magic) {
        return size >= 8 && std::memcmp(bytes, magic, 8) == 0;
    });
    check(version != kMagic.end(), "not a program of this version");
    const uint32_t last_kind = version == kMagic.begin() ? uint32_t(Kind::mean_pool) : kLastKind;
    Reader in(bytes + 8, size - 8);
    Program program;
    const uint32_t values = in.number(kMostItems, 2), ops = in.number(kMostItems, 1), normalised = in.number(1);
    for (uint32_t i = 0; i < values; ++i) {
        Value value;
        value.bits = in.number(1);
        value.channels = int(in.number(kMostChannels, 1));
        value.height = int(in.number(kMostSide, 1));
        value.width = int(in.number(kMostSide, 1));
        const uint64_t numbers = uint64_t(value.channels) * value.height * value.width;
        if (numbers >= kMostNumbers / 64) throw TooLarge("a map of " + std::to_string(numbers) + " numbers");
        program.values.push_back(value);
    }
    check(!program.values.front().bits && !program.values.back().bits, "bits as input or output");
    if (normalised) {
        program.mean = in.finite<float>(program.values.front().channels);
        program.std = in.finite<float>(program.values.front().channels);
        for (float value : program.std) check(value > 0, "a deviation that is not positive");
    }
    std::vector<bool> known(values, false);
    known[0] = true;
    for (uint32_t i = 0; i < ops; ++i) program.ops.push_back(read_op(in, last_kind, program.values, known));
    check(known[values - 1], "no output");
    check(in.done(), "something after the end");
    return program;
}

}  // namespace biprop
