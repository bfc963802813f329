// The kernels, written once for all instruction sets. A file that includes this defines first:
//
//   Floats         a vector of floats (GCC's vector extension), of kFloats lanes
//   kVectors       how many vectors of 16 floats a tile of sums may have; its accumulators must fit into registers
//   Vectors        the vectors of bits (VectorsOfBits, bits-generic.h); their widths are those of tiles of bits
//   kLooksUp       whether one instruction reads bytes from a table of 16
//   multiply_add   a * b + c of Floats
//   signs_of       one bit a lane of Floats: x >= 0
//   popcount, popcounts, widen, compare, largest_of_halves    see kernels.h and bits-generic.h
//
// and afterwards its table, from shared_kernels().
//
// Everything is in an unnamed namespace, because the linker must not keep the copy of a function that was compiled for
// another instruction set.
#pragma once

#include "bits-inl.h"
#include "finish-inl.h"
#include "plain-inl.h"
#include "pools-inl.h"
#include "sums-inl.h"

namespace {

// What the tables of all instruction sets have in common. The file of an instruction set adds its name, its costs, and
// the kernels that only it has or that it replaces. Tables are constants: code that fills them while the library is
// loaded would run on processors without the instruction set.
template <class... V>
constexpr biprop::Kernels shared_kernels(VectorsOfBits<V...>) {
    biprop::Kernels table = {};
    int place = 0;
    ((table.widths[place++] = V::width), ...);
    table.vectors = kVectors;
    table.floats = kFloats;
    table.images = 16;
    table.looks_up = kLooksUp;
    table.bits = bits;
    table.sum = sum;
    table.sum_quantised = sum_quantised;
    table.dot = generic_dot;
    table.finish_quantised = finish_quantised;
    table.pack_rows = pack_rows;
    table.pack_words = pack_words;
    table.pack_cells = pack_cells;
    table.popcounts = popcounts;
    table.popcount = popcount;
    table.widen = widen;
    table.finish_counts = finish_counts;
    table.pool_counts = pool_counts;
    table.finish_floats = finish_floats;
    table.signs = signs;
    table.compare = compare;
    table.pool_floats = pool_floats;
    table.pool_quantised = pool_quantised;
    table.pool_cells = pool_cells;
    table.pool_rows = pool_rows;
    table.split = split;
    table.plain = &kPlain;
    return table;
}

}  // namespace
