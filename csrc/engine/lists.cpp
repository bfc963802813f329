#include "lists.h"

#include <algorithm>
#include <cstring>

namespace biprop {

TapLists::TapLists(const Op& op, int taps_per_channel, int width) : width(width) {
    const int unit = width / 8;
    const int channels = int(op.scale.size());
    zeros = uint16_t(taps_per_channel * unit);
    ones = uint16_t((taps_per_channel + 1) * unit);
    const auto each_kept = [&](int c, const auto& use) {  // use(tap, negative)
        for (int t = 0; t < taps_per_channel; ++t) {
            const size_t i = size_t(c) * taps_per_channel + t;
            if (op.kept(i)) use(t, !op.positive(i));
        }
    };
    for (int c = 0; c < channels; ++c) {
        int counts[2] = {};
        each_kept(c, [&](int, bool negative) { ++counts[negative]; });
        kept.push_back(counts[0] + counts[1]);
        ranges.push_back({0, uint16_t((counts[0] + 7) / 8), uint16_t((counts[1] + 7) / 8)});
        order.push_back(uint32_t(c));
    }
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        return std::make_pair(ranges[a].positive, ranges[a].negative) <
               std::make_pair(ranges[b].positive, ranges[b].negative);
    });
    size_t groups = 0;
    for (const uint32_t c : order) {
        ranges[c].start = uint32_t(groups);
        groups += ranges[c].positive + ranges[c].negative;
    }
    taps.resize(8 * groups);
    for (int c = 0; c < channels; ++c) {
        const TapRange& range = ranges[c];
        uint16_t* const from = taps.data() + 8 * size_t(range.start);
        uint16_t* to[2] = {from, from + 8 * range.positive};
        each_kept(c, [&](int t, bool negative) { *to[negative]++ = uint16_t(t * unit); });
        std::fill(to[0], from + 8 * range.positive, zeros);
        std::fill(to[1], from + 8 * (range.positive + range.negative), ones);
    }
}

void TapLists::restore(Op& op) const {
    op.mask.assign((ranges.size() * per_channel() + 7) / 8, 0);
    op.sign = op.mask;
    for (size_t c = 0; c < ranges.size(); ++c)
        each_kept(int(c), [&](int tap, bool negative) {
            const size_t at = c * per_channel() + tap;
            op.mask[at / 8] |= uint8_t(1 << at % 8);
            if (!negative) op.sign[at / 8] |= uint8_t(1 << at % 8);
        });
}

GroupedTaps::GroupedTaps(const TapLists& lists, int group, int grain)
    : order(lists.order),
      idle(lists.order.size()),
      group(group),
      lane(grain > 1 ? 4
           : grain   ? 2
                     : 8),
      grain(grain) {
    const auto& of = lists.ranges;
    for (size_t from = 0; from < order.size(); from += 64)
        std::stable_sort(order.begin() + from, order.begin() + std::min(order.size(), from + 64),
                         [&](int a, int b) { return of[a].negative < of[b].negative; });
}

int GroupedTaps::most_idle() const { return *std::max_element(idle.begin(), idle.end()); }

GroupedTaps gathered_taps(const TapLists& lists, int group) {
    GroupedTaps all(lists, group, 0);
    for (int g = 0; g < all.groups(); ++g) {
        const uint32_t* channels = all.order.data() + g * group;
        TapRange range{uint32_t(all.taps.size() / (8 * group)), 0, 0};
        for (int i = 0; i < group; ++i) {
            const TapRange& own = lists.ranges[channels[i]];
            range.positive = std::max(range.positive, own.positive);
            range.negative = std::max(range.negative, own.negative);
        }
        for (int negative = 0; negative < 2; ++negative)
            for (int k = 0; k < 8 * (negative ? range.negative : range.positive); ++k)
                for (int i = 0; i < group; ++i) {
                    const TapRange& own = lists.ranges[channels[i]];
                    const int count = 8 * (negative ? own.negative : own.positive),
                              first = 8 * (own.start + (negative ? own.positive : 0));
                    all.taps.push_back(k < count ? lists.taps[first + k] : negative ? lists.ones : lists.zeros);
                }
        all.ranges.push_back(range);
    }
    all.taps.shrink_to_fit();
    return all;
}

// A round's window begins where the channel that is furthest behind has its next tap; the channels
// without a tap in it take the zero.
GroupedTaps shuffled_taps(const TapLists& lists, int taps, int grain) {
    constexpr int window = 32;
    const int group = grain == 1 ? 32 : 16, unit = grain == 1 ? 1 : 8;
    const auto slot = [&](int tap) { return tap / (window - 1) * window + tap % (window - 1); };
    GroupedTaps all(lists, group, grain);
    std::vector<std::vector<int>> left(group);  // taps, the next one last
    const auto rounds = [&](bool negative, int g) {
        size_t most = 0;
        for (int i = 0; i < group; ++i) {
            left[i].clear();
            lists.each_kept(int(all.order[g * group + i]), [&](int tap, bool is_negative) {
                if (is_negative == negative) left[i].push_back(tap);
            });
            std::reverse(left[i].begin(), left[i].end());
            most += left[i].size();
        }
        int eights = 0;
        for (; most; ++eights) {
            uint16_t index[8][32];
            uint8_t further[8] = {};
            int first = 0;
            for (int round = 0; round < 8; ++round) {
                int start = most ? slot(taps) : first * grain;
                for (const auto& own : left)
                    if (!own.empty()) start = std::min(start, slot(own.back()));
                if (!round) first = start / grain;
                if ((start / grain - first) * unit > 255) start = first * grain;  // nobody takes anything
                further[round] = uint8_t((start / grain - first) * unit);
                start -= start % grain;
                for (int i = 0; i < group; ++i) {
                    auto& own = left[i];
                    const bool takes = !own.empty() && slot(own.back()) < start + window;
                    index[round][i] = uint16_t(takes ? slot(own.back()) - start : window - 1 - start % window);
                    if (takes) {
                        own.pop_back();
                        --most;
                    } else
                        all.idle[all.order[g * group + i]] += negative;
                }
            }
            all.taps.push_back(uint16_t(first));
            all.taps.resize(all.taps.size() + 4);
            std::memcpy(all.taps.data() + all.taps.size() - 4, further, 8);
            if (grain > 1) {
                uint32_t six[16];
                uint8_t rest[16];
                for (int i = 0; i < group; ++i) {
                    six[i] = uint32_t(index[7][i]) << 30;
                    for (int round = 0; round < 6; ++round) six[i] |= uint32_t(index[round][i]) << 5 * round;
                    rest[i] = uint8_t(index[6][i] | index[7][i] >> 2 << 5);
                }
                all.taps.resize(all.taps.size() + 40);
                std::memcpy(all.taps.data() + all.taps.size() - 40, six, sizeof six);
                std::memcpy(all.taps.data() + all.taps.size() - 8, rest, sizeof rest);
            } else {
                for (int first = 0; first < 8; first += 3)
                    for (int i = 0; i < group; ++i)
                        all.taps.push_back(uint16_t(index[first][i] | index[first + 1][i] << 5 |
                                                    (first < 6 ? index[first + 2][i] << 10 : 0)));
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
