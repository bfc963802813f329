// Threads that share the items of a loop. They spin for a moment between loops, because a small network starts a loop
// every ten microseconds and waking a thread takes as long; then they sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "fork.h"

namespace biprop {

class Pool {
  public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // Calls work(item, thread) for all items; thread 0 is the caller. One loop at a time; see try_enter. What an item
    // throws is thrown here, after all items are done.
    template <class Work>
    void each(int items, const Work& work) {
        if (threads_ == 1 || items < 2 || items > kMostItems) {
            for (int i = 0; i < items; ++i) work(i, 0);
            return;
        }
        start(
            items,
            [](const void* context, int item, int thread) { (*static_cast<const Work*>(context))(item, thread); },
            &work);
    }

    // One run at a time may use the pool. A run that finds it taken works alone, and so does a run in a forked child,
    // which has no helpers.
    bool try_enter() { return !forked() && !taken_.exchange(true, std::memory_order_acquire); }
    void leave() { taken_.store(false, std::memory_order_release); }

  private:
    using Call = void (*)(const void*, int, int);
    static constexpr int kMostItems = (1 << 20) - 1;

    void start(int items, Call call, const void* context);
    void help(int thread);
    void drain(int thread);
    void end();
    bool forked() const { return forks() != born_; }

    // The number of the loop and its remaining items in one integer, [round 24 bits][end 20][next 20]: a thread that
    // takes an item knows that it belongs to this loop, whose call_ and context_ stay valid until all its items are
    // done. So the caller waits for items, never for a thread that has not woken up yet.
    std::atomic<uint64_t> state_{0};
    std::atomic<int> done_{0}, asleep_{0};
    std::atomic<bool> taken_{false}, stop_{false};
    Call call_ = nullptr;
    const void* context_ = nullptr;
    std::atomic<bool> failed_{false};
    std::exception_ptr failure_;  // the first exception of a loop
    const int threads_;
    const uint64_t born_ = forks();

    struct Helpers {
        std::mutex mutex;
        std::condition_variable wake;
        std::vector<std::thread> threads;
    };
    std::unique_ptr<Helpers> helpers_ = std::make_unique<Helpers>();
};

}  // namespace biprop
