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

// Operators follow each other within microseconds, so spinning beats sleeping; but with more threads than cores the one
// waited for needs the core that spinning would hold.
int spins_for(int threads, int cores) { return threads > cores ? 16 : 2000; }

}  // namespace

ThreadPool::ThreadPool(int threads, int cores) : threads_(threads), spins_(spins_for(threads, cores)) {
    for (int id = 1; id < threads_; id++) workers_.emplace_back([this, id] { worker(id); });
}

ThreadPool::~ThreadPool() {
    stop_ = true;
    epoch_.fetch_add(1);
    epoch_.notify_all();
    for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::wait_for(const std::atomic<long>& count, long wanted) const {
    for (int i = 0; count.load(std::memory_order_acquire) != wanted; i++) {
        if (i < spins_)
            pause();
        else
            std::this_thread::yield();
    }
}

void ThreadPool::run(Work work, void* context) {
    work_ = work;  // nobody is inside
    context_ = context;
    open_ = true;
    epoch_.fetch_add(1);
    epoch_.notify_all();
    work(context, 0);
    open_ = false;  // who comes from here on finds it closed; who came before is waited for
    wait_for(inside_, 0);
}

void ThreadPool::worker(int id) {
    for (int seen = 0; !stop_;) {
        for (int i = 0; i < spins_ && epoch_ == seen; i++) pause();
        epoch_.wait(seen);
        seen = epoch_;
        inside_.fetch_add(1);
        if (open_) work_(context_, id);
        inside_.fetch_sub(1);
    }
}

}  // namespace pellucid
