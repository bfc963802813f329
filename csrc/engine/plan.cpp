#include "plan.h"

#include <algorithm>
#include <cmath>

#include "caches.h"
#include "plain.h"

namespace biprop {

namespace {

// A step below this many cycles runs on the calling thread: waiting for others costs some cycles, and many where the
// machine takes one of the threads away.
constexpr double kWorthThreads = 1e5;
// Of the bytes of a value that do not fit into the second cache, where they are copied piece by piece, and where they
// are read or written in sequence. Fitted to the layers of VGG_Small and cResNet18 in groups of 8 to 64 images on a
// Zen 4 core (1 MB).
constexpr double kCyclesPerFarByte = 0.7, kCyclesPerFarByteInSequence = 0.25;

int count_readers(const Program& program, int value) {
    int count = 0;
    for (const Op& op : program.ops) {
        const std::vector<int> reads = op.reads();
        count += int(std::count(reads.begin(), reads.end(), value));
    }
    return count;
}

// The operation after operation i, if it is a 2x2 max pool of the numbers that i computes, and nothing else reads
// those.
const Op* pool_to_fuse(const Program& program, const Plan& plan, size_t i) {
    const Op& op = program.ops[i];
    if (i + 1 == program.ops.size() || op.residual != kNone || plan.shapes[op.out].bits) return nullptr;
    const Op& pool = program.ops[i + 1];
    if (pool.in != op.out || !pool.halves() || plan.shapes[pool.out].bits) return nullptr;
    return count_readers(program, op.out) == 1 ? &pool : nullptr;
}

// ---- which activations are quantised ----

// For each value, the most weights that one output channel of a convolution that reads it keeps.
std::vector<int> most_kept_weights(const Program& program, const Plan& plan) {
    std::vector<int> most(program.values.size(), 1);
    for (const Op& op : program.ops) {
        if (op.kind != Kind::conv || op.dense) continue;
        const size_t taps = size_t(plan.shapes[op.in].channels) * op.area();
        for (size_t c = 0; c < op.scale.size(); ++c) {
            most[op.in] = std::max(most[op.in], op.count_kept(c * taps, (c + 1) * taps));
        }
    }
    return most;
}

// For each value, whether an operation that is no convolution gives its signs, or those of its maxima. 8 bits turn some
// of them.
std::vector<bool> turned_into_signs(const Program& program, const Plan& plan) {
    std::vector<bool> found(program.values.size(), false);
    for (size_t i = program.ops.size(); i-- > 0;) {
        const Op& op = program.ops[i];
        if (op.kind != Kind::conv && !op.plain && (plan.shapes[op.out].bits || found[op.out])) found[op.in] = true;
    }
    return found;
}

// An activation is quantised where the step that computes it and all steps that read it support that: convolutions on
// floats, their residual sums, and pools. The input and the output stay floats, and so does a value whose range is too
// large or too small for a step size.
void quantise_values(const Program& program, Plan& plan, const Ranges& ranges) {
    const size_t count = program.values.size();
    const std::vector<int> most_kept = most_kept_weights(program, plan);
    const auto shape = [&](int v) {
        return plan.shapes[v].quantised_to_range(ranges[v].first, ranges[v].second, 32767 / most_kept[v]);
    };
    std::vector<bool> quantised(count, true);
    quantised.front() = false;
    quantised.back() = false;
    for (size_t v = 0; v < count; ++v)
        quantised[v] = quantised[v] && plan.shapes[v].plain() && std::isnormal(shape(int(v)).step);
    const std::vector<bool> signs = turned_into_signs(program, plan);
    for (const Op& op : program.ops) {
        const bool on_bits = op.kind == Kind::conv && plan.shapes[op.in].bits;
        if (signs[op.out]) {
            quantised[op.out] = quantised[op.in] = false;
            if (op.residual != kNone) quantised[op.residual] = false;
        }
        if (op.plain) {
            quantised[op.out] = false;
            for (const int value : op.inputs) quantised[value] = false;
            continue;
        }
        if (on_bits)
            quantised[op.out] = false;
        else
            quantised[op.in] = quantised[op.in] && reads_quantised(op, plan.shapes, shape(op.in));
        if (op.residual != kNone && (on_bits || op.act == Act::sign0)) quantised[op.residual] = false;
    }
    for (size_t v = 0; v < count; ++v)
        if (quantised[v]) plan.shapes[v] = shape(int(v));
    // The input of a max pool takes the step size of its output, if nothing else reads it: then the pool is a maximum
    // of integers. Pools can follow each other, so this goes from the last operation to the first.
    for (size_t i = program.ops.size(); i-- > 0;) {
        const Op& op = program.ops[i];
        if (op.selects() && quantised[op.in] && quantised[op.out] && count_readers(program, op.in) == 1)
            plan.shapes[op.in] = plan.shapes[op.in].quantised_like(plan.shapes[op.out]);
    }
}

// ---- steps ----

std::unique_ptr<Step> make_step(const Op& op, const Op* pool, const std::vector<Shape>& shapes, const Kernels& kernels,
                                Packed& packed) {
    if (op.plain) return make_plain_step(op, shapes);
    if (op.kind != Kind::conv) return make_pool_step(op, shapes);
    if (shapes[op.in].bits) return make_bit_step(op, pool, shapes, kernels, packed);
    return make_sum_step(op, pool, shapes, kernels, packed);
}

void add_steps(const Program& program, std::vector<Packed>& packed, const Kernels& kernels, bool fuse_pools,
               Plan& plan) {
    for (size_t i = 0; i < program.ops.size(); ++i) {
        const Op& op = program.ops[i];
        const Op* pool = fuse_pools && op.kind == Kind::conv ? pool_to_fuse(program, plan, i) : nullptr;
        plan.steps.push_back(make_step(op, pool, plan.shapes, kernels, packed[i]));
        Step& step = *plan.steps.back();
        plan.scratch = std::max(plan.scratch, step.scratch());
        step.worth_threads = step.cycles() > kWorthThreads;
        if (&step.last() != &op) ++i;  // the step does the pool, too
    }
}

// ---- buffers ----

// A value lives from the step that computes it to the last step that reads it; then another value may take its buffer.
class BufferSharing {
  public:
    explicit BufferSharing(Plan& plan) : plan_(plan) { plan_.buffer_of.assign(plan_.shapes.size(), -1); }

    void take(int value) {
        const auto buffer = std::find_if(free_.begin(), free_.end(), [&](int free) { return fits(value, free); });
        if (buffer != free_.end()) {
            plan_.buffer_of[value] = *buffer;
            free_.erase(buffer);
            return;
        }
        plan_.buffer_of[value] = int(plan_.buffers.size());
        plan_.buffers.push_back(plan_.shapes[value].bytes());
        first_value_.push_back(value);
    }
    void release(int value) {
        const int buffer = plan_.buffer_of[value];
        if (buffer >= 0 && std::find(free_.begin(), free_.end(), buffer) == free_.end()) free_.push_back(buffer);
    }

  private:
    // Kernels count on zeros around rows of bits, so these share only with values of the same shape.
    bool fits(int value, int buffer) const {
        const Shape& shape = plan_.shapes[value];
        const Shape& other = plan_.shapes[first_value_[buffer]];
        if (shape.row || other.row)
            return shape.row == other.row && shape.height == other.height && shape.width == other.width &&
                   shape.channels == other.channels;
        return plan_.buffers[buffer] >= shape.bytes() && plan_.buffers[buffer] <= 4 * shape.bytes();
    }

    Plan& plan_;
    std::vector<int> free_;  // buffers
    std::vector<int> first_value_;  // by buffer
};

void share_buffers(Plan& plan) {
    std::vector<int> last_reader(plan.shapes.size(), -1);
    for (size_t i = 0; i < plan.steps.size(); ++i) {
        for (const int value : plan.steps[i]->op().reads()) last_reader[value] = int(i);
    }
    BufferSharing buffers(plan);
    buffers.take(0);
    for (size_t i = 0; i < plan.steps.size(); ++i) {
        const Op& op = plan.steps[i]->op();
        buffers.take(plan.steps[i]->last().out);
        // The input, value 0, keeps its buffer, so that a plan can run again on the same images to be timed.
        for (const int value : op.reads())
            if (value > 0 && last_reader[value] == int(i)) buffers.release(value);
    }
}

}  // namespace

double Plan::cycles_of(const Step& step) const {
    const Op& op = step.op();
    const auto far_bytes = [&](int value) {
        const size_t bytes = shapes[value].bytes();
        return bytes > second_cache() ? double(bytes - second_cache()) : 0.0;
    };
    double cycles = step.cycles() + kCyclesPerFarByteInSequence * far_bytes(step.last().out);
    for (const int value : op.reads()) {
        if (op.kind == Kind::conv && shapes[op.in].bits && value != op.in) continue;  // its kernel's estimate has it
        const bool by_pieces = op.kind == Kind::conv && value == op.in;
        const double rows = by_pieces && op.kernel_height < op.stride ? double(op.kernel_height) / op.stride : 1;
        cycles += rows * (by_pieces ? kCyclesPerFarByte : kCyclesPerFarByteInSequence) * far_bytes(value);
    }
    return std::max(1.0, cycles);
}

const Step* Plan::step_of(const Op& op) const {
    const auto is_of = [&](const auto& step) { return &step->op() == &op; };
    const auto step = std::find_if(steps.begin(), steps.end(), is_of);
    return step == steps.end() ? nullptr : step->get();
}

std::unique_ptr<Plan> make_plan(const Program& program, std::vector<Packed>& packed, const Kernels& kernels, int images,
                                bool fuse_pools, const Ranges& ranges) {
    auto plan = std::make_unique<Plan>();
    plan->images = images;
    for (const Value& value : program.values) plan->shapes.emplace_back(value, images);
    if (!ranges.empty()) quantise_values(program, *plan, ranges);
    add_steps(program, packed, kernels, fuse_pools, *plan);
    share_buffers(*plan);
    for (const auto& step : plan->steps) plan->cycles += plan->cycles_of(*step);
    return plan;
}

}  // namespace biprop
