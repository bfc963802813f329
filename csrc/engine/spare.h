// Which copies of the weights stay in memory between runs. The steps for one image and those for groups read lists of
// taps in different forms; a list of one form can be made from the other form, or from the packed weights, in far less
// time than a group takes to run.
#pragma once

#include <vector>

#include "plan.h"

namespace biprop {

// The plans of a network; null where there is none.
struct Plans {
    Plan *one, *group;
};

// Bytes of the weights: of the program, and of the lists of both plans.
size_t weight_bytes(const Program& program, const Plans& plans);

// Where only lists hold the weights of an operation, writes its mask and sign.
void unpack_weights(Program& program, const std::vector<Packed>& packed, const Plans& plans);

// Between runs of groups: drops lists of the group's steps until the weights take at most `most` bytes, if they can,
// then every mask and sign that lists hold too. Returns whether it dropped lists.
bool drop_spare(Program& program, std::vector<Packed>& packed, const Plans& plans, size_t most);

// Before a group runs: makes the dropped lists again.
void make_dropped(const Plans& plans);

// Before the plan for one image is deleted: `packed` shares lists with the group only.
void share_with_group(std::vector<Packed>& packed, const Program& program, const Plan& group);

}  // namespace biprop
