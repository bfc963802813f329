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

    double cycles = 0;  // an estimate, for a group

    // An estimate for a step: of its kernel, and of values beyond the second cache. At least 1.
    double cycles_of(const Step& step) const;
    const Step* step_of(const Op& op) const;  // null where another step does the operation
};

// The smallest and the largest number of each value on the calibration images.
using Ranges = std::vector<std::pair<float, float>>;

// Every operation has its mask and sign. `packed`, one for each operation, is what plans of one network share.
//
// fuse_pools: a convolution step may also do the 2x2 max pool that follows it. ranges: values for which 8 bits suffice
// are quantised to these ranges; with no ranges none is.
std::unique_ptr<Plan> make_plan(const Program& program, std::vector<Packed>& packed, const Kernels& kernels, int images,
                                bool fuse_pools, const Ranges& ranges);

}  // namespace biprop
