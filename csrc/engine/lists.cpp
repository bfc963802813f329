#include "lists.h"

#include <algorithm>
#include <cstring>

namespace biprop {

TapLists::TapLists(const Op& op, int taps_per_channel, int width) : width(width) {
    const int channels = int(op.scale.size());
    zeros = uint16_t(taps_per_channel * unit());
    ones = uint16_t((taps_per_channel + 1) * unit());
    for (int c = 0; c < channels; ++c) {
        const size_t first = size_t(c) * taps_per_channel;
        int counts[2] = {};
        for (const bool negative : {false, true})
            op.each_kept(first, first + taps_per_channel, negative, [&](size_t) { ++counts[negative]; });
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
    make_again(op);
}

size_t TapLists::groups_of_taps() const {
    if (order.empty()) return 0;
    const TapRange& last = ranges[order.back()];
    return size_t(last.start) + last.positive + last.negative;
}

void TapLists::make_again(const Op& op) const {
    taps.resize(8 * groups_of_taps());
    const size_t per_channel = this->per_channel();
    for (size_t c = 0; c < ranges.size(); ++c) {
        const TapRange& range = ranges[c];
        const size_t first = c * per_channel;
        uint16_t* to = taps.data() + 8 * size_t(range.start);
        for (const bool negative : {false, true}) {
            uint16_t* const end = to + 8 * (negative ? range.negative : range.positive);
            op.each_kept(first, first + per_channel, negative,
                         [&](size_t i) { *to++ = uint16_t((i - first) * unit()); });
            std::fill(to, end, negative ? ones : zeros);
            to = end;
        }
    }
}

// The same taps in the same order, in other units.
void TapLists::make_again(const TapLists& other) const {
    taps.resize(other.taps.size());
    const int up = unit() > other.unit() ? unit() / other.unit() : 1;
    const int down = unit() > other.unit() ? 1 : other.unit() / unit();
    for (size_t i = 0; i < taps.size(); ++i) taps[i] = uint16_t(other.taps[i] * up / down);
}

// In groups the taps of channels alternate, in lists as long as the longest.
void TapLists::make_again(const GroupedTaps& gathered) const {
    taps.resize(8 * groups_of_taps());
    const int group = gathered.group;
    for (size_t i = 0; i < gathered.order.size(); ++i) {
        const TapRange &own = ranges[gathered.order[i]], &all = gathered.ranges[i / group];
        const uint16_t* from = gathered.taps.data() + size_t(all.start) * 8 * group + i % group;
        uint16_t* to = taps.data() + 8 * size_t(own.start);
        for (int k = 0; k < 8 * own.positive; ++k) *to++ = uint16_t(from[size_t(k) * group] * unit());
        from += size_t(all.positive) * 8 * group;
        for (int k = 0; k < 8 * own.negative; ++k) *to++ = uint16_t(from[size_t(k) * group] * unit());
    }
}

void TapLists::restore(Op& op) const {
    Op::Kept kept(ranges.size() * per_channel());
    for (size_t c = 0; c < ranges.size(); ++c)
        each_kept(int(c), [&](int tap, bool negative) { kept.keep(c * per_channel() + tap, negative); });
    op.take(std::move(kept));
}

GroupedTaps::GroupedTaps(const TapLists& lists, int group, int lane)
    : order(lists.order), idle(lists.order.size()), group(group), lane(lane) {
    const auto& of = lists.ranges;
    for (size_t from = 0; from < order.size(); from += 64)
        std::stable_sort(order.begin() + from, order.begin() + std::min(order.size(), from + 64),
                         [&](int a, int b) { return of[a].negative < of[b].negative; });
}

void GroupedTaps::restore(Op& op, int taps_per_channel) const {
    Op::Kept kept(order.size() * taps_per_channel);
    for (size_t i = 0; i < order.size(); ++i) {
        const TapRange& all = ranges[i / group];
        const uint16_t* const from = taps.data() + size_t(all.start) * 8 * group + i % group;
        for (int k = 0; k < 8 * (all.positive + all.negative); ++k) {
            const int tap = from[size_t(k) * group];
            if (tap >= taps_per_channel) continue;  // fills up the list
            kept.keep(size_t(order[i]) * taps_per_channel + tap, k >= 8 * all.positive);
        }
    }
    op.take(std::move(kept));
}

int GroupedTaps::most_idle() const { return *std::max_element(idle.begin(), idle.end()); }

GroupedTaps gathered_taps(const TapLists& lists, int group) {
    GroupedTaps all(lists, group, 8);
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
                    const int count = 8 * (negative ? own.negative : own.positive);
                    const int first = 8 * (own.start + (negative ? own.positive : 0));
                    const uint16_t filler = negative ? lists.ones : lists.zeros;
                    all.taps.push_back(k < count ? lists.taps[first + k] : filler);
                }
        all.ranges.push_back(range);
    }
    all.taps.shrink_to_fit();
    return all;
}

namespace {

// Writes the lists that ShuffleKernels take. In a round, each channel of a group takes one tap of a window of slots;
// eight rounds share an entry of the list.
class ShuffledLists {
  public:
    ShuffledLists(const TapLists& lists, int taps, const ShuffleForm& form)
        : lists_(lists),
          form_(form),
          grouped_(lists, form.group, form.lane),
          group_(grouped_.group),
          grain_(form.grain),
          unit_(grain_ == 1 ? 1 : 8),
          end_(form.slot(taps)),
          left_(group_) {}

    GroupedTaps make() {
        size_t start = 0;
        for (int g = 0; g < grouped_.groups(); ++g) {
            const uint16_t positive = add_entries(false, g);
            const uint16_t negative = add_entries(true, g);
            grouped_.ranges.push_back({uint32_t(start), positive, negative});
            start += positive + negative;
        }
        grouped_.taps.shrink_to_fit();
        return std::move(grouped_);
    }

  private:
    struct Entry {
        int first = 0;  // line or slot of the first window
        uint8_t further[8] = {};  // where the window of each round begins, from there
        uint16_t index[8][32];  // the slot that each channel takes of a round's window
    };

    int slot(int tap) const { return form_.slot(tap); }

    // The entries of the positive or of the negative taps of group g; returns their number.
    uint16_t add_entries(bool negative, int g) {
        size_t count = collect(negative, g);
        int entries = 0;
        for (; count; ++entries) {
            Entry entry;
            for (int round = 0; round < 8; ++round) count -= take_round(round, negative, g, count > 0, entry);
            append(entry);
        }
        return uint16_t(entries);
    }

    size_t collect(bool negative, int g) {
        size_t count = 0;
        for (int i = 0; i < group_; ++i) {
            left_[i].clear();
            lists_.each_kept(int(grouped_.order[g * group_ + i]), [&](int tap, bool is_negative) {
                if (is_negative == negative) left_[i].push_back(tap);
            });
            std::reverse(left_[i].begin(), left_[i].end());
            count += left_[i].size();
        }
        return count;
    }

    // The window begins where the channel that is furthest behind has its next tap; channels without a tap in the
    // window take its zero. Returns how many channels took a tap.
    size_t take_round(int round, bool negative, int g, bool any_left, Entry& entry) {
        const int window = form_.window;
        int start = any_left ? end_ : entry.first * grain_;
        for (const auto& own : left_)
            if (!own.empty()) start = std::min(start, slot(own.back()));
        if (!round) entry.first = start / grain_;
        // Where eight bits cannot name the window, no channel takes a tap in this round.
        if ((start / grain_ - entry.first) * unit_ > 255) start = entry.first * grain_;
        entry.further[round] = uint8_t((start / grain_ - entry.first) * unit_);
        start -= start % grain_;
        size_t taken = 0;
        for (int i = 0; i < group_; ++i) {
            auto& own = left_[i];
            const bool takes = !own.empty() && slot(own.back()) < start + window;
            entry.index[round][i] = uint16_t(takes ? slot(own.back()) - start : window - 1 - start % window);
            if (takes) {
                own.pop_back();
                ++taken;
            } else {
                grouped_.idle[grouped_.order[g * group_ + i]] += negative;
            }
        }
        return taken;
    }

    void append(const Entry& entry) {
        grouped_.taps.push_back(uint16_t(entry.first));
        append_bytes(entry.further, sizeof entry.further);
        switch (form_.slots) {
            case ShuffleForm::halves: return append_indices_of_halves(entry);
            case ShuffleForm::quarters: return append_indices_of_quarters(entry);
            case ShuffleForm::bytes: return append_indices_of_bytes(entry);
        }
    }

    // Of a channel 32 bits for six rounds and the lower two bits of the last one; then 8 bits for the seventh and the
    // rest.
    void append_indices_of_halves(const Entry& entry) {
        uint32_t six[16];
        uint8_t rest[16];
        for (int i = 0; i < group_; ++i) {
            six[i] = uint32_t(entry.index[7][i]) << 30;
            for (int round = 0; round < 6; ++round) six[i] |= uint32_t(entry.index[round][i]) << 5 * round;
            rest[i] = uint8_t(entry.index[6][i] | entry.index[7][i] >> 2 << 5);
        }
        append_bytes(six, sizeof six);
        append_bytes(rest, sizeof rest);
    }

    // Of a channel three numbers of 16 bits, for three rounds each.
    void append_indices_of_quarters(const Entry& entry) {
        for (int round = 0; round < 8; round += 3)
            for (int i = 0; i < group_; ++i) {
                const int third = round < 6 ? entry.index[round + 2][i] << 10 : 0;
                grouped_.taps.push_back(uint16_t(entry.index[round][i] | entry.index[round + 1][i] << 5 | third));
            }
    }

    // Of a channel a byte for two rounds.
    void append_indices_of_bytes(const Entry& entry) {
        uint8_t two[16];
        for (int round = 0; round < 8; round += 2) {
            for (int i = 0; i < group_; ++i) two[i] = uint8_t(entry.index[round][i] | entry.index[round + 1][i] << 4);
            append_bytes(two, sizeof two);
        }
    }

    void append_bytes(const void* bytes, size_t size) {
        auto& taps = grouped_.taps;
        taps.resize(taps.size() + size / 2);
        std::memcpy(taps.data() + taps.size() - size / 2, bytes, size);
    }

    const TapLists& lists_;
    const ShuffleForm form_;
    GroupedTaps grouped_;
    const int group_, grain_, unit_;
    const int end_;  // the slot behind all taps
    std::vector<std::vector<int>> left_;  // by channel of the group: its taps from the last to the next
};

}  // namespace

GroupedTaps shuffled_taps(const TapLists& lists, int taps, const ShuffleForm& form) {
    return ShuffledLists(lists, taps, form).make();
}

}  // namespace biprop
