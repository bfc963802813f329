// A step is an operation with its kernel chosen, for one mode of running:
//
//   one image    lanes are positions: floats are [channel][position], bits are rows of 8, 16, 32 or 64 bits
//   many images  lanes are positions and, within one, images: floats are [channel][position][images], bits are 64-bit
//                cells, one for each position
//
// An activation has one of three forms. Bits: a binary activation, +1 or -1, is one bit, 1 or 0. Floats: 32-bit floats.
// Quantised: after calibration, what would be a float is step * q with an integer q of 8 bits, which is stored in 16
// bits so that sums of them need no widening; calibrated ranges give the step size.
//
// The kernels read the kept weights of a layer as lists of taps: for each output channel, the places of its positive
// weights and then those of its negative ones (lists.h for bits, sums.cpp for the others).
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "lists.h"
#include "program.h"
#include "thread_pool.h"

namespace biprop {

constexpr size_t kSlack = 512;  // bytes around every buffer that a vector may read or write
constexpr int kRing = 3;  // rows of zeros above and below a plane of rows of bits

inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Zeroed memory, aligned to a cache line, with slack on both sides.
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(size_t bytes);
    uint8_t* data() const { return data_; }
    size_t bytes() const { return bytes_; }

  private:
    std::unique_ptr<uint8_t[]> memory_;
    uint8_t* data_ = nullptr;
    size_t bytes_ = 0;
};

// The form of an activation, and where its numbers lie in memory.
struct Shape {
    bool bits = false;
    int channels = 0, height = 0, width = 0;
    int images = 1;  // of a group: lanes of a position
    int row = 0;  // bits of a row; 0 where the activation is not rows of bits
    size_t plane = 0;  // bytes from one channel to the next
    size_t front = 0;  // bytes before the first row of a plane
    // A quantised activation is step * q, with low <= q <= high; step 0 stands for bits or floats.
    float step = 0;
    int low = 0, high = 0;

    Shape() = default;
    // The same shape, quantised to the range least .. most; |q| is at most `limit`, unless that is below 100.
    Shape quantised_to_range(float least, float most, int limit) const;
    Shape quantised_like(const Shape& other) const;
    QuantisedFinish quantised_finish(const Finish& finish) const { return {finish, 1 / step, float(low), float(high)}; }
    bool quantised() const { return step > 0; }
    bool plain() const { return !bits && !quantised(); }
    int largest_quantised() const { return high > -low ? high : -low; }
    int16_t* int16s(uint8_t* base, int c) const { return reinterpret_cast<int16_t*>(base + c * plane); }
    // Reads n lanes of a channel as floats.
    void read(uint8_t* base, int c, int lane, int n, float* to) const;
    Shape(const Value& value, int images);
    int positions() const { return height * width; }
    int lanes() const { return positions() * images; }
    size_t bytes() const { return plane * channels; }
    float* floats(uint8_t* base, int c) const { return reinterpret_cast<float*>(base + c * plane); }
    uint64_t* cells(uint8_t* base, int c) const { return reinterpret_cast<uint64_t*>(base + c * plane); }
    uint8_t* rows(uint8_t* base, int c) const { return base + c * plane + front; }
    // A case for each size, because a copy of a size that the compiler does not know is a call.
    static uint64_t load_row(const uint8_t* from, int row) {
        switch (row) {
            case 8: return *from;
            case 16: return load<uint16_t>(from);
            case 32: return load<uint32_t>(from);
            default: return load<uint64_t>(from);
        }
    }
    static void store_row(uint8_t* to, int row, uint64_t word) {
        switch (row) {
            case 8: *to = uint8_t(word); break;
            case 16: store(to, uint16_t(word)); break;
            case 32: store(to, uint32_t(word)); break;
            default: store(to, word);
        }
    }
    uint64_t load_row(uint8_t* base, int c, int y) const { return load_row(rows(base, c) + y * (row / 8), row); }
    void store_row(uint8_t* base, int c, int y, uint64_t word) const {
        store_row(rows(base, c) + y * (row / 8), row, word);
    }
    static int row_of(int width) { return width <= 8 ? 8 : width <= 16 ? 16 : width <= 32 ? 32 : 64; }
    // Whether rows of bits can hold the value.
    static bool fits_rows(const Value& value) { return value.width <= 64; }

  private:
    template <class T>
    static uint64_t load(const uint8_t* from) {
        T word;
        std::memcpy(&word, from, sizeof word);
        return word;
    }
    template <class T>
    static void store(uint8_t* to, T word) {
        std::memcpy(to, &word, sizeof word);
    }
};

// One run of one group of images.
struct Frame {
    const Kernels* kernels;
    Pool* pool;  // null: the calling thread works alone
    std::vector<uint8_t*> values;
    std::vector<Buffer>* scratch;  // by thread
    int images;  // in this group

    int threads() const { return pool ? pool->threads() : 1; }
    template <class Work>
    void each(int items, const Work& work) const {
        if (pool) return pool->each(items, work);
        for (int i = 0; i < items; ++i) work(i, 0);
    }
};

// Bytes by owner: steps of two modes may share an owner, whose bytes count once.
using Held = std::map<const void*, size_t>;

class Step {
  public:
    Step(const Op& op, const std::vector<Shape>& shapes)
        : op_(op),
          in_(shapes[op.in]),
          out_(shapes[op.out]),
          residual_(op.residual == kNone ? Shape() : shapes[op.residual]) {
        finishes_ = finishes_of(op);
    }
    virtual ~Step() = default;
    virtual void run(const Frame& frame) const = 0;
    virtual std::string name() const = 0;
    virtual double cycles() const = 0;  // an estimate, for a group
    virtual size_t scratch() const { return 0; }  // bytes that a thread needs
    virtual void memory(Held&) const {}  // adds the bytes of the weights
    virtual size_t machine_code() const { return 0; }  // bytes, of those of `memory`
    // The lists of taps of a convolution on bits; null where the step has none, or has those for groups of channels.
    virtual std::shared_ptr<const TapLists> lists() const { return nullptr; }
    virtual const GroupedTaps* grouped() const { return nullptr; }
    // Whether the step has lists of its own, which hold the mask and the sign of the operation. These lists can be
    // dropped between runs, and made again from mask and sign.
    virtual bool holds_weights() const { return false; }
    virtual void restore(Op&) const {}  // writes mask and sign
    virtual void drop_lists() {}
    virtual void make_lists_again() {}

    const Op& op() const { return op_; }
    virtual const Op& last() const { return op_; }  // the pool, where the step also does a pool
    bool worth_threads = true;

  protected:
    static std::vector<Finish> finishes_of(const Op& op) {
        std::vector<Finish> finishes;
        for (size_t c = 0; c < op.scale.size(); ++c)
            finishes.push_back({float(op.scale[c]), float(op.shift[c]) + 0.0f,  // no -0: a sum with it could be -0
                                op.residual == kNone ? 0.0f : float(op.residual_scale[c]), op.act});
        return finishes;
    }
    // The residual's lanes as floats, in place or in `room`; null for an operation without a residual.
    const float* residual(const Frame& frame, int c, int lane, int n, float* room) const;
    // Finishes lanes of channel c of an activation that is not bits.
    static void store(const Frame& frame, const Shape& shape, uint8_t* base, int c, int lane, int n, const float* x,
                      const Finish& finish, const float* residual);
    // Finishes lanes of channel c and stores them: the operation's scale and shift apply to the sums x.
    void emit(const Frame& frame, int c, int lane, int n, const float* x, float* room) const;
    // The same with another scale and shift, for bits only.
    void emit_signs(const Frame& frame, int c, int lane, int n, const float* x, const Finish& finish,
                    const float* residual) const;
    // Into how many parts of output channels an item is split so that all threads have work.
    int parts(const Frame& frame, int items) const;

    const Op& op_;
    const Shape in_, out_, residual_;
    std::vector<Finish> finishes_;  // per output channel
};

// The weights of a layer for products of matrices: bits [panel][step][output channel][input channel], or two-bit codes
// (see MatrixKernels).
struct MatrixWeights {
    std::vector<uint8_t> kept, negative, codes;
    bool quantised;
};

// The weights of a layer, shared by the steps of both modes; the first step that needs them creates them.
struct Packed {
    std::shared_ptr<const TapLists> lists;
    std::shared_ptr<const MatrixWeights> matrix;
};

// The step also does `pool`, if it is not null and the step is faster that way.
std::unique_ptr<Step> make_bit_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                    const Kernels& kernels, Packed& packed);
std::unique_ptr<Step> make_sum_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                    const Kernels& kernels, Packed& packed);
// The same in machine code; null where that cannot do it, or takes `most` cycles or more.
std::unique_ptr<Step> make_code_step(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels,
                                     double most);
// The same by products of matrices; null where these cannot do it.
std::unique_ptr<Step> make_matrix_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                       const Kernels& kernels, Packed& packed);
// Whether 16 bits can name every number that a convolution on floats reads of a plane.
bool can_sum(const Op& op, const Value& in, int images);
// Whether the step of the operation can read the quantised activation `in`. The caller excludes convolutions on bits.
bool reads_quantised(const Op& op, const std::vector<Shape>& shapes, const Shape& in);
std::unique_ptr<Step> make_pool_step(const Op& op, const std::vector<Shape>& shapes);

}  // namespace biprop
