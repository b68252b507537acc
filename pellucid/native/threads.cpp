#include "threads.h"

namespace pellucid {

namespace {

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void wait_for_change(std::atomic<int>& value, int old, int spins) {
    for (int i = 0; i < spins; i++) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    value.wait(old, std::memory_order_acquire);
}

// More threads than cores: the one waited for needs the core that spinning would hold.
int spins_for(int threads, int cores) { return threads > cores ? 16 : 4000; }

}  // namespace

void Barrier::wait() {
    if (count_ == 1) return;
    const int generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
        arrived_.store(0, std::memory_order_relaxed);
        generation_.store(generation + 1, std::memory_order_release);
        generation_.notify_all();
    } else {
        wait_for_change(generation_, generation, spins_);
    }
}

ThreadPool::ThreadPool(int threads, int cores)
    : threads_(threads), spins_(spins_for(threads, cores)), barrier_(threads, spins_), finished_(threads, spins_) {
    for (int id = 1; id < threads_; id++) workers_.emplace_back([this, id] { work(id); });
}

ThreadPool::~ThreadPool() {
    task_ = nullptr;  // an epoch without a task ends the workers
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(Task task, void* context) {
    task_ = task;
    context_ = context;
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    task(context, 0);
    finished_.wait();
}

void ThreadPool::work(int id) {
    for (int seen = 0;; seen++) {
        wait_for_change(epoch_, seen, spins_);
        if (!task_) return;
        task_(context_, id);
        finished_.wait();
    }
}

}  // namespace pellucid
