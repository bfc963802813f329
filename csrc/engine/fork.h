// What keeps networks usable in a process that was forked: a child has their memory, but of the threads only the one
// that forked.
#pragma once

#include <cstdint>
#include <mutex>

namespace biprop {

// How many forks lie between this process and the one that loaded the core.
uint64_t forks();

// A mutex that no other thread holds at the moment of a fork, so that what it guards is whole in the child, and it is
// free there.
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
    ForkSafeMutex *before_ = nullptr, *after_ = nullptr;  // all that there are, in a list
};

}  // namespace biprop
