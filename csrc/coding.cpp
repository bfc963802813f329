// The entropy coder of masks: rANS with 64-bit states, 32-bit words and 16-bit probabilities. src/biprop/coding.py
// does the same in numpy, and docs/ticket-format.md explains the choices. All functions have a C interface, for
// ctypes, and no global state.

#include <cstdint>

#include "core.h"

namespace {

constexpr std::uint64_t kLowest = 1ull << 31;

}  // namespace

// Encodes the bits of a row from the last to the first; bit i belongs to state i mod lanes, a power of two. chances:
// the probability of a 1 in units of 1/65,536, one for each bit, or one for all where not `each`. The words, in the
// order in which the decoder reads them, go to the end of words [count + 1]. Returns their number.
BIPROP_EXPORT std::int64_t biprop_encode(std::uint64_t* states, const std::uint8_t* bits, const std::uint32_t* chances,
                                         std::uint32_t* words, std::int64_t lanes, std::int64_t count,
                                         std::int64_t each) {
    std::uint32_t* const end = words + count + 1;
    std::uint32_t* next = end;
    for (std::int64_t i = count; i-- > 0;) {
        std::uint64_t& state = states[i & (lanes - 1)];
        const std::uint64_t kept = chances[each ? i : 0], share = bits[i] ? kept : 65536 - kept;
        if (state >= share << 47) {
            *--next = static_cast<std::uint32_t>(state);
            state >>= 32;
        }
        state = (state / share << 16) + state % share + (bits[i] ? 0 : kept);
    }
    return end - next;
}

// Decodes a row of `count` bits. Returns the index of the next word, or -1 where the words end too early.
BIPROP_EXPORT std::int64_t biprop_decode(std::uint64_t* states, std::uint8_t* bits, const std::uint32_t* chances,
                                         const std::uint32_t* words, std::int64_t lanes, std::int64_t count,
                                         std::int64_t each, std::int64_t next, std::int64_t limit) {
    for (std::int64_t i = 0; i < count; ++i) {
        std::uint64_t& state = states[i & (lanes - 1)];
        const std::uint64_t kept = chances[each ? i : 0], slot = state & 65535;
        const bool one = slot < kept;
        bits[i] = one;
        state = (one ? kept : 65536 - kept) * (state >> 16) + slot - (one ? 0 : kept);
        if (state < kLowest) {
            if (next >= limit) return -1;
            state = state << 32 | words[next++];
        }
    }
    return next;
}
