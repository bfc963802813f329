// A loaded network: its program, its plans for one image and for groups of images, and the memory of its runs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fork.h"
#include "kernels.h"
#include "plan.h"
#include "program.h"
#include "spare.h"
#include "thread_pool.h"
#include "workspace.h"

namespace biprop {

// Many threads may call `run` and `explain` at once; plans are made when they are first needed.
class Network {
  public:
    // Throws TooLarge where neither one image nor a group can run.
    Network(Program program, int threads, const Kernels* kernels);

    const Value& input() const { return program_.values.front(); }
    int outputs() const { return program_.values.back().channels * program_.values.back().positions(); }

    // images: [count] of the input's shape, bytes or floats, with the channels first or last; logits: [count][outputs].
    // Throws NotFinite.
    template <class Pixel>
    void run(const Pixel* images, int64_t count, bool channels_last, float* logits);

    // A first line of the instruction set and the images of a group; then one line a step: operation, shapes, kernel,
    // estimated cycles an image, estimated microseconds an image, and those measured on blank images.
    std::string explain(int64_t batch);

    // From now on activations between layers are quantised to 8 bits, for the ranges that they have on these images.
    void calibrate(const float* images, int64_t count, bool channels_last);

    // Bytes of the weights, and of the workspaces of runs.
    std::pair<size_t, size_t> memory() const;

  private:
    // Keeps a plan and its lists in memory while it runs.
    class Use {
      public:
        Use(Network& network, int images) : network_(network), plan_(network.enter(images)) {}
        ~Use() { network_.leave(plan_); }
        Use(const Use&) = delete;
        Use& operator=(const Use&) = delete;
        const Plan& plan() const { return plan_; }

      private:
        Network& network_;
        const Plan& plan_;
    };
    // One image at a time or a whole group: whichever is estimated to take less.
    int next_group(int64_t left);
    double estimate(int images);  // cycles of the plan
    const Plan& enter(int images);
    void leave(const Plan& plan);
    Plan& make(int images);  // the plan, and its lists if they are dropped
    Plans plans() const { return {one_.get(), group_.get()}; }
    void delete_idle_plan();
    template <class Pixel>
    void run_group(const Plan& plan, const Pixel* images, int count, bool channels_last, float* logits, Pool* pool);
    void write_logits(const Plan& plan, const Workspace& space, int count, float* logits) const;
    Ranges find_ranges(const float* images, int64_t count, bool channels_last);
    std::vector<double> measure_steps(const Plan& plan);
    void calibrate_estimates(const Plan& plan);
    std::string kind_of(const Step& step, int images) const;
    double microseconds_per_cycle(const Step& step, int images) const;  // 0 before calibration
    std::string describe_step(const Plan& plan, const Step& step, double microseconds) const;

    std::unique_ptr<Workspace> take_workspace(const Plan& plan, int threads);
    void give_back(const Plan& plan, std::unique_ptr<Workspace> space);
    std::vector<std::unique_ptr<Workspace>>& idle(const Plan& plan) {
        return plan.images == 1 ? idle_one_ : idle_group_;
    }

    Program program_;  // weights of an operation move into its lists of taps
    const Kernels* const kernels_;
    Pool pool_;
    int group_size_ = 64;  // images
    bool has_bits_ = false;
    bool one_runs_ = true, group_runs_ = true;  // whether one image, or a group, can run
    mutable ForkSafeMutex mutex_;  // guards what follows, and the weights of program_
    Ranges ranges_;  // of quantised values; empty before calibration
    std::map<std::string, double> calibrated_;  // by kind of step: microseconds a cycle of the estimate takes here
    std::vector<Packed> packed_;  // by operation
    std::unique_ptr<Plan> one_, group_;
    double one_cycles_ = 0, group_cycles_ = 0;  // estimates of the plans, which may be deleted since; 0 before
    int one_users_ = 0, group_users_ = 0;  // runs at this moment
    bool one_ran_ = false, group_ran_ = false;  // else the plan was made for its estimate only
    int groups_in_turn_ = 0;  // calls that ran groups since the last one that ran single images
    bool has_spare_ = false;  // plans or lists were made since the last time that spare ones were dropped
    bool has_dropped_ = false;  // lists of the group's plan
    size_t packed_bytes_ = 0;  // of all masks and signs
    std::vector<std::unique_ptr<Workspace>> idle_one_, idle_group_;
};

}  // namespace biprop
