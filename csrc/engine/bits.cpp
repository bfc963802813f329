// Convolutions on bits: bit-sliced (cost falls with density), and by masked population count (cost does not).
//
// A kept tap agrees with its weight or not. With `count` taps that agree out of the kept ones, padding read as -1,
//     accumulation = 2 count - correction,    correction = kept - outside + 2 outside_negative,
// where `outside` are the kept taps in the padding at this position. So zero padding is exact, and a sign is a threshold on the count.
#include <algorithm>
#include <cmath>
#include <map>

#include "step.h"

namespace biprop {

namespace {

constexpr int kChunk = 8;  // channels whose counts are held at a time
constexpr size_t kFastest = 40 << 10;  // bytes of the fastest cache that planes may take

// Output positions along one side that have the same taps in the padding.
struct Classes {
    std::vector<int> of;  // position -> class
    std::vector<std::pair<int, int>> inside;  // class -> taps [first, last) that are not in the padding

    Classes(int outputs, int inputs, int kernel, int stride, int padding) {
        std::map<std::pair<int, int>, int> known;
        for (int o = 0; o < outputs; ++o) {
            const int start = o * stride - padding;
            const std::pair<int, int> range{std::max(0, -start), std::min(kernel, inputs - start)};
            const auto [entry, is_new] = known.emplace(range, int(inside.size()));
            if (is_new) inside.push_back(range);
            of.push_back(entry->second);
        }
    }
};

int bit_length(uint32_t n) {
    int bits = 0;
    for (; n; n >>= 1) ++bits;
    return bits;
}

// What both kernels share: corrections and thresholds.
class BitStep : public Step {
  public:
    BitStep(const Op& op, const std::vector<Shape>& shapes, std::shared_ptr<const TapLists> lists)
        : Step(op, shapes), taps_(in_.channels * op.area()), lists_(std::move(lists)),
          rows_(out_.height, in_.height, op.kernel_height, op.stride, op.padding),
          columns_(out_.width, in_.width, op.kernel_width, op.stride, op.padding),
          by_threshold_(out_.bits && (op.residual == kNone || residual_.bits)), flips_(out_.channels) {
        const int classes = int(rows_.inside.size() * columns_.inside.size());
        if (by_threshold_) thresholds_.resize(size_t(out_.channels) * classes);
        else corrections_.resize(size_t(out_.channels) * corrections_step());
        if (by_threshold_ && op.residual != kNone) thresholds_plus_.resize(thresholds_.size());
        int most = 0;
        for (int c = 0; c < out_.channels; ++c) {
            most = std::max(most, lists_->kept[c]);
            fill(c, classes);
        }
        bits_ = std::max(1, bit_length(uint32_t(most) + 1));  // a threshold may be one more than any count
    }
    void memory(Held& held) const override {
        held[this] = (thresholds_.size() + thresholds_plus_.size()) * 2 + corrections_.size() * 4 + flips_.size();
        if (lists_) held[lists_.get()] = lists_->bytes();
    }

  protected:
    int position_class(int position) const {
        return rows_.of[position / out_.width] * int(columns_.inside.size()) + columns_.of[position % out_.width];
    }
    int classes() const { return int(rows_.inside.size() * columns_.inside.size()); }
    // Counts to what the operation puts out, for n lanes from `lane`. `room` takes 2 n floats.
    void emit_counts(const Frame& frame, int c, int lane, int n, const int16_t* counts, float* room) const {
        const int shift = correction_shift();
        const int32_t* corrections = corrections_.data() + size_t(c) * corrections_step() + (lane >> shift);
        const float* residual = this->residual(frame, c, lane, n, room + n);
        float* to = out_.bits ? room : out_.floats(frame.values[op_.out], c) + lane;
        frame.kernels->finish_counts(counts, corrections, shift, n, finishes_[c], residual, to);
        if (out_.bits) emit_signs(frame, c, lane, n, room, {1, 0, 0, Act::none}, nullptr);
    }

    // Of a channel: one where all positions are of one class, else one a position.
    size_t corrections_step() const { return classes() == 1 ? 1 : out_.positions(); }
    int correction_shift() const { return classes() == 1 ? 30 : out_.images > 1 ? 6 : 0; }  // from a lane to its correction

    const int taps_;
    std::shared_ptr<const TapLists> lists_;
    const Classes rows_, columns_;
    const bool by_threshold_;  // else by floats
    int bits_ = 0;
    std::vector<int32_t> corrections_;  // [channel][position], or of a channel; empty where thresholds do
    std::vector<uint16_t> thresholds_, thresholds_plus_;  // [channel][class]; the second where the residual is +1
    std::vector<uint8_t> flips_;

  private:
    void fill(int c, int classes) {
        std::vector<int32_t> by_class(classes);
        std::vector<int> kept(op_.area()), negative(op_.area());
        const TapRange range = lists_->ranges[c];
        const uint16_t* tap = lists_->taps.data() + 8 * range.start;
        for (int i = 0; i < 8 * (range.positive + range.negative); ++i) {
            const int t = tap[i] / (lists_->width / 8);
            if (t >= taps_) continue;  // padding of the list
            ++kept[t % op_.area()];
            negative[t % op_.area()] += i >= 8 * range.positive;
        }
        for (int k = 0; k < classes; ++k) {
            const auto [top, bottom] = rows_.inside[k / columns_.inside.size()];
            const auto [left, right] = columns_.inside[k % columns_.inside.size()];
            int outside = 0, outside_negative = 0;
            for (int y = 0; y < op_.kernel_height; ++y)
                for (int x = 0; x < op_.kernel_width; ++x)
                    if (y < top || y >= bottom || x < left || x >= right) {
                        outside += kept[y * op_.kernel_width + x];
                        outside_negative += negative[y * op_.kernel_width + x];
                    }
            const size_t at = size_t(c) * classes + k;
            const int correction = lists_->kept[c] - outside + 2 * outside_negative;
            if (!by_threshold_) {
                by_class[k] = correction;
            } else if (op_.residual == kNone) {
                thresholds_[at] = threshold(c, correction, 0);
            } else {
                thresholds_[at] = threshold(c, correction, -op_.residual_scale[c]);
                thresholds_plus_[at] = threshold(c, correction, op_.residual_scale[c]);
            }
        }
        flips_[c] = op_.scale[c] < 0 ? 255 : 0;
        for (size_t p = 0; !by_threshold_ && p < corrections_step(); ++p) corrections_[c * corrections_step() + p] = by_class[position_class(int(p))];
    }

    // scale * accumulation + shift >= 0 is: count >= threshold (scale > 0), not count >= threshold (scale < 0), or does not depend
    // on the count (scale = 0).
    uint16_t threshold(int c, int correction, double residual) const {
        const double scale = op_.scale[c], shift = op_.shift[c] + residual;
        const int never = lists_->kept[c] + 1;
        if (scale == 0) return uint16_t(shift >= 0 ? 0 : never);
        const auto positive = [&](double accumulation) { return scale * accumulation + shift >= 0; };
        // The least accumulation from which on, upwards, the answer is the one for +infinity. The division may round; the test decides.
        double least = std::ceil(std::clamp(-shift / scale, -1e6, 1e6));
        if (scale > 0) {
            while (least > -1e6 && positive(least - 1)) --least;
            while (least < 1e6 && !positive(least)) ++least;
        } else {
            while (least > -1e6 && !positive(least - 1)) --least;
            while (least < 1e6 && positive(least)) ++least;
        }
        return uint16_t(std::clamp(std::ceil((least + correction) / 2), 0.0, double(never)));
    }
};

uint64_t low_bits(int n) { return n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; }

class Sliced final : public BitStep {
  public:
    Sliced(const Op& op, const Op* pool, const std::vector<Shape>& shapes, const Kernels& kernels, std::shared_ptr<const TapLists> lists)
        : BitStep(op, shapes, std::move(lists)), by_rows_(out_.images == 1), row_(Shape::row_of(out_.width)) {
        width_ = lists_->width;
        for (int i = 0; i < kMostWidths; ++i)
            if (kernels.widths[i] == width_) cycles_per_plane_ = kernels.cycles_per_plane[i];
        tile_ = by_rows_ ? width_ * 8 / row_ : width_ / 8;
        tiles_ = int(by_rows_ ? round_up(out_.height, tile_) : round_up(out_.positions(), tile_)) / tile_;
        same_ = op.stride == 1 && out_.width == in_.width && out_.height == in_.height;
        const bool whole = by_rows_ ? row_ == out_.width && out_.lanes() % 64 == 0 && out_.height % tile_ == 0 : true;
        direct_ = !by_threshold_ && whole && (op.residual == kNone || !residual_.bits);
        if (by_rows_ && width_ == 8 && tiles_ == 1) group_channels(kernels);
        by_rows_ ? prepare_rows(kernels) : prepare_cells();
        // A pool of counts reads a correction at each position.
        const bool pairs = !by_rows_ && corrections_step() > 1 && tile_ % 2 == 0 && out_.width % tile_ == 0 && out_.plain();
        if (pool && pairs && shapes[pool->out].plain() && 2 * taps_ <= INT16_MAX) pool_ = pool, pooled_ = shapes[pool->out], pool_finishes_ = finishes_of(*pool);
        if (pool && grouped_ && direct_) pool_word(op, pool, shapes[pool->out]);
        if (grouped_) lists_.reset();  // its own are all that it needs
    }

    // Of a tile, in bytes: the narrowest that holds the whole plane, else the widest, whose planes 16 bits can name.
    static int best_width(const Op& op, const Shape& in, const Shape& out, const Kernels& kernels) {
        const int taps = in.channels * op.area();
        const size_t needed = out.images == 1 ? size_t(out.height) * Shape::row_of(out.width) / 8 : size_t(out.positions()) * 8;
        int choice = 0;
        for (int i = 1; i < kMostWidths && kernels.widths[i]; ++i)
            if (size_t(kernels.widths[i]) >= needed || (taps + 1) * (kernels.widths[choice] / 8) > 65535) choice = i;
        return kernels.widths[choice];
    }

    void run(const Frame& frame) const override {
        const bool in_pairs = pool_ && !by_rows_;
        const int items = in_pairs ? pooled_.height * tiles_a_row() : tiles_;
        const int parts = this->parts(frame, items), grain = grouped_ ? grouped_->group : 1;
        frame.each(items * parts, [&](int at, int thread) {
            uint8_t* planes = (*frame.scratch)[thread].data();
            const int item = at / parts, part = at % parts;
            const auto border = [&](int p) { return out_.channels * p / parts / grain * grain; };
            const int first = border(part), last = part + 1 == parts ? out_.channels : border(part + 1);
            if (!in_pairs) {
                pack(frame, item, planes);
                for (int half = 0; half < halves(); ++half) compute(frame, item, half, planes, first, last);
                return;
            }
            pack(frame, upper_tile(item), planes);
            pack(frame, upper_tile(item) + tiles_a_row(), planes + counts_at());
            compute_pooled(frame, item, planes, first, last);
        });
    }
    const Op& last() const override { return pool_ ? *pool_ : op_; }

    std::string name() const override {
        if (grouped_)
            return "bit-sliced, " + std::to_string(8 * grouped_->lane) + " positions of " + std::to_string(grouped_->group) + " channels" +
                   (shuffles_ ? ", shuffled" : "") + (pool_ ? ", max pool" : "");
        return "bit-sliced, " + std::to_string(width_ * 8) + (by_rows_ ? " positions" : " lanes (64 images)") + (pool_ ? ", max pool" : "");
    }
    double cycles() const override {
        if (grouped_)
            return grouped_->eights() * cycles_per_eight_ + out_.channels * (20.0 + (by_threshold_ ? 0 : 60)) + 4.0 * taps_;
        const double planes = double(lists_->taps.size()) + out_.channels * (10.0 + 2 * bits_ + (by_threshold_ ? 0 : 6 * width_));
        return tiles_ * (planes * cycles_per_plane_ + 2.0 * taps_ * (same_ ? 1 : by_rows_ ? tile_ : width_ / 8));
    }
    size_t scratch() const override {
        const size_t tiles = pool_ && !by_rows_ ? 2 : 1;
        return tiles * counts_at() + std::max((tiles * kChunk * sizeof(int16_t) + 2 * sizeof(float)) * lanes(), split_bytes()) + 64 +
               halves() * slots_bytes();
    }
    void memory(Held& held) const override {
        BitStep::memory(held);
        held[this] += (grouped_ ? grouped_->bytes() : 0) + sliced_.size() + sliced_plus_.size() + places_.size() +
                      (class_corrections_.size() + lanes_.size() + lanes_plus_.size()) * 2;
    }

  private:
    size_t counts_at() const { return round_up(size_t(taps_ + 8) * width_, 64); }  // two planes, and what `pack_words` writes
    size_t lanes() const { return size_t(width_) * 8; }

    void pack(const Frame& frame, int tile, uint8_t* planes) const {
        by_rows_ ? pack_rows(frame, tile, planes) : pack_cells(frame, tile, planes);
        std::memset(planes + size_t(taps_) * width_, 0, width_);
        std::memset(planes + size_t(taps_ + 1) * width_, 255, width_);
        for (int half = 0; shuffles_ && half < halves(); ++half) shuffles_->to_slots(planes, taps_, grouped_->grain, half, slots(planes, half));
    }
    size_t split_bytes() const { return round_up(4 * sub_plane_, 64); }
    int halves() const { return grouped_ && grouped_->lane == 4 ? 2 : 1; }  // of a plane, one after the other
    size_t slots_bytes() const { return shuffles_ ? ShuffleKernels::bytes(taps_, grouped_->grain) : 0; }
    uint8_t* slots(uint8_t* planes, int half) const { return planes + counts_at() + split_bytes() + half * slots_bytes(); }
    BitTile bit_tile(const uint8_t* planes) const {
        BitTile t{};
        const auto use = [&](const auto& lists) { t.taps = lists.taps.data(), t.ranges = lists.ranges.data(), t.order = lists.order.data(); };
        grouped_ ? use(*grouped_) : use(*lists_);
        t.planes = planes, t.bits = bits_, t.flips = flips_.data();
        return t;
    }
    void run_kernel(const Frame& frame, const BitTile& t) const {
        if (shuffles_) shuffles_->bits(t, grouped_->grain);
        else if (grouped_) frame.kernels->gathered(t);
        else frame.kernels->bits(t, width_);
    }

    // ---- many images and a 2x2 maximum behind it: two tiles, one above the other ----

    int tiles_a_row() const { return out_.width / tile_; }
    int upper_tile(int item) const { return item / tiles_a_row() * 2 * tiles_a_row() + item % tiles_a_row(); }

    // Largest is what has the largest count, or the least: the pool comes before the floats.
    void compute_pooled(const Frame& frame, int item, uint8_t* planes, int first, int last) const {
        int16_t* const counts[2] = {reinterpret_cast<int16_t*>(planes + 2 * counts_at()), counts[0] + kChunk * lanes()};
        auto* room = reinterpret_cast<float*>(counts[1] + kChunk * lanes());
        const int from = upper_tile(item) * tile_, n = tile_ / 2 * out_.images;
        const size_t to = (item / tiles_a_row() * pooled_.width + item % tiles_a_row() * tile_ / 2) * size_t(out_.images);
        for (int at = first; at < last; at += kChunk) {
            const int some = std::min(kChunk, last - at);
            for (int row = 0; row < 2; ++row) {
                BitTile t = bit_tile(planes + row * counts_at());
                t.first = at, t.last = at + some, t.counts = counts[row];
                frame.kernels->bits(t, width_);
            }
            for (int i = 0; i < some; ++i) {
                const int c = int(lists_->order[at + i]);
                const int16_t* const own[2] = {counts[0] + i * lanes(), counts[1] + i * lanes()};
                const int32_t* correction = corrections_.data() + size_t(c) * out_.positions() + from;
                const int32_t* const corrections[2] = {correction, correction + out_.width};
                frame.kernels->pool_counts(own, corrections, tile_, op_.scale[c] < 0, room);
                frame.kernels->finish_floats(room, n, finishes_[c], nullptr, room + n);
                frame.kernels->finish_floats(room + n, n, pool_finishes_[c], nullptr, pooled_.floats(frame.values[pool_->out], c) + to);
            }
        }
    }

    void compute(const Frame& frame, int tile, int half, uint8_t* planes, int first, int last) const {
        BitTile t = bit_tile(shuffles_ ? slots(planes, half) : planes);
        t.first = first / (grouped_ ? grouped_->group : 1), t.last = last / (grouped_ ? grouped_->group : 1);
        const auto run = [&] { run_kernel(frame, t); };
        uint8_t* out = frame.values[op_.out];
        t.out = out + out_.front + size_t(tile) * width_ + 4 * half, t.out_step = out_.plane;
        if (by_threshold_) {
            if (by_rows_) {
                const size_t from = places_.empty() ? size_t(tile) * bits_ * width_ + size_t(half) * bits_ * 64 : 0;
                t.sliced = sliced_.data() + from, t.sliced_step = sliced_.size() / (out_.channels / (grouped_ ? grouped_->group : 1));
                if (!sliced_plus_.empty()) t.sliced_plus = sliced_plus_.data() + from;
                if (!places_.empty()) t.places = places_.data() + size_t(tile) * width_;
                if (!grouped_ || grouped_->lane > 2) t.valid = valid_.data() + size_t(tile) * width_ + 4 * half;
            } else {
                t.lanes = lanes_.data() + size_t(patterns_[tile]) * 8;
                t.lanes_step = lanes_.size() / out_.channels;
                if (!lanes_plus_.empty()) t.lanes_plus = lanes_plus_.data() + size_t(patterns_[tile]) * 8;
            }
            if (op_.residual != kNone) {
                t.residual = frame.values[op_.residual] + (t.out - out);
                t.residual_step = residual_.plane;
            }
            return run();
        }
        const int lane = tile * width_ * 8 + 32 * half;
        if (direct_) {
            t.finishes = finishes_.data(), t.shift = correction_shift(), t.words = std::min(width_ / 8, (out_.lanes() - lane) / 64);
            t.corrections = corrections_.data() + (lane >> t.shift), t.corrections_step = corrections_step();
            if (pool_) {
                t.class_corrections = class_corrections_.data(), t.classes = classes_of_.data() + 32 * half;
                t.floats = pooled_.floats(frame.values[pool_->out], 0) + 8 * half, t.floats_step = pooled_.plane;
            }
            if (!pool_ && !out_.bits) t.floats = out_.floats(out, 0) + lane, t.floats_step = out_.plane;
            if (op_.residual != kNone) {
                t.residual_floats = residual_.floats(frame.values[op_.residual], 0) + lane;
                t.residual_floats_step = residual_.plane;
            }
            return run();
        }
        t.counts = reinterpret_cast<int16_t*>(planes + counts_at());
        auto* room = reinterpret_cast<float*>(t.counts + size_t(kChunk) * width_ * 8);
        for (t.first = first; t.first < last; t.first = t.last) {
            t.last = std::min(last, t.first + kChunk);
            frame.kernels->bits(t, width_);
            for (int at = t.first; at < t.last; ++at)
                emit_tile(frame, tile, int(t.order[at]), t.counts + size_t(at - t.first) * width_ * 8, room);
        }
    }

    void emit_tile(const Frame& frame, int tile, int c, int16_t* counts, float* room) const {
        const int first = tile * tile_;  // row, or position
        if (!by_rows_) {
            const int positions = std::min(tile_, out_.positions() - first);
            return emit_counts(frame, c, first * out_.images, positions * out_.images, counts, room);
        }
        const int rows = std::min(tile_, out_.height - first), width = out_.width;
        if (row_ != width)  // rows without the lanes that do not exist
            for (int i = 1; i < rows; ++i) std::memmove(counts + i * width, counts + i * row_, sizeof(int16_t) * width);
        emit_counts(frame, c, first * width, rows * width, counts, room);
    }

    // ---- one image: tiles of whole rows ----

    // A 2x2 maximum of an 8x8 map: where it keeps the order, it comes before scale and shift.
    void pool_word(const Op& op, const Op* pool, const Shape& pooled) {
        if (!op.rising() || !pool->selects() || op.residual != kNone || out_.width != 8 || out_.height != 8 || classes() > 16) return;
        if (!out_.plain() || !pooled.plain() || 2 * (taps_ + grouped_->most_idle()) > INT16_MAX) return;
        pool_ = pool, pooled_ = pooled;
        for (int p = 0; p < 64; ++p) classes_of_.push_back(uint16_t(position_class(p)));
        class_corrections_.resize(size_t(out_.channels) * 16);
        for (int c = 0; c < out_.channels; ++c)
            for (int p = 0; p < 64; ++p)
                class_corrections_[16 * c + classes_of_[p]] = int16_t(corrections_[c * corrections_step() + (p >> correction_shift())]);
        corrections_ = {};
    }

    // Planes of one word: several channels at once, by gathers or by permutations, where their results need no further step.
    void group_channels(const Kernels& kernels) {
        const bool quarters = out_.width == 4 && out_.height == 4;
        if (!by_threshold_ && !direct_ && (!quarters || residual_.bits)) return;
        const auto use = [&](GroupedTaps&& taps, double cycles_per_eight) {
            if (grouped_ && taps.eights() * cycles_per_eight >= grouped_->eights() * cycles_per_eight_) return false;
            grouped_ = std::make_unique<GroupedTaps>(std::move(taps)), cycles_per_eight_ = cycles_per_eight;
            return true;
        };
        if (kernels.gathered && (by_threshold_ || direct_) && out_.channels % kernels.group == 0)
            use(gathered_taps(*lists_, kernels.group), 8 * kernels.cycles_per_gather);
        if (!kernels.shuffles || out_.channels % (quarters ? 32 : 16) || taps_ > 60000) return;  // 16 bits name a slot
        GroupedTaps taps = shuffled_taps(*lists_, taps_, quarters ? 1 : ShuffleKernels::bytes(taps_, 8) <= kFastest ? 8 : 16);
        if (taps_ + taps.most_idle() >= 65535 || !use(std::move(taps), (quarters ? 8 : 16) * kernels.shuffles->cycles_per_round)) return;
        shuffles_ = kernels.shuffles, direct_ = !by_threshold_;
        // A zero that is taken as a negative tap counts as one that agrees.
        for (int c = 0; c < out_.channels; ++c) {
            const int idle = grouped_->idle[c];
            bits_ = std::max(bits_, bit_length(uint32_t(lists_->kept[c] + 1 + idle)));
            for (auto* thresholds : {&thresholds_, &thresholds_plus_})
                for (int k = 0; k < classes() && !thresholds->empty(); ++k) (*thresholds)[size_t(c) * classes() + k] += uint16_t(idle);
            for (size_t p = 0; p < corrections_step() && !corrections_.empty(); ++p) corrections_[c * corrections_step() + p] += 2 * idle;
        }
    }
    void prepare_rows(const Kernels& kernels) {
        const int rows = tiles_ * tile_;
        valid_.assign(size_t(tiles_) * width_, 0);
        for (int y = 0; y < out_.height; ++y) {
            const uint64_t columns = low_bits(out_.width);
            std::memcpy(valid_.data() + size_t(y) * row_ / 8, &columns, row_ / 8);
        }
        if (by_threshold_) {
            const std::vector<int> kinds = kernels.looks_up && width_ > 8 ? find_places() : std::vector<int>();
            const auto slice = [&](const std::vector<uint16_t>& all) { return places_.empty() ? this->slice(all, rows) : tables(all, kinds); };
            sliced_ = slice(thresholds_);
            if (op_.residual != kNone) sliced_plus_ = slice(thresholds_plus_);
        }
        const bool halves = op_.stride == 2 && row_ == std::max(8, in_.row / 2);
        fast_ = op_.padding <= kRing && ((same_ && in_.row == row_) || halves);
        if (!fast_) return;
        if (halves) {
            sub_front_ = round_up(2 * row_ / 8, 8);
            sub_plane_ = round_up(sub_front_ + size_t(in_.height / 2 + kRing) * row_ / 8, 8) + 64;
        }
        const bool words = same_ && row_ == 8 && out_.height <= 8;
        for (int y = 0; y < op_.kernel_height; ++y)
            for (int x = 0; x < op_.kernel_width; ++x) {
                const int by = x - op_.padding, down = y - op_.padding, stride = op_.stride;
                uint64_t columns = 0;
                for (int o = 0; o < out_.width; ++o)
                    if (o * stride + by >= 0 && o * stride + by < in_.width) columns |= uint64_t(1) << o;
                for (int bits = row_; bits < 64; bits *= 2) columns |= columns << bits;
                masks_.push_back(columns);
                if (words) {
                    uint64_t rows = 0;
                    for (int o = 0; o < out_.height; ++o)
                        if (o + down >= 0 && o + down < in_.height) rows |= uint64_t(255) << 8 * o;
                    turns_.push_back(uint64_t(8 * down + by) & 63), word_masks_.push_back(columns & rows);
                }
                // With stride 2: of every second row, and of those every second column, as if the stride were 1.
                const int sub = halves ? 2 * (down & 1) + (by & 1) : 0;
                offsets_.push_back(int(sub * sub_plane_) + (halves ? down >> 1 : down) * row_ / 8);
                shifts_.push_back(halves ? by >> 1 : by);
            }
        turns_.resize(round_up(turns_.size(), 8)), word_masks_.resize(turns_.size());
    }

    // Bytes of eight positions of a row differ only by the classes of these: where there are at most 16 kinds, fills `places_` with the
    // kind of each byte, and gives a position where each begins.
    std::vector<int> find_places() {
        std::map<std::vector<int>, int> known;
        std::vector<int> kinds;
        std::vector<uint8_t> places(size_t(tiles_) * width_);
        for (int y = 0; y < out_.height; ++y)
            for (int x = 0; x < out_.width; x += 8) {
                std::vector<int> kind;
                for (int p = y * out_.width + x, end = p + std::min(8, out_.width - x); p < end; ++p) kind.push_back(position_class(p));
                const auto [entry, is_new] = known.emplace(kind, int(kinds.size()));
                if (is_new) kinds.push_back(y * out_.width + x);
                places[size_t(y) * row_ / 8 + x / 8] = uint8_t(entry->second);
            }
        if (kinds.size() <= 16) places_ = std::move(places);
        return kinds;
    }
    // [channel][bits][16]
    std::vector<uint8_t> tables(const std::vector<uint16_t>& thresholds, const std::vector<int>& kinds) const {
        std::vector<uint8_t> bytes(size_t(out_.channels) * bits_ * 16);
        for (int c = 0; c < out_.channels; ++c)
            for (size_t k = 0; k < kinds.size(); ++k)
                for (int x = 0; x < std::min(8, out_.width - kinds[k] % out_.width); ++x) {
                    const uint32_t t = thresholds[size_t(c) * classes() + position_class(kinds[k] + x)];
                    for (int b = 0; b < bits_; ++b) bytes[(size_t(c) * bits_ + b) * 16 + k] |= uint8_t((t >> b & 1) << x);
                }
        return bytes;
    }

    // [channel][tile][bits][width]
    std::vector<uint8_t> slice(const std::vector<uint16_t>& thresholds, int rows) const {
        const int row_bytes = row_ / 8, group = grouped_ ? grouped_->group : 1, lane = grouped_ ? grouped_->lane : width_;
        const int tiles = tiles_ * halves(), tile = tile_ / halves();
        const size_t step = size_t(group) * lane;
        std::vector<uint8_t> sliced(size_t(out_.channels) * tiles * bits_ * lane);
        std::vector<int> place(out_.channels);
        for (size_t i = 0; grouped_ && i < place.size(); ++i) place[grouped_->order[i]] = int(i);
        for (int c = 0; c < out_.channels; ++c)
            for (int y = 0; y < std::min(rows, out_.height); ++y) {
                uint64_t planes[16] = {};
                for (int x = 0; x < out_.width; ++x) {
                    const uint32_t t = thresholds[size_t(c) * classes() + position_class(y * out_.width + x)];
                    for (int b = 0; b < bits_; ++b) planes[b] |= uint64_t(t >> b & 1) << x;
                }
                // Of grouped channels: [group][half][bits][channels of the group][lane]; in a lane of two bytes rows have four bits.
                uint8_t* to = sliced.data();
                to += ((grouped_ ? size_t(place[c] / group) : size_t(c)) * tiles + y / tile) * bits_ * step + place[c] % group * size_t(lane);
                for (int b = 0; b < bits_; ++b)
                    if (lane == 2) to[b * step + y / 2] |= uint8_t(planes[b] << (y % 2 * 4));
                    else std::memcpy(to + b * step + size_t(y % tile) * row_bytes, &planes[b], row_bytes);
            }
        return sliced;
    }

    void pack_rows(const Frame& frame, int tile, uint8_t* planes) const {
        uint8_t* base = frame.values[op_.in];
        const int area = op_.area(), first = tile * tile_;
        if (fast_) {
            if (!turns_.empty())
                return frame.kernels->pack_words(in_.rows(base, 0), in_.plane, in_.channels, turns_.data(), word_masks_.data(), area, planes);
            uint8_t* room = planes + counts_at();
            if (sub_plane_) std::memset(room, 0, 4 * sub_plane_);
            for (int c = 0; c < in_.channels; ++c) {
                const uint8_t* from = in_.rows(base, c);
                if (sub_plane_) frame.kernels->split(from, in_.row, in_.height, sub_plane_, room + sub_front_), from = room + sub_front_;
                frame.kernels->pack_rows(from + size_t(first) * row_ / 8, offsets_.data(), shifts_.data(), masks_.data(), area, width_,
                                         planes + size_t(c) * area * width_);
            }
            return;
        }
        const uint64_t columns = low_bits(out_.width);
        for (int c = 0; c < in_.channels; ++c)
            for (int k = 0; k < area; ++k, planes += width_)
                for (int i = 0; i < tile_; ++i) {
                    const int y = (first + i) * op_.stride + k / op_.kernel_width - op_.padding, by = k % op_.kernel_width - op_.padding;
                    uint64_t word = 0;
                    if (first + i < out_.height && y >= 0 && y < in_.height) {
                        word = in_.load_row(base, c, y);
                        // Output column x reads input column x * stride + by; `skip` columns are left of the map.
                        const int skip = by < 0 ? (-by + op_.stride - 1) / op_.stride : 0, start = by + skip * op_.stride;
                        word = start < 64 ? word >> start : 0;
                        if (op_.stride > 1) {
                            uint64_t some = 0;
                            for (int x = 0; x * op_.stride < 64; ++x) some |= (word >> (x * op_.stride) & 1) << x;
                            word = some;
                        }
                        word = skip < 64 ? word << skip : 0;
                        word &= columns;
                    }
                    Shape::store_row(planes + i * (row_ / 8), row_, word);
                }
    }

    // ---- many images: tiles of positions ----

    void prepare_cells() {
        std::map<std::vector<int>, int> known;
        for (int tile = 0; tile < tiles_; ++tile) {
            std::vector<int> pattern;
            for (int i = 0; i < tile_; ++i) pattern.push_back(position_class(std::min(tile * tile_ + i, out_.positions() - 1)));
            patterns_.push_back(known.emplace(pattern, int(known.size())).first->second);
        }
        const auto spread = [&](const std::vector<uint16_t>& thresholds) {
            std::vector<uint16_t> lanes(size_t(out_.channels) * known.size() * 8);
            for (const auto& [pattern, number] : known)
                for (int c = 0; c < out_.channels; ++c)
                    for (int i = 0; i < tile_; ++i)
                        lanes[(size_t(c) * known.size() + number) * 8 + i] = thresholds[size_t(c) * classes() + pattern[i]];
            return lanes;
        };
        if (!by_threshold_) return;
        lanes_ = spread(thresholds_);
        if (op_.residual != kNone) lanes_plus_ = spread(thresholds_plus_);
    }

    // A shift by a tap is a shift of the flat positions, if input and output have the same sides.
    void pack_cells(const Frame& frame, int tile, uint8_t* planes) const {
        uint8_t* base = frame.values[op_.in];
        const int area = op_.area(), first = tile * tile_;
        std::vector<int32_t> sources(size_t(area) * tile_);
        for (int k = 0; k < area; ++k)
            for (int i = 0; i < tile_; ++i) {
                const int o = first + i;
                const int y = o / out_.width * op_.stride + k / op_.kernel_width - op_.padding;
                const int x = o % out_.width * op_.stride + k % op_.kernel_width - op_.padding;
                const bool inside = o < out_.positions() && y >= 0 && y < in_.height && x >= 0 && x < in_.width;
                sources[size_t(k) * tile_ + i] = inside ? y * in_.width + x : -1;
            }
        if (same_) {
            std::vector<int32_t> offsets(area);
            std::vector<uint64_t> masks(size_t(area) * tile_);
            for (int k = 0; k < area; ++k)
                for (int i = 0; i < tile_; ++i)
                    if (const int source = sources[size_t(k) * tile_ + i]; source >= 0) {
                        offsets[k] = (source - i) * 8;
                        masks[size_t(k) * tile_ + i] = ~uint64_t(0);
                    }
            for (int c = 0; c < in_.channels; ++c)
                frame.kernels->pack_cells(base + c * in_.plane, offsets.data(), reinterpret_cast<const uint8_t*>(masks.data()), area, width_,
                                          planes + size_t(c) * area * width_);
            return;
        }
        for (int c = 0; c < in_.channels; ++c) {
            const uint64_t* cells = in_.cells(base, c);
            for (int i = 0; i < area * tile_; ++i, planes += 8) {
                const uint64_t cell = sources[i] < 0 ? 0 : cells[sources[i]];
                std::memcpy(planes, &cell, 8);
            }
        }
    }

    const bool by_rows_;
    const int row_;  // bits of a row of lanes
    int width_, tile_, tiles_;  // bytes of a tile; its rows or positions; how many
    float cycles_per_plane_;
    bool same_ = false, fast_ = false, direct_ = false;
    const Op* pool_ = nullptr;  // done by this step, too
    Shape pooled_;
    std::vector<Finish> pool_finishes_;
    std::vector<int16_t> class_corrections_;  // of a pool in a word
    std::vector<uint16_t> classes_of_;
    std::unique_ptr<GroupedTaps> grouped_;
    const ShuffleKernels* shuffles_ = nullptr;  // who computes the groups; null: gathers
    double cycles_per_eight_ = 0;  // of taps of a group
    size_t sub_plane_ = 0, sub_front_ = 0;  // bytes of a quarter of a plane, for stride 2
    std::vector<uint8_t> sliced_, sliced_plus_, places_, valid_;
    std::vector<int32_t> offsets_;
    std::vector<int64_t> shifts_;
    std::vector<uint64_t> masks_, turns_, word_masks_;  // the last two where a plane is one word
    std::vector<int> patterns_;
    std::vector<uint16_t> lanes_, lanes_plus_;
};

// 64 words of 64 bits: bit j of word i becomes bit i of word j (H. S. Warren, Hacker's Delight, section 7-3).
void transpose(uint64_t* words) {
    uint64_t mask = 0x00000000ffffffffu;
    for (int j = 32; j; j >>= 1, mask ^= mask << j)
        for (int k = 0; k < 64; k = (k + j + 1) & ~j) {
            const uint64_t t = ((words[k] >> j) ^ words[k + j]) & mask;
            words[k] ^= t << j;
            words[k + j] ^= t;
        }
}

// One image, channels in the words: for small maps and high densities.
class Popcount final : public BitStep {
  public:
    Popcount(const Op& op, const std::vector<Shape>& shapes, const Kernels& kernels, std::shared_ptr<const TapLists> lists)
        : BitStep(op, shapes, std::move(lists)), blocks_((in_.channels + 63) / 64), words_(words(op, in_)), padded_(padded(out_)),
          cycles_(kernels.cycles_per_popcount) {
        mask_.resize(size_t(out_.channels) * words_), sign_.resize(mask_.size());
        for (int c = 0; c < out_.channels; ++c)
            for (int t = 0; t < taps_; ++t) {
                const size_t i = size_t(c) * taps_ + t;
                const int channel = t / op.area(), at = t % op.area() * blocks_ + channel / 64;
                const uint64_t bit = uint64_t(1) << (channel % 64);
                if (op.kept(i)) mask_[size_t(c) * words_ + at] |= bit;
                if (op.positive(i)) sign_[size_t(c) * words_ + at] |= bit;
            }
        const auto spread = [&](const std::vector<uint16_t>& thresholds) {
            std::vector<uint16_t> all;
            for (int c = 0; !thresholds.empty() && c < out_.channels; ++c)
                for (int p = 0; p < out_.positions(); ++p) all.push_back(thresholds[size_t(c) * classes() + position_class(p)]);
            return all;
        };
        by_position_ = spread(thresholds_), by_position_plus_ = spread(thresholds_plus_);
        lists_.reset();  // the planes are all that it needs
    }

    void run(const Frame& frame) const override {
        const int positions = out_.positions();
        auto* x = reinterpret_cast<uint64_t*>((*frame.scratch)[0].data());
        pack(frame, x);
        constexpr int chunk = 16;
        frame.each((out_.channels + chunk - 1) / chunk, [&](int item, int) {
            std::vector<int16_t> counts(padded_);
            std::vector<float> above(2 * positions);
            for (int c = item * chunk; c < std::min(out_.channels, (item + 1) * chunk); ++c) {
                const uint64_t *mask = mask_.data() + size_t(c) * words_, *sign = sign_.data() + size_t(c) * words_;
                if (padded_ == 1) frame.kernels->popcount(x, mask, sign, words_, counts.data());
                else frame.kernels->popcounts(x, padded_, mask, sign, words_, counts.data());
                by_threshold_ ? emit_thresholds(frame, c, counts.data())
                              : emit_counts(frame, c, 0, positions, counts.data(), above.data());
            }
        });
    }

    std::string name() const override { return "popcount"; }
    double cycles() const override { return cost(op_, in_, out_, cycles_); }
    static double cost(const Op& op, const Shape& in, const Shape& out, double per_vector) {
        const double work = double(padded(out)) * words(op, in);
        return out.channels * (work / 8 * per_vector + 40 + out.positions()) + 2 * work + 1500.0 * ((in.channels + 63) / 64);
    }
    size_t scratch() const override {
        return (size_t(padded_) * words_ + size_t(blocks_) * round_up(size_t(in_.height) * in_.row, 64)) * 8;
    }
    void memory(Held& held) const override {
        BitStep::memory(held);
        held[this] += (mask_.size() + sign_.size()) * 8 + (by_position_.size() + by_position_plus_.size()) * 2;
    }

  private:
    static int padded(const Shape& out) { return out.positions() == 1 ? 1 : int(round_up(out.positions(), 8)); }
    static int words(const Op& op, const Shape& in) {
        return int(round_up(size_t((in.channels + 63) / 64) * op.area(), 8));
    }

    void emit_thresholds(const Frame& frame, int c, const int16_t* counts) const {
        const int positions = out_.positions(), width = out_.width;
        uint8_t *base = frame.values[op_.out], *other = op_.residual == kNone ? nullptr : frame.values[op_.residual];
        const uint16_t* thresholds = by_position_.data() + size_t(c) * positions;
        const uint16_t* thresholds_plus = other ? by_position_plus_.data() + size_t(c) * positions : nullptr;
        for (int row = 0; row < out_.height;) {  // as many rows as a word holds
            const int rows = std::min(out_.height - row, std::max(1, 64 / width)), from = row * width, n = rows * width;
            uint64_t bits = frame.kernels->compare(counts + from, thresholds + from, n);
            if (other) {
                uint64_t residual = 0;
                for (int y = 0; y < rows; ++y) residual |= residual_.load_row(other, c, row + y) << (y * width);
                bits = (residual & frame.kernels->compare(counts + from, thresholds_plus + from, n)) | (~residual & bits);
            }
            if (flips_[c]) bits = ~bits;
            for (int y = 0; y < rows; ++y) out_.store_row(base, c, row + y, bits >> (y * width) & low_bits(width));
            row += rows;
        }
    }

    // x[tap][block][position]: what each output position sees; 0 in the padding, as the corrections have it.
    void pack(const Frame& frame, uint64_t* x) const {
        uint8_t* base = frame.values[op_.in];
        const int per_plane = int(round_up(size_t(in_.height) * in_.row, 64)) / 64;
        uint64_t* by_place = x + size_t(padded_) * words_;  // [block][place in a plane of rows]
        for (int block = 0; block < blocks_; ++block)
            for (int w = 0; w < per_plane; ++w) {
                uint64_t words[64] = {};
                const int channels = std::min(64, in_.channels - block * 64);
                for (int c = 0; c < channels; ++c) {
                    const size_t left = size_t(in_.height) * in_.row / 8 - size_t(w) * 8;
                    std::memcpy(&words[c], in_.rows(base, block * 64 + c) + size_t(w) * 8, std::min<size_t>(8, left));
                }
                transpose(words);
                std::memcpy(by_place + (size_t(block) * per_plane + w) * 64, words, sizeof words);
            }
        std::memset(x, 0, size_t(padded_) * words_ * 8);
        for (int p = 0; p < out_.positions(); ++p)
            for (int k = 0; k < op_.area(); ++k) {
                const int row = p / out_.width * op_.stride + k / op_.kernel_width - op_.padding;
                const int column = p % out_.width * op_.stride + k % op_.kernel_width - op_.padding;
                if (row < 0 || row >= in_.height || column < 0 || column >= in_.width) continue;
                for (int block = 0; block < blocks_; ++block)
                    x[size_t(k * blocks_ + block) * padded_ + p] = by_place[size_t(block) * per_plane * 64 + row * in_.row + column];
            }
    }

    const int blocks_, words_, padded_;  // padded_: positions, a multiple of 8 unless one
    const float cycles_;
    std::vector<uint64_t> mask_, sign_;
    std::vector<uint16_t> by_position_, by_position_plus_;  // thresholds, [channel][position]
};

}  // namespace

std::unique_ptr<Step> make_bit_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes, const Kernels& kernels, Packed& packed) {
    const Shape &in = shapes[op.in], &out = shapes[op.out];
    const int width = Sliced::best_width(op, in, out, kernels);
    std::shared_ptr<const TapLists> lists = packed.lists;
    if (!lists || lists->width != width) lists = std::make_shared<TapLists>(op, in.channels * op.area(), width);
    auto sliced = std::make_unique<Sliced>(op, pool, shapes, kernels, lists);
    std::unique_ptr<Step> step;
    if (out.images > 1 || sliced->cycles() <= Popcount::cost(op, in, out, kernels.cycles_per_popcount)) step = std::move(sliced);
    else sliced.reset(), step = std::make_unique<Popcount>(op, shapes, kernels, lists);
    const bool is_packed = lists == packed.lists;
    if (lists.use_count() > 1 + is_packed) packed.lists = lists;  // a step holds them
    else if (is_packed) packed.lists.reset();
    return step;
}

}  // namespace biprop
