// Part of kernels-inl.h: 2x2 max pools of floats, of quantised activations, of bits, and of counts of bits.
#pragma once

#include <type_traits>

#include "finish-inl.h"

namespace {

template <bool Least>
BIPROP_INLINE void pool_counts_of(const int16_t* const counts[2], const int32_t* const corrections[2], int positions,
                                  float* out) {
    constexpr int per = kFloats * 2;
    const auto further = [](Int16s a, Int16s b) { return (Least ? a < b : a > b) ? a : b; };
    for (int p = 0; p < positions; p += 2)
        for (int i = 0; i < 64; i += per, out += per) {
            const auto x = [&](int row, int column) {
                const Int16s count = load_int16s(counts[row] + (p + column) * 64 + i);
                return count + count - int16_t(corrections[row][p + column]);
            };
            const Int16s most = further(further(x(0, 0), x(0, 1)), further(x(1, 0), x(1, 1)));
            int16_t lanes[per];
            std::memcpy(lanes, &most, sizeof lanes);
            for (int k = 0; k < per; ++k) out[k] = lanes[k];
        }
}

void pool_counts(const int16_t* const counts[2], const int32_t* const corrections[2], int positions, bool least,
                 float* out) {
    least ? pool_counts_of<true>(counts, corrections, positions, out)
          : pool_counts_of<false>(counts, corrections, positions, out);
}

template <class Number>
BIPROP_INLINE Number larger_of(Number a, Number b) {
    return a > b ? a : b;
}

// Sizes that the compiler knows let it use vectors and shuffles.
template <int Width, int Images, class Number>
void pool_of(const Number* x, int width, int images, int out_height, int out_width, Number* out) {
    if (Width) {
        width = Width;
        out_width = Width / 2;
    }
    if (Images) images = Images;
    for (int y = 0; y < out_height; ++y, x += 2 * width * images)
        for (int i = 0; i < out_width; ++i, out += images) {
            const Number *a = x + 2 * i * images, *b = a + width * images;
            for (int k = 0; k < images; ++k)
                out[k] = larger_of(larger_of(a[k], b[k]), larger_of(a[k + images], b[k + images]));
        }
}

template <class Number>
BIPROP_INLINE void pool_any(const Number* x, int width, int images, int out_height, int out_width, Number* out) {
    if (images == 16) return pool_of<0, 16>(x, width, images, out_height, out_width, out);
    if (images == 32) return pool_of<0, 32>(x, width, images, out_height, out_width, out);
    if (images > 1) return pool_of<0, 0>(x, width, images, out_height, out_width, out);
    if (width == 8) return pool_of<8, 1>(x, width, images, out_height, out_width, out);
    if (width == 16) return pool_of<16, 1>(x, width, images, out_height, out_width, out);
    if (width == 32) return pool_of<32, 1>(x, width, images, out_height, out_width, out);
    return pool_of<0, 1>(x, width, images, out_height, out_width, out);
}

void pool_floats(const float* x, int width, int images, int out_height, int out_width, float* out) {
    pool_any(x, width, images, out_height, out_width, out);
}
void pool_quantised(const int16_t* x, int width, int images, int out_height, int out_width, int16_t* out) {
    pool_any(x, width, images, out_height, out_width, out);
}

void pool_cells(const uint64_t* a, const uint64_t* b, int n, bool all, uint64_t* out) {
    if (all)
        for (int i = 0; i < n; ++i) out[i] = a[2 * i] & a[2 * i + 1] & b[2 * i] & b[2 * i + 1];
    else
        for (int i = 0; i < n; ++i) out[i] = a[2 * i] | a[2 * i + 1] | b[2 * i] | b[2 * i + 1];
}

// The even bits of each `Row` bits of a word, side by side in their lower half.
template <int Row>
BIPROP_INLINE uint64_t even_columns(uint64_t x) {
    x &= 0x5555555555555555u;
    x = (x | (x >> 1)) & 0x3333333333333333u;
    x = (x | (x >> 2)) & 0x0f0f0f0f0f0f0f0fu;
    if (Row > 8) x = (x | (x >> 4)) & 0x00ff00ff00ff00ffu;
    if (Row > 16) x = (x | (x >> 8)) & 0x0000ffff0000ffffu;
    if (Row > 32) x = (x | (x >> 16)) & 0x00000000ffffffffu;
    return x;
}

// Rows of half as many bits, but at least 8: the even columns of the even rows of a word, side by side.
template <int Row>
struct Halved {
    static constexpr int rows = Row == 64 ? 1 : 32 / Row, bits = Row == 8 ? 8 : Row / 2;
    using Word = typename std::conditional<rows * bits == 32, uint32_t, uint16_t>::type;
    static BIPROP_INLINE Word of(uint64_t x) {
#ifdef __BMI2__  // only where rows of a word must be joined; compilers vectorise whole words
        if (Row == 16) return Word(_pext_u64(x, 0x0000555500005555u));
        if (Row == 8) return Word(_pdep_u64(_pext_u64(x, 0x0055005500550055u), 0x0f0f0f0fu));
#endif
        const uint64_t columns = even_columns<Row>(x);
        uint64_t word = 0;
        for (int k = 0; k < rows; ++k)
            word |= ((columns >> (2 * k * Row % 64)) & ((uint64_t(1) << bits) - 1)) << (k * bits);
        return Word(word);
    }
    // The first `count` rows.
    static BIPROP_INLINE void store(uint8_t* to, Word word, int count) {
        if (rows == 1 || count >= rows)
            std::memcpy(to, &word, sizeof word);
        else
            std::memcpy(to, &word, size_t(count) * bits / 8);
    }
};

template <int Row>
void split_of(const uint8_t* rows, int height, size_t sub, uint8_t* to) {
    using Half = Halved<Row>;
    for (int y = 0; y < height; y += 64 / Row, rows += 8) {
        uint64_t word;
        std::memcpy(&word, rows, 8);
        for (int odd = 0; odd < 2; ++odd)  // columns
            for (int below = 0; below < (Row == 64 ? 1 : 2); ++below)
                Half::store(to + ((y + below) % 2 * 2 + odd) * sub + size_t(y / 2) * (Half::bits / 8),
                            Half::of(word >> (below * Row % 64 + odd)), (height - y - below + 1) / 2);
    }
}

void split(const uint8_t* rows, int row, int height, size_t sub, uint8_t* to) {
    if (row == 8) return split_of<8>(rows, height, sub, to);
    if (row == 16) return split_of<16>(rows, height, sub, to);
    if (row == 32) return split_of<32>(rows, height, sub, to);
    return split_of<64>(rows, height, sub, to);
}

// Rows of 8 to 64 bits, several a word: first the rows in pairs, then the columns, then the even columns side by side.
template <int Row>
void pool_rows_of(const uint64_t* words, int out_height, uint64_t columns, bool all, uint8_t* out) {
    using Half = Halved<Row>;
    uint64_t keep = 0;
    for (int k = 0; k < Half::rows; ++k) keep |= columns << (k * Half::bits);
    for (int y = 0; y < out_height; y += Half::rows, out += sizeof(typename Half::Word)) {
        const uint64_t a = *words++, b = Row == 64 ? *words++ : a >> (Row % 64);
        const uint64_t x = all ? a & b : a | b;
        Half::store(out, typename Half::Word(Half::of(all ? x & (x >> 1) : x | (x >> 1)) & keep), out_height - y);
    }
}

void pool_rows(const uint64_t* words, int row, int out_height, uint64_t columns, bool all, uint8_t* out) {
    if (row == 8) return pool_rows_of<8>(words, out_height, columns, all, out);
    if (row == 16) return pool_rows_of<16>(words, out_height, columns, all, out);
    if (row == 32) return pool_rows_of<32>(words, out_height, columns, all, out);
    return pool_rows_of<64>(words, out_height, columns, all, out);
}

}  // namespace
