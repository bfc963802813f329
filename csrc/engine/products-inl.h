// Convolutions of quantised activations as products of matrices, for instructions that multiply bytes and add groups of
// four products to 32-bit sums. matrices.cpp says how the input lies. A file that includes this has a vector V:
//
//   lanes, channels, vectors   a block: so many output channels by so many vectors of so many lanes
//   most_steps                 how many steps its sums hold
//   Block<N>                   the sums of a block of N vectors: clear, add (below), total
//   Lanes                      `lanes` 32-bit sums, with load, store, plus and store_floats
//
// A block takes the groups of a step in turn: each vector of input is read once for all channels of the block, and four
// weights of a channel once for all its vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace {

using biprop::MatrixTile;

#ifndef BIPROP_INLINE
#define BIPROP_INLINE inline __attribute__((always_inline))
#endif

constexpr int kGroups = 16;  // of a step
constexpr int kStepBytes = 32 * 64;
constexpr int kChunk = 8, kChunkGroupBytes = kChunk * 4;  // channels whose weights lie together

// The numbers of weights whose two-bit codes, of number + 1, are in 64 bytes: the lowest bits of all bytes first.
template <int Bytes>
BIPROP_INLINE void expand_codes(const uint8_t* codes, uint8_t* to) {
    typedef uint32_t Words __attribute__((vector_size(Bytes)));
    typedef uint8_t Numbers __attribute__((vector_size(Bytes)));
    for (int at = 0; at < 64; at += Bytes) {
        Words words;
        std::memcpy(&words, codes + at, Bytes);
        for (int i = 0; i < 4; ++i, words >>= 2) {
            const Numbers numbers = Numbers(words & 0x03030303u) - 1;
            std::memcpy(to + i * 64 + at, &numbers, Bytes);
        }
    }
}

// Where the vectors of a block begin in the input, in bytes.
struct Places {
    int32_t at[4];
};

// Sums of one block over the steps first .. last - 1, whose weights begin at `weights`; the step `first` is the first
// one that was expanded.
template <class V, int N>
BIPROP_INLINE void steps_of(const MatrixTile& t, const Places& places, int channel, int first, int last,
                            const uint8_t* weights, typename V::template Block<N>& block) {
    const int within = channel % kChunk * 4 + channel / kChunk * (kGroups * kChunkGroupBytes);
    for (int k = first; k < last; ++k) {
        const int groups = k < t.whole_steps ? kGroups : t.groups_of_last;
        block.add(t.input + t.steps[k], places.at, t.group_step, weights + size_t(k - first) * kStepBytes + within,
                  groups);
    }
}

// Stores or adds the sums of a block; they become floats after the last step.
template <class V, int N>
BIPROP_INLINE void store_block(const MatrixTile& t, int channel, int vector, bool begin, bool end,
                               const typename V::template Block<N>& block) {
    typename V::Lanes totals[V::channels * N];
    block.total(totals);
    for (int c = 0; c < V::channels; ++c) {
        float* to = t.sums + (channel + c) * t.sum_step + size_t(vector) * V::lanes;
        for (int n = 0; n < N; ++n, to += V::lanes) {
            auto sum = totals[c * N + n];
            sum += begin ? typename V::Lanes{} + t.corrections[channel + c] : V::load(to);
            if (end)
                V::store_floats(to, sum);
            else
                V::store(to, sum);
        }
    }
}

template <class V, int N>
void block_of(const MatrixTile& t, int vector, int first, int last) {
    constexpr int in_tile = 16 / V::lanes;
    Places places;
    for (int n = 0; n < N; ++n) places.at[n] = t.tiles[(vector + n) / in_tile] + (vector + n) % in_tile * V::lanes * 4;
    for (int channel = 0; channel < t.channels; channel += V::channels)
        for (int from = first; from < last; from += V::most_steps) {
            const int to = last - from > V::most_steps ? from + V::most_steps : last;
            typename V::template Block<N> block;
            block.clear();
            steps_of<V, N>(t, places, channel, from, to, t.weights + size_t(from - first) * kStepBytes, block);
            store_block<V, N>(t, channel, vector, from == 0, to == t.step_count, block);
        }
}

template <class V>
void products(const MatrixTile& t) {
    const int vectors = t.tile_count * (16 / V::lanes);
    for (int first = 0; first < t.step_count; first += t.at_once) {
        const int last = first + t.at_once < t.step_count ? first + t.at_once : t.step_count;
        for (int k = first; k < last; ++k)
            for (int part = 0; part < kStepBytes; part += 256)
                expand_codes<V::lanes * 4>(t.codes + (size_t(k) * kStepBytes + part) / 4,
                                           t.weights + size_t(k - first) * kStepBytes + part);
        for (int vector = 0; vector < vectors;) {
            const int left = vectors - vector;
            // The last two blocks are about as large as each other.
            const int n = left <= V::vectors ? left : left < 2 * V::vectors ? (left + 1) / 2 : V::vectors;
            if (n == 1) block_of<V, 1>(t, vector, first, last);
            if constexpr (V::vectors >= 2)
                if (n == 2) block_of<V, 2>(t, vector, first, last);
            if constexpr (V::vectors >= 3)
                if (n == 3) block_of<V, 3>(t, vector, first, last);
            vector += n;
        }
    }
}

template <int Lanes>
struct LanesOf {
    typedef int32_t Sums __attribute__((vector_size(Lanes * 4)));
    typedef float Floats __attribute__((vector_size(Lanes * 4)));
};

// What vectors have in common where the sums of a block are `channels` times N registers.
template <class V, int Lanes_>
struct Products {
    static constexpr int lanes = Lanes_;
    using Lanes = typename LanesOf<Lanes_>::Sums;

    static Lanes load(const float* p) {
        Lanes v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static void store(float* p, Lanes v) { std::memcpy(p, &v, sizeof v); }
    static void store_floats(float* p, Lanes v) {
        const auto x = __builtin_convertvector(v, typename LanesOf<Lanes_>::Floats);
        std::memcpy(p, &x, sizeof x);
    }

    template <int N>
    struct Block {
        typename V::Sum sum[V::channels * N];

        BIPROP_INLINE void clear() {
            for (auto& s : sum) s = typename V::Sum{};
        }
        BIPROP_INLINE void add(const uint8_t* input, const int32_t* places, size_t group_step, const uint8_t* weights,
                               int groups) {
            const uint8_t* from[N];
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) from[n] = input + places[n];
            for (int g = 0; g < groups; ++g, weights += kChunkGroupBytes) {
                typename V::Input x[N];
#pragma GCC unroll 4
                for (int n = 0; n < N; ++n) x[n] = V::read(from[n] + g * group_step);
#pragma GCC unroll 2
                for (int c = 0; c < V::channels; c += 4) {
                    const auto own = V::weights(weights + 4 * c);
                    four<0>(sum + c * N, x, own);
                    four<1>(sum + c * N, x, own);
                    four<2>(sum + c * N, x, own);
                    four<3>(sum + c * N, x, own);
                }
            }
        }
        // One of four channels.
        template <int I, class Weights>
        static BIPROP_INLINE void four(typename V::Sum* sum, const typename V::Input* x, const Weights& weights) {
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) sum[I * N + n] = V::template dot<I>(sum[I * N + n], x[n], weights);
        }
        BIPROP_INLINE void total(Lanes* totals) const {
            for (int i = 0; i < V::channels * N; ++i) totals[i] = V::total(sum[i]);
        }
    };
};

// Products with instructions that take whole registers: the four weights of a channel go to all lanes. Instruction has
//
//   Register                         of `lanes` 32-bit lanes
//   lanes, channels, vectors, most_steps   as above
//   dot(sum, x, weights)             adds products of four bytes a lane
//   to_all_lanes(four), total(sum)   four bytes in all lanes; the sums as 32-bit numbers
template <class Instruction>
struct Broadcasting : Products<Broadcasting<Instruction>, Instruction::lanes> {
    static constexpr int channels = Instruction::channels, vectors = Instruction::vectors;
    static constexpr int most_steps = Instruction::most_steps;
    using Lanes = typename LanesOf<Instruction::lanes>::Sums;
    using Sum = typename Instruction::Register;
    using Input = Sum;
    static Input read(const uint8_t* p) {
        Input x;
        std::memcpy(&x, p, sizeof x);
        return x;
    }
    static const uint8_t* weights(const uint8_t* p) { return p; }
    template <int I>
    static Sum dot(Sum sum, Input x, const uint8_t* weights) {
        int four;
        std::memcpy(&four, weights + 4 * I, 4);
        return Instruction::dot(sum, x, Instruction::to_all_lanes(four));
    }
    static Lanes total(Sum sum) { return Lanes(Instruction::total(sum)); }
};

// ---- packing ----

// Four channels' lowest bytes a lane; missing channels are 0. Stride 0 stands for any stride.
template <int Channels, int Stride>
void pack_bytes(const int16_t* from, size_t plane, int lanes, int stride, uint32_t flip, uint8_t* to) {
    if (Stride) stride = Stride;
    const int16_t* at[4];
    for (int c = 0; c < 4; ++c)
        at[c] = reinterpret_cast<const int16_t*>(reinterpret_cast<const uint8_t*>(from) + c * plane);
    for (int i = 0; i < lanes; ++i) {
        uint32_t word = 0;
        for (int c = 0; c < Channels; ++c) word |= uint32_t(uint8_t(at[c][i * stride])) << (8 * c);
        word ^= flip;
        std::memcpy(to + 4 * i, &word, 4);
    }
}

[[maybe_unused]] void generic_pack_quantised(const int16_t* from, size_t plane, int channels, int lanes, int stride,
                                             uint8_t flip, uint8_t* to) {
    const uint32_t flips = flip * 0x01010101u;
    if (channels == 4 && stride == 1) return pack_bytes<4, 1>(from, plane, lanes, stride, flips, to);
    if (channels == 4 && stride == 2) return pack_bytes<4, 2>(from, plane, lanes, stride, flips, to);
    if (channels == 4) return pack_bytes<4, 0>(from, plane, lanes, stride, flips, to);
    if (channels == 3) return pack_bytes<3, 0>(from, plane, lanes, stride, flips, to);
    if (channels == 2) return pack_bytes<2, 0>(from, plane, lanes, stride, flips, to);
    return pack_bytes<1, 0>(from, plane, lanes, stride, flips, to);
}

// ---- the table ----

enum class Bytes { unsigned_by_signed, both_signed };  // what an instruction multiplies: input by weights

template <class V>
constexpr biprop::MatrixKernels products_table(decltype(biprop::MatrixKernels::pack_quantised) pack, Bytes bytes,
                                               float cycles_per_tile, float cycles_per_step) {
    biprop::MatrixKernels table = {};
    table.multiply = products<V>;
    table.pack_quantised = pack;
    table.codes = true;
    table.flip_signed = bytes == Bytes::unsigned_by_signed ? 128 : 0;
    table.flip_unsigned = bytes == Bytes::both_signed ? 128 : 0;
    table.cycles_per_tile = cycles_per_tile;
    table.cycles_per_step = cycles_per_step;
    return table;
}

}  // namespace
