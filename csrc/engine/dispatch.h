// Which kernels there are on this machine, and which of them a network uses.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace biprop {

// BIPROP_ISA names kernels that are not there.
struct NoSuchInstructionSet : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Best first; the last is the scalar one.
const std::vector<const Kernels*>& all_kernels();

// Those of a name, or null.
const Kernels* kernels_named(const std::string& name);

// Those that BIPROP_ISA names, else the best. Throws NoSuchInstructionSet.
const Kernels* default_kernels();

}  // namespace biprop
