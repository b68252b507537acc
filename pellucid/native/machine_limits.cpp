// What this machine can do at most, for `pellucid bench` and `pellucid doctor` (executors/limits.py): how fast memory
// is read, and how many multiply-adds a second the kernels' own instructions reach.
#include "machine_limits.h"

#include <nanobind/stl/string.h>
#include <algorithm>
#include <chrono>
#include "claims.h"
#include "pack.h"
#include "program.h"

namespace nb = nanobind;

namespace pellucid {

namespace {

// Seconds of the fastest of `passes` runs of `work` by all threads: other work on the machine only makes them slower.
template <class Prepare, class Work>
double fastest(ThreadPool& pool, int passes, Prepare&& prepare, Work&& work) {
    double best = 1e9;
    for (int pass = 0; pass < passes; pass++) {
        prepare();
        const auto start = std::chrono::steady_clock::now();
        pool.run(work);
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

uint64_t read_all(const uint64_t* p, int64_t count) {
    uint64_t seen[8] = {};
    for (int64_t i = 0; i < count; i += 8)
        for (int j = 0; j < 8; j++) seen[j] |= p[i + j];
    return seen[0] | seen[1] | seen[2] | seen[3] | seen[4] | seen[5] | seen[6] | seen[7];
}

// Bytes a second, by threads that divide memory as they do an operator's tasks.
double measure_read(int threads, int cores, int64_t nbytes, int passes) {
    constexpr int64_t piece = 1 << 20;
    const int64_t pieces = std::max<int64_t>(1, nbytes / piece);
    const Memory memory((size_t)(pieces * piece), Pages::huge);
    std::fill_n(memory.data(), memory.size(), (uint8_t)1);  // memory never written is one page of zeros
    ThreadPool pool(threads, cores);
    Claims claims(threads);
    std::atomic<uint64_t> seen{0};
    const double seconds = fastest(
        pool, passes, [&] { claims.reset(); },
        [&](int thread) {
            claims.each(pieces, thread, [&](long i) {
                seen.fetch_or(read_all((const uint64_t*)(memory.data() + i * piece), piece / 8));
            });
        });
    return (double)memory.size() / seconds;
}

// Multiplications and additions a second of one instruction set: of float32, or of 16-bit integers in pairs.
double measure_arithmetic(const Kernels& kernels, int threads, int cores, bool integers, int passes) {
    constexpr int64_t rounds = 20'000, tasks = 64;
    ThreadPool pool(threads, cores);
    std::atomic<int64_t> next{0};
    const double seconds = fastest(
        pool, passes, [&] { next = 0; },
        [&](int) {
            alignas(64) float sums[kLanes];
            alignas(64) int32_t integer_sums[kLanes];
            while (next.fetch_add(1) < tasks)
                integers ? kernels.multiply_integers(rounds, integer_sums) : kernels.multiply_floats(rounds, sums);
        });
    const int64_t operations = rounds * tasks * kernels.chains * kLanes * (integers ? 4 : 2);
    return (double)operations / seconds;
}

}  // namespace

void bind_limits(nb::module_& m) {
    m.def("measure_read", &measure_read, nb::arg("threads"), nb::arg("cores"), nb::arg("nbytes"), nb::arg("passes"),
          nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "measure_arithmetic",
        [](const std::string& isa, int threads, int cores, bool integers, int passes) {
            return measure_arithmetic(kernels_of(isa_of(isa)), threads, cores, integers, passes);
        },
        nb::arg("isa"), nb::arg("threads"), nb::arg("cores"), nb::arg("integers"), nb::arg("passes"),
        nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace pellucid
