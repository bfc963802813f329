// From images, as a caller has them, to the normalised floats that the first step of a plan reads.
#pragma once

#include <cstdint>

#include "program.h"
#include "step.h"
#include "thread_pool.h"

namespace biprop {

// Thrown where a pixel is infinite or not a number.
struct NotFinite {};

// Writes `count` images, at most those of a group, to the value of shape `in` at `base`. images: [count][channels]
// [height][width], or [count][height][width][channels] where channels_last. Bytes 0 .. 255 become 0 .. 1; floats are
// taken as they are. Then the program's mean is subtracted and its standard deviation divides. pool may be null.
template <class Pixel>
void read_pixels(const Program& program, const Shape& in, uint8_t* base, const Pixel* images, int count,
                 bool channels_last, Pool* pool);

extern template void read_pixels<uint8_t>(const Program&, const Shape&, uint8_t*, const uint8_t*, int, bool, Pool*);
extern template void read_pixels<float>(const Program&, const Shape&, uint8_t*, const float*, int, bool, Pool*);

}  // namespace biprop
