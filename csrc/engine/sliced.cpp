// Bit-sliced convolutions: full adders add the planes of the kept taps, so that each lane of a tile has its count in
// a column of bits.
#include <algorithm>
#include <map>

#include "bits.h"

namespace biprop {

namespace {

constexpr int kChunk = 8;  // channels whose counts are in memory at a time
constexpr size_t kFastest = 40 << 10;  // bytes of the fastest cache that planes may take

class Sliced final : public BitStep {
  public:
    Sliced(const Op& op, const Op* pool, const std::vector<Shape>& shapes, const Kernels& kernels,
           std::shared_ptr<const TapLists> lists)
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
        // The pool kernel for counts reads a correction for each position.
        const bool pairs =
            !by_rows_ && corrections_step() > 1 && tile_ % 2 == 0 && out_.width % tile_ == 0 && out_.plain();
        if (pool && pairs && shapes[pool->out].plain() && 2 * taps_ <= INT16_MAX) {
            pool_ = pool;
            pooled_ = shapes[pool->out];
            pool_finishes_ = finishes_of(*pool);
        }
        if (pool && grouped_ && direct_) pool_word(op, pool, shapes[pool->out]);
        if (grouped_) lists_.reset();  // grouped_ has its own lists
    }

    void run(const Frame& frame) const override {
        const bool in_pairs = pool_ && !by_rows_;
        const int items = in_pairs ? pooled_.height * tiles_a_row() : tiles_;
        const int parts = this->parts(frame, items), group = channels_at_once();
        frame.each(items * parts, [&](int at, int thread) {
            uint8_t* planes = (*frame.scratch)[thread].data();
            const int item = at / parts, share = at % parts;
            const auto border = [&](int p) { return out_.channels * p / parts / group * group; };
            const int first = border(share), last = share + 1 == parts ? out_.channels : border(share + 1);
            if (!in_pairs) {
                pack(frame, item, planes);
                for (int part = 0; part < plane_parts(); ++part) compute(frame, item, part, planes, first, last);
                return;
            }
            pack(frame, upper_tile(item), planes);
            pack(frame, upper_tile(item) + tiles_a_row(), planes + counts_at());
            compute_pooled(frame, item, planes, first, last);
        });
    }
    const Op& last() const override { return pool_ ? *pool_ : op_; }
    const GroupedTaps* grouped() const override { return grouped_.get(); }

    std::string name() const override {
        if (grouped_)
            return "bit-sliced, " + std::to_string(8 * grouped_->lane) + " positions of " +
                   std::to_string(grouped_->group) + " channels" + (shuffles_ ? ", shuffled" : "") +
                   (pool_ ? ", max pool" : "");
        return "bit-sliced, " + std::to_string(width_ * 8) + (by_rows_ ? " positions" : " lanes (64 images)") +
               (pool_ ? ", max pool" : "");
    }
    double cycles() const override {
        if (grouped_)
            return grouped_->eights() * cycles_per_eight_ + out_.channels * (20.0 + (by_threshold_ ? 0 : 60)) +
                   4.0 * taps_;
        const double planes =
            double(lists_->taps.size()) + out_.channels * (10.0 + 2 * bits_ + (by_threshold_ ? 0 : 6 * width_));
        return tiles_ * (planes * cycles_per_plane_ + 2.0 * taps_ * (same_ ? 1 : by_rows_ ? tile_ : width_ / 8));
    }
    size_t scratch() const override {
        const size_t tiles = pool_ && !by_rows_ ? 2 : 1;
        return tiles * counts_at() +
               std::max((tiles * kChunk * sizeof(int16_t) + 2 * sizeof(float)) * lanes(), split_bytes()) + 64 +
               plane_parts() * slots_bytes();
    }
    void memory(Held& held) const override {
        BitStep::memory(held);
        held[this] += (grouped_ ? grouped_->bytes() : 0) + sliced_.size() + sliced_plus_.size() + places_.size() +
                      (class_corrections_.size() + lanes_.size() + lanes_plus_.size()) * 2;
    }

  private:
    // Bytes of the planes of all taps, with the planes of zeros and of ones, and what `pack_words` writes behind them.
    size_t counts_at() const { return round_up(size_t(taps_ + 8) * width_, 64); }
    size_t lanes() const { return size_t(width_) * 8; }
    int channels_at_once() const { return grouped_ ? grouped_->group : 1; }

    void pack(const Frame& frame, int tile, uint8_t* planes) const {
        by_rows_ ? pack_rows(frame, tile, planes) : pack_cells(frame, tile, planes);
        std::memset(planes + size_t(taps_) * width_, 0, width_);
        std::memset(planes + size_t(taps_ + 1) * width_, 255, width_);
        for (int part = 0; shuffles_ && part < plane_parts(); ++part)
            shuffles_->to_slots(planes, taps_, *form_, quarters(), part, slots(planes, part));
    }
    size_t split_bytes() const { return round_up(4 * sub_plane_, 64); }
    bool quarters() const { return out_.width == 4 && out_.height == 4; }  // of a word
    int plane_parts() const { return form_ ? form_->parts(quarters()) : 1; }  // one after the other
    int part_bytes() const { return 8 / plane_parts(); }
    size_t slots_bytes() const { return form_ ? form_->size(taps_) : 0; }
    uint8_t* slots(uint8_t* planes, int part) const {
        return planes + counts_at() + split_bytes() + part * slots_bytes();
    }
    BitTile bit_tile(const uint8_t* planes) const {
        BitTile t{};
        const auto use = [&](const auto& lists) {
            t.taps = lists.taps.data();
            t.ranges = lists.ranges.data();
            t.order = lists.order.data();
        };
        grouped_ ? use(*grouped_) : use(*lists_);
        t.planes = planes;
        t.second = form_ ? form_->second(taps_) : 0;
        t.quarters = quarters();
        t.bits = bits_;
        t.flips = flips_.data();
        return t;
    }
    void run_kernel(const Frame& frame, const BitTile& t) const {
        if (shuffles_)
            shuffles_->bits(t, *form_);
        else if (grouped_)
            frame.kernels->gathered(t);
        else
            frame.kernels->bits(t, width_);
    }

    // ---- many images and a 2x2 maximum behind it: two tiles, one above the other ----

    int tiles_a_row() const { return out_.width / tile_; }
    int upper_tile(int item) const { return item / tiles_a_row() * 2 * tiles_a_row() + item % tiles_a_row(); }

    // The pool comes before scale and shift, so it takes the largest 2 count - correction, or the smallest where the
    // scale is negative.
    void compute_pooled(const Frame& frame, int item, uint8_t* planes, int first, int last) const {
        int16_t* const counts[2] = {reinterpret_cast<int16_t*>(planes + 2 * counts_at()), counts[0] + kChunk * lanes()};
        auto* room = reinterpret_cast<float*>(counts[1] + kChunk * lanes());
        const int from = upper_tile(item) * tile_, n = tile_ / 2 * out_.images;
        const size_t to =
            (item / tiles_a_row() * pooled_.width + item % tiles_a_row() * tile_ / 2) * size_t(out_.images);
        for (int at = first; at < last; at += kChunk) {
            const int some = std::min(kChunk, last - at);
            for (int row = 0; row < 2; ++row) {
                BitTile t = bit_tile(planes + row * counts_at());
                t.first = at;
                t.last = at + some;
                t.counts = counts[row];
                frame.kernels->bits(t, width_);
            }
            for (int i = 0; i < some; ++i) {
                const int c = int(lists_->order[at + i]);
                const int16_t* const own[2] = {counts[0] + i * lanes(), counts[1] + i * lanes()};
                const int32_t* correction = corrections_.data() + size_t(c) * out_.positions() + from;
                const int32_t* const corrections[2] = {correction, correction + out_.width};
                frame.kernels->pool_counts(own, corrections, tile_, op_.scale[c] < 0, room);
                frame.kernels->finish_floats(room, n, finishes_[c], nullptr, room + n);
                frame.kernels->finish_floats(room + n, n, pool_finishes_[c], nullptr,
                                             pooled_.floats(frame.values[pool_->out], c) + to);
            }
        }
    }

    void compute(const Frame& frame, int tile, int part, uint8_t* planes, int first, int last) const {
        BitTile t = bit_tile(shuffles_ ? slots(planes, part) : planes);
        t.first = first / channels_at_once();
        t.last = last / channels_at_once();
        t.out = frame.values[op_.out] + out_.front + size_t(tile) * width_ + part_bytes() * part;
        t.out_step = out_.plane;
        if (by_threshold_) {
            by_rows_ ? use_thresholds_of_rows(tile, part, t) : use_thresholds_of_cells(tile, t);
            if (op_.residual != kNone) {
                t.residual = frame.values[op_.residual] + (t.out - frame.values[op_.out]);
                t.residual_step = residual_.plane;
            }
            run_kernel(frame, t);
        } else if (direct_) {
            use_corrections(frame, tile * width_ * 8 + 8 * part_bytes() * part, part, t);
            run_kernel(frame, t);
        } else {
            t.counts = reinterpret_cast<int16_t*>(planes + counts_at());
            compute_counts(frame, tile, first, last, t);
        }
    }

    void use_thresholds_of_rows(int tile, int part, BitTile& t) const {
        const size_t part_step = grouped_ ? size_t(grouped_->group) * grouped_->lane : 0;  // of one bit
        const size_t from = places_.empty() ? bits_ * (size_t(tile) * width_ + part * part_step) : 0;
        t.sliced = sliced_.data() + from;
        t.sliced_step = sliced_.size() / (out_.channels / channels_at_once());
        if (!sliced_plus_.empty()) t.sliced_plus = sliced_plus_.data() + from;
        if (!places_.empty()) t.places = places_.data() + size_t(tile) * width_;
        if (!form_ || !quarters()) t.valid = valid_.data() + size_t(tile) * width_ + part_bytes() * part;
    }

    void use_thresholds_of_cells(int tile, BitTile& t) const {
        t.lanes = lanes_.data() + size_t(patterns_[tile]) * 8;
        t.lanes_step = lanes_.size() / out_.channels;
        if (!lanes_plus_.empty()) t.lanes_plus = lanes_plus_.data() + size_t(patterns_[tile]) * 8;
    }

    // Lets the kernel itself finish the counts, for lanes from `lane`.
    void use_corrections(const Frame& frame, int lane, int part, BitTile& t) const {
        t.finishes = finishes_.data();
        t.shift = correction_shift();
        t.words = std::min(width_ / 8, (out_.lanes() - lane) / 64);
        t.corrections = corrections_.data() + (lane >> t.shift);
        t.corrections_step = corrections_step();
        if (pool_) {
            t.class_corrections = class_corrections_.data();
            t.classes = classes_of_.data() + 8 * part_bytes() * part;
            t.floats = pooled_.floats(frame.values[pool_->out], 0) + 2 * part_bytes() * part;
            t.floats_step = pooled_.plane;
        } else if (!out_.bits) {
            t.floats = out_.floats(frame.values[op_.out], 0) + lane;
            t.floats_step = out_.plane;
        }
        if (op_.residual != kNone) {
            t.residual_floats = residual_.floats(frame.values[op_.residual], 0) + lane;
            t.residual_floats_step = residual_.plane;
        }
    }

    void compute_counts(const Frame& frame, int tile, int first, int last, BitTile& t) const {
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

    // A 2x2 max pool of an 8x8 map. It comes before scale and shift, which must keep the order.
    void pool_word(const Op& op, const Op* pool, const Shape& pooled) {
        if (!op.rising() || !pool->selects() || op.residual != kNone || out_.width != 8 || out_.height != 8 ||
            classes() > 16)
            return;
        if (!out_.plain() || !pooled.plain() || 2 * (taps_ + grouped_->most_idle()) > INT16_MAX) return;
        pool_ = pool;
        pooled_ = pooled;
        for (int p = 0; p < 64; ++p) classes_of_.push_back(uint16_t(position_class(p)));
        class_corrections_.resize(size_t(out_.channels) * 16);
        for (int c = 0; c < out_.channels; ++c)
            for (int p = 0; p < 64; ++p)
                class_corrections_[16 * c + classes_of_[p]] =
                    int16_t(corrections_[c * corrections_step() + (p >> correction_shift())]);
        release(corrections_);
    }

    // Where a plane is one word, computes several channels at once, by gathers or by permutations, if the kernel can
    // finish their counts itself.
    void group_channels(const Kernels& kernels) {
        if (!by_threshold_ && !direct_ && (!quarters() || residual_.bits)) return;
        const auto use = [&](GroupedTaps&& taps, double cycles_per_eight) {
            if (grouped_ && taps.eights() * cycles_per_eight >= grouped_->eights() * cycles_per_eight_) return false;
            grouped_ = std::make_unique<GroupedTaps>(std::move(taps));
            cycles_per_eight_ = cycles_per_eight;
            direct_ = !by_threshold_;
            return true;
        };
        if (kernels.gathered && out_.channels % kernels.group == 0)
            use(gathered_taps(*lists_, kernels.group), 8 * kernels.cycles_per_gather);
        // 16 bits must name a slot.
        if (!kernels.shuffles || taps_ > 60000) return;
        const ShuffleForm& of_words = kernels.shuffles->of_words;
        const ShuffleForm& fitting = of_words.size(taps_) <= kFastest ? of_words : kernels.shuffles->of_many_words;
        const ShuffleForm& form = quarters() ? kernels.shuffles->of_quarters : fitting;
        if (out_.channels % form.group || form.lane < row_ / 8) return;  // a part has whole rows
        GroupedTaps taps = shuffled_taps(*lists_, taps_, form);
        if (taps_ + taps.most_idle() >= 65535 ||
            !use(std::move(taps), 8 * form.parts(quarters()) * kernels.shuffles->cycles_per_round))
            return;
        shuffles_ = kernels.shuffles;
        form_ = &form;
        // A zero that stands for a negative tap is counted as one that agrees.
        for (int c = 0; c < out_.channels; ++c) {
            const int idle = grouped_->idle[c];
            bits_ = std::max(bits_, bit_length(uint32_t(lists_->kept[c] + 1 + idle)));
            for (auto* thresholds : {&thresholds_, &thresholds_plus_})
                for (int k = 0; k < classes() && !thresholds->empty(); ++k)
                    (*thresholds)[size_t(c) * classes() + k] += uint16_t(idle);
            for (size_t p = 0; p < corrections_step() && !corrections_.empty(); ++p)
                corrections_[c * corrections_step() + p] += 2 * idle;
        }
    }
    void prepare_rows(const Kernels& kernels) {
        valid_.assign(size_t(tiles_) * width_, 0);
        for (int y = 0; y < out_.height; ++y) {
            const uint64_t columns = low_bits(out_.width);
            std::memcpy(valid_.data() + size_t(y) * row_ / 8, &columns, row_ / 8);
        }
        if (by_threshold_) prepare_thresholds(kernels);
        const bool halves = op_.stride == 2 && row_ == std::max(8, in_.row / 2);
        fast_ = op_.padding <= kRing && ((same_ && in_.row == row_) || halves);
        if (!fast_) return;
        if (halves) {
            sub_front_ = round_up(2 * row_ / 8, 8);
            sub_plane_ = round_up(sub_front_ + size_t(in_.height / 2 + kRing) * row_ / 8, 8) + 64;
        }
        for (int y = 0; y < op_.kernel_height; ++y)
            for (int x = 0; x < op_.kernel_width; ++x) prepare_tap(y - op_.padding, x - op_.padding, halves);
        turns_.resize(round_up(turns_.size(), 8));
        word_masks_.resize(turns_.size());
    }

    void prepare_thresholds(const Kernels& kernels) {
        const std::vector<int> kinds = kernels.looks_up && width_ > 8 ? find_places() : std::vector<int>();
        const auto slice = [&](const std::vector<uint16_t>& all) {
            return places_.empty() ? this->slice(all, tiles_ * tile_) : tables(all, kinds);
        };
        sliced_ = slice(thresholds_);
        if (op_.residual != kNone) sliced_plus_ = slice(thresholds_plus_);
    }

    // The offsets, shifts and masks of the kernel `pack_rows` for the tap `down` rows below and `by` columns right of
    // an output position.
    void prepare_tap(int down, int by, bool halves) {
        const int stride = op_.stride;
        uint64_t columns = 0;
        for (int o = 0; o < out_.width; ++o)
            if (o * stride + by >= 0 && o * stride + by < in_.width) columns |= uint64_t(1) << o;
        for (int bits = row_; bits < 64; bits *= 2) columns |= columns << bits;
        masks_.push_back(columns);
        if (same_ && row_ == 8 && out_.height <= 8) {  // a plane is one word
            uint64_t rows = 0;
            for (int o = 0; o < out_.height; ++o)
                if (o + down >= 0 && o + down < in_.height) rows |= uint64_t(255) << 8 * o;
            turns_.push_back(uint64_t(8 * down + by) & 63);
            word_masks_.push_back(columns & rows);
        }
        // With stride 2, a tap reads every second row, and of those every second column, as if the stride were 1.
        const int sub = halves ? 2 * (down & 1) + (by & 1) : 0;
        offsets_.push_back(int(sub * sub_plane_) + (halves ? down >> 1 : down) * row_ / 8);
        shifts_.push_back(halves ? by >> 1 : by);
    }

    // The thresholds of eight positions, one byte of a row, depend only on the classes of the positions. Where there
    // are at most 16 kinds of bytes, fills `places_` with the kind of each byte. Returns, for each kind, a position
    // where such a byte begins.
    std::vector<int> find_places() {
        std::map<std::vector<int>, int> known;
        std::vector<int> kinds;
        std::vector<uint8_t> places(size_t(tiles_) * width_);
        for (int y = 0; y < out_.height; ++y)
            for (int x = 0; x < out_.width; x += 8) {
                std::vector<int> kind;
                for (int p = y * out_.width + x, end = p + std::min(8, out_.width - x); p < end; ++p)
                    kind.push_back(position_class(p));
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
                    for (int b = 0; b < bits_; ++b)
                        bytes[(size_t(c) * bits_ + b) * 16 + k] |= uint8_t((t >> b & 1) << x);
                }
        return bytes;
    }

    // [channel][tile][bits][width]
    std::vector<uint8_t> slice(const std::vector<uint16_t>& thresholds, int rows) const {
        const int row_bytes = row_ / 8, group = channels_at_once(), lane = grouped_ ? grouped_->lane : width_;
        const int tiles = tiles_ * plane_parts(), tile = tile_ / plane_parts();
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
                // Layout for grouped channels: [group][part][bits][channel of the group][lane], or where bytes are
                // apart [group][part][bits][byte of the lane][channel of the group]. Rows of 4x4 planes have four bits.
                const bool apart = form_ && form_->slots == ShuffleForm::bytes;
                uint8_t* to = sliced.data();
                to += ((grouped_ ? size_t(place[c] / group) : size_t(c)) * tiles + y / tile) * bits_ * step +
                      place[c] % group * size_t(apart ? 1 : lane);
                for (int b = 0; b < bits_; ++b)
                    if (form_ && quarters())
                        to[b * step + (y / 2) * (apart ? group : 1)] |= uint8_t(planes[b] << (y % 2 * 4));
                    else if (apart)
                        for (int i = 0; i < row_bytes; ++i)
                            to[b * step + size_t(y % tile * row_bytes + i) * group] = uint8_t(planes[b] >> 8 * i);
                    else
                        std::memcpy(to + b * step + size_t(y % tile) * row_bytes, &planes[b], row_bytes);
            }
        return sliced;
    }

    void pack_rows(const Frame& frame, int tile, uint8_t* planes) const {
        uint8_t* base = frame.values[op_.in];
        if (!fast_) return pack_rows_bit_by_bit(base, tile, planes);
        const int area = op_.area();
        if (!turns_.empty())
            return frame.kernels->pack_words(in_.rows(base, 0), in_.plane, in_.channels, turns_.data(),
                                             word_masks_.data(), area, planes);
        uint8_t* room = planes + counts_at();
        if (sub_plane_) std::memset(room, 0, 4 * sub_plane_);
        for (int c = 0; c < in_.channels; ++c) {
            const uint8_t* from = in_.rows(base, c);
            if (sub_plane_) {
                frame.kernels->split(from, in_.row, in_.height, sub_plane_, room + sub_front_);
                from = room + sub_front_;
            }
            frame.kernels->pack_rows(from + size_t(tile) * tile_ * row_ / 8, offsets_.data(), shifts_.data(),
                                     masks_.data(), area, width_, planes + size_t(c) * area * width_);
        }
    }

    // For any stride and padding.
    void pack_rows_bit_by_bit(uint8_t* base, int tile, uint8_t* planes) const {
        for (int c = 0; c < in_.channels; ++c)
            for (int k = 0; k < op_.area(); ++k, planes += width_)
                for (int i = 0; i < tile_; ++i) {
                    const int row = tile * tile_ + i;
                    const int y = row * op_.stride + k / op_.kernel_width - op_.padding;
                    const int by = k % op_.kernel_width - op_.padding;
                    const bool inside = row < out_.height && y >= 0 && y < in_.height;
                    const uint64_t word = inside ? strided_columns(in_.load_row(base, c, y), by) : 0;
                    Shape::store_row(planes + i * (row_ / 8), row_, word);
                }
    }

    // Output column x reads input column x * stride + by; `skip` columns are left of the map.
    uint64_t strided_columns(uint64_t word, int by) const {
        const int stride = op_.stride;
        const int skip = by < 0 ? (-by + stride - 1) / stride : 0;
        const int start = by + skip * stride;
        word = start < 64 ? word >> start : 0;
        if (stride > 1) {
            uint64_t every = 0;
            for (int x = 0; x * stride < 64; ++x) every |= (word >> (x * stride) & 1) << x;
            word = every;
        }
        word = skip < 64 ? word << skip : 0;
        return word & low_bits(out_.width);
    }

    // ---- many images: tiles of positions ----

    void prepare_cells() {
        std::map<std::vector<int>, int> known;
        for (int tile = 0; tile < tiles_; ++tile) {
            std::vector<int> pattern;
            for (int i = 0; i < tile_; ++i)
                pattern.push_back(position_class(std::min(tile * tile_ + i, out_.positions() - 1)));
            patterns_.push_back(known.emplace(pattern, int(known.size())).first->second);
        }
        const auto spread = [&](const std::vector<uint16_t>& thresholds) {
            std::vector<uint16_t> lanes(size_t(out_.channels) * known.size() * 8);
            for (const auto& [pattern, number] : known)
                for (int c = 0; c < out_.channels; ++c)
                    for (int i = 0; i < tile_; ++i)
                        lanes[(size_t(c) * known.size() + number) * 8 + i] =
                            thresholds[size_t(c) * classes() + pattern[i]];
            return lanes;
        };
        if (!by_threshold_) return;
        lanes_ = spread(thresholds_);
        if (op_.residual != kNone) lanes_plus_ = spread(thresholds_plus_);
    }

    // If input and output have the same height and width, a tap is a constant offset of the flat position.
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
                frame.kernels->pack_cells(base + c * in_.plane, offsets.data(),
                                          reinterpret_cast<const uint8_t*>(masks.data()), area, width_,
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
    int width_, tile_, tiles_;  // bytes of a tile; rows or positions of a tile; number of tiles
    float cycles_per_plane_;
    bool same_ = false, fast_ = false, direct_ = false;
    const Op* pool_ = nullptr;  // fused into this step; or null
    Shape pooled_;
    std::vector<Finish> pool_finishes_;
    std::vector<int16_t> class_corrections_;  // of a pool in a word
    std::vector<uint16_t> classes_of_;
    std::unique_ptr<GroupedTaps> grouped_;
    const ShuffleKernels* shuffles_ = nullptr;  // null: groups are computed by gathers
    const ShuffleForm* form_ = nullptr;  // of shuffles_
    double cycles_per_eight_ = 0;  // cost model: eight taps of a group
    size_t sub_plane_ = 0, sub_front_ = 0;  // bytes of a quarter of a plane, for stride 2
    std::vector<uint8_t> sliced_, sliced_plus_, places_, valid_;
    std::vector<int32_t> offsets_;
    std::vector<int64_t> shifts_;
    std::vector<uint64_t> masks_, turns_, word_masks_;  // the last two where a plane is one word
    std::vector<int> patterns_;
    std::vector<uint16_t> lanes_, lanes_plus_;
};

}  // namespace

// The bytes of a tile: the narrowest that holds a whole plane, else the widest whose planes 16 bits can name.
int sliced_width(const Op& op, const Shape& in, const Shape& out, const Kernels& kernels) {
    const int taps = in.channels * op.area();
    const size_t needed =
        out.images == 1 ? size_t(out.height) * Shape::row_of(out.width) / 8 : size_t(out.positions()) * 8;
    int choice = 0;
    for (int i = 1; i < kMostWidths && kernels.widths[i]; ++i)
        if (size_t(kernels.widths[i]) >= needed || (taps + 1) * (kernels.widths[choice] / 8) > 65535) choice = i;
    return kernels.widths[choice];
}

std::unique_ptr<Step> make_sliced(const Op& op, const Op* pool, const std::vector<Shape>& shapes,
                                  const Kernels& kernels, std::shared_ptr<const TapLists> lists) {
    return std::make_unique<Sliced>(op, pool, shapes, kernels, std::move(lists));
}

}  // namespace biprop
