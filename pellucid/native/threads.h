// A pool of threads that run one function together, and the barrier they meet at.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace pellucid {

// Waits by spinning first, then by sleeping in the kernel: operators follow each other within microseconds, steps may
// not.
class Barrier {
  public:
    Barrier(int count, int spins) : count_(count), spins_(spins) {}
    void wait();

  private:
    const int count_, spins_;
    std::atomic<int> arrived_{0};
    std::atomic<int> generation_{0};
};

class ThreadPool {
  public:
    // `threads` in all, the caller's included; `cores` is what the process may use.
    ThreadPool(int threads, int cores);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return threads_; }
    Barrier& barrier() { return barrier_; }

    // Calls task(id) on every thread, id 0 on the caller's, and returns when all are done. `task` must not throw.
    template <class F>
    void run(F&& task) {
        run([](void* context, int id) { (*static_cast<std::remove_reference_t<F>*>(context))(id); }, &task);
    }

  private:
    using Task = void (*)(void*, int);
    void run(Task task, void* context);
    void work(int id);

    const int threads_, spins_;
    Barrier barrier_, finished_;
    Task task_ = nullptr;
    void* context_ = nullptr;
    std::atomic<int> epoch_{0};
    std::vector<std::thread> workers_;
};

}  // namespace pellucid
