#include "pixels.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace biprop {

namespace {

constexpr int kBlock = 64;  // positions that are read together

// Normalises the pixels of one channel.
template <class Pixel>
class Normaliser {
  public:
    Normaliser(float mean, float std) : mean_(mean), std_(std) {
        if (sizeof(Pixel) == 1)
            for (int v = 0; v < 256; ++v) table_[v] = (float(v) / 255.0f - mean) / std;
    }

    // Every `step`th of n pixels. Returns whether all are finite.
    bool convert(const Pixel* from, int step, int n, float* to) const {
        return step == 1 ? convert_every(from, 1, n, to) : convert_every(from, step, n, to);
    }

  private:
    bool convert_every(const Pixel* from, int step, int n, float* to) const {
        const float mean = mean_, std = std_;  // in registers: `to` could overlap with the members
        uint32_t not_finite = 0;
        for (int p = 0; p < n; ++p) {
            const Pixel value = from[size_t(p) * step];
            if constexpr (sizeof(Pixel) == 1) {
                to[p] = table_[value];
            } else {
                uint32_t exponent;  // compared as an integer, because compilers vectorise this
                std::memcpy(&exponent, &value, sizeof exponent);
                not_finite |= (exponent & 0x7f800000u) == 0x7f800000u;
                to[p] = (value - mean) / std;
            }
        }
        return !not_finite;
    }

    const float mean_, std_;
    float table_[256];  // of bytes
};

}  // namespace

// A block of positions of one channel at a time, for all images: first a row for each image, then transposed so that
// the images of a position are neighbours.
template <class Pixel>
void read_pixels(const Program& program, const Shape& in, uint8_t* base, const Pixel* images, int count,
                 bool channels_last, Pool* pool) {
    const int positions = in.positions();
    const int blocks = (positions + kBlock - 1) / kBlock;
    const int per_pixel = channels_last ? in.channels : 1;
    const int per_channel = channels_last ? 1 : positions;
    std::atomic<bool> finite{true};
    const auto read = [&](int item, int) {
        const int c = item % in.channels;
        const int first = item / in.channels * kBlock;
        const int n = std::min(kBlock, positions - first);
        const Normaliser<Pixel> normaliser(program.mean.empty() ? 0.0f : program.mean[c],
                                           program.std.empty() ? 1.0f : program.std[c]);
        float rows[kBlock * kBlock];
        float* to = in.floats(base, c) + size_t(first) * in.images;
        for (int i = 0; i < count; ++i) {
            const Pixel* image = images + size_t(i) * in.channels * positions;
            const Pixel* from = image + size_t(c) * per_channel + size_t(first) * per_pixel;
            float* row = in.images == 1 ? to : rows + i * kBlock;
            if (!normaliser.convert(from, per_pixel, n, row)) finite.store(false, std::memory_order_relaxed);
        }
        if (in.images == 1) return;
        for (int p = 0; p < n; ++p)
            for (int i = 0; i < count; ++i) to[size_t(p) * in.images + i] = rows[i * kBlock + p];
    };
    const int items = in.channels * blocks;
    if (pool && in.images > 1)
        pool->each(items, read);
    else
        for (int i = 0; i < items; ++i) read(i, 0);
    if (!finite) throw NotFinite{};
}

template void read_pixels<uint8_t>(const Program&, const Shape&, uint8_t*, const uint8_t*, int, bool, Pool*);
template void read_pixels<float>(const Program&, const Shape&, uint8_t*, const float*, int, bool, Pool*);

}  // namespace biprop
