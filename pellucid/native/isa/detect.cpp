// Which instruction sets this machine and its operating system offer.
#include <stdexcept>
#include "program.h"

#ifdef PELLUCID_X86
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace pellucid {

#ifdef PELLUCID_X86
// Matrix tiles of bfloat16: the processor's, the system's, and leave to use them, which this process then has.
static bool has_tiles() {
    constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, xsave_in_use = 1u << 27;
    constexpr unsigned tile_state = 3u << 17, tile_data = 18;
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & xsave_in_use)) return false;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || ~edx & (amx_bf16 | amx_tile)) return false;
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    if ((eax & tile_state) != tile_state) return false;
#ifdef __linux__
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM, arch/x86/include/uapi/asm/prctl.h
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}
#endif

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
        case Isa::amx:
            return avx512 && __builtin_cpu_supports("avx512vnni") && has_tiles();
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
        case Isa::amx:
            return amx_kernels();
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
