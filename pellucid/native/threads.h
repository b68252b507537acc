// A pool of threads that share out tasks.
//
// Nobody waits for a thread, only for tasks: a thread that the system has taken off its core (virtual cores are uneven,
// and machines are busy) joins in when it comes back, and the others do its share meanwhile.
#pragma once
#include <atomic>
#include <thread>
#include <vector>

namespace pellucid {

class ThreadPool {
  public:
    // `threads` in all, the caller's included; `cores` is what the process may use. Throws std::system_error when the
    // system has no more threads to give.
    ThreadPool(int threads, int cores);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return threads_; }

    // Calls work(id) on the caller's thread (id 0) and on those workers that come in time, and returns when all that
    // came have left. `work` must claim its tasks from shared counters, bear being called late or twice, and not throw.
    template <class F>
    void run(F&& work) {
        run([](void* context, int id) { (*static_cast<std::remove_reference_t<F>*>(context))(id); }, &work);
    }

    // Spins, then yields the core, until `count` reaches `wanted`.
    void wait_for(const std::atomic<long>& count, long wanted) const;

  private:
    using Work = void (*)(void*, int);
    void run(Work work, void* context);
    void worker(int id);
    void stop();

    const int threads_, spins_;
    const long process_;
    Work work_ = nullptr;
    void* context_ = nullptr;
    std::atomic<bool> open_{false}, stop_{false};
    std::atomic<int> epoch_{0};    // of the newest run; workers sleep on it
    std::atomic<long> inside_{0};  // workers that may be using work_
    std::vector<std::thread> workers_;
};

}  // namespace pellucid
