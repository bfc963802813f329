// Networks stay usable in a forked process, which has a copy of the parent's memory, but only the thread that forked.
#pragma once

#include <cstdint>
#include <mutex>

namespace biprop {

// The number of forks between this process and the one that loaded the core.
uint64_t forks();

// A mutex that no other thread holds at the moment of a fork: in the child it is free, and what it guards is
// consistent.
class ForkSafeMutex {
  public:
    ForkSafeMutex();
    ~ForkSafeMutex();
    ForkSafeMutex(const ForkSafeMutex&) = delete;
    ForkSafeMutex& operator=(const ForkSafeMutex&) = delete;

    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

  private:
    friend struct AllMutexes;
    std::mutex mutex_;
    ForkSafeMutex *before_ = nullptr, *after_ = nullptr;  // a list of all mutexes
};

}  // namespace biprop
