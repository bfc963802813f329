// The kept weights of a layer, as lists of taps, for the kernels on bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "program.h"

namespace biprop {

struct GroupedTaps;

// The kept taps of a layer, by output channel, for tiles of `width` bytes; shared by the modes with such tiles.
struct TapLists {
    // Of the channels in the order below. Empty while dropped: no run uses them, and others hold the same weights.
    mutable std::vector<uint16_t> taps;
    std::vector<uint32_t> order;  // output channels, sorted by the length of their lists
    std::vector<TapRange> ranges;  // by output channel
    std::vector<int> kept;  // per output channel
    uint16_t zeros, ones;  // the planes that fill up groups of eight taps
    int width;
    TapLists(const Op& op, int taps_per_channel, int width);
    void restore(Op& op) const;  // writes its mask and sign
    void drop() const { release(taps); }
    bool is_dropped() const { return taps.empty() && groups_of_taps(); }
    // Makes dropped lists again, from what holds the same weights.
    void make_again(const Op& op) const;
    void make_again(const TapLists& other) const;
    void make_again(const GroupedTaps& gathered) const;
    int per_channel() const { return zeros / (width / 8); }  // taps of a channel, kept or not
    // Calls use(tap, negative) for the kept taps of a channel, without those that fill up its groups.
    template <class Use>
    void each_kept(int c, const Use& use) const {
        const uint16_t* const own = taps.data() + 8 * size_t(ranges[c].start);
        for (int i = 0; i < 8 * (ranges[c].positive + ranges[c].negative); ++i)
            if (own[i] < zeros) use(own[i] / (width / 8), i >= 8 * ranges[c].positive);
    }
    size_t bytes() const {
        return taps.size() * 2 + ranges.size() * (sizeof(TapRange) + 4) + kept.size() * sizeof(int);
    }
    size_t bytes_of_taps() const { return 16 * groups_of_taps(); }

  private:
    size_t groups_of_taps() const;
    uint16_t unit() const { return uint16_t(width / 8); }
};

// Lists of taps for groups of channels that are computed at once. Channels with lists of similar length share a group.
struct GroupedTaps {
    std::vector<uint16_t> taps;
    std::vector<uint32_t> order;
    std::vector<TapRange> ranges;
    std::vector<int> idle;  // by output channel: taps of a plane of zeros that stand for a negative tap
    const int group, lane;  // channels at once; bytes of the plane, or of the part of a plane, of one

    GroupedTaps(const TapLists& lists, int group, int lane);
    int most_idle() const;
    // Whether other lists can be made from these: not from those for permutations.
    bool restores() const { return lane == 8; }
    void restore(Op& op, int taps_per_channel) const;  // writes its mask and sign
    int groups() const { return int(order.size()) / group; }
    double eights() const {
        double sum = 0;
        for (const TapRange& range : ranges) sum += range.positive + range.negative;
        return sum;
    }
    size_t bytes() const {
        return taps.size() * 2 + (order.size() + idle.size()) * 4 + ranges.size() * sizeof(TapRange);
    }
};

// For the kernel `gathered`: the taps of the channels alternate, in lists as long as the longest.
GroupedTaps gathered_taps(const TapLists& lists, int group);
// For ShuffleKernels; `taps` is the number of taps of a channel, kept or not.
GroupedTaps shuffled_taps(const TapLists& lists, int taps, const ShuffleForm& form);

}  // namespace biprop
