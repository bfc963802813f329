#include "spare.h"

#include <algorithm>

namespace biprop {

namespace {

// A copy of the weights that masks are made from, and lists in part; all may be null.
struct Source {
    const TapLists* lists = nullptr;
    const GroupedTaps* grouped = nullptr;
    const Step* step = nullptr;
    explicit operator bool() const { return lists || grouped || step; }
};

Source source_in(const Step* step) {
    Source source;
    if (!step) return source;
    const auto lists = step->lists();
    if (lists && !lists->is_dropped()) source.lists = lists.get();
    if (step->grouped() && step->grouped()->restores()) source.grouped = step->grouped();
    if (step->holds_weights()) source.step = step;
    return source;
}

Source source_in(const Plan* plan, const Op& op) { return source_in(plan ? plan->step_of(op) : nullptr); }

size_t packed_bytes(const Op& op) { return op.mask.size() + op.sign.size(); }

// Whether other copies hold what mask and sign do.
bool is_spare(const Op& op, const Plans& plans) {
    return op.is_masked() && (source_in(plans.one, op) || source_in(plans.group, op));
}

// Returns by how many bytes the weights have become smaller, with masks and signs that are spare counted as gone.
size_t drop_lists(Step& step, const Plan& one, Op& op) {
    const Step* const other = one.step_of(op);
    if (step.holds_weights()) {
        Held held;
        step.memory(held);
        const size_t saved = held[&step], masks = source_in(other) ? 0 : packed_bytes(op);
        if (saved <= masks) return 0;
        step.drop_lists();
        return saved - masks;
    }
    const auto lists = step.lists();
    if (!lists || lists->is_dropped() || (other && other->lists() == lists)) return 0;
    size_t saved = lists->bytes_of_taps();
    if (!source_in(other)) {  // mask and sign are what remains
        const size_t masks = 2 * ((lists->kept.size() * lists->per_channel() + 7) / 8);
        if (saved <= masks) return 0;
        saved -= masks;
        if (op.mask.empty()) lists->restore(op);
    }
    lists->drop();
    return saved;
}

}  // namespace

size_t weight_bytes(const Program& program, const Plans& plans) {
    size_t sum = 0;
    for (const Op& op : program.ops) sum += packed_bytes(op) + op.weights.size() * 4 + op.scale.size() * 24;
    Held held;
    for (const Plan* plan : {plans.one, plans.group})
        if (plan)
            for (const auto& step : plan->steps) step->memory(held);
    for (const auto& [owner, bytes] : held) sum += bytes;
    return sum;
}

void unpack_weights(Program& program, const std::vector<Packed>& packed, const Plans& plans) {
    for (size_t i = 0; i < packed.size(); ++i) {
        Op& op = program.ops[i];
        if (!op.is_masked() || !op.mask.empty()) continue;
        if (packed[i].lists && !packed[i].lists->is_dropped()) {
            packed[i].lists->restore(op);
            continue;
        }
        for (const Plan* plan : {plans.one, plans.group}) {
            const Source source = source_in(plan, op);
            if (source.lists)
                source.lists->restore(op);
            else if (source.grouped)
                source.grouped->restore(op, plan->shapes[op.in].channels * op.area());
            else if (source.step)
                source.step->restore(op);
            if (source) break;
        }
    }
}

bool drop_spare(Program& program, std::vector<Packed>& packed, const Plans& plans, size_t most) {
    bool dropped = false;
    if (plans.one && plans.group) {
        size_t bytes = weight_bytes(program, plans);
        for (const Op& op : program.ops)
            if (is_spare(op, plans)) bytes -= packed_bytes(op);
        // Machine code has a limit of its own, for each layer: dropping lists for it would slow every batch.
        for (const Plan* plan : {plans.one, plans.group})
            for (const auto& step : plan->steps) bytes -= step->machine_code();
        auto& steps = plans.group->steps;
        for (size_t i = steps.size(); i-- > 0 && bytes > most;) {
            const size_t at = size_t(&steps[i]->op() - program.ops.data());
            const size_t saved = drop_lists(*steps[i], *plans.one, program.ops[at]);
            bytes -= saved;
            dropped = dropped || saved;
        }
    }
    for (Packed& own : packed)
        if (own.lists && (own.lists->is_dropped() || own.lists.use_count() == 1)) own.lists.reset();
    for (Op& op : program.ops)
        if (is_spare(op, plans)) {
            release(op.mask);
            release(op.sign);
        }
    return dropped;
}

void make_dropped(const Plans& plans) {
    for (const auto& step : plans.group->steps) {
        step->make_lists_again();
        const auto lists = step->lists();
        if (!lists || !lists->is_dropped()) continue;
        const Op& op = step->op();
        const Source source = source_in(plans.one, op);
        if (source.lists)
            lists->make_again(*source.lists);
        else if (source.grouped)
            lists->make_again(*source.grouped);
        else
            lists->make_again(op);
    }
}

void share_with_group(std::vector<Packed>& packed, const Program& program, const Plan& group) {
    for (size_t i = 0; i < packed.size(); ++i)
        if (const Step* step = group.step_of(program.ops[i])) packed[i].lists = step->lists();
}

}  // namespace biprop
