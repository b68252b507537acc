#include "threads.h"

#include <unistd.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace pellucid {

namespace {

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Rounds to nearest and keeps subnormal numbers while it lives. The mode belongs to each thread, and a library built
// for speed may have changed the caller's: results would depend on who computed a task.
class FloatMode {
#if defined(__SSE2__)
  public:
    FloatMode() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~FloatMode() { _mm_setcsr(before_); }

  private:
    const unsigned before_;
#else
  public:
    FloatMode() {}  // nothing is known to change it elsewhere
#endif
};

// Operators follow each other within microseconds, so spinning beats sleeping; but with more threads than cores the one
// waited for needs the core that spinning would hold.
int spins_for(int threads, int cores) { return threads > cores ? 16 : 2000; }

}  // namespace

ThreadPool::ThreadPool(int threads, int cores)
    : threads_(threads), spins_(spins_for(threads, cores)), process_(getpid()) {
    try {
        for (int id = 1; id < threads_; id++) workers_.emplace_back([this, id] { worker(id); });
    } catch (...) {  // the system has no more threads to give
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    stop_ = true;
    epoch_.fetch_add(1);
    epoch_.notify_all();
    // A forked child has the handles of its parent's threads and not the threads: joining would wait for ever.
    for (std::thread& thread : workers_) getpid() == process_ ? thread.join() : thread.detach();
    workers_.clear();
}

void ThreadPool::wait_for(const std::atomic<long>& count, long wanted) const {
    for (int i = 0; count.load() != wanted; i++) {  // sequentially consistent: see the handshake in run() and worker()
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
    {
        const FloatMode mode;
        work(context, 0);
    }
    open_ = false;  // who comes from here on finds it closed; who came before is waited for
    wait_for(inside_, 0);
}

void ThreadPool::worker(int id) {
    for (int seen = 0; !stop_;) {
        for (int i = 0; i < spins_ && epoch_ == seen; i++) pause();
        epoch_.wait(seen);
        seen = epoch_;
        inside_.fetch_add(1);
        if (open_) {
            const FloatMode mode;
            work_(context_, id);
        }
        inside_.fetch_sub(1);
    }
}

}  // namespace pellucid
