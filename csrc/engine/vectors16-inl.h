// What the files of instruction sets with vectors of 16 bytes (NEON, WebAssembly) define alike for kernels-inl.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bits-generic.h"

namespace {

typedef float Floats __attribute__((vector_size(16)));
constexpr int kFloats = 4, kVectors = 4;
constexpr bool kLooksUp = false;
constexpr auto widen = generic_widen<16>;
constexpr auto largest_of_halves = generic_largest_of_halves;

}  // namespace
