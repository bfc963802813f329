#include "lists.h"

#include <algorithm>
#include <cstring>

namespace biprop {

TapLists::TapLists(const Op& op, int taps_per_channel, int width) : width(width) {
    const int unit = width / 8;
    const int channels = int(op.scale.size());
    zeros = uint16_t(taps_per_channel * unit), ones = uint16_t((taps_per_channel + 1) * unit);
    std::vector<uint16_t> signed_taps[2];
    for (int c = 0; c < channels; ++c) {
        for (auto& list : signed_taps) list.clear();
        for (int t = 0; t < taps_per_channel; ++t) {
            const size_t i = size_t(c) * taps_per_channel + t;
            if (op.kept(i)) signed_taps[op.positive(i) ? 0 : 1].push_back(uint16_t(t * unit));
        }
        kept.push_back(int(signed_taps[0].size() + signed_taps[1].size()));
        for (int s = 0; s < 2; ++s)
            while (signed_taps[s].size() % 8) signed_taps[s].push_back(s ? ones : zeros);
        ranges.push_back({uint32_t(taps.size() / 8), uint16_t(signed_taps[0].size() / 8), uint16_t(signed_taps[1].size() / 8)});
        for (const auto& list : signed_taps) taps.insert(taps.end(), list.begin(), list.end());
    }
    taps.shrink_to_fit();
    for (int c = 0; c < channels; ++c) order.push_back(uint32_t(c));
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        return std::make_pair(ranges[a].positive, ranges[a].negative) < std::make_pair(ranges[b].positive, ranges[b].negative);
    });
}

GroupedTaps::GroupedTaps(const TapLists& lists, int group, int lane)
    : order(lists.order), idle(lists.order.size()), group(group), lane(lane) {
    const auto& of = lists.ranges;
    for (size_t from = 0; from < order.size(); from += 64)
        std::stable_sort(order.begin() + from, order.begin() + std::min(order.size(), from + 64),
                         [&](int a, int b) { return of[a].negative < of[b].negative; });
}

int GroupedTaps::most_idle() const { return *std::max_element(idle.begin(), idle.end()); }

GroupedTaps gathered_taps(const TapLists& lists, int group) {
    GroupedTaps all(lists, group, 8);
    for (int g = 0; g < all.groups(); ++g) {
        const uint32_t* channels = all.order.data() + g * group;
        TapRange range{uint32_t(all.taps.size() / (8 * group)), 0, 0};
        for (int i = 0; i < group; ++i) {
            const TapRange& own = lists.ranges[channels[i]];
            range.positive = std::max(range.positive, own.positive), range.negative = std::max(range.negative, own.negative);
        }
        for (int negative = 0; negative < 2; ++negative)
            for (int k = 0; k < 8 * (negative ? range.negative : range.positive); ++k)
                for (int i = 0; i < group; ++i) {
                    const TapRange& own = lists.ranges[channels[i]];
                    const int count = 8 * (negative ? own.negative : own.positive), first = 8 * (own.start + (negative ? own.positive : 0));
                    all.taps.push_back(k < count ? lists.taps[first + k] : negative ? lists.ones : lists.zeros);
                }
        all.ranges.push_back(range);
    }
    all.taps.shrink_to_fit();
    return all;
}

// A round's window begins where the channel that is furthest behind has its next tap; the channels
// without a tap in it take the zero.
GroupedTaps shuffled_taps(const TapLists& lists, int taps, int lane) {
    const int group = 64 / lane, slots = lane == 8 ? 8 : 16, planes = slots - 1;  // of a block
    GroupedTaps all(lists, group, lane);
    std::vector<std::vector<int>> left(group);  // taps, the next one last
    const auto rounds = [&](bool negative, int g) {
        size_t most = 0;
        for (int i = 0; i < group; ++i) {
            const TapRange& own = lists.ranges[all.order[g * group + i]];
            const uint16_t* from = lists.taps.data() + 8 * (own.start + (negative ? own.positive : 0));
            left[i].clear();
            for (int k = 8 * (negative ? own.negative : own.positive); k-- > 0;)
                if (from[k] < taps) left[i].push_back(from[k]);
            most += left[i].size();
        }
        int eights = 0;
        for (; most; ++eights) {
            uint16_t index[8][32];
            uint8_t further[8] = {};
            int first = 0;
            for (int round = 0; round < 8; ++round) {
                int block = most ? taps / planes : first;
                for (const auto& own : left)
                    if (!own.empty()) block = std::min(block, own.back() / planes);
                if (!round) first = block;
                if (block - first > 255) block = first;  // nobody takes anything
                further[round] = uint8_t(block - first);
                for (int i = 0; i < group; ++i) {
                    auto& own = left[i];
                    const bool takes = !own.empty() && own.back() / planes <= block + 1;
                    const int tap = takes ? own.back() : 0;
                    index[round][i] = uint16_t(takes ? (tap / planes - block) * slots + tap % planes : planes);
                    if (takes) own.pop_back(), --most;
                    else all.idle[all.order[g * group + i]] += negative;
                }
            }
            all.taps.push_back(uint16_t(first));
            all.taps.resize(all.taps.size() + 4);
            std::memcpy(all.taps.data() + all.taps.size() - 4, further, 8);
            if (lane == 8) {
                for (int i = 0; i < group; ++i)
                    for (int half = 0; half < 2; ++half) {
                        const uint16_t* const own[4] = {index[4 * half], index[4 * half + 1], index[4 * half + 2], index[4 * half + 3]};
                        all.taps.push_back(uint16_t(own[0][i] | own[1][i] << 4 | own[2][i] << 8 | own[3][i] << 12));
                    }
            } else {
                for (int first = 0; first < 8; first += 3)
                    for (int i = 0; i < group; ++i)
                        all.taps.push_back(uint16_t(index[first][i] | index[first + 1][i] << 5 | (first < 6 ? index[first + 2][i] << 10 : 0)));
            }
        }
        return uint16_t(eights);
    };
    size_t start = 0;
    for (int g = 0; g < all.groups(); ++g) {
        const uint16_t positive = rounds(false, g), negative = rounds(true, g);
        all.ranges.push_back({uint32_t(start), positive, negative});
        start += positive + negative;
    }
    all.taps.shrink_to_fit();
    return all;
}

}  // namespace biprop
