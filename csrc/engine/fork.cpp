#include "fork.h"

#include <atomic>
#include <new>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace biprop {

namespace {

std::atomic<uint64_t> fork_count{0};

}  // namespace

struct AllMutexes {
    std::mutex mutex;  // of the list
    ForkSafeMutex* first = nullptr;

    AllMutexes() {
#ifndef _WIN32
        if (pthread_atfork(lock_all, unlock_all, unlock_all_in_child)) throw std::bad_alloc();
#endif
    }

    void add(ForkSafeMutex* one) {
        std::lock_guard<std::mutex> lock(mutex);
        one->after_ = first;
        if (first) first->before_ = one;
        first = one;
    }
    void remove(ForkSafeMutex* one) {
        std::lock_guard<std::mutex> lock(mutex);
        (one->before_ ? one->before_->after_ : first) = one->after_;
        if (one->after_) one->after_->before_ = one->before_;
    }

    static AllMutexes& get() {
        static auto* const all = new AllMutexes;  // never destroyed: networks may live as long as the process
        return *all;
    }

  private:
    static void lock_all() {
        get().mutex.lock();
        for (auto* one = get().first; one; one = one->after_) one->mutex_.lock();
    }
    static void unlock_all() {
        for (auto* one = get().first; one; one = one->after_) one->mutex_.unlock();
        get().mutex.unlock();
    }
    static void unlock_all_in_child() {
        fork_count.fetch_add(1, std::memory_order_relaxed);
        unlock_all();
    }
};

uint64_t forks() { return fork_count.load(std::memory_order_relaxed); }

ForkSafeMutex::ForkSafeMutex() { AllMutexes::get().add(this); }
ForkSafeMutex::~ForkSafeMutex() { AllMutexes::get().remove(this); }

}  // namespace biprop
