// What the kernels of every instruction set offer, and the arguments they take. Raw pointers only; nothing here owns
// memory.
//
// Words: a plane is one channel of an activation. A lane is one output position (of one image) in a vector. A tile is a
// vector's worth of lanes. A tap is one weight of a filter: (input channel, row, column). Layouts are drawn in
// docs/engine.md.
#pragma once

#include <cstddef>
#include <cstdint>

namespace biprop {

constexpr int kMostWidths = 3;

// The kept weights of one output channel, in groups of eight taps: first the positive ones, then the negative ones.
struct TapRange {
    uint32_t start;  // in `taps`, in groups
    uint16_t positive, negative;  // groups
};

enum class Act : uint32_t { none = 0, relu = 1, sign = 2, sign0 = 3 };

// y = act(scale * x + shift + residual_scale * residual)
struct Finish {
    float scale, shift, residual_scale;
    Act act;
};

// Finished values as levels: y / step, rounded to nearest even, within low .. high.
struct QuantisedFinish {
    Finish finish;
    float per_step, low, high;
};

// One tile of a bit-sliced convolution: count, for each output channel and lane, the kept taps that agree with their
// weight.
//
// Where a plane has 64 positions only, a group of eight or four channels is computed at once (`gathered` below). Their
// taps alternate, taps[i][group], in lists as long as the longest; `first` and `last` count groups of `order`, and
// `ranges` are of groups.
struct BitTile {
    const uint8_t* planes;  // [taps + 2][width]: the input as each tap sees it; then a plane of zeros, a plane of ones
    const uint16_t* taps;  // where in `planes`, in units of 8 bytes
    const TapRange* ranges;
    const uint32_t*
        order;  // output channels: those with lists of like length follow each other, so that loops end as foreseen
    int first, last;  // of `order`
    int bits;  // that a count can have

    // Bits out: count >= threshold, then flipped where `flips` says so.
    const uint8_t*
        sliced;  // thresholds, bit-sliced: [channel][bits][width] at distance sliced_step; or null: see `lanes`
    const uint8_t* places;  // where not null, `sliced` has [channel][bits] tables of 16 bytes, and these are the places
                            // in them: [width]
    const uint16_t* lanes;  // thresholds, one per 64-bit lane: [channel][width / 8] at distance lanes_step
    const uint8_t* sliced_plus;  // the same where the residual bit is 1; null without a residual
    const uint16_t* lanes_plus;
    size_t sliced_step, lanes_step;
    const uint8_t* residual;  // bits of the residual, like `out`
    size_t residual_step;
    const uint8_t* flips;  // [channel] 0 or 255
    const uint8_t* valid;  // [width]: lanes that exist; the others are written as 0; null for all
    uint8_t* out;  // channel c at out + c * out_step
    size_t out_step;

    // Floats, or signs of floats, out instead, where finishes is not null: x = 2 count - corrections[lane >> shift],
    // for `words` x 64 lanes; to floats + c * floats_step, or, if that is null, to `out`.
    const Finish* finishes;
    const int32_t* corrections;  // channel c at distance corrections_step
    size_t corrections_step;
    int shift, words;
    bool quarters;  // `gathered`: the positions are 4x4
    float* floats;
    const float* residual_floats;  // or null
    size_t floats_step, residual_floats_step;  // in bytes
    // Where not null, of an 8x8 map in one word the largest of each 2x2; no x leaves 16 bits, no scale is negative.
    // Corrections by class.
    const int16_t* class_corrections;  // [channel][16]
    const uint16_t* classes;  // of the 64 positions

    int16_t* counts;  // the counts themselves instead: [place - first][8 * width]; null for the above
};

// The taps of one output channel in a block of input channels: first those with +1, then those with -1.
struct SumRange {
    uint32_t start;
    uint16_t positive, negative;  // taps
    uint32_t channel;
};

// One tile of a sparse sum: for each output channel and lane, the sum of the positive taps less that of the negative
// ones.
struct SumTile {
    const float* input;
    const uint16_t* taps;  // offsets from `input` in floats
    const SumRange* ranges;
    const float* weights;  // one a tap, in the order of `taps`, for a dense layer; null where they are +1 and -1
    int first, last;  // of `ranges`
    int vectors;  // of 16 lanes
    size_t second,
        out_second;  // floats from the first half of them to the second: in `input`; in `out`, `levels` and `residual`

    float* part;  // [channel][vectors * 16] at distance part_step: sums so far
    size_t part_step;
    bool begin;  // there are none yet

    // The last sums: finished lanes of channel c go to out + c * out_step, or as signs or levels there; all null: to
    // `part`.
    float* out;
    uint8_t* signs;
    int16_t* quantised;
    const float* residual;  // like `out`; or null
    size_t out_step, residual_step;  // in bytes
    const QuantisedFinish* finishes;
};

// A tile of sums of 8-bit levels in 16 bits, 32 lanes a vector; otherwise like SumTile.
struct QuantisedTile {
    const int16_t* input;
    const uint16_t* taps;
    const SumRange* ranges;
    int first, last, vectors;
    int lanes;  // that exist

    int16_t* part;  // [channel][vectors * 32]
    int32_t* wide;  // the same, of whole blocks; null where 16 bits hold all
    bool begin;

    const QuantisedFinish* finishes;  // null: not the last block
    int16_t* quantised;  // channel c at distance out_step in bytes; or null:
    float* floats;
    const int16_t* residual_quantised;  // times finish.residual_scale; or
    const float* residual;
    size_t out_step, residual_step;
};

// 32 output channels of a convolution as a product of matrices, for tiles of 16 lanes. A step is one tap of 16 groups
// of input channels: of four channels as 8-bit levels, or of two as floats, each in three bfloat16 numbers whose sum it
// is.
struct MatrixTile {
    enum { floats, signed_quantised, unsigned_quantised } kind;
    const uint8_t *kept, *negative;  // bits of the weights, [step][32 output channels][16 groups of input channels]
    uint8_t* weights;  // room for the numbers that they become, 2 KB a step, `at_once` steps
    const uint8_t* input;  // [group][part of a float][lane][4 bytes]
    size_t group_step, part_step;  // in bytes
    const int32_t *steps, *tiles;  // where each begins, in bytes from `input`
    int step_count, tile_count;
    int at_once;  // steps, for all tiles, before the next ones, so that their weights stay in the fastest cache
    float* sums;  // [32][16 * tile_count] at distance sum_step
    size_t sum_step;
};

struct MatrixKernels {
    void (*multiply)(const MatrixTile&);
    // Lanes of `channels` planes at distance `plane` in bytes, every `stride`th, side by side; what a group lacks is 0.
    void (*pack_quantised)(const int16_t* from, size_t plane, int channels, int lanes, int stride, uint8_t* to);
    void (*pack_floats)(const float* from, size_t plane, int channels, int lanes, int stride, size_t part_step,
                        uint8_t* to);
};

// Planes of one word by permutations instead of gathers, where a processor finds any of sixteen words, or of 32 words
// of 16 bits, in a cycle.
//
// The planes of all taps lie in slots: halves of 8x8 planes, four bytes, or whole planes of 4x4, two bytes. Every 32nd
// slot is a zero. In a round, every lane (an output channel) takes one plane of a window of 32 slots, or its zero.
// Windows begin at multiples of `grain` slots: of 4x4 planes at any (1); of halves, as no load should cross a cache
// line, at every 16th, or at every eighth of slots that lie twice, in lines of 16, each eight slots after the one
// before. Lists in `taps`, for eight rounds: line (slot) of the first window; how many lines, times eight, or slots
// further each begins, in bytes; and the indices, 5 bits each: of quarters, of a channel three numbers of 16 bits for
// three rounds; of halves 32 bits for six rounds and the lower two of the last one, and 8 bits for the seventh and the
// rest.
struct ShuffleKernels {
    void (*bits)(const BitTile&, int grain);  // planes: the slots
    // From planes of 8 bytes; reads up to 40 more than there are.
    void (*to_slots)(const uint8_t* planes, int taps, int grain, int half, uint8_t* slots);
    static size_t bytes(int taps, int grain) {
        return size_t(taps / 31 + 1) * (grain > 1 ? 2048 / grain : 64) + 192;
    }  // and what is loaded
    float cycles_per_round;  // a little less than measured: lists are shorter than for gathers
};

struct Kernels {
    const char* name;
    int widths[kMostWidths];  // of tiles of bits, in bytes, falling; 0 for none
    float cycles_per_plane[kMostWidths];  // for the cost model: one kept tap of one tile
    float cycles_per_popcount;  // 64 bytes of masked popcount
    int vectors;  // most vectors of 16 floats in a tile of sums

    void (*bits)(const BitTile&, int width);
    void (*gathered)(const BitTile&);  // null where it does not pay
    int group;  // channels that it takes at once
    float cycles_per_gather;  // one tap of them
    void (*sum)(const SumTile&);
    void (*sum_quantised)(const QuantisedTile&);
    // Of single numbers: the sum of the taps in the first groups of eight less that of the others. Taps are places in
    // x.
    float (*dot)(const float* x, const uint16_t* taps, int positive, int negative);
    void (*finish_quantised)(const float* x, int n, const QuantisedFinish&, const float* residual, int16_t* quantised);
    // The input as each tap sees it, for one tile of one plane: out[tap] = ((plane + offset[tap]) << or >> shift[tap])
    // & mask[tap]
    void (*pack_rows)(const uint8_t* plane, const int32_t* offset, const int64_t* shift, const uint64_t* mask, int taps,
                      int width, uint8_t* out);
    // The same where a plane is one word, for many planes: out[plane][tap] = (word, turned right by turns[tap]) &
    // masks[tap]; turns and masks go on with zeros to a multiple of 8, and so much may be written after the last tap.
    void (*pack_words)(const uint8_t* rows, size_t plane, int channels, const uint64_t* turns, const uint64_t* masks,
                       int taps, uint8_t* out);
    // The same where a 64-bit cell is 64 images: out[tap] = (plane + offset[tap]) & masks[tap][width]
    void (*pack_cells)(const uint8_t* plane, const int32_t* offset, const uint8_t* masks, int taps, int width,
                       uint8_t* out);
    // counts[p] = sum over words of popcount(mask & ~(x ^ sign)), with x[word][position], positions a multiple of 8;
    // or, for the second, with x[word] of one position and words a multiple of 8.
    void (*popcounts)(const uint64_t* x, int positions, const uint64_t* mask, const uint64_t* sign, int words,
                      int16_t* counts);
    void (*popcount)(const uint64_t* x, const uint64_t* mask, const uint64_t* sign, int words, int16_t* count);
    // 64 lanes of bit-sliced counts, [bits] words at distance `step`, to integers.
    void (*widen)(const uint64_t* sliced, size_t step, int bits, int16_t* lanes);
    // Lanes of counts to floats, x = 2 count - correction, which is corrections[lane >> shift]. Residual may be null.
    void (*finish_counts)(const int16_t* counts, const int32_t* corrections, int shift, int n, const Finish&,
                          const float* residual, float* out);
    // x = 2 count - correction of two rows of positions, an even number, of 64 images each; out[positions / 2][64]: of
    // each 2x2 the largest x, or the least. No x leaves 16 bits.
    void (*pool_counts)(const int16_t* const counts[2], const int32_t* const corrections[2], int positions, bool least,
                        float* out);
    void (*finish_floats)(const float* x, int n, const Finish&, const float* residual, float* out);
    // Bit i of `bits`, from the lowest of the first byte: finished x[i] >= 0. Writes whole bytes.
    void (*signs)(const float* x, int n, const Finish&, const float* residual, uint8_t* bits);
    // bits: counts[i] >= thresholds[i], n <= 64
    uint64_t (*compare)(const int16_t* counts, const uint16_t* thresholds, int n);
    // 2x2 maxima at stride 2 of a plane [height][width][images], of floats and of levels.
    void (*pool_floats)(const float* x, int width, int images, int out_height, int out_width, float* out);
    void (*pool_quantised)(const int16_t* x, int width, int images, int out_height, int out_width, int16_t* out);
    // The same of bits: any or all of four. Of cells, n outputs of a row; of rows of `row` bits, to rows of half of
    // that, at least 8.
    void (*pool_cells)(const uint64_t* a, const uint64_t* b, int n, bool all, uint64_t* out);
    void (*pool_rows)(const uint64_t* words, int row, int out_height, uint64_t columns, bool all, uint8_t* out);
    // A plane of bit rows as four, at distance `sub`: even and odd rows, and of each the even and the odd columns, half
    // as wide, at least 8 bits.
    void (*split)(const uint8_t* rows, int row, int height, size_t sub, uint8_t* to);
    bool looks_up;  // bytes in a table of 16, by one instruction, for tiles of more than 8 bytes
    const ShuffleKernels* shuffles = nullptr;  // where they pay
    const MatrixKernels* matrices = nullptr;  // where the processor multiplies them
};

extern const Kernels kScalar;
#ifdef BIPROP_AVX2
extern const Kernels kAvx2;
#endif
#ifdef BIPROP_AVX512
extern const Kernels kAvx512;
#endif
#ifdef BIPROP_AMX
extern const MatrixKernels kAmx;
bool have_amx();  // asks the processor, and the system for its use
#endif
#ifdef BIPROP_NEON
extern const Kernels kNeon;
#endif

}  // namespace biprop
