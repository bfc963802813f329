// The kernels that every instruction set offers, and the arguments that they take: raw pointers only, nothing here owns
// memory.
//
// A plane is one channel of an activation. A lane is one output position (of one image) in a vector. A tile is a group
// of lanes that a kernel computes at once. A tap is one weight of a filter: (input channel, row, column). step.h
// explains bits, quantised activations and lists of taps; docs/engine.md draws the layouts.
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

// Convolutions and pools have the first four; plain operations have all.
enum class Act : uint32_t {
    none = 0,
    relu = 1,
    sign = 2,
    sign0 = 3,
    silu = 4,
    sigmoid = 5,
    tanh = 6,
    hardswish = 7,
    hardsigmoid = 8,
    gelu = 9,
    gelu_tanh = 10,
    leaky_relu = 11,  // first: the slope
    elu = 12,  // first: alpha
    clamp = 13,  // first .. second
};
constexpr uint32_t kLastAct = 13;

// y = act(scale * x + shift + residual_scale * residual)
struct Finish {
    float scale, shift, residual_scale;
    Act act;
};

// The same, then quantised: y / step, rounded half to even, clamped to low .. high.
struct QuantisedFinish {
    Finish finish;
    float per_step, low, high;
};

// One tile of a bit-sliced convolution: for each output channel and lane, the kernel counts the kept taps whose input
// has the sign of their weight. From a count it goes on to bits, to floats, or to signs of floats.
//
// Where a plane has only 64 positions, a group of eight or four channels is computed at once (see `gathered`). Their
// taps alternate, taps[i][group], in lists as long as the longest; then `first` and `last` count groups of `order`, and
// `ranges` are those of groups.
struct BitTile {
    const uint8_t* planes;  // [taps + 2][width]: the input as each tap sees it, then a plane of zeros, a plane of ones
    size_t second;  // ShuffleForm::second
    const uint16_t* taps;  // offsets in `planes`, in units of 8 bytes
    const TapRange* ranges;
    // Output channels, sorted by the length of their lists, so that the processor predicts where loops end.
    const uint32_t* order;
    int first, last;  // places in `order`
    int bits;  // of the largest count

    // Output bits: count >= threshold, inverted where `flips` says so.
    // Thresholds are bit-sliced, [channel][bits][width] at distance sliced_step; or null: see `lanes`.
    const uint8_t* sliced;
    // Where not null, `sliced` holds tables of 16 bytes, [channel][bits], and these are the indices into them: [width].
    const uint8_t* places;
    const uint16_t* lanes;  // thresholds, one for each 64-bit lane: [channel][width / 8] at distance lanes_step
    const uint8_t* sliced_plus;  // thresholds where the bit of the residual is 1; null without a residual
    const uint16_t* lanes_plus;
    size_t sliced_step, lanes_step;
    const uint8_t* residual;  // bits, laid out like `out`
    size_t residual_step;
    const uint8_t* flips;  // [channel] 0 or 255
    const uint8_t* valid;  // [width]: lanes that exist; the others are written as 0; null for all
    uint8_t* out;  // channel c at out + c * out_step
    size_t out_step;

    // Output floats, or signs of floats, where `finishes` is not null: x = 2 count - corrections[lane >> shift] for
    // 64 * words lanes. They go to floats + c * floats_step; where `floats` is null, their signs go to `out`.
    const Finish* finishes;
    const int32_t* corrections;  // channel c at distance corrections_step
    size_t corrections_step;
    int shift, words;
    bool quarters;  // planes of one word: the positions are 4x4
    float* floats;
    const float* residual_floats;  // or null
    size_t floats_step, residual_floats_step;  // in bytes
    // Where not null, the output is the 2x2 max pool of an 8x8 map in one word. Every x fits 16 bits, no scale is
    // negative, and there is one correction for each class of positions.
    const int16_t* class_corrections;  // [channel][16]
    const uint16_t* classes;  // of the 64 positions

    int16_t* counts;  // output counts: [place - first][8 * width]; null for one of the above
};

// The taps of one output channel in a block of input channels: first those with +1, then those with -1.
struct SumRange {
    uint32_t start;
    uint16_t positive, negative;  // taps
    uint32_t channel;
};

// Whether sums have kernels for tiles with gaps between their rows. In a page their code costs more than they save.
#ifdef __wasm__
constexpr bool kRowsWithGaps = false;
#else
constexpr bool kRowsWithGaps = true;
#endif

// One tile of a sparse sum: for each output channel and lane, the sum over the positive taps minus that over the
// negative ones.
struct SumTile {
    const float* input;
    const uint16_t* taps;  // offsets from `input` in floats
    const SumRange* ranges;
    const float* weights;  // of a dense layer, in the order of `taps`; null where they are +1 and -1
    int first, last;  // of `ranges`
    int vectors;  // of 16 lanes
    size_t second;  // floats of `input` from the first half of the lanes to the second
    int row_registers;  // of a row of positions in `input`, where a gap of one register follows; 0 without gaps
    size_t out_second;  // as `second`, in `out`, `quantised` and `residual`

    float* part;  // sums of the blocks so far: [channel][vectors * 16] at distance part_step
    size_t part_step;
    bool begin;  // this is the first block

    // With the last block, finished lanes of channel c go to out + c * out_step, as floats, signs or quantised. Where
    // all three are null, sums go to `part`.
    float* out;
    uint8_t* signs;
    int16_t* quantised;
    const float* residual;  // laid out like `out`; or null
    size_t out_step, residual_step;  // in bytes
    const QuantisedFinish* finishes;
};

// One tile of a sparse sum of quantised activations, in 16 bits; otherwise like SumTile.
struct QuantisedTile {
    const int16_t* input;
    const uint16_t* taps;
    const SumRange* ranges;
    int first, last, vectors;
    int row_registers;
    int lanes;  // that exist

    int16_t* part;  // [channel][vectors * 16]
    int32_t* wide;  // the same in 32 bits, over whole blocks; null where 16 bits hold all sums
    bool begin;

    const QuantisedFinish* finishes;  // null: this is not the last block
    int16_t* quantised;  // channel c at distance out_step in bytes; where null, the output is `floats`
    float* floats;
    const int16_t* residual_quantised;  // multiplied by finish.residual_scale; where null, the residual is `residual`
    const float* residual;  // or null
    size_t out_step, residual_step;
};

// 32 output channels of a convolution as a product of matrices, for tiles of 16 lanes. A step is one tap of 16 groups
// of input channels. A group is four quantised channels, or two of floats, each the exact sum of three bfloat16
// numbers.
struct MatrixTile {
    enum Kind { floats, signed_quantised, unsigned_quantised } kind;
    const uint8_t *kept, *negative;  // bits of the weights, [step][32 output channels][16 groups of input channels]
    const uint8_t* codes;  // or two-bit codes: see MatrixKernels
    uint8_t* weights;  // room for the numbers that these expand to, 2 KB a step, for `at_once` steps
    const uint8_t* input;  // [group][part of a float][lane][4 bytes]
    size_t group_step, part_step;  // in bytes
    const int32_t *steps, *tiles;  // where each begins, in bytes from `input`
    int step_count, tile_count;
    // With codes: how many output channels there are; the first steps that have 16 groups, and the groups of the
    // others; and what each channel's sum begins with.
    int channels, whole_steps, groups_of_last;
    const int32_t* corrections;
    int at_once;  // steps that all tiles take before the next ones, so that the weights stay in the fastest cache
    float* sums;  // [32][16 * tile_count] at distance sum_step
    size_t sum_step;
};

struct MatrixKernels {
    void (*multiply)(const MatrixTile&);
    // Interleaves every `stride`th lane of `channels` planes, which lie `plane` bytes apart; missing channels are 0.
    // Each byte is then changed by ^ flip.
    void (*pack_quantised)(const int16_t* from, size_t plane, int channels, int lanes, int stride, uint8_t flip,
                           uint8_t* to);
    // Null where only quantised activations are multiplied.
    void (*pack_floats)(const float* from, size_t plane, int channels, int lanes, int stride, size_t part_step,
                        uint8_t* to);
    // Instructions may take only unsigned bytes, or only signed ones; 128 changes one kind into the other.
    uint8_t flip_signed, flip_unsigned;
    // Whether the weights are codes of two bits, their number + 1. The numbers lie in the order
    // [8 output channels][group][output channel][input channel], 2 KB a step; byte j of 64 bytes of codes has those of
    // the numbers j, 64 + j, 128 + j and 192 + j of 256, from the lowest bits.
    bool codes;
    // Cost model: one step of 16 lanes and 32 output channels (of floats, three times as long); the weights of a step.
    float cycles_per_tile, cycles_per_step;
};

// Planes of one word by permutations instead of gathers, for processors that select any of 16 bytes, or of 32 words of
// 16 or 32 bits, in one cycle.
//
// The planes of all taps lie in slots, or parts of them, one part of all planes after the other. The last slot of every
// `window` is zero. In a round, every lane (an output channel) takes one slot of a window, or its zero. Windows begin
// at multiples of `grain` slots.
//
// A list in `taps` has one entry for eight rounds: the line of `grain` slots where the first window begins; for each
// round, how far its window is from there, in a byte (lines times eight, or slots where the grain is 1); and the
// indices of slots.
struct ShuffleForm {
    enum Slots {
        // The lower or the upper four rows of 8x8 planes. No load should cross a cache line, so windows begin at every
        // 16th slot, or at every eighth of slots that are stored twice, in lines of 16, each line eight slots after the
        // one before. An index has 5 bits, and a channel 32 bits, for six rounds and the lower two bits of the eighth,
        // and then 8 bits for the seventh round and the remaining bits of the eighth.
        halves,
        // 4x4 planes. An index has 5 bits, and a channel three numbers of 16 bits, for three rounds each.
        quarters,
        // Two rows of 8x8 planes, or 4x4 planes, their lower bytes before all upper bytes; `second` is the distance. An
        // index has four bits, and a channel a byte for two rounds.
        bytes
    } slots;
    int group;  // channels at once
    int lane;  // bytes of a slot, or of both of its bytes
    int window, grain;

    int parts(bool of_quarters) const { return of_quarters ? 1 : 8 / lane; }  // of a plane
    // Every `window`th slot is a zero.
    int slot(int tap) const { return tap / (window - 1) * window + tap % (window - 1); }
    size_t second(int taps) const { return (size_t(slot(taps)) + 2 * window + 63) / 64 * 64; }
    // Bytes of all slots, with those that a load reads behind the last one.
    size_t size(int taps) const {
        if (slots == bytes) return 2 * second(taps);
        return size_t(taps / 31 + 1) * (grain > 1 ? 2048 / grain : 64) + 192;
    }
};

struct ShuffleKernels {
    void (*bits)(const BitTile&, const ShuffleForm&);  // `planes` are the slots
    // From planes of 8 bytes, of which 4x4 planes use four bits of four bytes; reads up to 120 bytes behind the last
    // one.
    void (*to_slots)(const uint8_t* planes, int taps, const ShuffleForm&, bool quarters, int part, uint8_t* slots);
    ShuffleForm of_quarters, of_words, of_many_words;  // the last one where `of_words` would not fit into the L1 cache
    float cycles_per_round;  // a little less than measured, because these lists are shorter than those for gathers
};

// ---- plain operations on floats ----

struct ActWithNumbers {
    Act act;
    float first, second;
};

// Numbers in memory: index (i, k) is at x + i * outer_step + k * inner_step.
struct Walk {
    const float* x;
    int outer, inner;
    int64_t outer_step, inner_step;
};

// `rows` times `lanes` results; operand o is at its address + row * row_step + lane * lane_step.
struct Grid {
    int rows, lanes;
    float* out;
    const float *a, *b;
    int64_t row_step[3], lane_step[3];  // of out, a, b
};

enum class Binary : uint32_t { add = 0, multiply = 1, divide = 2 };
enum class Reduce : uint32_t { mean = 0, sum = 1, max = 2 };

// Operand a of a product has one number for all lanes; 16, which repeat; or as many as there are.
enum class LanesOfA { one, sixteen, all };

// Kernels of plain operations. Those that take lanes read up to 128 numbers behind the last one, which every buffer
// has, and write only what they are asked for.
struct PlainKernels {
    // out = act(scale * x + shift)
    void (*elementwise)(const float* x, int n, float scale, float shift, const ActWithNumbers&, float* out);
    void (*binary)(const Grid&, Binary, const ActWithNumbers&);
    // out[lane] = sum or maximum over the walk, of `lanes` neighbours; the mean divides
    void (*reduce)(const Walk&, int lanes, Reduce, float* out);
    // out = (x - mean) / sqrt(variance + eps) * scale + shift, the mean and the variance over the walk; `out` is walked
    // with `to`, scale and shift with `affine`, where `scale` is not null.
    void (*normalise)(const Walk&, int lanes, float eps, const Walk& affine, const float* scale, const float* shift,
                      const Walk& to, float* out);
    void (*softmax)(const Walk&, int lanes, bool logarithm, const Walk& to, float* out);
    // out[lane] = sum over the walks of a * b. b has neighbouring lanes.
    void (*contract)(const Walk& a, const Walk& b, int lanes, LanesOfA, float* out);
    // out[lane] = sum over taps of weight * x[offset + lane]
    void (*convolve)(const float* x, const int32_t* offsets, const float* weights, int taps, int lanes, float* out);
};

struct Kernels {
    const char* name;
    int widths[kMostWidths];  // of tiles of bits, in bytes, from the widest; 0 for none
    float cycles_per_plane[kMostWidths];  // cost model: one kept tap of one tile
    float cycles_per_popcount;  // cost model: 64 bytes of masked population count
    float cycles_per_load;  // cost model: one register of a sum
    float cycles_per_addition;  // cost model: one of a sum in machine code; 0 where there is none
    int vectors;  // the most vectors of 16 floats in a tile of sums
    int floats;  // of a register
    int images;  // of a group, in networks without bits

    void (*bits)(const BitTile&, int width);
    void (*gathered)(const BitTile&);  // null where gathers are too slow
    int group;  // channels that `gathered` computes at once
    float cycles_per_gather;  // cost model: one tap of a group
    void (*sum)(const SumTile&);
    void (*sum_quantised)(const QuantisedTile&);
    // The sum of x at the taps of the first `positive` groups of eight, minus that at the taps of the `negative` ones.
    float (*dot)(const float* x, const uint16_t* taps, int positive, int negative);
    void (*finish_quantised)(const float* x, int n, const QuantisedFinish&, const float* residual, int16_t* quantised);
    // The input as each tap sees it, for one tile of one plane of rows of bits:
    // out[tap] = ((plane + offset[tap]) << or >> shift[tap]) & mask[tap]
    void (*pack_rows)(const uint8_t* plane, const int32_t* offset, const int64_t* shift, const uint64_t* mask, int taps,
                      int width, uint8_t* out);
    // The same for many planes of one word: out[plane][tap] = (word, rotated right by turns[tap]) & masks[tap]. `turns`
    // and `masks` are padded with zeros to a multiple of 8, and as much may be written after the last tap.
    void (*pack_words)(const uint8_t* rows, size_t plane, int channels, const uint64_t* turns, const uint64_t* masks,
                       int taps, uint8_t* out);
    // The same where a 64-bit cell holds a position of 64 images: out[tap] = (plane + offset[tap]) & masks[tap][width]
    void (*pack_cells)(const uint8_t* plane, const int32_t* offset, const uint8_t* masks, int taps, int width,
                       uint8_t* out);
    // counts[p] = sum over words of popcount(mask & ~(x ^ sign)), with x[word][position] and positions a multiple of 8;
    // `popcount` is for one position, with x[word] and words a multiple of 8.
    void (*popcounts)(const uint64_t* x, int positions, const uint64_t* mask, const uint64_t* sign, int words,
                      int16_t* counts);
    void (*popcount)(const uint64_t* x, const uint64_t* mask, const uint64_t* sign, int words, int16_t* count);
    // Bit-sliced counts of 64 lanes, [bits] words at distance `step`, to integers.
    void (*widen)(const uint64_t* sliced, size_t step, int bits, int16_t* lanes);
    // Finishes x = 2 count - corrections[lane >> shift] of n lanes. The residual may be null.
    void (*finish_counts)(const int16_t* counts, const int32_t* corrections, int shift, int n, const Finish&,
                          const float* residual, float* out);
    // The 2x2 maximum, or minimum, of x = 2 count - correction, over two rows of an even number of positions, of 64
    // images each: out[positions / 2][64]. Every x fits 16 bits.
    void (*pool_counts)(const int16_t* const counts[2], const int32_t* const corrections[2], int positions, bool least,
                        float* out);
    void (*finish_floats)(const float* x, int n, const Finish&, const float* residual, float* out);
    // Bit i, from the lowest of the first byte: finished x[i] >= 0. Writes whole bytes.
    void (*signs)(const float* x, int n, const Finish&, const float* residual, uint8_t* bits);
    // Bit i: counts[i] >= thresholds[i], for n <= 64.
    uint64_t (*compare)(const int16_t* counts, const uint16_t* thresholds, int n);
    // 2x2 max pools with stride 2 of a plane [height][width][images].
    void (*pool_floats)(const float* x, int width, int images, int out_height, int out_width, float* out);
    void (*pool_quantised)(const int16_t* x, int width, int images, int out_height, int out_width, int16_t* out);
    // The same for bits, whether any or whether all of four are 1: n outputs of a row of cells; or rows of `row` bits,
    // to rows of half as many, at least 8.
    void (*pool_cells)(const uint64_t* a, const uint64_t* b, int n, bool all, uint64_t* out);
    void (*pool_rows)(const uint64_t* words, int row, int out_height, uint64_t columns, bool all, uint8_t* out);
    // Splits a plane of rows of bits into four, at distance `sub`: even and odd rows, and of each the even and the odd
    // columns, half as wide, at least 8 bits.
    void (*split)(const uint8_t* rows, int row, int height, size_t sub, uint8_t* to);
    bool looks_up;  // one instruction reads bytes from a table of 16, for tiles of more than 8 bytes
    const ShuffleKernels* shuffles = nullptr;  // null where they are too slow
    const MatrixKernels* matrices = nullptr;  // null where the processor does not multiply matrices
    const PlainKernels* plain = nullptr;
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
bool have_amx();  // asks the processor, and the operating system for permission
#endif
#ifdef BIPROP_AVX512VNNI
extern const MatrixKernels kAvx512Vnni;
extern const MatrixKernels kVnni256;  // the same instructions for 256 bits, as processors with AVX-VNNI have them
#endif
#ifdef BIPROP_AVXVNNI
extern const MatrixKernels kAvxVnni;
#endif
#ifdef BIPROP_NEON
extern const Kernels kNeon;
#endif
#ifdef BIPROP_DOTPROD
extern const MatrixKernels kDotProd;
#endif
#ifdef BIPROP_I8MM
extern const MatrixKernels kI8mm;
#endif
#ifdef BIPROP_WASM
extern const Kernels kWasm;
#endif

}  // namespace biprop
