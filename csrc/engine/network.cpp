// The engine behind biprop.h: a program, its steps for one image and for many, and the memory of runs.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <new>
#include <stdexcept>
#include <system_error>

#include "../include/biprop.h"
#include "dispatch.h"
#include "step.h"

namespace biprop {

namespace {

// By biprop_use_instruction_set; null: the default.
std::atomic<const Kernels*> chosen_kernels{nullptr};

// The steps of a program for groups of `images`.
struct Plan {
    int images;
    std::vector<Shape> shapes;
    std::vector<std::unique_ptr<Step>> steps;
    std::vector<int> buffer_of;  // value -> buffer; values share one when the first is used up
    std::vector<size_t> buffers;
    size_t scratch = 64;

    double cycles() const {
        double sum = 0;
        for (const auto& step : steps) sum += step->cycles();
        return sum;
    }
};

// The memory of one run.
struct Workspace {
    std::vector<Buffer> values, scratch;
    std::vector<uint8_t*> addresses;
};

struct NotFinite {};

using Ranges = std::vector<std::pair<float, float>>;  // least and most of each value

// Cycles of a step below which its thread does not wait for others: they cost some, and much where the machine takes
// one away.
constexpr double kWorthThreads = 1e5;

}  // namespace

class Network {
  public:
    Network(Program program, int threads, const Kernels* kernels)
        : program_(std::move(program)), kernels_(kernels), pool_(threads), packed_(program_.ops.size()) {
        bool bits = false;
        rows_ = true;
        for (const Value& value : program_.values)
            if (value.bits) bits = true, rows_ = rows_ && Shape::fits_rows(value);
        many_ = bits ? 64 : 16;
        for (const Op& op : program_.ops) {
            const Value& in = program_.values[op.in];
            if (op.kind != Kind::conv) continue;
            if (in.bits) {
                rows_ = rows_ &&
                        Shape::fits_rows(
                            program_.values[op.out]);  // of floats too: tiles are rows of bits until they are counted
                continue;
            }
            rows_ = rows_ && can_sum(op, in, 1);
            groups_ = groups_ && can_sum(op, in, many_);
        }
        if (!rows_ && !groups_) throw TooLarge("a kernel that spans too many numbers of a plane");
    }

    const Value& input() const { return program_.values.front(); }
    int outputs() const { return program_.values.back().channels * program_.values.back().positions(); }

    template <class Pixel>
    void run(const Pixel* images, int64_t count, bool channels_last, float* logits) {
        const int64_t pixels = int64_t(input().channels) * input().positions();
        const bool has_pool = pool_.try_enter();
        struct Leave {
            Pool* pool;
            ~Leave() {
                if (pool) pool->leave();
            }
        } leave{has_pool ? &pool_ : nullptr};
        for (int64_t done = 0; done < count;) {
            const int group = next_group(count - done);
            run_group(plan(group), images + done * pixels, int(std::min<int64_t>(group, count - done)), channels_last,
                      logits + done * outputs(), has_pool ? &pool_ : nullptr);
            done += group;
        }
    }

    // One line a step: operation, shapes, kernel, cycles an image as estimated, microseconds an image as measured on
    // blank images.
    std::string explain(int64_t batch) {
        const int group = next_group(std::max<int64_t>(1, batch));
        const Plan& plan = this->plan(group);
        auto space = take_workspace(plan);
        const Frame frame{kernels_, nullptr, space->addresses, &space->scratch, group};
        std::vector<double> best(plan.steps.size(), 1e9);
        for (int round = 0; round < 5; ++round)
            for (size_t i = 0; i < plan.steps.size(); ++i) {
                const auto start = std::chrono::steady_clock::now();
                plan.steps[i]->run(frame);
                best[i] = std::min(
                    best[i],
                    std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
            }
        give_back(plan, std::move(space));
        std::string text = std::string(kernels_->name) + "\t" + std::to_string(group) + "\n";
        const auto shape = [](const Value& v) {
            return std::to_string(v.channels) + "x" + std::to_string(v.height) + "x" + std::to_string(v.width) +
                   (v.bits ? " bits" : " floats");
        };
        static const char* const names[] = {"", "conv", "max pool", "mean pool"};
        for (size_t i = 0; i < plan.steps.size(); ++i) {
            const Op& op = plan.steps[i]->op();
            char numbers[64];
            std::snprintf(numbers, sizeof numbers, "\t%.0f\t%.2f\n", plan.steps[i]->cycles() / group, best[i] / group);
            text += std::string(names[int(op.kind)]) + " " + std::to_string(op.kernel_height) + "x" +
                    std::to_string(op.kernel_width) + "/" + std::to_string(op.stride) + "\t" +
                    shape(program_.values[op.in]) + "\t" + shape(program_.values[plan.steps[i]->last().out]) + "\t" +
                    plan.steps[i]->name() + numbers;
        }
        return text;
    }

    // From now on values between layers are 8-bit levels, for the ranges that they have on these images.
    void calibrate(const float* images, int64_t count, bool channels_last) {
        if (!rows_) return;  // bits too wide for one image to run: too little of such a network is floats
        const auto own =
            make_plan(1, false, {});  // each operation by itself, on floats: the ranges of all values are wanted
        const Plan& plan = *own;
        Ranges ranges(program_.values.size(), {0.0f, 0.0f});
        const auto space = make_workspace(plan);
        const Frame frame{kernels_, nullptr, space->addresses, &space->scratch, 1};
        for (int64_t i = 0; i < count; ++i) {
            read_images(plan, *space, images + i * input().channels * input().positions(), 1, channels_last, nullptr);
            for (const auto& step : plan.steps) {
                step->run(frame);
                const int value = step->op().out;
                const Shape& shape = plan.shapes[value];
                if (!shape.plain()) continue;
                auto& [least, most] = ranges[value];
                for (int c = 0; c < shape.channels; ++c) {
                    const float* x = shape.floats(space->addresses[value], c);
                    for (int k = 0; k < shape.lanes(); ++k) least = std::min(least, x[k]), most = std::max(most, x[k]);
                }
            }
        }
        std::lock_guard<ForkSafeMutex> lock(mutex_);
        ranges_ = std::move(ranges);
        const auto fits = [&](const Op& op) {
            return op.kind != Kind::conv || program_.values[op.in].bits || can_sum(op, program_.values[op.in], 32);
        };
        if (many_ == 16 && !kernels_->matrices && std::all_of(program_.ops.begin(), program_.ops.end(), fits))
            many_ = 32;  // as many levels fill a vector
        one_.reset(), group_.reset();
        idle_one_.clear(), idle_group_.clear();
    }

    // Of the weights, and of runs.
    std::pair<size_t, size_t> memory() const {
        std::lock_guard<ForkSafeMutex> lock(mutex_);
        size_t bytes = 0, working = 0;
        for (const Op& op : program_.ops)
            bytes += op.mask.size() + op.sign.size() + op.weights.size() * 4 + op.scale.size() * 24;
        Held held;
        for (const auto* plan : {one_.get(), group_.get()})
            if (plan)
                for (const auto& step : plan->steps) step->memory(held);
        for (const auto& [_, own] : held) bytes += own;
        for (const auto* idle : {&idle_one_, &idle_group_})
            for (const auto& space : *idle) {
                for (const auto& buffer : space->values) working += buffer.bytes();
                for (const auto& buffer : space->scratch) working += buffer.bytes();
            }
        return {bytes, working};
    }

  private:
    // One image at a time or a whole group: whichever is estimated to take less.
    int next_group(int64_t left) {
        if (!rows_) return many_;
        if (!groups_) return 1;
        if (left == 1) return 1;
        if (left >= many_) return many_;
        return double(left) * plan(1).cycles() <= plan(many_).cycles() ? 1 : many_;
    }

    const Plan& plan(int images) {
        std::lock_guard<ForkSafeMutex> lock(mutex_);
        std::unique_ptr<Plan>& plan = images == 1 ? one_ : group_;
        if (!plan) plan = make_plan(images, true, ranges_);
        return *plan;
    }

    // The caller holds the lock, or is alone.
    std::unique_ptr<Plan> make_plan(int images, bool join, const Ranges& ranges) {
        auto plan = std::make_unique<Plan>();
        plan->images = images;
        for (const Value& value : program_.values) plan->shapes.emplace_back(value, images);
        for (size_t i = 0; i < packed_.size(); ++i)
            if (packed_[i].lists) packed_[i].lists->restore(program_.ops[i]);
        if (!ranges.empty()) use_levels(*plan, ranges);
        for (size_t i = 0; i < program_.ops.size(); ++i) {
            const Op& op = program_.ops[i];
            const Op* pool = join && op.kind == Kind::conv ? only_pool(*plan, i) : nullptr;
            if (op.kind != Kind::conv)
                plan->steps.push_back(make_pool_step(op, plan->shapes));
            else if (plan->shapes[op.in].bits)
                plan->steps.push_back(make_bit_step(op, pool, plan->shapes, *kernels_, packed_[i]));
            else
                plan->steps.push_back(make_sum_step(op, pool, plan->shapes, *kernels_, packed_[i]));
            plan->scratch = std::max(plan->scratch, plan->steps.back()->scratch());
            plan->steps.back()->worth_threads = plan->steps.back()->cycles() > kWorthThreads;
            if (&plan->steps.back()->last() != &op) ++i;
        }
        for (size_t i = 0; i < packed_.size(); ++i)
            if (packed_[i].lists) program_.ops[i].mask = {}, program_.ops[i].sign = {};  // the lists say the same
        share_buffers(*plan);
        return plan;
    }

    // The next operation, if it is a 2x2 maximum of the numbers that operation i puts out, and nobody else reads those.
    const Op* only_pool(const Plan& plan, size_t i) const {
        const Op& op = program_.ops[i];
        if (i + 1 == program_.ops.size() || op.residual != kNone || plan.shapes[op.out].bits) return nullptr;
        const Op& pool = program_.ops[i + 1];
        if (pool.in != op.out || !pool.halves() || plan.shapes[pool.out].bits) return nullptr;
        return readers(op.out) == 1 ? &pool : nullptr;
    }

    // Floats become levels where whoever makes them and everybody who reads them knows levels: convolutions on floats,
    // their residual sums, and pools. Input and output stay floats, and what has a range too large or too small for a
    // step.
    void use_levels(Plan& plan, const Ranges& ranges) const {
        const size_t count = program_.values.size();
        std::vector<bool> levels(count, true);
        std::vector<int> most_kept(count, 1);  // of the taps of one sum that reads the value
        levels.front() = levels.back() = false;
        for (const Op& op : program_.ops) {
            if (op.kind != Kind::conv || op.dense) continue;
            const size_t taps = size_t(plan.shapes[op.in].channels) * op.area();
            for (size_t c = 0; c < op.scale.size(); ++c) {
                int kept = 0;
                for (size_t t = c * taps; t < (c + 1) * taps; ++t) kept += op.kept(t);
                most_kept[op.in] = std::max(most_kept[op.in], kept);
            }
        }
        const auto shape = [&](int v) {
            return plan.shapes[v].with_levels(ranges[v].first, ranges[v].second, 32767 / most_kept[v]);
        };
        for (size_t v = 0; v < count; ++v)
            levels[v] = levels[v] && plan.shapes[v].plain() && std::isnormal(shape(int(v)).step);
        for (const Op& op : program_.ops) {
            const bool counts = op.kind == Kind::conv && plan.shapes[op.in].bits;  // a convolution on bits
            if (counts)
                levels[op.out] = false;
            else
                levels[op.in] = levels[op.in] && reads_levels(op, plan.shapes, shape(op.in));
            if (op.residual != kNone && (counts || op.act == Act::sign0)) levels[op.residual] = false;
        }
        for (size_t v = 0; v < count; ++v)
            if (levels[v]) plan.shapes[v] = shape(int(v));
        // What a pool selects from has the levels of what it puts out, if nobody else reads it: then it is a maximum of
        // whole numbers.
        for (size_t i = program_.ops.size(); i-- > 0;) {
            const Op& op = program_.ops[i];
            if (op.selects() && levels[op.in] && levels[op.out] && readers(op.in) == 1)
                plan.shapes[op.in] = plan.shapes[op.in].with_levels_of(plan.shapes[op.out]);
        }
    }

    int readers(int value) const {
        int count = 0;
        for (const Op& op : program_.ops) count += (op.in == value) + (op.residual == value);
        return count;
    }

    // A value lives from the operation that makes it to the last that reads it. Bit rows count on zeros around them, so
    // they share only with values of the same shape.
    void share_buffers(Plan& plan) {
        const size_t count = program_.values.size();
        std::vector<int> last(count, -1);
        for (size_t i = 0; i < plan.steps.size(); ++i) {
            const Op& op = plan.steps[i]->op();
            last[op.in] = int(i);
            if (op.residual != kNone) last[op.residual] = int(i);
        }
        plan.buffer_of.assign(count, -1);
        std::vector<int> free, owner;
        const auto take = [&](int value) {
            const Shape& shape = plan.shapes[value];
            const auto fits = [&](int buffer) {
                const Shape& other = plan.shapes[owner[buffer]];
                return shape.row || other.row
                           ? shape.row == other.row && shape.height == other.height && shape.width == other.width &&
                                 shape.channels == other.channels
                           : plan.buffers[buffer] >= shape.bytes() && plan.buffers[buffer] <= 4 * shape.bytes();
            };
            const auto found = std::find_if(free.begin(), free.end(), fits);
            if (found != free.end()) {
                plan.buffer_of[value] = *found;
                free.erase(found);
                return;
            }
            plan.buffer_of[value] = int(plan.buffers.size());
            plan.buffers.push_back(shape.bytes());
            owner.push_back(value);
        };
        take(0);
        for (size_t i = 0; i < plan.steps.size(); ++i) {
            const Op& op = plan.steps[i]->op();
            take(plan.steps[i]->last().out);
            for (int value : {op.in, op.residual})  // the input stays, so that `explain` can run again
                if (value > 0 && last[value] == int(i) && plan.buffer_of[value] >= 0 &&
                    std::find(free.begin(), free.end(), plan.buffer_of[value]) == free.end())
                    free.push_back(plan.buffer_of[value]);
        }
    }

    std::unique_ptr<Workspace> take_workspace(const Plan& plan) {
        {
            std::lock_guard<ForkSafeMutex> lock(mutex_);
            auto& idle = plan.images == 1 ? idle_one_ : idle_group_;
            if (!idle.empty()) {
                auto space = std::move(idle.back());
                idle.pop_back();
                return space;
            }
        }
        return make_workspace(plan);
    }

    std::unique_ptr<Workspace> make_workspace(const Plan& plan) const {
        auto space = std::make_unique<Workspace>();
        for (size_t bytes : plan.buffers) space->values.emplace_back(bytes);
        for (int i = 0; i < pool_.threads(); ++i) space->scratch.emplace_back(plan.scratch);
        for (int buffer : plan.buffer_of)
            space->addresses.push_back(buffer < 0 ? nullptr : space->values[buffer].data());
        return space;
    }

    void give_back(const Plan& plan, std::unique_ptr<Workspace> space) {
        std::lock_guard<ForkSafeMutex> lock(mutex_);
        (plan.images == 1 ? idle_one_ : idle_group_).push_back(std::move(space));
    }

    template <class Pixel>
    void run_group(const Plan& plan, const Pixel* images, int count, bool channels_last, float* logits, Pool* pool) {
        auto space = take_workspace(plan);
        read_images(plan, *space, images, count, channels_last, pool);
        Frame frame{kernels_, pool, space->addresses, &space->scratch, count};
        for (const auto& step : plan.steps) {
            frame.pool = step->worth_threads ? pool : nullptr;
            step->run(frame);
        }
        const Shape& out = plan.shapes.back();
        uint8_t* base = space->addresses.back();
        for (int c = 0; c < out.channels; ++c)
            for (int p = 0; p < out.positions(); ++p)
                for (int i = 0; i < count; ++i)
                    logits[size_t(i) * outputs() + c * out.positions() + p] = out.floats(base, c)[p * out.images + i];
        give_back(plan, std::move(space));
    }

    // Blocks of positions, each for all images of the group: first a row for each image, then a column.
    template <class Pixel>
    void read_images(const Plan& plan, const Workspace& space, const Pixel* images, int count, bool channels_last,
                     Pool* pool) const {
        constexpr int block = 64;
        const Shape& in = plan.shapes.front();
        const int positions = in.positions(), blocks = (positions + block - 1) / block;
        const int per_pixel = channels_last ? in.channels : 1, per_channel = channels_last ? 1 : positions;
        std::atomic<bool> finite{true};
        const auto read = [&](int item, int) {
            const int c = item % in.channels, first = item / in.channels * block,
                      n = std::min(block, positions - first);
            const float mean = program_.mean.empty() ? 0.0f : program_.mean[c],
                        std = program_.std.empty() ? 1.0f : program_.std[c];
            float table[256], rows[block * block];
            if (sizeof(Pixel) == 1)
                for (int v = 0; v < 256; ++v) table[v] = (float(v) / 255.0f - mean) / std;
            float* to = in.floats(space.addresses[0], c) + size_t(first) * in.images;
            for (int i = 0; i < count; ++i) {
                const Pixel* from =
                    images + size_t(i) * in.channels * positions + size_t(c) * per_channel + size_t(first) * per_pixel;
                float* row = in.images == 1 ? to : rows + i * block;
                uint32_t not_finite = 0;
                const auto convert = [&](int step) {
                    for (int p = 0; p < n; ++p) {
                        const Pixel value = from[size_t(p) * step];
                        if constexpr (sizeof(Pixel) == 1) {
                            row[p] = table[value];
                        } else {
                            uint32_t exponent;  // as a number: compilers make a vector of this
                            std::memcpy(&exponent, &value, sizeof exponent);
                            not_finite |= (exponent & 0x7f800000u) == 0x7f800000u;
                            row[p] = (value - mean) / std;
                        }
                    }
                };
                per_pixel == 1 ? convert(1) : convert(per_pixel);
                if (not_finite) finite.store(false, std::memory_order_relaxed);
            }
            if (in.images > 1)
                for (int p = 0; p < n; ++p)
                    for (int i = 0; i < count; ++i) to[size_t(p) * in.images + i] = rows[i * block + p];
        };
        const int items = in.channels * blocks;
        if (pool && in.images > 1)
            pool->each(items, read);
        else
            for (int i = 0; i < items; ++i) read(i, 0);
        if (!finite) throw NotFinite{};
    }

    Program program_;  // weights of an operation move into its lists
    const Kernels* const kernels_;
    Pool pool_;
    int many_ = 64;  // images of a group
    bool rows_ = true, groups_ = true;  // whether one image, or a group, can run
    mutable ForkSafeMutex mutex_;  // of what follows
    Ranges ranges_;  // of the values, where they are levels; else empty
    std::vector<Packed> packed_;  // by operation
    std::unique_ptr<Plan> one_, group_;
    std::vector<std::unique_ptr<Workspace>> idle_one_, idle_group_;
};

}  // namespace biprop

// ---- the C interface: exceptions end here ----

struct biprop_network {
    biprop::Network network;
};

namespace {

template <class Body>
int guarded(const Body& body) {
    try {
        body();
        return BIPROP_OK;
    } catch (const biprop::ProgramError&) {
        return BIPROP_BAD_PROGRAM;
    } catch (const biprop::TooLarge&) {
        return BIPROP_TOO_LARGE;
    } catch (const biprop::NoSuchInstructionSet&) {
        return BIPROP_NO_SUCH_INSTRUCTION_SET;
    } catch (const biprop::NotFinite&) {
        return BIPROP_NOT_FINITE;
    } catch (const std::bad_alloc&) {
        return BIPROP_NO_MEMORY;
    } catch (const std::length_error&) {  // more than a vector can ever hold
        return BIPROP_NO_MEMORY;
    } catch (const std::system_error&) {  // no thread could be started
        return BIPROP_NO_MEMORY;
    } catch (...) {
        return BIPROP_INTERNAL;
    }
}

// Null: what biprop_use_instruction_set chose; "": the default.
const biprop::Kernels* kernels_for(const char* name) {
    const auto* chosen = name ? nullptr : biprop::chosen_kernels.load();
    if (name && *name) chosen = biprop::kernels_named(name);
    if (name && *name && !chosen) throw biprop::NoSuchInstructionSet(name);
    return chosen ? chosen : biprop::default_kernels();
}

template <class Pixel>
int run(biprop_network* network, const Pixel* images, int64_t count, int layout, float* logits) {
    if (!network || count < 0 || (count && (!images || !logits)) || (layout != BIPROP_NCHW && layout != BIPROP_NHWC))
        return BIPROP_BAD_ARGUMENT;
    return guarded([&] { network->network.run(images, count, layout == BIPROP_NHWC, logits); });
}

}  // namespace

int biprop_load(const void* program, size_t size, int threads, biprop_network** network) {
    return biprop_load_with(program, size, threads, nullptr, network);
}

int biprop_load_with(const void* program, size_t size, int threads, const char* instruction_set,
                     biprop_network** network) {
    if (!program || !network || threads < 1 || threads > 1024) return BIPROP_BAD_ARGUMENT;
    return guarded([&] {
        const auto* kernels = kernels_for(instruction_set);
        const auto* bytes = static_cast<const uint8_t*>(program);
        *network = new biprop_network{{biprop::Program::read(bytes, size), threads, kernels}};
    });
}

int biprop_load_file(const char* path, int threads, biprop_network** network) {
    if (!path || !network) return BIPROP_BAD_ARGUMENT;
    std::vector<uint8_t> bytes;
    bool read = false;
    const int error = guarded([&] {
        std::FILE* file = std::fopen(path, "rb");
        if (!file) return;
        uint8_t chunk[1 << 16];
        for (size_t got; (got = std::fread(chunk, 1, sizeof chunk, file)) > 0;)
            bytes.insert(bytes.end(), chunk, chunk + got);
        read = !std::ferror(file);
        std::fclose(file);
    });
    if (error) return error;
    return read ? biprop_load(bytes.empty() ? "" : static_cast<const void*>(bytes.data()), bytes.size(), threads,
                              network)
                : BIPROP_BAD_FILE;
}

void biprop_free(biprop_network* network) { delete network; }

void biprop_shape(const biprop_network* network, int* channels, int* height, int* width, int* outputs) {
    if (!network) return;
    const auto& input = network->network.input();
    *channels = input.channels, *height = input.height, *width = input.width, *outputs = network->network.outputs();
}

int biprop_run_u8(biprop_network* network, const uint8_t* images, int64_t count, int layout, float* logits) {
    return run(network, images, count, layout, logits);
}

int biprop_run_f32(biprop_network* network, const float* images, int64_t count, int layout, float* logits) {
    return run(network, images, count, layout, logits);
}

int biprop_calibrate(biprop_network* network, const float* images, int64_t count, int layout) {
    if (!network || count < 1 || !images || (layout != BIPROP_NCHW && layout != BIPROP_NHWC))
        return BIPROP_BAD_ARGUMENT;
    return guarded([&] { network->network.calibrate(images, count, layout == BIPROP_NHWC); });
}

size_t biprop_explain(biprop_network* network, int64_t batch, char* text, size_t size) {
    std::string whole;
    if (!network || guarded([&] { whole = network->network.explain(batch); })) return 0;
    if (size && text) {
        const size_t count = std::min(size - 1, whole.size());
        std::memcpy(text, whole.data(), count);
        text[count] = 0;
    }
    return whole.size();
}

size_t biprop_memory(const biprop_network* network, size_t* working) {
    const auto [weights, runs] = network ? network->network.memory() : std::pair<size_t, size_t>();
    if (working) *working = runs;
    return weights + runs;
}

const char* biprop_instruction_sets(void) {
    static const std::string names = [] {
        std::string joined;
        for (const auto* kernels : biprop::all_kernels())
            joined += (joined.empty() ? "" : " ") + std::string(kernels->name);
        return joined;
    }();
    return names.c_str();
}

int biprop_use_instruction_set(const char* name) {
    if (!name) return BIPROP_BAD_ARGUMENT;
    if (!*name) {
        biprop::chosen_kernels = nullptr;
        return BIPROP_OK;
    }
    const auto* kernels = biprop::kernels_named(name);
    if (!kernels) return BIPROP_BAD_ARGUMENT;
    biprop::chosen_kernels = kernels;
    return BIPROP_OK;
}

const char* biprop_message(int error) {
    switch (error) {
        case BIPROP_OK: return "no error";
        case BIPROP_BAD_FILE: return "the file cannot be read";
        case BIPROP_BAD_PROGRAM: return "not a program of this version, or a damaged one";
        case BIPROP_BAD_ARGUMENT: return "an argument is not valid";
        case BIPROP_NOT_FINITE: return "a pixel is NaN or infinite";
        case BIPROP_NO_MEMORY: return "out of memory, or of threads";
        case BIPROP_TOO_LARGE:
            return "a layer has more than 65533 inputs, or a map more numbers than the kernels count";
        case BIPROP_NO_SUCH_INSTRUCTION_SET:
            return "no such instruction set in this machine or library (an argument, or BIPROP_ISA in the environment)";
        default: return "an internal error; please report it";
    }
}
