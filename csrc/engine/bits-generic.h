// Vectors of bits by the compiler's vector extension, for every instruction set without its own. kernels-inl.h says
// what else a file defines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

template <int Width>
struct GenericBits {
    static constexpr int width = Width, channels = 1;
    static constexpr bool in_chains = true, tabled = false;
    static constexpr bool in_pairs = false;  // whether to add two pairs at once (bits-inl.h)
    typedef uint64_t T __attribute__((vector_size(Width)));
    static T load(const void* p) {
        T v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static void store(void* p, T v) { std::memcpy(p, &v, sizeof v); }
    // Plane i of eight taps, whose list takes `per_eight` numbers.
    static constexpr int per_eight = 8;
    static auto reader(const uint8_t* planes, const uint16_t* tap) {
        return [=](int i) { return load(planes + size_t(tap[i]) * 8); };
    }
    static T load_out(const uint8_t* p, size_t step, int c, const uint32_t*) { return load(p + c * step); }
    static void store_out(uint8_t* p, size_t step, int c, const uint32_t*, T v) { store(p + c * step, v); }
    static T load_flips(const uint8_t* flips, int c, const uint32_t*) { return same(flips[c] ? ~uint64_t(0) : 0); }
    static T load_valid(const uint8_t* p) { return load(p); }
    static T same(uint64_t x) { return T{} + x; }
    static T zero() { return T{}; }
    static T ones() { return ~T{}; }
    static T both(T a, T b) { return a & b; }
    static T differ(T a, T b) { return a ^ b; }
    static T choose(T where, T a, T b) { return b ^ (where & (a ^ b)); }
    // Shifts right, or left where n < 0. Callers mask the bits that are shifted in.
    static T shift_or_turn(T x, int64_t n) { return n < 0 ? x << uint64_t(-n) : x >> uint64_t(n); }
    static T turn(T x, T n) { return (x >> n) | (x << ((64 - n) & 63)); }
    // A full adder: sum + a + b becomes sum + 2 carry; with Not, for the complements of a and b.
    template <bool Not>
    static void add(T& sum, T a, T b, T& carry) {
        const T u = a ^ b;
        carry = (u & sum) | (~u & (Not ? ~a : a));
        sum ^= u;
    }
    static T at_least_step(T count, T threshold, T below) {
        return (count & ~threshold) | (~(count ^ threshold) & below);
    }
    static T widen(const uint16_t* lanes) {
        uint64_t words[Width / 8];
        for (int i = 0; i < Width / 8; ++i) words[i] = lanes[i];
        return load(words);
    }
    // Bytes from a table of 16.
    static T look_up(const uint8_t* table, T places) {
        uint8_t bytes[Width];
        store(bytes, places);
        for (uint8_t& byte : bytes) byte = table[byte & 15];
        return load(bytes);
    }
    static T lane_bit(T lanes, int i) { return T{} - ((lanes >> uint64_t(i)) & (T{} + 1)); }
};

// The vectors of bits of an instruction set, from the widest.
template <class... V>
struct VectorsOfBits {};

// A plane of 4x4 positions: from rows of eight bits, of which four are used, to rows of four bits, and back.
inline uint16_t quarter_of_rows(uint32_t rows) {
    rows &= 0x0f0f0f0f;
    rows = (rows | rows >> 4) & 0x00ff00ff;
    return uint16_t(rows | rows >> 8);
}
inline uint32_t rows_of_quarter(uint32_t quarter) {
    quarter = (quarter | quarter << 8) & 0x00ff00ff;
    return (quarter | quarter << 4) & 0x0f0f0f0f;
}

// From the highest plane down, doubles the sums and adds the next plane, a vector of `Bytes` at a time.
template <int Bytes>
struct Numbers {
    typedef uint16_t T __attribute__((vector_size(Bytes)));
};
template <int Bytes>
inline void generic_widen(const uint64_t* sliced, size_t step, int bits, int16_t* lanes) {
    using Lanes = typename Numbers<Bytes>::T;
    constexpr int count = Bytes / 2;
    uint16_t powers[count];
    for (int i = 0; i < count; ++i) powers[i] = uint16_t(1u << i);
    Lanes places;
    std::memcpy(&places, powers, sizeof places);
    for (int from = 0; from < 64; from += count) {
        Lanes sum = {};
        for (int i = bits; i-- > 0;) {
            const auto piece = uint16_t(sliced[i * step] >> from);
            sum += sum - Lanes(((Lanes{} + piece) & places) == places);  // a true comparison is -1
        }
        std::memcpy(lanes + from, &sum, sizeof sum);
    }
}

// The 2x2 maxima of 2 count - correction, which fits 16 bits, of two halves of 8x8 maps. Each half has its
// corrections by class, and the classes of its 32 positions.
inline void generic_largest_of_halves(const int16_t* counts, const int16_t* const corrections[2],
                                      const uint16_t* const classes[2], float* largest) {
    int16_t x[64];
    for (int i = 0; i < 64; ++i) x[i] = int16_t(2 * counts[i] - corrections[i / 32][classes[i / 32][i % 32]]);
    const auto larger = [](int16_t a, int16_t b) { return a > b ? a : b; };
    for (int i = 0; i < 16; ++i) {
        const int16_t* own = x + i / 4 * 16 + i % 4 * 2;
        largest[i] = larger(larger(own[0], own[1]), larger(own[8], own[9]));
    }
}

// Bit i: counts[i] >= thresholds[i].
inline uint64_t generic_compare(const int16_t* counts, const uint16_t* thresholds, int n) {
    uint64_t bits = 0;
    for (int i = 0; i < n; ++i) bits |= uint64_t(uint16_t(counts[i]) >= thresholds[i]) << i;
    return bits;
}

}  // namespace
