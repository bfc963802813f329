// The kernels that this machine can run, and the choice among them.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace biprop {

// Thrown where BIPROP_ISA names kernels that this machine or library lacks.
struct NoSuchInstructionSet : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// All of them, the fastest first; the last are the scalar ones.
const std::vector<const Kernels*>& all_kernels();

// The kernels of this name, or null.
const Kernels* kernels_named(const std::string& name);

// The kernels that BIPROP_ISA names, else the fastest. Throws NoSuchInstructionSet.
const Kernels* default_kernels();

}  // namespace biprop
