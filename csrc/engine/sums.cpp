// Convolutions on floats and on quantised activations as sparse sums: the inputs of positive weights minus those of
// negative weights. Only dense layers multiply.
//
// For a tile of lanes, the inputs that its taps see are copied to a small buffer, one block of input channels at a
// time, so that all output channels find them in the fastest cache. A list of taps holds offsets into that buffer.
#include <algorithm>
#include <map>
#include <tuple>

#include "caches.h"
#include "step.h"

namespace biprop {

namespace {

// Of the buffer: seven eighths of the fastest cache; the rest is for lists and for sums of earlier blocks.
size_t block_bytes() { return first_cache() / 8 * 7; }

// Output channels that one thread computes, sorted by their number of taps.
constexpr int kGroup = 64;
// Where a tap takes little time, lists are multiples of this: kernels take as many taps at once.
constexpr int kAtOnce = 4;
// With few weights, smaller buffers of more channels outweigh that some loads cross cache lines.
constexpr double kPaddedBelow = 0.12;
constexpr size_t kMostBlock = 96 << 10;  // bytes

// How the buffer of a block is laid out: channel c, tap (y, x) begins at c * channel + y * row + x * column.
enum class Layout {
    taps,  // a copy of the lanes for every tap: for any stride and padding
    rows,  // for one image and whole rows: a copy for each column of the kernel, shared by its rows
    padded,  // for one image and whole rows: one copy, shared by all taps, with zeros between rows
    columns,  // for many images and positions of one row, or of two: one copy, shared by all taps
    whole,  // the kernel covers the input: no copy
};

template <class Sides>  // a Value or a Shape
bool covers(const Op& op, const Sides& in) {
    return op.kernel_height == in.height && op.kernel_width == in.width && !op.padding;
}

// A copy of `count` runs of `run` numbers, at distances from_step and to_step; with run 0, `count` zeros.
struct Copy {
    int to, from, count, run, from_step, to_step;
};

template <int Run, class Number>
void copy_runs(const Copy& c, const Number* from, Number* to) {
    for (int i = 0; i < c.count; ++i, from += c.from_step, to += c.to_step) std::memcpy(to, from, sizeof(Number) * Run);
}

template <class Number>
void copy_numbers(const Copy& c, const Number* from, Number* to) {
    if (c.from_step == 2)  // compilers vectorise it
        for (int i = 0; i < c.count; ++i) to[i] = from[2 * i];
    else
        for (int i = 0; i < c.count; ++i) to[i] = from[i * c.from_step];
}

// Fetches what follows the runs: the next tile of a row will read it.
template <class Number>
void prefetch_behind(const std::vector<Copy>& copies, const Number* first, int count) {
    constexpr int line = 64 / int(sizeof(Number));
    for (const Copy& c : copies)
        for (int i = 0; i < count; i += line) __builtin_prefetch(first + c.from + c.run + i, 0, 2);
}

// A case for each common size, because a copy of a size that the compiler does not know is a call.
template <class Number>
void copy_all(const std::vector<Copy>& copies, const Number* first, Number* buffer) {
    for (const Copy& c : copies) {
        const Number* from = first + c.from;
        Number* to = buffer + c.to;
        switch (c.run) {
            case 0:
                for (int i = 0; i < c.count; ++i) to[i * c.to_step] = 0;
                break;
            case 1: copy_numbers(c, from, to); break;
            case 8: copy_runs<8>(c, from, to); break;
            case 16: copy_runs<16>(c, from, to); break;
            case 32: copy_runs<32>(c, from, to); break;
            case 48: copy_runs<48>(c, from, to); break;
            case 96: copy_runs<96>(c, from, to); break;
            default:
                for (int i = 0; i < c.count; ++i)
                    std::memcpy(to + i * c.to_step, from + i * c.from_step, sizeof(Number) * c.run);
        }
    }
}

// What sums of floats and of quantised activations share: tiles, lists of taps, and the buffer.
template <class Number>
class TiledSum : public Step {
  public:
    static constexpr int kLanes = 16;  // of a vector

    // most_kept: the most taps of one output channel that a block may keep. by_two: whether tiles may have two rows
    // of positions.
    TiledSum(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels, int most_kept, bool by_two)
        : Step(op, shapes),
          most_(most_vectors(op, kernels)),
          taps_(in_.channels * op.area()),
          most_kept_(most_kept),
          floats_(kernels.floats),
          load_(kernels.cycles_per_load) {
        use_tiles_of_one_row();
        layout_ = choose_layout();
        if (by_two && layout_ == Layout::columns) use_tiles_of_two_rows();
        if (!taps_fit()) {
            layout_ = Layout::taps;
            use_tiles_of_one_row();
        }
        if (!taps_fit()) throw TooLarge("a kernel that spans too many numbers of a plane");
        for (const Tile& tile : tiles_)
            if (!lists_.count(tile.vectors)) lists_.emplace(tile.vectors, make_lists(tile));
    }

    void run(const Frame& frame) const override {
        const int groups = (out_.channels + kGroup - 1) / kGroup;
        const auto shared_row = [&](const Tile& t) { return t.lane % out_.width; };
        if (out_.bits && out_.images == 1 && std::any_of(tiles_.begin(), tiles_.end(), shared_row)) {
            // One thread writes all tiles of a channel, because two tiles may share a row of bits.
            return frame.each(groups, [&](int group, int thread) {
                for (const Tile& tile : tiles_)
                    compute(frame, tile, group * kGroup, std::min(out_.channels, (group + 1) * kGroup),
                            (*frame.scratch)[thread].data());
            });
        }
        const int parts = std::min(groups, this->parts(frame, int(tiles_.size())));
        frame.each(int(tiles_.size()) * parts, [&](int item, int thread) {
            const int part = item % parts;
            compute(frame, tiles_[item / parts], groups * part / parts * kGroup,
                    std::min(out_.channels, groups * (part + 1) / parts * kGroup), (*frame.scratch)[thread].data());
        });
    }

    double cycles() const override {
        double total = 0;
        for (const Tile& tile : tiles_) {
            const Lists& lists = lists_.at(tile.vectors);
            const double registers = double(tile.lanes()) / register_lanes();
            const double crossing = layout_ == Layout::padded && out_.width > register_lanes() ? 4.0 / 3 : 1.0;
            const double tap = 0.3 + load_ * (registers * crossing + lists.one_loop);
            const double finish = 2.0 * tile.lanes() / floats_;
            total += tap * double(lists.taps.size()) + 30.0 * double(lists.ranges.size()) + finish * out_.channels +
                     copy_cycles() * in_.channels * lists.channel;
        }
        return total;
    }
    void memory(Held& held) const override {
        for (const auto& [vectors, lists] : lists_)
            held[this] += lists.taps.size() * 2 + lists.ranges.size() * sizeof(SumRange) + lists.weights.size() * 4;
    }
    bool holds_weights() const override { return !op_.dense && !lists_.begin()->second.ranges.empty(); }
    void restore(Op& op) const override {
        Op::Kept kept(size_t(out_.channels) * taps_);
        const Lists& lists = lists_.begin()->second;
        std::vector<int> taps(65536, kNone);  // of a block, by offset
        const std::vector<uint16_t> offsets = offsets_of_block(lists);
        for (size_t tap = 0; tap < offsets.size(); ++tap) taps[offsets[tap]] = int(tap);
        for (size_t i = 0; i < lists.ranges.size(); ++i) {
            const SumRange& range = lists.ranges[i];
            const size_t first = block_of(int(i) / out_.channels, lists, int(range.channel)).first;
            for (int k = 0; k < range.positive + range.negative; ++k) {
                const int tap = taps[lists.taps[range.start + k]];
                if (tap != kNone) kept.keep(first + tap, k >= range.positive);
            }
        }
        op.take(std::move(kept));
    }
    void drop_lists() override {
        for (auto& [vectors, lists] : lists_) {
            release(lists.taps);
            release(lists.ranges);
        }
    }
    void make_lists_again() override {
        for (auto& [vectors, lists] : lists_) {
            if (!lists.ranges.empty()) continue;
            Lists made = lists;
            fill(made);
            std::swap(lists, made);  // at once: half a list would pass for a whole one after memory ran out
        }
    }

  protected:
    struct Tile {
        int lane, vectors;
        int lanes() const { return vectors * kLanes; }
    };
    // Distances, in numbers, between channels, rows and columns of taps in the buffer or the input.
    struct Strides {
        int64_t channel, row, column, first = 0;  // where the first tap is
    };
    // The lists of taps for tiles of one size; ranges are [block][output channel].
    struct Lists {
        int channel, row, column, first;  // as in Strides
        int block;  // input channels of a block
        int blocks;
        int zeros;  // where zeros begin, behind the channels of a block
        int multiple;  // numbers of taps are multiples of this: taps of zeros fill them up
        bool one_loop;  // for both signs
        std::vector<uint16_t> taps;  // in the order of the ranges
        std::vector<SumRange> ranges;  // sorted by length within kGroup channels
        std::vector<float> weights;
    };

    size_t most_lanes() const { return size_t(tiles_.front().lanes()); }  // of a tile: the first is the largest

    void use_tiles_of_one_row() {
        tile_rows_ = 1;
        tiles_.clear();
        const int lanes = int(round_up(out_.lanes(), kLanes));
        for (int lane = 0; lane < lanes;) {
            int vectors = most_;
            while (vectors > 1 && vectors * kLanes > lanes - lane) vectors /= 2;
            tiles_.push_back({lane, vectors});
            lane += vectors * kLanes;
        }
    }

    // Two rows share the input rows that lie between them.
    void use_tiles_of_two_rows() {
        const int positions = most_ * kLanes / out_.images, columns = positions / 2;
        if (most_ > 8 || positions % 4 || out_.width % columns || out_.height % 2) return;
        tile_rows_ = 2;
        tiles_.clear();
        for (int y = 0; y < out_.height; y += 2)
            for (int x = 0; x < out_.width; x += columns) tiles_.push_back({(y * out_.width + x) * out_.images, most_});
    }

    Layout choose_layout() const {
        if (covers(op_, in_)) return Layout::whole;
        const bool same = op_.stride == 1 && out_.width + op_.kernel_width - 1 == in_.width + 2 * op_.padding;
        if (!same) return Layout::taps;
        const auto whole_rows = [&](const Tile& t) {
            return t.lane % out_.width == 0 && (t.lanes() % out_.width == 0 || t.lane + t.lanes() >= out_.lanes());
        };
        const auto one_row = [&](const Tile& t) {
            const int positions = t.lanes() / out_.images;
            return positions > 0 && t.lanes() % out_.images == 0 && out_.width % positions == 0;
        };
        if (out_.images == 1) {
            if (!std::all_of(tiles_.begin(), tiles_.end(), whole_rows)) return Layout::taps;
            return can_pad() && (out_.width == register_lanes() || fraction_kept() < kPaddedBelow) ? Layout::padded
                                                                                                   : Layout::rows;
        }
        return std::all_of(tiles_.begin(), tiles_.end(), one_row) ? Layout::columns : Layout::taps;
    }

    int register_lanes() const { return floats_ * 4 / int(sizeof(Number)); }
    // Of the padded layout: from one row to the next, and where the first one begins. Registers of the middle column
    // of a kernel are aligned; where a row is one register, none crosses a cache line.
    int pitch() const { return out_.width + register_lanes(); }
    int row_start() const { return out_.width > register_lanes() ? register_lanes() : register_lanes() / 2; }

    bool can_pad() const {
        if (floats_ > 8 || !kRowsWithGaps) return false;  // of more, most would cross a cache line
        const int in_row = out_.width / register_lanes(), left = row_start(), right = register_lanes();
        if (in_.width != out_.width || out_.width % register_lanes()) return false;
        if (op_.padding > left || op_.kernel_width - 1 - op_.padding > right) return false;
        return std::all_of(tiles_.begin(), tiles_.end(), [&](const Tile& t) {
            const bool has_kernel = in_row == 1 || in_row == 2 || in_row == 4 || in_row == 8;
            return t.lanes() % out_.width == 0 && (has_kernel || t.lanes() == out_.width);
        });
    }
    double fraction_kept() const {
        const size_t weights = size_t(out_.channels) * taps_;
        return op_.dense ? 1 : double(op_.count_kept(0, weights)) / double(weights);
    }

    // Of one number.
    double copy_cycles() const {
        if (layout_ == Layout::whole) return 0;
        if (layout_ == Layout::taps && out_.images == 1) return op_.stride == 1 ? 0.6 : 1.0;
        return 0.075 * sizeof(Number);
    }

    // Whether 16 bits name the last tap of a channel in the buffer.
    bool taps_fit() const {
        return std::all_of(tiles_.begin(), tiles_.end(),
                           [&](const Tile& t) { return last_tap(strides_of(t)) <= 65535; });
    }
    int64_t last_tap(const Strides& s) const {
        return s.first + int64_t(op_.kernel_height - 1) * s.row + int64_t(op_.kernel_width - 1) * s.column;
    }

    Strides strides_of(const Tile& tile) const {
        const int64_t lanes = tile.lanes(), width = out_.width, images = out_.images;
        switch (layout_) {
            case Layout::taps: return {op_.area() * lanes, op_.kernel_width * lanes, lanes};
            case Layout::rows: {
                const int64_t rows = (lanes + width - 1) / width + op_.kernel_height - 1;
                const auto column = int64_t(round_up(size_t(rows * width), kLanes));
                return {op_.kernel_width * column, width, column};
            }
            case Layout::padded:
                return {(lanes / width + op_.kernel_height - 1) * pitch(), pitch(), 1, row_start() - op_.padding};
            case Layout::columns: {
                const int64_t row = (lanes / images / tile_rows_ + op_.kernel_width - 1) * images;
                return {(op_.kernel_height + tile_rows_ - 1) * row, row, images};
            }
            default: return {int64_t(in_.plane / sizeof(Number)), int64_t(in_.width) * in_.images, in_.images};
        }
    }

    // The most vectors of a tile for which 16 bits can name every lane of every tap of a channel. More than 8 only
    // where all input channels stay in the fastest cache.
    int most_vectors(const Op& op, const Kernels& kernels) const {
        const auto fits = [&](int vectors) {
            const size_t numbers = size_t(op.area()) * vectors * kLanes;  // of a channel
            return numbers <= 65535 &&
                   (vectors <= 32 / int(sizeof(Number)) ||
                    (sizeof(Number) == 4 && in_.channels * numbers * sizeof(Number) <= block_bytes()));
        };
        int vectors = sizeof(Number) == 4 ? kernels.vectors : std::min(16, 2 * kernels.vectors);
        while (vectors > 1 && !fits(vectors)) vectors /= 2;
        return vectors;
    }

    int most_in_block(int block) const {
        if (op_.dense || (block < in_.channels && block * op_.area() <= most_kept_)) return block * op_.area();
        int most = 0;
        for (int c = 0; c < out_.channels; ++c)
            for (int from = 0; from < taps_; from += block * op_.area()) {
                const int to = std::min(taps_, from + block * op_.area());
                most = std::max(most, op_.count_kept(size_t(c) * taps_ + from, size_t(c) * taps_ + to));
            }
        return most;
    }

    virtual void compute(const Frame& frame, const Tile& tile, int first, int last, uint8_t* room) const = 0;

    size_t buffer_bytes() const {
        size_t most = 0;
        for (const auto& [vectors, lists] : lists_)
            most = std::max(most, size_t(lists.zeros + lists.row) + 2 * vectors * kLanes);
        return round_up(layout_ == Layout::whole ? 64 : most * sizeof(Number), 64);
    }

    // Which numbers of a channel's plane go where in the buffer; what is not written is padding.
    struct Copies {
        std::vector<Copy> all;
        bool has_padding = false;
    };

    // Zeros for padding, and for taps that fill up lists.
    void clear(const Lists& lists, const Copies& copies, Number* buffer) const {
        const size_t from = copies.has_padding || layout_ == Layout::whole ? 0 : lists.zeros * sizeof(Number);
        std::memset(reinterpret_cast<uint8_t*>(buffer) + from, 0, buffer_bytes() - from);
    }

    // The input of block b, copied to `buffer`, or in place.
    const Number* input(const Frame& frame, const Tile& tile, const Lists& lists, const std::vector<Copy>& copies,
                        int b, Number* buffer) const {
        const uint8_t* base = frame.values[op_.in];
        const int from = b * lists.block, to = std::min(in_.channels, from + lists.block);
        if (layout_ == Layout::whole) return reinterpret_cast<const Number*>(base + from * in_.plane) + tile.lane;
        const int tile_row = tile.lanes() / tile_rows_;
        for (int c = from; c < to; ++c) {
            const auto* plane = reinterpret_cast<const Number*>(base + c * in_.plane);
            if (layout_ == Layout::columns) prefetch_behind(copies, plane, tile_row);
            copy_all(copies, plane, buffer + size_t(c - from) * lists.channel);
        }
        return buffer;
    }

    Lists make_lists(const Tile& tile) const {
        const Strides strides = strides_of(tile);
        Lists lists{};
        lists.channel = int(strides.channel);
        lists.row = int(strides.row);
        lists.column = int(strides.column);
        lists.first = int(strides.first);
        const int most = layout_ == Layout::whole ? 65535 : int(block_bytes() / sizeof(Number));
        lists.block =
            std::clamp((most - int(last_tap(strides))) / lists.channel + (layout_ == Layout::whole), 1, in_.channels);
        lists.one_loop = sizeof(Number) == 4 && tile.vectors * kLanes / floats_ >= 8;
        const bool whole_loops = tile.lanes() * sizeof(Number) <= 128 && !op_.dense && layout_ != Layout::whole;
        lists.multiple = whole_loops ? kAtOnce : 1;
        if (layout_ != Layout::whole) lists.block = std::max(lists.block, channels_of_few_taps(tile, strides));
        while (lists.block > 1 && most_in_block(lists.block) > most_kept_) lists.block -= (lists.block + 7) / 8;
        lists.zeros = int(round_up(size_t(lists.block) * lists.channel, kLanes));
        if (lists.zeros > 65535) lists.multiple = 1;
        lists.blocks = (in_.channels + lists.block - 1) / lists.block;
        fill(lists);
        return lists;
    }

    // Where lists would be short, blocks are larger than the fastest cache, because each list has a cost of its own:
    // the channels of a block with as many taps as outweigh that.
    int channels_of_few_taps(const Tile& tile, const Strides& strides) const {
        const double enough = 8 + 4096.0 / (tile.lanes() * sizeof(Number));
        const double of_channel = std::max(1e-3, fraction_kept() * op_.area());
        const int most = (int(kMostBlock / sizeof(Number)) - int(last_tap(strides))) / int(strides.channel);
        return std::clamp(std::min(int(enough / of_channel), most), 1, in_.channels);
    }

    std::vector<uint16_t> offsets_of_block(const Lists& lists) const {
        std::vector<uint16_t> offsets;  // of its taps
        for (int t = 0; t < lists.block * op_.area(); ++t) {
            const int channel = t / op_.area(), k = t % op_.area();
            const int y = k / op_.kernel_width, x = k % op_.kernel_width;
            offsets.push_back(uint16_t(lists.first + channel * lists.channel + y * lists.row + x * lists.column));
        }
        return offsets;
    }

    void fill(Lists& lists) const {
        const std::vector<uint16_t> offsets = offsets_of_block(lists);
        std::vector<uint16_t> room(kGroup * (offsets.size() + 2 * kAtOnce));
        for (int b = 0; b < lists.blocks; ++b)
            for (int first = 0; first < out_.channels; first += kGroup) add_group(b, first, offsets, room, lists);
        lists.taps.shrink_to_fit();
    }

    // The lists of kGroup output channels in block b, in the order in which kernels read them. The weights of dense
    // layers have the same order.
    void add_group(int b, int first, const std::vector<uint16_t>& offsets, std::vector<uint16_t>& room,
                   Lists& lists) const {
        std::vector<SumRange> group;  // in `room`
        uint16_t* to = room.data();
        for (int c = first; c < std::min(out_.channels, first + kGroup); ++c) {
            const auto start = uint32_t(to - room.data());
            group.push_back({start, 0, 0, uint32_t(c)});
            to = write_taps(b, offsets, lists, to, group.back());
        }
        const auto key = [&](const SumRange& r) {
            return std::make_tuple(lists.one_loop ? r.positive + r.negative : r.positive, r.negative, r.channel);
        };
        std::sort(group.begin(), group.end(), [&](const auto& x, const auto& y) { return key(x) < key(y); });
        for (SumRange range : group) {
            const uint16_t* own = room.data() + range.start;
            range.start = uint32_t(lists.taps.size());
            lists.ranges.push_back(range);
            lists.taps.insert(lists.taps.end(), own, own + range.positive + range.negative);
            if (op_.dense)
                each_weight(b, lists, int(range.channel),
                            [&](size_t i, size_t) { lists.weights.push_back(op_.weights[i]); });
        }
    }

    // The taps of an output channel in block b: first the positive ones, then the negative ones. Returns their end.
    uint16_t* write_taps(int b, const std::vector<uint16_t>& offsets, const Lists& lists, uint16_t* to,
                         SumRange& range) const {
        const auto c = int(range.channel);
        uint16_t* const from = to;
        const auto write = [&](size_t tap) { *to++ = offsets[tap]; };
        const auto fill_up = [&](const uint16_t* begin) {
            while ((to - begin) % lists.multiple) *to++ = uint16_t(lists.zeros);
        };
        if (op_.dense) {
            each_weight(b, lists, c, [&](size_t, size_t tap) { write(tap); });
            range.positive = uint16_t(to - from);
            return to;
        }
        const auto [first, last] = block_of(b, lists, c);
        op_.each_kept(first, last, false, [&, first = first](size_t i) { write(i - first); });
        if (!lists.one_loop) fill_up(from);
        range.positive = uint16_t(to - from);
        op_.each_kept(first, last, true, [&, first = first](size_t i) { write(i - first); });
        fill_up(lists.one_loop ? from : from + range.positive);
        range.negative = uint16_t(to - from - range.positive);
        return to;
    }

    // The weights of output channel c in block b.
    std::pair<size_t, size_t> block_of(int b, const Lists& lists, int c) const {
        const size_t of_channel = size_t(c) * taps_, block = size_t(lists.block) * op_.area();
        const size_t first = of_channel + b * block;
        return {first, std::min(of_channel + taps_, first + block)};
    }
    template <class Use>
    void each_weight(int b, const Lists& lists, int c, const Use& use) const {
        const auto [first, last] = block_of(b, lists, c);
        for (size_t i = first; i < last; ++i)
            if (op_.weights[i] != 0) use(i, i - first);
    }

    Copies copies_of(const Tile& tile, const Lists& lists) const {
        Copies copies;
        switch (layout_) {
            case Layout::rows: copy_rows(tile, lists, copies); break;
            case Layout::padded: copy_padded(tile, copies); break;
            case Layout::columns: copy_columns(tile, lists, copies); break;
            case Layout::taps: copy_taps(tile, copies); break;
            case Layout::whole: break;
        }
        return copies;
    }

    // Copies what `count` output columns from x on see of input row y, at kernel column k.
    void copy_row(int to, int y, int x, int count, int k, Copies& copies) const {
        const int stride = op_.stride, g = in_.images;
        const int from = x * stride + k - op_.padding;
        int skip = 0;
        while (skip < count && from + skip * stride < 0) ++skip;
        int end = count;
        while (end > skip && from + (end - 1) * stride >= in_.width) --end;
        copies.has_padding |= skip > 0 || end < count || y < 0 || y >= in_.height;
        if (y < 0 || y >= in_.height || end == skip) return;
        const int source = (y * in_.width + from + skip * stride) * g;
        if (stride == 1)
            copies.all.push_back({to + skip * g, source, 1, (end - skip) * g, 0, 0});
        else
            copies.all.push_back({to + skip * g, source, end - skip, g, stride * g, g});
    }

    void copy_rows(const Tile& tile, const Lists& lists, Copies& copies) const {
        const int width = out_.width;
        const int rows = (tile.lanes() + width - 1) / width + op_.kernel_height - 1;
        const int top = tile.lane / width - op_.padding;
        const int above = std::min(rows, std::max(0, -top)), below = std::clamp(in_.height - top, above, rows);
        copies.has_padding = above > 0 || below < rows || below == above;
        if (width != in_.width) {
            for (int k = 0; k < op_.kernel_width; ++k)
                for (int y = 0; y < rows; ++y) copy_row(k * lists.column + y * lists.row, top + y, 0, width, k, copies);
            return;
        }
        if (below == above) return;
        // Rows follow each other in the plane and in the buffer: one copy, then zeros where it wraps around.
        for (int k = 0; k < op_.kernel_width; ++k) {
            const int to = k * lists.column + above * width, left = k - op_.padding;
            copies.all.push_back({to, (top + above) * width + left, 1, (below - above) * width, 0, 0});
            for (int x = 0; x < width; ++x)
                if (x + left < 0 || x + left >= width) copies.all.push_back({to + x, 0, below - above, 0, 0, width});
        }
    }

    void copy_padded(const Tile& tile, Copies& copies) const {
        const int width = out_.width, top = tile.lane / width - op_.padding;
        const int above = std::max(0, -top);
        const int below = std::min(in_.height - top, tile.lanes() / width + op_.kernel_height - 1);
        copies.has_padding = true;
        if (below > above)
            copies.all.push_back(
                {above * pitch() + row_start(), (top + above) * width, below - above, width, width, pitch()});
    }

    void copy_columns(const Tile& tile, const Lists& lists, Copies& copies) const {
        const int first = tile.lane / out_.images, width = out_.width;
        const int count = tile.lanes() / out_.images / tile_rows_ + op_.kernel_width - 1;
        for (int k = 0; k < op_.kernel_height + tile_rows_ - 1; ++k)
            copy_row(k * lists.row, first / width + k - op_.padding, first % width, count, 0, copies);
    }

    void copy_taps(const Tile& tile, Copies& copies) const {
        copies.has_padding = true;  // the last tile may have lanes that do not exist
        for (int k = 0; k < op_.area(); ++k) copy_tap(tile, k, copies);
    }

    void copy_tap(const Tile& tile, int k, Copies& copies) const {
        const int g = out_.images, width = out_.width;
        const int end = std::min(out_.lanes(), tile.lane + tile.lanes());
        for (int lane = tile.lane; lane < end;) {
            const int position = lane / g, image = lane % g, x = position % width;
            const int y = position / width * op_.stride + k / op_.kernel_width - op_.padding;
            const int to = k * tile.lanes() + lane - tile.lane;
            if (image || lane + g > end) {  // a part of a position's images
                const int count = std::min(end - lane, g - image);
                const int column = x * op_.stride + k % op_.kernel_width - op_.padding;
                if (y >= 0 && y < in_.height && column >= 0 && column < in_.width)
                    copies.all.push_back({to, (y * in_.width + column) * g + image, 1, count, 0, 0});
                lane += count;
                continue;
            }
            const int count = std::min((end - lane) / g, width - x);
            copy_row(to, y, x, count, k % op_.kernel_width, copies);
            lane += count * g;
        }
    }

    const int most_, taps_, most_kept_;
    const int floats_;  // of a register
    const double load_;  // cycles of a register
    Layout layout_;
    int tile_rows_ = 1;
    std::vector<Tile> tiles_;
    std::map<int, Lists> lists_;
};

class Sum final : public TiledSum<float> {
  public:
    Sum(const Op& op, const Op* pool, const std::vector<Shape>& shapes, const Kernels& kernels)
        : TiledSum(op, shapes, kernels, 1 << 30,
                   shapes[op.out].plain() && (op.residual == kNone || shapes[op.residual].plain())) {
        for (const Finish& finish : finishes_) tile_finishes_.push_back(out_.quantised_finish(finish));
        // Where tiles have whole pairs of rows, this step also does the 2x2 max pool, before the floats leave the
        // caches.
        const auto pairs = [&](const Tile& tile) {
            return tile_rows_ == 2 || (out_.images == 1 && tile.lanes() % (2 * out_.width) == 0);
        };
        if (!pool || !pool->selects() || !is_direct() || !out_.plain() || !shapes[pool->out].plain()) return;
        if (out_.height % 2 || out_.width % 2 || !std::all_of(tiles_.begin(), tiles_.end(), pairs)) return;
        if (tile_rows_ == 1 && out_.lanes() % tiles_.front().lanes()) return;
        pool_ = pool;
        pooled_ = shapes[pool->out];
    }
    std::string name() const override {
        return std::string(op_.dense ? "dense sum, " : "sparse sum, ") + std::to_string(tiles_.front().lanes()) +
               " lanes" + (pool_ ? ", max pool" : "");
    }
    const Op& last() const override { return pool_ ? *pool_ : op_; }
    size_t scratch() const override { return buffer_bytes() + part_floats() * sizeof(float) * (pool_ ? 2 : 1); }

  protected:
    void compute(const Frame& frame, const Tile& tile, int first, int last, uint8_t* room) const override {
        const Lists& lists = lists_.at(tile.vectors);
        auto *buffer = reinterpret_cast<float*>(room), *part = reinterpret_cast<float*>(room + buffer_bytes());
        float *room_for_residual = part + size_t(out_.channels) * most_lanes(), *finished = part + part_floats();
        const int lanes = tile.lanes();
        const Copies copies = copies_of(tile, lists);
        clear(lists, copies, buffer);
        SumTile t{};
        t.first = first;
        t.last = last;
        t.vectors = tile.vectors;
        t.part = part;
        t.part_step = lanes;
        t.row_registers = layout_ == Layout::padded ? out_.width / register_lanes() : 0;
        t.second = tile_rows_ == 2 ? lists.row : lanes / 2;
        t.out_second = tile_rows_ == 2 && !pool_ ? out_.width * out_.images : lanes / 2;
        const bool direct = is_direct();
        for (int b = 0; b < lists.blocks; ++b) {
            t.input = input(frame, tile, lists, copies.all, b, buffer);
            t.taps = lists.taps.data();
            t.ranges = lists.ranges.data() + size_t(b) * out_.channels;
            t.weights = op_.dense ? lists.weights.data() : nullptr;
            t.begin = b == 0;
            if (direct && b == lists.blocks - 1) {
                uint8_t* out = frame.values[op_.out];
                if (pool_)
                    t.out = finished;
                else if (out_.bits)
                    t.signs = out + out_.front + tile.lane / 8;
                else if (out_.quantised())
                    t.quantised = out_.int16s(out, 0) + tile.lane;
                else
                    t.out = out_.floats(out, 0) + tile.lane;
                t.out_step = pool_ ? lanes * sizeof(float) : out_.plane;
                t.finishes = tile_finishes_.data();
                if (op_.residual != kNone) t.residual = residual_.floats(frame.values[op_.residual], 0) + tile.lane;
                t.residual_step = residual_.plane;
            }
            frame.kernels->sum(t);
        }
        if (pool_) return pool_tile(frame, tile, first, last, finished);
        for (int c = first; c < last && !direct; ++c)
            emit(frame, c, tile.lane, lanes, part + size_t(c) * lanes, room_for_residual);
    }

    // Whether the kernel finishes lanes itself, because they are laid out like the output.
    bool is_direct() const {
        const bool bits_fit = out_.images > 1 || (out_.row == out_.width && out_.lanes() % 16 == 0);
        return (op_.residual == kNone || residual_.plain()) && (!out_.bits || bits_fit);
    }
    // Sums of a tile, before they are finished, and one more channel for a residual.
    size_t part_floats() const { return (size_t(out_.channels) + 1) * most_lanes(); }

    void pool_tile(const Frame& frame, const Tile& tile, int first, int last, const float* finished) const {
        const int position = tile.lane / out_.images;
        const int columns = tile_rows_ == 2 ? tile.lanes() / out_.images / 2 : out_.width;
        const size_t to = (position / out_.width / 2 * pooled_.width + position % out_.width / 2) * size_t(out_.images);
        for (int c = first; c < last; ++c)
            frame.kernels->pool_floats(finished + size_t(c) * tile.lanes(), columns, out_.images,
                                       tile.lanes() / out_.images / columns / 2, columns / 2,
                                       pooled_.floats(frame.values[pool_->out], c) + to);
    }

    std::vector<QuantisedFinish> tile_finishes_;
    const Op* pool_ = nullptr;  // fused into this step; or null
    Shape pooled_;
};

// Inputs are quantised, in lanes of 16 bits: a vector holds twice as many as floats. A block has at most as many taps
// as keep every sum within 16 bits; blocks are added in 32 bits, unless all taps of a channel together stay within 16
// bits.
class QuantisedSum final : public TiledSum<int16_t> {
  public:
    QuantisedSum(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels)
        : TiledSum(op, shapes, kernels, 32767 / shapes[op.in].largest_quantised(), false) {
        const int most = most_in_block(in_.channels);
        wide_ = most * in_.largest_quantised() > 32767;
        for (int c = 0; c < out_.channels; ++c) {
            QuantisedFinish f = out_.quantised_finish(finishes_[c]);
            f.finish.scale *= in_.step;
            if (residual_.quantised()) f.finish.residual_scale *= residual_.step;
            quantised_finishes_.push_back(f);
        }
    }
    static bool fits(const Op& op, const Shape& in) {
        return !op.dense && op.area() * std::max(in.largest_quantised(), 64 * in.images) <= 65535 / 2;
    }

    std::string name() const override {
        return "sparse sum of quantisation levels, " + std::to_string(tiles_.front().lanes()) + " lanes";
    }
    size_t scratch() const override {
        return buffer_bytes() + size_t(out_.channels) * most_lanes() * (sizeof(int16_t) + sizeof(int32_t));
    }

  protected:
    void compute(const Frame& frame, const Tile& tile, int first, int last, uint8_t* room) const override {
        const Lists& lists = lists_.at(tile.vectors);
        auto* buffer = reinterpret_cast<int16_t*>(room);
        const Copies copies = copies_of(tile, lists);
        clear(lists, copies, buffer);
        QuantisedTile t{};
        t.first = first;
        t.last = last;
        t.vectors = tile.vectors;
        t.part = reinterpret_cast<int16_t*>(room + buffer_bytes());
        t.wide = wide_ ? reinterpret_cast<int32_t*>(t.part + size_t(out_.channels) * most_lanes()) : nullptr;
        t.row_registers = layout_ == Layout::padded ? out_.width / register_lanes() : 0;
        t.lanes = std::min(tile.lanes(), out_.lanes() - tile.lane);
        for (int b = 0; b < lists.blocks; ++b) {
            t.input = input(frame, tile, lists, copies.all, b, buffer);
            t.taps = lists.taps.data();
            t.ranges = lists.ranges.data() + size_t(b) * out_.channels;
            t.begin = b == 0;
            if (b == lists.blocks - 1) {
                uint8_t* out = frame.values[op_.out];
                t.finishes = quantised_finishes_.data();
                t.out_step = out_.plane;
                t.residual_step = residual_.plane;
                if (out_.quantised())
                    t.quantised = out_.int16s(out, 0) + tile.lane;
                else
                    t.floats = out_.floats(out, 0) + tile.lane;
                if (op_.residual != kNone) {
                    uint8_t* other = frame.values[op_.residual];
                    if (residual_.quantised())
                        t.residual_quantised = residual_.int16s(other, 0) + tile.lane;
                    else
                        t.residual = residual_.floats(other, 0) + tile.lane;
                }
            }
            frame.kernels->sum_quantised(t);
        }
    }

  private:
    bool wide_;
    std::vector<QuantisedFinish> quantised_finishes_;
};

// One image and one output position: there are no lanes to fill a vector, so a vector sums along the list of taps.
class Dot final : public Step {
  public:
    Dot(const Op& op, const std::vector<Shape>& shapes)
        : Step(op, shapes), taps_(in_.channels * op.area()), lists_(op, taps_, 8), levels_(in_) {
        // Sums of integers are exact, and so the same as those of a group of images.
        if (!in_.quantised()) return;
        levels_.step = 1;
        for (Finish& finish : finishes_) finish.scale *= in_.step;
    }

    void run(const Frame& frame) const override {
        auto* x = reinterpret_cast<float*>((*frame.scratch)[0].data());
        const bool together = in_.plain() && in_.plane == sizeof(float) * op_.area();
        for (int c = 0, some = together ? in_.channels : 1; c < in_.channels; c += some)
            levels_.read(frame.values[op_.in], c, 0, some * op_.area(), x + size_t(c) * op_.area());
        x[taps_] = x[taps_ + 1] = 0;  // taps that fill up the lists
        constexpr int chunk = 32;
        frame.each((out_.channels + chunk - 1) / chunk, [&](int item, int) {
            for (int c = item * chunk; c < std::min(out_.channels, (item + 1) * chunk); ++c) {
                const TapRange range = lists_.ranges[c];
                const float total =
                    frame.kernels->dot(x, lists_.taps.data() + 8 * range.start, range.positive, range.negative);
                float room;
                emit(frame, c, 0, 1, &total, &room);
            }
        });
    }
    std::string name() const override { return "sparse dot"; }
    double cycles() const override { return double(lists_.taps.size()) + 10.0 * out_.channels; }
    size_t scratch() const override { return (size_t(taps_) + 16) * sizeof(float); }
    void memory(Held& held) const override { held[this] = lists_.bytes(); }

  private:
    const int taps_;
    const TapLists lists_;
    Shape levels_;  // the input; where it is quantised, in steps
};

bool is_dot(const Op& op, const Shape& in, const Shape& out) { return covers(op, in) && out.lanes() == 1 && !op.dense; }

}  // namespace

bool can_sum(const Op& op, const Value& in, int images) {
    const int64_t floats = 16;
    if (covers(op, in)) return images == 1 || int64_t(op.area()) * images <= 65536;
    return op.area() * std::max<int64_t>(images, floats) <= 65535;
}

bool reads_quantised(const Op& op, const std::vector<Shape>& shapes, const Shape& in) {
    if (op.act == Act::sign0) return false;  // a small number is quantised to 0, which has another sign
    if (op.kind != Kind::conv) return true;
    // This comes before the check for a dot product: that step could read it, but one image and a group of images
    // would round differently before the sign.
    if (shapes[op.out].bits || (op.residual != kNone && shapes[op.residual].bits)) return false;
    return is_dot(op, in, shapes[op.out]) || QuantisedSum::fits(op, in);
}

std::unique_ptr<Step> make_sum_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                    const Kernels& kernels, Packed& packed) {
    const Shape &in = shapes[op.in], &out = shapes[op.out];
    if (is_dot(op, in, out)) return std::make_unique<Dot>(op, shapes);
    std::unique_ptr<Step> sum, product = make_matrix_step(op, pool, shapes, kernels, packed);
    if (in.quantised())
        sum = std::make_unique<QuantisedSum>(op, shapes, kernels);
    else
        sum = std::make_unique<Sum>(op, pool, shapes, kernels);
    if (product && product->cycles() < sum->cycles()) return product;
    product.reset();
    if (packed.matrix.use_count() == 1) packed.matrix.reset();
    // Machine code does no pool: it takes as long as a step of its own.
    const double of_pool = &sum->last() == &op ? 0 : 0.3 * out.channels * out.lanes();
    if (auto code = make_code_step(op, shapes, kernels, sum->cycles() - of_pool)) return code;
    return sum;
}

}  // namespace biprop
