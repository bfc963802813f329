// A step is an operation with its kernel chosen, for one mode of running:
//
//   one image    lanes are positions: floats are [channel][position], bits are rows of 8, 16, 32 or 64 bits
//   many images  lanes are positions and, within one, images: floats are [channel][position][images], bits are 64-bit
//   cells
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "lists.h"
#include "pool.h"
#include "program.h"

namespace biprop {

constexpr size_t kSlack = 512;  // bytes before and after every buffer that a vector may touch
constexpr int kRing = 3;  // rows of zeros above and below a plane of bit rows

inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Memory on a cache line's border, zeroed, with slack on both sides.
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

// Where a value's numbers are.
struct Shape {
    bool bits = false;
    int channels = 0, height = 0, width = 0;
    int images = 1;  // lanes of a position
    int row = 0;  // of bit rows: bits of a row
    size_t plane = 0;  // between channels, in bytes
    size_t front = 0;  // before the first row of a plane
    // 8-bit levels, in 16 bits: a value is step * level; step 0: floats.
    float step = 0;
    int low = 0, high = 0;

    Shape() = default;
    // The same with levels for the range of values least .. most; with at most `limit` of a sign, if that is not too
    // few.
    Shape quantised_to_range(float least, float most, int limit) const;
    Shape quantised_like(const Shape& other) const;
    QuantisedFinish quantised_finish(const Finish& finish) const { return {finish, 1 / step, float(low), float(high)}; }
    bool quantised() const { return step > 0; }
    bool plain() const { return !bits && !quantised(); }
    int largest_quantised() const { return high > -low ? high : -low; }
    int16_t* int16s(uint8_t* base, int c) const { return reinterpret_cast<int16_t*>(base + c * plane); }
    // n lanes of a channel as floats.
    void read(uint8_t* base, int c, int lane, int n, float* to) const;
    Shape(const Value& value, int images);
    int positions() const { return height * width; }
    int lanes() const { return positions() * images; }
    size_t bytes() const { return plane * channels; }
    float* floats(uint8_t* base, int c) const { return reinterpret_cast<float*>(base + c * plane); }
    uint64_t* cells(uint8_t* base, int c) const { return reinterpret_cast<uint64_t*>(base + c * plane); }
    uint8_t* rows(uint8_t* base, int c) const { return base + c * plane + front; }
    // Sizes that the compiler knows: a copy of a size that it does not know is a call.
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
    // Whether bit rows can hold it.
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
    Pool* pool;  // null: work alone
    std::vector<uint8_t*> values;
    std::vector<Buffer>* scratch;  // one per thread
    int images;  // in this group

    int threads() const { return pool ? pool->threads() : 1; }
    template <class Work>
    void each(int items, const Work& work) const {
        if (pool) return pool->each(items, work);
        for (int i = 0; i < items; ++i) work(i, 0);
    }
};

using Held = std::map<const void*, size_t>;  // bytes, by who holds them: steps of two modes may hold the same

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
    virtual size_t scratch() const { return 0; }  // bytes a thread needs
    virtual void memory(Held&) const {}  // of weights

    const Op& op() const { return op_; }
    virtual const Op& last() const { return op_; }  // another where the step does two operations
    bool worth_threads = true;

  protected:
    static std::vector<Finish> finishes_of(const Op& op) {
        std::vector<Finish> finishes;
        for (size_t c = 0; c < op.scale.size(); ++c)
            finishes.push_back({float(op.scale[c]), float(op.shift[c]) + 0.0f,  // no -0: a sum with it could be -0
                                op.residual == kNone ? 0.0f : float(op.residual_scale[c]), op.act});
        return finishes;
    }
    // The residual's lanes as floats, in place or in `room`; null without a residual.
    const float* residual(const Frame& frame, int c, int lane, int n, float* room) const;
    // Finishes lanes of channel c of a value that is not bits.
    static void store(const Frame& frame, const Shape& shape, uint8_t* base, int c, int lane, int n, const float* x,
                      const Finish& finish, const float* residual);
    // Finishes lanes of channel c and stores them: x holds sums, to which the operation's scale and shift apply.
    void emit(const Frame& frame, int c, int lane, int n, const float* x, float* room) const;
    // The same with a finish of its own, for bits only.
    void emit_signs(const Frame& frame, int c, int lane, int n, const float* x, const Finish& finish,
                    const float* residual) const;
    // In how many parts an item is cut so that all threads have work.
    int parts(const Frame& frame, int items) const;

    const Op& op_;
    const Shape in_, out_, residual_;
    std::vector<Finish> finishes_;  // per output channel
};

// Weights of a layer as products of matrices take them: [panel][step][output channel][input channel] bits.
struct MatrixWeights {
    std::vector<uint8_t> kept, negative;
    bool quantised;
};

// Weights of a layer as the steps of both modes take them; the first that needs them makes them.
struct Packed {
    std::shared_ptr<const TapLists> lists;
    std::shared_ptr<const MatrixWeights> matrix;
};

// The step also does `pool`, if there is one and that pays.
std::unique_ptr<Step> make_bit_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                    const Kernels& kernels, Packed& packed);
std::unique_ptr<Step> make_sum_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                    const Kernels& kernels, Packed& packed);
// The same by products of matrices; null where these are not for it.
std::unique_ptr<Step> make_matrix_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                       const Kernels& kernels, Packed& packed);
// Whether 16 bits can name all that a convolution on floats reads of a plane.
bool can_sum(const Op& op, const Value& in, int images);
// Whether the step of an operation on floats can read `in` if that is levels. Steps on bits know bits and floats only.
bool reads_quantised(const Op& op, const std::vector<Shape>& shapes, const Shape& in);
std::unique_ptr<Step> make_pool_step(const Op& op, const std::vector<Shape>& shapes);

}  // namespace biprop
