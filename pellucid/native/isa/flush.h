// Denormal numbers count as zero, as inputs and as results, while one of these lives: the way matrix tiles always work.
#pragma once
#include <stdint.h>

namespace PELLUCID_ISA {

#if defined(__SSE2__)
struct FlushDenormals {
    uint32_t before;
    FlushDenormals() {
        __asm__ volatile("stmxcsr %0" : "=m"(before));
        set(before | 0x8040);  // flush to zero, denormals are zeros
    }
    ~FlushDenormals() { set(before); }
    static void set(uint32_t csr) { __asm__ volatile("ldmxcsr %0" : : "m"(csr) : "memory"); }
};
#elif defined(__aarch64__)
struct FlushDenormals {
    uint64_t before;
    FlushDenormals() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before));
        set(before | 1 << 24);
    }
    ~FlushDenormals() { set(before); }
    static void set(uint64_t fpcr) { __asm__ volatile("msr fpcr, %0" : : "r"(fpcr) : "memory"); }
};
#else
struct FlushDenormals {
    ~FlushDenormals() {}  // kept as they are: other bits than elsewhere, but the same for every batch
};
#endif

}  // namespace PELLUCID_ISA
