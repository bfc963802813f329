// Plain operations: on floats of any shape, without lists of kept weights. A program of version 2 has them for networks
// of a user's own; docs/engine.md has their numbers.
//
// Most of them walk over blocks: nested loops, each with a size and, for each operand, a stride. Strides count numbers
// of one sample in C order of (channel, row, column). A loop is over channels, whose stride is a multiple of the
// positions of a plane, or over positions of one plane.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"
#include "program.h"
#include "step.h"

namespace biprop {

constexpr int kMostOperands = 5;

struct Loop {
    enum Role { kept, reduced, query, key, width, value_width };  // the last four of attention
    int size;
    int role;
    int64_t stride[kMostOperands];  // the result first
};

struct Block {
    int64_t offset[kMostOperands] = {};
    std::vector<Loop> loops;
};

// Windows along one axis of a convolution.
struct WindowAxis {
    int in, out, kernel, stride, padding, dilation;
    int reach() const { return dilation * (kernel - 1) + 1; }
    // The padded side is split by remainders modulo the stride; numbers of each part.
    int part() const { return (in + 2 * padding + stride - 1) / stride; }
};

// Places of one axis of a pool: the input from start to stop, every `step`th, of which `count` divides a mean.
struct PoolPlace {
    int start, stop, step, count;
};
struct PoolAxis {
    int in;
    std::vector<PoolPlace> places;
};

struct Plain {
    Kind kind;
    int which = 0;  // Binary, Reduce; a logarithm, a causal mask, a mean pool
    int groups = 1;
    ActWithNumbers act = {Act::none, 0, 0};
    float number = 0;  // epsilon, the scale of attention, what a move fills with
    bool fills = false;  // a move that leaves places free
    std::vector<Block> blocks;
    std::vector<WindowAxis> windows;  // depth, height, width
    std::vector<PoolAxis> pools;
    std::vector<float> scale, shift, values;
};

// The operation of these numbers. Throws ProgramError where they do not fit the values, TooLarge beyond the limits.
std::shared_ptr<const Plain> read_plain(Kind kind, const std::vector<int>& inputs, int out,
                                        const std::vector<int32_t>& numbers, std::vector<float> floats,
                                        const std::vector<Value>& values);

std::unique_ptr<Step> make_plain_step(const Op& op, const std::vector<Shape>& shapes);

// Nested loops over numbers in memory: the loops of a block that have one of `roles`, in floats, with neighbouring
// loops made one where they are one walk. Operands without a shape (null) are arrays.
class Nest {
  public:
    struct Axis {
        int size;
        int64_t step[kMostOperands];
    };
    Nest(const Block& block, unsigned roles, const std::vector<const Shape*>& shapes);
    // Adds the images of a group as the innermost axis.
    void add_images(int images, const std::vector<const Shape*>& shapes);
    void merge();

    std::vector<Axis> axes;
    int64_t offset[kMostOperands];

    // Takes the innermost axis out; a single index where there is none.
    Axis take_last();
    int64_t count() const;
    // The offsets of index `item` of all axes.
    void at(int64_t item, int64_t* offsets) const;
};

}  // namespace biprop
