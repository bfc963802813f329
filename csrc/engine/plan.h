// The plan of a program: the steps that it becomes for groups of a fixed number of images, which activations are
// quantised, and the buffers that hold the activations.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernels.h"
#include "program.h"
#include "step.h"

namespace biprop {

struct Plan {
    int images;  // of a group
    std::vector<Shape> shapes;  // by value
    std::vector<std::unique_ptr<Step>> steps;
    std::vector<int> buffer_of;  // by value; -1 for a value that stays inside a step
    std::vector<size_t> buffers;  // bytes
    size_t scratch = 64;  // bytes that a thread needs

    double cycles() const;  // an estimate, for a group
};

// The smallest and the largest number of each value on the calibration images.
using Ranges = std::vector<std::pair<float, float>>;

// Weights move from the operations into `packed`, one for each operation, and are restored from there for another plan.
//
// fuse_pools: a convolution step may also do the 2x2 max pool that follows it. ranges: values for which 8 bits suffice
// are quantised to these ranges; with no ranges none is.
std::unique_ptr<Plan> make_plan(Program& program, std::vector<Packed>& packed, const Kernels& kernels, int images,
                                bool fuse_pools, const Ranges& ranges);

}  // namespace biprop
