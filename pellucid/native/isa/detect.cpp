// Which instruction sets this machine and its operating system offer.
#include <stdexcept>
#include "program.h"

#ifdef PELLUCID_X86
#include <cpuid.h>
#endif

namespace pellucid {

bool has_isa(Isa isa) {
#ifdef PELLUCID_X86
    // __builtin_cpu_supports also asks whether the operating system saves the wide registers.
    // F16C by its bit: Clang before 19 does not know its name.
    unsigned eax, ebx, ecx = 0, edx;
    const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    switch (isa) {
        case Isa::avx2:
            return avx2;
        case Isa::avx512:
            return avx512;
        case Isa::avx512vnni:
            return avx512 && __builtin_cpu_supports("avx512vnni");
        case Isa::portable:
            break;
    }
#endif
    return isa == Isa::portable;
}

const Kernels& kernels_of(Isa isa) {
#ifdef PELLUCID_X86
    switch (isa) {
        case Isa::avx2:
            return avx2_kernels();
        case Isa::avx512:
            return avx512_kernels();
        case Isa::avx512vnni:
            return avx512vnni_kernels();
        case Isa::portable:
            break;
    }
#endif
    return portable_kernels();
}

Isa isa_of(const std::string& name) {
    for (int i = 0; i < kNumIsas; i++)
        if (has_isa((Isa)i) && name == kernels_of((Isa)i).name) return (Isa)i;
    throw std::invalid_argument("instruction set " + name + " is not available");
}

}  // namespace pellucid
