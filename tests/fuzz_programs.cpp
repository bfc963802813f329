// A fuzzer of the engine's C interface: random valid programs and mutants of them are loaded and run on every
// instruction set.
//
//     fuzz_programs SECONDS [SEED]         (make fuzz-c)
//
// Programs have no checksum, so mutants reach the parser. Beside what the sanitizers find, this checks: a valid
// program loads; its results are the same for one image and for many, for one thread and two, and on every
// instruction set; after calibration they stay finite; a mutant gives an error code or a network that runs; and when
// the n-th allocation fails, in whichever thread, the answer is BIPROP_NO_MEMORY, and later runs are right. The last
// line has the counts; a failure ends the program and prints the seed.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "biprop.h"

// ---- allocations that fail ----

namespace {

std::atomic<long> allocations_left{-1};  // -1: no limit

// Returns null where no allocations are left.
void* allocate(size_t size) noexcept {
    if (allocations_left.load(std::memory_order_relaxed) >= 0 && allocations_left.fetch_sub(1) <= 0) {
        allocations_left.store(0);
        return nullptr;
    }
    // Mutants may need more memory than a test should.
    return size < (size_t(1) << 30) ? std::malloc(size ? size : 1) : nullptr;
}

void* allocate_or_throw(size_t size) {
    if (void* memory = allocate(size)) return memory;
    throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t size) { return allocate_or_throw(size); }
void* operator new[](size_t size) { return allocate_or_throw(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace {

struct Random {
    std::mt19937_64 generator;
    explicit Random(uint64_t seed) : generator(seed) {}
    int between(int least, int most) { return least + int(generator() % uint64_t(most - least + 1)); }
    bool chance(double p) { return double(generator() >> 11) * 0x1.0p-53 < p; }
    template <class T>
    T one_of(const std::vector<T>& values) {
        return values[generator() % values.size()];
    }
};

// ---- programs, as docs/engine.md has them ----

enum Kind { kConv = 1, kMaxPool = 2, kMeanPool = 3 };
enum PlainKind {
    kElementwise = 4,
    kBinary,
    kMove,
    kPlainConv,
    kPool,
    kReduce,
    kNormalise,
    kSoftmax,
    kContract,
    kAttention,
    kConstant,
    kEmbedding
};
enum Act { kNone, kRelu, kSign, kSign0 };

struct Value {
    bool bits;
    int channels, height, width;
    double most = 1, unit = 1;  // its numbers are multiples of `unit`, up to `most`
    size_t numbers() const { return size_t(channels) * size_t(height) * size_t(width); }
    bool same_as(const Value& o) const { return channels == o.channels && height == o.height && width == o.width; }
};

class Writer {
  public:
    template <class T>
    void put(T value) {
        const auto* from = reinterpret_cast<const uint8_t*>(&value);
        bytes.insert(bytes.end(), from, from + sizeof value);
    }
    // Records the offsets of numbers that a mutant may change: sizes, which rarely fit afterwards; and kinds and
    // values, which often do.
    void size(uint32_t value) {
        sizes.push_back(bytes.size());
        put(value);
    }
    void kind(uint32_t value) {
        kinds.push_back(bytes.size());
        put(value);
    }
    std::vector<uint8_t> bytes;
    std::vector<size_t> sizes, kinds;
};

struct Program {
    std::vector<uint8_t> bytes;
    std::vector<size_t> sizes, kinds;
    Value input, output;
    bool exact;  // no number needs rounding: the same in every order of sums
};

class Maker {
  public:
    explicit Maker(Random& random) : random_(random) {}

    Program make() {
        Writer ops;
        const bool normalised = random_.chance(0.2);
        values_ = {{false, random_.one_of<int>({1, 2, 3, 5, 16, 33, 64}), side(), side(), normalised ? 40.0 : 8.0, 1}};
        plain_ = random_.chance(0.5);
        const int wanted = random_.between(1, 7);
        int count = 0;
        for (int tries = 0; count < wanted && tries < 60; ++tries) count += append(ops, count + 1 == wanted);
        if (values_.size() == 1 || values_.back().bits) count += append_copy(ops);
        Writer all;
        for (const char letter : std::string(plain_ ? "BIPROG02" : "BIPROG01")) all.put(letter);
        all.size(uint32_t(values_.size()));
        all.size(uint32_t(count));
        all.size(normalised);
        for (const Value& value : values_) {
            all.kind(value.bits);
            all.size(uint32_t(value.channels));
            all.size(uint32_t(value.height));
            all.size(uint32_t(value.width));
        }
        for (int i = 0; normalised && i < 2 * values_[0].channels; ++i) all.put(i < values_[0].channels ? 1.0f : 0.25f);
        for (const size_t at : ops.sizes) all.sizes.push_back(all.bytes.size() + at);
        for (const size_t at : ops.kinds) all.kinds.push_back(all.bytes.size() + at);
        all.bytes.insert(all.bytes.end(), ops.bytes.begin(), ops.bytes.end());
        return {all.bytes, all.sizes, all.kinds, values_[0], values_.back(), exact_};
    }

  private:
    int side() {
        return random_.one_of<int>({1, 2, 3, 4, 4, 5, 7, 8, 8, 9, 13, 16, 16, 17, 28, 32, 33, 63, 64, 65, 90});
    }

    // Draws the window of an operation. Returns false where it does not fit.
    bool window(const Value& from, int& height, int& width, int& stride, int& padding) {
        switch (random_.between(0, 6)) {
            case 0:
            case 1:
            case 2:
                height = width = 3;
                stride = random_.one_of<int>({1, 1, 1, 2});
                padding = random_.between(0, 2);
                break;
            case 3:
                height = width = 1;
                stride = random_.between(1, 2);
                padding = 0;
                break;
            case 4:
                height = from.height;
                width = from.width;
                stride = 1;
                padding = 0;
                break;
            case 5:
                height = width = 2;
                stride = 2;
                padding = 0;
                break;
            default:
                height = random_.between(1, from.height + 2);
                width = random_.between(1, from.width + 2);
                stride = random_.between(1, 4);
                padding = random_.between(0, 4);
        }
        if (padding >= height || padding >= width) return false;
        return from.height + 2 * padding >= height && from.width + 2 * padding >= width;
    }

    bool append(Writer& ops, bool last) {
        if (plain_ && random_.chance(0.5)) return append_plain(ops);
        const int in = random_.chance(0.75) ? int(values_.size()) - 1 : random_.between(0, int(values_.size()) - 1);
        const Value from = values_[size_t(in)];
        const Kind kind = random_.chance(0.7) ? kConv : Kind(random_.between(kMaxPool, kMeanPool));
        int height, width, stride, padding;
        if (!window(from, height, width, stride, padding)) return false;
        Value to{!last && random_.chance(0.5), from.channels, 0, 0, 1, 1};
        to.height = (from.height + 2 * padding - height) / stride + 1;
        to.width = (from.width + 2 * padding - width) / stride + 1;
        if (kind == kConv && !random_.chance(0.3))
            to.channels = random_.one_of<int>({1, 2, 3, 4, 8, 16, 24, 31, 32, 33, 64, 65, 128});
        const double work =
            double(to.channels) * to.height * to.width * height * width * (kind == kConv ? from.channels : 1);
        if (work > 5e4 || double(height) * width * from.channels > 65533) return false;
        int residual = -1;
        for (int v = 0; kind == kConv && v < int(values_.size()); ++v)
            if (values_[size_t(v)].same_as(to) && random_.chance(0.4)) residual = v;
        write(ops, kind, in, residual, from, to, {height, width, stride, padding});
        return true;
    }

    // ---- plain operations: on a value of floats, or on some ----

    // Loops of an operation: size, role, strides of the result and the inputs.
    using Loop = std::vector<int>;

    int floats_value() {
        for (int tries = 0; tries < 9; ++tries) {
            const int v = random_.chance(0.7) ? int(values_.size()) - 1 : random_.between(0, int(values_.size()) - 1);
            if (!values_[size_t(v)].bits) return v;
        }
        return 0;
    }

    void write_plain(Writer& ops, PlainKind kind, const std::vector<int>& inputs, const std::vector<int>& numbers,
                     const std::vector<float>& floats, const Value& to) {
        ops.kind(kind);
        ops.kind(uint32_t(values_.size()));
        ops.size(uint32_t(inputs.size()));
        for (const int input : inputs) ops.kind(uint32_t(input));
        ops.size(uint32_t(numbers.size()));
        for (const int number : numbers) ops.size(uint32_t(number));
        ops.size(uint32_t(floats.size()));
        for (const float x : floats) ops.put(x);
        values_.push_back(to);
        values_.back().bits = false;
    }
    static void add_block(std::vector<int>& numbers, size_t operands, const std::vector<Loop>& loops) {
        numbers.insert(numbers.end(), operands, 0);
        numbers.push_back(int(loops.size()));
        for (const Loop& loop : loops) numbers.insert(numbers.end(), loop.begin(), loop.end());
    }
    // Pushes two numbers and a scale and a shift for each channel.
    std::vector<float> factors(int channels) {
        std::vector<float> floats = {0.5f, 0.75f};
        for (int c = 0; c < channels; ++c) floats.push_back(random_.one_of<float>({1, -1, 0.5f, 0}));
        for (int c = 0; c < channels; ++c) floats.push_back(float(random_.between(-2, 2)));
        return floats;
    }
    // What is no multiple of a known unit, or too large for one, makes all inexact.
    void scaled(Value& to, double unit, double most) {
        to.unit = unit;
        to.most = most;
        if (to.most > (1 << 24) * to.unit) exact_ = false;
    }

    bool append_plain(Writer& ops) {
        const int in = floats_value();
        const Value from = values_[size_t(in)];
        if (from.most > 1e6 || from.numbers() > 20000) return false;
        switch (random_.between(0, 12)) {
            case 0: return elementwise(ops, in, from);
            case 1:
            case 2: return arithmetic(ops, in, from);
            case 3:
            case 4: return move(ops, in, from);
            case 5: return grouped(ops, in, from);
            case 6: return pool(ops, in, from);
            case 7: return reduce(ops, in, from);
            case 8: return normalise(ops, in, from);
            case 9: return contract(ops, in, from);
            case 10: return embedding(ops, in, from);
            case 11: return constant(ops);
            default: return attention(ops, in, from);
        }
    }

    bool elementwise(Writer& ops, int in, const Value& from) {
        const int act = random_.between(0, 13);
        Value to = from;
        scaled(to, from.unit / 2, from.most + 2);
        if (act > 1 && act != 11) exact_ = false;
        if (act == 11) to.unit /= 2;
        if (act > 1) to.most += 1;
        write_plain(ops, kElementwise, {in}, {act}, factors(from.channels), to);
        return true;
    }

    // With a value of the same shape, or with one number for each channel or each position.
    bool arithmetic(Writer& ops, int in, const Value& from) {
        const int size = from.height * from.width, which = random_.between(0, 1);
        int other = in, channel = size, position = 1;
        Value second = from;
        for (int v = 0; v < int(values_.size()); ++v) {
            const Value& value = values_[size_t(v)];
            if (value.bits || !random_.chance(0.5)) continue;
            const bool whole = value.same_as(from);
            const bool by_channel = value.channels == from.channels && value.height * value.width == 1;
            const bool by_position = value.channels == 1 && value.height * value.width == size;
            if (!whole && !by_channel && !by_position) continue;
            other = v;
            second = value;
            channel = whole ? size : by_channel ? 1 : 0;
            position = whole || by_position ? 1 : 0;
        }
        if (second.most > 1e6) return false;
        if (size == 1) position = 0;
        Value to = from;
        if (which)
            scaled(to, from.unit * second.unit, from.most * second.most);
        else
            scaled(to, std::min(from.unit, second.unit), from.most + second.most);
        std::vector<int> numbers = {which, 0};
        add_block(numbers, 3, {{from.channels, 0, size, size, channel}, {size, 0, 1, 1, position}});
        write_plain(ops, kBinary, {in, other}, numbers, {0, 0}, to);
        return true;
    }

    // Another order of the axes; or some indices, with numbers around; or two values, one behind the other.
    bool move(Writer& ops, int in, const Value& from) {
        const int c = from.channels, h = from.height, w = from.width, size = h * w;
        Value to = from;
        std::vector<int> numbers;
        const bool is_turned = random_.chance(0.4), is_padded = !is_turned && random_.chance(0.5);
        const bool is_joined = !is_turned && !is_padded;
        if (is_turned) {
            to.channels = w;
            to.height = c;
            to.width = h;
            add_block(numbers, 2, {{w, 0, c * h, 1}, {c, 0, h, size}, {h, 0, 1, w}});
        } else if (is_padded) {
            to.width = w + 3;
            add_block(numbers, 2, {{c, 0, h * (w + 3), size}, {h, 0, w + 3, w}, {w, 0, 1, 1}});
            numbers[0] = random_.between(0, 3);
            to.most = std::max(to.most, 1.0);
            to.unit = std::min(to.unit, 1.0);
        } else {
            to.channels = 2 * c;
            for (int part = 0; part < 2; ++part) {
                const size_t begin = numbers.size();
                add_block(numbers, 2, {{c, 0, size, size}, {size, 0, 1, 1}});
                numbers[begin] = part * c * size;
            }
        }
        numbers.push_back(is_padded || random_.chance(0.1));  // what is left is filled
        write_plain(ops, kMove, std::vector<int>(is_joined ? 2 : 1, in), numbers, {random_.one_of<float>({0, 1})}, to);
        return true;
    }

    // A table, and a row of it for each number of the input.
    bool embedding(Writer& ops, int in, const Value& from) {
        Value to = from;
        to.channels = random_.between(1, 5);
        to.height = 1;
        to.width = int(from.numbers());
        if (to.width > 4000) return false;
        const int rows = random_.between(1, 9);
        std::vector<float> table;
        for (int i = 0; i < rows * to.channels; ++i) table.push_back(float(random_.between(-4, 4)));
        scaled(to, 1, 4);
        write_plain(ops, kEmbedding, {in}, {rows, to.channels}, table, to);
        return true;
    }

    bool constant(Writer& ops) {
        Value to{false, random_.between(1, 5), random_.between(1, 4), random_.between(1, 9), 4, 1};
        std::vector<float> numbers;
        for (size_t i = 0; i < to.numbers(); ++i) numbers.push_back(float(random_.between(-4, 4)));
        write_plain(ops, kConstant, {}, {}, numbers, to);
        return true;
    }

    bool grouped(Writer& ops, int in, const Value& from) {
        const int groups = random_.chance(0.5) ? from.channels : 1, per = from.channels / groups;
        const int outputs = groups * random_.between(1, 2), kernel = random_.between(1, 3),
                  dilation = random_.between(1, 2);
        const int reach = dilation * (kernel - 1) + 1, stride = random_.between(1, 3),
                  padding = random_.between(0, reach - 1);
        Value to = from;
        to.channels = outputs;
        to.height = (from.height + 2 * padding - reach) / stride + 1;
        to.width = (from.width + 2 * padding - reach) / stride + 1;
        if (from.height + 2 * padding < reach || from.width + 2 * padding < reach) return false;
        if (double(outputs) * per * kernel * kernel * to.height * to.width > 5e4) return false;
        std::vector<int> numbers = {groups, 0, 1, 1, 1, 1, 0, 1};
        for (const auto& [side, result] : {std::pair<int, int>{from.height, to.height}, {from.width, to.width}})
            for (const int number : {side, result, kernel, stride, padding, dilation}) numbers.push_back(number);
        std::vector<float> floats = factors(outputs);
        for (int i = 0; i < outputs * per * kernel * kernel; ++i)
            floats.push_back(random_.chance(0.5) ? 0.0f : float(random_.between(-2, 2)));
        scaled(to, from.unit / 2, from.most * 2 * per * kernel * kernel + 2);
        write_plain(ops, kPlainConv, {in}, numbers, floats, to);
        return true;
    }

    bool pool(Writer& ops, int in, const Value& from) {
        const int mean = random_.between(0, 1);
        std::vector<int> numbers = {mean, 1, 1, 0, 1, 1, 1};
        Value to = from;
        for (int* side : {&to.height, &to.width}) {
            const int size = *side, places = random_.between(1, std::min(size, 6));
            numbers.push_back(size);
            numbers.push_back(places);
            for (int i = 0; i < places; ++i) {
                const int start = random_.between(0, size - 1), stop = random_.between(start + 1, size);
                for (const int number : {start, stop, random_.between(1, 2), mean ? 1 << random_.between(0, 2) : 1})
                    numbers.push_back(number);
            }
            *side = places;
        }
        if (mean) scaled(to, from.unit / 16, from.most * from.height * from.width);
        write_plain(ops, kPool, {in}, numbers, {}, to);
        return true;
    }

    // Over the channels, or over the positions.
    std::vector<Loop> over(const Value& from, bool channels, bool kept_moves) {
        const int size = from.height * from.width;
        if (channels) return {{from.channels, 1, kept_moves ? size : 0, size}, {size, 0, 1, 1}};
        return {{from.channels, 0, kept_moves ? size : 1, size}, {size, 1, kept_moves ? 1 : 0, 1}};
    }

    bool reduce(Writer& ops, int in, const Value& from) {
        const bool channels = random_.chance(0.5);
        const int which = random_.between(0, 2), size = from.height * from.width;
        Value to = from;
        if (channels)
            to.channels = 1;
        else
            to.height = to.width = 1;
        if (which == 1) scaled(to, from.unit, from.most * (channels ? from.channels : size));
        if (which == 0) exact_ = false;
        std::vector<int> numbers = {which};
        add_block(numbers, 2, over(from, channels, false));
        write_plain(ops, kReduce, {in}, numbers, {}, to);
        return true;
    }

    bool normalise(Writer& ops, int in, const Value& from) {
        const bool channels = random_.chance(0.5), softmax = random_.chance(0.5);
        std::vector<Loop> loops = over(from, channels, true);
        std::vector<int> numbers = {softmax ? random_.between(0, 1) : from.channels};
        std::vector<float> floats;
        if (!softmax) {
            loops[0].push_back(1);
            loops[1].push_back(0);
            floats = factors(from.channels);
            floats.erase(floats.begin());
            floats[0] = 0.125f;
        }
        add_block(numbers, softmax ? 2 : 3, loops);
        Value to = from;
        to.most = 200;
        exact_ = false;
        write_plain(ops, softmax ? kSoftmax : kNormalise, {in}, numbers, floats, to);
        return true;
    }

    // The products of all channels with each other.
    bool contract(Writer& ops, int in, const Value& from) {
        const int c = from.channels, size = from.height * from.width;
        if (double(c) * c * size > 5e4) return false;
        Value to = from;
        to.height = 1;
        to.width = c;
        scaled(to, from.unit * from.unit, from.most * from.most * size);
        std::vector<int> numbers;
        add_block(numbers, 3, {{c, 0, c, size, 0}, {c, 0, 1, 0, size}, {size, 1, 0, 1, 1}});
        write_plain(ops, kContract, {in, in}, numbers, {}, to);
        return true;
    }

    // Of the positions, whose widths are the channels.
    bool attention(Writer& ops, int in, const Value& from) {
        const int c = from.channels, size = from.height * from.width;
        if (double(c) * size * size > 5e4) return false;
        std::vector<int> numbers = {random_.between(0, 1)};
        add_block(numbers, 4,
                  {{size, 2, 1, 1, 0, 0}, {size, 3, 0, 0, 1, 1}, {c, 4, 0, size, size, 0}, {c, 5, size, 0, 0, size}});
        exact_ = false;
        write_plain(ops, kAttention, {in, in, in}, numbers, {0.25f}, from);
        return true;
    }

    bool append_copy(Writer& ops) {
        const Value from = values_.back();
        write(ops, kMaxPool, int(values_.size()) - 1, -1, from, {false, from.channels, from.height, from.width, 1, 1},
              {1, 1, 1, 0});
        return true;
    }

    void write(Writer& ops, Kind kind, int in, int residual, const Value& from, Value to,
               const std::vector<int>& window) {
        const bool of_bits = kind == kMaxPool && from.bits && to.bits;
        ops.kind(kind);
        ops.kind(uint32_t(in));
        ops.kind(uint32_t(values_.size()));
        ops.kind(uint32_t(residual + 1));
        ops.kind(uint32_t(to.bits ? kSign : random_.between(kNone, kSign0)));
        for (const int number : window) ops.size(uint32_t(number));
        const bool selects = random_.chance(0.5);
        for (int c = 0; c < to.channels; ++c) ops.put(scale(of_bits, selects));
        for (int c = 0; c < to.channels; ++c)
            ops.put(of_bits || selects ? 0.0 : random_.between(-8, 8) + random_.one_of<double>({0, 0.25}));
        for (int c = 0; residual >= 0 && c < to.channels; ++c) ops.put(random_.one_of<double>({1, -1, 0.5}));
        const int area = window[0] * window[1];
        const bool dense = kind == kConv && !from.bits && random_.chance(0.15);
        estimate(kind, dense, area, from, residual < 0 ? nullptr : &values_[size_t(residual)], to);
        values_.push_back(to);
        if (kind != kConv) return;
        const size_t count = size_t(from.channels) * size_t(to.channels) * size_t(area);
        ops.kind(dense);
        const double density = random_.one_of<double>({0, 0.02, 0.1, 0.3, 0.5, 1});
        if (dense) {
            for (size_t i = 0; i < count; ++i)
                ops.put(random_.chance(density) ? float(random_.between(-6, 6)) / 4 : 0.0f);
            return;
        }
        for (int plane = 0; plane < 2; ++plane)
            for (size_t i = 0; i < (count + 7) / 8; ++i) {
                uint8_t byte = 0;
                for (int bit = 0; bit < 8; ++bit) byte |= uint8_t(random_.chance(plane ? 0.5 : density) << bit);
                ops.put(byte);
            }
    }

    double scale(bool of_bits, bool selects) {
        if (of_bits) return random_.chance(0.5) ? -1.0 : 1.0;
        return selects ? 1.0 : random_.one_of<double>({1, -1, 0.5, -2, 0});
    }

    // Estimates the largest number of `to`, and of what all are multiples. Floats are exact for integers up to 2^24.
    void estimate(Kind kind, bool dense, int area, const Value& from, const Value* residual, Value& to) {
        const double taps = kind == kConv ? double(area) * from.channels : kind == kMeanPool ? area : 1;
        const double sum = taps * from.most * (dense ? 1.5 : 1);
        to.unit = 0.25 * from.unit * (dense ? 0.25 : 1) / (kind == kMeanPool ? area : 1);
        to.most = 2 * sum + 8.25;
        if (residual) {
            to.unit = std::min(to.unit, 0.5 * residual->unit);
            to.most += residual->most;
        }
        if (to.most > (1 << 24) * to.unit || (kind == kMeanPool && (area & (area - 1)))) exact_ = false;
        if (to.bits) to.most = to.unit = 1;
    }

    Random& random_;
    std::vector<Value> values_;
    bool exact_ = true, plain_ = false;
};

// Changes some numbers and bytes; leaves pieces out, or copies them from another program.
std::vector<uint8_t> mutant(Random& random, const Program& program, const std::vector<uint8_t>& other) {
    std::vector<uint8_t> bytes = program.bytes;
    for (int changes = random.between(1, 3); changes > 0; --changes) {
        if (random.chance(0.8)) {
            const bool kind = random.chance(0.7);
            const size_t at = random.one_of(kind ? program.kinds : program.sizes);
            if (at + 4 > bytes.size()) continue;
            uint32_t value;
            std::memcpy(&value, &bytes[at], 4);
            const std::vector<uint32_t> instead = {
                value + 1, value - 1,  value * 2, value / 2, value ^ 1,
                0,         1,          2,         3,         uint32_t(random.between(0, 70)),
                64,        65,         4095,      16384,     65533,
                1u << 24,  0x7fffffff, 0xffffffff};
            const uint32_t chosen =
                kind ? uint32_t(random.between(0, random.chance(0.5) ? 4 : 15)) : random.one_of(instead);
            std::memcpy(&bytes[at], &chosen, 4);
        } else if (random.chance(0.6)) {
            bytes[random.generator() % bytes.size()] = uint8_t(random.generator());
        } else if (random.chance(0.4)) {
            bytes.resize(random.generator() % bytes.size() + 1);
        } else {  // a piece of another program
            const size_t to = random.generator() % bytes.size(), from = random.generator() % other.size();
            const size_t size =
                std::min(std::min(bytes.size() - to, other.size() - from), size_t(random.between(1, 64)));
            std::memcpy(&bytes[to], &other[from], size);
        }
    }
    return bytes;
}

// ---- runs ----

uint64_t seed_now = 0;
std::map<std::string, long> counts;

[[noreturn]] void fault(const char* what) {
    std::printf("fault: %s, with seed %llu\n", what, static_cast<unsigned long long>(seed_now));
    std::exit(1);
}

void expect(bool holds, const char* what) {
    if (!holds) fault(what);
}

struct Network {
    biprop_network* handle = nullptr;
    int error = 0;
    int channels = 0, height = 0, width = 0, outputs = 0;

    Network(const std::vector<uint8_t>& program, int threads, const std::string& instruction_set) {
        error = biprop_load_with(program.data(), program.size(), threads, instruction_set.c_str(), &handle);
        expect((error == 0) == (handle != nullptr), "an error with a network, or none without");
        biprop_shape(handle, &channels, &height, &width, &outputs);
    }
    ~Network() { biprop_free(handle); }
    Network(const Network&) = delete;
    Network& operator=(const Network&) = delete;

    size_t pixels() const { return size_t(channels) * size_t(height) * size_t(width); }
    int run(const std::vector<float>& images, size_t count, std::vector<float>& logits) const {
        logits.assign(count * size_t(outputs), 0);
        return biprop_run_f32(handle, images.data(), int64_t(count), BIPROP_NCHW, logits.data());
    }
};

std::vector<std::string> instruction_sets() {
    std::istringstream names(biprop_instruction_sets());
    std::vector<std::string> all;
    for (std::string name; names >> name;) all.push_back(name);
    return all;
}

// Pixels are integers. Where numbers are rounded, results depend on the order of sums, and signs may change: these
// are not compared.
void run_valid(Random& random, const Program& program, const std::vector<std::string>& sets) {
    const size_t count = size_t(random.one_of<int>({1, 2, 17, 65}));
    std::vector<float> images, one, many, first;
    for (const auto& name : sets) {
        const Network single(program.bytes, 1, name), pair(program.bytes, 2, name);
        if (single.error == BIPROP_TOO_LARGE || single.error == BIPROP_NO_MEMORY) {
            ++counts["too large"];
            return;
        }
        expect(!single.error && !pair.error, "a valid program is refused");
        if (images.empty())
            for (size_t i = 0; i < count * single.pixels(); ++i) images.push_back(float(random.between(-8, 8)));
        expect(!single.run(images, count, many), "a valid program does not run");
        std::vector<float> threaded;
        expect(!pair.run(images, count, threaded) && !std::memcmp(many.data(), threaded.data(), many.size() * 4),
               "two threads give something else");
        expect(!single.run(images, 1, one), "one image does not run");
        if (program.exact) {
            expect(std::equal(one.begin(), one.end(), many.begin()), "one image gives something else than many");
            if (first.empty()) first = many;
            expect(first == many, "an instruction set gives something else");
        }
        if (random.chance(0.7)) {
            expect(!biprop_calibrate(single.handle, images.data(), int64_t(count), BIPROP_NCHW), "calibration fails");
            expect(!single.run(images, count, threaded) && !single.run(images, 1, one),
                   "a calibrated network does not run");
            for (const float x : threaded) expect(std::isfinite(x), "a calibrated network gives what is not finite");
            char text[256];
            biprop_explain(single.handle, random.between(1, 70), text, sizeof text);
            ++counts["calibrated"];
        }
    }
    ++counts["valid"];
    counts["exact"] += program.exact;
}

void run_mutant(Random& random, const std::vector<uint8_t>& bytes, const std::vector<std::string>& sets) {
    ++counts["mutants"];
    const Network network(bytes, random.between(1, 2), random.one_of(sets));
    expect(network.error != BIPROP_INTERNAL && network.error != BIPROP_BAD_ARGUMENT,
           "an error that no program may give");
    if (network.error || network.pixels() > 20000 || network.outputs > 20000) return;
    ++counts["mutants loaded"];
    std::vector<float> images(network.pixels() * 3), logits;
    for (float& pixel : images) pixel = float(random.between(-100, 100)) / 8;
    const auto fine = [](int error) { return !error || error == BIPROP_NO_MEMORY || error == BIPROP_TOO_LARGE; };
    expect(fine(network.run(images, 1, logits)) && fine(network.run(images, 3, logits)),
           "a mutant that loads does not run");
    if (random.chance(0.5)) {
        expect(fine(biprop_calibrate(network.handle, images.data(), 3, BIPROP_NCHW)), "a mutant cannot be calibrated");
        expect(fine(network.run(images, 1, logits)) && fine(network.run(images, 3, logits)),
               "a calibrated mutant does not run");
    }
}

// Lets the n-th allocation fail, for n from 0 on, until loading and running need fewer; or, with `is_loaded`, until
// running many images needs fewer in a network that has run one.
void run_without_memory(Random& random, const Program& program, const std::vector<std::string>& sets, bool is_loaded) {
    const std::string& set = random.one_of(sets);
    const int many = random.one_of<int>({17, 65});
    const size_t outputs = program.output.numbers() * size_t(many);
    std::vector<float> images(program.input.numbers() * size_t(many)), expected(outputs), logits(outputs);
    for (float& pixel : images) pixel = float(random.between(-8, 8));
    const auto run = [&](biprop_network* network, int count, std::vector<float>& to) {
        return biprop_run_f32(network, images.data(), count, BIPROP_NCHW, to.data());
    };
    const auto load = [&](biprop_network** network) {
        return biprop_load_with(program.bytes.data(), program.bytes.size(), 2, set.c_str(), network);
    };
    biprop_network* whole = nullptr;
    const bool runs = !load(&whole) && !run(whole, many, expected);
    biprop_free(whole);
    for (long n = 0; n < 100000; n += 1 + n / 8) {
        biprop_network* network = nullptr;
        if (is_loaded && (load(&network) || run(network, 1, logits))) return biprop_free(network);
        allocations_left.store(n);
        int error = is_loaded ? 0 : load(&network);
        if (!error) error = run(network, many, logits);
        const bool failed = allocations_left.load() <= 0;
        allocations_left.store(-1);
        expect(error == 0 || error == BIPROP_TOO_LARGE || (failed && error == BIPROP_NO_MEMORY),
               "no memory, and another answer than that");
        for (int repeats = 0; network && runs && repeats < 2; ++repeats) {  // works again when there is memory
            expect(!run(network, many, logits), "a network is broken by an allocation that failed");
            expect(!program.exact || logits == expected, "after an allocation that failed, other results");
        }
        biprop_free(network);
        ++counts["failed allocations"];
        if (!failed) return;
    }
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
    const uint64_t first_seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
    const auto start = std::chrono::steady_clock::now();
    const auto elapsed = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    const auto sets = instruction_sets();
    std::vector<uint8_t> other = {0};
    for (seed_now = first_seed; elapsed() < seconds; ++seed_now) {
        Random random(seed_now);
        const Program program = Maker(random).make();
        if (std::getenv("BIPROP_FUZZ_TRACE")) {
            std::printf("seed %llu\n", static_cast<unsigned long long>(seed_now));
            std::fflush(stdout);
        }
        run_valid(random, program, sets);
        for (int i = 0; i < 20; ++i) run_mutant(random, mutant(random, program, other), sets);
        if (seed_now % 8 == 0) run_without_memory(random, program, sets, seed_now % 16 == 0);
        other = program.bytes;
    }
    std::printf("%.0f seconds, %llu programs from seed %llu", elapsed(),
                static_cast<unsigned long long>(seed_now - first_seed), static_cast<unsigned long long>(first_seed));
    for (const auto& [what, count] : counts) std::printf(", %ld %s", count, what.c_str());
    std::printf("; no faults\n");
    return 0;
}
