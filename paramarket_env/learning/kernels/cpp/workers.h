// Memory and threads for the kernels.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

// Zeros, aligned to lines of the cache.
template <class T>
class Buffer {
   public:
    explicit Buffer(int64_t size)
        : data_(static_cast<T*>(::operator new(sizeof(T) * (size + 1), std::align_val_t(64)))) {
        std::fill_n(data_, size, T());
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
    operator T*() const { return data_; }

   private:
    T* data_;
};

// The multiply-adds for which it pays to start a thread: some 100 microseconds, three times what a thread costs.
constexpr int64_t LEAST_WORK = 1 << 22;

// Calls work(next) in several threads, as many as `operations` multiply-adds are worth, `threads` at most. They share
// the tasks 0, ..., count - 1: next() is one of them, or `count` if none is left. Threads live as long as a call, so
// that a process can fork between two calls.
template <class Work>
void in_threads(int64_t threads, int64_t count, int64_t operations, Work work) {
    threads = std::min({threads, count, 1 + operations / LEAST_WORK});
    std::atomic<int64_t> taken(0);
    auto next = [&] { return std::min(taken++, count); };
    std::vector<std::thread> others;
    try {
        for (int64_t thread = 1; thread < threads; thread++) others.emplace_back([&] { work(next); });
    } catch (const std::system_error&) {  // the system has no more threads: those that there are do all tasks
    }
    work(next);
    for (std::thread& thread : others) thread.join();
}
