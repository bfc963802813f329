#include "network.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <mutex>

#include "pixels.h"

namespace biprop {

namespace {

constexpr int kTimedRuns = 5;  // the fewest of which `explain` reports the fastest
constexpr double kTimedMicroseconds = 1e4;  // the most that more runs take
constexpr size_t kMostMemory = 3;  // times the packed weights, between runs
// After so many calls with groups and none with a single image, the plan for single images is deleted, if the group's
// lists do not fit beside it: making it again takes longer than making the group's lists for so many calls.
constexpr int kManyCalls = 16;
constexpr int kMostShared = 4096;  // images of one loop of the threads

// Takes the pool for one run, if it is free, and leaves it at the end.
class PoolForRun {
  public:
    explicit PoolForRun(Pool& pool) : pool_(pool.try_enter() ? &pool : nullptr) {}
    ~PoolForRun() {
        if (pool_) pool_->leave();
    }
    PoolForRun(const PoolForRun&) = delete;
    PoolForRun& operator=(const PoolForRun&) = delete;
    Pool* get() const { return pool_; }  // null: the run works alone

  private:
    Pool* const pool_;
};

std::string describe_operation(const Op& op) {
    static const char* const names[] = {"",       "conv",      "max pool", "mean pool", "elementwise", "arithmetic",
                                        "move",   "conv",      "pool",     "reduction", "norm",        "softmax",
                                        "matmul", "attention", "constant", "embedding"};
    static_assert(sizeof names / sizeof *names == kLastKind + 1, "a name for each kind");
    const std::string name = names[int(op.kind)];
    if (op.plain) return name;
    return name + " " + std::to_string(op.kernel_height) + "x" + std::to_string(op.kernel_width) + "/" +
           std::to_string(op.stride);
}

std::string describe_value(const Value& value) {
    return std::to_string(value.channels) + "x" + std::to_string(value.height) + "x" + std::to_string(value.width) +
           (value.bits ? " bits" : " floats");
}

}  // namespace

Network::Network(Program program, int threads, const Kernels* kernels)
    : program_(std::move(program)), kernels_(kernels), pool_(threads), packed_(program_.ops.size()) {
    bool bits = false;
    for (const Value& value : program_.values) {
        if (!value.bits) continue;
        bits = true;
        one_runs_ = one_runs_ && Shape::fits_rows(value);
    }
    has_bits_ = bits;
    const auto is_plain = [](const Op& op) { return op.plain; };
    const bool plain = std::any_of(program_.ops.begin(), program_.ops.end(), is_plain);
    group_size_ = bits ? 64 : plain ? 16 : kernels_->images;
    for (const Op& op : program_.ops) {
        packed_bytes_ += op.mask.size() + op.sign.size();
        if (op.kind != Kind::conv) continue;
        const Value& in = program_.values[op.in];
        if (in.bits) {
            // Even where the output is floats: tiles are rows of bits until they are counted.
            one_runs_ = one_runs_ && Shape::fits_rows(program_.values[op.out]);
            continue;
        }
        one_runs_ = one_runs_ && can_sum(op, in, 1);
        group_runs_ = group_runs_ && can_sum(op, in, group_size_);
    }
    if (!one_runs_ && !group_runs_) throw TooLarge("a kernel that spans too many numbers of a plane");
}

// ---- runs ----

template <class Pixel>
void Network::run(const Pixel* images, int64_t count, bool channels_last, float* logits) {
    const int64_t pixels = int64_t(input().channels) * input().positions();
    const PoolForRun pool(pool_);
    for (int64_t done = 0; done < count;) {
        const int group = next_group(count - done);
        const Use use(*this, group);
        const auto run_from = [&](int64_t first, Pool* threads) {
            const int images_now = int(std::min<int64_t>(group, count - first));
            run_group(use.plan(), images + first * pixels, images_now, channels_last, logits + first * outputs(),
                      threads);
        };
        if (group == 1 && pool.get() && count - done >= pool_.threads()) {
            // Single images now, single images to the end: threads share the images rather than the steps.
            for (; done < count; done += kMostShared) {
                const int shared = int(std::min<int64_t>(kMostShared, count - done));
                pool.get()->each(shared, [&](int i, int) { run_from(done + i, nullptr); });
            }
            return;
        }
        do {
            run_from(done, pool.get());
            done += group;
        } while (done < count && next_group(count - done) == group);
    }
}

template void Network::run<uint8_t>(const uint8_t*, int64_t, bool, float*);
template void Network::run<float>(const float*, int64_t, bool, float*);

template <class Pixel>
void Network::run_group(const Plan& plan, const Pixel* images, int count, bool channels_last, float* logits,
                        Pool* pool) {
    auto space = take_workspace(plan, pool ? pool->threads() : 1);
    read_pixels(program_, plan.shapes.front(), space->addresses[0], images, count, channels_last, pool);
    Frame frame{kernels_, pool, space->addresses, &space->scratch, count};
    for (const auto& step : plan.steps) {
        frame.pool = step->worth_threads ? pool : nullptr;
        step->run(frame);
    }
    write_logits(plan, *space, count, logits);
    give_back(plan, std::move(space));
}

void Network::write_logits(const Plan& plan, const Workspace& space, int count, float* logits) const {
    const Shape& out = plan.shapes.back();
    uint8_t* base = space.addresses.back();
    for (int c = 0; c < out.channels; ++c) {
        const float* from = out.floats(base, c);
        for (int p = 0; p < out.positions(); ++p)
            for (int i = 0; i < count; ++i)
                logits[size_t(i) * outputs() + c * out.positions() + p] = from[p * out.images + i];
    }
}

int Network::next_group(int64_t left) {
    if (!one_runs_) return group_size_;
    if (!group_runs_ || left == 1) return 1;
    // A full group of bits fills every lane. It is not compared, because the lists for one image take tens of
    // milliseconds to make.
    if (has_bits_ && left >= group_size_) return group_size_;
    const auto images = double(std::min<int64_t>(left, group_size_));
    return images * estimate(1) <= estimate(group_size_) ? 1 : group_size_;
}

// ---- plans ----

double Network::estimate(int images) {
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    double& cycles = images == 1 ? one_cycles_ : group_cycles_;
    if (!cycles) make(images);
    return cycles;
}

const Plan& Network::enter(int images) {
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    Plan& plan = make(images);
    ++(images == 1 ? one_users_ : group_users_);
    (images == 1 ? one_ran_ : group_ran_) = true;
    groups_in_turn_ = images == 1 ? 0 : groups_in_turn_ + 1;
    return plan;
}

void Network::leave(const Plan& plan) {
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    --(plan.images == 1 ? one_users_ : group_users_);
    if (!has_spare_ || group_users_) return;
    try {
        delete_idle_plan();
        has_dropped_ = drop_spare(program_, packed_, plans(), kMostMemory * packed_bytes_);
        has_spare_ = false;
    } catch (const std::bad_alloc&) {  // what is spare stays until the next run; some lists may be gone already
        has_dropped_ = group_ != nullptr;
    }
}

Plan& Network::make(int images) {
    std::unique_ptr<Plan>& plan = images == 1 ? one_ : group_;
    if (!plan) {
        unpack_weights(program_, packed_, plans());
        plan = make_plan(program_, packed_, *kernels_, images, true, ranges_);
        (images == 1 ? one_cycles_ : group_cycles_) = plan->cycles;
        has_spare_ = true;
    } else if (images > 1 && has_dropped_) {
        unpack_weights(program_, packed_, plans());
        make_dropped(plans());
        has_dropped_ = false;
        has_spare_ = true;
    }
    return *plan;
}

void Network::delete_idle_plan() {
    if (!one_ || !group_) return;
    if (!group_ran_) {
        group_.reset();
    } else if (!one_users_ && (!one_ran_ || groups_in_turn_ >= kManyCalls)) {
        one_.reset();
        idle_one_.clear();
        one_ran_ = false;
        share_with_group(packed_, program_, *group_);
    }
}

// ---- memory ----

std::unique_ptr<Workspace> Network::take_workspace(const Plan& plan, int threads) {
    {
        std::lock_guard<ForkSafeMutex> lock(mutex_);
        auto& spaces = idle(plan);
        if (!spaces.empty()) {
            auto space = std::move(spaces.back());
            spaces.pop_back();
            space->make_room(plan, threads);
            return space;
        }
    }
    return std::make_unique<Workspace>(plan, threads);
}

void Network::give_back(const Plan& plan, std::unique_ptr<Workspace> space) {
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    idle(plan).push_back(std::move(space));
}

std::pair<size_t, size_t> Network::memory() const {
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    const size_t weights = weight_bytes(program_, plans());
    size_t working = 0;
    for (const auto* spaces : {&idle_one_, &idle_group_})
        for (const auto& space : *spaces) working += space->bytes();
    return {weights, working};
}

// ---- calibration ----

void Network::calibrate(const float* images, int64_t count, bool channels_last) {
    if (!one_runs_) return;  // too few activations of a network with such wide maps of bits are floats
    {
        std::lock_guard<ForkSafeMutex> lock(mutex_);
        unpack_weights(program_, packed_, plans());
        if (has_dropped_) make_dropped(plans());
        has_dropped_ = false;
        has_spare_ = true;
    }
    Ranges ranges = find_ranges(images, count, channels_last);
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    ranges_ = std::move(ranges);
    const auto fits = [&](const Op& op) {
        return op.kind != Kind::conv || program_.values[op.in].bits || can_sum(op, program_.values[op.in], 32);
    };
    // A vector holds twice as many quantised activations as floats, so a group becomes twice as large.
    if (group_size_ < 64 && !(kernels_->matrices && kernels_->matrices->pack_floats) &&
        std::all_of(program_.ops.begin(), program_.ops.end(), fits))
        group_size_ *= 2;
    one_.reset();
    group_.reset();
    one_cycles_ = group_cycles_ = 0;
    idle_one_.clear();
    idle_group_.clear();
}

// Runs on floats, one operation a step, because the ranges of all values are needed.
Ranges Network::find_ranges(const float* images, int64_t count, bool channels_last) {
    const auto plan = make_plan(program_, packed_, *kernels_, 1, false, {});
    Workspace space(*plan, 1);
    const Frame frame{kernels_, nullptr, space.addresses, &space.scratch, 1};
    const int64_t pixels = int64_t(input().channels) * input().positions();
    Ranges ranges(program_.values.size(), {0.0f, 0.0f});
    for (int64_t i = 0; i < count; ++i) {
        read_pixels(program_, plan->shapes.front(), space.addresses[0], images + i * pixels, 1, channels_last, nullptr);
        for (const auto& step : plan->steps) {
            step->run(frame);
            const int value = step->op().out;
            const Shape& shape = plan->shapes[value];
            if (!shape.plain()) continue;
            auto& [least, most] = ranges[value];
            for (int c = 0; c < shape.channels; ++c) {
                const float* x = shape.floats(space.addresses[value], c);
                for (int i = 0; i < shape.lanes(); ++i) {
                    least = std::min(least, x[i]);
                    most = std::max(most, x[i]);
                }
            }
        }
    }
    return ranges;
}

// ---- explanations ----

std::string Network::explain(int64_t batch) {
    const int group = next_group(std::max<int64_t>(1, batch));
    const Use use(*this, group);
    const Plan& plan = use.plan();
    calibrate_estimates(plan);
    const std::vector<double> microseconds = measure_steps(plan);
    std::string text = std::string(kernels_->name) + "\t" + std::to_string(group) + "\n";
    for (size_t i = 0; i < plan.steps.size(); ++i) text += describe_step(plan, *plan.steps[i], microseconds[i]);
    return text;
}

std::vector<double> Network::measure_steps(const Plan& plan) {
    auto space = take_workspace(plan, 1);
    const Frame frame{kernels_, nullptr, space->addresses, &space->scratch, plan.images};
    std::vector<double> best(plan.steps.size(), 1e9);
    double sum = 0;
    for (int round = 0; round < kTimedRuns || (sum < kTimedMicroseconds && round < 10 * kTimedRuns); ++round)
        for (size_t i = 0; i < plan.steps.size(); ++i) {
            const auto start = std::chrono::steady_clock::now();
            plan.steps[i]->run(frame);
            const std::chrono::duration<double, std::micro> taken = std::chrono::steady_clock::now() - start;
            best[i] = std::min(best[i], taken.count());
            sum += taken.count();
        }
    give_back(plan, std::move(space));
    return best;
}

// Steps are of one kind where the same kernel does the same kind of operation on values of the same forms.
std::string Network::kind_of(const Step& step, int images) const {
    const auto form = [&](int value) { return std::string(program_.values[value].bits ? " bits" : " floats"); };
    const std::vector<int> reads = step.op().reads();
    return std::to_string(images) + " " + describe_operation(step.op()) +
           (reads.empty() ? std::string() : form(reads.front())) + form(step.last().out) + " " + step.name();
}

double Network::microseconds_per_cycle(const Step& step, int images) const {
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    const auto entry = calibrated_.find(kind_of(step, images));
    return entry == calibrated_.end() ? 0 : entry->second;
}

// Each kind takes the median of its steps. Only explanations use it: a choice that depended on a measurement would make
// floats differ in rounding from run to run.
void Network::calibrate_estimates(const Plan& plan) {
    const auto is_known = [&](const auto& step) { return microseconds_per_cycle(*step, plan.images) > 0; };
    if (std::all_of(plan.steps.begin(), plan.steps.end(), is_known)) return;
    const std::vector<double> microseconds = measure_steps(plan);
    std::map<std::string, std::vector<double>> ratios;
    for (size_t i = 0; i < plan.steps.size(); ++i)
        ratios[kind_of(*plan.steps[i], plan.images)].push_back(microseconds[i] / plan.cycles_of(*plan.steps[i]));
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    for (auto& [kind, of_steps] : ratios) {
        std::sort(of_steps.begin(), of_steps.end());
        const size_t n = of_steps.size();
        calibrated_[kind] = (of_steps[(n - 1) / 2] + of_steps[n / 2]) / 2;
    }
}

std::string Network::describe_step(const Plan& plan, const Step& step, double microseconds) const {
    const Op& op = step.op();
    const int images = plan.images;
    const double cycles = plan.cycles_of(step), estimated = cycles * microseconds_per_cycle(step, images);
    char numbers[96];
    std::snprintf(numbers, sizeof numbers, "\t%.0f\t%.2f\t%.2f\n", cycles / images, estimated / images,
                  microseconds / images);
    return describe_operation(op) + "\t" + (op.reads().empty() ? "-" : describe_value(program_.values[op.in])) + "\t" +
           describe_value(program_.values[step.last().out]) + "\t" + step.name() + numbers;
}

}  // namespace biprop
