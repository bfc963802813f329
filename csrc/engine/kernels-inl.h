// The kernels, written once for all instruction sets. A file that includes this defines first:
//
//   Floats         a vector of floats (GCC's vector extension), of kFloats lanes
//   kVectors       how many vectors of 16 floats a tile of sums may have; its accumulators must fit into registers
//   multiply_add   a * b + c of Floats
//   signs_of       one bit a lane of Floats: x >= 0
//   popcount, popcounts, widen, compare, largest_of_halves    see kernels.h and bits-generic.h
//
// Everything is in an unnamed namespace, because the linker must not keep the copy of a function that was compiled for
// another instruction set.
#pragma once

#include "bits-inl.h"
#include "finish-inl.h"
#include "pools-inl.h"
#include "sums-inl.h"
