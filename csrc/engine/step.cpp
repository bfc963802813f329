#include "step.h"

#include <algorithm>

namespace biprop {

Buffer::Buffer(size_t bytes) : memory_(new uint8_t[bytes + 2 * kSlack + 64]()), bytes_(bytes) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get() + kSlack);
    data_ = memory_.get() + kSlack + (64 - address % 64) % 64;
}

// Planes at a distance of a power of two would compete for a few lines of the cache.
static size_t apart(size_t plane) { return plane % 512 ? plane : plane + 64; }

Shape::Shape(const Value& value, int images)
    : bits(value.bits), channels(value.channels), height(value.height), width(value.width), images(images) {
    if (!bits) {
        plane = round_up(size_t(lanes()), 16) * sizeof(float);
    } else if (images > 1) {
        plane = round_up(size_t(positions()), 8) * sizeof(uint64_t);
    } else {
        row = row_of(width);
        front = round_up(kRing * row / 8, 8);
        plane = round_up(front + size_t(height + kRing) * row / 8, 8) + 64;  // a tile may reach below the last row
    }
    plane = apart(plane);
}

Shape Shape::quantised_to_range(float least, float most, int limit) const {
    Shape shape = *this;
    shape.high = least < 0 ? 127 : 255;
    if (limit >= 100) shape.high = std::min(shape.high, limit);
    shape.low = least < 0 ? -shape.high : 0;
    const float largest = std::max(most, -least);
    shape.step = (largest > 0 ? largest : 1) / float(shape.high);
    shape.plane = apart(round_up(size_t(lanes()), 32) * sizeof(int16_t));
    return shape;
}

Shape Shape::quantised_like(const Shape& other) const {
    Shape shape = *this;
    shape.step = other.step;
    shape.low = other.low;
    shape.high = other.high;
    return shape;
}

void Shape::read(uint8_t* base, int c, int lane, int n, float* to) const {
    if (plain()) {
        std::memcpy(to, floats(base, c) + lane, sizeof(float) * n);
    } else if (quantised()) {
        const int16_t* from = int16s(base, c) + lane;
        for (int i = 0; i < n; ++i) to[i] = step * float(from[i]);
    } else {
        for (int i = 0; i < n;) {  // a cell or a row at a time
            const int in_word = images > 1 ? images : width, word = (lane + i) / in_word, at = (lane + i) % in_word;
            const uint64_t bits = (images > 1 ? cells(base, c)[word] : load_row(base, c, word)) >> at;
            const int count = std::min(n - i, in_word - at);
            for (int k = 0; k < count; ++k) to[i + k] = bits >> k & 1 ? 1.0f : -1.0f;
            i += count;
        }
    }
}

const float* Step::residual(const Frame& frame, int c, int lane, int n, float* room) const {
    if (op_.residual == kNone) return nullptr;
    uint8_t* base = frame.values[op_.residual];
    if (residual_.plain()) return residual_.floats(base, c) + lane;
    residual_.read(base, c, lane, n, room);
    return room;
}

void Step::emit(const Frame& frame, int c, int lane, int n, const float* x, float* room) const {
    n = std::min(n, out_.lanes() - lane);
    const float* residual = this->residual(frame, c, lane, n, room);
    if (out_.bits) return emit_signs(frame, c, lane, n, x, finishes_[c], residual);
    store(frame, out_, frame.values[op_.out], c, lane, n, x, finishes_[c], residual);
}

void Step::store(const Frame& frame, const Shape& shape, uint8_t* base, int c, int lane, int n, const float* x,
                 const Finish& finish, const float* residual) {
    if (shape.quantised())
        frame.kernels->finish_quantised(x, n, shape.quantised_finish(finish), residual, shape.int16s(base, c) + lane);
    else
        frame.kernels->finish_floats(x, n, finish, residual, shape.floats(base, c) + lane);
}

void Step::emit_signs(const Frame& frame, int c, int lane, int n, const float* x, const Finish& finish,
                      const float* residual) const {
    uint8_t* base = frame.values[op_.out];
    if (out_.images > 1 || (out_.row == out_.width && lane % 8 == 0))  // the bits lie in the order of the lanes
        return frame.kernels->signs(x, n, finish, residual, base + c * out_.plane + out_.front + lane / 8);
    const int width = out_.width, at_once = width <= 32 ? 64 / width : 1;
    for (int i = 0, row = lane / width, at = lane % width; i < n; at = 0) {  // as many rows as a word holds
        const int rows = at ? 1 : std::clamp((n - i) / width, 1, at_once), count = std::min(n - i, rows * width - at);
        uint64_t bits = 0;
        frame.kernels->signs(x + i, count, finish, residual ? residual + i : nullptr,
                             reinterpret_cast<uint8_t*>(&bits));
        for (int y = 0; y < rows; ++y, ++row, bits >>= width % 64) {
            const uint64_t own = (width < 64 ? bits & ((uint64_t(1) << width) - 1) : bits) << at;
            out_.store_row(base, c, row, at ? out_.load_row(base, c, row) | own : own);
        }
        i += count;
    }
}

int Step::parts(const Frame& frame, int items) const {
    // As few as possible, because each part packs its input again.
    return std::clamp((frame.threads() + items - 1) / items, 1, std::max(1, out_.channels / 8));
}

}  // namespace biprop
