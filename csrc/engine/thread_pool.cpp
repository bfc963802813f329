#include "thread_pool.h"

#include <chrono>
#include <utility>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace biprop {

namespace {

constexpr uint64_t kOneFromTheEnd = uint64_t(1) << 20;
constexpr auto kPatience = std::chrono::microseconds(100);

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    asm volatile("yield");
#endif
}

uint64_t round_of(uint64_t state) { return state >> 40; }
int end_of(uint64_t state) { return int(state >> 20 & 0xfffff); }
int next_of(uint64_t state) { return int(state & 0xfffff); }

}  // namespace

Pool::Pool(int threads) : threads_(threads) {
    try {
        for (int i = 1; i < threads; ++i) helpers_->threads.emplace_back([this, i] { help(i); });
    } catch (...) {
        end();
        throw;
    }
}

Pool::~Pool() { end(); }

void Pool::end() {
    if (forked()) {
        // The threads belong to the parent process. The child can neither join them nor destroy what they wait on, so
        // its copy is leaked.
        (void)helpers_.release();
        return;
    }
    {
        std::lock_guard<std::mutex> lock(helpers_->mutex);
        stop_.store(true);
        state_.store((round_of(state_.load()) + 1) << 40);
    }
    helpers_->wake.notify_all();
    for (auto& helper : helpers_->threads) helper.join();
}

void Pool::start(int items, Call call, const void* context) {
    call_ = call;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    state_.store((round_of(state_.load(std::memory_order_relaxed)) + 1) << 40 | uint64_t(items)
                                                                                    << 20);  // publishes the above
    if (asleep_.load()) {
        std::lock_guard<std::mutex> lock(helpers_->mutex);
        helpers_->wake.notify_all();
    }
    drain(0);
    for (int spins = 0; done_.load(std::memory_order_acquire) < items; ++spins)
        spins < 2000 ? pause() : std::this_thread::yield();  // with more threads than cores, let the others run
    if (!failed_.load(std::memory_order_acquire)) return;
    const std::exception_ptr failure = std::exchange(failure_, nullptr);
    failed_.store(false, std::memory_order_relaxed);
    std::rethrow_exception(failure);
}

// The calling thread takes items from the front, the others from the back: neighbouring items share what they read,
// and the next loop finds most of its input in the cache of the core that wrote it.
void Pool::drain(int thread) {
    uint64_t state = state_.load(std::memory_order_acquire);
    while (next_of(state) < end_of(state)) {
        const int item = thread ? end_of(state) - 1 : next_of(state);
        const uint64_t taken = thread ? state - kOneFromTheEnd : state + 1;
        if (!state_.compare_exchange_weak(state, taken, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
        try {
            call_(context_, item, thread);
        } catch (...) {
            if (!failed_.exchange(true, std::memory_order_acq_rel)) failure_ = std::current_exception();
        }
        done_.fetch_add(1, std::memory_order_release);
        state = state_.load(std::memory_order_acquire);
    }
}

void Pool::help(int thread) {
    for (uint64_t seen = 0; !stop_.load();) {
        const auto until = std::chrono::steady_clock::now() + kPatience;
        for (int spins = 1; round_of(state_.load(std::memory_order_acquire)) == seen; ++spins) {
            pause();
            if (spins % 64 || std::chrono::steady_clock::now() < until) continue;
            std::unique_lock<std::mutex> lock(helpers_->mutex);
            asleep_.fetch_add(1);
            helpers_->wake.wait(lock, [&] { return round_of(state_.load()) != seen; });
            asleep_.fetch_sub(1);
        }
        seen = round_of(state_.load(std::memory_order_acquire));
        drain(thread);
    }
}

}  // namespace biprop
