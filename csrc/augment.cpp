// Data augmentation on the CPU, one image at a time, with every operation of AugMix as Pillow computes it. The tensor
// operations of src/biprop/data/augment.py and augmix.py do the same on any device, but more slowly.
//
// Images are bytes [channel][row][column]. All functions have a C interface, for ctypes, and no global state.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core.h"
#include "instructions.h"

namespace {

using Byte = std::uint8_t;

// In the order of OPERATIONS + ENHANCEMENTS of data/augmix.py.
enum Operation {
    kAutocontrast,
    kEqualize,
    kPosterize,
    kSolarize,
    kRotate,
    kShearX,
    kShearY,
    kTranslateX,
    kTranslateY,
    kColor,
    kContrast,
    kBrightness,
    kSharpness,
};

struct Shape {
    int channels, height, width;
    int plane() const { return height * width; }
    int size() const { return channels * plane(); }
};

// Memory that operations need beside their input and output, reused for all images.
struct Scratch {
    explicit Scratch(const Shape& shape)
        : padded(static_cast<std::size_t>(shape.channels) * (shape.height + 2) * (shape.width + 2)),
          right_share(shape.width),
          lower_share(shape.width),
          inside(shape.width),
          place(shape.width) {}
    std::vector<float> padded, right_share, lower_share, inside;
    std::vector<int> place;
};

void map_levels(const Byte* table, const Byte* in, Byte* out, int count) {
    for (int i = 0; i < count; ++i) out[i] = table[in[i]];
}

void autocontrast(const Byte* in, Byte* out, int count) {
    Byte low = 255, high = 0;
    for (int i = 0; i < count; ++i) {
        low = std::min(low, in[i]);
        high = std::max(high, in[i]);
    }
    if (low == high) {
        std::copy(in, in + count, out);
        return;
    }
    Byte table[256];
    const double scale = 255.0 / (high - low), offset = -low * scale;
    for (int i = 0; i < 256; ++i)
        table[i] = static_cast<Byte>(std::clamp(static_cast<int>(i * scale + offset), 0, 255));
    map_levels(table, in, out, count);
}

void equalize(const Byte* in, Byte* out, int count) {
    // Four histograms: neighbouring pixels of the same value would wait for each other's increment.
    int parts[4][256] = {};
    for (int i = 0; i < count; ++i) ++parts[i & 3][in[i]];
    int histogram[256], brightest = 0;
    for (int i = 0; i < 256; ++i) {
        histogram[i] = parts[0][i] + parts[1][i] + parts[2][i] + parts[3][i];
        if (histogram[i]) brightest = histogram[i];
    }
    const int step = (count - brightest) / 255;
    if (step == 0) {
        std::copy(in, in + count, out);
        return;
    }
    Byte table[256];
    for (int i = 0, below = step / 2; i < 256; below += histogram[i++])
        table[i] = static_cast<Byte>(std::min(below / step, 255));
    map_levels(table, in, out, count);
}

// An affine map: pixel (x, y) of the result is pixel (a x + b y + c, d x + e y + f) of the image, from the top left
// corner.
struct Map {
    double a, b, c, d, e, f;
};

// A copy with one more pixel on all sides, which repeats the border: bilinear interpolation needs no special cases
// there.
void pad(const Byte* in, float* out, int height, int width) {
    for (int row = -1; row <= height; ++row, out += width + 2) {
        const Byte* line = in + std::clamp(row, 0, height - 1) * width;
        out[0] = line[0];
        for (int column = 0; column < width; ++column) out[column + 1] = line[column];
        out[width + 1] = line[width - 1];
    }
}

BIPROP_INLINE inline void resample_one(const Map& map, const Byte* in, Byte* out, const Shape& shape,
                                       Scratch& scratch) {
    const int width = shape.width, height = shape.height, plane = shape.plane();
    const int stride = width + 2, padded = stride * (height + 2);
    for (int channel = 0; channel < shape.channels; ++channel) {
        pad(in + channel * plane, scratch.padded.data() + channel * padded, height, width);
    }
    const float a = static_cast<float>(map.a), d = static_cast<float>(map.d);
    int* __restrict place = scratch.place.data();
    float* __restrict right_share = scratch.right_share.data();
    float* __restrict lower_share = scratch.lower_share.data();
    float* __restrict inside = scratch.inside.data();
    const float last_x = width - 0.5f, last_y = height - 0.5f;
    for (int row = 0; row < height; ++row, out += width) {
        const float u0 = static_cast<float>(map.a * 0.5 + map.b * (row + 0.5) + map.c);
        const float v0 = static_cast<float>(map.d * 0.5 + map.e * (row + 0.5) + map.f);
        for (int column = 0; column < width; ++column) {
            const float u = u0 + a * column, v = v0 + d * column;
            inside[column] = (u >= 0 ? 1.0f : 0.0f) * (u < width ? 1.0f : 0.0f) * (v >= 0 ? 1.0f : 0.0f) *
                             (v < height ? 1.0f : 0.0f);
            // Coordinates in the padded image, whose first pixel has its centre at -0.5. Where (u, v) is outside, any
            // pixel will do.
            float x = u < 0 ? 0 : u, y = v < 0 ? 0 : v;
            x = (x > last_x ? last_x : x) + 0.5f;
            y = (y > last_y ? last_y : y) + 0.5f;
            const int left = static_cast<int>(x), top = static_cast<int>(y);
            place[column] = top * stride + left;
            right_share[column] = x - left;
            lower_share[column] = y - top;
        }
        for (int channel = 0; channel < shape.channels; ++channel) {
            const float* __restrict pixels = scratch.padded.data() + channel * padded;
            Byte* __restrict line = out + channel * plane;
            for (int column = 0; column < width; ++column) {
                const int at = place[column];
                const float upper = pixels[at] + (pixels[at + 1] - pixels[at]) * right_share[column];
                const float lower =
                    pixels[at + stride] + (pixels[at + stride + 1] - pixels[at + stride]) * right_share[column];
                const float value = (upper + (lower - upper) * lower_share[column] + 1e-3f) * inside[column];
                line[column] = static_cast<Byte>(
                    static_cast<int>(value));  // rounds down, but 6.9999 means 7: hence the 1e-3 above
            }
        }
    }
}

void resample(const Map& map, const Byte* in, Byte* out, const Shape& shape, Scratch& scratch) {
    biprop::run_fastest<resample_one, const Map&, const Byte*, Byte*, const Shape&, Scratch&>(map, in, out, shape,
                                                                                              scratch);
}

void translate(int right, int down, const Byte* in, Byte* out, const Shape& shape) {
    const int first = std::clamp(-right, 0, shape.width), last = std::clamp(shape.width - right, first, shape.width);
    for (int channel = 0; channel < shape.channels; ++channel) {
        for (int row = 0; row < shape.height; ++row, out += shape.width) {
            std::fill(out, out + shape.width, Byte{0});
            const int from = row + down;
            if (from < 0 || from >= shape.height) continue;
            const Byte* line = in + (channel * shape.height + from) * shape.width;
            std::copy(line + first + right, line + last + right, out + first);
        }
    }
}

// Interpolates between a degenerate image (factor 0) and the image (factor 1), or extrapolates. `dull` may be `out`.
void enhance(float factor, const Byte* dull, const Byte* in, Byte* out, int count) {
    for (int i = 0; i < count; ++i) {
        const float value =
            static_cast<float>(dull[i]) + factor * (static_cast<int>(in[i]) - static_cast<int>(dull[i]));
        out[i] = static_cast<Byte>(std::clamp(value, 0.0f, 255.0f));
    }
}

void luminance(const Byte* in, Byte* out, const Shape& shape) {
    const int plane = shape.plane();
    if (shape.channels < 3) {
        std::copy(in, in + plane, out);
        return;
    }
    for (int i = 0; i < plane; ++i) {
        const int weighted = in[i] * 19595 + in[plane + i] * 38470 + in[2 * plane + i] * 7471;
        out[i] = static_cast<Byte>((weighted + 0x8000) >> 16);
    }
}

void smooth(const Byte* in, Byte* out, const Shape& shape) {
    const int width = shape.width;
    std::copy(in, in + shape.size(), out);  // the outermost pixels stay
    for (int channel = 0; channel < shape.channels; ++channel) {
        for (int row = 1; row + 1 < shape.height; ++row) {
            for (int column = 1; column + 1 < width; ++column) {
                const int at = (channel * shape.height + row) * width + column;
                int sum = 4 * in[at];
                for (int line = at - width; line <= at + width; line += width)
                    sum += in[line - 1] + in[line] + in[line + 1];
                out[at] = static_cast<Byte>(sum / 13.0f + 0.5f);
            }
        }
    }
}

void apply(int operation, double level, double sign, const Byte* in, Byte* out, const Shape& shape, Scratch& scratch) {
    const int size = shape.size(), plane = shape.plane();
    const double width = shape.width, height = shape.height;
    const float factor = static_cast<float>(0.18 * level + 0.1);
    switch (operation) {
        case kAutocontrast:
            for (int channel = 0; channel < shape.channels; ++channel)
                autocontrast(in + channel * plane, out + channel * plane, plane);
            return;
        case kEqualize:
            for (int channel = 0; channel < shape.channels; ++channel)
                equalize(in + channel * plane, out + channel * plane, plane);
            return;
        case kPosterize: {
            const int mask = 256 - (1 << (4 + static_cast<int>(0.4 * level)));
            for (int i = 0; i < size; ++i) out[i] = static_cast<Byte>(in[i] & mask);
            return;
        }
        case kSolarize: {
            const int threshold = 256 - static_cast<int>(25.6 * level);
            for (int i = 0; i < size; ++i) out[i] = static_cast<Byte>(in[i] < threshold ? in[i] : 255 - in[i]);
            return;
        }
        case kRotate: {
            const double angle = -sign * static_cast<int>(3 * level) * (3.14159265358979323846 / 180);
            const double c = std::cos(angle), s = std::sin(angle);
            const double x = (1 - c) * width / 2 - s * height / 2, y = (1 - c) * height / 2 + s * width / 2;
            return resample({c, s, x, -s, c, y}, in, out, shape, scratch);
        }
        case kShearX: return resample({1, sign * 0.03 * level, 0, 0, 1, 0}, in, out, shape, scratch);
        case kShearY: return resample({1, 0, 0, sign * 0.03 * level, 1, 0}, in, out, shape, scratch);
        case kTranslateX:
            return translate(static_cast<int>(sign) * static_cast<int>(level * width / 30), 0, in, out, shape);
        case kTranslateY:
            return translate(0, static_cast<int>(sign) * static_cast<int>(level * height / 30), in, out, shape);
        case kColor:
            luminance(in, out, shape);
            for (int channel = shape.channels - 1; channel >= 0; --channel)
                enhance(factor, out, in + channel * plane, out + channel * plane, plane);
            return;
        case kContrast: {
            luminance(in, out, shape);
            double sum = 0;
            for (int i = 0; i < plane; ++i) sum += out[i];
            std::fill(out, out + size, static_cast<Byte>(sum / plane + 0.5));
            return enhance(factor, out, in, out, size);
        }
        case kBrightness: {
            std::fill(out, out + size, Byte{0});
            return enhance(factor, out, in, out, size);
        }
        case kSharpness: {
            smooth(in, out, shape);
            return enhance(factor, out, in, out, size);
        }
    }
}

}  // namespace

// The version of this interface. src/biprop/native.py ignores a library of another version.
BIPROP_EXPORT int biprop_core_version() { return 5; }

// Picks rows and columns of images `first` to `last` (exclusive): pixel (y, x) of an image becomes its pixel
// (rows[y], columns[x]), or 0 outside the image. rows: [B, height], columns: [B, width].
BIPROP_EXPORT void biprop_pick(const Byte* images, Byte* picked, std::int64_t first, std::int64_t last, int channels,
                               int height, int width, const std::int64_t* rows, const std::int64_t* columns) {
    std::vector<int> from(width);
    std::vector<Byte> mask(width);
    for (std::int64_t image = first; image < last; ++image) {
        for (int x = 0; x < width; ++x) {
            const std::int64_t column = columns[image * width + x];
            const bool exists = column >= 0 && column < width;
            from[x] = exists ? static_cast<int>(column) : 0;
            mask[x] = exists ? 255 : 0;
        }
        for (int channel = 0; channel < channels; ++channel) {
            const std::int64_t plane = (image * channels + channel) * height;
            for (int y = 0; y < height; ++y) {
                const std::int64_t row = rows[image * height + y];
                Byte* out = picked + (plane + y) * width;
                if (row < 0 || row >= height) {
                    std::fill(out, out + width, Byte{0});
                    continue;
                }
                const Byte* in = images + (plane + row) * width;
                for (int x = 0; x < width; ++x) out[x] = in[from[x]] & mask[x];
            }
        }
    }
}

// Mixes images `first` to `last` (exclusive) of a batch. The arrays are those of `Draw` in data/augmix.py:
// operations, levels and signs [B, chains, longest], depths and weights [B, chains], mix [B]. images: [B, channels,
// height, width]; mixed: the same, 0 .. 255.
BIPROP_EXPORT void biprop_augmix(const Byte* images, float* mixed, std::int64_t first, std::int64_t last, int channels,
                                 int height, int width, int chains, int longest, const std::int64_t* operations,
                                 const double* levels, const double* signs, const std::int64_t* depths,
                                 const double* weights, const double* mix) {
    const Shape shape{channels, height, width};
    const int size = shape.size();
    std::vector<Byte> one(size), other(size);
    Scratch scratch(shape);
    for (std::int64_t image = first; image < last; ++image) {
        const Byte* clean = images + image * size;
        float* result = mixed + image * size;
        const float clean_share = static_cast<float>(1 - mix[image]);
        for (int i = 0; i < size; ++i) result[i] = clean_share * clean[i];
        for (int chain = 0; chain < chains; ++chain) {
            const std::int64_t number = image * chains + chain;
            const Byte* from = clean;
            for (int step = 0; step < depths[number]; ++step) {
                const std::int64_t at = number * longest + step;
                Byte* to = from == one.data() ? other.data() : one.data();
                apply(static_cast<int>(operations[at]), levels[at], signs[at], from, to, shape, scratch);
                from = to;
            }
            const float share = static_cast<float>(mix[image] * weights[number]);
            for (int i = 0; i < size; ++i) result[i] += share * from[i];
        }
    }
}
