// Who computes which tasks of a phase.
//
// Each thread has a run of neighbouring tasks and takes them in order; who is done helps the others. Weights of
// neighbours lie side by side, so a thread reads memory from end to end: two threads on a Zen 3, one row of a matrix of
// 600 MiB (Q4_K), GB/s by the neighbours (19 KB each) that a thread takes at once: one 24.9, two 26.8, four 29.2,
// sixteen 31.5, half of all 33.7. A bare read of the same memory goes from 26.3 to 32.5.
#pragma once
#include <atomic>
#include <memory>

namespace pellucid {

class Claims {
  public:
    explicit Claims(int threads) : threads_(threads), runs_(new Run[(size_t)threads]) {}

    // Before any thread claims: nothing is taken.
    void reset() {
        for (long r = 0; r < threads_; r++) runs_[(size_t)r].taken.store(0, std::memory_order_relaxed);
    }

    // Calls `work(task)` for tasks of 0 … tasks - 1 until none is left, and returns for how many.
    template <class F>
    long each(long tasks, int thread, F&& work) {
        long mine = 0;
        for (long i = 0; i < threads_; i++) {
            const long r = (thread + i) % threads_;
            const long begin = tasks * r / threads_, size = tasks * (r + 1) / threads_ - begin;
            std::atomic<long>& taken = runs_[(size_t)r].taken;
            // Asked before it is added to: a line that is only read stays with all who read it.
            while (taken.load(std::memory_order_relaxed) < size) {
                const long next = taken.fetch_add(1, std::memory_order_relaxed);
                if (next >= size) break;
                work(begin + next);
                mine++;
            }
        }
        return mine;
    }

  private:
    struct alignas(64) Run {
        std::atomic<long> taken{0};
    };
    const long threads_;
    std::unique_ptr<Run[]> runs_;
};

}  // namespace pellucid
