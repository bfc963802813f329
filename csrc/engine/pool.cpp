#include "pool.h"

#include <chrono>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace biprop {

namespace {

constexpr auto kPatience = std::chrono::microseconds(100);

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads) {
    try {
        for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { help(i); });
    } catch (...) {
        end();
        throw;
    }
}

Pool::~Pool() { end(); }

void Pool::end() {
    stop_.store(true);
    {
        std::lock_guard<std::mutex> lock(mutex_);
        round_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& helper : helpers_) helper.join();
}

void Pool::start(int items, Call call, const void* context) {
    items_ = items, call_ = call, context_ = context;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(int(helpers_.size()), std::memory_order_relaxed);
    round_.fetch_add(1);  // publishes the above; sequentially consistent with `asleep_` below
    if (asleep_.load()) {
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
    }
    drain(0);
    for (int spins = 0; busy_.load(std::memory_order_acquire); ++spins)
        spins < 2000 ? pause() : std::this_thread::yield();  // more threads than cores: let them run
}

void Pool::drain(int thread) {
    for (int item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < items_;) call_(context_, item, thread);
}

void Pool::help(int thread) {
    for (uint64_t seen = 0;; ++seen) {
        const auto until = std::chrono::steady_clock::now() + kPatience;
        for (int spins = 1; round_.load(std::memory_order_acquire) == seen; ++spins) {
            pause();
            if (spins % 64 || std::chrono::steady_clock::now() < until) continue;
            std::unique_lock<std::mutex> lock(mutex_);
            asleep_.fetch_add(1);
            wake_.wait(lock, [&] { return round_.load() != seen; });
            asleep_.fetch_sub(1);
        }
        if (stop_.load()) return;
        drain(thread);
        busy_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace biprop
