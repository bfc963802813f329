#include "plain.h"

#include <algorithm>
#include <cstdlib>
#include <string>

namespace biprop {

namespace {

constexpr int kMostSize = 1 << 25, kMostLoops = 16;

void check(bool holds, const char* what) {
    if (!holds) throw ProgramError(what);
}

int64_t numbers_of(const Value& value) { return int64_t(value.channels) * value.positions(); }

// The numbers of an operation, in order.
class Numbers {
  public:
    explicit Numbers(const std::vector<int32_t>& numbers) : numbers_(numbers) {}
    int next(int least, int most) {
        check(at_ < numbers_.size(), "an operation with too few numbers");
        const int number = numbers_[at_++];
        check(number >= least && number <= most, "a number out of its range");
        return number;
    }
    void end() const { check(at_ == numbers_.size(), "an operation with too many numbers"); }

  private:
    const std::vector<int32_t>& numbers_;
    size_t at_ = 0;
};

// The floats of an operation, in order.
class Floats {
  public:
    explicit Floats(std::vector<float> floats) : floats_(std::move(floats)) {}
    float next() {
        check(at_ < floats_.size(), "an operation with too few floats");
        return floats_[at_++];
    }
    std::vector<float> next(int64_t count) {
        check(int64_t(floats_.size() - at_) >= count, "an operation with too few floats");
        const auto from = floats_.begin() + int64_t(at_);
        at_ += size_t(count);
        return {from, from + count};
    }
    bool done() const { return at_ == floats_.size(); }

  private:
    std::vector<float> floats_;
    size_t at_ = 0;
};

// ---- blocks ----

Block read_block(Numbers& numbers, int operands) {
    Block block;
    for (int o = 0; o < operands; ++o) block.offset[o] = numbers.next(0, kMostSize);
    const int loops = numbers.next(0, kMostLoops);
    for (int i = 0; i < loops; ++i) {
        Loop loop{};
        loop.size = numbers.next(1, kMostSize);
        loop.role = numbers.next(0, Loop::value_width);
        for (int o = 0; o < operands; ++o) loop.stride[o] = numbers.next(-kMostSize, kMostSize);
        block.loops.push_back(loop);
    }
    return block;
}

// Every index of the loops is inside the operand, and no loop leaves a plane but by whole planes.
void check_inside(const Block& block, int operand, int64_t channels, int64_t positions) {
    int64_t first_channel = block.offset[operand] / positions, last_channel = first_channel;
    int64_t first = block.offset[operand] % positions, last = first;
    for (const Loop& loop : block.loops) {
        const int64_t stride = loop.stride[operand];
        const bool of_channels = stride % positions == 0;
        const int64_t reach = (loop.size - 1) * (of_channels ? stride / positions : stride);
        int64_t& low = of_channels ? first_channel : first;
        int64_t& high = of_channels ? last_channel : last;
        (reach < 0 ? low : high) += reach;
    }
    check(first_channel >= 0 && last_channel < channels && first >= 0 && last < positions, "a loop outside its value");
}

// Whether the loops with a stride in operand 0 reach each of `count` numbers once.
bool covers(const Block& block, int64_t count) {
    std::vector<std::pair<int64_t, int64_t>> loops;
    for (const Loop& loop : block.loops)
        if (loop.size > 1 && loop.stride[0]) loops.emplace_back(loop.stride[0], loop.size);
    std::sort(loops.begin(), loops.end());
    int64_t reached = 1;
    for (const auto& [stride, size] : loops) {
        if (stride != reached || reached > count) return false;
        reached *= size;
    }
    return reached == count && block.offset[0] == 0;
}

// Loops of a role that is not of the result do not move in it; the others do.
void check_roles(const Block& block, unsigned of_result, unsigned others) {
    for (const Loop& loop : block.loops) {
        const unsigned role = 1u << loop.role;
        check((role & (of_result | others)) != 0, "a loop of another kind");
        check(loop.size == 1 || (role & of_result ? loop.stride[0] != 0 : loop.stride[0] == 0),
              "a loop of another kind");
    }
}

// What is summed is part of the inputs, so that the work is bounded.
void check_work(const Block& block, int64_t most) {
    int64_t count = 1;
    for (const Loop& loop : block.loops) {
        if (loop.stride[0]) continue;
        count *= loop.size;
        check(count <= most, "loops over more than there is");
    }
}

// The operands of a block: the result, then the inputs.
std::vector<const Value*> operands_of(const std::vector<int>& inputs, int out, const std::vector<Value>& values) {
    std::vector<const Value*> operands{&values[out]};
    for (const int input : inputs) operands.push_back(&values[input]);
    return operands;
}

void check_block(const Block& block, const std::vector<const Value*>& operands) {
    for (size_t o = 0; o < operands.size(); ++o)
        check_inside(block, int(o), operands[o]->channels, operands[o]->positions());
}

// At most `most` axes after neighbouring loops are made one, for one image and for groups, whose planes lie further
// apart.
void check_axes(const Block& block, unsigned roles, const std::vector<const Value*>& operands, bool affine,
                size_t most) {
    for (const int images : {1, 16, 32, 64}) {
        std::vector<Shape> shapes;
        for (const Value* value : operands) shapes.emplace_back(*value, images);
        std::vector<const Shape*> pointers;
        for (const Shape& shape : shapes) pointers.push_back(&shape);
        if (affine) pointers.push_back(nullptr);
        Nest nest(block, roles, pointers);
        nest.merge();
        check(nest.axes.size() <= most, "too many loops");
    }
}

constexpr unsigned kKept = 1u << Loop::kept, kReduced = 1u << Loop::reduced;

ActWithNumbers read_act(Numbers& numbers, Floats& floats) {
    const Act act = Act(numbers.next(0, kLastAct));
    const float first = floats.next(), second = floats.next();
    return {act, first, second};
}

// ---- kinds ----

struct Reading {
    Plain& plain;
    Numbers& numbers;
    Floats& floats;
    std::vector<const Value*> operands;

    const Value& out() const { return *operands[0]; }
    const Value& in() const { return *operands[1]; }
    void expect_inputs(size_t least, size_t most) const {
        check(operands.size() > least && operands.size() <= most + 1, "a number of inputs");
    }
    // The one block of an operation; `affine`: with one more operand, an array of that many numbers.
    Block& block(int affine = 0) {
        plain.blocks.push_back(read_block(numbers, int(operands.size()) + (affine > 0)));
        Block& block = plain.blocks.back();
        check_block(block, operands);
        if (affine) check_inside(block, int(operands.size()), affine, 1);
        check(covers(block, numbers_of(out())), "loops that do not cover the result");
        return block;
    }
    int64_t most_read() const {
        int64_t most = 1;
        for (size_t o = 1; o < operands.size(); ++o) most = std::max(most, numbers_of(*operands[o]));
        return most;
    }
};

void read_elementwise(Reading& r) {
    r.expect_inputs(1, 1);
    check(r.in().channels == r.out().channels && r.in().positions() == r.out().positions(), "shapes that do not fit");
    r.plain.act = read_act(r.numbers, r.floats);
    r.plain.scale = r.floats.next(r.out().channels);
    r.plain.shift = r.floats.next(r.out().channels);
}

void read_binary(Reading& r) {
    r.expect_inputs(2, 2);
    r.plain.which = r.numbers.next(0, 2);
    r.plain.act = read_act(r.numbers, r.floats);
    check_roles(r.block(), kKept, 0);
}

// A block for each input, of the result and that input.
void read_move(Reading& r) {
    r.expect_inputs(1, 1 << 16);
    r.plain.number = r.floats.next();
    int64_t written = 0;
    for (size_t i = 1; i < r.operands.size(); ++i) {
        const Block block = read_block(r.numbers, 2);
        check_block(block, {r.operands[0], r.operands[i]});
        int64_t count = 1;
        for (const Loop& loop : block.loops) {
            check(loop.role == Loop::kept && (loop.size == 1 || loop.stride[0] != 0), "a loop of another kind");
            count *= loop.size;
            check(count <= numbers_of(r.out()), "more loops than numbers");
        }
        written += count;
        check(written <= 4 * numbers_of(r.out()), "more moves than numbers");
        r.plain.blocks.push_back(block);
    }
    r.plain.fills = r.numbers.next(0, 1);
}

void read_conv(Reading& r) {
    r.expect_inputs(1, 1);
    const Value &in = r.in(), &out = r.out();
    r.plain.groups = r.numbers.next(1, kMostSize);
    check(in.channels % r.plain.groups == 0 && out.channels % r.plain.groups == 0, "groups that do not fit");
    r.plain.act = read_act(r.numbers, r.floats);
    int64_t from = 1, to = 1, taps = in.channels / r.plain.groups, room = taps;
    for (int i = 0; i < 3; ++i) {
        WindowAxis a{};
        for (int* number : {&a.in, &a.out, &a.kernel, &a.stride}) *number = r.numbers.next(1, 1 << 20);
        a.padding = r.numbers.next(0, 1 << 20);
        a.dilation = r.numbers.next(1, 1 << 20);
        check(int64_t(a.dilation) * (a.kernel - 1) < (1 << 20) && a.padding < a.reach(), "a window that does not fit");
        const int spare = a.in + 2 * a.padding - a.reach();
        check(spare >= 0 && a.out == spare / a.stride + 1, "a window that does not fit");
        from *= a.in;
        to *= a.out;
        taps *= a.kernel;
        room *= int64_t(a.part()) * a.stride;
        if (taps > kMostTaps || room >= kMostSize / 2 || from > kMostSize || to > kMostSize)
            throw TooLarge("a convolution of " + std::to_string(taps) + " inputs on " + std::to_string(room));
        r.plain.windows.push_back(a);
    }
    check(from == in.positions() && to == out.positions(), "shapes that do not fit");
    r.plain.scale = r.floats.next(out.channels);
    r.plain.shift = r.floats.next(out.channels);
    r.plain.values = r.floats.next(taps * out.channels);
}

void read_pool(Reading& r) {
    r.expect_inputs(1, 1);
    r.plain.which = r.numbers.next(0, 1);
    int64_t from = 1, to = 1;
    for (int i = 0; i < 3; ++i) {
        PoolAxis axis;
        axis.in = r.numbers.next(1, kMostSize);
        const int out = r.numbers.next(1, kMostSize);
        from = std::min<int64_t>(from * axis.in, kMostSize + 1);
        to = std::min<int64_t>(to * out, kMostSize + 1);
        check(to <= r.out().positions(), "shapes that do not fit");
        for (int k = 0; k < out; ++k) {
            PoolPlace p{};
            p.start = r.numbers.next(0, axis.in - 1);
            p.stop = r.numbers.next(p.start + 1, axis.in);
            p.step = r.numbers.next(1, kMostSize);
            p.count = r.numbers.next(1, kMostSize);
            axis.places.push_back(p);
        }
        r.plain.pools.push_back(axis);
    }
    check(from == r.in().positions() && to == r.out().positions() && r.in().channels == r.out().channels,
          "shapes that do not fit");
}

void read_reduction(Reading& r) {
    r.expect_inputs(1, 1);
    r.plain.which = r.numbers.next(0, 2);
    const Block& block = r.block();
    check_roles(block, kKept, kReduced);
    check_work(block, r.most_read());
    check_axes(block, kReduced, r.operands, false, 2);
}

// Result and input have the same loops; the reduced ones move in both.
void check_normalised(const Reading& r, const Block& block, bool affine) {
    for (const Loop& loop : block.loops) check(loop.role <= Loop::reduced, "a loop of another kind");
    for (const Loop& loop : block.loops) check(loop.size == 1 || loop.stride[0] > 0, "a loop of another kind");
    check_axes(block, kReduced, r.operands, affine, 2);
}

void read_normalise(Reading& r) {
    r.expect_inputs(1, 1);
    r.plain.number = r.floats.next();
    check(r.plain.number >= 0, "a negative epsilon");
    const int affine = r.numbers.next(1, kMostSize);
    r.plain.scale = r.floats.next(affine);
    r.plain.shift = r.floats.next(affine);
    check_normalised(r, r.block(affine), true);
}

void read_softmax(Reading& r) {
    r.expect_inputs(1, 1);
    r.plain.which = r.numbers.next(0, 1);
    check_normalised(r, r.block(), false);
}

void read_contract(Reading& r) {
    r.expect_inputs(2, 2);
    const Block& block = r.block();
    check_roles(block, kKept, kReduced);
    check_work(block, r.most_read());
    check_axes(block, kReduced, r.operands, false, 2);
}

// Operands: result, query, key, value, mask.
void read_attention(Reading& r) {
    r.expect_inputs(3, 4);
    r.plain.which = r.numbers.next(0, 1);
    r.plain.number = r.floats.next();
    const Block& block = r.block();
    constexpr unsigned query = 1u << Loop::query, key = 1u << Loop::key, width = 1u << Loop::width;
    constexpr unsigned value_width = 1u << Loop::value_width;
    check_roles(block, kKept | query | value_width, key | width);
    check_work(block, kMostSize);
    for (const unsigned role : {query, key, width, value_width}) check_axes(block, role, r.operands, false, 1);
    int64_t keys = 1;
    for (const Loop& loop : block.loops) {
        if (loop.role == Loop::key) keys *= loop.size;
        for (size_t o = 1; o < r.operands.size(); ++o) {
            const bool moves = loop.stride[o] != 0 && loop.size > 1;
            const unsigned role = 1u << loop.role;
            const unsigned allowed[] = {0, query | width, key | width, key | value_width, query | key};
            check(!moves || role == kKept || (role & allowed[o]), "a loop of another kind");
        }
    }
    if (keys > 1 << 16) throw TooLarge("attention to more than 65536 keys");
}

void read_constant(Reading& r) {
    r.expect_inputs(0, 0);
    r.plain.values = r.floats.next(numbers_of(r.out()));
}

// For each number of the input, a row of the table: channels of the result.
void read_embedding(Reading& r) {
    r.expect_inputs(1, 1);
    const int rows = r.numbers.next(1, kMostSize), width = r.numbers.next(1, kMostSize);
    if (rows > 1 << 24) throw TooLarge("an embedding of more rows than floats count one by one");
    check(r.out().channels == width && r.out().positions() == numbers_of(r.in()), "shapes that do not fit");
    r.plain.groups = rows;
    r.plain.values = r.floats.next(int64_t(rows) * width);
}

}  // namespace

std::shared_ptr<const Plain> read_plain(Kind kind, const std::vector<int>& inputs, int out,
                                        const std::vector<int32_t>& numbers, std::vector<float> floats,
                                        const std::vector<Value>& values) {
    auto plain = std::make_shared<Plain>();
    plain->kind = kind;
    Numbers in_order(numbers);
    Floats floats_in_order(std::move(floats));
    Reading reading{*plain, in_order, floats_in_order, operands_of(inputs, out, values)};
    for (const Value* value : reading.operands) check(!value->bits, "a plain operation on bits");
    switch (kind) {
        case Kind::elementwise: read_elementwise(reading); break;
        case Kind::binary: read_binary(reading); break;
        case Kind::move: read_move(reading); break;
        case Kind::plain_conv: read_conv(reading); break;
        case Kind::plain_pool: read_pool(reading); break;
        case Kind::reduce: read_reduction(reading); break;
        case Kind::normalise: read_normalise(reading); break;
        case Kind::softmax: read_softmax(reading); break;
        case Kind::contract: read_contract(reading); break;
        case Kind::attention: read_attention(reading); break;
        case Kind::constant: read_constant(reading); break;
        default: read_embedding(reading);
    }
    in_order.end();
    check(floats_in_order.done(), "an operation with too many floats");
    return plain;
}

// ---- loops in memory ----

static int64_t step_of(const Shape* shape, int64_t stride) {
    if (!shape) return stride;
    const int64_t positions = shape->positions();
    if (stride % positions == 0) return stride / positions * int64_t(shape->plane / sizeof(float));
    return stride * shape->images;
}

Nest::Nest(const Block& block, unsigned roles, const std::vector<const Shape*>& shapes) : offset() {
    for (size_t o = 0; o < shapes.size(); ++o) {
        offset[o] = block.offset[o];
        if (!shapes[o]) continue;
        const int64_t positions = shapes[o]->positions();
        offset[o] = block.offset[o] / positions * int64_t(shapes[o]->plane / sizeof(float)) +
                    block.offset[o] % positions * shapes[o]->images;
    }
    for (const Loop& loop : block.loops) {
        if (loop.size == 1 || !(roles & 1u << loop.role)) continue;
        Axis axis{loop.size, {}};
        for (size_t o = 0; o < shapes.size(); ++o) axis.step[o] = step_of(shapes[o], loop.stride[o]);
        axes.push_back(axis);
    }
}

void Nest::add_images(int images, const std::vector<const Shape*>& shapes) {
    if (images == 1) return;
    Axis axis{images, {}};
    for (size_t o = 0; o < shapes.size(); ++o) axis.step[o] = shapes[o] ? 1 : 0;
    axes.push_back(axis);
}

void Nest::merge() {
    const auto follows = [](const Axis& outer, const Axis& inner) {
        for (int o = 0; o < kMostOperands; ++o)
            if (outer.step[o] != inner.step[o] * inner.size) return false;
        return true;
    };
    std::vector<Axis> merged;
    for (const Axis& axis : axes) {
        if (!merged.empty() && follows(merged.back(), axis) && int64_t(merged.back().size) * axis.size < 1 << 30) {
            const int size = merged.back().size * axis.size;
            merged.back() = axis;
            merged.back().size = size;
        } else {
            merged.push_back(axis);
        }
    }
    axes = std::move(merged);
}

Nest::Axis Nest::take_last() {
    if (axes.empty()) return {1, {}};
    const Axis axis = axes.back();
    axes.pop_back();
    return axis;
}

int64_t Nest::count() const {
    int64_t count = 1;
    for (const Axis& axis : axes) count *= axis.size;
    return count;
}

void Nest::at(int64_t item, int64_t* offsets) const {
    std::copy(offset, offset + kMostOperands, offsets);
    for (size_t i = axes.size(); i-- > 0;) {
        const int64_t index = item % axes[i].size;
        item /= axes[i].size;
        for (int o = 0; o < kMostOperands; ++o) offsets[o] += index * axes[i].step[o];
    }
}

}  // namespace biprop
