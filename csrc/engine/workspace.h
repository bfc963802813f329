// The memory of one run of a plan: a buffer for each activation, and scratch memory for each thread that works on it.
#pragma once

#include <cstdint>
#include <vector>

#include "plan.h"
#include "step.h"

namespace biprop {

struct Workspace {
    std::vector<Buffer> values;  // by buffer of the plan
    std::vector<Buffer> scratch;  // by thread
    std::vector<uint8_t*> addresses;  // by value

    Workspace(const Plan& plan, int threads) {
        for (const size_t bytes : plan.buffers) values.emplace_back(bytes);
        for (const int buffer : plan.buffer_of) addresses.push_back(buffer < 0 ? nullptr : values[buffer].data());
        make_room(plan, threads);
    }
    void make_room(const Plan& plan, int threads) {
        while (int(scratch.size()) < threads) scratch.emplace_back(plan.scratch);
    }

    size_t bytes() const {
        size_t sum = 0;
        for (const Buffer& buffer : values) sum += buffer.bytes();
        for (const Buffer& buffer : scratch) sum += buffer.bytes();
        return sum;
    }
};

}  // namespace biprop
